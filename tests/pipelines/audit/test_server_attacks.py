"""Attacks that read records out of gradients: exact without protection, nothing with it."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from blindsum.pipelines.audit import scores, victim
from blindsum.pipelines.audit.attacks.closed_form import one_record
from blindsum.pipelines.audit.attacks.gradient_matching import (
    Effort,
    Local,
    labels_from_bias,
    match,
)
from blindsum.pipelines.audit.attacks.imprint import planted, recovered
from blindsum.pipelines.audit.attacks.sparse_recovery import recover
from blindsum.pipelines.audit.labelling import Classes
from blindsum.platform.data.records import Fold
from blindsum.platform.data.table import SiloData
from blindsum.platform.privacy.plan import plan
from blindsum.platform.training import local
from blindsum.platform.training.models import get_parameters
from tests.conftest import MakeJob

FEATURES, CLASSES = 60, 2


def bits(records: int, seed: int = 0) -> torch.Tensor:
    """Sparse bits, as fingerprints are."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(records, FEATURES, generator=generator) < 0.2).float()


def network(hidden: int = 96) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))


def gradient(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(functional.cross_entropy(model(x), y), model.parameters()))


def labels(records: int) -> torch.Tensor:
    return torch.arange(records) % CLASSES


def found_exactly(x: torch.Tensor, got: torch.Tensor | None) -> float:
    if got is None:
        return 0.0
    rows = {tuple(row) for row in (got > 0.5).int().tolist()}
    return float(np.mean([tuple(row) in rows for row in x.int().tolist()]))


@pytest.mark.parametrize("records", [1, 2, 4, 8])
def test_a_batch_comes_out_of_the_first_layer_exactly(records: int) -> None:
    model, x = network(), bits(records)
    weight, bias, *_ = gradient(model, x, labels(records))
    found = recover(weight, bias, records, model[0], model[2], seconds=20)  # type: ignore[arg-type]
    assert found.records is not None and found.disagreeing < 0.01
    torch.testing.assert_close(
        torch.tensor(scores.paired(found.records.numpy(), x.double().numpy(), x.double().numpy())),
        x.double(),
        atol=1e-3,
        rtol=0,
    )


def test_local_steps_give_the_batch_too() -> None:
    start, x, y = network(), bits(6), labels(6)
    model = network()
    for step in range(10):
        rows = slice(step % 2 * 3, step % 2 * 3 + 3)
        with torch.no_grad():
            for p, g in zip(model.parameters(), _grad(model, x[rows], y[rows]), strict=True):
                p.sub_(g, alpha=0.1)
    weight, bias = (
        a.detach() - b.detach()
        for a, b in zip(
            (start[0].weight, start[0].bias), (model[0].weight, model[0].bias), strict=True
        )
    )
    found = recover(weight, bias, 6, start[0], start[2], seconds=20)  # type: ignore[arg-type]
    assert found_exactly(x, found.records) == 1.0


def _grad(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    with torch.enable_grad():
        return gradient(model, x, y)


def test_noise_ends_the_recovery_and_it_says_so() -> None:
    model, x = network(), bits(4)
    weight, bias, *_ = gradient(model, x, labels(4))
    noise = 0.01 * weight.abs().max()
    found = recover(
        weight + noise * torch.randn_like(weight),
        bias + noise * torch.randn_like(bias),
        4,
        model[0],
        model[2],
        seconds=1,  # type: ignore[arg-type]
    )
    assert found.records is None and found.tried > 0
    assert recover(weight, bias, FEATURES + 1, model[0]).records is None  # type: ignore[arg-type]


def test_one_record_in_closed_form_with_any_activation() -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    x = torch.randn(1, 5)
    weight, bias, *_ = gradient(model, x, torch.tensor([2]))
    torch.testing.assert_close(one_record(weight, bias)[None].float(), x, rtol=1e-3, atol=1e-4)
    assert not one_record(torch.ones(7, 5), torch.zeros(7)).any()


def test_matching_finds_labels_and_records() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 40), nn.Sigmoid(), nn.Linear(40, 4))
    x, y = torch.rand(3, 12), torch.tensor([0, 2, 2])  # two of one class: the hard case
    update = [g * 3 for g in gradient(model, x, y)]  # a sum over the batch
    effort = Effort(iterations=600, restarts=2)
    assert labels_from_bias(model, update[-1], 3, 12, effort, Classes(4)).tolist() == [0, 2, 2]
    got, apart = match(model, update, y, 12, effort)
    true = x.double().numpy()
    ordered = scores.paired(got.double().numpy(), true, np.zeros_like(true))
    assert apart < 1e-2 and scores.psnr(ordered, true, 1.0) > 15
    pool = np.vstack([true, np.random.default_rng(1).random((50, 12))])
    assert scores.identified(ordered, true, pool) == 3


def test_matching_takes_the_same_local_steps() -> None:
    """An update of several steps is explained by those steps better than by one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 30), nn.Sigmoid(), nn.Linear(30, 3))
    x, y, local = torch.rand(2, 8), torch.tensor([0, 1]), Local(steps=8, batch=1, rate=2.0)
    after = {n: p.detach().clone() for n, p in model.named_parameters()}
    for step in range(local.steps):
        rows = slice(step % 2, step % 2 + 1)
        grads = torch.func.grad(
            lambda p, r=rows: functional.cross_entropy(
                torch.func.functional_call(model, p, (x[r],)), y[r]
            )
        )(after)
        after = {n: p - local.rate * grads[n] for n, p in after.items()}
    update = [p.detach() - after[n] for n, p in model.named_parameters()]
    effort = Effort(iterations=250, restarts=2)
    _, unrolled = match(model, update, y, 8, effort, local)
    _, naive = match(model, update, y, 8, effort)
    assert unrolled < naive / 2


@pytest.mark.parametrize("private", [False, True])
def test_an_update_of_local_steps_is_the_one_that_the_silo_makes(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, private: bool
) -> None:
    """The attacker's update, by the step along it, is the trainer's over the same records."""
    monkeypatch.setattr(local, "add_gaussian", lambda *_: None)
    monkeypatch.setattr(victim, "add_gaussian", lambda *_: None)
    job = make_job(
        "training.local_steps=4",
        "training.sampling_rate=1.0",
        "training.expected_batch_size=12",
        "privacy={noise: local, epsilon: 3, delta: 1e-4}",
    ).job
    own = plan(job, "birch")
    assert own
    random = np.random.default_rng(0)
    width = len(job.data.features.columns)  # type: ignore[union-attr]
    fold = Fold(random.random((9, width)).astype(np.float32), random.integers(0, 2, 9))
    attacked = victim.Victim(job, "birch", SiloData(fold, fold, "", 0), own)
    model = copy.deepcopy(attacked.model("fresh"))
    start = get_parameters(model)
    trainer = local.LocalTrainer(
        model, fold, job.training, own if private else None, np.random.default_rng(0)
    )
    made = trainer.train(start).values
    seen = attacked.update(range(9), "fresh", "dp" if private else "none")
    flat = torch.cat([one.flatten() for one in seen.gradients]).numpy()
    scale = -4 * job.training.learning_rate / job.training.expected_batch_size
    assert np.allclose(made, scale * flat, atol=1e-5)
    assert (get_parameters(attacked.model("fresh")) == start).all()
    assert attacked.local(9).steps == 4


def test_a_planted_layer_gives_most_of_a_large_batch() -> None:
    model, x, public = network(hidden=300), bits(40, seed=1), bits(400, seed=2)
    made = planted(model, model[0], public)  # type: ignore[arg-type]
    weight, bias, *_ = gradient(made, x, labels(40))
    assert found_exactly(x, recovered(weight, bias)) > 0.6
    assert torch.equal(model[0].weight, network(hidden=300)[0].weight)  # type: ignore[union-attr]


def test_scores_tell_a_record_from_its_class_mean() -> None:
    random = np.random.default_rng(0)
    pool = (random.random((50, 30)) < 0.2).astype(float)
    true, mean = pool[:5], np.repeat(pool.mean(0)[None], 5, axis=0)
    assert scores.exact(true, true, 1.0) == scores.identified(true, true, pool) == 5
    assert scores.exact(mean, true, 1.0) == 0 and scores.identified(mean, true, pool) <= 1
    assert scores.tanimoto(true, true) == 1.0 and scores.tanimoto(mean, true) == 0.0
    assert scores.psnr(true, true, 1.0) == 120.0
    assert scores.is_binary(pool) and not scores.is_binary(mean)
    few = scores.paired(true[:2], true, mean)
    assert (few[:2] == true[:2]).all() and (few[2:] == mean[2:]).all()
