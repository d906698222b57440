"""Silos and the aggregator as plain objects: a whole round by hand, and what they refuse."""

import multiprocessing
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from blindsum.actors.aggregator import Aggregator
from blindsum.actors.messages import SiloSpec
from blindsum.actors.silo import Silo
from blindsum.actors.silo_state import ALLOWED, SiloState
from blindsum.he.exchange import Exchange
from blindsum.he.handover import Handover
from blindsum.he.identity import Identity
from blindsum.he.wire import check_receipt
from blindsum.platform.errors import (
    BudgetExceeded,
    DataError,
    EncryptionError,
    FederationError,
    KeyRefused,
    LedgerError,
    PrivacyError,
    TotalRefused,
    UploadRefused,
)
from blindsum.platform.evaluation.figures import Metrics, count_values
from blindsum.platform.evaluation.round_counts import Tally
from blindsum.platform.job.file import JobFile
from blindsum.platform.privacy.plan import greatest_sum
from blindsum.platform.privacy.randomness import normals, seeded_generator
from blindsum.platform.state.audit_log import AuditLog
from blindsum.platform.state.signed_log import Chain
from blindsum.platform.training.update import Protection, Update
from tests.conftest import MakeJob, ledger_of
from tests.platform.test_average import direct_weights

NO_NOISE = "privacy={noise: none}"
SHARED = ("privacy.noise=shared", "training.local_steps=1")


Totals = list[list[pa.Buffer]]


class Post:
    """Frames that a silo sent, kept until somebody gives them to an aggregator."""

    def __init__(self, aggregators: int) -> None:
        self.aggregators = aggregators
        self.sent: list[tuple[int, pa.Buffer]] = []

    def send(self, aggregator: int, frame: pa.Buffer) -> None:
        self.sent.append((aggregator, frame))

    def settle(self) -> None:
        pass

    def fetch(self, reference: Any) -> list[pa.Buffer]:
        return list(reference)


class PostedSilo(Silo):
    """A silo whose frames stay in `post`."""

    def _channel(self, aggregators: Sequence[Any]) -> Post:
        self.post = Post(len(aggregators))
        return self.post

    def taken(self) -> list[tuple[int, pa.Buffer]]:
        sent, self.post.sent = self.post.sent, []
        return sent


class Consortium:
    """Three silos and their aggregators in one process, with their keys exchanged."""

    def __init__(
        self,
        job_file: JobFile,
        run: str = "run-1",
        aggregators: int = 1,
        silo: type[PostedSilo] = PostedSilo,
    ) -> None:
        job = job_file.job
        self.run = run
        self.silos = {
            n: silo(SiloSpec(job=job, run=run, name=n, folder=str(job_file.folder), threads=1))
            for n in job.roster
        }
        self.inspections = {n: silo.inspect() for n, silo in self.silos.items()}
        keep = job.encryption.verify == "keep"
        self.aggregators = [Aggregator(i, aggregators, keep) for i in range(aggregators)]
        self.exchange_keys()
        self.values = self.inspections[job.roster[0]].parameters
        self.model = self.inspections[job.roster[0]].model_digest

    def exchange_keys(self) -> None:
        silos = self.silos.values()
        cards = tuple(silo.introduce() for silo in silos)
        contributions = tuple(silo.contribute(cards) for silo in silos)
        agreements = tuple(silo.agree(contributions) for silo in silos)
        for silo in silos:
            silo.finish(agreements, self.aggregators)
        for aggregator in self.aggregators:
            aggregator.meet({card.silo: card.identity for card in cards})

    def exchange_keys_anew(self) -> None:
        """With the silos that are left, and a new aggregator."""
        self.aggregators = [Aggregator()]
        self.exchange_keys()

    @property
    def aggregator(self) -> Aggregator:
        return self.aggregators[0]

    def exchange(self, number: int = 1, attempt: int = 1) -> Exchange:
        first = next(iter(self.silos.values()))
        return Exchange(
            run=self.run,
            round=number,
            attempt=attempt,
            purpose="update",
            roster=tuple(self.silos),
            values=self.values,
            counts=count_values(first._job),
            range=first._own.policy.course.range,
            parameters=first._own.parameters,
            model=self.model,
            clipping=first._own.policy.course.clipping,
        )

    def counts(self, number: int, attempt: int = 1) -> Exchange:
        """The exchange that evaluates the model before that round."""
        one = self.exchange(number, attempt)
        return replace(one, purpose="metrics", values=0, range=None, clipping=1.0)

    def train(self, exchange: Exchange) -> list[pa.Buffer]:
        """Every silo's frame of a model of one part, or of counts."""
        for silo in self.silos.values():
            (silo.train if exchange.purpose == "update" else silo.evaluate)(exchange)
        return [frame for silo in self.silos.values() for _, frame in silo.taken()]

    def sum(self, exchange: Exchange, uploads: Sequence[pa.Buffer]) -> Totals:
        self.aggregator.open(exchange)
        for upload in uploads:
            self.aggregator.add(upload)
        return [self.aggregator.total(exchange)[1]]

    def apply(self, exchange: Exchange, totals: Totals) -> Metrics:
        uploads = [aggregator.uploads() for aggregator in self.aggregators]
        applied = [silo.apply(exchange, uploads, *totals) for silo in self.silos.values()]
        return _same([report.metrics for report in applied])

    def round(self, number: int, attempt: int = 1) -> Metrics:
        """The metrics of the round's update, and of the model before it."""
        exchange = self.exchange(number, attempt)
        metrics = self.apply(exchange, self.sum(exchange, self.train(exchange)))
        (self.model,) = {silo._model.digest for silo in self.silos.values()}
        return metrics

    def evaluate(self, number: int, attempt: int = 1) -> Metrics:
        """The metrics of the model before that round."""
        counts = self.counts(number, attempt)
        counted = self.sum(counts, self.train(counts))
        uploads = [aggregator.uploads() for aggregator in self.aggregators]
        return _same([s.read_metrics(counts, uploads, *counted) for s in self.silos.values()])

    def models(self) -> list[np.ndarray]:
        return [silo._model.vector for silo in self.silos.values()]


def _same(read: list[Metrics]) -> Metrics:
    assert len({repr(one) for one in read}) == 1
    return read[0]


def test_encrypted_plaintext_and_float_runs_agree(make_job: MakeJob, tmp_path: Path) -> None:
    """Same seeds: encrypted equals plaintext bit for bit, and float averaging within the step."""
    encrypted = Consortium(make_job(NO_NOISE))
    plain = Consortium(make_job(NO_NOISE, "encryption.scheme=none"), run="run-2")
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
        state = silo._own.random.bit_generator.state
        updates.append(silo._own.trainer.train(silo._model.vector).values.astype(np.float64))
        silo._own.random.bit_generator.state = state
    start = next(iter(consortium.silos.values()))._model.vector
    return start + np.mean(updates, axis=0)


def test_all_silos_hold_the_same_bits_and_the_key(make_job: MakeJob) -> None:
    consortium = Consortium(make_job())
    assert len({i.model_digest for i in consortium.inspections.values()}) == 1
    assert consortium.round(1).held_out is None
    metrics = consortium.evaluate(2)
    a, b, c = consortium.models()
    assert a.tobytes() == b.tobytes() == c.tobytes()
    assert metrics.held_out
    assert 0 < metrics.held_out.accuracy <= 1 and metrics.held_out.records > 50


def test_a_charge_is_on_disk_before_training(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train first and charge later, and this fails."""
    consortium = Consortium(make_job())
    silo = consortium.silos["alder"]
    path = Path(consortium.inspections["alder"].ledger)
    seen: list[str] = []
    train = silo._own.trainer.train

    def spy(*given: Any) -> Any:
        assert given[2] == 1, "the round, on which the learning rate may depend"
        seen.extend(entry.kind for entry in ledger_of(path.parent, "alder").entries())
        return train(*given)

    monkeypatch.setattr(silo._own.trainer, "train", spy)
    silo.train(consortium.exchange())
    assert seen == ["reserve", "charge"]


@pytest.mark.parametrize(
    ("step", "charged"),
    [("reserved", 0), ("committing", 0), ("charged", 1), ("trained", 1), ("sent", 1)],
)
def test_a_silo_killed_at_any_step_has_charged_what_it_may_have_sent(
    make_job: MakeJob, tmp_path: Path, step: str, charged: int
) -> None:
    """kill -9 between every two steps; the ledger verifies afterwards and goes on."""
    job_file = make_job()

    def die(*_: object) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    def run_until_killed() -> None:
        consortium = Consortium(job_file)
        silo: Any = consortium.silos["alder"]
        if step == "reserved":
            die()
        elif step == "committing":
            silo._admission.books.ledger.chain.append = lambda content: (
                Chain.append(silo._admission.books.ledger.chain, content),
                die(),
            )
        elif step == "charged":
            silo._own.trainer.train = die
        elif step == "trained":
            silo._vault.send = die
        silo.train(consortium.exchange())
        die()

    child = multiprocessing.get_context("fork").Process(target=run_until_killed)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    ledger = ledger_of(tmp_path / "state" / "alder", "alder")
    assert ledger.chain.verify(thorough=True).entries == 1 + charged
    assert [e.kind for e in ledger.entries()] == ["reserve"] + ["charge"] * charged
    ledger.close()
    if step == "committing":
        Consortium(job_file, run="run-2").round(1)


def test_nothing_is_trained_when_the_charge_fails(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    consortium = Consortium(make_job("training.rounds=1"))
    silo = consortium.silos["alder"]
    consortium.round(1)
    monkeypatch.setattr(silo._own.trainer, "train", lambda *_: pytest.fail("trained"))
    with pytest.raises(BudgetExceeded, match="round 2 would spend epsilon") as caught:
        silo.train(consortium.exchange(2))
    assert caught.value.silo == "alder"
    silo._admission.books.ledger.chain.db.execute("PRAGMA query_only = 1")  # type: ignore[union-attr]
    with pytest.raises(LedgerError, match="cannot be used"):
        silo.train(consortium.exchange(2, attempt=2))


def test_held_out_records_are_charged_before_they_are_counted(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Count first and charge later, or not at all, and this fails."""
    job_file = make_job("privacy.metrics_epsilon=1", "privacy.metrics_every=2")
    consortium = Consortium(job_file)
    silo = consortium.silos["alder"]
    path = Path(consortium.inspections["alder"].ledger).parent
    reports = [silo.train(consortium.exchange())]
    assert reports[0].metrics_epsilon is None
    consortium = Consortium(job_file, run="run-2")
    silo, charged = consortium.silos["alder"], []
    count = silo._own.counting.of_held_out

    def spy(model: Any) -> Any:
        entries = ledger_of(path, "alder").entries("run-2")
        charged.append((entries[-1].kind, entries[-1].round))
        return count(model)

    monkeypatch.setattr(silo._own.counting, "of_held_out", spy)
    found = [consortium.round(number).held_out for number in (1, 2, 3)]
    found.append(consortium.evaluate(4).held_out)
    assert [bool(one) for one in found] == [False, False, True, True]
    assert all(one.deviation > 0 for one in found if one)
    entries = ledger_of(path, "alder").entries("run-2")
    assert [(e.kind, e.round) for e in entries] == [
        ("reserve", 0),
        ("reserve held-out", 0),
        ("charge", 1),
        ("charge", 2),
        ("charge", 3),
        ("charge held-out", 3),
        ("charge held-out", 4),
    ]
    assert charged == [("charge held-out", 3), ("charge held-out", 4)]
    held_out = [e.epsilon for e in entries if e.kind == "charge held-out"]
    assert held_out[0] < held_out[1] == pytest.approx(1, abs=0.01)


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
        ({"run": "another"}, "run"),
        ({"roster": ("alder", "birch")}, "roster"),
        ({"purpose": "metrics"}, "purpose"),
        ({"values": 3}, "size"),
        ({"counts": 3}, "number of counts"),
        ({"model": "ab" * 32}, "model"),  # of a silo that was shown another total
    ],
)
def test_a_silo_takes_part_only_in_its_own_job(
    make_job: MakeJob, change: dict[str, object], wrong: str
) -> None:
    consortium = Consortium(make_job())
    with pytest.raises(FederationError, match=f"announced {wrong} is .*; this silo allows"):
        consortium.silos["alder"].train(replace(consortium.exchange(), **change))


def test_the_clip_norm_adapts_within_bounds_and_the_same_for_all(make_job: MakeJob) -> None:
    """Under shared noise, silos told different norms would protect each other's records less."""
    with pytest.raises(FederationError, match="announced clipping is .*; this silo allows"):
        alder = Consortium(make_job()).silos["alder"]
        alder.train(replace(_named_run(alder), clipping=2.0))
    consortium = Consortium(make_job(*SHARED, "privacy.clip_quantile=0.5"), run="run-2")
    metrics = consortium.round(1)
    counted = consortium.silos["alder"]._own.trainer._unclipped
    assert metrics.unclipped is not None and counted != 0
    exchange = consortium.exchange(2)
    assert exchange.range and exchange.clipping != 1.0
    for strange in ({"clipping": 1.0}, {"clipping": 2.0, "range": exchange.range * 2}):
        with pytest.raises(FederationError, match="announced clipping is .*; this silo allows"):
            consortium.silos["alder"].train(replace(exchange, **strange))
    with pytest.raises(FederationError, match="announced range is .*; this silo allows"):
        consortium.silos["alder"].train(replace(exchange, range=exchange.range * 2))
    consortium.silos["alder"].train(exchange)


def _named_run(silo: Silo) -> Exchange:
    return Exchange(
        run="run-1",
        round=1,
        attempt=1,
        purpose="update",
        roster=silo._job.roster,
        values=silo._model.vector.size,
        counts=count_values(silo._job),
        range=silo._own.range,
        parameters=silo._own.parameters,
        model=silo._model.digest,
    )


def test_totals_that_are_not_the_rosters_are_refused(make_job: MakeJob) -> None:
    consortium = Consortium(make_job())
    exchange = consortium.exchange()
    uploads = consortium.train(exchange)
    alder = consortium.silos["alder"]
    other = Aggregator()
    other.meet(consortium.aggregator._identities)
    other.open(replace(exchange, roster=("alder", "birch")))
    with pytest.raises(UploadRefused, match="roster"):
        other.add(uploads[0])
    total = consortium.sum(exchange, uploads)
    stale = replace(exchange, attempt=2)
    with pytest.raises(FederationError, match="took no part in"):
        alder.apply(stale, [], *total)
    before = alder._model.vector
    with pytest.raises(TotalRefused, match="not this part of this exchange"):
        alder.apply(exchange, [], [uploads[1]])
    np.testing.assert_array_equal(alder._model.vector, before)


def test_the_aggregator_refuses_and_the_sum_goes_on(make_job: MakeJob) -> None:
    consortium = Consortium(make_job())
    exchange = consortium.exchange()
    uploads = consortium.train(exchange)
    aggregator = consortium.aggregator
    with pytest.raises(FederationError, match="has no open sum"):
        aggregator.add(uploads[0])
    aggregator.open(exchange)
    aggregator.add(uploads[0])
    with pytest.raises(UploadRefused, match="already sent part 0 to this sum"):
        aggregator.add(uploads[0])
    with pytest.raises(UploadRefused, match="no complete valid upload arrived from birch, cedar"):
        aggregator.total(exchange)
    with pytest.raises(FederationError, match="another sum is open"):
        aggregator.total(replace(exchange, round=7), None)
    random = np.random.default_rng(0)
    whole = uploads[1].to_pybytes()
    for _ in range(200):
        bad = bytearray(whole)
        bad[int(random.integers(len(bad)))] ^= 1 << int(random.integers(8))
        try:
            aggregator.add(pa.py_buffer(bytes(bad[: random.integers(len(bad), 2 * len(bad))])))
        except UploadRefused:
            continue
        break  # a flip in the padding: the same upload
    else:
        aggregator.add(uploads[1])
    with pytest.raises(UploadRefused, match="signature"):
        aggregator.add(uploads[2].slice(0, uploads[2].size // 2))
    aggregator.add(uploads[2])
    total = [aggregator.total(exchange)[1]]
    proofs = aggregator.receipts()
    assert sorted(one.header.silo for one in proofs) == ["alder", "birch", "cedar"]
    for one in proofs:
        check_receipt(one, exchange, aggregator._identities)
    consortium.apply(exchange, total)
    a, b, c = consortium.models()
    assert a.tobytes() == b.tobytes() == c.tobytes()
    with pytest.raises(FederationError, match="was opened before"):
        aggregator.open(exchange)
    with pytest.raises(FederationError, match="already knows another identity of silo 'birch'"):
        aggregator.meet({"alder": aggregator._identities["alder"], "birch": b"another"})


def test_several_aggregators_share_the_sum_by_range(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blindsum.he.exchange.PART_CHUNKS", 1)
    model = "model={kind: mlp, hidden: [5500]}"  # 38,502 parameters: 4 chunks
    consortium = Consortium(make_job(NO_NOISE, model), aggregators=3)
    exchange = consortium.exchange()
    assert len(exchange.parts) == 4
    for aggregator in consortium.aggregators:
        aggregator.open(exchange)
    for silo in consortium.silos.values():
        silo.train(exchange)
    sent = [one for silo in consortium.silos.values() for one in silo.taken()]
    assert sorted(index for index, _ in sent) == [0] * 6 + [1] * 3 + [2] * 3
    with pytest.raises(UploadRefused, match="part 0 belongs to another aggregator"):
        consortium.aggregators[2].add(sent[0][1])
    for index, frame in sent:
        consortium.aggregators[index].add(frame)
    assert [len(aggregator._sum.adder._sums) for aggregator in consortium.aggregators] == [2, 1, 1]  # type: ignore[attr-defined]
    totals = [a.total(exchange)[1] for a in consortium.aggregators]
    consortium.apply(exchange, totals)
    plain = Consortium(make_job(NO_NOISE, model, "encryption.scheme=none"), run="run-2")
    plain.apply(plain.exchange(), plain.sum(plain.exchange(), plain.train(plain.exchange())))
    np.testing.assert_array_equal(consortium.models()[0], plain.models()[0])


def spoiled(consortium: Consortium, exchange: Exchange, uploads: list[pa.Buffer]) -> Totals:
    """The total of an aggregator that adds its sum to itself six times."""
    aggregator = consortium.aggregator
    aggregator.open(exchange)
    for upload in uploads:
        aggregator.add(upload)
    adder: Any = aggregator._sum.adder
    for ciphertext in adder._sums.values():
        for _ in range(6):
            adder._evaluator.add_inplace(ciphertext, ciphertext)
    return [aggregator.total(exchange)[1]]


def test_a_scaled_total_releases_nothing_and_ends_the_keys(make_job: MakeJob) -> None:
    consortium = Consortium(make_job())
    exchange = consortium.exchange()
    forged = spoiled(consortium, exchange, consortium.train(exchange))
    silo = consortium.silos["cedar"]
    before = silo._model.vector
    with pytest.raises(TotalRefused, match="nothing was released"):
        silo.apply(exchange, [], *forged)
    with pytest.raises(KeyRefused, match="a refused total ended the keys"):
        silo._vault._ready(exchange)  # type: ignore[union-attr]
    np.testing.assert_array_equal(silo._model.vector, before)


def test_after_a_refused_total_keys_are_new_and_every_silo_tries_again(make_job: MakeJob) -> None:
    """Also those that had applied a total that others refused: they go back first."""
    consortium = Consortium(make_job("server={optimizer: momentum}", "training.rounds=4"))
    consortium.round(1)
    once = consortium.models()[0]
    exchange = consortium.exchange(2)
    uploads = consortium.train(exchange)
    first = [silo._vault._keys.secret.content for silo in consortium.silos.values()]  # type: ignore[union-attr]
    total = consortium.sum(exchange, uploads)
    consortium.silos["alder"].apply(exchange, [], *total)
    with pytest.raises(TotalRefused):
        consortium.silos["birch"].apply(exchange, [], [])
    assert len({model.tobytes() for model in consortium.models()}) == 2
    consortium.exchange_keys()
    second = [silo._vault._keys.secret.content for silo in consortium.silos.values()]  # type: ignore[union-attr]
    assert len(set(first)) == len(set(second)) == 1 and first[0] != second[0]
    consortium.round(2, attempt=2)
    a, b, c = consortium.models()
    assert a.tobytes() == b.tobytes() == c.tobytes()
    whole = direct_weights(consortium.silos["alder"]._job.training.average, 2)
    averages = [silo._model.average.shared for silo in consortium.silos.values()]
    assert len({one.tobytes() for one in averages}) == 1
    np.testing.assert_allclose(averages[0], whole @ np.array([once, a]), rtol=1e-5, atol=1e-6)
    consortium.round(3)
    entries = ledger_of(Path(consortium.inspections["alder"].ledger).parent, "alder").entries()
    charges = [(e.round, e.attempt) for e in entries if e.kind == "charge"]
    assert charges == [(1, 1), (2, 1), (2, 2), (3, 1)]
    assert [e.kind for e in entries].count("reserve") == 1


def test_where_uploads_are_kept_the_drawn_silo_says_who_cheated(make_job: MakeJob) -> None:
    from tests.he.test_upload import shift

    large = "model={kind: mlp, hidden: [4100]}"  # fills its first chunk: no nought to give it away
    consortium = Consortium(make_job(NO_NOISE, large, "encryption.verify=keep"))
    consortium.round(1)
    exchange = consortium.exchange(2)
    uploads = consortium.train(exchange)
    keys = consortium.silos["alder"]._vault._keys  # type: ignore[union-attr]
    assert keys is not None
    drawn = keys.verifier(exchange.roster, exchange.digest)
    aggregator = consortium.aggregator
    aggregator.open(exchange)
    for upload in uploads:
        aggregator.add(upload)
    shift(aggregator._sum.adder)  # type: ignore[arg-type]
    forged = [aggregator.total(exchange)[1]]
    said = {}
    for name, silo in consortium.silos.items():
        with pytest.raises(TotalRefused, match="not the sum of the silos' uploads") as caught:
            silo.apply(exchange, [aggregator.uploads()], *forged)
        said[name] = "not the sum of the uploads that the silos signed" in str(caught.value)
    assert said == {name: name == drawn for name in said}


@pytest.mark.parametrize("noise", [(NO_NOISE,), SHARED, ()])
def test_an_update_that_is_no_number_is_never_sent(
    make_job: MakeJob, noise: tuple[str, ...]
) -> None:
    """Rounded to integers it would look like any other."""
    consortium = Consortium(make_job(*noise))
    silo = consortium.silos["alder"]
    trained = np.zeros(consortium.values, np.float32)
    trained[-1] = np.nan
    protection = Protection.SHARES_TO_ADD if noise == SHARED else Protection.NOTHING
    kept = Update(values=trained, unit=1.0, protected_by=protection)
    silo._own.trainer.train = lambda *_: kept  # type: ignore[method-assign]
    with pytest.raises(EncryptionError, match="NaN or infinite"):
        silo.train(consortium.exchange())
    assert silo.taken() == []


def test_coordinates_are_cut_at_the_rounds_clip_norm(make_job: MakeJob) -> None:
    """A record moves no coordinate further than that: the noise is in proportion to it."""
    silo = Consortium(make_job(*SHARED, "privacy.clip_norm=1")).silos["alder"]
    exchange, plan = Consortium(make_job(*SHARED), run="run-2").exchange(), silo._own.plan
    assert plan is not None
    huge = Update(
        values=np.full(exchange.values, 1e9, np.float32),
        unit=1.0,
        protected_by=Protection.SHARES_TO_ADD,
    )
    unit = silo._own.range / silo._own.parameters.limit
    for clipping in (1.0, 0.25):
        announced = replace(exchange, clipping=clipping)
        digits = silo._own.digitiser.digits(huge, announced, silo._own.range, Tally())
        sent = digits(slice(0, exchange.values)) * unit
        cut, share = greatest_sum(silo._job) * clipping, plan.share * clipping
        assert abs(float(np.median(sent)) - cut) < 10 * share / np.sqrt(len(sent)) + unit
        assert sent.max() <= cut + 10 * share


def test_an_attempt_that_only_one_silo_ended_is_taken_back_by_it(make_job: MakeJob) -> None:
    """What it accepted goes into its masks: they would not cancel with the others'."""
    consortium = Consortium(make_job())
    exchange = consortium.exchange(1)
    total = consortium.sum(exchange, consortium.train(exchange))
    ahead = consortium.silos["alder"]
    ahead.apply(exchange, [], *total)
    assert consortium.round(1, attempt=2)


def test_a_silo_takes_part_in_no_roster_without_itself(make_job: MakeJob) -> None:
    policy = Consortium(make_job("quorum=2")).silos["alder"]._own.policy
    assert policy.allows_roster(("alder", "birch")) and not policy.allows_roster(("birch", "cedar"))
    assert not policy.allows_roster(("birch", "alder")) and not policy.allows_roster(("alder",))


def test_values_that_the_range_cut_are_counted_over_all_silos(make_job: MakeJob) -> None:
    cut = Consortium(make_job(NO_NOISE, "encryption.range=0.000001")).round(1)
    assert cut.saturated > 0.9 and cut.large >= cut.saturated
    assert Consortium(make_job(NO_NOISE, "encryption.range=100"), run="run-2").round(1).large == 0


def test_under_shared_noise_a_round_is_one_step_on_all_records(make_job: MakeJob) -> None:
    """The model moves by the silos' clipped sums and their shares, to the rounding."""
    consortium = Consortium(make_job(*SHARED))
    sums, shares, n = [], [], len(consortium.silos)
    for silo in consortium.silos.values():
        states = silo._own.random.bit_generator.state
        sums.append(silo._own.trainer.train(silo._model.vector).values.astype(np.float64))
        shares.append(normals(consortium.values, silo._own.random) * silo._own.plan.share)  # type: ignore[union-attr]
        silo._own.random.bit_generator.state = states
    before = consortium.models()[0].astype(np.float64)
    metrics = consortium.round(1)
    job = consortium.silos["alder"]._job
    step = job.training.learning_rate / (n * job.training.expected_batch_size)
    expected = before - step * (np.sum(sums, axis=0) + np.sum(shares, axis=0))
    unit = consortium.silos["alder"]._own.range / consortium.silos["alder"]._own.parameters.limit
    for model in consortium.models():
        assert np.abs(model - expected).max() <= step * unit * n / 2 + 1e-6
    assert (metrics.saturated, metrics.large) == (0, 0)


def test_shares_make_the_planned_noise_and_a_stricter_silo_clips_harder(make_job: MakeJob) -> None:
    consortium = Consortium(make_job(*SHARED, "silos.birch.epsilon=1", "privacy.colluders=2"))
    plans = {n: i.plan for n, i in consortium.inspections.items()}
    alder, birch = plans["alder"], plans["birch"]
    assert alder and birch and alder.clip_norm == 1.0
    assert birch.clip_norm < 0.6 and alder.share == birch.share
    for one in plans.values():  # one honest silo alone makes all the noise that its plan counts on
        assert one and one.share == pytest.approx(one.noise_multiplier * one.clip_norm)
    half = Consortium(make_job(*SHARED), run="run-2").inspections["alder"].plan
    assert half and half.share * 2**0.5 == pytest.approx(half.noise_multiplier * half.clip_norm)


@pytest.mark.parametrize("clipping", [1.0, 4.0])
def test_a_silo_adds_its_share_to_what_it_sends(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, clipping: float
) -> None:
    """Of a model large enough to measure the deviation; without the share the test fails, and so
    it does where the noise stays as it was when the clip norm grows."""
    consortium = Consortium(
        make_job(*SHARED, "privacy.clip_quantile=0.5", "model={kind: mlp, hidden: [4100]}")
    )
    silo = consortium.silos["alder"]
    sent: list[np.ndarray] = []
    vault = silo._vault
    monkeypatch.setattr(
        vault, "send", lambda one, digits, counts: sent.append(digits(slice(0, one.values))) or 1
    )
    kept: list[Update] = []
    train = silo._own.trainer.train
    monkeypatch.setattr(
        silo._own.trainer, "train", lambda *given: kept.append(train(*given)) or kept[-1]
    )
    exchange = consortium.exchange()
    assert exchange.range
    silo._own.policy.course = replace(
        silo._own.policy.course, clipping=clipping, range=exchange.range * clipping
    )
    silo.train(replace(exchange, clipping=clipping, range=exchange.range * clipping))
    unit = silo._own.range * clipping / silo._own.parameters.limit
    (update,) = kept
    noise = sent[0] * unit - update.values
    plan = silo._own.plan
    assert plan and noise.std() == pytest.approx(plan.share * clipping, rel=0.03)
    assert abs(noise.mean()) < 5 * noise.std() / np.sqrt(noise.size)
    assert abs(np.corrcoef(noise, update.values)[0, 1]) < 5 / np.sqrt(noise.size)


def test_a_range_too_coarse_for_the_noise_is_refused(make_job: MakeJob) -> None:
    job_file = make_job(*SHARED, "encryption.bits=4")
    silo = Silo(
        SiloSpec(job=job_file.job, run="r", name="alder", folder=str(job_file.folder), threads=1)
    )
    with pytest.raises(PrivacyError, match="accounting needs at least 4"):
        silo.inspect()


def test_a_range_other_than_the_noises_is_refused(make_job: MakeJob) -> None:
    consortium = Consortium(make_job(*SHARED))
    exchange = consortium.exchange()
    with pytest.raises(FederationError, match="announced range is .*; this silo allows"):
        consortium.silos["alder"].train(replace(exchange, range=2 * (exchange.range or 0)))


def test_a_new_ceremony_gives_the_old_keys_up_and_keeps_the_roster(make_job: MakeJob) -> None:
    consortium = Consortium(make_job())
    cards = tuple(silo.introduce() for silo in consortium.silos.values())
    alder = consortium.silos["alder"]
    with pytest.raises(KeyRefused, match="holds no key"):
        alder._vault._ready(consortium.exchange())  # type: ignore[union-attr]
    with pytest.raises(KeyRefused, match="roster .* is not one that this silo's job allows"):
        alder.contribute(cards[:2])


def test_a_silo_takes_part_at_ranges_that_can_have_come_from_its_jobs(make_job: MakeJob) -> None:
    consortium = Consortium(make_job("encryption.range=0.5"))
    silo = consortium.silos["alder"]
    for strange in (0.3, 0.5 * 2**30, None, 0.25, 1.0):
        with pytest.raises(FederationError, match="announced range is .*; this silo allows"):
            silo.train(replace(consortium.exchange(), range=strange))
    fixed = Consortium(make_job("encryption.adapt_range=false"), run="run-2").silos["birch"]
    other = replace(consortium.exchange(), run="run-2", range=2.0)
    with pytest.raises(FederationError, match="announced range is .*; this silo allows"):
        fixed.train(other)
    silo._own.policy.course = replace(silo._own.policy.course, range=1.0)
    silo.train(replace(consortium.exchange(), range=1.0))


def test_a_pinned_identity_is_checked_and_may_not_change_within_a_run(
    make_job: MakeJob, tmp_path: Path
) -> None:
    with pytest.raises(KeyRefused, match="identity of silo 'birch' is"):
        Consortium(make_job(f"silos.birch.identity={'ab' * 32}"))
    consortium = Consortium(make_job())
    cards = [silo.introduce() for silo in consortium.silos.values()]
    identity = Identity(tmp_path / "elsewhere" / "identity.pem")
    unsigned = replace(cards[2], identity=identity.public)
    impostor = replace(unsigned, signature=identity.sign(unsigned.signed_content()))
    with pytest.raises(KeyRefused, match="silo 'cedar' presented a different identity"):
        consortium.silos["alder"].contribute((cards[0], cards[1], impostor))


def test_metrics_are_read_once_and_only_of_counts_that_were_sent(make_job: MakeJob) -> None:
    consortium = Consortium(make_job())
    consortium.round(1)
    alder = consortium.silos["alder"]
    counts = consortium.counts(2)
    with pytest.raises(FederationError, match="asked to read metrics, but no exchange of its own"):
        alder.read_metrics(counts, [])
    found = consortium.evaluate(2)
    with pytest.raises(FederationError, match="asked to read metrics, but no exchange of its own"):
        alder.read_metrics(counts, [])
    again = consortium.counts(2, attempt=2)
    consortium.sum(again, consortium.train(again))
    with pytest.raises(FederationError, match="metrics total that this silo took no part in"):
        alder.read_metrics(counts, [])
    assert consortium.round(2, attempt=3).held_out == found.held_out
    with pytest.raises(FederationError, match="the announced purpose is metrics"):
        alder.train(consortium.counts(3))
    with pytest.raises(FederationError, match="the announced purpose is update"):
        alder.evaluate(consortium.exchange(3))


def test_the_model_before_a_round_is_evaluated_with_its_update(make_job: MakeJob) -> None:
    """As it would be alone, and only where the job says so."""
    one = Consortium(make_job(NO_NOISE, "privacy.metrics_every=2", "training.rounds=4"))
    other = Consortium(make_job(NO_NOISE, "training.rounds=4"), run="run-2")
    found = [one.round(number).held_out for number in (1, 2, 3, 4)]
    assert [bool(one) for one in found] == [False, False, True, False]
    assert other.round(1).held_out is None
    alone = other.evaluate(2).held_out
    assert other.round(2, attempt=2).held_out == alone
    assert other.round(3).held_out == found[2]
    assert one.evaluate(5).held_out, "the last model is"
    with pytest.raises(FederationError, match="is not to be evaluated by these silos"):
        Consortium(make_job(NO_NOISE), run="run-3").evaluate(1)


def test_a_silo_that_was_told_another_job_has_no_part_in_the_ceremony(make_job: MakeJob) -> None:
    ours, theirs = make_job(), make_job("privacy.clip_norm=100")
    silos = [
        Silo(SiloSpec(job=f.job, run="run", name=n, folder=str(f.folder), threads=1))
        for f, n in ((ours, "alder"), (theirs, "birch"), (ours, "cedar"))
    ]
    for silo in silos:
        silo.inspect()
    cards = tuple(silo.introduce() for silo in silos)
    contributions = tuple(silo.contribute(cards) for silo in silos)
    with pytest.raises(KeyRefused, match="'birch' received other introductions or another job"):
        silos[0].agree(contributions)


def test_a_run_without_privacy_stands_in_the_ledger(make_job: MakeJob) -> None:
    Consortium(make_job(NO_NOISE))
    after = Consortium(make_job(), run="run-2").inspections["alder"].lifetime
    assert after.jobs == 1 and after.epsilon == float("inf")


def test_diverged_training_sends_nothing(make_job: MakeJob) -> None:
    consortium = Consortium(make_job(NO_NOISE))
    silo = consortium.silos["alder"]
    silo._models = (replace(silo._model, vector=np.full_like(silo._model.vector, np.nan)),)
    with pytest.raises(EncryptionError, match="NaN or infinite"):
        silo.train(consortium.exchange())


def test_training_before_the_ceremony_is_refused(make_job: MakeJob) -> None:
    job_file = make_job()
    silo = Silo(
        SiloSpec(job=job_file.job, run="r", name="alder", folder=str(job_file.folder), threads=1)
    )
    silo.inspect()
    exchange = Exchange(
        run="r",
        round=1,
        attempt=1,
        purpose="update",
        roster=job_file.job.roster,
        values=silo._model.vector.size,
        range=1.0,
        parameters=silo._own.parameters,
        model=silo._model.digest,
    )
    with pytest.raises(FederationError, match="asked to train, but it has no keys yet"):
        silo.train(exchange)


def test_an_inspection_is_noted_before_the_table_is_read(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read first and note later, and this fails."""
    job_file = make_job()
    silo = Silo(
        SiloSpec(job=job_file.job, run="r", name="alder", folder=str(job_file.folder), threads=1)
    )
    state, seen = tmp_path / "state" / "alder", []

    def reads(*_: Any) -> Any:
        log = AuditLog(state / "audit.sqlite", "alder", Identity(state / "identity.pem"))
        seen.extend(event.kind for event in log.events())
        raise DataError("enough")

    monkeypatch.setattr("blindsum.actors.prepared.open_member", reads)
    with pytest.raises(DataError, match="enough"):
        silo.inspect()
    assert seen == ["inspected"]


def test_a_silo_with_an_impossible_plan_names_itself(make_job: MakeJob) -> None:
    job_file = make_job("silos.birch.epsilon=0.00001")
    silo = Silo(
        SiloSpec(job=job_file.job, run="r", name="birch", folder=str(job_file.folder), threads=1)
    )
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


@pytest.mark.parametrize("overrides", [(), SHARED])
def test_a_seeded_test_run_repeats_and_is_nowhere_called_private(
    make_job: MakeJob, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    models = []
    for run in ("run-1", "run-2"):
        consortium = Consortium(make_job(*overrides, "privacy.test_seed=7"), run)
        exchange = consortium.exchange()
        reports = [silo.train(exchange) for silo in consortium.silos.values()]
        assert all(report.epsilon is None for report in reports)
        uploads = [frame for silo in consortium.silos.values() for _, frame in silo.taken()]
        consortium.apply(exchange, consortium.sum(exchange, uploads))
        models.append(consortium.models()[0])
        assert all(i.plan is None for i in consortium.inspections.values())
    np.testing.assert_array_equal(*models)
    noiseless = Consortium(make_job(NO_NOISE), "run-3")
    noiseless.round(1)
    assert not np.array_equal(models[0], noiseless.models()[0])
    kinds = [e.kind for e in ledger_of(tmp_path / "state" / "alder", "alder").entries()]
    assert kinds == ["unprotected", "attempt"] * 3


@pytest.mark.parametrize("privacy", [NO_NOISE, ""])
def test_a_bare_sum_without_a_share_of_the_noise_is_never_encoded(
    make_job: MakeJob, privacy: str
) -> None:
    """An update carries its own protection: no plan can turn a bare sum into a parameter change."""
    consortium = Consortium(make_job(*([privacy] if privacy else [])))
    silo, exchange = consortium.silos["alder"], consortium.exchange()
    bare = Update(
        values=np.ones(exchange.values, np.float32),
        unit=-0.1,
        protected_by=Protection.SHARES_TO_ADD,
    )
    with pytest.raises(ValueError, match="no share to add"):
        silo._own.digitiser.digits(bare, exchange, silo._own.range, Tally())


@pytest.mark.parametrize("method", sorted(ALLOWED))
def test_a_method_is_refused_in_every_state_that_does_not_allow_it(
    make_job: MakeJob, method: str
) -> None:
    """And the refusal changes nothing: neither the state nor the ledger."""
    consortium = Consortium(make_job())
    silo, exchange = consortium.silos["alder"], consortium.exchange()
    arguments = {
        "restore": (0,),
        "seal_state": (Handover("run", "birch", silo._books.identity).request,),
        "take_state": ([],),
        "contribute": ((),),
        "agree": ((),),
        "finish": ((), []),
        "train": (exchange,),
        "apply": (exchange, []),
        "evaluate": (consortium.counts(1),),
        "read_metrics": (consortium.counts(1), []),
    }.get(method, ())
    before = silo._books.head
    refused = set(SiloState) - ALLOWED[method]
    for state in refused:
        silo._state = state
        with pytest.raises(FederationError, match=f"asked to {method.replace('_', ' ')}, but"):
            getattr(silo, method)(*arguments)
        assert silo._state is state and silo._books.head == before
    assert refused


def test_an_attempt_after_its_total_was_applied_returns_to_the_state_before_it(
    make_job: MakeJob,
) -> None:
    """Another silo may have refused it: model, optimizer, range and clipping return."""
    adaptive = (*SHARED, "privacy.clip_quantile=0.5", "server={optimizer: momentum}")
    consortium = Consortium(make_job(*adaptive))
    consortium.round(1)
    silo = consortium.silos["alder"]
    stood = silo._model, silo._own.policy.course, silo._own.optimizer.state[0].copy()
    exchange = consortium.exchange(2)
    before = consortium.model
    consortium.round(2)
    assert silo._model.digest != before and silo._own.policy.course != stood[1]
    again = replace(exchange, attempt=2)
    silo.train(again)
    assert silo._model.digest == before and silo._model.round == 1
    assert silo._own.policy.course == stood[1]
    np.testing.assert_array_equal(silo._own.optimizer.state[0], stood[2])
