"""Skips the tests that need more than pip installs: real hosts and a real database.

A skipped test says what it lacks.
"""

import glob
import os
import shutil

import pytest

collect_ignore: list[str] = []
MISSING: list[str] = []

if os.geteuid() != 0 or shutil.which("ip") is None:
    collect_ignore += ["test_cluster.py", "test_separate.py"]
    MISSING.append("clusters of several hosts: need root and iproute2")
if shutil.which("systemd-analyze") is None:
    collect_ignore.append("test_systemd_analyze.py")
    MISSING.append("systemd's own check of the units: needs systemd-analyze")
if not (shutil.which("initdb") or glob.glob("/usr/lib/postgresql/*/bin/initdb")):
    collect_ignore.append("test_mlflow_server.py")
    MISSING.append("MLflow on PostgreSQL: needs PostgreSQL's server")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for what in MISSING:
        terminalreporter.write_line(f"NOT TESTED HERE, {what}", red=True)
