"""A coordinator that serves is ended by one signal, and reports no crash."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blindsum.pipelines.cli.app import app
from blindsum.pipelines.consortium.coordinator import Coordinator
from blindsum.pipelines.consortium.settings import make_home
from blindsum.pipelines.run.output import Quiet


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_coordinator_ends_on_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    """systemd would call the service failed otherwise, and a pod would be killed in the end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
    folder, log = tmp_path / "coordinator", tmp_path / "log"
    arguments = ["coordinator", "init", "--url", url, "--folder", str(folder)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    # If it is aborted, its stacks are in the log.
    command = [sys.executable, "-X", "faulthandler", "-m", "blindsum"]
    command += ["coordinator", "serve", "--folder", str(folder)]
    with open(log, "w") as file:
        serving = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        end = time.monotonic() + 120
        while "identity" not in log.read_text():
            assert serving.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        serving.send_signal(number)
        serving.send_signal(number)
        assert serving.wait(60) == 0, log.read_text()
    finally:
        serving.kill()
    assert len(log.read_text().splitlines()) == 3, log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_heard_as_soon_as_the_coordinator_says_that_it_serves(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first line came before its handlers: on a busy machine, SIGTERM then aborted it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        where = f"127.0.0.1:{free.getsockname()[1]}"
    home = make_home(tmp_path / "coordinator", f"https://{where}", [where])
    monkeypatch.setattr("blindsum.pipelines.consortium.coordinator.ray_session", nullcontext)
    unheard, stop = list[int](), threading.Event()
    before = {one: signal.signal(one, lambda n, _: unheard.append(n)) for one in (2, 15)}

    def say(line: str) -> None:
        if line.startswith(("serving", "identity")):
            os.kill(os.getpid(), number)
            assert stop.is_set() and not unheard

    try:
        Coordinator(home, "1", say, Quiet, lambda run: None).serve(stop)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
