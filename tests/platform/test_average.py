"""The average of the rounds' models, compared with the weighted sum that its papers define."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import nn

from blindsum.platform.job.average_section import DEFAULT, LAST, Average, Exponential, Polynomial
from blindsum.platform.job.training_section import ServerSection
from blindsum.platform.training.average import averaged, load, newest_share, of_model, showing
from blindsum.platform.training.models import WithHeads, get_parameters, get_private, set_parameters
from blindsum.platform.training.simulation import Simulation
from blindsum.platform.training.update import Protection, Update

EVERY = (
    LAST,
    Exponential(kind="exponential", decay=0.8),
    Exponential(kind="exponential", decay=0.0),
    Polynomial(kind="polynomial", eta=0.0),
    Polynomial(kind="polynomial", eta=3.0),
    DEFAULT,
)
rules = st.one_of(
    st.just(LAST),
    st.floats(0, 0.9999).map(lambda d: Exponential(kind="exponential", decay=d)),
    st.floats(0, 1000).map(lambda eta: Polynomial(kind="polynomial", eta=eta)),
)


def direct_weights(rule: Average, rounds: int) -> np.ndarray:
    """Every round's weight, written out: no recursion over averages."""
    number = np.arange(1, rounds + 1)
    if rule.kind == "none":
        return (number == rounds) * 1.0
    if rule.kind == "exponential":
        weights = float(rule.decay) ** (rounds - number)
        return np.asarray(weights / weights.sum())
    # c_s times what the later rounds leave of it (Shamir and Zhang, 2013, equation 1).
    eta = rule.eta
    kept = [np.prod((np.arange(s, rounds)) / (np.arange(s, rounds) + 1 + eta)) for s in number]
    return (eta + 1) / (number + eta) * np.array(kept)


def follow(rule: Average, models: Sequence[np.ndarray]) -> np.ndarray:
    model = nn.Linear(len(models[0]) - 1, 1)
    average = of_model(model)
    for round, one in enumerate(models, 1):
        set_parameters(model, one)
        average = averaged(rule, average, model, round)
    return average.shared


@given(rule=rules, rounds=st.integers(1, 60), seed=st.integers(0, 100))
def test_it_is_the_weighted_sum_of_the_rounds(rule: Average, rounds: int, seed: int) -> None:
    models = np.random.default_rng(seed).normal(size=(rounds, 4)).astype(np.float32)
    weights = direct_weights(rule, rounds)
    assert weights.sum() == pytest.approx(1) and weights.min() >= 0
    found = follow(rule, list(models))
    np.testing.assert_allclose(found, weights @ models, atol=2e-5)
    again = follow(rule, list(models.copy()))
    assert found.dtype == np.float32 and found.tobytes() == again.tobytes()


@given(rule=rules, round=st.integers(1, 3000))
def test_the_newest_model_s_share(rule: Average, round: int) -> None:
    share = newest_share(rule, round)
    assert 0 < share <= 1 and newest_share(rule, 1) == 1.0
    assert newest_share(rule, round + 1) <= share
    if rule.kind == "exponential":
        assert share == pytest.approx((1 - rule.decay) / (1 - rule.decay**round), rel=1e-6)


@pytest.mark.parametrize("rule", EVERY)
def test_a_constant_model_stays_what_it_is(rule: Average) -> None:
    constant = np.array([0.1, -3e5, 1e-30], np.float32)
    assert follow(rule, [constant] * 50).tobytes() == constant.tobytes()


def test_golden_bits() -> None:
    """Silos of every version and machine must get these, or a run ends: their digests differ."""
    models = [np.array([0.1, 1 / 3], np.float32) * np.float32(k) for k in (1, -2.5, 7, 0.3)]
    found = [follow(rule, models).tobytes().hex() for rule in EVERY[1:5]]
    assert found == GOLDEN


def test_the_initial_model_has_no_weight() -> None:
    """Else a silo that joins a resumed run with other weights would hold another average."""
    model = nn.Linear(1, 1)
    before = of_model(model)
    before.shared[:] = np.nan
    for rule in EVERY:
        assert np.isfinite(averaged(rule, before, model, 1).shared).all()


def with_head() -> nn.Module:
    torch.manual_seed(0)
    return WithHeads(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), 1, 2)


def test_a_private_head_is_averaged_by_the_same_weights_and_shown_with_it() -> None:
    model, rule = with_head(), Polynomial(kind="polynomial", eta=3.0)
    average, seen, heads = of_model(model), [], []
    for round in range(1, 6):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape))
        seen.append(get_parameters(model))
        heads.append(np.concatenate([one.ravel() for one in get_private(model)]))
        average = averaged(rule, average, model, round)
    weights, newest = direct_weights(rule, 5), of_model(model)
    np.testing.assert_allclose(average.shared, weights @ np.array(seen), atol=1e-5)
    head = np.concatenate([one.ravel() for one in average.head])
    np.testing.assert_allclose(head, weights @ np.array(heads), atol=1e-5)
    with showing(model, average) as shown:
        np.testing.assert_array_equal(get_parameters(shown), average.shared)
        np.testing.assert_array_equal(get_private(shown)[0], average.head[0])
    np.testing.assert_array_equal(get_parameters(model), newest.shared)
    np.testing.assert_array_equal(get_private(model)[0], newest.head[0])
    with pytest.raises(KeyError), showing(model, average):
        raise KeyError
    np.testing.assert_array_equal(get_parameters(model), newest.shared)
    load(model, average)
    assert of_model(model).head[1].tobytes() == average.head[1].tobytes()


def test_a_simulation_trains_from_the_newest_model_and_returns_the_average() -> None:
    class Counting:
        def __init__(self) -> None:
            self.starts: list[np.ndarray] = []

        def train(self, start: np.ndarray, clipping: float = 1.0, round: int = 1) -> Update:
            self.starts.append(start)
            values = np.full(start.size, len(self.starts), np.float32)
            return Update(values=values, unit=1.0, protected_by=Protection.NOTHING)

    ends = []
    for rule in (LAST, DEFAULT):
        torch.manual_seed(0)
        participant = Counting()
        model = nn.Linear(2, 1)
        one = Simulation(model, [participant], ServerSection(), average=rule)
        ends.append(get_parameters(one.run(4)))
        starts = [*participant.starts[1:], one.vector]
        np.testing.assert_allclose(ends[-1], direct_weights(rule, 4) @ np.array(starts), rtol=1e-6)
    assert not np.array_equal(*ends)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "polynomial", "eta": -1.0},
        {"kind": "exponential", "decay": 1.0},
        {"kind": "exponential", "decay": float("nan")},
        {"kind": "polynomial", "decay": 0.9},
        {"kind": "none", "eta": 3.0},
        {"kind": "mean"},
    ],
)
def test_other_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Average).validate_python(wrong)


GOLDEN = ["9aeb263eac190b3f", "90c2f53ccecccc3d", "e17a143e7977f73e", "da05443e365a233f"]
"""The same as with exact fractions, rounded to float32 after every round."""
