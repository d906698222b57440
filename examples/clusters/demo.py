"""Four organisations on one machine: a coordinator and three companies, each with its own Ray.

    python examples/clusters/demo.py [--keep FOLDER]

It types what people would type on four machines, and shows it: every line that begins with a name
is a command of that organisation. Each one has a home folder of its own and shares nothing with the
others but the coordinator's address. The job is examples/solubility.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SOLUBILITY = HERE.parent / "solubility"
COMPANIES = ("alder", "birch", "cedar")
BLINDSUM = str(Path(sys.executable).with_name("blindsum"))


class Organisation:
    """An organisation: a home folder, and the processes that it started."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.home = name, folder / name
        self.home.mkdir(parents=True, mode=0o700)
        self.serving: subprocess.Popen[str] | None = None
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
            "HOME": str(self.home),
            "BLINDSUM_HOME": str(self.home),
            "COLUMNS": "100",
        }

    def type(self, *arguments: str, quiet: bool = False) -> str:
        """Type a command, show it with what it prints, and return that."""
        self._show(arguments)
        done = subprocess.run(
            [BLINDSUM, *arguments],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
        )
        said = (done.stdout + done.stderr).rstrip()
        if said and not (quiet and done.returncode == 0):
            print("\n".join(f"    {line}" for line in said.splitlines()), flush=True)
        if done.returncode:
            raise SystemExit(f"{self.name}: that command failed")
        return done.stdout.strip()

    def serve(self, *arguments: str) -> None:
        """Type a command that goes on until the demo ends; its output goes to a file."""
        self._show((*arguments, "&"))
        with open(self.home / "serving.log", "w") as log:
            self.serving = subprocess.Popen(
                [BLINDSUM, *arguments],
                env=self.environment,
                cwd=self.home,
                stdout=log,
                stderr=log,
                text=True,
            )

    def log(self) -> str:
        """Return what the serving process has said so far."""
        return (self.home / "serving.log").read_text()

    def stop(self) -> None:
        """End the serving process."""
        if self.serving and self.serving.poll() is None:
            self.serving.send_signal(signal.SIGTERM)
            try:
                self.serving.wait(20)
            except subprocess.TimeoutExpired:
                self.serving.kill()

    def _show(self, arguments: tuple[str, ...]) -> None:
        shown = " ".join(one if len(one) < 60 else one[:24] + "…" for one in arguments)
        print(f"{self.name:>11} $ blindsum {shown}", flush=True)


def until(what: str, true: Callable[[], Any], watched: list[Organisation], within_s: float) -> Any:
    """Wait until something is true, and return it; end the demo if a serving process ends."""
    end = time.monotonic() + within_s
    while not (found := true()):
        for one in watched:
            if one.serving and one.serving.poll() is not None:
                raise SystemExit(f"{one.name}'s process has ended:\n{one.log()}")
        if time.monotonic() > end:
            logs = "\n".join(f"--- {one.name}\n{one.log()}" for one in watched)
            raise SystemExit(f"{what} did not happen within {within_s:g} s\n{logs}")
        time.sleep(0.2)
    return found


def free_port() -> int:
    """Return a port of 127.0.0.1 that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keep", type=Path, help="Folder for the four homes; default: removed.")
    keep = parser.parse_args().keep
    if keep and keep.exists():
        raise SystemExit(f"{keep} exists already: name another folder")
    # Ray's sockets need short paths.
    folder = (keep or Path(tempfile.mkdtemp(prefix="bs-", dir="/tmp"))).absolute()
    started = time.monotonic()
    coordinator = Organisation("coordinator", folder)
    companies = [Organisation(name, folder) for name in COMPANIES]
    everyone = [coordinator, *companies]
    try:
        show(coordinator, companies, everyone)
        print(f"done in {time.monotonic() - started:.0f} s", flush=True)
        if keep:
            print(f"the four homes are in {folder}; the model is in {results(coordinator)}")
    finally:
        for one in reversed(everyone):
            one.stop()
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def show(
    coordinator: Organisation, companies: list[Organisation], everyone: list[Organisation]
) -> None:
    """Enrol the companies, propose, approve, and run the job."""
    port = free_port()
    url = f"https://127.0.0.1:{port}"
    print("The operator makes a coordinator and lets it serve.")
    coordinator.type("coordinator", "init", "--url", url, "--listen", f"127.0.0.1:{port}")
    coordinator.serve("coordinator", "serve", "--lines")
    print(
        "\nEach company writes its owner's file, and joins with an invitation. Both sides compare"
    )
    print("the short fingerprint, over the telephone for instance.")
    for one in companies:
        table = SOLUBILITY / "data" / f"{one.name}.parquet"
        file = str(one.home / "silo.yaml")
        state = str(one.home / "state")
        dataset = f"solubility={table}"
        one.type("silo", "init", one.name, "--dataset", dataset, "--state", state, "--file", file)
        word = coordinator.type("invite", one.name, quiet=True)
        until("the coordinator", lambda: "serving https" in coordinator.log(), everyone, 120)
        one.type("silo", "join", word, "--file", file)
        one.serve("silo", "serve", "--file", file)
    until("a connection", lambda: len(seen(coordinator)) == len(companies), everyone, 180)
    coordinator.type("coordinator", "status")
    print("\nThe operator proposes the job. It names datasets, never paths.")
    names = [f"silos.{one.name}.data=solubility" for one in companies]
    sets = [text for name in names for text in ("--set", name)]
    coordinator.type("propose", str(SOLUBILITY / "job.yaml"), *sets)
    print("\nEach owner reads what the job would do, and approves it.")
    for number, one in enumerate(companies):
        file = str(one.home / "silo.yaml")
        listed = ["silo", "jobs", "--file", file]
        until("the proposal", lambda listed=listed, one=one: proposed(one, listed), everyone, 60)
        if number == 0:
            one.type("silo", "show", "solubility", "--file", file)
        one.type("silo", "approve", "solubility", "--yes", "--file", file)
    print("\nThe job runs. The coordinator shows the consortium's figures:", flush=True)
    shown = 0
    while True:
        lines = coordinator.log().splitlines()
        for line in lines[shown:]:
            print(f"    {line}", flush=True)
        shown = len(lines)
        state = job_state(coordinator)
        if state in ("finished", "failed"):
            break
        until(
            "the next line",
            lambda n=shown: (
                len(coordinator.log().splitlines()) > n
                or job_state(coordinator) in ("finished", "failed")
            ),
            everyone,
            300,
        )
    for line in coordinator.log().splitlines()[shown:]:
        print(f"    {line}", flush=True)
    companies[0].type("silo", "jobs", "--file", str(companies[0].home / "silo.yaml"))
    if state != "finished":
        raise SystemExit("the job failed")


def ask(one: Organisation, *arguments: str) -> list[dict[str, Any]]:
    """Return the JSON lines that a command prints."""
    done = subprocess.run(
        [BLINDSUM, *arguments, "--json"],
        env=one.environment,
        cwd=one.home,
        capture_output=True,
        text=True,
        check=False,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def seen(coordinator: Organisation) -> list[str]:
    """Return the silos that have connected."""
    found = ask(coordinator, "coordinator", "status")
    return [silo["silo"] for silo in found[0]["silos"] if silo["seen_s_ago"] is not None]


def job_state(coordinator: Organisation) -> str:
    """Return the state of the proposed job."""
    return str(ask(coordinator, "coordinator", "status")[0]["jobs"][0]["state"])


def proposed(one: Organisation, listed: list[str]) -> bool:
    """Return whether a proposal has arrived at a company."""
    return bool(ask(one, *listed))


def results(coordinator: Organisation) -> Path:
    """Return the folder with the run's results."""
    return next((coordinator.home / "coordinator" / "jobs" / "runs").iterdir())


if __name__ == "__main__":
    main()
