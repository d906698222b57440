"""Noise shares: their rounded sum is the rounded central mechanism; unsafe jobs are refused."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from blindsum.platform.errors import JobError, PrivacyError
from blindsum.platform.privacy.accounting import spent_epsilon
from blindsum.platform.privacy.plan import metrics_plan, plan
from blindsum.platform.privacy.randomness import cryptographic_generator, normals
from blindsum.platform.privacy.shared_noise import (
    LEAST_UNITS,
    REACH,
    noised_integers,
    require_fine,
    share_deviation,
    shared_range,
)
from blindsum.platform.privacy.statement import privacy_statement
from tests.conftest import MakeJob


def rounded_share(x: float, s: float, width: int) -> np.ndarray:
    """Return the probabilities of round(x + N(0, s^2)) at -width..width."""
    k = np.arange(-width, width + 1)
    upper, lower = stats.norm.cdf(k + 0.5, x, s), stats.norm.cdf(k - 0.5, x, s)
    return np.where(
        k > x, stats.norm.sf(k - 0.5, x, s) - stats.norm.sf(k + 0.5, x, s), upper - lower
    )


def rounded_central(total: float, silos: int, s: float, width: int) -> np.ndarray:
    """Return the probabilities of round(total + N(0, silos s^2) + silos - 1 uniforms), computed
    from its characteristic function, independently of the shares."""
    k = np.arange(-width, width + 1)
    omega = np.linspace(-math.pi, math.pi, 8193)
    found = np.zeros(len(k))
    for shift in range(-3, 4):
        w = omega + 2 * math.pi * shift
        transform = np.exp(-silos * (s * w) ** 2 / 2) * np.sinc(w / (2 * math.pi)) ** silos
        phase = np.exp(1j * np.outer(k - total, w))
        found += np.trapezoid((phase * transform).real, omega, axis=1) / (2 * math.pi)
    return found


@pytest.mark.parametrize("xs", [(0.0, 0.0), (0.3, 0.45, -7.2), (0.5, -0.5, 0.25, 11.9)])
def test_the_sum_of_rounded_shares_is_the_central_mechanism_rounded(xs: tuple[float, ...]) -> None:
    """This checks steps 3 and 4 of the module's argument numerically."""
    width = 160
    total = np.array([1.0])
    for x in xs:
        total = np.convolve(total, rounded_share(x, LEAST_UNITS, width))
    centre = len(total) // 2
    shares = total[centre - width : centre + width + 1]
    central = rounded_central(sum(xs), len(xs), LEAST_UNITS, width)
    assert 0.5 * np.abs(shares - central).sum() < 1e-12


def test_with_too_coarse_a_unit_the_sum_differs() -> None:
    """The claim needs the bound: with noise of a twentieth of a unit, rounding is visible."""
    s, width = 0.2, 40
    one, other = rounded_share(0.3, s, width), rounded_share(0.3, s, width)
    shares = np.convolve(one, other)[width : 3 * width + 1]
    assert 0.5 * np.abs(shares - rounded_central(0.6, 2, s, width)).sum() > 0.02
    with pytest.raises(PrivacyError, match="Raise encryption.bits"):
        require_fine(share=0.2, bound=7.0, limit=7)
    require_fine(share=4.0, bound=7.0, limit=7)


@pytest.mark.parametrize(("silos", "colluders"), [(2, 0), (2, 1), (8, 1), (8, 7), (64, 10)])
def test_the_honest_silos_noise_is_the_planned_noise(silos: int, colluders: int) -> None:
    share = share_deviation(3.0, silos, colluders)
    assert math.sqrt(silos - colluders) * share == pytest.approx(3.0)


def test_integers_hold_the_sum_and_normal_noise_of_the_share() -> None:
    random = cryptographic_generator()
    sums = np.full(200_000, 1.7, np.float32)
    integers = noised_integers(sums, 100.0, 0.9, 0.01, random)
    assert integers.dtype == np.int64
    noise = integers * 0.01 - 1.7
    assert stats.kstest(noise / 0.9, "norm").pvalue > 1e-6
    assert abs(noise.std() / 0.9 - 1) < 0.01
    again = noised_integers(sums, 100.0, 0.9, 0.01, random)
    assert abs(np.corrcoef(integers, again)[0, 1]) < 0.02


def test_sums_are_cut_before_noise_and_nothing_passes_the_range() -> None:
    random = cryptographic_generator()
    limit, share, cut = 2047, 0.5, 4.0
    bound = shared_range(cut, share)
    sums = np.array([1e30, -1e30] * 50_000, np.float32)
    integers = noised_integers(sums, cut, share, bound / limit, random)
    assert np.abs(integers).max() <= limit
    assert np.abs(integers * bound / limit).max() <= cut + REACH * share
    assert np.median(np.abs(integers)) * bound / limit == pytest.approx(cut, rel=0.05)


def test_normals_are_normal_to_the_tails_and_never_repeat() -> None:
    random = cryptographic_generator()
    drawn = normals(1_000_001, random)
    assert drawn.shape == (1_000_001,) and np.isfinite(drawn).all()
    assert stats.kstest(drawn, "norm").pvalue > 1e-6
    for deviations in (3.0, 4.0):
        expected = 1_000_001 * 2 * stats.norm.sf(deviations)
        beyond = np.count_nonzero(np.abs(drawn) > deviations)
        assert abs(beyond - expected) < 6 * math.sqrt(expected)
    assert abs(np.corrcoef(drawn[:500_000], drawn[500_000:-1])[0, 1]) < 0.01
    assert not np.isin(normals(1000, random), drawn).any()
    assert normals(1, random).shape == (1,)


def test_the_least_uniform_makes_the_greatest_normal() -> None:
    class Least:
        def bytes(self, count: int) -> bytes:
            return b"\0" * count

    assert normals(2, Least())[0] == pytest.approx(math.sqrt(2 * 65 * math.log(2)))  # type: ignore[arg-type]


def test_the_plan_is_that_of_the_central_mechanism(make_job: MakeJob) -> None:
    """With one step a round on all records, the noise multiplier is that of DP-SGD on the pooled
    data."""
    made = plan(make_job("privacy.noise=shared", "training.local_steps=1").job, "alder")
    assert made and made.steps_per_round == 1
    spent = spent_epsilon(made.noise_multiplier, made.sampling_rate, made.rounds, made.delta)
    assert spent <= made.epsilon and made.epsilon_planned == spent


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("training.local_steps=2", "one step a round"),
        ("privacy.colluders=3", "must be below the quorum of 3 silos .at most 2"),
        ("encryption.scheme=none", "needs encryption.scheme ckks"),
        ("encryption.range=1.0", "leave encryption.range out"),
    ],
)
def test_jobs_under_which_the_claim_would_not_hold_are_refused(
    make_job: MakeJob, change: str, said: str
) -> None:
    settings: list[Any] = ["privacy.noise=shared", "training.local_steps=1", change]
    with pytest.raises(JobError, match=said):
        make_job(*settings)


def test_shared_noise_is_enough_with_only_the_quorum(make_job: MakeJob) -> None:
    """Each silo's share is that of a roster of the quorum's size, however many silos take part."""
    told = ("privacy.noise=shared", "training.local_steps=1", "privacy.metrics_epsilon=2")
    whole, fewer = make_job(*told).job, make_job(*told, "quorum=2").job
    for of in (lambda job: plan(job, "alder"), metrics_plan):
        all_silos, quorum = of(whole), of(fewer)
        assert all_silos and quorum and quorum.epsilon_planned == all_silos.epsilon_planned
        # S / sqrt(n - t) for three silos and for two, of which one may collude.
        assert quorum.share == pytest.approx(all_silos.share * math.sqrt(2))
    statement = str(privacy_statement(fewer, {}))
    assert "at least 1 must add their share" in statement and "at least 2 of 3" in statement
