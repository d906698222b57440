"""Molecular graphs: the featurisation that chemprop has, any SMILES, and how they are kept."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rdkit import Chem

from blindsum.platform.data.computing import Computing
from blindsum.platform.data.features import features_of
from blindsum.platform.data.graphs import AtomsAndBonds
from blindsum.platform.data.molecule_work import AtomsAndBondsOf, FoldKeys, MoleculeWork
from blindsum.platform.data.reasons import in_general
from blindsum.platform.data.records import Fold, batch_size, dense, stacked
from blindsum.platform.data.table import load_data
from blindsum.platform.errors import DataError
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.graphs_section import Graphs
from blindsum.platform.job.model_section import ATOM_CODES, BOND_CODES, GraphSize
from blindsum.platform.training.graphs import Graphs as Reader
from blindsum.platform.training.graphs import MolecularGraphs
from tests.fuzz.mutation import COUNT

CHEMPROP = json.loads(Path(__file__).with_name("chemprop_graphs.json").read_text())
"""What chemprop 2.3.1 itself returned: which features of each atom and bond are 1, the mass, and
the mean over atoms after its D-MPNN of depth 3 with the weights of `test_dmpnn.py`."""

SMILES = [one["smiles"] for one in CHEMPROP]
FAULTS = {
    "RDKit cannot read it",
    "it has no atoms",
    "it is longer than 1,000 characters",
    "its graph is too large: more than 20 atoms or 30 bonds (data.features.max_atoms)",
}


def graphs(smiles: list[str], most: int = 40) -> AtomsAndBonds:
    kind = features_of(Graphs(kind="graphs", max_atoms=most))
    made = kind.compute(pa.table({"smiles": pa.array(smiles, pa.string())}))
    assert made.usable.all() and isinstance(made.features, AtomsAndBonds)
    return made.features


def read(smiles: list[str], most: int = 40) -> MolecularGraphs:
    found: MolecularGraphs = Reader(GraphSize(most, most * 3 // 2))(
        torch.from_numpy(dense(graphs(smiles, most)))
    )
    return found


def contract(**changed: Any) -> DataSection:
    return DataSection.model_validate(
        {
            "features": {"kind": "graphs", "max_atoms": 20},
            "tasks": {"logd": {"kind": "regression"}},
            "folds": {"kind": "scaffold", "salt": "s", "test_fraction": 0.4},
            **changed,
        }
    )


def test_atoms_and_bonds_have_the_features_that_chemprop_gives_them() -> None:
    found = read(SMILES)
    assert found.atoms.shape[2] == 72 and found.bonds.shape[2] == 14
    for i, one in enumerate(CHEMPROP):
        assert int(found.is_atom[i].sum()) == len(one["atoms"])
        for features, atom in zip(found.atoms[i], one["atoms"], strict=False):
            assert features[:-1].nonzero().flatten().tolist() == atom["ones"], one["smiles"]
            assert float(features[-1]) == pytest.approx(atom["mass"], abs=1e-6)
        for features, ends, bond in zip(found.bonds[i], found.ends[i], one["bonds"], strict=False):
            assert features.nonzero().flatten().tolist() == bond["ones"], one["smiles"]
            assert ends.tolist() == bond["ends"]
        atoms, bonds = len(one["atoms"]), len(one["bonds"])
        assert not found.atoms[i, atoms:].any() and not found.bonds[i, bonds:].any()


# -- any SMILES -----------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [*"CNOPSFIHBcnos()[]=#-+.%:/\\@*0123456789|", "Cl", "Br", "[nH]", "[13C]", "[2H]", "[Na+]"]
    + [
        "[C@@H]",
        "[U+6]",
        "[Og]",
        "->",
        "<-",
        "[C+15]",
        "[999C]",
        "$",
        "[*:3]",
        "[CH3-]",
        "c1ccccc1",
    ]
)
ANY_SMILES = st.one_of(
    st.lists(PIECES, max_size=25).map("".join),
    st.text(string.printable, max_size=30),
    st.builds(lambda piece, times: piece * times, PIECES, st.integers(0, 1100)),
    st.sampled_from(
        [*SMILES, "", " ", "*", ".", "C.C.C", "C |&1:0|", "[#0]", "é", "C1CC", "[C:1]"]
    ),
    st.text(max_size=12),
)


@given(st.lists(ANY_SMILES, max_size=8))
@example(["[H]"])
@example(["C1" * 3, "[CH5]", "[He].[He]", "F[P-](F)(F)(F)(F)F", "C" * 21])
@settings(deadline=None, max_examples=COUNT // 2)
def test_any_text_gives_a_graph_or_one_reason(texts: list[str]) -> None:
    kind = features_of(Graphs(kind="graphs", max_atoms=20))
    made = kind.compute(pa.table({"smiles": pa.array(texts, pa.string())}))
    assert set(made.reasons) == set(np.flatnonzero(~made.usable))
    assert set(made.reasons.values()) <= FAULTS
    found = dense(made.features)
    assert found.shape == (int(made.usable.sum()), 20 * 8 + 30 * 6)
    assert np.isfinite(found).all()
    atoms, bonds = found[:, :160].reshape(-1, 20, 8), found[:, 160:].reshape(-1, 30, 6)
    assert (atoms[..., :7] < ATOM_CODES).all() and (bonds[..., 2:] < BOND_CODES).all()
    count = (atoms[..., 0] > 0).sum(1)
    assert (count > 0).all() and (bonds[..., :2].max((1, 2), initial=0) < count).all()


def test_what_is_too_large_is_said_in_general_to_others_and_its_limit_to_the_owner(
    tmp_path: Path,
) -> None:
    chains = ["C" * n for n in range(1, 30)]
    table = pa.table({"smiles": chains, "logd": np.arange(29.0)})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError) as caught:
        load_data(tmp_path / "a.parquet", contract(), tmp_path / "r.csv")
    assert "more atoms or bonds than the job allows (data.features.max_atoms)" in str(caught.value)
    assert "CCC" not in str(caught.value)
    listed = (tmp_path / "r.csv").read_text().splitlines()
    assert len(listed) == 1 + 9 and "more than 20 atoms or 30 bonds" in listed[1]
    found = load_data(tmp_path / "a.parquet", contract(unparsable="drop"), tmp_path / "r.csv")
    assert found.dropped == 9 and len(found.train) + len(found.test) == 20
    cage = "C12C3C4C1C5C2C3C45"  # as many bonds as are allowed for its atoms
    assert len(graphs([cage], 8)) == 1
    said = in_general(["RDKit cannot read it", listed[1].split(",")[2]])
    assert said.startswith("that RDKit cannot read or with more atoms")


def test_the_job_limits_the_atoms() -> None:
    assert Graphs(kind="graphs").size == GraphSize(100, 150)
    for most in (0, 256):  # an atom's number is kept as a byte
        with pytest.raises(ValidationError, match="max_atoms"):
            Graphs(kind="graphs", max_atoms=most)
    largest = graphs(["C" * 255], 255)
    assert dense(largest)[0, 255 * 8 : 255 * 8 + 254 * 6].reshape(254, 6)[:, :2].max() == 254


# -- how graphs are kept --------------------------------------------------------------------------


def test_kept_graphs_take_few_bytes_and_come_back_whole() -> None:
    found = graphs(SMILES)
    whole = dense(found)
    assert sum(one.nbytes for one in found.arrays) < whole.nbytes / 5
    order = np.random.default_rng(0).permutation(len(SMILES))
    np.testing.assert_array_equal(dense(found[order]), whole[order])
    np.testing.assert_array_equal(dense(found[order > 9]), whole[order > 9])
    parts = stacked([found[:5], found[5:5], found[5:]])
    np.testing.assert_array_equal(dense(parts), whole)
    np.testing.assert_array_equal(dense(found.like(found.arrays)), whole)
    kind = features_of(Graphs(kind="graphs", max_atoms=40))
    assert dense(kind.none()).shape == (0, kind.width) and len(stacked([kind.none(), found])) == 24


def test_a_batch_is_small_and_its_records_are_of_about_one_size() -> None:
    random = np.random.default_rng(0)
    sizes = random.integers(1, 40, 300)
    fold = Fold(graphs(["C" * n for n in sizes], 100), np.zeros(300, np.int64))
    assert 20 < batch_size(fold.stored) < 100
    rows = random.permutation(300)[:200]
    alike = fold.alike(rows)
    assert sorted(alike) == sorted(rows) and (np.diff(sizes[alike]) >= 0).all()
    whole = Fold(np.zeros((300, 2), np.float32), np.zeros(300, np.int64))
    np.testing.assert_array_equal(whole.alike(rows), rows)


def test_the_results_are_those_of_every_process_and_file(tmp_path: Path) -> None:
    section = Graphs(kind="graphs", smiles="structure", max_atoms=20)
    work = MoleculeWork((AtomsAndBondsOf(section), FoldKeys("scaffold")))
    again = MoleculeWork.from_json(work.to_json())
    assert again == work and again.compute()(SMILES) == work.compute()(SMILES)
    spelled = ["CCO", "C", "c1ccccc1O", "C1CCCCC1N", "CC(=O)O", "C" * 25, "c1ccncc1", "C1CC1"]
    smiles = [Chem.CanonSmiles(one) for one in spelled]
    table = pa.table({"smiles": smiles, "logd": np.arange(8.0)})
    pq.write_table(table, tmp_path / "a.parquet")
    pa.csv.write_csv(table, tmp_path / "a.csv")
    writer = Chem.SDWriter(str(tmp_path / "a.sdf"))
    for one in table.to_pylist():
        molecule = Chem.MolFromSmiles(one["smiles"])
        molecule.SetProp("logd", str(one["logd"]))
        writer.write(molecule)
    writer.close()
    loaded = [
        load_data(
            tmp_path / f"a.{kind}",
            contract(unparsable="drop"),
            tmp_path / "r",
            computing=Computing(cores=2),
        )
        for kind in ("parquet", "csv", "sdf")
    ]
    for one in loaded:
        np.testing.assert_array_equal(one.train.features, loaded[0].train.features)
        assert one.fingerprint == loaded[0].fingerprint and len(one.test) > 0
        assert one.dropped == 1
