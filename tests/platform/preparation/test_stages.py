"""Standard structures, keyed folds and bits, and the comparison of two silos' manifests."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from rdkit import Chem

from blindsum.platform.data.preparation import manifest as manifest_module
from blindsum.platform.data.preparation.manifest import differences, manifest_of, read_manifest
from blindsum.platform.data.preparation.recipe import (
    PermutedEcfp,
    Recipe,
    Structures,
    load_recipe,
    load_sources,
)
from blindsum.platform.data.preparation.secret import Secret, make_secret, read_secret
from blindsum.platform.data.preparation.stages import (
    FAILED,
    TOO_LARGE,
    UNPARSABLE,
    UNREADABLE_STEREO,
    DescriptorValues,
    Fingerprints,
    Standardise,
)
from blindsum.platform.errors import DataError, JobError, KeyRefused
from blindsum.platform.job.yaml_reader import Loader, dump

SECRET, OTHER = Secret(bytes(range(32))), Secret(bytes(32))
ECFP = {"kind": "ecfp", "bits": 1024}


def recipe(**settings: object) -> Recipe:
    return Recipe.model_validate({"features": ECFP, "tasks": {"a": {}}, **settings})


def standard(*texts: str, **settings: object) -> list[dict[str, str | None]]:
    return Standardise(Structures(**settings)).compute(texts).to_pylist()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "structure"),
    [
        ("[Na+].[O-]C(=O)c1ccccc1", "O=C(O)c1ccccc1"),  # salt and charge
        ("CCN(CC)CC.Cl", "CCN(CC)CC"),
        ("C[N+](C)(C)CC(=O)[O-]", "C[N+](C)(C)CC(=O)[O-]"),  # cannot be neutral
        ("[2H]C([2H])([2H])O", "CO"),  # isotopes
        ("O=N(=O)c1ccccc1", "O=[N+]([O-])c1ccccc1"),  # one way to write a nitro group
        ("C[C@H](N)C(=O)O", "C[C@H](N)C(=O)O"),
        ("OCC", "CCO"),
    ],
)
def test_molecules_are_standardised(text: str, structure: str) -> None:
    found = standard(text)[0]
    assert found == {
        "text": text,
        "structure": Chem.CanonSmiles(structure),
        "dropped": None,
        "scaffold": found["scaffold"],
    }


def test_atom_map_numbers_do_not_change_the_structure() -> None:
    """Nor does the stereocentre that numbers create at a carbon with two equal ends."""
    rows = standard(
        "[CH3:1][OH:2]", "CO", "[CH3:1][C@H:2]([CH3:3])O", "CC(C)O", "[CH2:9]1CC1C", "CC1CC1"
    )
    for mapped, plain in zip(rows[::2], rows[1::2], strict=True):
        assert mapped["structure"] == plain["structure"] is not None
        assert mapped["scaffold"] == plain["scaffold"]


def test_folds_and_the_order_of_bits_are_those_of_every_version() -> None:
    """Golden values: another byte order or keyed text would move records and bits."""
    keys = ("c1ccccc1", "CO", "CC(C)O", "O=c1[nH]c(=O)c2[nH]cnc2[nH]1", "")
    assert [SECRET.fold(key, 5) for key in keys] == [4, 0, 1, 3, 3]
    assert [SECRET.fold(key, 100) for key in keys] == [88, 8, 20, 72, 71]
    assert SECRET.order(12).tolist() == [9, 0, 7, 4, 3, 2, 6, 10, 11, 1, 8, 5]
    assert SECRET.digest == "4265f3c45a72a442"


def test_settings_of_structures_do_what_they_say() -> None:
    acid, deuterated, enol, chiral = "CC(=O)[O-]", "[2H]C", "CC(O)=CC(C)=O", "C[C@H](N)C(=O)O"
    assert standard(acid, neutralise=False)[0]["structure"] == "CC(=O)[O-]"
    assert standard(deuterated, isotopes=True)[0]["structure"] == "[2H]C"
    assert standard(enol)[0]["structure"] != standard("CC(=O)CC(C)=O")[0]["structure"]
    tautomers = standard(enol, "CC(=O)CC(C)=O", tautomer=True)
    assert tautomers[0]["structure"] == tautomers[1]["structure"]
    assert standard(chiral, stereo=False)[0]["structure"] == "CC(N)C(=O)O"


def test_unusable_molecules_are_dropped_with_a_reason_and_raise_no_error() -> None:
    texts = ["not a molecule", "", "C" * 200, "C" * 2000, "[Na+].[Cl-]", "CC(C)(C)(C)C"]
    reasons = [row["dropped"] for row in standard(*texts)]
    assert reasons[:4] == [UNPARSABLE, UNPARSABLE, TOO_LARGE, TOO_LARGE]
    assert reasons[5] == UNPARSABLE
    for row in standard(*texts):
        assert (row["structure"] is None) == (row["dropped"] is not None)
    assert Standardise(Structures()).failed("x").to_pylist()[0]["dropped"] == FAILED
    assert standard() == []


def test_standardising_a_standard_structure_does_not_change_it() -> None:
    text = files("blindsum.platform.data.preparation").joinpath("reference.smi").read_text()
    first = [r["structure"] for r in standard(*text.splitlines()) if r["structure"]]
    assert len(first) > 130
    assert [r["structure"] for r in standard(*first)] == first


def test_isomers_of_a_molecule_are_one_series() -> None:
    texts = ("CCN1CCC[C@H]1Cc1ccccc1", "CCN1CCC[C@@H]1Cc1ccccc1", "CCN1CCCC1Cc1ccccc1")
    assert len({r["structure"] for r in standard(*texts)}) == 3
    assert len({r["scaffold"] for r in standard(*texts)}) == 1
    assert len({r["scaffold"] for r in standard(r"F/C=C/F", r"F/C=C\F")}) == 1


def test_a_racemate_is_neither_of_its_enantiomers_and_lies_in_their_fold() -> None:
    rows = standard(
        "C[C@H](O)c1ccccc1 |&1:1|",
        "C[C@@H](O)c1ccccc1 |&1:1|",
        "O[C@@H](C)c1ccccc1 |&3:1|",
        "C[C@H](O)c1ccccc1 |o1:1|",
        "C[C@H](O)c1ccccc1 |a:1|",
        "C[C@H](O)c1ccccc1",
        "C[C@@H](O)c1ccccc1",
        "CC(O)c1ccccc1",
    )
    racemates = {row["structure"] for row in rows[:3]}
    assert racemates == {"C[C@H](O)c1ccccc1 |&1:1|"}
    assert rows[4]["structure"] == rows[5]["structure"]
    assert len({row["structure"] for row in rows}) == 5
    assert {row["scaffold"] for row in rows} == {"c1ccccc1"}
    assert [standard(str(r["structure"]))[0]["structure"] for r in rows] == [
        r["structure"] for r in rows
    ]
    assert (
        len({r["structure"] for r in standard(*(str(r["text"]) for r in rows), stereo=False)}) == 1
    )


def test_enhanced_stereo_survives_salts_charges_and_atom_maps_and_settles_meso_forms() -> None:
    rows = standard(
        "[Na+].C[C@H](F)C(=O)[O-] |&1:2|",
        "C[C@@H](F)C(=O)O |&1:1|",
        "[CH3:1][C@H:2]([F:3])C(=O)O |&1:1|",
        "O[C@H](Cl)[C@@H](O)Cl |&1:1,3|",
        "O[C@H](Cl)[C@@H](O)Cl",  # meso: its own mirror image
        "C[C@H](O)[C@@H](N)C(=O)O |&1:3|",
        "C[C@H](O)[C@H](N)C(=O)O |&1:3|",
    )
    found = [row["structure"] for row in rows]
    assert len(set(found[:3])) == 1 and found[0] is not None
    assert found[3] == found[4] and found[5] == found[6]
    chiral = PermutedEcfp(kind="ecfp", bits=64, chirality=True)
    assert len(Fingerprints(chiral).compute([str(text) for text in found])) == 7


def test_stereo_that_rdkit_would_misread_is_dropped() -> None:
    chain = "C" + "[C@H](F)C(C)(C)" * 13 + "Cl"
    centres = [a.GetIdx() for a in Chem.MolFromSmiles(chain).GetAtoms() if a.HasProp("_CIPCode")]
    groups = ",".join(f"&{i}:{place}" for i, place in enumerate(centres, 1))
    rows = standard("C[C@H](O)F |r|", f"{chain} |{groups}|", "CCO |r|", "C[C@H](O)F |$;A,r,B;;$|")
    assert [r["dropped"] for r in rows] == [UNREADABLE_STEREO, UNREADABLE_STEREO, None, None]
    assert standard("C[C@H](O)F |r|", stereo=False)[0]["structure"] == "CC(O)F"


def test_acyclic_molecules_have_a_fold_of_their_own() -> None:
    rows = standard(*("C" * n for n in range(1, 60)), "c1ccccc1O", "c1ccccc1CCN")
    assert rows[-1]["scaffold"] == rows[-2]["scaffold"] == "c1ccccc1"
    folds = [SECRET.fold(str(row["scaffold"]), 5) for row in rows[:-2]]
    assert set(folds) == set(range(5))


@given(st.integers(2, 100), st.text())
def test_folds_depend_only_on_secret_and_scaffold(count: int, scaffold: str) -> None:
    assert 0 <= SECRET.fold(scaffold, count) < count
    assert SECRET.fold(scaffold, count) == Secret(bytes(range(32))).fold(scaffold, count)


def test_folds_are_even_and_another_secret_gives_others() -> None:
    folds = np.array([SECRET.fold(str(i), 5) for i in range(5000)])
    assert np.bincount(folds).min() > 900
    others = np.array([OTHER.fold(str(i), 5) for i in range(5000)])
    assert 0.15 < (folds == others).mean() < 0.25


@given(st.integers(1, 3000))
def test_the_order_of_bits_is_a_permutation(bits: int) -> None:
    assert sorted(SECRET.order(bits)) == list(range(bits))


def test_the_order_of_bits_needs_the_secret() -> None:
    assert (SECRET.order(2000) == OTHER.order(2000)).sum() < 10
    assert (SECRET.order(2000) == np.arange(2000)).sum() < 10


def test_only_its_owner_can_read_a_secret(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    make_secret(path)
    assert path.stat().st_mode & 0o777 == 0o600
    made = read_secret(path)
    assert len(made.key) == 32 and made.key.hex() not in repr(made) and made.digest != SECRET.digest
    with pytest.raises(KeyRefused, match="already exists"):
        make_secret(path)
    path.chmod(0o640)
    with pytest.raises(KeyRefused, match="other users can read .*chmod 600"):
        read_secret(path)
    path.chmod(0o600)
    for text in ("", "abc", "zz" * 32, "ab" * 31):
        path.write_text(text)
        with pytest.raises(KeyRefused, match="is not a secret"):
            read_secret(path)
    with pytest.raises(KeyRefused, match="cannot be read"):
        read_secret(tmp_path / "none")


def test_equal_preparations_do_not_differ_but_quorums_may() -> None:
    mine = manifest_of(recipe(), SECRET)
    assert differences(mine, manifest_of(recipe(quorum={"classes": 3}), SECRET)) == []
    assert SECRET.key.hex() not in json.dumps(mine)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"structures": {"tautomer": True}}, "structures.tautomer: False here, True there"),
        ({"features": {**ECFP, "bits": 2048}}, "features.bits: 1024 here, 2048 there"),
        ({"features": {**ECFP, "chirality": True}}, "features.chirality: False here, True there"),
        ({"folds": {"count": 10}}, "folds.count: 5 here, 10 there"),
        ({"structures": {"max_heavy_atoms": 90}}, "structures.max_heavy_atoms: 100 here, 90 there"),
        ({"tasks": {"a": {"threshold": 6.0}}}, "tasks.a.threshold: None here, 6.0 there"),
        ({"tasks": {"b": {}}}, "tasks.b"),
    ],
)
def test_the_setting_that_differs_is_named(other: dict[str, object], said: str) -> None:
    mine, theirs = manifest_of(recipe(), SECRET), manifest_of(recipe(**other), SECRET)
    found = differences(mine, theirs)
    assert any(said in line for line in found)
    assert not any("RDKit" in line or "secret" in line for line in found)
    assert mine["digests"]["recipe"] != theirs["digests"]["recipe"]
    changed = next(iter(other))
    if changed != "tasks" and "heavy" not in said:  # no reference molecule is too large either
        assert mine["digests"][changed] != theirs["digests"][changed]


def test_a_different_secret_or_rdkit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = manifest_of(recipe(), SECRET)
    found = differences(mine, manifest_of(recipe(), OTHER))
    assert len(found) == 1 and found[0].startswith("the secret")

    class Otherwise(Standardise):
        def _one(self, text: str) -> tuple[str | None, str | None, str | None]:
            structure, dropped, scaffold = super()._one(text)
            return (structure and structure.replace("Cl", "Br")), dropped, scaffold

    monkeypatch.setattr(manifest_module, "Standardise", Otherwise)
    monkeypatch.setattr(manifest_module, "RDKIT", "2031.03.1")
    found = differences(mine, manifest_of(recipe(), SECRET))
    assert len(found) == 1  # features and folds follow from structures
    assert "structures: the settings are the same" in found[0] and "2031.03.1 there" in found[0]


def test_a_file_that_is_not_a_manifest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    for text in ("", "[]", "{}", '{"digests": {}, "recipe": {}}'):
        path.write_text(text)
        with pytest.raises(DataError, match="is not the manifest"):
            read_manifest(path)
    path.write_text(json.dumps(manifest_of(recipe(), SECRET)))
    assert differences(read_manifest(path), manifest_of(recipe(), SECRET)) == []


def test_features_are_rdkits() -> None:
    texts = ["CCO", "c1ccccc1O"]
    of = recipe().features
    assert of.kind == "ecfp"
    found = Fingerprints(of).compute(texts)["fingerprint"].to_pylist()
    assert all(row == sorted(set(row)) and row for row in found)
    of = recipe(features={"kind": "descriptors", "descriptors": ["MolWt", "TPSA"]}).features
    assert of.kind == "descriptors"
    rows = DescriptorValues(of).compute(texts)
    assert rows["MolWt"].to_pylist() == pytest.approx([46.07, 94.11], abs=0.01)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "features: {kind: ecfp, bitz: 5}",
            "line 1: features.bitz: unknown key. Did you mean 'bits'",
        ),
        ("features: {kind: ecfp}\nfolds: {count: 5, held_out: 5}", "line 2: folds: held_out: the"),
        ("features: {kind: ecfp}\ntasks: {fold: {}}", "'fold' is the name of another column"),
        (
            "features: {kind: ecfp}\ntasks: {a: {kind: regression, threshold: 6}}",
            "threshold belongs to binary",
        ),
        ("features: {kind: ecfp}\ntasks: {a: {low: 6, high: 5}}", "low is above high"),
        ("- 1", "is not a recipe file"),
    ],
)
def test_a_wrong_recipe_is_named_by_its_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(JobError) as error:
        load_recipe(path)
    assert said in str(error.value)


@given(st.dictionaries(st.text(min_size=1), st.text(), min_size=1))
@example({"1e5": "24269e4312618685", "no": "0x1F", "12E3": "1_0.5e1"})
def test_yaml_is_read_back_as_it_was_written(content: dict[str, str]) -> None:
    assert yaml.load(dump(content), Loader=Loader) == content


def test_wrong_sources_are_named(tmp_path: Path) -> None:
    path = tmp_path / "sources.yaml"
    for text in ("assays: a.csv", "wide: {file: a}\ncompounds: {file: b}"):
        path.write_text(text)
        with pytest.raises(JobError, match="give compounds and activities, or wide"):
            load_sources(path)
    with pytest.raises(JobError, match="there is no sources file"):
        load_sources(tmp_path / "none.yaml")
