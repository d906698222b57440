"""Silos and the aggregator as plain objects: a whole round by hand, and what they refuse."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from blindsum.actors.aggregator import Aggregator
from blindsum.actors.messages import SiloSpec
from blindsum.actors.silo import Silo, metrics_exchange
from blindsum.he.wire import Exchange
from blindsum.platform.errors import (
    BudgetExceeded,
    EncryptionError,
    FederationError,
    KeyRefused,
    LedgerError,
    PrivacyError,
    UploadRefused,
)
from blindsum.platform.job_file import JobFile
from blindsum.platform.ledger import Ledger
from blindsum.platform.metrics import Metrics
from blindsum.platform.random_source import seeded_generator
from tests.conftest import MakeJob

NO_NOISE = "privacy={noise: none}"


class Consortium:
    """Three silos and an aggregator in one process, with their keys exchanged."""

    def __init__(self, job_file: JobFile, run: str = "run-1") -> None:
        job = job_file.job
        self.run = run
        self.silos = {n: Silo(SiloSpec(job, run, n, str(job_file.folder), 1)) for n in job.roster}
        self.inspections = {n: silo.inspect() for n, silo in self.silos.items()}
        cards = tuple(silo.introduce() for silo in self.silos.values())
        maker, *others = self.silos.values()
        self.confirmations, sealed = [], []
        confirmed, sealed = maker.make_key(cards)
        self.confirmations = [confirmed] + [
            silo.open_key(cards, one) for silo, one in zip(others, sealed, strict=True)
        ]
        self.aggregator = Aggregator()
        self.aggregator.meet({card.silo: card.identity for card in cards})
        self.values = self.inspections[job.roster[0]].parameters

    def exchange(self, number: int = 1, attempt: int = 1) -> Exchange:
        first = next(iter(self.silos.values()))
        return Exchange(
            self.run, number, attempt, "update", tuple(self.silos), self.values, first._parameters
        )

    def sum(self, exchange: Exchange, uploads: Sequence[pa.Buffer]) -> pa.Buffer:
        self.aggregator.open(exchange)
        for upload in uploads:
            self.aggregator.add(upload)
        return self.aggregator.total()[1]

    def round(self, number: int) -> Metrics:
        exchange = self.exchange(number)
        total = self.sum(exchange, [s.train(exchange)[1] for s in self.silos.values()])
        counts = [silo.apply(exchange, total)[1] for silo in self.silos.values()]
        limbs = metrics_exchange(exchange, _limbs(self.silos))
        return next(iter(self.silos.values())).read_metrics(limbs, self.sum(limbs, counts))

    def models(self) -> list[np.ndarray]:
        return [silo._global for silo in self.silos.values()]


def _limbs(silos: dict[str, Silo]) -> int:
    from blindsum.he.packing import count_limbs
    from blindsum.platform.metrics import FIXED_COUNTS

    first = next(iter(silos.values()))
    return (FIXED_COUNTS + len(first._job.data.target.classes)) * count_limbs(first._parameters)


def test_encrypted_plaintext_and_float_runs_agree(make_job: MakeJob, tmp_path: Path) -> None:
    """Same seeds: encrypted equals plaintext bit for bit, and float averaging within the step."""
    encrypted = Consortium(make_job(NO_NOISE))
    plain = Consortium(make_job(NO_NOISE, "encryption.scheme=none"))
    for number in (1, 2, 3):
        oracle = _float_round(plain)
        before = encrypted.round(number)
        assert before == plain.round(number)
        step = 1.0 / encrypted.exchange().parameters.limit
        for vector in encrypted.models():
            np.testing.assert_array_equal(vector, plain.models()[0])
            assert np.abs(vector - oracle).max() <= step * 1.01


def _float_round(consortium: Consortium) -> np.ndarray:
    """The next model by float averaging, on copies of the silos' generators."""
    updates = []
    for silo in consortium.silos.values():
        state = silo._random.bit_generator.state
        updates.append(silo._trainer.train(silo._global).astype(np.float64))
        silo._random.bit_generator.state = state
    start = next(iter(consortium.silos.values()))._global
    return start + np.mean(updates, axis=0)


def test_all_silos_hold_the_same_bits_and_the_key(make_job: MakeJob) -> None:
    consortium = Consortium(make_job())
    assert len(set(consortium.confirmations)) == 1
    assert len({i.model_digest for i in consortium.inspections.values()}) == 1
    metrics = consortium.round(1)
    a, b, c = consortium.models()
    assert a.tobytes() == b.tobytes() == c.tobytes()
    assert 0 < metrics.accuracy <= 1 and metrics.records > 50


def test_a_charge_is_on_disk_before_training(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train first and charge later, and this fails."""
    consortium = Consortium(make_job())
    silo = consortium.silos["alder"]
    path = Path(consortium.inspections["alder"].ledger)
    seen: list[str] = []
    train = silo._trainer.train

    def spy(start: np.ndarray) -> np.ndarray:
        seen.extend(entry.kind for entry in Ledger(path, "alder").entries())
        return train(start)

    monkeypatch.setattr(silo._trainer, "train", spy)
    silo.train(consortium.exchange())
    assert seen == ["reserve", "charge"]


def test_nothing_is_trained_when_the_charge_fails(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    consortium = Consortium(make_job("training.rounds=1"))
    silo = consortium.silos["alder"]
    consortium.round(1)
    monkeypatch.setattr(silo._trainer, "train", lambda start: pytest.fail("trained"))
    with pytest.raises(BudgetExceeded, match="round 2 would spend epsilon") as caught:
        silo.train(consortium.exchange(2))
    assert caught.value.silo == "alder"
    silo._ledger._db.execute("PRAGMA query_only = 1")  # type: ignore[union-attr]
    with pytest.raises(LedgerError, match="cannot be used"):
        silo.train(consortium.exchange(2, attempt=2))


def test_an_update_is_made_once(make_job: MakeJob) -> None:
    consortium = Consortium(make_job())
    silo = consortium.silos["birch"]
    silo.train(consortium.exchange())
    with pytest.raises(FederationError, match="announced again"):
        silo.train(consortium.exchange())
    with pytest.raises(FederationError, match="round 3 was announced after 0"):
        silo.train(consortium.exchange(3))


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"job": "another"}, "run"),
        ({"roster": ("alder", "birch")}, "roster"),
        ({"purpose": "metrics"}, "purpose"),
        ({"values": 3}, "size"),
    ],
)
def test_a_silo_takes_part_only_in_its_own_job(
    make_job: MakeJob, change: dict[str, object], wrong: str
) -> None:
    consortium = Consortium(make_job())
    with pytest.raises(FederationError, match=f"announced {wrong} is not"):
        consortium.silos["alder"].train(replace(consortium.exchange(), **change))


def test_totals_that_are_not_the_rosters_are_refused(make_job: MakeJob) -> None:
    consortium = Consortium(make_job())
    exchange = consortium.exchange()
    uploads = [silo.train(exchange)[1] for silo in consortium.silos.values()]
    alder = consortium.silos["alder"]
    other = Aggregator()
    other.meet(consortium.aggregator._identities)
    other.open(replace(exchange, roster=("alder", "birch")))
    with pytest.raises(UploadRefused, match="roster"):
        other.add(uploads[0])
    total = consortium.sum(exchange, uploads)
    with pytest.raises(FederationError, match="did not send to"):
        alder.apply(replace(exchange, attempt=2), total)
    before = alder._global
    with pytest.raises(UploadRefused):
        alder.apply(exchange, uploads[1])
    np.testing.assert_array_equal(alder._global, before)


def test_the_aggregator_refuses_and_the_sum_goes_on(make_job: MakeJob) -> None:
    consortium = Consortium(make_job())
    exchange = consortium.exchange()
    uploads = [silo.train(exchange)[1] for silo in consortium.silos.values()]
    aggregator = consortium.aggregator
    with pytest.raises(FederationError, match="no sum is open"):
        aggregator.add(uploads[0])
    aggregator.open(exchange)
    aggregator.add(uploads[0])
    with pytest.raises(UploadRefused, match="has sent to this sum already"):
        aggregator.add(uploads[0])
    with pytest.raises(UploadRefused, match="no valid upload came from birch, cedar"):
        aggregator.total()
    cut = uploads[1].slice(0, uploads[1].size // 2)
    with pytest.raises(UploadRefused, match="not a complete Arrow stream"):
        aggregator.add(cut)
    for upload in uploads[1:]:
        aggregator.add(upload)
    total = aggregator.total()[1]
    for silo in consortium.silos.values():
        silo.apply(exchange, total)
    with pytest.raises(FederationError, match="opened again"):
        aggregator.open(exchange)
    with pytest.raises(FederationError, match="met its silos"):
        aggregator.meet({})


def test_an_aggregator_that_alters_the_sum_releases_nothing(make_job: MakeJob) -> None:
    """Noise, a doubled upload or another key: the residual or the digit range gives it away."""
    from blindsum.he.wire import read_total, write_total

    consortium = Consortium(make_job())
    exchange = consortium.exchange()
    uploads = [silo.train(exchange)[1] for silo in consortium.silos.values()]
    consortium.aggregator.open(exchange)
    for upload in uploads:
        consortium.aggregator.add(upload)
    entries = list(consortium.aggregator._uploads.values())
    for _ in range(80):
        consortium.aggregator._adder.add(
            list(
                read_total(
                    _as_total(entries, uploads[0]), exchange, consortium.aggregator._identities
                )
            )
        )
    forged = write_total(entries, consortium.aggregator._adder.total())
    silo = consortium.silos["cedar"]
    before = silo._global
    with pytest.raises(EncryptionError, match="nothing was released|no sum of honest"):
        silo.apply(exchange, forged)
    with pytest.raises(KeyRefused, match="a refused total ended it"):
        silo._ready()
    np.testing.assert_array_equal(silo._global, before)


def _as_total(entries, upload: pa.Buffer) -> pa.Buffer:  # type: ignore[no-untyped-def]
    from blindsum.he.wire import _read, write_total

    return write_total(entries, [bytes(chunk) for chunk in _read(upload)[1]])


def test_metrics_are_read_once_and_only_for_the_round_that_was_applied(
    make_job: MakeJob,
) -> None:
    consortium = Consortium(make_job())
    consortium.round(1)
    alder = consortium.silos["alder"]
    exchange = metrics_exchange(consortium.exchange(1), _limbs(consortium.silos))
    with pytest.raises(FederationError, match="did not send to"):
        alder.read_metrics(exchange, pa.py_buffer(b""))


def test_a_silo_that_was_told_another_job_has_no_part_in_the_ceremony(make_job: MakeJob) -> None:
    ours, theirs = make_job(), make_job("privacy.clip_norm=100")
    silos = [
        Silo(SiloSpec(f.job, "run", n, str(f.folder), 1))
        for f, n in ((ours, "alder"), (theirs, "birch"), (ours, "cedar"))
    ]
    for silo in silos:
        silo.inspect()
    cards = tuple(silo.introduce() for silo in silos)
    _, (for_birch, _) = silos[0].make_key(cards)
    with pytest.raises(KeyRefused, match="not made for this silo"):
        silos[1].open_key(cards, for_birch)


def test_a_run_without_privacy_stands_in_the_ledger(make_job: MakeJob) -> None:
    Consortium(make_job(NO_NOISE))
    after = Consortium(make_job(), run="run-2").inspections["alder"].lifetime
    assert after.jobs == 1 and after.epsilon == float("inf")


def test_diverged_training_sends_nothing(make_job: MakeJob) -> None:
    consortium = Consortium(make_job(NO_NOISE))
    silo = consortium.silos["alder"]
    silo._global = np.full_like(silo._global, np.nan)
    with pytest.raises(EncryptionError, match="NaN or infinite"):
        silo.train(consortium.exchange())


def test_training_before_the_ceremony_is_refused(make_job: MakeJob) -> None:
    job_file = make_job()
    silo = Silo(SiloSpec(job_file.job, "r", "alder", str(job_file.folder), 1))
    silo.inspect()
    exchange = Exchange("r", 1, 1, "update", job_file.job.roster, 10, silo._parameters)
    with pytest.raises((LedgerError, KeyRefused)):
        silo.train(exchange)


def test_inspecting_writes_nothing(make_job: MakeJob, tmp_path: Path) -> None:
    job_file = make_job()
    Silo(SiloSpec(job_file.job, "r", "alder", str(job_file.folder), 1)).inspect()
    assert not (tmp_path / "state").exists()


def test_a_silo_with_an_impossible_plan_names_itself(make_job: MakeJob) -> None:
    job_file = make_job("silos.birch.epsilon=0.00001")
    silo = Silo(SiloSpec(job_file.job, "r", "birch", str(job_file.folder), 1))
    with pytest.raises(PrivacyError, match="silo 'birch'"):
        silo.inspect()


def test_the_job_seed_decides_nothing_under_privacy(make_job: MakeJob) -> None:
    """Two runs of one job differ: noise and samples do not come from its seed."""
    models = []
    for run in ("run-1", "run-2"):
        consortium = Consortium(make_job(), run)
        consortium.round(1)
        models.append(consortium.models()[0])
    assert not np.array_equal(*models)
    assert seeded_generator(1).random() == seeded_generator(1).random()
