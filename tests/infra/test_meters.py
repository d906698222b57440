"""The figures that Prometheus receives, from a real Ray."""

import time
import urllib.request

import pytest
import ray

from blindsum.infra.meters import Meters


@pytest.mark.usefixtures("cluster")
def test_the_drivers_node_exports_a_rounds_figures() -> None:
    meters = Meters("trial", "run-1")
    for _ in range(2):
        meters.round(2, 3, 1000, 3000, {"train": 0.5, "round": 0.75}, {"alder": 1.5, "birch": 0.25})
    here = ray.get_runtime_context().get_node_id()
    (port,) = [n["MetricsExportPort"] for n in ray.nodes() if n["NodeID"] == here]
    tags = 'job_name="trial"', 'run="run-1"'
    expected = {
        ("ray_blindsum_rounds_total", ""): 2,
        ("ray_blindsum_attempts_total", ""): 4,
        ("ray_blindsum_bytes_up_total", ""): 2000,
        ("ray_blindsum_bytes_down_total", ""): 6000,
        ("ray_blindsum_silos", ""): 3,
        ("ray_blindsum_epsilon_left", 'silo="birch"'): 0.25,
        ("ray_blindsum_phase_seconds", 'phase="train"'): 0.5,
    }
    found: dict[tuple[str, str], float] = {}
    end = time.monotonic() + 60
    while found != expected and time.monotonic() < end:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found = {
            key: float(line.rsplit(" ", 1)[1])
            for key in expected
            for line in lines
            if line.startswith(f"{key[0]}{{") and all(tag in line for tag in (*tags, key[1]))
        }
        time.sleep(0.5)
    meters.close()
    assert found == expected
