"""What a silo evaluates, keeps and releases: the average of the rounds' models."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blindsum.actors.codec import decoded_models
from blindsum.actors.federation import Federation
from blindsum.actors.messages import ApplyReport
from blindsum.actors.silo import Silo
from blindsum.actors.thread_cluster import ThreadCluster
from blindsum.he.exchange import Exchange
from blindsum.platform.errors import FederationError, ModelsDiffer
from blindsum.platform.job.file import JobFile
from blindsum.platform.prediction.released import read_released
from blindsum.platform.training.average import Averaged
from blindsum.platform.training.losses import classification
from blindsum.platform.training.models import get_parameters, get_private, set_parameters
from blindsum.platform.training.vector import digest
from tests.actors.test_private_heads import consortium as with_heads
from tests.actors.test_restore import after_rounds, again
from tests.actors.test_silo import NO_NOISE, Consortium
from tests.conftest import MakeJob
from tests.platform.test_average import direct_weights

__all__ = ["with_heads"]  # a fixture


@pytest.mark.parametrize("average", ["polynomial", "none"])
def test_what_is_evaluated_and_released_is_the_average_and_training_goes_on_without_it(
    make_job: MakeJob, average: str
) -> None:
    """Evaluate or release the newest model, and this fails."""
    settings = (NO_NOISE, "training.learning_rate=3", f"training.average.kind={average}")
    consortium, seen = Consortium(make_job(*settings)), []
    for number in (1, 2, 3):
        consortium.round(number)
        seen.append(consortium.models()[0])
    metrics = consortium.evaluate(4)
    silo = consortium.silos["alder"]
    rule = consortium.silos["alder"]._job.training.average
    expected, losses = direct_weights(rule, 3) @ np.array(seen), []
    round, (released, newest) = decoded_models(silo.release(3))
    np.testing.assert_array_equal(newest, seen[-1])
    assert round == 3 and silo.release(1) is None
    np.testing.assert_allclose(released, expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(released, seen[-1]) == (average == "none")
    assert {digest(s._model.average.shared) for s in consortium.silos.values()} == {
        digest(released)
    }
    assert consortium.model == digest(seen[-1], released)
    np.testing.assert_array_equal(get_parameters(silo._own.model), seen[-1])
    model = copy.deepcopy(silo._own.model)
    for vector in (released, seen[-1]):
        set_parameters(model, vector)
        folds = [one._own.data.test for one in consortium.silos.values()]
        each = [classification(f.outputs(model), torch.from_numpy(f.labels)) for f in folds]
        losses.append(float(torch.cat(each).mean()))
    assert metrics.held_out
    assert metrics.held_out.loss == pytest.approx(losses[0], abs=1e-4)
    assert average == "none" or abs(losses[0] - losses[1]) > 1e-3, "the test can tell"


def test_a_silo_s_own_model_is_the_average_with_the_head_that_fits_it(
    with_heads: JobFile, tmp_path: Path
) -> None:
    made, seen = Consortium(with_heads), []
    silo = made.silos["birch"]
    for number in (1, 2, 3):
        made.round(number)
        seen.append(get_private(silo._own.model)[0])
    made.evaluate(4)
    path = tmp_path / "state" / "birch" / "runs" / "run-1" / "model.blindsum"
    kept = read_released(path).model.state_dict()
    weights = direct_weights(with_heads.job.training.average, 3)
    expected = np.tensordot(weights, np.array(seen), 1)
    np.testing.assert_allclose(kept["private.weight"], expected, rtol=1e-4, atol=1e-6)
    released, whole = made.silos["alder"]._model.average.shared, copy.deepcopy(silo._own.model)
    whole.load_state_dict(kept)
    np.testing.assert_array_equal(get_parameters(whole), released)
    # A silo that comes back goes on with both.
    resumed = again(made, "birch")
    resumed.inspect()
    resumed.restore(3)
    for mine, before in zip(resumed._model.average.head, silo._model.average.head, strict=True):
        np.testing.assert_array_equal(mine, before)
    np.testing.assert_array_equal(get_private(resumed._own.model)[0], seen[-1])


def test_a_resumed_silo_s_average_goes_on_bit_by_bit(make_job: MakeJob) -> None:
    """Leave it out of the checkpoint, and the next average begins anew."""
    whole = after_rounds(Consortium(make_job(NO_NOISE)), 4)
    broken = after_rounds(Consortium(make_job(NO_NOISE), run="run-2"), 2)
    for name in broken.silos:
        resumed: Any = again(broken, name, run="run-2")
        resumed.inspect()
        resumed.restore(2)
        before, now = broken.silos[name]._model, resumed._model
        assert now.digest == before.digest and now.vector.tobytes() == before.vector.tobytes()
        assert now.average.shared.tobytes() == before.average.shared.tobytes()
        broken.silos[name]._models = (replace(before, average=now.average),)
    broken.round(3)
    broken.round(4)
    one, other = (c.silos["alder"]._model.average.shared for c in (whole, broken))
    assert one.tobytes() == other.tobytes()


class Drifting(Silo):
    """Birch holds another average from round 2 on, or says that it does."""

    says = False

    def apply(self, exchange: Exchange, *rest: Any) -> ApplyReport:
        report = super().apply(exchange, *rest)
        if self.name == "birch" and exchange.round == 2 and self.says:
            return replace(report, model_digest="0" * 64)
        return report

    def _move_on(self, own: Any, sent: Any, mean: Any) -> None:
        super()._move_on(own, sent, mean)
        round = sent.exchange.round
        if self.name == "birch" and round == 2 and not self.says:
            now = self._model
            moved = Averaged(shared=np.nextafter(now.average.shared, np.float32(9)))
            self._models = (*self._models[:-1], own.model_state(round, now.vector, moved))


@pytest.mark.parametrize(("says", "what"), [(False, "model differ"), (True, "averaged model")])
def test_a_silo_with_another_average_ends_the_run(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, says: bool, what: str
) -> None:
    monkeypatch.setattr(Drifting, "says", says)
    job_file = make_job(NO_NOISE)
    one = Federation(job_file.job, "run", str(job_file.folder), ThreadCluster(Drifting))
    try:
        one.inspect()
        one.exchange_keys()
        one.run_round(1)
        with pytest.raises(ModelsDiffer, match=what):
            one.run_round(2)
    finally:
        one.close()


def test_a_silo_with_another_average_takes_part_in_no_round(make_job: MakeJob) -> None:
    """What a driver announces is the digest of model and average: it cannot overlook one."""
    made = after_rounds(Consortium(make_job(NO_NOISE)), 1)
    silo = made.silos["birch"]
    now = silo._model
    other = Averaged(shared=np.nextafter(now.average.shared, np.float32(9)))
    silo._models = (silo._own.model_state(1, now.vector, other),)
    with pytest.raises(FederationError, match="announced model"):
        silo.train(made.exchange(2))
