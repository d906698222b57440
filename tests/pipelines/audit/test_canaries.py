"""The one-run audit finds broken implementations, and lets sound ones pass."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from blindsum.pipelines.audit.attacks import canaries
from blindsum.pipelines.audit.attacks.candidates import identify
from blindsum.platform.data.records import Fold
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import PrivacyPlan, plan
from blindsum.platform.training import local
from blindsum.platform.training.clipping.book_keeping import BookKeeping, Clipped
from blindsum.platform.training.models import build_model
from tests.conftest import MakeJob

# Few large steps: there the plan leaves little room between what is claimed and what is there.
TIGHT = (
    "training.rounds=8",
    "training.local_steps=1",
    "training.sampling_rate=1",
    "privacy.epsilon=1",
)


def planned(make_job: MakeJob, *overrides: str) -> tuple[Job, PrivacyPlan]:
    job = make_job(*TIGHT, *overrides).job
    found = plan(job, "alder")
    assert found
    return job, found


def epsilon(job: Job, own: PrivacyPlan, **kwargs: Any) -> float:
    return max(b.best for b in canaries.audit(job, own, 800, **kwargs).values())


@pytest.mark.parametrize("overrides", [(), ("privacy.noise=shared",)])
def test_the_products_training_keeps_its_epsilon(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    # At 95 % the audit would by right accuse a sound implementation once in twenty runs.
    monkeypatch.setattr(canaries, "CONFIDENCE", 1 - 1e-7)
    job, own = planned(make_job, *overrides)
    assert epsilon(job, own) < own.epsilon
    assert epsilon(job, own, noise=False) > 2 * own.epsilon, "without power it proves nothing"


def test_noise_divided_by_eight_is_found(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, own = planned(make_job)
    add = local.add_gaussian
    monkeypatch.setattr(local, "add_gaussian", lambda t, s, r: add(t, s / 8, r))
    assert epsilon(job, own) > own.epsilon


def test_shares_of_noise_divided_by_eight_are_found(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, own = planned(make_job, "privacy.noise=shared")
    add = canaries.noised_integers
    monkeypatch.setattr(
        canaries, "noised_integers", lambda x, cut, share, unit, r: add(x, cut, share / 8, unit, r)
    )
    assert epsilon(job, own) > own.epsilon


def test_noise_that_cancels_over_the_rounds_is_found(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a seed that is used again, with the other sign, would do."""
    job, own = planned(make_job)
    drawn: list[torch.Tensor] = []

    def cancelling(target: torch.Tensor, deviation: float, random: Any) -> None:
        if drawn:
            target.sub_(drawn.pop())
        else:
            drawn.append(torch.randn(target.shape) * deviation)
            target.add_(drawn[0])

    monkeypatch.setattr(local, "add_gaussian", cancelling)
    assert epsilon(job, own) > own.epsilon


def test_clipping_a_batch_in_place_of_its_records_is_found(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, own = planned(make_job)
    clip = BookKeeping.__call__

    def whole(self: BookKeeping, x: torch.Tensor, y: torch.Tensor, clip_norm: float) -> Clipped:
        found = clip(self, x, y, 1e9)
        norm = torch.cat([s.flatten() for s in found.sums]).norm()
        return Clipped([s * min(1.0, float(clip_norm * len(y) / norm)) for s in found.sums], 0)

    monkeypatch.setattr(local, "clipped_sum", lambda model, *_: _Way(model, whole))
    assert epsilon(job, own) > own.epsilon


class _Way(BookKeeping):
    def __init__(self, model: Any, call: Any) -> None:
        super().__init__(model)
        self._call = call

    def __call__(
        self, x: torch.Tensor, y: torch.Tensor, clip_norm: float, masks: Any = None
    ) -> Clipped:
        return self._call(self, x, y, clip_norm)  # type: ignore[no-any-return]


def test_bounds_hold_for_guesses_as_good_as_epsilon_allows() -> None:
    """An auditor who is right with probability e^eps / (1 + e^eps) refutes less than eps, but for
    one in twenty."""
    random, wrong = np.random.default_rng(0), 0
    for _ in range(60):
        right = int(random.binomial(200, 1 / (1 + np.exp(-1.0))))
        wrong += canaries.refutes(1000, 200, right, 1.0, delta=0.0, beta=0.05)
    assert wrong <= 8
    tail = stats.binom.sf(179, 200, 1 / (1 + np.exp(-1.5)))
    assert canaries.refutes(1000, 200, 180, 1.5, delta=0.0, beta=0.05) == (tail <= 0.05)
    assert not canaries.refutes(1000, 200, 180, 1.5, delta=1e-2, beta=1e-9)


def test_gaussian_bounds_hold_for_gaussian_scores() -> None:
    random = np.random.default_rng(1)
    over = 0
    for _ in range(20):
        coins = random.random(1000) < 0.5
        found = canaries.bound(random.normal(size=1000) + 1.0 * coins, coins, 1e-5)
        over += found.gaussian > 4.38  # epsilon of mu = 1 at delta 1e-5
        assert found.best < 4.38 or over
    assert over <= 2


def test_candidates_are_told_apart_without_noise_alone(make_job: MakeJob) -> None:
    job, own = planned(make_job)
    random = np.random.default_rng(0)
    fold = Fold(random.normal(size=(80, 4)).astype(np.float32), random.integers(0, 2, 80))
    model = build_model(job.model, 4, 2, seed=0, private=True)
    bare = identify(model, fold, own, 32, noise=False, trials=400)
    private = identify(model, fold, own, 32, trials=400)
    assert bare.value > 0.95 and private.value < 0.3 and private.floor == 1 / 32
