"""A consortium's statistics on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
from rich.console import RenderableType
from rich.text import Text

from blindsum.pipelines.show.console import plain
from blindsum.pipelines.show.table import Sheet
from blindsum.platform.training.statistics.figures import (
    CategoryFigures,
    Correlations,
    Difference,
    Figures,
    NumberFigures,
)
from blindsum.platform.training.statistics.interval import LEVEL, Figure
from blindsum.platform.training.statistics.overlap_figures import Overlap
from blindsum.platform.training.statistics.survival_figures import SurvivalFigures

MOST_ROWS = 60
MOMENTS = ("mean", "deviation")
MOST_PAIRS = 10
STRONG = 0.2
"""Correlations below it are not listed."""


def tables(found: Figures) -> Iterator[RenderableType]:
    """Yield what is shown of all figures."""
    yield Text.assemble(("records", "bold"), f"  {count(found.records)}")
    yield Text(about(found), style="italic")
    if found.undescribed:
        yield Text(left_out(found.undescribed))
    if found.numbers:
        yield ""
        yield _numbers(found)
    if found.categories:
        yield ""
        yield _categories(found)
    if found.correlations and len(found.correlations.names) > 1:
        yield ""
        yield from _correlations(found.correlations)
    if found.survival:
        yield ""
        yield from _survival(found.survival)
    if found.overlap:
        yield ""
        yield from map(Text, overlaps(found.overlap))
    if lines := list(differences(found)):
        yield ""
        yield from map(Text, lines)


def left_out(kind: str) -> str:
    """Return what is not described of features that are no columns."""
    return f"features of kind {kind} have no columns to describe: only records and labels are"


def about(found: Figures) -> str:
    """Return what the figures' intervals are, and what is missing."""
    if not found.complete:
        whole = about(replace(found, complete=True))
        missing = "means, deviations, correlations and differences are missing"
        return f"{whole}. The last round was not completed: {missing}"
    if found.exact:
        return (
            "exact, without differential privacy: figures of few records tell about single ones. "
            "Quantiles are known to the bin that is given"
        )
    return (
        f"in brackets, intervals of {LEVEL:.0%} for the noise; they cover what these silos hold, "
        "not how other records might come out"
    ).replace("%", " %", 1)


def _numbers(found: Figures) -> Sheet:
    shares = list(found.numbers[0].quantiles)
    heads = ["column", "missing", *MOMENTS[: 2 * found.complete]]
    heads += [f"{100 * q:g} %" for q in shares]
    table = Sheet(*heads, title=_title("numbers", len(found.numbers)))
    for one in found.numbers[:MOST_ROWS]:
        table.add(
            _named(one.name, one.is_label, one.differs),
            share(one.missing),
            *moments(found, one),
            *(value(one, one.quantiles[q], bin=found.exact) for q in shares),
        )
    return table


def moments(found: Figures, one: NumberFigures) -> tuple[str, ...]:
    """Return a column's mean and deviation; nothing if they were not computed."""
    return (value(one, one.mean), number(one.deviation)) if found.complete else ()


def _categories(found: Figures) -> Sheet:
    title = _title("categories and classes", len(found.categories))
    table = Sheet("column", "category", "records", "share", title=title)
    whole = max(found.records.value, 1.0)
    for one in found.categories[:MOST_ROWS]:
        name = _named(one.name, one.is_label, one.differs)
        for level, records in one.levels.items():
            table.add(
                name, plain(level), count(records), f"{100 * max(records.value, 0) / whole:.2g} %"
            )
            name = ""
        if one.missing.high > 0:
            table.add(name, "(missing)", "", share(one.missing))
    return table


def _title(what: str, rows: int) -> str:
    return what if rows <= MOST_ROWS else f"{what}: the first {MOST_ROWS} of {rows:,}"


def _named(name: str, is_label: bool, differs: Difference | None) -> str:
    marks = " (label)" if is_label else ""
    return plain(name) + marks + (" *" if differs and differs.found else "")


def _correlations(found: Correlations) -> Iterator[RenderableType]:
    matrix, noise = np.array(found.matrix), np.array(found.deviations)
    rows, columns = np.triu_indices(len(found.names), 1)
    surely = np.abs(matrix[rows, columns]) - 2 * noise[rows, columns]
    order = [i for i in np.argsort(-np.nan_to_num(surely, nan=-1.0)) if surely[i] > STRONG]
    title = f"correlations surely beyond {STRONG:g}, of {count(found.records)} complete records"
    if not order:
        yield Text(f"no {title}", style="italic")
        return
    table = Sheet("column", "and", "r", title=title)
    for i in order[:MOST_PAIRS]:
        a, b = rows[i], columns[i]
        spread = f" ± {2 * noise[a, b]:.2g}" if noise[a, b] else ""
        table.add(plain(found.names[a]), plain(found.names[b]), f"{matrix[a, b]:.2f}{spread}")
    yield table
    if len(order) > MOST_PAIRS:
        yield Text(f"and {len(order) - MOST_PAIRS} more pairs, in statistics.json")


_BY = {
    "molecule": "molecules (by canonical SMILES)",
    "key": "fold keys, such as patients",
    "record": "records (by all their values)",
}


def overlaps(found: Overlap) -> Iterator[str]:
    """Yield what silos have in common, in words."""
    of_all, pairs = count(found.identifiers), count(found.pairs)
    yield (
        f"in common: {pairs} pairs of silos share one of their {_BY[found.by]}; counted in each "
        f"silo, there are {of_all}"
    )
    if found.pairs.low > 0:
        yield (
            "what stands in k silos is protected less than epsilon says, under shared noise at "
            "least k times (docs/privacy.md, records in several silos); and it flatters held-out "
            "figures, unless data.folds puts it into one fold at every silo (kind scaffold, "
            "cluster, random or hash)"
        )


def _survival(found: SurvivalFigures) -> Iterator[RenderableType]:
    title = f"survival: {plain(found.time)} to {plain(found.event)}, with 95 % intervals"
    heads = ["group", "records", "events", "median", f"mean up to {found.ends[-1]:g}"]
    shown = sorted({len(found.ends) // 4, len(found.ends) // 2, len(found.ends) - 1})
    table = Sheet(*heads, *(f"S({found.ends[at]:g})" for at in shown), title=title)
    for one in found.curves:
        table.add(
            plain(one.group) or "all",
            count(one.records),
            count(one.events),
            median(one.median),
            number(one.mean),
            *(number(Figure(one.survival[at], one.low[at], one.high[at])) for at in shown),
        )
    yield table
    yield Text(survival_notes(found))


def survival_notes(found: SurvivalFigures) -> str:
    """Return the test between groups, and how times were counted."""
    said = "intervals cover sampling as well as noise; a time counts at the end of its bin"
    if test := found.log_rank:
        said += f"; log-rank test of {len(found.curves)} groups: chi2 {test.chi2:.3g}, "
        said += f"degrees of freedom {test.degrees}, p {test.p:.2g}"
    return said


def median(found: Figure) -> str:
    """Return a median time with its interval; ends beyond the last bin are open."""
    low, middle, high = (
        f"{one:g}" if math.isfinite(one) else "beyond"
        for one in (found.low, found.value, found.high)
    )
    return f"{middle} ({low} to {high})"


def differences(found: Figures) -> Iterator[str]:
    """Yield which columns differ between silos, in words."""
    every: list[NumberFigures | CategoryFigures] = [*found.numbers, *found.categories]
    if not any(one.differs for one in every):
        return
    named = [plain(one.name) for one in every if one.differs and one.differs.found]
    if named:
        yield f"* silos differ in {', '.join(named)}; the test names no silo"
        return
    yield "no column is shown to differ between silos" + (
        "" if found.exact else "; the noise may hide a difference"
    )


def count(figure: Figure) -> str:
    """Return a count with its interval."""
    if figure.is_exact:
        return f"{figure.value:,.0f}"
    return f"{max(figure.value, 0):,.0f} ({figure.low:,.0f} to {figure.high:,.0f})"


def share(figure: Figure) -> str:
    """Return a share in percent, with its interval."""
    if figure.is_exact:
        return f"{100 * figure.value:.3g} %"
    return f"{100 * figure.value:.2g} % ({100 * figure.low:.2g} to {100 * figure.high:.2g})"


def number(figure: Figure) -> str:
    """Return a number with its interval, with the digits that the interval leaves."""
    if not math.isfinite(figure.value):
        return "hidden by the noise"
    if figure.is_exact:
        return f"{figure.value:.6g}"
    digits = _digits(figure)
    low, middle, high = (_rounded(one, digits) for one in (figure.low, figure.value, figure.high))
    return f"{middle} ({low} to {high})"


def value(column: NumberFigures, figure: Figure, bin: bool = False) -> str:
    """Return a value of a column: a number, or a date.

    Args:
        bin: whether the interval is a histogram's bin, and not the noise's.
    """
    if not column.since or not math.isfinite(figure.value):
        if bin and math.isfinite(figure.value):
            return _rounded(figure.value, _digits(figure))
        return number(figure)
    first = date.fromisoformat(column.since)
    days = (figure.value, figure.low, figure.high)
    middle, low, high = (first + timedelta(days=round(one)) for one in days)
    return f"{middle}" if bin or figure.is_exact else f"{middle} ({low} to {high})"


def _digits(figure: Figure) -> int:
    width = figure.high - figure.low
    return 6 if width <= 0 else max(0, -math.floor(math.log10(width / 2)))


def _rounded(one: float, digits: int) -> str:
    text = f"{one:,.{min(digits, 12)}f}"
    return text.removeprefix("-") if not text.strip("-0.") else text
