"""Schedules, local optimizers, proximal steps, focal loss, weight decay: each against an oracle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch.nn import functional

from blindsum.platform.data.records import Fold
from blindsum.platform.job.labels_section import Target, Task
from blindsum.platform.job.model_section import Mlp
from blindsum.platform.job.schedule_section import Schedule
from blindsum.platform.job.training_section import ServerSection, TrainingSection
from blindsum.platform.privacy.local_steps import most_of_adam, most_of_momentum
from blindsum.platform.privacy.randomness import seeded_generator
from blindsum.platform.privacy.reach import honest_reach
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.losses import MultiTask, WeightedClasses, classification
from blindsum.platform.training.models import build_model, get_parameters, set_parameters
from blindsum.platform.training.server_optimizer import ServerOptimizer
from tests.conftest import MakeJob
from tests.plans import plan_by_hand

SCHEDULE: TypeAdapter[Any] = TypeAdapter(Schedule)
PLAIN = {
    "rounds": 10,
    "local_steps": 5,
    "sampling_rate": 1.0,
    "expected_batch_size": 40.0,
    "learning_rate": 0.1,
}


def section(**changes: object) -> TrainingSection:
    return TrainingSection.model_validate(PLAIN | changes)


def records(count: int = 40) -> Fold:
    random = np.random.default_rng(0)
    return Fold(random.normal(size=(count, 4)).astype(np.float32), random.integers(0, 3, count))


# -- schedules ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"kind": "constant"}, [1.0] * 5),
        ({"kind": "constant", "warmup": 3}, [0.25, 0.5, 0.75, 1.0, 1.0]),
        ({"kind": "linear", "floor": 0.2}, [1.0, 0.8, 0.6, 0.4, 0.2]),
        ({"kind": "cosine", "floor": 0.2}, [1.0, 0.882842712, 0.6, 0.317157288, 0.2]),
        ({"kind": "step", "every": 2, "factor": 0.1}, [1.0, 1.0, 0.1, 0.1, 0.01]),
        ({"kind": "cosine", "warmup": 1, "floor": 0.5}, [0.5, 1.0, 0.875, 0.625, 0.5]),
    ],
)
def test_schedules(said: dict[str, Any], expected: list[float]) -> None:
    found = [SCHEDULE.validate_python(said).of_round(n, 5) for n in range(1, 6)]
    assert found == pytest.approx(expected, abs=1e-9)


@given(
    st.sampled_from(["constant", "linear", "cosine", "step"]),
    st.integers(1, 300),
    st.integers(0, 400),
    st.floats(1e-6, 1),
)
@settings(deadline=None)
def test_a_rate_is_above_zero_and_never_above_the_full_one(
    kind: str, rounds: int, warmup: int, floor: float
) -> None:
    of = {"linear": {"floor": floor}, "cosine": {"floor": floor}, "step": {"every": 3}}
    schedule = SCHEDULE.validate_python({"kind": kind, "warmup": warmup, **of.get(kind, {})})
    assert all(0 < schedule.of_round(n, rounds) <= 1 for n in range(1, rounds + 1))


def test_a_round_of_a_schedule_trains_with_its_rate() -> None:
    training = section(local_steps=1, schedule={"kind": "linear", "floor": 0.1})
    net = build_model(Mlp(kind="mlp"), 4, 3, seed=0, private=False)
    start = get_parameters(net)
    trainer = LocalTrainer(net, records(), training, None, seeded_generator(0))
    first, last = (trainer.train(start, round=n).values for n in (1, 10))
    np.testing.assert_allclose(last, 0.1 * first, atol=1e-6)


def test_shared_noise_scales_with_the_rate() -> None:
    """The unit of an update carries the rate; the sum and its noise do not change."""
    plan = plan_by_hand(share=1.0, sampling_rate=1.0)
    training = section(local_steps=1, schedule={"kind": "linear", "floor": 0.1})
    net = build_model(Mlp(kind="mlp"), 4, 3, seed=0, private=True)
    trainer = LocalTrainer(net, records(), training, plan, seeded_generator(0))
    start = get_parameters(net)
    one, ten = trainer.train(start, round=1), trainer.train(start, round=10)
    assert ten.unit == pytest.approx(0.1 * one.unit)
    np.testing.assert_allclose(one.values, ten.values, rtol=1e-6)


# -- optimizers of local steps --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "theirs"),
    [
        ({"optimizer": "momentum", "momentum": 0.8}, (torch.optim.SGD, {"momentum": 0.8})),
        ({"optimizer": "adam", "momentum": 0.7}, (torch.optim.Adam, {"betas": (0.7, 0.999)})),
        ({"proximal": 2.0}, (torch.optim.SGD, {})),
    ],
)
def test_local_steps_are_pytorchs(changes: dict[str, Any], theirs: tuple[Any, Any]) -> None:
    net = build_model(Mlp(kind="mlp"), 4, 3, seed=0, private=True)
    start, data = get_parameters(net), records()
    trainer = LocalTrainer(net, data, section(**changes), None, seeded_generator(0))
    ours = [trainer.train(start).values for _ in range(2)]
    np.testing.assert_array_equal(ours[0], ours[1], "the state begins anew in every round")

    set_parameters(net, start)
    begun = [p.detach().clone() for p in net.parameters()]
    optimizer = theirs[0](net.parameters(), lr=0.1, **theirs[1])
    for _ in range(5):
        optimizer.zero_grad()
        output = net(torch.from_numpy(data.features))
        functional.cross_entropy(output, torch.from_numpy(data.labels)).backward()
        for p, first in zip(net.parameters(), begun, strict=True):
            assert p.grad is not None
            p.grad += changes.get("proximal", 0.0) * (p.detach() - first)
        optimizer.step()
    np.testing.assert_allclose(ours[0], get_parameters(net) - start, atol=2e-5)


@given(
    st.sampled_from(["momentum", "adam"]),
    st.integers(2, 12),
    st.floats(0, 0.99),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_no_sequence_of_gradients_moves_further_than_the_bound(
    kind: str, steps: int, momentum: float, seed: int
) -> None:
    """Reach rests on these bounds. Gradients that grow and shrink suddenly come close to them."""
    from blindsum.platform.training.local_optimizer import LocalOptimizer

    training = section(
        optimizer=kind, momentum=momentum, local_steps=steps, expected_batch_size=1.0
    )
    random = np.random.default_rng(seed)
    p = torch.zeros(3)
    optimizer = LocalOptimizer(training, [p], 0.1)
    lengths = 0.0
    for _ in range(steps):
        gradient = torch.tensor(random.normal(size=3) * 10.0 ** random.integers(-4, 4))
        lengths += float(gradient.norm())
        before = p.clone()
        optimizer.step([gradient.float()])
        if kind == "adam":
            assert float((p - before).abs().max()) <= 0.1 * most_of_adam(training) * 1.001
    if kind == "momentum":
        assert float(p.norm()) <= 0.1 * lengths * most_of_momentum(training) * 1.001


@pytest.mark.parametrize(
    "changes",
    [
        ["training.optimizer=momentum"],
        ["training.optimizer=adam", "training.learning_rate=0.01"],
        ["training.proximal=0.5"],
        ["training.schedule={kind: cosine}"],
        ["training.schedule={kind: constant, warmup: 4}"],
    ],
)
def test_honest_updates_stay_within_reach(changes: list[str], make_job: MakeJob) -> None:
    from blindsum.platform.privacy.plan import plan

    job = make_job("training.local_steps=4", *changes).job
    own = plan(job, "alder")
    model = build_model(job.model, 4, 2, seed=0, private=True)
    random = np.random.default_rng(1)
    data = Fold(9 * random.normal(size=(60, 4)).astype(np.float32), random.integers(0, 2, 60))
    trainer = LocalTrainer(model, data, job.training, own, seeded_generator(3))
    start = get_parameters(model)
    for number in (1, job.training.rounds):
        length = float(np.linalg.norm(trainer.train(start, round=number).values))
        assert 0 < length <= honest_reach(job, own, 1, start.size, 1e-6, 1.0, number)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": "adam", "local_steps": 1}, "use server.optimizer"),
        ({"proximal": 0.5, "local_steps": 1}, "use server.optimizer"),
        ({"proximal": 20.0}, "overshoot"),
        ({"momentum": 0.5}, "belongs to"),
        ({"optimizer": "adam", "momentum": 0.995}, "at most 0.99"),
        ({"schedule": {"kind": "cosine", "floor": 0}}, "floor"),
        ({"schedule": {"kind": "step"}}, "every"),
        ({"schedule": {"kind": "cosine", "every": 2}}, "every"),
    ],
)
def test_options_without_an_effect_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        section(**changes)


def test_jobs_without_the_options_keep_their_digest(make_job: MakeJob) -> None:
    written = make_job().job.model_dump_json()
    for name in ("schedule", 'optimizer":"sgd","momentum"', "proximal", "stop", "focal"):
        assert f'"{name}' not in written
    assert "weight_decay" not in written


# -- losses and the server ----------------------------------------------------------------------


def test_the_focal_loss_is_the_papers() -> None:
    torch.manual_seed(0)
    outputs, labels = 3 * torch.randn(9, 3), torch.arange(9) % 3
    target = Target(column="y", classes=["a", "b", "c"], class_weights={"b": 2.0}, focal=1.5)
    p = functional.softmax(outputs, 1)[torch.arange(9), labels]
    expected = -((1 - p) ** 1.5) * p.log() * torch.tensor([1.0, 2.0, 1.0])[labels]
    torch.testing.assert_close(WeightedClasses(target)(outputs, labels), expected)

    tasks = {"hit": Task(focal=1.5), "other": Task()}
    values = torch.tensor([[1.0, 0.0], [0.0, math.nan], [math.nan, 1.0]])
    given_ = torch.stack([values, torch.zeros_like(values)], 1)
    said = torch.randn(3, 2)
    probability = torch.where(values == 1, said.sigmoid(), 1 - said.sigmoid())
    each = -probability.log()
    each[:, 0] *= (1 - probability[:, 0]) ** 1.5
    expected = torch.where(values.isnan(), torch.zeros(()), each).sum(1)
    torch.testing.assert_close(MultiTask(tasks)(said, given_), expected)


@pytest.mark.parametrize("gamma", [0.3, 2.0])
def test_the_focal_loss_of_a_certain_record_has_a_finite_gradient(gamma: float) -> None:
    outputs = torch.tensor([[200.0, 0.0], [-200.0, 0.0]], requires_grad=True)
    target = Target(column="y", classes=[0, 1], focal=gamma)
    WeightedClasses(target)(outputs, torch.tensor([0, 0])).sum().backward()
    assert outputs.grad is not None and bool(outputs.grad.isfinite().all())
    certain = classification(outputs.detach(), torch.tensor([0, 0]))[0]
    assert float(certain) == 0.0, "whose slope a power below 1 would make infinite"


def test_weight_decay_is_that_of_adamw() -> None:
    server = ServerSection(weight_decay=0.01, learning_rate=0.5)
    model, update = np.array([1.0, -2.0], np.float32), np.array([0.1, 0.2])
    found = ServerOptimizer(server, 2).apply(model, update)
    np.testing.assert_allclose(found, model * (1 - 0.005) + 0.5 * update, rtol=1e-6)
    with pytest.raises(ValidationError, match="below 1"):
        ServerSection(weight_decay=0.5, learning_rate=3.0)
