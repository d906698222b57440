"""Control variates in silos: they follow from what was sent, and begin anew together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from blindsum.actors.prepared import PreparedSilo
from blindsum.platform.errors import TotalRefused
from blindsum.platform.job.file import JobFile
from tests.actors.test_private_heads import consortium as with_heads
from tests.actors.test_restore import again
from tests.actors.test_silo import NO_NOISE, Consortium
from tests.conftest import MakeJob

__all__ = ["with_heads"]  # a fixture

VARIATES = "training.control_variates=true"


def owned(consortium: Consortium) -> list[np.ndarray | None]:
    kept = [silo._model.variates for silo in consortium.silos.values()]
    return [one.own if one else None for one in kept]


def agreeing(consortium: Consortium) -> np.ndarray:
    """Check that all silos have the mean of their variates as the common one; return it."""
    kept = [silo._model.variates for silo in consortium.silos.values()]
    commons = [one.common for one in kept if one]
    assert len(commons) == len(kept) and len({one.tobytes() for one in commons}) == 1
    mean = np.mean([one.own for one in kept if one], axis=0)
    np.testing.assert_allclose(mean, commons[0], atol=1e-5)
    return commons[0]


@pytest.mark.parametrize("noise", [(NO_NOISE,), ()])
def test_the_common_variate_is_the_mean_of_the_silos_and_nothing_more_travels(
    make_job: MakeJob, noise: tuple[str, ...]
) -> None:
    more = (*noise, "training.rounds=5")
    plain, made = Consortium(make_job(*more)), Consortium(make_job(*more, VARIATES), run="run-2")
    sizes = []
    for consortium in (plain, made):
        uploads = consortium.train(consortium.exchange())
        sizes.append([upload.size for upload in uploads])
    assert sizes[0] == sizes[1]
    for number in (1, 2, 3):
        made.round(number, attempt=2)
        assert agreeing(made).any()
        own = owned(made)
        assert not np.allclose(own[0], own[1]), "silos differ"  # type: ignore[arg-type]
    assert all(one is None for one in owned(plain))


def test_variates_are_of_the_integers_that_were_sent(make_job: MakeJob) -> None:
    """Of the change before noise, cutting or rounding they would not be, and would drift apart."""
    made = Consortium(
        make_job(VARIATES, "training.rounds=4", "encryption.bits=6", "encryption.range=0.01")
    )
    silo, sent = made.silos["alder"], []
    digits = silo._own.digitiser.digits

    def spy(*given: Any) -> Any:
        of = digits(*given)

        def noted(where: slice) -> Any:
            sent.append(of(where))
            return sent[-1]

        return noted

    silo._own.digitiser.digits = spy  # type: ignore[method-assign]
    unit = made.exchange().range / silo._own.parameters.limit  # type: ignore[operator]
    made.round(1)
    training = silo._job.training
    length = training.local_steps * training.rate(1)
    own = owned(made)[0]
    np.testing.assert_allclose(own, -np.concatenate(sent) * unit / length, rtol=1e-6)  # type: ignore[arg-type]
    for number in (2, 3, 4):
        made.round(number)
        agreeing(made)


def test_steps_are_corrected_by_how_the_silo_differs(make_job: MakeJob) -> None:
    made = Consortium(make_job(NO_NOISE, VARIATES))
    made.round(1)
    seen: dict[str, np.ndarray] = {}
    for name, silo in made.silos.items():
        train = silo._own.trainer.train

        def spy(*given: Any, name: str = name, train: Any = train) -> Any:
            seen[name] = given[4]
            return train(*given)

        silo._own.trainer.train = spy  # type: ignore[method-assign]
    kept = {name: silo._model.variates for name, silo in made.silos.items()}
    made.round(2)
    for name, one in kept.items():
        assert one is not None
        np.testing.assert_allclose(seen[name], one.own - one.common, rtol=1e-4, atol=1e-7)
    assert np.abs(sum(seen.values())).max() < 1e-4 < max(np.abs(s).max() for s in seen.values())


def test_an_attempt_that_is_undone_takes_its_variates_back(make_job: MakeJob) -> None:
    made = Consortium(make_job(VARIATES, "training.rounds=4"))
    made.round(1)
    before = owned(made)
    exchange = made.exchange(2)
    total = made.sum(exchange, made.train(exchange))
    ahead = made.silos["alder"]
    ahead.apply(exchange, [], *total)
    ahead.taken()
    assert not np.array_equal(ahead._model.variates.own, before[0])  # type: ignore[union-attr, arg-type]
    made.round(2, attempt=2)
    agreeing(made)


def test_variates_begin_anew_with_new_keys_and_for_everyone(make_job: MakeJob) -> None:
    """A silo that comes back has none: with the others' old ones they would not add up to zero."""
    made = Consortium(make_job(VARIATES, "training.rounds=5"))
    made.round(1)
    exchange = made.exchange(2)
    total = made.sum(exchange, made.train(exchange))
    made.silos["alder"].apply(exchange, [], *total)
    made.silos["alder"].taken()
    with pytest.raises(TotalRefused):
        made.silos["birch"].apply(exchange, [], [])
    made.exchange_keys()
    assert owned(made) == [None, None, None]
    made.round(2, attempt=2)
    agreeing(made)


def test_variates_begin_anew_with_a_smaller_roster(make_job: MakeJob) -> None:
    made = Consortium(make_job(VARIATES, "quorum=2", "training.rounds=4"))
    made.round(1)
    del made.silos["cedar"]
    made.exchange_keys_anew()
    for number in (2, 3):
        made.round(number)
        agreeing(made)
    kept = made.silos["alder"]._model.variates
    assert kept is not None and kept.roster == ("alder", "birch")
    assert made.silos["alder"]._variates(("alder", "birch", "cedar")) is not kept
    assert not made.silos["alder"]._variates(("alder", "birch", "cedar")).own.any()  # type: ignore[union-attr]


def test_variates_begin_anew_after_a_mean_beyond_reach(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mean that was scaled down is no longer that of what the silos sent."""
    made = Consortium(make_job(VARIATES, "training.rounds=4"))
    made.round(1)
    change = PreparedSilo.mean_change
    monkeypatch.setattr(
        PreparedSilo, "mean_change", lambda *given: replace(change(*given), held=0.5)
    )
    made.round(2)
    assert owned(made) == [None, None, None]
    monkeypatch.undo()
    made.round(3)
    agreeing(made)


def test_a_resumed_silo_begins_anew(make_job: MakeJob) -> None:
    made = Consortium(make_job(VARIATES, "training.rounds=4"))
    made.round(1)
    made.round(2)
    resumed: Any = again(made, "birch")
    resumed.inspect()
    resumed.restore(2)
    assert resumed._model.variates is None
    np.testing.assert_array_equal(resumed._model.vector, made.silos["birch"]._model.vector)


def test_private_heads_are_not_corrected(with_heads: JobFile) -> None:
    training = with_heads.job.training.model_copy(update={"control_variates": True})
    job = with_heads.job.model_copy(update={"training": training})
    assert job.training.local_steps > 1
    made = Consortium(JobFile(job, with_heads.path, with_heads.text))
    made.round(1)
    made.round(2)
    agreeing(made)
    trainer = made.silos["birch"]._own.trainer
    assert trainer._corrections[-1] is None and trainer._corrections[0] is not None
