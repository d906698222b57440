"""The job of statistics that belongs to a job: the same silos, tables and protections."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from blindsum.platform.errors import JobError
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.schema import Job
from blindsum.platform.job.yaml_reader import check_content, dump

ENDING = "-statistics"
_LONGEST = 40
_WIDEST = 2.0**39
"""A scale with which no value up to 10^12 is cut, and none is rounded: features have 24 bits."""
_MARGIN = 4.0
"""How many times the expected number of records a silo may have."""


def derived(
    job_file: JobFile,
    epsilon: float | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
) -> JobFile:
    """Return the job of statistics.

    Gaps and unknown categories are counted, and no number is cut, whatever the job says of them: it
    may have been written before anyone knew the data.

    Args:
        epsilon: the budget; default: the job's `privacy.describe_epsilon`.
        bounds: public bounds by column.

    Raises:
        JobError: there is no budget, or the job's labels are its silos' own.
    """
    job = job_file.job
    if job.data.target is None and not job.data.tasks:
        raise JobError(
            "this job names no label that all silos know, and statistics are of what all know",
            "Describe a job with data.target or data.tasks.",
        )
    content: dict[str, Any] = {
        "name": job.name[: _LONGEST - len(ENDING)] + ENDING,
        "silos": [_silo(one.model_dump(mode="json", exclude_none=True)) for one in job.silos],
        "data": _data(job),
        "model": {"kind": "statistics", "bounds": _bounds(bounds or {})},
        "training": {
            "rounds": 3,
            "local_steps": 1,
            "learning_rate": 1.0,
            "sampling_rate": 1.0,
            "expected_batch_size": _most_records(job),
        },
        "privacy": _privacy(job, epsilon),
        "encryption": {
            "scheme": job.encryption.scheme,
            "verify": job.encryption.verify,
            "bits": 24,
        },
        "deadlines": job.deadlines.model_dump(mode="json"),
        "tracking": job.tracking.model_dump(mode="json", exclude_none=True)
        | {"experiment": job.tracking.experiment or job.name},
        "runs": job.runs,
    }
    found = check_content(content, Job, (), lambda content, place: False)
    path = job_file.path.with_name(f"{job_file.path.stem}{ENDING}.yaml")
    return JobFile(found.section, path, dump(content))


def _silo(section: dict[str, Any]) -> dict[str, Any]:
    return {key: section[key] for key in ("name", "data", "state", "identity") if key in section}


def _bounds(bounds: Mapping[str, tuple[float, float]]) -> dict[str, dict[str, float]]:
    return {name: {"low": low, "high": high} for name, (low, high) in bounds.items()}


def _most_records(job: Job) -> int:
    expected = job.training.expected_batch_size / job.training.sampling_rate
    return max(10_000, math.ceil(_MARGIN * expected))


def _privacy(job: Job, epsilon: float | None) -> dict[str, Any]:
    section = job.privacy
    if section.noise == "none":
        return {"noise": "none"}
    budget = epsilon or section.describe_epsilon
    strict = [one for one in job.silos if one.epsilon is not None and one.epsilon < (budget or 0)]
    if strict:
        named = ", ".join(f"{one.name} {one.epsilon:g}" for one in strict)
        raise JobError(
            f"statistics with epsilon {budget:g} are above the budget of silos ({named})",
            "Lower privacy.describe_epsilon, or --epsilon.",
        )
    if budget is None:
        raise JobError(
            "statistics need a budget of their own",
            "Set privacy.describe_epsilon in the job, or give --epsilon. It is spent on top of the "
            "training's.",
        )
    content: dict[str, Any] = {"noise": section.noise, "epsilon": budget, "delta": section.delta}
    if section.noise == "shared":
        content["colluders"] = section.colluders
    if section.test_seed is not None:
        content["test_seed"] = section.test_seed
    return content


def _data(job: Job) -> dict[str, Any]:
    content: dict[str, Any] = job.data.model_dump(mode="json", exclude_none=True)
    features = content["features"]
    if features["kind"] == "columns":
        features["columns"] = {name: _column(one) for name, one in features["columns"].items()}
    if features["kind"] == "descriptors":
        features.pop("scaling", None)
        features["descriptors"] = {
            name: {"center": 0.0, "scale": _WIDEST} for name in features["descriptors"]
        }
    if "target" in content:
        content["target"].pop("focal", None)
    for task in content.get("tasks", {}).values():
        task.pop("focal", None)
        if task["kind"] == "regression":
            task |= {"center": 0.0, "scale": _WIDEST}
    return content


def _column(section: Mapping[str, Any]) -> dict[str, Any]:
    missing: dict[str, Any] = {"indicator": True}
    if codes := (section.get("missing") or {}).get("codes"):
        missing["codes"] = codes
    if section.get("categories"):
        return {"categories": section["categories"], "other": True, "missing": missing}
    found: dict[str, Any] = {"center": 0.0, "scale": _WIDEST}
    since = section.get("date")
    if since:
        found["date"] = since
    return found | {"missing": {"value": since["since"] if since else 0.0} | missing}
