"""Epsilon, compared with independent formulas, and impossible plans."""

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting import mechanism_calibration
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
from dp_accounting.rdp.rdp_privacy_accountant import RdpAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from blindsum.platform.errors import PrivacyError
from blindsum.platform.privacy.accounting import calibrate, spent_epsilon
from blindsum.platform.privacy.plan import Accountant, plan
from tests.conftest import MakeJob


def analytic_gaussian(sigma: float, delta: float) -> float:
    """Return the exact epsilon of one Gaussian mechanism (Balle and Wang, ICML 2018, theorem 8)."""

    def excess(epsilon: float) -> float:
        a = norm.cdf(1 / (2 * sigma) - epsilon * sigma)
        b = math.exp(epsilon) * norm.cdf(-1 / (2 * sigma) - epsilon * sigma)
        return float(a - b - delta)

    return float(brentq(excess, 0, 100))


def test_nothing_is_spent_before_the_first_step() -> None:
    assert spent_epsilon(1.0, 0.1, 0, 1e-5) == 0.0


@pytest.mark.parametrize("sigma", [0.8, 1.5, 4.0])
@pytest.mark.parametrize("steps", [1, 9])
def test_without_sampling_epsilon_is_the_analytic_gaussian(sigma: float, steps: int) -> None:
    """n Gaussians compose to one with sigma / sqrt(n)."""
    exact = analytic_gaussian(sigma / math.sqrt(steps), 1e-5)
    ours = spent_epsilon(sigma, 1.0, steps, 1e-5)
    assert exact - 1e-6 <= ours <= exact * 1.002 + 0.01


@pytest.mark.parametrize(
    ("sigma", "rate", "steps"), [(1.1, 256 / 60000, 14062), (2, 0.1, 200), (4, 0.3, 50)]
)
def test_pld_is_tighter_than_renyi_but_not_implausibly(
    sigma: float, rate: float, steps: int
) -> None:
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(sigma))
    renyi = RdpAccountant().compose(event, steps).get_epsilon(1e-5)
    ours = spent_epsilon(sigma, rate, steps, 1e-5)
    assert 0.7 * renyi < ours < renyi


def test_the_published_mnist_figure() -> None:
    """The setting of Abadi et al. in TensorFlow Privacy's tutorial has Renyi bound 3.01 at 1e-5."""
    assert 2.3 < spent_epsilon(1.1, 256 / 60000, 14062, 1e-5) < 3.01


@pytest.mark.parametrize("delta", [1e-4, 1e-7])
@pytest.mark.parametrize(
    ("sigma", "rate", "steps"),
    [(2.0, 0.1, 200), (1.0, 0.01, 1000), (5.0, 0.5, 50), (3.0, 1.0, 10), (0.7, 0.05, 20)],
)
def test_finer_discretisation_only_lowers_epsilon(
    sigma: float, rate: float, steps: int, delta: float
) -> None:
    """A grid of settings, compared with dp-accounting at a tenth of the discretisation."""
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(sigma))
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    fine = accountant.compose(event, steps).get_epsilon(delta)
    assert fine * (1 - 1e-9) <= spent_epsilon(sigma, rate, steps, delta) <= fine * 1.005


@pytest.mark.parametrize("epsilon", [0.5, 3.0, 8.0])
def test_calibration_meets_the_budget_and_wastes_little(epsilon: float) -> None:
    sigma = calibrate(epsilon, 1e-4, 0.1, 200)
    assert spent_epsilon(sigma, 0.1, 200, 1e-4) <= epsilon
    assert spent_epsilon(sigma * 0.998, 0.1, 200, 1e-4) > epsilon * 0.999
    theirs = mechanism_calibration.calibrate_dp_mechanism(
        lambda: PLDAccountant(value_discretization_interval=1e-3),
        lambda s: dp_accounting.SelfComposedDpEvent(
            dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.GaussianDpEvent(s)), 200
        ),
        epsilon,
        1e-4,
        bracket_interval=mechanism_calibration.ExplicitBracketInterval(0.5, 20),
    )
    assert sigma == pytest.approx(theirs, rel=1e-3)


def test_rounds_composed_one_by_one_give_the_planned_epsilon(make_job: MakeJob) -> None:
    made = plan(make_job("training.rounds=12").job, "alder")
    assert made is not None
    accountant = Accountant(made)
    spent = [accountant.epsilon_after(r) for r in range(13)]
    assert spent[0] == 0 and np.all(np.diff(spent) > 0)
    assert spent[12] <= made.epsilon
    for r in (1, 7, 12):
        direct = spent_epsilon(made.noise_multiplier, 0.2, 2 * r, 1e-4)
        assert spent[r] == pytest.approx(direct, rel=1e-6)


def test_a_silo_may_be_stricter_than_the_job(make_job: MakeJob) -> None:
    job = make_job("silos.birch.epsilon=1").job
    alder, birch = plan(job, "alder"), plan(job, "birch")
    assert alder and birch and birch.epsilon == 1 < alder.epsilon == 3
    assert birch.noise_multiplier > alder.noise_multiplier
    laxer = plan(make_job("silos.birch.epsilon=9").job, "birch")
    assert laxer and laxer.epsilon == 3


def test_an_impossible_budget_names_the_nearest_possible(make_job: MakeJob) -> None:
    with pytest.raises(PrivacyError, match=r"Use epsilon 0\.\d+ or more") as caught:
        plan(make_job("privacy.epsilon=0.0001", "training.rounds=500").job, "alder")
    assert caught.value.silo == "alder"


def test_a_fixed_noise_multiplier_covers_only_some_rounds(make_job: MakeJob) -> None:
    made = plan(make_job("privacy.noise_multiplier=1.0", "training.rounds=50").job, "alder")
    assert made and 1 <= made.rounds_within_budget < 50
    after = made.rounds_within_budget
    assert (
        spent_epsilon(1.0, 0.2, 2 * after, 1e-4) <= 3 < spent_epsilon(1.0, 0.2, 2 * after + 2, 1e-4)
    )
    with pytest.raises(PrivacyError, match="one round at privacy.noise_multiplier 0.3 spends"):
        plan(make_job("privacy.noise_multiplier=0.3").job, "alder")


def test_without_noise_there_is_no_plan(make_job: MakeJob) -> None:
    assert plan(make_job("privacy={noise: none}").job, "alder") is None
