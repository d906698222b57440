"""The layout works however the project is used: root, wheel, editable, Ray job."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("platform", "actors", "he", "pipelines", "infra")


def python(code: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | environment,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_driver_imports_no_torch_before_its_rounds() -> None:
    """It would take a second of a processor, while Ray and the silos start."""
    code = (
        "import sys, mlflow.entities\nfrom pathlib import Path\n"
        "import blindsum.pipelines.cli.app, blindsum.pipelines.run.train\n"
        "import blindsum.actors.federation, blindsum.platform.tracking.mlflow_run\n"
        "from blindsum.platform.job.file import load_job\n"
        "from blindsum.platform.privacy.plan import compute_ahead\n"
        "compute_ahead(load_job(Path('examples/solubility/job.yaml')).job)\n"
        "print([one for one in ('torch', 'opacus', 'rdkit', 'sklearn') if one in sys.modules])"
    )
    assert python(code, ROOT, PYTHONWARNINGS="ignore") == "[]"


def test_platform_has_no_init_and_shadows_nothing() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert python("import platform; print(platform.python_version())", ROOT) == "{}.{}.{}".format(
        *sys.version_info[:3]
    )


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_are_folders_at_the_top_and_links_in_the_package(room: str) -> None:
    link = ROOT / "src" / "blindsum" / room
    assert os.readlink(link) == f"../../{room}"


def test_a_checkout_without_links_says_what_to_do(tmp_path: Path) -> None:
    """Git writes a link as a text file that holds its target, where it may not make links."""
    package = tmp_path / "blindsum"
    package.mkdir()
    shutil.copy(ROOT / "src/blindsum/__init__.py", package)
    (package / "he").write_text("../../he")
    done = subprocess.run(
        [sys.executable, "-c", "import blindsum.he"],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1 and "git config core.symlinks true" in done.stderr


def test_the_wheel_holds_every_module_and_works_alone(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT],
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    modules = {
        f"blindsum/{path.relative_to(ROOT)}" for r in ROOMS for path in (ROOT / r).rglob("*.py")
    }
    assert modules <= names and "blindsum/pipelines/cli/starter.yaml" in names
    scalings = (ROOT / "platform/data/scalings").glob("*.csv")
    assert {f"blindsum/{path.relative_to(ROOT)}" for path in scalings} <= names
    assert "blindsum/py.typed" in names and not any(name.startswith("tests") for name in names)
    where = python(
        "import blindsum.pipelines.cli.app, blindsum.platform.errors as e; print(e.__file__)",
        tmp_path,
        PYTHONPATH=str(tmp_path / "site"),
    )
    assert where.startswith(str(tmp_path / "site"))


def test_the_version_is_the_package_s(tmp_path: Path) -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shown = python("import blindsum; print(blindsum.__version__)", tmp_path)
    assert shown == config["project"]["version"]


def test_the_bare_rooms_are_banned() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    banned = config["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    assert set(banned) == {"actors", "he", "pipelines", "infra"}


def test_constraints_pin_versions_and_name_no_address() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in pin and "://" not in pin and "@" not in pin for pin in pins)
    assert "torch==2.13.0" in pins and "tenseal==0.3.18" in pins


@pytest.fixture
def one_node() -> Iterator[str]:
    """The jobs address of a Ray of one node (nodes of one machine share a job's folder)."""
    from ray.cluster_utils import Cluster

    arguments = {"include_dashboard": True, "dashboard_host": "127.0.0.1", "num_cpus": 2}
    arguments |= {"object_store_memory": 150 * 2**20}
    with socket.socket() as free:  # the session's cluster has the agents' usual port
        free.bind(("127.0.0.1", 0))
        arguments["dashboard_agent_listen_port"] = free.getsockname()[1]
    made = Cluster(initialize_head=True, head_node_args=arguments)
    yield f"http://{made.head_node.webui_url}"
    made.shutdown()


def test_a_ray_job_runs_with_the_repository_as_its_working_directory(
    one_node: str, tmp_path: Path
) -> None:
    from ray.job_submission import JobStatus, JobSubmissionClient

    home = {"BLINDSUM_HOME": str(tmp_path / "home")}
    client = JobSubmissionClient(one_node)
    entrypoint = (
        f"{sys.executable} -m blindsum run examples/solubility/job.yaml --address auto --json "
        f"--set training.rounds=2 --set tracking.uri=sqlite:///{tmp_path}/mlflow.db "
        f"--set runs={tmp_path}/runs"
    )
    environment = {
        "working_dir": str(ROOT),
        "env_vars": home,
        "excludes": [".git", ".venv", "build", "examples/solubility/mlartifacts"],
    }
    job = _submit(client, entrypoint, environment)
    logs = "".join(_tail(client, job))
    assert client.get_job_status(job) == JobStatus.SUCCEEDED, logs
    events = [json.loads(line) for line in logs.splitlines() if line.startswith('{"event"')]
    assert [event["event"] for event in events] == ["planned", "round", "round", "end"]
    assert set(events[-1]["ledgers"]) == {"alder", "birch", "cedar"}
    assert (tmp_path / "home/silos/alder/ledger.sqlite").exists()


def _submit(client: Any, entrypoint: str, environment: dict[str, Any]) -> str:
    """Submit as soon as the node's agent takes jobs: each refusal waited for it a while."""
    for _ in range(20):
        try:
            return str(client.submit_job(entrypoint=entrypoint, runtime_env=environment))
        except RuntimeError as error:
            if "No available agent" not in str(error):
                raise
    raise AssertionError("the node's agent never took a job")


def _tail(client: Any, job: str) -> list[str]:
    """Follow the job's log until it ends."""
    import asyncio

    async def collect() -> list[str]:
        return [lines async for lines in client.tail_job_logs(job)]

    return asyncio.run(collect())
