"""Digests that silos of different machines and versions must agree on, pinned to their values.

A value here changes when what it is over does. Then silos of both versions refuse each other, and
approvals that owners gave no longer hold: say so in CHANGELOG.md.
"""

from __future__ import annotations

import hashlib
from typing import Any

from blindsum.he.exchange import Exchange
from blindsum.he.parameters import Parameters
from blindsum.platform.evaluation.figures import TASK_COUNTS
from blindsum.platform.evaluation.pair_figures import GROUP_COUNTS
from blindsum.platform.job.schema import Job
from blindsum.platform.state.approval import job_digest

JOB: dict[str, Any] = {
    "name": "golden",
    "silos": [{"name": "alder", "data": "a.parquet"}, {"name": "birch", "data": "b.parquet"}],
    "data": {
        "features": {"kind": "columns", "columns": {"x": {"center": 1.5, "scale": 2.0}}},
        "target": {"column": "y", "classes": ["no", "yes"]},
        "folds": {"kind": "hash", "column": "id", "salt": "s", "test_fraction": 0.25},
    },
    "model": {"kind": "mlp", "hidden": [8]},
    "training": {
        "rounds": 3,
        "local_steps": 1,
        "sampling_rate": 0.2,
        "expected_batch_size": 22,
        "learning_rate": 0.5,
    },
    "privacy": {"noise": "shared", "epsilon": 3, "delta": 1e-4},
}


def test_a_job_s_digest() -> None:
    """An owner's approval is for this digest."""
    assert (
        job_digest(Job.model_validate(JOB))
        == "3890aa2c5cd69f3c4372b0ddf5cf5eccb68ee2f55210f8be49cefe75385daa25"
    )


def test_one_worker_is_no_part_of_a_job_s_digest() -> None:
    """A job that does not share its tables keeps the approvals that owners gave."""
    alder, birch = JOB["silos"]
    plain = Job.model_validate(JOB | {"silos": [alder | {"workers": 1}, birch]})
    shared = Job.model_validate(JOB | {"silos": [alder | {"workers": 2}, birch]})
    assert job_digest(plain) == job_digest(Job.model_validate(JOB)) != job_digest(shared)


def test_the_parameters_digest() -> None:
    """Uploads under other parameters are refused."""
    assert (
        Parameters.derive(3).digest
        == "9b77e6866f525b265346c8fb7fe37f275596f1147646de8b9ca8b5939ba0f155"
    )
    assert (
        Parameters.derive(3).exact.digest
        == "d9e891eebaa9693695d76fcc51985d89ceff24e6d2994471852c9a5a1ef7d9cc"
    )
    assert (
        Parameters.derive(64, 12, scheme="none").digest
        == "0cfb1d3726be51e99831dde2699d183ec1bc314c3ef6ff212bdaf55803ff1fad"
    )


def test_the_counts_of_tasks_and_their_order() -> None:
    """They are sent without names: another order is another meaning."""
    names = ",".join((*TASK_COUNTS, *GROUP_COUNTS))
    assert (
        hashlib.sha256(names.encode()).hexdigest()
        == "1120b62649495fea8b68512eb565bb6e14888e12972ae36a8510660d114f671b"
    )


def test_an_exchange_s_digest() -> None:
    """Masks are drawn from it: silos that compute another do not cancel."""
    one = Exchange(
        run="run-1",
        round=4,
        attempt=1,
        purpose="update",
        roster=("alder", "birch", "cedar"),
        values=515,
        counts=9,
        range=0.125,
        parameters=Parameters.derive(3),
        model="ab" * 32,
        clipping=1.5,
    )
    assert one.digest.hex() == "9dd70578a1ed4bd91476a9116b0550d72b2c15ebbd1e9ed8896401995090e26e"
