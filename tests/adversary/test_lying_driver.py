"""A driver that lies: about names, paths, jobs and rosters, to silos of the shipped code."""

import importlib
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from blindsum.actors.door import checked
from blindsum.actors.messages import SiloSpec
from blindsum.actors.silo import Silo
from blindsum.actors.workers import worker
from blindsum.he.exchange import Exchange
from blindsum.he.parameters import Parameters
from blindsum.pipelines.cli.app import app
from blindsum.platform.errors import (
    BlindsumError,
    BudgetExceeded,
    CannotTakePart,
    ConsentError,
    FederationError,
    JobError,
)
from blindsum.platform.evaluation.figures import count_values
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.lifetime_limit import Limit
from blindsum.platform.state.approval import Approvals
from blindsum.platform.state.ledger_entries import Dataset
from tests.actors.test_silo import NO_NOISE, SHARED, Consortium
from tests.actors.workers.local_processes import LocalProcesses, processes
from tests.adversary.owners import Machine
from tests.conftest import MakeJob

__all__ = ["processes"]  # a fixture

PATHS = ["..", ".", "", "/tmp/x", "a/b", "a/../../b", "x" * 200, "a\0b", "a\nb", "~root", "-rf"]


def unchecked(kind: type, **fields: Any) -> Any:
    """A message as pickle builds one: without its constructor."""
    message = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(message, name, value)
    return pickle.loads(pickle.dumps(message))


def spec(job: Job, run: str = "run-1", name: str = "alder", folder: str = "/") -> Any:
    return unchecked(SiloSpec, job=job, run=run, name=name, folder=folder, threads=1, resumed=False)


@pytest.mark.parametrize("run", PATHS)
def test_a_runs_name_is_never_a_path(make_job: MakeJob, tmp_path: Path, run: str) -> None:
    """Believed, it would lead `forget` to the ledger, or to any folder of the silo's user."""
    job_file = make_job()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FederationError, match="malformed SiloSpec"):
        Silo(spec(job_file.job, run, folder=str(job_file.folder)))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run", "../x"),
        ("round", 0),
        ("round", 1.5),
        ("round", "1"),
        ("attempt", -1),
        ("purpose", "other"),
        ("roster", ["alder", "birch"]),
        ("roster", ("alder", "../x")),
        ("values", -4),
        ("range", float("nan")),
        ("range", "1"),
        ("model", "zz"),
        ("clipping", 0.0),
        ("parameters", {}),
    ],
)
def test_every_field_of_an_announcement_is_checked(
    make_job: MakeJob, field: str, value: Any
) -> None:
    consortium = Consortium(make_job())
    exchange = consortium.exchange()
    fields = {name: getattr(exchange, name) for name in Exchange.__dataclass_fields__}
    with pytest.raises(FederationError, match="malformed Exchange"):
        consortium.silos["alder"].train(unchecked(Exchange, **(fields | {field: value})))
    with pytest.raises(FederationError, match="expected a message of kind Exchange"):
        consortium.silos["alder"].train({"round": 1})  # type: ignore[arg-type]


def test_an_announcement_brings_no_digest_of_its_own(make_job: MakeJob) -> None:
    """Masks follow from it: a second exchange with the digest of the first would repeat them."""
    consortium = Consortium(make_job())
    exchange = consortium.exchange()
    fields = {name: getattr(exchange, name) for name in Exchange.__dataclass_fields__}
    forged_parameters = unchecked(Parameters, **(vars(exchange.parameters) | {"digest": "0" * 64}))
    for forged in (
        unchecked(Exchange, **fields, digest=b"0" * 32),
        unchecked(Exchange, **(fields | {"parameters": forged_parameters})),
    ):
        assert forged == exchange and forged.digest != exchange.digest
        assert checked(forged, Exchange).digest == exchange.digest
    consortium.silos["alder"].train(unchecked(Exchange, **fields, digest=b"0" * 32))
    assert consortium.silos["alder"]._update is not None
    assert consortium.silos["alder"]._update.exchange.digest == exchange.digest


def test_what_a_run_left_is_removed_by_that_run_alone(make_job: MakeJob, tmp_path: Path) -> None:
    consortium = Consortium(make_job())
    consortium.round(1)
    state = tmp_path / "state" / "alder"
    books = {p.name for p in state.iterdir() if p.is_file()}
    assert books >= {"ledger.sqlite", "audit.sqlite", "identity.pem"}
    (state / "runs" / "run-1" / "mine.txt").write_text("the owner's")
    stranger = Silo(spec(make_job().job, "run-2", folder=str(make_job().folder)))
    stranger.inspect()
    for call in (stranger.forget, lambda: stranger.restore(1)):
        with pytest.raises(FederationError, match="never joined"):
            call()
    assert stranger.release(0) is None
    consortium.silos["alder"].forget()
    left = {str(p.relative_to(state)) for p in state.rglob("*") if p.is_file()}
    assert {p.split("/")[0] for p in left} >= {"ledger.sqlite", "audit.sqlite", "identity.pem"}
    assert {p for p in left if p.startswith("runs/run-1")} == {"runs/run-1/mine.txt"}


@pytest.fixture
def machine(tables: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, ["alder"], {"tumours": tables["alder"]}, monkeypatch)


def owned_job(make_job: MakeJob, *overrides: str) -> JobFile:
    return make_job("silos.alder.data=tumours", "silos.alder.state=null", *overrides)


def weights_of(job_file: JobFile, machine: Machine) -> str:
    """As the owner's machine builds them."""
    machine.write(approved_jobs_only=False)
    found = Silo(spec(job_file.job, folder=str(job_file.folder))).inspect().model_digest
    machine.write(approved_jobs_only=True)
    return found


def tried(job: Job, run: str = "run-1", name: str = "alder", folder: str = "/") -> str:
    """What the silo answers to an inspection."""
    try:
        Silo(spec(job, run, name, folder)).inspect()
    except CannotTakePart as error:
        assert "it cannot take part" in str(error)
        return "refused"
    except BlindsumError as error:
        return f"told: {error}"
    return "accepted"


def test_consent_and_limit_cannot_be_looked_up_elsewhere(
    make_job: MakeJob, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these was accepted when state, name and table were found where the driver said."""
    agreed = owned_job(make_job, "privacy.noise=local")
    machine.approve(agreed.job, weights_of(agreed, machine))
    ledger = machine.ledger()
    ledger.set_limit(Limit(6.0, 1e-4))
    ledger.close()
    assert tried(agreed.job, folder=str(agreed.folder)) == "accepted"
    evil = owned_job(make_job, NO_NOISE).job
    assert tried(evil) == "refused"
    moved = evil.model_dump()
    moved["silos"][0]["state"] = str(tmp_path / "elsewhere")
    assert tried(Job(**moved)) == "refused"
    renamed = evil.model_dump()
    renamed["silos"][0]["name"] = "alder-2"
    assert tried(Job(**renamed), name="alder-2") == "refused"
    detour = evil.model_dump()
    detour["silos"][0]["data"] = str(tmp_path / "x" / ".." / "alder.parquet")
    assert tried(Job(**detour)) == "refused"
    monkeypatch.setenv("BLINDSUM_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    assert tried(evil) == "refused"
    assert not (tmp_path / "elsewhere").exists()
    said = [e for e in audit_log(machine) if e.kind == "refused"]
    assert len(said) == 5 and "has not approved" in said[0].detail["said"]


def test_a_machine_acts_under_its_own_names_on_its_own_tables(
    make_job: MakeJob, machine: Machine, tmp_path: Path
) -> None:
    """Also where its owner lets any job in."""
    machine.write(approved_jobs_only=False)
    job = owned_job(make_job)
    assert tried(job.job, folder=str(job.folder)) == "accepted"
    for name, field, value in (
        ("alder-2", "name", "alder-2"),
        ("alder", "data", str(tmp_path / "alder.parquet")),
        ("alder", "data", "other"),
        ("alder", "state", str(tmp_path / "elsewhere")),
    ):
        content = job.job.model_dump()
        content["silos"][0][field] = value
        assert tried(Job(**content), name=name, folder=str(job.folder)) == "refused", field


def audit_log(machine: Machine) -> list[Any]:
    from blindsum.actors.vault import open_identity
    from blindsum.platform.state.audit_log import AuditLog

    log = AuditLog(machine.state / "audit.sqlite", "alder", open_identity(machine.state))
    return log.events()


class OwnedAlder(Consortium):
    """A consortium in which alder's machine alone has an owner's file."""

    def __init__(
        self, job_file: JobFile, machine: Machine, run: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found: dict[str, Any] = {}

        def places() -> tuple[Path, ...]:
            here = machine.path if found["silo"] == "alder" else machine.path / "none"
            return (here,)

        monkeypatch.setattr("blindsum.platform.job.owner.places", places)

        class Turn(self._posted()):  # type: ignore[misc]
            def inspect(self) -> Any:
                found["silo"] = self.name
                return super().inspect()

        super().__init__(job_file, run, silo=Turn)

    @staticmethod
    def _posted() -> type:
        from tests.actors.test_silo import PostedSilo

        return PostedSilo


def test_an_approval_is_used_up(
    make_job: MakeJob, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One approval once covered any number of runs, each with a new budget."""
    job_file = owned_job(make_job)
    weights = weights_of(job_file, machine)
    machine.approve(job_file.job, weights)
    OwnedAlder(job_file, machine, "run-1", monkeypatch).round(1)
    with pytest.raises(CannotTakePart):
        OwnedAlder(job_file, machine, "run-2", monkeypatch)
    machine.approve(job_file.job, weights, runs=2)
    for run in ("run-3", "run-4"):
        OwnedAlder(job_file, machine, run, monkeypatch)
    with pytest.raises(CannotTakePart):
        OwnedAlder(job_file, machine, "run-5", monkeypatch)
    machine.approve(job_file.job, "ab" * 32, runs=5)
    with pytest.raises(CannotTakePart):
        OwnedAlder(job_file, machine, "run-6", monkeypatch)
    said = [e.detail["said"] for e in audit_log(machine) if e.kind == "refused"]
    assert "have used it" in said[0] and "initial weights are not" in said[-1]


def test_an_approval_ends(make_job: MakeJob, machine: Machine) -> None:
    job = owned_job(make_job).job
    ledger = machine.ledger()
    clock = [1000.0]
    approvals = Approvals(ledger, lambda: clock[0])
    given = approvals.give(job, "ab" * 32, 5, 2000.0)
    assert approvals.of("run-1", job) == given
    approvals.use("run-1", job)
    clock[0] = 2000.0
    with pytest.raises(ConsentError, match="was for 5 runs until"):
        approvals.of("run-2", job)
    assert approvals.of("run-1", job) == given, "a run that began goes on"
    with pytest.raises(ConsentError, match="no run could use an approval"):
        approvals.give(job, "ab" * 32, 1, 1999.0)
    ledger.close()


def test_two_runs_cannot_share_the_last_approval(
    make_job: MakeJob, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both were inspected before either began; it is asked again in the ledger's transaction."""
    job_file = owned_job(make_job)
    machine.approve(job_file.job, weights_of(job_file, machine))
    first, second = (
        Silo(spec(job_file.job, run, folder=str(job_file.folder))) for run in ("run-1", "run-2")
    )
    for silo in (first, second):
        silo.inspect()
    first._books.join({})
    with pytest.raises(BlindsumError, match="have used it"):
        second._books.join({})
    assert len(machine.ledger().of_kind("reserve")) == 1


def test_nothing_is_told_apart_by_what_a_table_holds(
    make_job: MakeJob, machine: Machine, tables: dict[str, Path]
) -> None:
    """An empty fold once told whether a record was there: 12 of 12 members were recognised."""
    job_file = owned_job(make_job)
    machine.approve(job_file.job, weights_of(job_file, machine), runs=9)
    whole = pyarrow.parquet.read_table(tables["alder"])
    answers = set()
    for table in (whole.slice(0, 0), whole.slice(0, 1), whole.drop(["patient"])):
        pyarrow.parquet.write_table(table, tables["alder"])
        answers.add(tried(job_file.job, folder=str(job_file.folder)))
    assert answers == {"refused"}
    with pytest.raises(JobError, match="test_fraction"):
        make_job("data.folds.test_fraction=0.000001")
    kinds = [e.kind for e in audit_log(machine)]
    assert kinds[-6:] == ["inspected", "refused"] * 3


def test_shared_noise_needs_every_identity_pinned(make_job: MakeJob, machine: Machine) -> None:
    """A driver that plays the others would see the silo under its own small share alone."""
    job_file = owned_job(make_job, *SHARED)
    machine.write(approved_jobs_only=False)
    assert tried(job_file.job, folder=str(job_file.folder)) == "refused"
    machine.approve(job_file.job, "ab" * 32)
    assert tried(job_file.job, folder=str(job_file.folder)) == "refused"
    said = [e.detail["said"] for e in audit_log(machine) if e.kind == "refused"]
    assert "has not approved" in said[0] and "birch, cedar are not pinned" in said[1]
    pinned = owned_job(
        make_job, *SHARED, f"silos.birch.identity={'ab' * 32}", f"silos.cedar.identity={'cd' * 32}"
    )
    machine.approve(pinned.job, "ab" * 32)
    tried(pinned.job, folder=str(pinned.folder))
    last = [e.detail["said"] for e in audit_log(machine) if e.kind == "refused"][-1]
    assert "initial weights" in last


def test_spend_is_known_under_another_name_for_the_same_records(
    make_job: MakeJob, machine: Machine, tables: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    job_file = owned_job(make_job)
    machine.approve(job_file.job, weights_of(job_file, machine), runs=5)
    OwnedAlder(job_file, machine, "run-1", monkeypatch).round(1)
    machine.write(datasets={"renamed": {"path": str(tables["alder"])}}, approved_jobs_only=False)
    again = make_job("silos.alder.data=renamed", "silos.alder.state=null")
    monkeypatch.setattr("blindsum.platform.job.owner.places", lambda: (machine.path,))
    silo = Silo(spec(again.job, "run-2", folder=str(again.folder)))
    silo.inspect()
    books = silo._books
    assert books._dataset.name == "dataset:renamed" and "dataset:tumours" in books._dataset
    assert books.ledger.lifetime(books._dataset).jobs == 1


def test_once_a_run_goes_the_text_of_an_error_stays_at_home(
    make_job: MakeJob, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error's kind decides how the federation continues; its text names paths and limits."""
    job_file = owned_job(make_job, "training.rounds=1")
    machine.approve(job_file.job, weights_of(job_file, machine))
    consortium = OwnedAlder(job_file, machine, "run-1", monkeypatch)
    consortium.round(1)
    with pytest.raises(BudgetExceeded) as caught:
        consortium.silos["alder"].train(consortium.exchange(2))
    assert str(caught.value).startswith(
        "silo 'alder': it cannot continue. The silo's own audit log"
    )
    assert "round 2 would spend epsilon" in audit_log(machine)[-1].detail["said"]
    inspection = consortium.inspections["alder"]
    assert (inspection.owned, inspection.ledger, inspection.lifetime) == (True, "", None)


def test_the_audit_says_whether_planted_weights_are_refused(
    make_job: MakeJob, machine: Machine
) -> None:
    from blindsum.pipelines.audit.run import _planted_is_refused

    job = owned_job(make_job).job
    machine.approve(job, "ab" * 32)
    assert "not those that" in _planted_is_refused(machine.state, job, "alder")
    machine.write(approved_jobs_only=False)
    assert _planted_is_refused(machine.state, job, "alder") == ""


@pytest.mark.parametrize("change", ["mode", "folder", "link", "yaml", "same"])
def test_an_owners_file_that_others_could_have_written_lets_nobody_in(
    make_job: MakeJob, machine: Machine, tmp_path: Path, change: str
) -> None:
    job_file = owned_job(make_job)
    if change == "mode":
        machine.path.chmod(0o666)
    elif change == "folder":
        machine.path.parent.chmod(0o777)
    elif change == "link":
        os.rename(machine.path, tmp_path / "real.yaml")
        machine.path.symlink_to(tmp_path / "real.yaml")
    elif change == "yaml":
        machine.write(rule="open")
    else:
        tables = machine.content["datasets"]
        machine.write(datasets={"a": tables["tumours"], "b": tables["tumours"]})  # type: ignore[index]
    assert tried(job_file.job, folder=str(job_file.folder)) != "accepted"


def test_spend_follows_the_owners_name_for_a_table(
    make_job: MakeJob, machine: Machine, tables: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a limit, a table with one record more is no new table."""
    job_file = owned_job(make_job)
    machine.approve(job_file.job, weights_of(job_file, machine), runs=5)
    one = OwnedAlder(job_file, machine, "run-1", monkeypatch)
    for number in (1, 2, 3):
        one.round(number)
    ledger = machine.ledger()
    spent = ledger.lifetime_epsilon(Dataset("dataset:tumours"), 1e-4)
    assert spent > 0
    ledger.set_limit(Limit(spent * 1.05, 1e-4))
    ledger.close()
    whole = pyarrow.parquet.read_table(tables["alder"])
    pyarrow.parquet.write_table(whole.slice(1), tables["alder"])
    with pytest.raises(CannotTakePart):
        OwnedAlder(job_file, machine, "run-2", monkeypatch)
    said = [e.detail["said"] for e in audit_log(machine) if e.kind == "refused"]
    assert "lifetime limit" in said[-1]


def test_a_roster_only_shrinks_and_once_a_round(make_job: MakeJob) -> None:
    """Four rosters in one round once gave each silo's counts by subtraction."""
    alder = Consortium(make_job(NO_NOISE, "quorum=2")).silos["alder"]
    named = Exchange(
        run="run-1",
        round=1,
        attempt=1,
        purpose="update",
        roster=alder._job.roster,
        values=alder._model.vector.size,
        counts=count_values(alder._job),
        range=alder._own.range,
        parameters=alder._own.parameters,
        model=alder._model.digest,
    )
    alder.train(named)
    alder.train(replace(named, attempt=2, roster=("alder", "birch")))
    for roster in (("alder", "cedar"), alder._job.roster):
        with pytest.raises(FederationError, match="announced roster is .*; this silo allows"):
            alder.train(replace(named, attempt=3, roster=roster))
    four = alder._own.policy
    four.course = replace(four.course, roster=("alder", "birch", "cedar"))
    with pytest.raises(FederationError, match="shrink twice in round 1"):
        alder.train(replace(named, attempt=3, roster=("alder", "cedar")))


@pytest.mark.parametrize("noised", [False, True])
def test_exact_counts_are_of_all_silos_or_of_none(make_job: MakeJob, noised: bool) -> None:
    """The difference of two rosters' exact counts is one silo's."""
    held_out = ("privacy.metrics_epsilon=1",) if noised else ()
    consortium = Consortium(make_job("quorum=2", *held_out))
    consortium.round(1)
    assert consortium.round(2).held_out
    del consortium.silos["cedar"]
    consortium.exchange_keys_anew()
    assert (consortium.round(3).held_out is None) != noised


FACTORY = """from torch import nn

def build(features, outputs):
    return nn.Linear(features, outputs)
"""


LOSS = """from torch.nn import functional

def loss(outputs, labels):
    return functional.cross_entropy(outputs, labels, reduction="none")
"""


@pytest.mark.usefixtures("own_imports")
def test_a_factorys_code_is_the_owners_copy(
    make_job: MakeJob, machine: Machine, tmp_path: Path
) -> None:
    """A driver's module of the same name, first on the path, once ran in the silo."""
    module = tmp_path / "approved_net.py"
    module.write_text(FACTORY)
    job_file = owned_job(make_job, "model={kind: factory, factory: 'approved_net:build'}")
    job_file.path.write_text(job_file.text)
    done = CliRunner().invoke(app, ["approve", str(job_file.path), "--silo", "alder", "--yes"])
    assert done.exit_code == 0 and "approved_net.py, SHA-256" in done.stdout, done.exception
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "approved_net.py").write_text("raise SystemExit('the driver's code ran')\n")
    sys.path.insert(0, str(evil))
    sys.modules.pop("approved_net", None)
    module.write_text("raise SystemExit('the job folder's code ran')\n")
    assert tried(job_file.job, folder=str(tmp_path)) == "accepted"
    assert str(sys.modules["approved_net"].__file__).startswith(str(machine.state))
    (kept,) = (machine.state / "approved").rglob("approved_net.py")
    assert kept.stat().st_mode & 0o777 == 0o600
    kept.write_text(FACTORY + "# changed\n")
    assert tried(job_file.job, folder=str(tmp_path)) == "refused"
    last = [e.detail["said"] for e in audit_log(machine) if e.kind == "refused"][-1]
    assert "is not the code that this silo's owner approved" in last
    sys.modules.pop("approved_net", None)


DATASET = """import torch
from torch.utils.data import Dataset

class Rows(Dataset):
    def __init__(self, table):
        self.values = table["mean_radius"].to_pylist()
    def __len__(self):
        return len(self.values)
    def __getitem__(self, i):
        return torch.tensor([self.values[i] - 14])

def made(table):
    return Rows(table)
"""


@pytest.mark.usefixtures("own_imports")
def test_a_dataset_s_code_is_the_owners_copy(
    make_job: MakeJob, machine: Machine, tmp_path: Path
) -> None:
    """It gets the table as it is."""
    module = tmp_path / "approved_rows.py"
    module.write_text(DATASET)
    section = "kind: factory, function: 'approved_rows:made', columns: {mean_radius: number}"
    job_file = owned_job(make_job, f"data.features={{{section}, shape: [1]}}")
    job_file.path.write_text(job_file.text)

    done = CliRunner().invoke(app, ["approve", str(job_file.path), "--silo", "alder", "--yes"])
    assert done.exit_code == 0 and "approved_rows.py, SHA-256" in done.stdout, done.exception
    module.write_text("raise SystemExit('the job folder's code ran')\n")
    sys.modules.pop("approved_rows", None)
    assert tried(job_file.job, folder=str(tmp_path)) == "accepted"
    assert str(sys.modules["approved_rows"].__file__).startswith(str(machine.state))
    (kept,) = (machine.state / "approved").rglob("approved_rows.py")
    kept.write_text(DATASET + "# changed\n")
    assert tried(job_file.job, folder=str(tmp_path)) == "refused"
    sys.modules.pop("approved_rows", None)


@pytest.mark.usefixtures("own_imports")
def test_workers_import_the_owner_s_copy_too(
    make_job: MakeJob,
    machine: Machine,
    tmp_path: Path,
    processes: dict[str, LocalProcesses],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "approved_loss.py").write_text(LOSS)
    settings = ("training.loss=approved_loss:loss", "silos.alder.workers=2")
    job_file = owned_job(make_job, *settings)
    job_file.path.write_text(job_file.text)
    done = CliRunner().invoke(app, ["approve", str(job_file.path), "--silo", "alder", "--yes"])
    assert done.exit_code == 0 and "approved_loss.py, SHA-256" in done.stdout, done.exception
    imported = list[Any]()
    monkeypatch.setattr(worker, "import_approved", lambda *of: imported.append(of))
    assert tried(job_file.job, folder=str(tmp_path)) == "accepted"
    ledger = machine.ledger()
    (approval,) = Approvals(ledger).all()
    ledger.close()
    assert imported == [(machine.state, approval.id, approval.code)] * 2
    sys.modules.pop("approved_loss", None)


@pytest.mark.usefixtures("own_imports")
def test_a_module_beside_the_job_replaces_no_installed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put first on the path, it would."""
    from blindsum.platform.job.paths import import_from

    (tmp_path / "wave.py").write_text("planted = True\n")
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    import_from(str(tmp_path))
    assert not hasattr(importlib.import_module("wave"), "planted")


def test_a_silos_process_leaves_no_core_dump() -> None:
    asked = (
        "import resource; from blindsum.actors.shell import shell\n"
        "class One: pass\n"
        "shell(One, {})(); print(resource.getrlimit(resource.RLIMIT_CORE))"
    )
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "(0, 0)"
