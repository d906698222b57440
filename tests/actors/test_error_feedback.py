"""What rounding and range take from a silo's update is added to its next one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blindsum.actors.returning import state_for_another
from blindsum.actors.silo import Silo
from blindsum.he.packing import quantise
from blindsum.he.parameters import Parameters
from blindsum.platform.errors import JobError
from blindsum.platform.state.checkpoint import from_bytes
from blindsum.platform.training.subset import chosen_count
from tests.actors.test_restore import again
from tests.actors.test_silo import NO_NOISE, Consortium
from tests.conftest import MakeJob

FEEDS_BACK = (NO_NOISE, "encryption.error_feedback=true", "encryption.bits=4")
SUBSET = "training.subset=0.5"


class Watched:
    """The updates that a silo computed, and the changes that it sent."""

    def __init__(self, consortium: Consortium, name: str) -> None:
        silo = consortium.silos[name]
        self.silo, own = silo, silo._own
        self.computed, self.sent = np.zeros(own.values), np.zeros(own.values)
        train, digits = own.trainer.train, own.digitiser.digits

        def trained(*given: Any) -> Any:
            update = train(*given)
            self.computed[self.places()] += update.values
            return update

        def digitised(update: Any, exchange: Any, bound: float, tally: Any) -> Any:
            inner = digits(update, exchange, bound, tally)
            places = self.places()

            def watched(where: slice) -> Any:
                integers = inner(where)
                self.sent[places[where]] += integers * (bound / own.parameters.limit)
                return integers

            return watched

        own.trainer.train, own.digitiser.digits = trained, digitised  # type: ignore[method-assign]

    def places(self) -> np.ndarray:
        subset = self.silo._own.subset(self.silo._announced[0])
        mask = subset.mask() if subset else np.ones(self.silo._own.values, bool)
        return np.flatnonzero(mask)


def consortium_of(make_job: MakeJob, *settings: str, run: str = "run-1") -> Consortium:
    consortium = Consortium(make_job(*FEEDS_BACK, *settings), run=run)
    share = next(iter(consortium.silos.values()))._job.training.subset
    consortium.values = chosen_count(consortium.values, share)
    return consortium


@pytest.mark.parametrize("settings", [(), (SUBSET,), ("encryption.range=0.02",)])
def test_nothing_is_lost(make_job: MakeJob, settings: tuple[str, ...]) -> None:
    """All that a silo computed was sent, or is kept: to the last bit but float32's rounding."""
    consortium = consortium_of(make_job, *settings)
    watched = Watched(consortium, "birch")
    for number in (1, 2, 3):
        consortium.round(number)
        unsent = watched.silo._model.unsent
        assert unsent is not None and unsent.dtype == np.float32 and unsent.any()
        np.testing.assert_allclose(watched.sent + unsent, watched.computed, atol=1e-6)
    assert watched.sent.any()


def test_models_stay_close_to_those_of_many_bits(make_job: MakeJob) -> None:
    """Without feedback, rounding to nearest drops small changes in every round anew."""
    whole = ("training.sampling_rate=1", "training.expected_batch_size=110", "training.rounds=8")
    exact = Consortium(make_job(NO_NOISE, "encryption.bits=19", *whole), run="run-1")
    few = consortium_of(make_job, *whole, run="run-2")
    dropping = consortium_of(make_job, *whole, run="run-3")
    for number in range(1, 9):
        for silo in dropping.silos.values():
            silo._models = tuple(replace(one, unsent=None) for one in silo._models)
        for one in (exact, few, dropping):
            one.round(number)
    distances = [np.linalg.norm(one.models()[0] - exact.models()[0]) for one in (few, dropping)]
    assert distances[0] < 0.5 * distances[1]


def test_an_attempt_that_failed_takes_nothing_along(make_job: MakeJob) -> None:
    """Its update was not applied: neither is what was left of it sent later."""
    consortium = consortium_of(make_job)
    consortium.round(1)
    silo = consortium.silos["birch"]
    before = silo._model.unsent
    assert before is not None
    kept = before.copy()
    consortium.train(consortium.exchange(2))
    np.testing.assert_array_equal(silo._model.unsent, kept)
    consortium.exchange_keys_anew()
    watched = Watched(consortium, "birch")
    consortium.round(2, attempt=2)
    assert silo._model.unsent is not None
    carried, computed = watched.sent + silo._model.unsent, watched.computed + kept
    np.testing.assert_allclose(carried, computed, atol=1e-6)
    assert silo._models[0].unsent is before, "the silo returns to it if others refuse the total"


@pytest.mark.parametrize("settings", [(), (SUBSET,)])
def test_a_resumed_run_goes_on_bit_by_bit(
    make_job: MakeJob, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    consortium = consortium_of(make_job, *settings)
    for number in (1, 2):
        consortium.round(number)
    for name, old in list(consortium.silos.items()):
        silo: Silo = again(consortium, name)
        silo.inspect()
        assert silo.restore(2) == old._model.digest
        assert old._model.unsent is not None and silo._model.unsent is not None
        assert silo._model.unsent.tobytes() == old._model.unsent.tobytes()


def test_no_other_silo_gets_it(make_job: MakeJob) -> None:
    consortium = consortium_of(make_job)
    consortium.round(1)
    silo = consortium.silos["alder"]
    content = state_for_another(silo._own, silo._model)
    kept = from_bytes(content)
    assert kept is not None and kept.unsent is None and silo._model.unsent is not None
    assert silo._model.unsent.tobytes() not in content


@pytest.mark.parametrize("noise", ["local", "shared"])
def test_it_is_refused_under_differential_privacy(make_job: MakeJob, noise: str) -> None:
    with pytest.raises(JobError, match="bounded, noised and charged for that round alone"):
        make_job(
            "encryption.error_feedback=true", f"privacy.noise={noise}", "training.local_steps=1"
        )


def test_rounding_to_nearest() -> None:
    parameters = Parameters.derive(3, 4)
    values = np.array([-9.0, -7.0, -1.6, -0.4, 0.0, 0.4, 1.6, 7.0, 9.0]) / 7
    found = quantise(values, 1.0, parameters, None)
    np.testing.assert_array_equal(found.integers, [-7, -7, -2, 0, 0, 0, 2, 7, 7])
    assert found.saturated == 2
