"""A silo whose table several workers share: the same model, and nothing readable on the way."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blindsum.actors.prepared import PreparedSilo
from blindsum.actors.workers import worker as module
from blindsum.actors.workers.parcels import Parcel, packed, unpacked
from blindsum.actors.workers.sealing import Receiver, sealed_to
from blindsum.actors.workers.team import Team
from blindsum.actors.workers.worker import Worker
from blindsum.platform.data.shares import Share
from blindsum.platform.errors import (
    DataError,
    KeyRefused,
    ModelError,
    SiloLost,
    Unexpected,
)
from blindsum.platform.evaluation.figures import Metrics
from blindsum.platform.job.file import JobFile
from blindsum.platform.training.models import get_trainable, private_parameters
from tests.actors.test_silo import Consortium
from tests.actors.workers.local_processes import (
    LocalProcesses,
    assert_nothing_readable,
    processes,
)
from tests.conftest import SILOS, MakeJob, ledger_of

NO_NOISE = "privacy={noise: none}"
SEEDED = "privacy.test_seed=7"
SHARED = ("privacy.noise=shared", "training.local_steps=1")
TWO = "silos.alder.workers=2"
THREE = "silos.birch.workers=3"

__all__ = ["processes"]  # a fixture


@pytest.fixture
def with_tasks(make_job: MakeJob, tmp_path: Path) -> Any:
    """A shared task of each kind, and tasks of alder's own."""
    for silo in SILOS:
        table = pq.read_table(tmp_path / f"{silo}.parquet")
        benign = np.array(table["diagnosis"].to_pylist()) == "benign"
        gaps = np.random.default_rng(1).random(len(benign)) < 0.3
        labels = pa.array(np.where(gaps, np.nan, benign), from_pandas=True)
        level = table["mean_radius"].to_numpy() / 10
        for name, column in (("hit", labels), ("level", level), ("secret-one", labels)):
            table = table.append_column(name, pa.array(column))
        pq.write_table(table, tmp_path / f"{silo}.parquet")
    (tmp_path / "alder.yaml").write_text("secret-one: {}\n")

    def make(*more: str) -> JobFile:
        return make_job(
            "data.target=null",
            "data.tasks={hit: {}, level: {kind: regression, center: 1.4}}",
            "model={kind: mlp, hidden: [8]}",
            "silos.alder.private_tasks=alder.yaml",
            *more,
        )

    return make


def rounds(job_file: JobFile, run: str) -> tuple[Consortium, list[Metrics]]:
    consortium = Consortium(job_file, run)
    found = [consortium.round(number) for number in (1, 2, 3)]
    return consortium, [*found[1:], consortium.evaluate(4)]


def close(one: Consortium, other: Consortium, rounds: int = 3) -> None:
    """One integer of a silo may differ in a round, where a value lies at the edge of two."""
    exchange = one.exchange()
    step = (exchange.range or one.silos["alder"]._own.range) / exchange.parameters.limit
    for a, b in zip(one.models(), other.models(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=rounds * step)


@pytest.mark.parametrize(
    "settings",
    [(NO_NOISE,), (NO_NOISE, "training.optimizer=momentum"), (SEEDED,), (SEEDED, *SHARED)],
)
def test_the_model_is_that_of_one_process(
    settings: Sequence[str], make_job: MakeJob, processes: dict[str, LocalProcesses]
) -> None:
    alone, figures = rounds(make_job(*settings), "run-1")
    assert not processes
    together, same = rounds(make_job(*settings, TWO, THREE), "run-2")
    assert {name: len(one.workers) for name, one in processes.items()} == {"alder": 2, "birch": 3}
    close(alone, together)
    for one, other in zip(figures, same, strict=True):
        assert one.held_out and other.held_out
        assert one.held_out.records == other.held_out.records
        assert one.held_out.accuracy == pytest.approx(other.held_out.accuracy, abs=0.01)
        assert one.unclipped == pytest.approx(other.unclipped, abs=1e-6)
    for name in SILOS:
        data = [one.silos[name]._own.data for one in (alone, together)]
        assert data[0].fingerprint == data[1].fingerprint and data[0].earlier == data[1].earlier


@pytest.mark.parametrize("settings", [(NO_NOISE,), (SEEDED, *SHARED)])
def test_tasks_and_private_heads_are_those_of_one_process(
    settings: Sequence[str], with_tasks: Any, processes: dict[str, LocalProcesses], tmp_path: Path
) -> None:
    kept, heads, made = [], [], []
    for run, more in (("run-1", ()), ("run-2", (TWO, THREE))):
        consortium, metrics = rounds(with_tasks(*settings, *more), run)
        own = consortium.silos["alder"]._own
        heads.append(np.concatenate([p.detach().numpy().ravel() for p in _private(own)]))
        lines = (tmp_path / "state" / "alder" / "runs" / run / "tasks.csv").read_text().split()
        kept.append([line.split(",")[1:4] for line in lines])
        made.append((consortium, metrics))
    close(made[0][0], made[1][0])
    np.testing.assert_allclose(heads[0], heads[1], rtol=1e-3, atol=1e-3)
    assert any(heads[0]), "the head was trained"
    names = [line[0] for line in kept[0]]
    assert names == [line[0] for line in kept[1]] and "secret-one" in names
    for one, other in zip(made[0][1], made[1][1], strict=True):
        assert one.held_out and other.held_out
        assert one.held_out.records == other.held_out.records
        assert one.held_out.loss == pytest.approx(other.held_out.loss, rel=1e-2)
        assert one.held_out.score.value == pytest.approx(other.held_out.score.value, abs=0.02)


def _private(own: PreparedSilo) -> list[Any]:
    return private_parameters(own.model)


def test_nothing_that_passes_can_be_read(
    with_tasks: Any, processes: dict[str, LocalProcesses], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of private tasks, paths, values of the table, parameters, sums and digests."""
    shares = list[Share]()
    keep = Share.without_start
    monkeypatch.setattr(Share, "without_start", lambda self: shares.append(self) or keep(self))
    consortium, _ = rounds(with_tasks(TWO), "run-1")
    own, share = consortium.silos["alder"]._own, shares[0]
    private = [
        b"secret-one",
        b"alder.parquet",
        b'"do"',
        b'"refused"',
        b"mean_radius",
        share.sample.table["mean_radius"].chunk(0)[:4].to_numpy().tobytes(),
        get_trainable(own.model)[:4].tobytes(),
        next(one for one in share.digests if len(one))[0].tobytes(),
    ]
    assert_nothing_readable(processes["alder"].passed, private)


def test_a_private_run_s_samples_are_the_workers_own(
    make_job: MakeJob, processes: dict[str, LocalProcesses], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[Parcel]()
    answer = Worker._clipped_sum

    def spy(self: Worker, question: Parcel) -> Parcel:
        asked.append(question)
        return answer(self, question)

    consortium = Consortium(make_job(TWO))
    for worker in processes["alder"].workers:
        worker._methods["clipped sum"] = lambda question, worker=worker: spy(worker, question)
    consortium.round(1)
    assert asked and all(set(one.values) == {"do", "clip norm"} for one in asked)
    generators = [w._work.random.bit_generator for w in processes["alder"].workers if w._work]
    assert [type(one).__name__ for one in generators] == ["AESCounter"] * 2
    own = consortium.silos["alder"]._own
    drawn = [one.random_raw() for one in (*generators, own.random.bit_generator)]
    assert len(set(drawn)) == 3


def test_every_record_is_in_the_sum(
    make_job: MakeJob, processes: dict[str, LocalProcesses]
) -> None:
    job_file = make_job("training.sampling_rate=1.0", "privacy.clip_norm=0.3")
    alone = Consortium(job_file).silos["alder"]._own
    found = alone.trainer.clipped_sum(get_trainable(alone.model), 0.3)
    team = Consortium(make_job(*_of(job_file), TWO), "run-2").silos["alder"]._own
    sums = _team(team).clipped_sum(get_trainable(team.model), 0.3, team.random)
    np.testing.assert_allclose(sums[0], found[0], rtol=1e-5, atol=1e-5)
    assert sums[1] == found[1] and sums[0].dtype == np.float32


def _of(job_file: JobFile) -> tuple[str, ...]:
    training, privacy = job_file.job.training, job_file.job.privacy
    assert privacy.noise == "local"
    return (
        f"training.sampling_rate={training.sampling_rate}",
        f"privacy.clip_norm={privacy.clip_norm}",
    )


def _team(own: PreparedSilo) -> Team:
    elsewhere = own.trainer._elsewhere
    assert isinstance(elsewhere, Team)
    return elsewhere


@pytest.mark.parametrize("method", ["train", "evaluate"])
def test_without_a_worker_there_is_no_sum(
    method: str,
    make_job: MakeJob,
    processes: dict[str, LocalProcesses],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    consortium = Consortium(make_job(TWO, "privacy.metrics_epsilon=1"))
    silo = consortium.silos["alder"]
    consortium.round(1)

    def die(*_: Any) -> list[bytes]:
        raise SiloLost("its worker 2 of 2 died")

    monkeypatch.setattr(processes["alder"], "ask", die)
    with pytest.raises(SiloLost, match="silo 'alder': its worker 2 of 2 died"):
        if method == "train":
            silo.train(consortium.exchange(2))
        else:
            silo.evaluate(consortium.counts(2))
    assert not silo.taken(), "nothing was sent"
    entries = ledger_of(tmp_path / "state" / "alder", "alder").entries()
    charged = [one.kind for one in entries if one.round == 2]
    of_records = ["charge"] if method == "train" else []
    assert charged == [*of_records, "charge held-out"], "the attempt was charged"


def test_a_worker_s_errors_are_sealed_and_end_the_step(
    make_job: MakeJob, processes: dict[str, LocalProcesses]
) -> None:
    consortium = Consortium(make_job(TWO))
    worker = processes["alder"].workers[1]

    def fail(question: Parcel) -> Parcel:
        raise error

    worker._methods["clipped sum"] = fail
    team = _team(consortium.silos["alder"]._own)
    at = get_trainable(consortium.silos["alder"]._own.model)
    error: Exception = ValueError("could not convert PatientNames")
    with pytest.raises(Unexpected) as caught:
        team.clipped_sum(at, 1.0, consortium.silos["alder"]._own.random)
    assert "PatientNames" not in str(caught.value)
    error = DataError("the disk of PatientNames is full")
    with pytest.raises(DataError, match="silo 'alder': the disk"):
        team.clipped_sum(at, 1.0, consortium.silos["alder"]._own.random)
    assert_nothing_readable(processes["alder"].passed, [b"PatientNames", b"disk"])


@pytest.mark.parametrize(
    "factory", ["nowhere:make", "torch.nn:BatchNorm1d", "torch.nn:Bilinear", "torch.nn:Fold"]
)
def test_a_model_at_fault_is_told_as_by_one_process(
    factory: str, make_job: MakeJob, processes: dict[str, LocalProcesses]
) -> None:
    said = []
    for more, run in _ONE_AND_TWO:
        with pytest.raises(ModelError) as caught:
            Consortium(make_job(f"model={{kind: factory, factory: '{factory}'}}", *more), run)
        said.append((type(caught.value), str(caught.value)))
    assert said[0] == said[1]


def test_a_worker_that_cannot_build_the_model_is_known_before_anything_is_spent(
    make_job: MakeJob, processes: dict[str, LocalProcesses], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ModelError("a module is missing on this node")

    monkeypatch.setattr(module, "model_of", fail)
    with pytest.raises(ModelError, match="silo 'alder': a module is missing on this node"):
        Consortium(make_job(TWO))


def test_odd_data_and_faults_are_told_as_by_one_process(
    make_job: MakeJob, tmp_path: Path, processes: dict[str, LocalProcesses]
) -> None:
    path = tmp_path / "alder.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table.slice(0, 70)] * 2), path)
    said = [Consortium(make_job(*m), r).inspections["alder"].warnings for m, r in _ONE_AND_TWO]
    assert said[0] == said[1] and "repeat another one" in str(said[0])
    names = ["benign"] * 100 + ["a name"] + ["malignant"] * 49
    at = table.column_names.index("diagnosis")
    pq.write_table(table.set_column(at, "diagnosis", pa.array(names)), path)
    errors = []
    for more, run in _ONE_AND_TWO:
        with pytest.raises(DataError) as caught:
            Consortium(make_job(*more), run)
        errors.append(str(caught.value).replace(run, "RUN"))
    assert errors[0] == errors[1] and "a name" not in errors[0]
    lists = [tmp_path / "state/alder/runs" / run / "rejected_rows.csv" for _, run in _ONE_AND_TWO]
    assert lists[0].read_text() == lists[1].read_text() and "101" in lists[0].read_text()


_ONE_AND_TWO: list[tuple[tuple[str, ...], str]] = [((), "run-1"), ((TWO,), "run-2")]


# -- sealing -------------------------------------------------------------------------------


def test_parcels_come_back_whole() -> None:
    arrays = {
        "none": np.zeros((3, 0)),
        "void": np.frombuffer(bytes(range(32)), "V16"),
        "some": np.arange(6, dtype=np.int32).reshape(2, 3).T,
        "flags": np.array([True, False]),
    }
    found = unpacked(packed(Parcel({"most": 2**64 - 1, "a": [None, "\udcff"]}, arrays)))
    assert found.values == {"most": 2**64 - 1, "a": [None, "\udcff"]}
    for name, one in arrays.items():
        assert found.arrays[name].dtype == one.dtype
        np.testing.assert_array_equal(found.arrays[name], one)
    assert "private" in repr(found)


def test_only_the_next_parcel_is_opened() -> None:
    receiver = Receiver()
    silo, keys = sealed_to(receiver.public)
    worker = receiver.take(keys)
    first, second = (silo.close(Parcel({"n": i})) for i in (1, 2))
    with pytest.raises(KeyRefused):
        worker.open(second)
    receiver_again = Receiver()
    with pytest.raises(KeyRefused, match="were not sealed to this worker"):
        receiver_again.take(keys)
    silo, keys = sealed_to(receiver.public)
    worker = receiver.take(keys)
    first = silo.close(Parcel({"n": 1}))
    assert worker.open(first).values == {"n": 1}
    with pytest.raises(KeyRefused):
        worker.open(first)
    with pytest.raises(KeyRefused):
        silo.open(silo.close(Parcel()))  # of the same direction
    with pytest.raises(KeyRefused, match="not valid"):
        sealed_to(b"short")


def test_a_worker_belongs_to_one_silo() -> None:
    worker = Worker()
    with pytest.raises(KeyRefused, match="belongs to no silo"):
        worker.ask(b"question")
    public, cores = worker.introduce()
    silo, keys = sealed_to(public)
    worker.begin(keys)
    assert cores >= 1
    with pytest.raises(KeyRefused, match="belongs to a silo already"):
        worker.begin(sealed_to(public)[1])
    answer = silo.open(worker.ask(silo.close(Parcel({"do": "clipped sum"}))))
    assert "has read no records" in answer.values["failed"]
