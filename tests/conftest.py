"""Small real tables, job files made from them, and one Ray cluster for the whole session."""

from __future__ import annotations

import copy
import os
import sys

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] = "1"
os.environ["RAY_metrics_report_interval_ms"] = "1000"
os.environ["RAY_worker_niceness"] = "0"  # as `blindsum.infra.ray_session` does
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # every port on 127.0.0.1
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
import yaml
from sklearn.datasets import load_breast_cancer

from blindsum.he.identity import Identity
from blindsum.pipelines.show.console import console
from blindsum.platform.job.file import JobFile, load_job
from blindsum.platform.state.ledger import Ledger

SILOS = ("alder", "birch", "cedar")
COLUMNS = {
    "mean_radius": {"center": 14.0, "scale": 3.5},
    "mean_texture": {"center": 19.0, "scale": 4.0},
    "mean_smoothness": {"center": 0.1, "scale": 0.015},
    "mean_concavity": {"center": 0.09, "scale": 0.08},
}
MakeJob = Callable[..., JobFile]

torch.set_num_threads(1)

hypothesis.settings.register_profile("busy machine", deadline=None)
hypothesis.settings.load_profile("busy machine")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one of the test processes run all tests that need the cluster, because there is one. The
    same holds for the tests on separate nodes."""
    for item in items:
        for shared in ("cluster", "lan", "wan"):
            if shared in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.xdist_group(shared))


@pytest.fixture(scope="session")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of plans for all tests of all processes of this run."""
    base = tmp_path_factory.getbasetemp()
    several = (
        "PYTEST_XDIST_WORKER" in os.environ
    )  # each then has a folder of its own in a common one
    folder = (base.parent if several else base) / "plans"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, plans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLINDSUM_HOME", str(tmp_path / "home"))
    # Plans follow from public settings alone: what one test computed, the others find.
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "home" / "plans").symlink_to(plans)
    # A developer's own owner's file is no part of a test.
    monkeypatch.setattr(
        "blindsum.platform.job.owner.places", lambda: (tmp_path / "owner" / "silo.yaml",)
    )


@pytest.fixture(autouse=True)
def _own_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command keeps stdout until its process ends: the next test must not write to that one."""
    monkeypatch.setattr("blindsum.pipelines.show.console._kept", None)
    console._buffer.clear()  # an interrupt in another test may have left it collecting
    console._buffer_index = 0
    monkeypatch.setattr("sys.stdout", sys.stdout)


@pytest.fixture(scope="session")
def breast_cancer() -> pa.Table:
    """scikit-learn's breast cancer records with a few columns, a patient and a diagnosis."""
    data = load_breast_cancer()
    names = [name.replace(" ", "_") for name in data.feature_names]
    columns = {name: data.data[:, names.index(name)] for name in COLUMNS}
    return pa.table(
        {
            **columns,
            "patient": pa.array(np.arange(len(data.target)) // 2),
            "diagnosis": pa.array(np.where(data.target == 1, "benign", "malignant")),
        }
    )


@pytest.fixture
def tables(breast_cancer: pa.Table, tmp_path: Path) -> dict[str, Path]:
    """One Parquet file per silo."""
    paths = {}
    for i, silo in enumerate(SILOS):
        paths[silo] = tmp_path / f"{silo}.parquet"
        rows = np.arange(i * 150, (i + 1) * 150)
        pyarrow.parquet.write_table(breast_cancer.take(rows), paths[silo])
    return paths


def job_content(tmp_path: Path) -> dict[str, Any]:
    return {
        "name": "trial",
        "seed": 3,
        "silos": [
            {"name": s, "data": f"{s}.parquet", "state": str(tmp_path / "state" / s)} for s in SILOS
        ],
        "data": {
            "features": {"kind": "columns", "columns": copy.deepcopy(COLUMNS)},
            "target": {"column": "diagnosis", "classes": ["malignant", "benign"]},
            "folds": {
                "kind": "hash",
                "column": "patient",
                "key": "integer",
                "salt": "t",
                "test_fraction": 0.25,
            },
        },
        "model": {"kind": "linear"},
        "training": {
            "rounds": 3,
            "local_steps": 2,
            "sampling_rate": 0.2,
            "expected_batch_size": 22,
            "learning_rate": 0.5,
        },
        "privacy": {"noise": "local", "epsilon": 3, "delta": 1e-4},
    }


@pytest.fixture
def make_job(tables: dict[str, Path], tmp_path: Path) -> MakeJob:
    """Write and load a small job; keyword `set_` takes overrides as `--set` does."""

    def make(*overrides: str) -> JobFile:
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(job_content(tmp_path), sort_keys=False))
        return load_job(path, overrides)

    return make


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A Ray of two nodes: the first is home to alder and birch, the second to cedar."""
    import ray
    from ray.cluster_utils import Cluster

    ray_cluster = Cluster()
    store = 150 * 2**20
    ray_cluster.add_node(
        num_cpus=2,
        object_store_memory=store,
        resources={
            f"silo:{name}": 1 for name in ("alder", "birch", "elm", "fir", "gum", "hazel", "oak")
        },
        include_dashboard=False,
    )
    ray_cluster.add_node(num_cpus=2, object_store_memory=store, resources={"silo:cedar": 1})
    ray.init(ray_cluster.address, log_to_driver=False, logging_level="ERROR")
    yield ray_cluster
    ray.shutdown()
    ray_cluster.shutdown()


def ledger_of(state: Path, silo: str) -> Ledger:
    """The ledger in a silo's state folder, under the silo's own identity; verified."""
    return Ledger(state / "ledger.sqlite", silo, Identity(state / "identity.pem"))
