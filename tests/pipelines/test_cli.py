"""The command as its users meet it: in a process of its own, with a Ray of its own."""

import hashlib
import io
import json
import os
import select
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import mlflow
import psutil
import pytest
import yaml
from typer.testing import CliRunner

from blindsum.actors.thread_cluster import ThreadCluster
from blindsum.he.identity import Identity
from blindsum.pipelines.cli.app import app, main
from blindsum.pipelines.run import output
from blindsum.pipelines.run.output import Quiet
from blindsum.pipelines.run.run_log import read_log
from blindsum.pipelines.run.train import train
from blindsum.pipelines.show import console as show
from blindsum.platform.errors import BlindsumError, JobError, LedgerError
from blindsum.platform.job.file import JobFile, load_job
from blindsum.platform.state.approval import Approvals, job_digest
from tests.actors.test_silo import Consortium
from tests.conftest import MakeJob, ledger_of
from tests.pipelines.test_train import blocking_job

ROOT = Path(__file__).resolve().parents[2]


def blindsum(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "blindsum", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=180,
        cwd=cwd or Path.cwd(),
    )


def start(*arguments: str | Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "blindsum", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=env,
    )


def survivors(before: Sequence[psutil.Process]) -> list[str]:
    """Those of a finished command's processes that still run."""
    _, alive = psutil.wait_procs(before, timeout=30)
    return [" ".join(p.cmdline()[:3]) for p in alive]


@pytest.fixture
def short_home(tmp_path: Path) -> Iterator[Path]:
    """A home folder whose path is short enough for Ray's files, with the plans of all tests."""
    with tempfile.TemporaryDirectory(prefix="b", dir="/tmp") as home:
        (Path(home) / "plans").symlink_to(tmp_path / "home" / "plans")
        yield Path(home)


def test_the_example_runs_and_reaches_its_accuracy(tmp_path: Path, short_home: Path) -> None:
    """The main job with its own settings: at least 0.70 at epsilon 3."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    plain = {k: v for k, v in os.environ.items() if k != "RAY_worker_niceness"}  # conftest's
    process = start(
        "run",
        ROOT / "examples/solubility/job.yaml",
        "--json",
        "--set",
        f"tracking.uri={uri}",
        "--set",
        f"runs={tmp_path}/runs",
        env=plain | {"BLINDSUM_HOME": str(short_home), "TMPDIR": str(tmp_path)},
    )
    assert process.stdout and process.stderr
    line = process.stdout.readline()
    assert line, process.communicate(timeout=60)
    planned = json.loads(line)
    assert planned["event"] == "planned" and planned["rounds"] == 150
    family = psutil.Process(process.pid).children(recursive=True)
    _all_listen_on_loopback(family)
    _rays_files_are_in(short_home, family)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["event"] for line in lines] == ["round"] * 150 + ["end"]
    end = lines[-1]
    assert end["status"] == "FINISHED" and end["metrics"]["accuracy"] >= 0.70
    assert all(0 < epsilon <= 3 for epsilon in end["epsilon"].values())
    assert Path(end["model"]).exists()
    assert not survivors(family)
    assert not [*short_home.glob("ray-*")], "Ray's files are removed with it"


def _rays_files_are_in(home: Path, family: Sequence[psutil.Process]) -> None:
    """These include silos' logs and spilled objects; Ray's default folder is open to every user."""
    (folder,) = home.glob(f"ray-{os.getuid()}-*")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    silos = [*filter(_is_silo, family)]
    assert len(silos) == 3
    for silo in silos:
        assert silo.nice() == os.nice(0), "silos would starve on a busy machine"
        assert any(f.path.startswith(f"{folder}/") for f in silo.open_files()), "its logs"


def _all_listen_on_loopback(family: Sequence[psutil.Process]) -> None:
    addresses = []
    for process in family:
        try:
            addresses += [
                c.laddr.ip
                for c in process.net_connections("inet")
                if c.status == psutil.CONN_LISTEN
            ]
        except psutil.NoSuchProcess:
            continue
    assert len(addresses) > 5
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}


def announced(fifo: Path, process: subprocess.Popen[str]) -> bool:
    """Wait until a silo writes its process's number into the FIFO, or the run has ended without."""
    with open(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)) as told:
        while process.poll() is None:
            if select.select([told], [], [], 1.0)[0] and (said := told.read()):
                return said.split()[0].isdigit()
    return False


@pytest.mark.filterwarnings("ignore")  # MLflow's
def test_an_interrupted_run_leaves_no_process_nothing_half_written_and_can_go_on(
    make_job: MakeJob, tmp_path: Path
) -> None:
    """Ctrl-C and SIGKILL, to two runs at a time; the second is resumed. (SIGTERM:
    tests/infra/test_cluster.py.)"""
    told = make_job("privacy.noise_multiplier=3")
    runs = []
    for how, silos in ((signal.SIGINT, 2), (signal.SIGKILL, 3)):
        folder = tmp_path / how.name.lower()
        folder.mkdir()
        job_file, fifo = blocking_job(_moved(told, folder, silos), folder)
        runs.append((how, job_file, fifo, start("run", job_file.path)))
    for how, job_file, fifo, process in runs:
        heard = announced(fifo, process)  # returns once a silo is in its second round
        assert heard, process.communicate(timeout=60)
        family = psutil.Process(process.pid).children(recursive=True)
        in_training = [*filter(_is_silo, family)]
        # A terminal's Ctrl-C goes to the whole group, the others to the command alone.
        (os.killpg if how == signal.SIGINT else os.kill)(process.pid, how)
        _, err = process.communicate(timeout=120)
        if how == signal.SIGKILL:
            _goes_on(job_file, in_training)
            continue
        _ended_well(process, err, family)
        assert "To resume: blindsum resume" in err
        _check_what_is_left(job_file, job_file.job.roster, rounds=1)


def _ended_well(process: subprocess.Popen[str], err: str, family: Sequence[psutil.Process]) -> None:
    assert process.returncode == 130, err
    assert "interrupted" in err and "Traceback" not in err
    assert not survivors(family)


def _is_silo(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[0].split(".")[0] == "ray::Silo"  # and the method that it runs
    except (psutil.NoSuchProcess, IndexError):
        return False


def _goes_on(job_file: JobFile, silos: Sequence[psutil.Process]) -> None:
    """The driver was killed: its silos end too, and the run resumes from its first round, without a
    silo whose state is gone."""
    assert len(silos) == 3 and not survivors(silos)
    (folder,) = (job_file.folder / "runs").iterdir()
    (kept,) = (job_file.folder / "state" / "cedar" / "runs" / folder.name).iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])
    (job_file.folder / "fifo").unlink()  # nothing stops its training any more
    begun = read_log(folder)
    run = train(begun.job_file, None, Quiet(), kept=begun, cluster=ThreadCluster())
    assert (
        run.status == "FINISHED"
        and run.lost == {"cedar": 2}
        and run.link.run_id == begun.mlflow_run
    )
    # A silo may have been stopped before it charged, never after it sent.
    rounds = [(r.round, r.attempt) for r in run.reports]
    assert rounds in ([(1, 1), (2, 2), (3, 1)], [(1, 1), (2, 1), (3, 1)])
    client = mlflow.MlflowClient(f"sqlite:///{job_file.folder}/mlflow.db")
    history = client.get_metric_history(run.link.run_id, "held_out/accuracy")
    # Exact figures stop once a silo is left out: their difference would be cedar's own.
    assert not history and "no round was evaluated" in run.headline()
    assert "Held-out figures stop until all are back" in output._lost_line(run, ["cedar"], 2)
    for name in ("alder", "birch"):
        entries = ledger_of(job_file.folder / "state" / name, name).entries()
        charges = [(e.round, e.attempt) for e in entries if e.kind == "charge"]
        assert charges[0] == (1, 1) and set(rounds) <= set(charges)
        assert len(set(charges)) == len(charges)


def _moved(told: JobFile, folder: Path, silos: int) -> JobFile:
    """The same job from another folder, with ledgers of its own."""
    content = yaml.safe_load(told.text)
    content["silos"] = content["silos"][:silos]
    content["quorum"] = 2
    for silo in content["silos"]:
        silo["data"] = str(told.folder / silo["data"])
        silo["state"] = str(folder / "state" / silo["name"])
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_job(path)


def _check_what_is_left(job_file: JobFile, silos: Sequence[str], rounds: int) -> str:
    client = mlflow.MlflowClient(f"sqlite:///{job_file.folder}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("trial").experiment_id])
    assert run.info.status == "KILLED" and run.data.tags["blindsum.rounds"] == str(rounds)
    for name in silos:
        kinds = [e.kind for e in ledger_of(job_file.folder / "state" / name, name).entries()]
        assert kinds[0] == "reserve" and set(kinds[1:]) == {"charge"}
        assert rounds + 1 <= len(kinds) <= rounds + 3
    (model,) = (job_file.folder / "runs").glob("*/model.blindsum")
    assert model.stat().st_size > 0
    return str(run.info.run_id)


def here(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in this process, which has imported everything already."""
    before = sys.argv, Path.cwd()
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        sys.argv = ["blindsum", *map(str, arguments)]
        os.chdir(cwd or before[1])
        try:
            main()
            status: int | str | None = 0
        except SystemExit as ended:
            status = ended.code
        finally:
            sys.argv = before[0]
            os.chdir(before[1])
            show._kept = None
    return subprocess.CompletedProcess([], int(status or 0), out.getvalue(), err.getvalue())


def test_check_says_what_would_be_spent_and_sent_and_trains_nothing(
    make_job: MakeJob, tmp_path: Path
) -> None:
    path = make_job().path
    done = here("check", path)
    assert done.returncode == 0
    for said in (
        "alder",
        "3.000 of 3",
        "0.0001",
        "3 rounds, each of 2 steps",
        "nothing",
        "linear, 10 parameters",
        " up and ",
        "clipping: gradients are clipped by book-keeping",
        "2^-80",
        "not differentially private",
        "This job would run.",
    ):
        assert said in done.stdout
    figures = json.loads(here("check", path, "--json").stdout)
    assert figures["silos"]["alder"]["plan"]["epsilon_planned"] <= 3
    assert 3 * 3_373 < figures["up_bytes_per_round"] < 3 * 5_000
    evaluation = figures["up_bytes"] - 3 * figures["up_bytes_per_round"]  # of the last model
    assert 3 * 3_373 < evaluation < 3 * 5_000
    assert "owners' consent and lifetime limits are not enforced at alder, birch" in done.stderr
    assert not (tmp_path / "mlflow.db").exists()
    assert ledger_of(tmp_path / "state" / "alder", "alder").entries() == []


def test_check_names_the_layer_that_makes_clipping_slow(make_job: MakeJob, tmp_path: Path) -> None:
    path = make_job().path
    (tmp_path / "slow_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, features, outputs):\n"
        "        super().__init__()\n"
        "        self.both = nn.Bilinear(features, features, outputs)\n"
        "    def forward(self, x):\n"
        "        return self.both(x, x)\n"
    )
    done = here("check", path, "--set", "model={kind: factory, factory: 'slow_net:Net'}")
    assert done.returncode == 0, done.stderr
    assert (
        "clipping: book-keeping does not cover layer 'both' (Bilinear), whose weight is used by "
        "torch's bilinear: gradients are clipped by torch.func, which is slower"
    ) in done.stdout
    sets = ["privacy={noise: none}", "encryption.range=1"]
    plain = here("check", path, *(word for one in sets for word in ("--set", one)))
    assert plain.returncode == 0 and "clipping:" not in plain.stdout


def test_check_names_every_silo_at_fault(make_job: MakeJob, tables: dict[str, Path]) -> None:
    path = make_job().path
    tables["birch"].unlink()
    tables["cedar"].write_text("x")
    done = here("check", path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "silo 'birch': there is no data file" in done.stderr
    assert "silo 'cedar': " in done.stderr and "cannot be read as Parquet" in done.stderr


def test_what_is_not_private_is_said_aloud(make_job: MakeJob) -> None:
    path = make_job().path
    done = here("check", path, "--set", "privacy={noise: none}", "--set", "encryption.scheme=none")
    assert done.returncode == 0
    assert "warning: no differential privacy" in done.stderr
    assert "warning: no encryption" in done.stderr
    done = here("check", path, "--set", "privacy.test_seed=3")
    assert "warning: privacy.test_seed is set" in done.stderr and "unbounded" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["run", "none.yaml"], 1, "error: there is no job file"),
        (["run", "job.yaml", "--set", "training.rounds=0"], 1, "--set: training.rounds"),
        (["run", "job.yaml", "--address", "127.0.0.1:1"], 1, "nothing answers at '127.0.0.1:1'"),
        (
            ["check", "job.yaml", "--set", "model={kind: factory, factory: 'x:y'}"],
            1,
            "cannot be imported",
        ),
        (["check", "job.yaml", "--set", "privacy.epsilon=0.00001"], 1, "Use epsilon"),
        (["run"], 2, "Missing argument"),
        (["fly"], 2, "No such command"),
    ],
)
def test_mistakes_end_in_one_message(
    make_job: MakeJob, tmp_path: Path, arguments: list[str], status: int, said: str
) -> None:
    make_job()
    # In this process Ray may be connected already, and no address would be asked for.
    done = (blindsum if "--address" in arguments else here)(*arguments, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


def test_init_writes_a_job_that_is_valid_and_never_overwrites(tmp_path: Path) -> None:
    assert here("init", cwd=tmp_path).returncode == 0
    assert load_job(tmp_path / "job.yaml").job.name == "my-federation"
    again = here("init", cwd=tmp_path)
    assert again.returncode == 1 and "already exists" in again.stderr
    checked = here("check", "job.yaml", cwd=tmp_path)
    assert checked.returncode == 1 and "there is no data file" in checked.stderr


def test_version() -> None:
    said = blindsum("--version").stdout
    assert said.startswith("blindsum 0.")
    for name in ("Python 3.", "ray 2.", "torch 2.", "opacus ", "tenseal ", "mlflow ", "pyarrow "):
        assert f"\n{name}" in said


def test_an_identity_is_made_once_and_its_fingerprint_can_be_pinned(
    make_job: MakeJob, tmp_path: Path
) -> None:
    path = make_job().path
    runner = CliRunner()
    first, again = (runner.invoke(app, ["identity", str(path), "--silo", "birch"]) for _ in "ab")
    fingerprint = first.output.strip()
    assert first.exit_code == 0 and len(fingerprint) == 64 and again.output == first.output
    assert load_job(path, [f"silos.birch.identity={fingerprint}"]).job.silo("birch").identity
    assert (tmp_path / "state/birch/identity.pem").stat().st_mode & 0o777 == 0o600
    stranger = runner.invoke(app, ["identity", str(path), "--silo", "oak"])
    assert "has no silo 'oak'" in str(stranger.exception)
    with pytest.raises(JobError, match="silos.1.identity"):
        load_job(path, ["silos.birch.identity=abc"])


def test_an_owner_approves_the_job_that_was_read(
    make_job: MakeJob, tables: dict[str, Path], tmp_path: Path
) -> None:
    runner = CliRunner()
    path = make_job().path
    refused = runner.invoke(app, ["approve", str(path), "--silo", "birch"])
    assert "no owner's file" in str(refused.exception)
    state = tmp_path / "owned"
    wrote = runner.invoke(
        app,
        ["silo", "init", "birch", "--dataset", f"tumours={tables['birch']}", "--state", str(state)],
    )
    assert wrote.exit_code == 0, wrote.exception
    again = runner.invoke(app, ["silo", "init", "birch", "--dataset", "tumours=/x"])
    assert "already exists" in str(again.exception)
    assert "tumours" in runner.invoke(app, ["silo", "show"]).stdout
    text = path.read_text().replace(f"state: {tmp_path}/state/birch", "")
    path.write_text(text.replace("data: birch.parquet", "data: tumours"))
    agreed = ["approve", str(path), "--silo", "birch", "--yes"]
    done = runner.invoke(app, [*agreed, "--set", "seed=9"])
    assert done.exit_code == 0 and done.stdout.startswith("approved "), done.exception
    given = Approvals(ledger_of(state, "birch")).all()
    assert [(one.job, one.runs) for one in given] == [
        (job_digest(load_job(path, ["seed=9"]).job), 1)
    ]
    for bad in (["--runs", "0"], ["--until", "2020-01-01"], ["--until", "soon"]):
        wrong = runner.invoke(app, [*agreed, *bad])
        assert isinstance(wrong.exception, BlindsumError)


def test_a_silos_owner_reads_the_audit_log_and_what_had_no_privacy(
    make_job: MakeJob, tmp_path: Path
) -> None:
    runner, of_birch = CliRunner(), [str(make_job().path), "--silo", "birch"]
    Consortium(make_job("privacy={noise: none}"), "run-1").round(1)
    Consortium(make_job(), "run-2").round(1)
    shown = runner.invoke(app, ["audit-log", "show", *of_birch], catch_exceptions=False)
    verified = runner.invoke(app, ["audit-log", "verify", *of_birch])
    assert (shown.exit_code, verified.exit_code) == (0, 0)
    for part in (
        "inspected",
        "joined",
        "charged",
        "sent",
        "no privacy",
        "all hashes and signatures",
    ):
        assert part in shown.stdout + verified.stdout
    shown = runner.invoke(app, ["ledger", "show", *of_birch], catch_exceptions=False)
    first, second = (line for line in shown.stdout.splitlines() if line.startswith("run-"))
    assert "unbounded" in first and "0.0001" not in first
    assert "unbounded" not in second and "0.0001" in second


def test_a_silos_owner_sees_checks_exports_and_limits_the_ledger(
    make_job: MakeJob, tmp_path: Path
) -> None:
    runner, path = CliRunner(), make_job("training.rounds=2").path
    of_birch = [str(path), "--silo", "birch"]
    with pytest.raises(LedgerError, match="has no ledger"):
        runner.invoke(app, ["ledger", "show", *of_birch], catch_exceptions=False)
    Consortium(load_job(path), "run-1").round(1)
    done = [runner.invoke(app, ["ledger", one, *of_birch]) for one in ("show", "verify")]
    assert [one.exit_code for one in done] == [0, 0]
    for part in ("run-1", "lifetime limit: none", "head: 2:", "2 entries; all hashes", "signed by"):
        assert part in done[0].stdout + done[1].stdout
    exported = tmp_path / "ledger.json"
    assert runner.invoke(app, ["ledger", "export", *of_birch, "--to", str(exported)]).exit_code == 0
    entries = json.loads(exported.read_text())["entries"]
    public, hash_ = bytes.fromhex(entries[1]["signer"]), entries[1]["hash"]
    signature, signed = bytes.fromhex(entries[1]["signature"]), entries[1]["signed"]
    assert hash_ in signed and Identity.holds(public, signature, signed.encode())
    assert (
        hash_
        == hashlib.sha256(
            f"ledger\n{entries[0]['hash']}\n{entries[1]['content']}".encode()
        ).hexdigest()
    )
    for epsilon, said in (
        ("5", "from none to epsilon 5 at delta 1e-05"),
        ("0.5", "from epsilon 5 at delta 1e-05 to epsilon 0.5 at delta 1e-05"),
    ):
        limited = ["ledger", "limit", *of_birch, "--epsilon", epsilon]
        assert said in runner.invoke(app, limited, catch_exceptions=False).stdout
    with pytest.raises(LedgerError, match="silo 'birch': the plan would exceed the lifetime limit"):
        Consortium(load_job(path), "run-2")
    for wrong in (["0"], ["-1"], ["inf"], ["1", "--delta", "1e-320"]):
        with pytest.raises(LedgerError, match="is out of range"):
            runner.invoke(
                app, ["ledger", "limit", *of_birch, "--epsilon", *wrong], catch_exceptions=False
            )
