"""D-MPNN: chemprop's own numbers, records that stay apart, and training with privacy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from blindsum.platform.data.records import Fold, dense
from blindsum.platform.errors import JobError, ModelError
from blindsum.platform.job.model_section import Dmpnn, GraphSize
from blindsum.platform.job.training_section import TrainingSection
from blindsum.platform.prediction.predictor import Predictor
from blindsum.platform.prediction.released import read_released, released
from blindsum.platform.privacy.randomness import seeded_generator
from blindsum.platform.training.clipping.by_record import OneByOne, Vectorised
from blindsum.platform.training.clipping.choice import clipped_sum
from blindsum.platform.training.graphs import MessagePassing, MolecularGraphs
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import (
    WithHeads,
    build_model,
    counted,
    get_parameters,
    model_of,
)
from tests.conftest import MakeJob
from tests.plans import plan_by_hand
from tests.platform.test_graphs import CHEMPROP, SMILES, graphs

SIZE = GraphSize(40, 60)
SMALL = Dmpnn(kind="dmpnn", hidden=6, depth=3, ffn=[5])
JOB = (
    "data.features={kind: graphs, max_atoms: 40}",
    "model={kind: dmpnn, hidden: 6, ffn: [5]}",
)


def built(section: Dmpnn = SMALL, size: GraphSize = SIZE, **changed: Any) -> nn.Module:
    model = build_model(section, size, 2, seed=0, private=True, **changed)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.3)
    return model


def batch(smiles: Sequence[str] = SMILES, most: int = 40) -> Tensor:
    return torch.from_numpy(dense(graphs(list(smiles), most)))


def test_messages_are_those_of_chemprop() -> None:
    """The numbers are chemprop's own, for weights that anyone can make again."""

    def weights(shape: tuple[int, ...], start: int) -> Tensor:
        count = int(np.prod(shape))
        return torch.sin(torch.arange(start, start + count).double()).reshape(shape) / 4

    model = built(Dmpnn(kind="dmpnn", hidden=5, ffn=[])).double()
    reads, passes = model.get_submodule("graphs"), model.get_submodule("messages")
    assert isinstance(passes, MessagePassing)
    with torch.no_grad():
        first = weights((5, 86), 0)
        passes.of_atoms.weight.copy_(first[:, :72])
        passes.of_bonds.weight.copy_(first[:, 72:])
        passes.of_messages.weight.copy_(weights((5, 5), 500))
        passes.last.weight.copy_(weights((5, 77), 600))
        passes.last.bias.copy_(weights((5,), 1000))
        read = reads(batch())
        found = passes(read._replace(atoms=read.atoms.double(), bonds=read.bonds.double()))
    expected = torch.tensor([one["mean"] for one in CHEMPROP], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("aggregation", ["mean", "sum", "norm"])
@given(st.lists(st.sampled_from(SMILES), min_size=1, max_size=5), st.integers(40, 120))
@settings(deadline=None, max_examples=15)
def test_padding_and_other_records_change_nothing(
    aggregation: str, smiles: list[str], most: int
) -> None:
    section = SMALL.model_copy(update={"aggregation": aggregation})
    model, wider = built(section), built(section, GraphSize(most, most * 3 // 2))
    together = model(batch(smiles))
    alone = torch.cat([model(batch([one])) for one in smiles])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(wider(batch(smiles, most)), alone, atol=1e-5, rtol=1e-4)


@given(st.sampled_from(SMILES), st.randoms())
@settings(deadline=None, max_examples=40)
def test_the_order_of_atoms_and_bonds_changes_nothing(smiles: str, random: Any) -> None:
    row = dense(graphs([smiles]))[0]
    atoms, bonds = row[: 40 * 8].reshape(40, 8), row[40 * 8 :].reshape(60, 6)
    to = random.sample(range(40), 40)  # gaps between atoms change nothing either
    moved = np.zeros_like(atoms)
    moved[to] = atoms
    renamed = bonds.copy()
    there = bonds[:, 2] > 0
    renamed[there, :2] = np.array(to)[bonds[there, :2].astype(int)]
    turned = np.array([i for i in range(60) if random.random() < 0.5 and there[i]], int)
    renamed[turned, :2] = renamed[turned, 1::-1]
    renamed = renamed[random.sample(range(60), 60)]
    other = np.concatenate([moved.ravel(), renamed.ravel()])
    model = built()
    found = model(torch.from_numpy(np.stack([row, other])))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)


def test_a_message_stays_in_its_record() -> None:
    """A record's gradient is the same whatever other records its batch has: this is what clipping
    relies on. Others may be nonsense."""
    model = built()
    parameters = list(model.parameters())

    def gradient(others: Tensor) -> Tensor:
        together = torch.cat([others, batch(["CC(=O)Nc1ccccc1"]), others.flip(0)])
        output = model(together)[len(others)].square().sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(output, parameters)])

    torch.manual_seed(0)
    alone = gradient(batch()[:0])
    assert float(alone.norm()) > 0.1
    astray = batch(["C"] * 2)  # with a bond to an atom that is not there
    astray[:, 40 * 8 + 1], astray[:, 40 * 8 + 2] = torch.tensor([25.0, 14.0]), 1.0
    nonsense = (torch.randn(5, SIZE.values), torch.full((2, SIZE.values), 1e6), astray)
    for others in (batch(), *nonsense):
        torch.testing.assert_close(gradient(others), alone, atol=1e-5, rtol=1e-4)
    # And an input of one record moves no other record's output.
    outputs, x = model(batch()), batch()
    x[7] = x[3]
    changed = (model(x) - outputs).abs().amax(1) > 1e-5
    assert changed.nonzero().flatten().tolist() == [7]


def test_atoms_without_bonds_and_no_molecules_have_outputs() -> None:
    model = built()
    for smiles in (["C"], ["[Na+].[Cl-]", "[He]"], []):
        found = model(batch(smiles))
        assert found.shape == (len(smiles), 2) and bool(found.isfinite().all())
    ends = {tuple(one) for one in model(batch(["C", "N", "[2H]"])).tolist()}
    assert len(ends) == 3, "an atom without bonds counts"


def trained(section: Dmpnn, smiles: Sequence[str], clip: float) -> tuple[np.ndarray, nn.Module]:
    """Return a step of clipped sums without noise."""
    model, labels = built(section), np.arange(len(smiles)) % 2
    start = get_parameters(model)
    own = plan_by_hand(noise_multiplier=0.0, sampling_rate=1.0, clip_norm=clip)
    training = {"rounds": 1, "local_steps": 1, "sampling_rate": 1.0, "expected_batch_size": 1.0}
    terms = TrainingSection.model_validate(training | {"learning_rate": 1.0})
    fold = Fold(graphs(list(smiles)), labels)
    trainer = LocalTrainer(model, fold, terms, own, seeded_generator(0))
    assert "book-keeping, at nearly" in trainer.says
    return trainer.train(start).values, built(section)


@pytest.mark.parametrize("aggregation", ["mean", "sum", "norm"])
@pytest.mark.parametrize("clip", [0.05, 1e6])
def test_a_private_step_is_the_clipped_sum_of_each_records_gradient(
    aggregation: str, clip: float
) -> None:
    """Compared with automatic differentiation, record by record, each in a batch of its own."""
    section = Dmpnn(kind="dmpnn", hidden=6, depth=4, ffn=[], aggregation=aggregation)  # type: ignore[arg-type]
    found, plain = trained(section, SMILES, clip)
    expected = np.zeros_like(found)
    for i, smiles in enumerate(SMILES):
        loss = nn.functional.cross_entropy(plain(batch([smiles])), torch.tensor([i % 2]))
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, plain.parameters())])
        expected -= (gradient * min(1.0, clip / float(gradient.norm()))).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-4, rtol=1e-3)


def test_torch_func_gives_the_same_gradients() -> None:
    model, x = built(), batch()
    labels = torch.arange(len(x)) % 2
    ways = [clipped_sum(model, SIZE.values), Vectorised(model), OneByOne(model)]
    first, *others = [way(x, labels, 0.3) for way in ways]
    for other in others:
        assert other.within == first.within
        for a, b in zip(first.sums, other.sums, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def test_a_model_whose_messages_cross_records_is_refused() -> None:
    class Crossing(MessagePassing):
        def forward(self, graphs: MolecularGraphs) -> Tensor:
            return super().forward(graphs) + graphs.atoms.mean((0, 1))[:6]

    model = built()
    crossing = Crossing(SMALL)
    with pytest.raises(ModelError, match="mixes the records"):
        clipped_sum(nn.Sequential(model[0], crossing, *list(model)[2:]), SIZE.values)  # type: ignore[index]


def test_the_parameters_are_counted_without_making_them() -> None:
    every = sum(p.numel() for p in built().parameters())
    assert counted(SMALL, SIZE, 2) == (every, every)
    huge = Dmpnn(kind="dmpnn", hidden=4096, ffn=[16384] * 8)
    assert counted(huge, SIZE, 3).every > 1e9


def test_hidden_layers_are_shared_by_private_heads() -> None:
    model = built(own=3)
    assert isinstance(model, WithHeads)
    assert model(batch()).shape == (len(SMILES), 5)
    way = clipped_sum(model, SIZE.values, lambda out, _: out.square().sum(1))
    assert way.method == "book-keeping"


# -- in a job -------------------------------------------------------------------------------------


def test_released_and_applied_to_molecules(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(*JOB).job
    (tmp_path / "m.blindsum").write_bytes(released(job, "r", 1, model_of(job), {}))
    predictor = Predictor(read_released(tmp_path / "m.blindsum"))
    table = pa.table({"smiles": ["CCO", "C" * 41, "nonsense", "[Na+].[Cl-]", "", None]})
    found = predictor.predict(table)
    assert (
        found["predicted_diagnosis"].is_valid().to_pylist()
        == [True, False, False, True] + [False] * 2
    )
    assert found["reason"].to_pylist()[1:3] == [
        "its graph is too large: more than 40 atoms or 60 bonds (data.features.max_atoms)",
        "RDKit cannot read it",
    ]
    assert predictor.predict(pa.table({"smiles": ["CCO"]}))["reason"].null_count == 1
    assert predictor.example() == {"smiles": "CCO"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (JOB[:1], "graphs needs model.kind dmpnn or factory"),
        (JOB[1:], "dmpnn needs data.features.kind graphs"),
        ((JOB[0], "model={kind: mlp}"), "graphs needs model.kind dmpnn"),
        ((JOB[0], "model={kind: dmpnn, depth: 0}"), "depth"),
        (("data.features={kind: graphs, featurisation: own}", JOB[1]), "featurisation"),
    ],
)
def test_models_that_do_not_read_graphs_are_refused(
    changes: tuple[str, ...], said: str, make_job: MakeJob
) -> None:
    with pytest.raises((JobError, ValidationError), match=said):
        make_job(*changes)


OWN = """
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self, size, outputs):
        super().__init__()
        self.mixed, self.table = nn.Parameter(torch.randn(72, 4)), nn.Linear(4, outputs)

    def forward(self, graphs):
        assert graphs.ends.dtype == torch.int64 and graphs.bonds.shape[2] == 14
        return self.table(torch.tanh((graphs.atoms @ self.mixed).sum(1)))
"""


def test_a_function_of_ones_own_gets_padded_graphs(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_graphs.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    model = model_of(make_job(JOB[0], "model={kind: factory, factory: 'own_graphs:Own'}").job)
    assert model(batch()).shape == (len(SMILES), 2)
    assert clipped_sum(model, SIZE.values).method == "vectorised", "torch.func can follow it"
