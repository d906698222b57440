"""A coordinator and three organisations on hosts of their own: network namespaces, each with its
own Ray, where a silo's host reaches the coordinator's one port and nothing reaches a silo."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml

from tests.conftest import SILOS, job_content, ledger_of
from tests.infra.nodes import Lan

PORT = 8443
ROUNDS = 400
BLINDSUM = (sys.executable, "-m", "blindsum")


class Wan:
    """The hosts: `hub` has the coordinator, the others an organisation each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lan = Lan(folder, ["hub", *SILOS], {}, Path(sys.executable), {}, mark="w")
        self.url = f"https://{self.lan.address('hub')}:{PORT}"

    def type(self, host: str, *arguments: str) -> str:
        """Type a command on a host; returns what it prints on stdout."""
        done = subprocess.run(
            self.lan.inside(host, [*BLINDSUM, *arguments]),
            capture_output=True,
            text=True,
            check=False,
            cwd=self.lan.home(host),
        )
        assert done.returncode == 0, f"{host}: {' '.join(arguments)}\n{done.stderr}"
        return done.stdout.strip()

    def serve(self, host: str) -> None:
        """Let a host serve until the test ends."""
        role = ["silo", "serve", "--no-page", "--cores", "1", "--file", self.file(host)]
        command = ["coordinator", "serve", "--lines"] if host == "hub" else role
        with open(self.folder / host / "log", "ab") as log:
            self.lan._processes[host] = subprocess.Popen(
                self.lan.inside(host, [*BLINDSUM, *command]),
                stdout=log,
                stderr=log,
                cwd=self.lan.home(host),
            )

    def file(self, host: str) -> str:
        return str(self.lan.home(host) / "silo.yaml")

    def said(self, host: str) -> str:
        return (self.folder / host / "log").read_text()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.type("hub", "coordinator", "status", "--json"))
        return found

    def until(self, what: str, true: Callable[[], Any], within_s: float = 120) -> Any:
        end = time.monotonic() + within_s
        while not (found := true()):
            if time.monotonic() > end:
                logs = {host: self.said(host)[-1500:] for host in ("hub", *SILOS)}
                raise TimeoutError(f"{what}\n" + "\n".join(f"-- {h}\n{t}" for h, t in logs.items()))
            time.sleep(0.2)
        return found

    def until_said(self, text: str) -> None:
        """Wait until the coordinator has said that, after what it has said so far."""
        start = len(self.said("hub"))
        self.until(text, lambda: text in self.said("hub")[start:])


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wan]:
    made = Wan(tmp_path_factory.mktemp("wan"))
    try:
        yield made
    finally:
        made.lan.close()


def enrol(wan: Wan, name: str, table: pa.Table) -> None:
    """Do what a new organisation does, up to `silo serve`."""
    path = wan.lan.home(name) / "tumours.parquet"
    pyarrow.parquet.write_table(table, path)
    state = str(wan.lan.home(name) / "state")
    file = wan.file(name)
    dataset = f"tumours={path}"
    wan.type(name, "silo", "init", name, "--dataset", dataset, "--state", state, "--file", file)
    said = wan.type(name, "silo", "join", wan.type("hub", "invite", name), "--file", file)
    compare = next(s["compare"] for s in wan.status()["silos"] if s["silo"] == name)
    assert compare in said  # both sides show people the same fingerprint
    wan.serve(name)


def job_file(folder: Path) -> Path:
    """A job of many short rounds, which goes on with two of the three silos."""
    content = job_content(folder) | {
        "quorum": 2,
        "deadlines": {"start_s": 120, "round_s": 300, "silent_s": 4},
        "privacy": {"noise": "none"},
    }
    content["training"] |= {"rounds": ROUNDS, "local_steps": 1}
    for silo in content["silos"]:
        silo |= {"data": "tumours"}
        silo.pop("state", None)
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_run_survives_what_happens_between_organisations(
    wan: Wan, breast_cancer: pa.Table, tmp_path: Path
) -> None:
    address = f"{wan.lan.address('hub')}:{PORT}"
    wan.type("hub", "coordinator", "init", "--url", wan.url, "--listen", address)
    wan.serve("hub")
    wan.until("the gate", lambda: "serving https" in wan.said("hub"))
    each = breast_cancer.num_rows // 3
    for index, name in enumerate(SILOS):
        enrol(wan, name, breast_cancer.slice(index * each, each))
    wan.until("connections", lambda: all(s["seen_s_ago"] for s in wan.status()["silos"]))

    # One port of the coordinator, and none of a silo, can be reached from other hosts.
    assert wan.lan.listening("hub") == {PORT}
    assert [wan.lan.listening(name) for name in SILOS] == [set(), set(), set()]

    wan.type("hub", "propose", str(job_file(tmp_path)))
    for name in SILOS:
        listed = ["silo", "jobs", "--json", "--file", wan.file(name)]
        wan.until("the proposal", lambda listed=listed, name=name: wan.type(name, *listed))
        wan.type(name, "silo", "approve", "trial", "--yes", "--file", wan.file(name))
    wan.until_said(f"round 3 of {ROUNDS}")

    # An agent is killed: the others go on, and its silo comes back.
    wan.lan.kill("birch")
    wan.until_said("birch; 2 of 3 silos remain")
    wan.serve("birch")
    wan.until_said("back in round")

    # A link is cut for less than silent_s: nobody is lost.
    before = wan.said("hub")
    wan.lan.cut("alder")
    time.sleep(2)  # the cut itself, not an event to wait for
    wan.lan.heal("alder")
    wan.until_said("round ")
    assert "alder; 2 of 3" not in wan.said("hub")[len(before) :]

    # The coordinator is killed and serves again: the run goes on after its last round.
    wan.lan.kill("hub")
    wan.serve("hub")
    ended = wan.until("the end", lambda: wan.status()["jobs"][0]["state"] in ("finished", "failed"))
    job = wan.status()["jobs"][0]
    assert ended and job["state"] == "finished", job["note"]
    found = wan.said("hub")
    assert found.count(f"round {ROUNDS} of {ROUNDS}") == 1 and "Traceback" not in found
    assert "held-out" in job["note"]
    for name in SILOS:
        wan.until("the news", lambda name=name: "has finished" in wan.said(name))
        assert "Traceback" not in wan.said(name)
        noted = ledger_of(wan.lan.home(name) / "state", name).of_kind("attempt")
        rounds = {entry.round for entry in noted}
        assert rounds == set(range(1, ROUNDS + 1)) or (name == "birch" and max(rounds) == ROUNDS)
    assert os.listdir(wan.lan.home("hub") / "coordinator/jobs/runs")
