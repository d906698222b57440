"""The plot of a run, beside threads that import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# MLflow's thread imports IPython when it logs a model, on a cold disk for a second or more.
SLOW = """
import threading
threading.main_thread().join(0.5)
version_info, get_ipython = (9, 0), lambda: None
"""
PROGRAM = """
import sys, threading
from blindsum.platform.tracking.curves import draw_run
threading.Thread(target=lambda: __import__("IPython")).start()
while "IPython" not in sys.modules:
    pass
assert draw_run("a run", [1], {}, {"alder": [0.5]}, {"alder": 1.0}).axes
"""


def test_a_plot_is_drawn_while_another_thread_imports_ipython(tmp_path: Path) -> None:
    (tmp_path / "IPython.py").write_text(SLOW)
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
