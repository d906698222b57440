"""The plot of a run: accuracy and epsilon over rounds."""

from __future__ import annotations

import importlib
import io
import math
import sys
import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from blindsum.platform.evaluation.figures import HeldOut, TaskFigures

BLUE, ORANGE, GREY = "#2c6fbb", "#d1701f", "#8a8a8a"


class RunFigure(Figure):
    """A figure that notebooks show as a picture, with or without pyplot."""

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=100)
        return content.getvalue()


def draw_run(
    title: str,
    rounds: Sequence[int],
    held_out: Mapping[int, HeldOut | TaskFigures],
    epsilon: Mapping[str, Sequence[float]],
    budget: Mapping[str, float],
) -> RunFigure:
    """Return a figure with the held-out score above and each silo's spent epsilon below.

    Args:
        rounds: the numbers of the completed rounds.
        held_out: held-out figures by round, for the rounds that were evaluated.
        epsilon: epsilon spent after each round that the silo took part in, by silo; empty without
            differential privacy.
        budget: the epsilon that each silo may spend.
    """
    if "IPython" in sys.modules:
        # Matplotlib looks at it, and MLflow's thread may be importing it: this waits for the end.
        importlib.import_module("IPython")
    figure = RunFigure(figsize=(7, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    wrapped = "\n".join(textwrap.fill(line, 95) for line in title.splitlines())
    above.set_title(wrapped, loc="left", fontsize=9)
    above.set_ylim(0, 1)
    if held_out:
        _draw_score(above, held_out)
    below.set_xlabel("round")
    below.set_ylabel("epsilon spent")
    if epsilon:
        distinct = {
            tuple(spent): [n for n, s in epsilon.items() if tuple(s) == tuple(spent)]
            for spent in epsilon.values()
        }
        for spent, silos in distinct.items():
            label = "every silo" if len(silos) == len(epsilon) else ", ".join(silos)
            if not spent:  # the silo was lost before a round completed
                continue
            lost = len(spent) < len(rounds)
            label += f", until round {rounds[len(spent) - 1]}" if lost else ""
            below.plot(
                rounds[: len(spent)],
                spent,
                color=GREY if lost else ORANGE,
                label=label,
                marker="x" if lost else "o",
                markersize=7 if lost else 3,
                zorder=3 if lost else 2,
            )
        for limit in sorted(set(budget.values())):
            below.axhline(limit, color=GREY, linestyle=":", label=f"budget {limit:g}")
        below.set_ylim(0, 1.15 * max(budget.values()))
        below.legend(loc="lower right", frameon=False)
    else:
        below.text(
            0.5,
            0.5,
            "no differential privacy: epsilon is unbounded",
            transform=below.transAxes,
            ha="center",
            color=ORANGE,
        )
        below.set_yticks([])
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_score(axes: Axes, held_out: Mapping[int, HeldOut | TaskFigures]) -> None:
    rounds, scores = list(held_out), [m.score for m in held_out.values()]
    last, values = scores[-1], [score.value for score in scores]
    axes.set_ylabel(f"held-out {last.name}")
    if (least := min((v for v in values if not math.isnan(v)), default=0.0)) < 0:
        axes.set_ylim(max(-1.0, least), 1)
    axes.plot(rounds, values, color=BLUE, marker="o", markersize=3, label="federated model")
    low, high = zip(*(s.interval or (math.nan, math.nan) for s in scores), strict=True)
    axes.fill_between(rounds, low, high, color=BLUE, alpha=0.15, linewidth=0, label="95 % interval")
    lost = [round for round, value in zip(rounds, values, strict=True) if math.isnan(value)]
    if lost:
        axes.plot(lost, [0.0] * len(lost), "x", color=ORANGE, label="diverged", clip_on=False)
    axes.annotate(
        last.short,
        (rounds[-1], 0.0 if math.isnan(last.value) else last.value),
        (0, 7),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        color=BLUE,
    )
    axes.axhline(last.guess, color=GREY, linestyle=":", label=last.guess_name)
    axes.legend(loc="lower right", frameon=False)
