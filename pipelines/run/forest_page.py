"""What a forest learned from which feature: a table of importances, and the functions of features.

Everything follows from the released forest and from the job: it costs no budget.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from blindsum.pipelines.run.step_plot import Steps, step_plot
from blindsum.pipelines.show.page import PAGE
from blindsum.platform.job.labels_section import as_written
from blindsum.platform.job.schema import Job
from blindsum.platform.job.trees_section import Boosted
from blindsum.platform.training.trees.boosting import Boosting
from blindsum.platform.training.trees.importance import Importance, importances
from blindsum.platform.training.trees.shapes import Shape, shapes
from blindsum.platform.training.trees.units import Unit, units_of
from blindsum.platform.training.vector import Vector

BAND = 1.96
"""Deviations on each side that hold 95 % of Gaussian noise."""

_MOST_ROWS, _MOST_PLOTS = 30, 24
"""How many features the page shows, the most important ones. The JSON file has all."""


@dataclass(frozen=True)
class Curve:
    """What a feature adds to an output, for readers.

    Attributes:
        unit: of the feature.
        output: the class or task.
        shape: the function. Values are in logits, or in the unit of a task that is a number.
    """

    unit: Unit
    output: str
    shape: Shape

    def as_dict(self) -> dict[str, Any]:
        """Return the function by name, with edges in the column's unit."""
        shape, count = self.shape, len(self.shape.edges) + 1
        found: dict[str, Any] = {
            "feature": self.unit.name,
            "output": self.output,
            "edges": [self.unit(float(edge)) for edge in shape.edges],
            "values": shape.values[:count].tolist(),
            "noise_deviations": shape.deviations[:count].tolist(),
        }
        if self.unit.since:
            found["days_since"] = self.unit.since
        if shape.may_miss:
            found["missing"] = {
                "value": float(shape.values[-1]),
                "noise_deviation": float(shape.deviations[-1]),
            }
        return found


@dataclass(frozen=True)
class Explained:
    """A forest's importances, and its functions of features, if it is a sum of such.

    Attributes:
        noise: the deviation of the noise in each sum of first derivatives, over all silos.
        reg_lambda: of the job, or by default.
        chosen: whether splits were chosen by their gains.
    """

    importances: Sequence[Importance]
    curves: Sequence[Curve]
    noise: float
    reg_lambda: float
    chosen: bool

    def as_dict(self) -> dict[str, Any]:
        """Return everything by name, for a JSON file."""
        return {
            "noise_deviation_of_sums": self.noise,
            "reg_lambda": self.reg_lambda,
            "importance": [asdict(one) for one in self.importances],
            "shapes": [curve.as_dict() for curve in self.curves],
        }


def explained(job: Job, section: Boosted, forest: Vector) -> Explained:
    """Return what a job's forest learned from which feature."""
    boosting = Boosting(job, section)
    trees, units, noise = boosting.trees(forest), units_of(job.data.features), boosting.noise
    chosen = section.split == "best"
    found = importances(
        boosting.leaf_sums(trees),
        [unit.name for unit in units],
        None if chosen and noise else noise,
        with_gains=not section.reg_alpha,
    )
    curves = []
    for output in boosting.grown if section.split == "cyclic" else ():
        name, unit = _output(job, output)
        of_output = shapes(
            [trees.one(tree, output) for tree in range(section.trees)],
            boosting.bins,
            unit=unit * boosting.unit,
            step=unit * job.training.learning_rate,
            reg_lambda=boosting.reg_lambda,
            deviation=noise,
        )
        curves += [Curve(units[shape.feature], name, shape) for shape in of_output]
    return Explained(found, curves, noise, boosting.reg_lambda, chosen)


def _output(job: Job, output: int) -> tuple[str, float]:
    """Return an output's name, and the factor that takes it to its unit."""
    if job.data.target:
        return as_written(job.data.target.classes[output]), 1.0
    name, task = [*(job.data.tasks or {}).items()][output]
    return name, task.scale if task.kind == "regression" else 1.0


def as_page(found: Explained, run: str) -> str:
    """Return the page, self-contained HTML."""
    title = html.escape(f"{run}: what the forest learned from which feature")
    parts = [f"<h1>{title}</h1>", "<h2>Importance</h2>", f"<p class=legend>{_legend(found)}</p>"]
    parts.append(_table(found))
    if len(found.importances) > _MOST_ROWS:
        more = len(found.importances) - _MOST_ROWS
        parts.append(f"<p class=note>{more} more features are in features.json.</p>")
    if found.curves:
        parts += ["<h2>What each feature adds</h2>", f"<p class=legend>{_band(found)}</p>"]
        parts += [_picture(name, curves) for name, curves in _shown(found).items() if curves]
    return PAGE.format(title=title, body="\n".join(parts))


def _legend(found: Explained) -> str:
    said = (
        "Splits: their number. Cover: the mean sum of second derivatives at them. Gain: the total "
        "by which they lower the loss, by the forest's own sums; less than nothing where a split "
        "costs more by lambda, which counts on both its sides, than it tells."
    )
    if not found.noise:
        return said
    if found.chosen:
        return f"{said} Splits were chosen by noised gains, which are therefore too large."
    return (
        f"{said} The sums have noise of the deviation {found.noise:.3g}, which adds to a gain. The "
        "last column is the gain without what noise adds on average, ± two deviations of the "
        "noise. Covers are noised too."
    )


def _band(found: Explained) -> str:
    outputs = dict.fromkeys(curve.output for curve in found.curves)
    said = (
        f"Added to the output of {html.escape(', '.join(outputs))}: to its logit, or to a number "
        "in its unit. The values of all features add up to the output."
    )
    if not found.noise:
        return f"{said} Sums were exact."
    return f"{said} The band holds 95 % of the noise; other records would change it further."


def _table(found: Explained) -> str:
    head = ["feature", "splits", "cover", "gain"]
    head += ["gain without noise"] if found.noise and not found.chosen else []
    cells = "".join(f"<th>{one}</th>" for one in head)
    rows = [_row(one)[: len(head)] for one in found.importances[:_MOST_ROWS]]
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<div class=wide><table><tr>{cells}</tr>{body}</table></div>"


def _row(one: Importance) -> list[str]:
    gain = "not known" if one.total_gain is None else f"{one.total_gain:.4g}"
    clean = "not known"
    if one.without_noise is not None and one.deviation is not None:
        reach = 2 * one.deviation
        digits = max(0, 1 - math.floor(math.log10(reach))) if reach else 1
        clean = f"{one.without_noise:.{digits}f} ± {reach:.{digits}f}"
    return [one.feature, str(one.weight), f"{one.cover:.4g}", gain, clean]


def _shown(found: Explained) -> Mapping[str, list[Curve]]:
    """Return the curves of the most important features by their names."""
    by_name = {one.feature: list[Curve]() for one in found.importances[:_MOST_PLOTS]}
    for curve in found.curves:
        if curve.unit.name in by_name:
            by_name[curve.unit.name].append(curve)
    return by_name


def _steps(curve: Curve) -> Steps:
    shape, count = curve.shape, len(curve.shape.edges) + 1
    reach = BAND * shape.deviations
    return Steps(
        name=curve.output,
        edges=np.array([curve.unit(float(edge)) for edge in shape.edges]),
        values=shape.values[:count],
        reach=reach[:count],
        point=(float(shape.values[-1]), float(reach[-1])) if shape.may_miss else None,
    )


def _picture(name: str, curves: Sequence[Curve]) -> str:
    since = curves[0].unit.since
    label = f"days since {since}" if since else ""
    return step_plot(name, [_steps(curve) for curve in curves], label)
