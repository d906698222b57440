"""The coefficients of a regression: files in the run's folder, and a table for the terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from blindsum.pipelines.show.console import plain
from blindsum.pipelines.show.table import Pairs, Sheet
from blindsum.platform.job.paths import COEFFICIENT_TABLE, COEFFICIENTS

if TYPE_CHECKING:  # torch, Ray and MLflow are imported while Ray starts, not before
    from blindsum.platform.job.regression_section import Regression
    from blindsum.platform.job.schema import Job
    from blindsum.platform.training.regression.inference import Inference, Row
    from blindsum.platform.training.vector import Vector


def inferred(job: Job, section: Regression, released: Vector) -> Inference:
    """Return the coefficients of a released regression with their errors."""
    from blindsum.platform.training.regression.fit import Fit
    from blindsum.platform.training.regression.fitting import Regressing
    from blindsum.platform.training.regression.inference import infer

    regressing = Regressing(job, section)
    return infer(job, regressing, Fit.of(released, regressing.design.columns))


def files_of(inference: Inference) -> Iterator[tuple[str, bytes]]:
    """Yield the names of the files and their content: all as JSON, and the table as CSV."""
    content = json.dumps(inference.as_dict(), indent=2, allow_nan=False)
    yield COEFFICIENTS, content.encode()
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    named = ("coefficient", "standard_error", "statistic", "p_value", "low", "high")
    odds = ("odds_ratio", "odds_low", "odds_high")
    rows.writerow(["column", *named, *odds, *[f"scaled_{one}" for one in named], "note"])
    for row in inference.rows:
        own = [None if row.estimate is None else getattr(row.estimate, one) for one in named]
        scaled = [None if row.scaled is None else getattr(row.scaled, one) for one in named]
        rows.writerow([row.name, *own, *[getattr(row, one) for one in odds], *scaled, row.note])
    yield COEFFICIENT_TABLE, table.getvalue().encode()


def table_of(inference: Inference) -> Sheet:
    """Return the table, by unit of each column."""
    statistic = "z" if inference.degrees is None else "t"
    interval = f"{100 * inference.level:g} % interval"
    of_classes = inference.family == "binomial"
    headings = ["column", "coefficient", "std. error", statistic, "p", interval]
    headings += ["odds ratio", "its interval"] if of_classes else []
    sheet = Sheet(*headings)
    for row in inference.rows:
        sheet.add(*_cells(row)[: len(headings)])
    return sheet


def _cells(row: Row) -> list[str]:
    own = row.estimate
    if own is None:
        return [plain(row.name), "none", *[""] * 6]
    chance = "" if own.p_value is None else _chance(own.p_value)
    return [
        plain(row.name),
        _figure(own.coefficient),
        _figure(own.standard_error),
        "" if own.statistic is None else f"{own.statistic:.2f}",
        chance,
        _between(own.low, own.high),
        _figure(row.odds_ratio),
        _between(row.odds_low, row.odds_high),
    ]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _chance(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.4g} to {high:.4g}"


def about(inference: Inference) -> Pairs:
    """Return what belongs to the table: how many records, the fit, which errors, and cautions."""
    found = Pairs()
    kind = "logistic" if inference.family == "binomial" else "linear"
    count = "" if inference.records is None else f" of {inference.records:,} records"
    likelihood = inference.log_likelihood
    fit = "" if likelihood is None else f", log-likelihood {likelihood:.2f}"
    found.add("regression", f"{kind}{count}{fit}; coefficients by unit of each column")
    found.add("errors", inference.errors)
    for note in inference.notes:
        found.add("note", plain(note))
    without = {row.note for row in inference.rows if row.estimate is None}
    for note in sorted(without):
        names = ", ".join(plain(row.name) for row in inference.rows if row.note == note)
        found.add("no coefficient", f"{names}: {note}")
    return found
