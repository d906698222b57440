"""`blindsum doctor` finds what would make a run fail, and says how to mend it."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import web
from typer.testing import CliRunner

from blindsum.actors.separate.client import client_context
from blindsum.actors.separate.server import Server, server_context
from blindsum.infra.certificates import (
    CA_CERTIFICATE,
    NODE_CERTIFICATE,
    NODE_KEY,
    make_authority,
    make_node,
)
from blindsum.pipelines.cli.app import app
from blindsum.pipelines.doctor import installation, machine, services
from blindsum.pipelines.doctor.finding import Finding, examined
from blindsum.platform.errors import ConsentError
from blindsum.platform.job.owner import CoordinatorSection, find_owner
from tests.adversary.owners import Machine

Usage = namedtuple("Usage", "total used free")


def one(found: object) -> Finding:
    (only,) = list(found)  # type: ignore[call-overload]
    return only


def test_a_healthy_machine_is_ok() -> None:
    for check in (installation.python, installation.packages, machine.ports):
        assert one(check()).state == "ok", one(check())


def test_another_python_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = namedtuple("kind", "major minor micro")
    monkeypatch.setattr(sys, "version_info", kind(3, 9, 1)[:2])
    assert one(installation.python()).state == "bad"


def test_packages_are_compared_with_the_tested_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = tmp_path / "constraints.txt"
    pins.write_text("# tested\nRay==1.0.0\nnumpy==0.1 ; python_version > '3'\n")
    found = one(installation.packages(pins))
    assert found.state == "warn" and "(tested: 1.0.0)" in found.said and "numpy " in found.said
    told = ["ray>=999", "no-such-package-here", 'psycopg; extra == "mlflow-server"']
    monkeypatch.setattr(installation, "requires", lambda _: told)
    found = one(installation.packages(pins))
    assert found.state == "bad" and "no-such-package-here is missing" in found.said
    assert "needed >=999" in found.said and "psycopg" not in found.said


@pytest.mark.parametrize(
    ("kb", "limit", "state"),
    [(8_000_000, "max", "ok"), (1_500_000, "max", "warn"), (8_000_000, "900000000", "bad")],
)
def test_memory_is_that_of_the_container(tmp_path: Path, kb: int, limit: str, state: str) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {kb} kB\n")
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("100000000\n")
    where = tmp_path / "meminfo", tmp_path, tmp_path / "own"
    assert one(machine.memory(*where)).state == state
    assert one(machine.memory(tmp_path / "none", *where[1:])).state == "warn"


def test_memory_is_that_of_a_batch_job_and_cached_files_do_not_use_it(tmp_path: Path) -> None:
    """A batch job's limit stands above the process's own place, which has none."""
    (tmp_path / "meminfo").write_text("MemAvailable: 64000000 kB\n")
    (tmp_path / "own").write_text("1:memory:/old\n0::/batch/job_1/step_0\n")
    place = tmp_path / "batch" / "job_1"
    (place / "step_0").mkdir(parents=True)
    (place / "step_0" / "memory.max").write_text("max\n")
    (place / "memory.max").write_text("8000000000\n")
    (place / "memory.current").write_text("7500000000\n")
    (place / "memory.stat").write_text("anon 4500000000\ninactive_file 3000000000\n")
    found = one(machine.memory(tmp_path / "meminfo", tmp_path, tmp_path / "own"))
    assert found.state == "ok" and found.said.startswith("3.5 GB available, within the limit")
    (place / "memory.stat").write_text("inactive_file 0\n")
    assert one(machine.memory(tmp_path / "meminfo", tmp_path, tmp_path / "own")).state == "bad"


@pytest.mark.parametrize(("free", "state"), [(10**10, "ok"), (10**9, "warn"), (10**6, "bad")])
def test_full_disks_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, state: str
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, free))
    found = list(machine.disks(tmp_path / "not" / "yet"))
    assert len(found) == 3 and {one.state for one in found} == {state}
    shared = one(machine.shared_memory())
    assert shared.state == ("ok" if free >= 10**9 else "warn")


def test_no_loopback_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(socket, "create_connection", refused)
    assert one(machine.ports()).state == "bad"


@pytest.mark.parametrize(
    ("environment", "state"),
    [
        ({}, "ok"),
        ({"HTTP_PROXY": ""}, "ok"),
        ({"HTTP_PROXY": "http://p:1"}, "bad"),
        ({"https_proxy": "http://p:1", "NO_PROXY": "127.0.0.1"}, "bad"),
        ({"https_proxy": "http://p:1", "no_proxy": "127.0.0.1,localhost"}, "ok"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "localhost,127.0.0.1"}, "ok"),
        ({"grpc_proxy": "http://p:1", "no_grpc_proxy": "127.0.0.1", "NO_PROXY": "*"}, "ok"),
        ({"http_proxy": "http://p:1", "no_proxy": "*"}, "ok"),
    ],
)
def test_a_proxy_must_except_this_machine_for_grpc_too(
    environment: dict[str, str], state: str
) -> None:
    found = one(machine.proxies(environment))
    assert found.state == state and "p:1" not in found.said


def test_a_clock_before_the_installation_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert one(machine.clock()).state == "bad"


@pytest.mark.parametrize(
    ("synchronised", "state", "said"),
    [(True, "ok", "synchronised"), (False, "warn", "nothing"), (None, "warn", "cannot be asked")],
)
def test_what_the_kernel_says_of_the_clock(
    monkeypatch: pytest.MonkeyPatch, synchronised: bool | None, state: str, said: str
) -> None:
    monkeypatch.setattr(machine, "_synchronised", lambda: synchronised)
    found = one(machine.clock())
    assert found.state == state and said in found.said


def test_the_kernel_can_be_asked() -> None:
    assert machine._synchronised() in (True, False, None)


@pytest.mark.parametrize(
    ("skew_s", "state", "said"),
    [(3, "ok", "3 s ahead"), (-90, "warn", "90 s behind"), (7200, "bad", "7200 s ahead")],
)
def test_the_coordinators_clock_is_compared(skew_s: float, state: str, said: str) -> None:
    found = services.of_skew("https://hub:1", skew_s)
    assert found.state == state and said in found.said and bool(found.mend) == (state != "ok")


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server as a coordinator's, its address and its authority."""

    async def handle(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=404)

    authority = tmp_path / "authority"
    make_authority(authority, 2)
    node = make_node(authority, "gate", ["127.0.0.1"], 2)
    context = server_context(node / NODE_CERTIFICATE, node / NODE_KEY, authority / CA_CERTIFICATE)
    server = Server(handle, [("127.0.0.1", 0)], context)
    yield f"https://127.0.0.1:{server.ports[0]}", authority / CA_CERTIFICATE
    server.close()


def test_a_coordinator_is_asked_for_the_time(
    gate: tuple[str, Path], owned: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, authority = gate
    tls = SimpleNamespace(tls=lambda: client_context(authority, None, None))
    monkeypatch.setattr("blindsum.pipelines.consortium.silo.link_settings", lambda _: tls)
    owner = find_owner()
    assert owner is not None
    section = CoordinatorSection(url=url, identity="0" * 64)
    found = one(services.coordinators_clock(owner, section))
    assert found.state == "ok" and f"{url} answers" in found.said
    nobody = section.model_copy(update={"url": "https://127.0.0.1:1"})
    found = one(services.coordinators_clock(owner, nobody))
    assert found.state == "bad" and "cannot be reached" in found.said


@pytest.fixture
def owned(tables: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    tables["alder"].chmod(0o640)
    return Machine(tmp_path, ["alder"], {"tumours": tables["alder"]}, monkeypatch)


def states() -> dict[str, str]:
    worst = {"ok": 0, "warn": 1, "bad": 2}
    found: dict[str, str] = {}
    for one in examined("owner's file", services.owners_file):
        found[one.name] = max(found.get(one.name, "ok"), one.state, key=lambda s: worst[s])
    return found


def test_an_owners_files_are_looked_at(
    owned: Machine, tables: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    owned.state.mkdir(mode=0o700, parents=True)
    assert set(states().values()) == {"ok"}
    key = owned.state / "identity.pem"
    key.write_text("x")
    key.chmod(0o640)
    assert states()["state folder"] == "bad"
    key.chmod(0o600)
    assert states()["state folder"] == "ok"
    owned.state.chmod(0o770)
    assert states()["state folder"] == "bad"
    tables["alder"].chmod(0o644)
    folder = tables["alder"].parent
    for open_, said in ((False, "ok"), (True, "warn")):
        monkeypatch.setattr(services, "_lets_all_through", lambda one, o=open_: o or one != folder)
        assert states()["dataset tumours"] == said
    tables["alder"].unlink()
    assert states()["dataset tumours"] == "bad"
    owned.path.chmod(0o666)
    assert states() == {"owner's file": "bad"}
    with pytest.raises(ConsentError):
        find_owner()


def test_mlflow_is_tried_in_a_temporary_store(tmp_path: Path) -> None:
    assert one(services.local_mlflow()).state == "ok"
    assert not list(tmp_path.glob("mlflow*"))


@pytest.mark.usefixtures("cluster")
def test_ray_is_tried() -> None:
    assert one(services.local_ray()).state == "ok"


def test_a_check_that_fails_is_a_finding_and_hides_no_other() -> None:
    def broken() -> list[Finding]:
        raise ValueError("a path with a name")

    (found,) = examined("memory", broken)
    assert found.state == "bad" and "a path with a name" not in found.said


def test_the_exit_status_tells_whether_something_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = CliRunner().invoke(app, ["doctor", "--quick", "--json"])
    found = [json.loads(line) for line in healthy.stdout.splitlines()]
    assert {one["event"] for one in found} == {"checked"}
    assert healthy.exit_code == int(any(one["state"] == "bad" for one in found))
    monkeypatch.setitem(os.environ, "https_proxy", "http://proxy:1")
    monkeypatch.setitem(os.environ, "no_proxy", "")
    sick = CliRunner().invoke(app, ["doctor", "--quick"])
    assert sick.exit_code == 1 and "export NO_PROXY=127.0.0.1" in sick.stdout
