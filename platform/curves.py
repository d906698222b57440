"""The picture of a run: accuracy and epsilon over rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

BLUE, ORANGE, GREY = "#2c6fbb", "#d1701f", "#8a8a8a"


def draw_run(
    path: Path,
    title: str,
    rounds: Sequence[int],
    accuracy: Sequence[float],
    largest_class: float,
    epsilon: Mapping[str, Sequence[float]],
    budget: Mapping[str, float],
) -> None:
    """Write a PNG: held-out accuracy above, spent epsilon per silo below.

    Args:
        largest_class: accuracy of always guessing the most frequent class.
        epsilon: spent after each round, by silo; empty without differential privacy.
        budget: epsilon that each silo may spend.
    """
    figure = Figure(figsize=(7, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    above.set_title(title, loc="left", fontsize=9)
    above.plot(rounds, accuracy, color=BLUE, marker="o", markersize=3, label="federated model")
    above.annotate(
        f"{accuracy[-1]:.3f}", (rounds[-1], accuracy[-1]), (0, 7), textcoords="offset points",
        ha="center", fontsize=9, color=BLUE,
    )  # fmt: skip
    above.axhline(largest_class, color=GREY, linestyle=":", label="always the largest class")
    above.set_ylabel("held-out accuracy")
    above.set_ylim(0, 1)
    above.legend(loc="lower right", frameon=False)
    below.set_xlabel("round")
    below.set_ylabel("epsilon spent")
    if epsilon:
        distinct = {tuple(spent): [n for n, s in epsilon.items() if tuple(s) == tuple(spent)]
                    for spent in epsilon.values()}  # fmt: skip
        for spent, silos in distinct.items():
            label = "every silo" if len(silos) == len(epsilon) else ", ".join(silos)
            below.plot(rounds, spent, color=ORANGE, marker="o", markersize=3, label=label)
        for limit in sorted(set(budget.values())):
            below.axhline(limit, color=GREY, linestyle=":", label=f"budget {limit:g}")
        below.set_ylim(0, 1.15 * max(budget.values()))
        below.legend(loc="lower right", frameon=False)
    else:
        below.text(0.5, 0.5, "no differential privacy: epsilon is unbounded",
                   transform=below.transAxes, ha="center", color=ORANGE)  # fmt: skip
        below.set_yticks([])
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
