"""The job of statistics that benchmarks have in common: three silos under shared noise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from blindsum.platform.job.schema import Job

SILOS = ("alder", "birch", "cedar")


def statistics_job(
    name: str, columns: Mapping[str, Any], model: Mapping[str, Any], epsilon: float, records: int
) -> Job:
    """Return the job; no table of it exists.

    Args:
        records: the most of a silo.
    """
    state = Path(mkdtemp())
    return Job.model_validate(
        {
            "name": name,
            "silos": [
                {"name": one, "data": f"{one}.csv", "state": str(state / one)} for one in SILOS
            ],
            "data": {
                "features": {"kind": "columns", "columns": dict(columns)},
                "target": {"column": "y", "classes": ["no", "yes"]},
                "folds": {"kind": "random", "salt": "s"},
            },
            "model": {"kind": "statistics", **model},
            "training": {
                "rounds": 3,
                "local_steps": 1,
                "sampling_rate": 1.0,
                "learning_rate": 1.0,
                "expected_batch_size": records,
            },
            "privacy": {"noise": "shared", "epsilon": epsilon, "delta": 1e-5},
            "encryption": {"bits": 24},
        }
    )
