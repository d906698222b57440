"""A consortium's statistics as one HTML page with plots."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture

from blindsum.pipelines.show.page import PAGE, embedded
from blindsum.pipelines.statistics.table import (
    MOMENTS,
    about,
    count,
    differences,
    left_out,
    median,
    moments,
    number,
    overlaps,
    share,
    survival_notes,
    value,
)
from blindsum.platform.training.statistics.figures import (
    CategoryFigures,
    Correlations,
    Figures,
    NumberFigures,
)
from blindsum.platform.training.statistics.survival_figures import SurvivalFigures

BLUE, BAND = "#2c6fbb", "#b7cfe8"
_PER_PICTURE = 12
_MOST_PLOTS = 96
_MOST_BARS, _MOST_NOISED = 64, 24


def as_page(found: Figures, run: str, privacy: str) -> str:
    """Return the page.

    Args:
        privacy: what protects the figures, in a sentence.
    """
    parts = [
        "<h1>What the silos hold together</h1>",
        f"<p>{html.escape(run)}</p>",
        f"<p class=note>{html.escape(f'{_sentence(privacy)} {_sentence(about(found))}')}</p>",
        f"<p>Records: <b>{html.escape(count(found.records))}</b></p>",
        *(f"<p>{html.escape(_sentence(line))}</p>" for line in differences(found)),
    ]
    if found.undescribed:
        parts.append(f"<p>{html.escape(left_out(found.undescribed).capitalize())}.</p>")
    if found.numbers:
        parts += ["<h2>Numbers</h2>", _numbers(found), *_histograms(found.numbers)]
    if found.categories:
        parts += ["<h2>Categories and classes</h2>", *map(_category, found.categories)]
    if found.survival:
        parts += _survival(found.survival)
    if found.overlap:
        parts += ["<h2>What silos have in common</h2>"]
        parts += [f"<p>{html.escape(one.capitalize())}.</p>" for one in overlaps(found.overlap)]
    if found.correlations and len(found.correlations.names) > 1:
        parts += _correlations(found.correlations)
    return PAGE.format(title=f"Statistics: {html.escape(run)}", body="\n".join(parts))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{html.escape(one)}</th>" for one in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<div class=wide><table><tr>{cells}</tr>{body}</table></div>"


def _numbers(found: Figures) -> str:
    shares = list(found.numbers[0].quantiles)
    head = ["column", "missing", *MOMENTS[: 2 * found.complete]]
    head += [f"{100 * q:g} %" for q in shares]
    head += ["silos differ"] if found.numbers[0].differs else []
    rows = [
        [
            one.name + (" (label)" if one.is_label else ""),
            share(one.missing),
            *moments(found, one),
            *(value(one, one.quantiles[q], bin=found.exact) for q in shares),
            *([_verdict(one)] if one.differs else []),
        ]
        for one in found.numbers
    ]
    cut = "" if found.exact or not found.complete else _cut(found.numbers)
    return _table(head, rows) + cut


def _cut(numbers: Sequence[NumberFigures]) -> str:
    bounds = "; ".join(
        f"{html.escape(one.name)} {one.cut[0]:.4g} to {one.cut[1]:.4g}"
        for one in numbers
        if one.cut
    )
    return (
        "<p class=legend>Values beyond these bounds are cut before they are summed, which limits "
        "what one record can add; what lies beyond is added to means and deviations by the "
        f"histogram: {bounds}.</p>"
    )


def _verdict(one: NumberFigures | CategoryFigures) -> str:
    if one.differs is None:
        return ""
    return f"{'yes' if one.differs.found else 'not shown'} (p {one.differs.p:.2g})"


def _category(one: CategoryFigures) -> str:
    rows = [[level, count(figure)] for level, figure in one.levels.items()]
    if one.missing.high > 0:
        rows.append(["(missing)", share(one.missing)])
    named = html.escape(one.name) + (" (label)" if one.is_label else "")
    verdict = f"<p class=legend>silos differ: {_verdict(one)}</p>" if one.differs else ""
    return f"<h3>{named}</h3>{_table(['category', 'records'], rows)}{verdict}"


def _histograms(numbers: Sequence[NumberFigures]) -> Iterator[str]:
    yield "<h2>Histograms</h2>"
    if any(any(one.noise) for one in numbers):
        yield (
            "<p class=legend>Bars below nothing, and the pale bands, are the noise: two of its "
            "deviations on either side. Cut off where the bands hide all counts.</p>"
        )
    for start in range(0, min(len(numbers), _MOST_PLOTS), _PER_PICTURE):
        yield embedded(_picture(numbers[start : start + _PER_PICTURE]))
    if len(numbers) > _MOST_PLOTS:
        yield f"<p class=legend>The first {_MOST_PLOTS} of {len(numbers)} columns.</p>"


def _picture(numbers: Sequence[NumberFigures]) -> Picture:
    rows = -(-len(numbers) // 4)
    picture = Picture(figsize=(10.5, 1.9 * rows), layout="constrained")
    FigureCanvasAgg(picture)
    for i, one in enumerate(numbers):
        axes = picture.add_subplot(rows, 4, i + 1)
        edges, counts, noise = _fewer(one)
        shown = _visible(counts, noise)
        low, high = edges[shown[0]], edges[shown[-1] + 1]
        middles = (edges[1:] + edges[:-1]) / 2
        axes.bar(middles[shown], counts[shown], np.diff(edges)[shown], color=BLUE)
        if noise.any():
            axes.fill_between(
                middles[shown],
                (counts - 2 * noise)[shown],
                (counts + 2 * noise)[shown],
                step="mid",
                color=BAND,
                alpha=0.6,
            )
        axes.set_xlim(low, high)
        axes.set_title(one.name[:28], fontsize=8)
        axes.tick_params(labelsize=6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return picture


def _fewer(one: NumberFigures) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return edges, counts and noise with at most _MOST_BARS bars where there are values."""
    edges, counts = np.array(one.edges), np.array(one.counts)
    noise = np.array(one.noise)
    at = _visible(counts, noise)
    edges, counts, noise = edges[at[0] : at[-1] + 2], counts[at], noise[at]
    width = -(-len(counts) // (_MOST_NOISED if noise.any() else _MOST_BARS))
    starts = np.arange(0, len(counts), width)
    variances = np.add.reduceat(noise**2, starts)
    return (
        np.append(edges[starts], edges[-1]),
        np.add.reduceat(counts, starts),
        np.sqrt(variances),
    )


def _visible(counts: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return the bins from the first to the last that is filled beyond the noise."""
    filled = np.flatnonzero(counts > 2 * noise)
    if not len(filled):
        return np.arange(len(counts))
    return np.arange(filled[0], filled[-1] + 1)


def _correlations(found: Correlations) -> Iterator[str]:
    yield "<h2>Correlations</h2>"
    yield (
        f"<p class=legend>Pearson's, of {html.escape(count(found.records))} records without gaps "
        "in these columns. Pale where the noise (two deviations) reaches over 0.</p>"
    )
    matrix, noise = np.array(found.matrix), np.array(found.deviations)
    size = len(found.names)
    picture = Picture(figsize=(min(10.5, 2.5 + 0.4 * size),) * 2, layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.add_subplot()
    sure = np.where(np.abs(matrix) > 2 * noise, 1.0, 0.35)
    axes.imshow(np.nan_to_num(matrix), cmap="RdBu_r", vmin=-1, vmax=1, alpha=sure)
    names = [name[:20] for name in found.names]
    axes.set_xticks(range(size), names, rotation=90, fontsize=7)
    axes.set_yticks(range(size), names, fontsize=7)
    if size <= 16:
        for i in range(size):
            for j in range(size):
                text = f"{matrix[i, j]:.2f}" if np.isfinite(matrix[i, j]) else "-"
                axes.text(j, i, text, ha="center", va="center", fontsize=6)
    yield embedded(picture)


def _survival(found: SurvivalFigures) -> Iterator[str]:
    yield "<h2>Survival</h2>"
    yield (
        f"<p class=legend>Kaplan-Meier estimate of {html.escape(found.time)} to "
        f"{html.escape(found.event)}, with intervals of 95 %; "
        f"{html.escape(survival_notes(found))}.</p>"
    )
    picture = Picture(figsize=(7.5, 4.0), layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.add_subplot()
    ends = np.array([0.0, *found.ends])
    for one in found.curves:
        middle, low, high = (np.array([1.0, *x]) for x in (one.survival, one.low, one.high))
        (line,) = axes.step(ends, middle, where="post", label=one.group[:40] or "all")
        color = line.get_color()
        axes.fill_between(ends, low, high, step="post", color=color, alpha=0.2, linewidth=0)
    axes.set_ylim(0, 1.02)
    axes.set_xlim(0, ends[-1])
    axes.set_xlabel(found.time)
    axes.set_ylabel("survival")
    if len(found.curves) > 1:
        axes.legend(fontsize=7)
    yield embedded(picture)
    heads = ["group", "records", "events", "median", f"mean up to {found.ends[-1]:g}"]
    rows = [
        [
            one.group or "all",
            count(one.records),
            count(one.events),
            median(one.median),
            number(one.mean),
        ]
        for one in found.curves
    ]
    yield _table(heads, rows)
