"""What a proposed job says of gaps, categories and dates, for the silo's owner."""

from __future__ import annotations

from collections.abc import Iterator

from blindsum.platform.job.features_section import Columns, FeatureColumn, FeatureSection
from blindsum.platform.job.labels_section import as_written
from blindsum.platform.job.own_features_section import OwnFeatures
from blindsum.platform.job.text_section import Text


def feature_lines(features: FeatureSection) -> Iterator[tuple[str, list[str]]]:
    """Yield each kind of setting, and what is said of which columns; nothing if none is used."""
    if isinstance(features, OwnFeatures):
        yield "features", [f"{features.function} makes {', '.join(_tensors(features))}"]
    if isinstance(features, Text) and features.tokenizer:
        yield "tokenizer", [f"{features.tokenizer.file}, SHA-256 {features.tokenizer.sha256}"]
    columns = features.columns if isinstance(features, Columns) else {}
    said = {
        "categories": [f"{n} ({_categories(c)})" for n, c in columns.items() if c.categories],
        "dates": [f"{n} (days since {c.date.since})" for n, c in columns.items() if c.date],
        "gaps count as": [f"{n} ({_gaps(c)})" for n, c in columns.items() if c.missing],
    }
    yield from ((label, lines) for label, lines in said.items() if lines)


def _tensors(features: OwnFeatures) -> list[str]:
    if not isinstance(features.shape, dict):
        return [f"a tensor of shape {tuple(features.shape)}"]
    return [f"{n} ({one.dtype}, shape {tuple(one.shape)})" for n, one in features.shape.items()]


def _categories(column: FeatureColumn) -> str:
    names = [as_written(one) for one in column.categories]
    return ", ".join([*names, *(["other"] if column.other else [])])


def _gaps(column: FeatureColumn) -> str:
    missing = column.missing
    if missing is None:
        return ""
    said = [] if missing.value is None else [as_written(missing.value)]
    said += ["a feature of its own"] if missing.indicator else []
    said += ["gaps, for which trees have a side"] if missing.keep else []
    codes = f"; also {', '.join(map(as_written, missing.codes))}" if missing.codes else ""
    return " and ".join(said) + codes
