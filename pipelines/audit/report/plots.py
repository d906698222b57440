"""The report's plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture

from blindsum.pipelines.audit.attacks.tradeoff import Point
from blindsum.pipelines.audit.evidence import NAMED, Defence, Figure

BLUE, ORANGE, GREY = "#2c6fbb", "#d1701f", "#8a8a8a"


def membership(
    curves: Mapping[Defence, Sequence[tuple[float, float]]],
    exposures: Mapping[Defence, Sequence[float]],
) -> Picture:
    """Return the curve of likelihood ratios, and how exposed the records are."""
    picture = Picture(figsize=(9.5, 3.6), layout="constrained")
    FigureCanvasAgg(picture)
    curve, risks = picture.subplots(1, 2)
    colours: dict[Defence, str] = {"none": ORANGE, "dp": BLUE}
    for defence, points in curves.items():
        x, y = zip(*points, strict=True)
        curve.plot(x, np.maximum(y, 1e-4), color=colours[defence], label=NAMED[defence])
        counts = np.array(exposures[defence])
        edges = np.linspace(0, 1, len(counts) + 1)
        risks.stairs(counts, edges, color=colours[defence], label=NAMED[defence], linewidth=1.5)
    curve.plot([1e-4, 1], [1e-4, 1], color=GREY, linestyle=":", label="guessing")
    curve.set(
        xscale="log",
        yscale="log",
        xlabel="false positive rate",
        ylabel="true positive rate",
        title="likelihood ratios (LiRA), all targets",
    )
    risks.set(
        xlabel="chance that LiRA tells a member from a non-member",
        ylabel="share of records",
        title="exposure of each record",
    )
    for axes in (curve, risks):
        _plain(axes)
    return picture


def costs(points: Sequence[Point], planned: float, score: str) -> Picture:
    """Return the held-out score by epsilon."""
    picture = Picture(figsize=(6.0, 3.0), layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.subplots()
    private = [p for p in points if p.epsilon is not None]
    epsilons = [p.epsilon or 0.0 for p in private]
    axes.errorbar(
        epsilons,
        [p.score.value for p in private],
        yerr=_reach([p.score for p in private]),
        color=BLUE,
        marker="o",
        capsize=3,
        label="with privacy",
    )
    for bare in (p.score for p in points if p.epsilon is None):
        axes.axhline(bare.value, color=ORANGE, label="without privacy")
        (below,), (above,) = _reach([bare])
        axes.axhspan(bare.value - below, bare.value + above, color=ORANGE, alpha=0.12, linewidth=0)
    axes.axvline(planned, color=GREY, linestyle=":", label="planned epsilon")
    axes.set(xscale="log", xlabel="epsilon", ylabel=f"held-out {score}")
    axes.set_xticks(epsilons, [f"{e:g}" for e in epsilons])
    axes.minorticks_off()
    _plain(axes)
    return picture


def _reach(figures: Sequence[Figure]) -> list[list[float]]:
    """Return the distances from each value down and up to the ends of its interval."""
    return [
        [f.value - (f.value if f.low is None else f.low) for f in figures],
        [(f.value if f.high is None else f.high) - f.value for f in figures],
    ]


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    axes.title.set_fontsize(9)
