"""A job's public constants, from what the silos hold together.

    numbers      center: the mean; scale: the deviation; missing.value: the median, where values are
                 missing. To three digits
    categories   those of at least FEWEST records, and other: true for the rest
    training     sampling_rate and expected_batch_size: about BATCH records a step at each silo
    privacy      delta: a tenth of one over all records, down to a power of ten

All follow from released figures, so they cost no further budget. What the noise hides stays as the
job has it.
"""

from __future__ import annotations

import math
from datetime import date, timedelta
from typing import Any

import yaml

from blindsum.platform.job.features_section import Columns, Descriptors
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.folds_section import ColumnFolds, TimeFolds
from blindsum.platform.job.labels_section import as_written
from blindsum.platform.job.yaml_reader import Loader, dump
from blindsum.platform.training.statistics.figures import (
    CategoryFigures,
    Figures,
    NumberFigures,
)
from blindsum.platform.training.statistics.interval import Figure

FEWEST = 10.0
BATCH = 256
_RAREST, _LARGEST = 0.02, 0.5
"""Bounds of the sampling rate."""


def proposed(job_file: JobFile, found: Figures, run: str) -> str:
    """Return the text of the job file with those constants.

    Args:
        run: the name of the run of statistics.
    """
    content: dict[str, Any] = yaml.load(job_file.text, Loader=Loader)
    job, numbers = job_file.job, {one.name: one for one in found.numbers}
    features = content["data"]["features"]
    if isinstance(job.data.features, Columns):
        sections = job.data.features.model_dump(mode="json", exclude_defaults=True)["columns"]
        categories = {one.name: one for one in found.categories}
        features["columns"] = {
            name: _categories(section, categories[name])
            if name in categories
            else _number(section, numbers[name])
            for name, section in sections.items()
        }
        features.pop("names", None)
    if isinstance(job.data.features, Descriptors):
        features.pop("scaling", None)
        features["descriptors"] = {
            name: _scaling(numbers[name]) or {} for name in job.data.features.descriptors
        }
    for name, task in content["data"].get("tasks", {}).items():
        if name in numbers:
            task |= _scaling(numbers[name])
    target = content["data"].get("target", {})
    if target.get("column") in numbers:
        target |= _scaling(numbers[target["column"]])
    _training(job_file, content, found.records)
    said = f"# Constants proposed by `blindsum describe` from run {run}, of {job_file.path.name}.\n"
    return said + dump(content)


def _training(job_file: JobFile, content: dict[str, Any], records: Figure) -> None:
    job = job_file.job
    folds = job.data.folds
    held_out = 0.2 if isinstance(folds, ColumnFolds | TimeFolds) else folds.test_fraction
    each = max(records.value, 1.0) / len(job.silos) * (1 - held_out)
    rate = _digits(min(max(BATCH / each, _RAREST), _LARGEST), 2)
    content["training"] |= {
        "sampling_rate": rate,
        "expected_batch_size": max(1, round(each * rate)),
    }
    if job.privacy.noise != "none":
        tenth = 1 / (10 * max(records.value, 10.0))
        content["privacy"]["delta"] = 10.0 ** math.floor(math.log10(tenth))


def _number(section: dict[str, Any], found: NumberFigures) -> dict[str, Any]:
    section = section | _scaling(found)
    if section.get("missing", {}).get("keep"):
        return section
    median = found.quantiles.get(0.5)
    if median is None or not math.isfinite(median.value) or found.missing.low <= 0:
        return section
    value: Any = _digits(median.value)
    if found.since:
        value = (date.fromisoformat(found.since) + timedelta(days=round(median.value))).isoformat()
    return section | {
        "missing": {"indicator": True} | section.get("missing", {}) | {"value": value}
    }


def _scaling(found: NumberFigures) -> dict[str, Any]:
    mean, deviation = found.mean.value, found.deviation
    if not math.isfinite(mean) or not math.isfinite(deviation.value) or deviation.value <= 0:
        return {}
    scale = _digits(deviation.value)
    # As many digits as matter beside the scale.
    step = 10.0 ** (math.floor(math.log10(scale)) - 2)
    return {"center": float(f"{round(mean / step) * step:.12g}"), "scale": scale}


def _categories(section: dict[str, Any], found: CategoryFigures) -> dict[str, Any]:
    def is_frequent(name: str) -> bool:
        return found.levels[name].value >= FEWEST and found.levels[name].low > 0

    kept = [one for one in section["categories"] if is_frequent(as_written(one))]
    if not kept:
        return section
    other = found.levels.get("(other)")
    rest = len(kept) < len(section["categories"]) or (other is not None and other.low > 0)
    section = section | {"categories": kept}
    if rest or len(kept) < 2:
        section["other"] = True
    if found.missing.low > 0 and "missing" not in section:
        section["missing"] = {"indicator": True}
    value = section.get("missing", {}).get("value")
    if value is not None and value not in kept:
        section["missing"] = {**section["missing"], "indicator": True}
        section["missing"].pop("value")
    return section


def _digits(value: float, digits: int = 3) -> float:
    return float(f"{value:.{digits}g}")
