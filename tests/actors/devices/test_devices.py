"""Silos on different devices sum to one model, and a GPU that is not there is said at once."""

import subprocess
import sys
from pathlib import Path

import pytest

from blindsum.actors.placement import silo_options
from blindsum.platform.data.device import CPU, device_for
from blindsum.platform.errors import ClusterError

ROOT = Path(__file__).parents[3]


def test_all_holds_on_a_second_device() -> None:
    """In a process of its own: torch keeps a device that it once knows."""
    inner = Path(__file__).with_name("on_second.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(inner)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-5000:]


def test_a_gpu_that_is_not_there_is_said() -> None:
    assert device_for(0.0) == CPU
    with pytest.raises(ClusterError, match="torch finds no GPU in this process"):
        device_for(0.5)
    with pytest.raises(ClusterError, match="asks for 1.5 GPUs in all, and this Ray has 1"):
        silo_options({"alder": 1.0, "birch": 0.5, "cedar": 0.0}, {"CPU": 8.0, "GPU": 1.0})
    options = silo_options(
        {"alder": 0.5, "birch": 0.5}, {"GPU": 1.0, "silo:alder": 1, "silo:birch": 1}
    )
    assert [one["num_gpus"] for one in options.values()] == [0.5, 0.5]
