"""A coordinator that serves is ended by one signal, and reports no crash."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blindsum.pipelines.cli.app import app


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_coordinator_ends_on_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    """systemd would call the service failed otherwise, and a pod would be killed in the end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
    folder, log = tmp_path / "coordinator", tmp_path / "log"
    arguments = ["coordinator", "init", "--url", url, "--folder", str(folder)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    command = [sys.executable, "-m", "blindsum", "coordinator", "serve", "--folder", str(folder)]
    with open(log, "w") as file:
        serving = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        end = time.monotonic() + 120
        while "identity" not in log.read_text():
            assert serving.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        serving.send_signal(number)
        serving.send_signal(number)
        assert serving.wait(60) == 0
    finally:
        serving.kill()
    assert len(log.read_text().splitlines()) == 3, log.read_text()
