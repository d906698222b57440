"""A cluster of separate hosts with token and TLS: submission, placement and failures."""

import json
import os
import queue
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml

from blindsum.infra.certificates import make_authority, make_node
from tests.conftest import SILOS, job_content
from tests.infra.nodes import TOKEN, Lan

WITH_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
NAMES = (*SILOS, "elm")
NODES = ("head", *NAMES)
QUICK_HEALTH = {
    "RAY_health_check_period_ms": "200",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "6",
}
"""Ray calls a node dead after about seven seconds instead of half a minute."""

ROUNDS = 40
SLOW = """
import time
import torch

class Slow(torch.nn.Linear):
    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            time.sleep(0.15)
        return super().forward(x)
"""
"""A model whose rounds wait: the run still goes on when a node is killed, after little work."""


def bare_python(folder: Path) -> Path:
    """Return an interpreter with Blindsum's requirements but without Blindsum."""
    venv.create(folder, with_pip=False)
    here = next(Path(p) for p in sys.path if p.endswith("site-packages"))
    (site,) = folder.glob("lib/python3.*/site-packages")
    (site / "base.pth").write_text(f"{here}\n")
    python = folder / "bin/python"
    found = subprocess.run(
        [python, "-c", "import ray, blindsum"], check=False, capture_output=True, text=True
    )
    assert "No module named 'blindsum'" in found.stderr
    return python


@pytest.fixture(scope="session")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    folder = tmp_path_factory.mktemp("lan")
    keys = folder / "keys"
    make_authority(keys, days=2)
    environment = WITH_TOKEN | QUICK_HEALTH
    certificates: dict[str, Path] = {}
    made = Lan(folder, NODES, certificates, bare_python(folder / "bare"), environment)
    for name in NODES:
        certificates[name] = make_node(keys, name, [made.address(name)], days=2)
    try:
        made.start("head")
        made.wait_for_head()
        for name in NAMES:
            made.start(name, json.dumps({f"silo:{name}": 1}))
        made.wait_for(len(NODES))
        yield made
    finally:
        made.close()


@pytest.fixture
def job(lan: Lan, breast_cancer: pa.Table, tmp_path: Path) -> Callable[..., Path]:
    """Return a job whose tables each lie in the home of their silo's node."""

    def make(**changed: Any) -> Path:
        for i, silo in enumerate(NAMES):
            rows = breast_cancer.slice(i * 140, 140)
            pyarrow.parquet.write_table(rows, lan.home(silo) / f"{silo}.parquet")
        content = job_content(tmp_path)
        content["silos"] = [{"name": name, "data": f"~/{name}.parquet"} for name in NAMES]
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(content | changed))
        return path

    return make


def blindsum(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "blindsum", *map(str, arguments)],
        check=False,
        text=True,
        capture_output=True,
        env=os.environ | WITH_TOKEN | environment,
        timeout=240,
    )


def where(lan: Lan) -> dict[str, set[str]]:
    """Return the nodes on which actors have run so far, by class."""
    nodes = {node["node_id"]: node["node_ip"] for node in lan.listed("nodes")}
    names = {lan.address(name): name for name in NODES}
    found: dict[str, set[str]] = {}
    for actor in lan.listed("actors"):
        found.setdefault(actor["class_name"], set()).add(names[nodes[actor["node_id"]]])
    return found


def started(lan: Lan, job: Path, *options: str) -> str:
    """Submit a job without waiting, and return its id."""
    done = blindsum("submit", job, "--address", lan.jobs, "--ship", "code", "--no-wait", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Followed:
    """A job's log as it grows, through `blindsum job logs --follow`."""

    def __init__(self, lan: Lan, id: str) -> None:
        command = ["job", "logs", id, "--address", lan.jobs, "--follow"]
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "blindsum", *command],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | WITH_TOKEN,
        )
        self.id, self.text = id, ""
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self._lines.put(line)
        self._lines.put("")

    def until(self, said: str, timeout_s: float = 90) -> None:
        """Wait until the log contains this text."""
        while said not in self.text:
            line = self._lines.get(timeout=timeout_s)
            assert line, self.text
            self.text += line

    def until_silent(self, seconds: float) -> None:
        """Wait until the log has not grown for that long."""
        while True:
            try:
                line = self._lines.get(timeout=seconds)
            except queue.Empty:
                return
            assert line, self.text
            self.text += line

    def end(self) -> int:
        """Return the job's exit status, which is that of --follow."""
        while line := self._lines.get(timeout=120):
            self.text += line
        return self.process.wait()

    def round(self) -> int:
        """Return the number of the newest round."""
        while not self._lines.empty():
            self.text += self._lines.get()
        return max(int(line.split()[1]) for line in self.text.splitlines() if line[:6] == "round ")


def test_a_job_on_nodes_that_lack_the_package_outlives_cuts_lost_nodes_and_stops(
    lan: Lan, job: Callable[..., Path]
) -> None:
    training = {**job_content(Path())["training"], "rounds": ROUNDS}
    model = {"kind": "factory", "factory": "slow:Slow"}
    told = job(quorum=2, training=training, privacy={"noise": "none"}, model=model)
    (told.parent / "slow.py").write_text(SLOW)
    id = started(lan, told)
    log = Followed(lan, id)
    log.until(f"round 3 of {ROUNDS}")

    # TCP survives a short interruption: nothing is lost
    lan.cut("cedar")
    log.until_silent(1.5)
    lan.heal("cedar")
    log.until(f"round {log.round() + 3} of {ROUNDS}")
    assert "lost" not in log.text

    # after a long one Ray gives up the node and the others continue, as after a node's death
    lan.cut("cedar")
    log.until("cedar; 3 of 4 silos remain", timeout_s=60)
    lan.heal("cedar")
    lan.kill("elm")
    log.until("elm; 2 of 4 silos remain", timeout_s=60)
    log.until(f"round {log.round() + 2} of {ROUNDS}")

    # the job manager stops a job by SIGTERM, like Ctrl-C
    done = blindsum("job", "stop", id, "--address", lan.jobs)
    assert done.stdout == f"{id}: STOPPED\n", done.stderr
    assert log.end() == 130
    assert "interrupted" in log.text and "Traceback" not in log.text, log.text[-2000:]
    (folder,) = (lan.home("head") / "runs").iterdir()
    assert f"blindsum resume {folder}" in log.text

    lan.wait_for(3)
    alive = {node["node_ip"] for node in lan.listed("nodes") if node["state"] == "ALIVE"}
    assert alive == {lan.address(name) for name in ("head", "alder", "birch")}
    # others can reach only the ports that docs/operations.md opens in a firewall, and the metrics
    for name in ("alder", "head"):
        known = {6380, 6381, 52365, 52366, 52367, 8080, *range(10002, 10202)}
        known |= {6379, 8265, 10001, 44217, 44227} if name == "head" else set()
        assert lan.listening(name) <= known

    done = blindsum(
        "submit", told, "--address", lan.jobs, "--ship", "code", "--json", "--resume", folder
    )
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines() if line[:8] == '{"event"']
    end = events[-1]
    assert (end["event"], end["rounds"], set(end["lost"])) == ("end", ROUNDS, {"cedar", "elm"})
    # results are on the driver's node, each silo's state on its own node, aggregators on neither
    assert Path(end["model"]).is_relative_to(lan.home("head")) and Path(end["model"]).exists()
    for silo in NAMES:
        assert [p.name for p in (lan.home(silo) / "silos").iterdir()] == [silo]
    assert not (lan.home("head") / "silos").exists()
    assert where(lan)["Aggregator"] == {"head"}
    done = blindsum("job", "list", "--address", lan.jobs, "--json")
    ended = [
        (one["id"] == id, one["exit_status"]) for one in map(json.loads, done.stdout.splitlines())
    ]
    assert ended == [(False, 0), (True, 130)]


def test_without_token_or_certificate_nobody_gets_in(lan: Lan, job: Callable[..., Path]) -> None:
    for token in ("", TOKEN[::-1]):
        done = blindsum("job", "list", "--address", lan.jobs, RAY_AUTH_TOKEN=token)
        assert (done.returncode, done.stdout) == (1, "") and "refuses this token" in done.stderr
    gcs = f"{lan.address('head')}:6379"
    done = blindsum("run", job(), "--address", gcs)
    assert done.returncode == 1 and "requires TLS, but RAY_USE_TLS is not set" in done.stderr
    foreign = lan.folder / "foreign"
    make_authority(foreign, days=2)
    for certificate, accepted in (
        (lan.folder / "keys" / "head", True),
        (make_node(foreign, "x", [], 2), False),
    ):
        context = ssl.create_default_context(cafile=lan.folder / "keys" / "head" / "ca.crt")
        context.load_cert_chain(certificate / "tls.crt", certificate / "tls.key")
        context.set_alpn_protocols(["h2"])
        with socket.create_connection((lan.address("head"), 6379)) as plain:
            secure = context.wrap_socket(plain, server_hostname=lan.address("head"))
            assert bool(answer(secure)) == accepted


class Ending(socketserver.ThreadingTCPServer):
    """A proxy that terminates TLS in front of the cluster's dashboard."""

    daemon_threads = True

    def __init__(self, certificate: Path, target: str) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate / "tls.crt", certificate / "tls.key")
        self._target = target
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            outside = self._context.wrap_socket(request, server_side=True)
        except ssl.SSLError:
            return  # the client does not trust the certificate
        with outside, socket.create_connection((self._target, 8265)) as inside:
            back = threading.Thread(target=copied, args=(inside, outside), daemon=True)
            back.start()
            copied(outside, inside)
            back.join()


def copied(source: socket.socket, target: socket.socket) -> None:
    try:
        while content := source.recv(65536):
            target.sendall(content)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


def test_a_missing_silos_node_is_named_at_once_through_a_verified_proxy(
    lan: Lan, job: Callable[..., Path]
) -> None:
    path = job()
    path.write_text(path.read_text().replace("name: cedar", "name: oak"))
    certificate = make_node(lan.folder / "keys", "proxy", [], days=2)
    with Ending(certificate, lan.address("head")) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        address = f"https://127.0.0.1:{proxy.server_address[1]}"
        done = blindsum("job", "list", "--address", address)
        assert done.returncode == 1 and "cannot be verified here" in done.stderr
        submit = "submit", path, "--address", address, "--ca", certificate / "ca.crt"
        done = blindsum(*submit, "--ship", "code")
        assert done.returncode == 1, done.stderr
        assert "error: no live node offers silo:oak" in done.stdout
        assert "Traceback" not in done.stdout
        # by default nothing is shipped to silos' own machines, and these lack Blindsum
        done = blindsum(*submit)
        assert done.returncode == 1 and "No module named blindsum" in done.stdout
        unknown = "job", "status", "another", "--address", address, "--ca", certificate / "ca.crt"
        assert "has no such job" in blindsum(*unknown).stderr
        proxy.shutdown()


def test_no_silos_node_reaches_another(lan: Lan) -> None:
    """The other tests ran under this rule: a silo's node only needs to reach the head."""
    birch = (lan.address("birch"), 52365)  # Ray's agent on birch
    for name, reached in (("head", True), ("alder", False)):
        code = f"import socket; socket.create_connection({birch!r}, timeout=2)"
        done = subprocess.run(
            lan.inside(name, [sys.executable, "-c", code]), check=False, capture_output=True
        )
        assert (done.returncode == 0) == reached, done.stderr


def answer(secure: ssl.SSLSocket) -> bytes:
    """Return a gRPC server's first answer to an admitted client: its HTTP/2 settings."""
    try:
        return secure.recv(64)
    except (ssl.SSLError, ConnectionError):
        return b""
