"""The names under which MLflow shows a run's figures, and how they are read back.

MLflow's charts form a section for each prefix, in alphabetical order, and show what begins with
`system/` on a page of its own:

    held_out/...             what runs are compared by: accuracy, AUROC or R2, and the loss
    privacy/...              the largest spend and the least that is left
    privacy/epsilon/SILO     each silo's spend
    training/...             range and clipping of the updates
    system/...               seconds and bytes

No name is a prefix of another one's path: MLflow's file store makes a folder of each prefix. What
stays the same in every round is no chart: it becomes a tag when the run ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blindsum.platform.evaluation.figures import HeldOut, TaskFigures

HELD_OUT, EPSILON, SYSTEM = "held_out/", "privacy/epsilon/", "system/"
CONSTANT = "blindsum.held_out."
"""The prefix of tags with held-out figures that are the same in every round."""

ROUNDS, EVALUATED = "blindsum.rounds", "blindsum.evaluated"
"""Tags of a run that is over: its completed rounds, and the last one that was evaluated."""

EPSILON_SPENT, EPSILON_LEFT = "privacy/epsilon_spent", "privacy/epsilon_left"
EPSILON_PLANNED = "privacy/epsilon_planned"
HELD_OUT_EPSILON = "privacy/held_out_epsilon_spent"
CLIP_NORM, UNCLIPPED = "training/clip_norm", "training/unclipped_share"
RANGE, SATURATED, LARGE = "training/range", "training/saturated_share", "training/large_share"
BYTES_UP, BYTES_DOWN = "system/bytes_up", "system/bytes_down"
SECONDS, SECONDS_ROUND = "system/seconds", "system/seconds_round"
ATTEMPT, SILOS = "system/attempt", "system/silos"

_SHORT = {"held_out_records": "records", "dropped_records": "dropped"}
_LONG = {short: long for long, short in _SHORT.items()}
_SAME_IN_EVERY_ROUND = {
    "held_out_records",
    "dropped_records",
    "largest_class_accuracy",
    "binary_tasks",
    "regression_tasks",
    "positives",
    "negatives",
}
"""Held-out figures that do not depend on the model. Under noise they differ all the same."""


def held_out(figure: str) -> str:
    """Return the metric of a held-out figure, named as `tracked` names it."""
    return HELD_OUT + _SHORT.get(figure, figure)


def epsilon_of(silo: str) -> str:
    """Return the metric of a silo's spend."""
    return EPSILON + silo


def seconds_of(phase: str) -> str:
    """Return the metric of the seconds of one of a round's phases."""
    return f"{SYSTEM}seconds_{phase}"


def held_out_metrics(found: HeldOut | TaskFigures) -> dict[str, float]:
    """Return the held-out figures that change from round to round, as metrics."""
    fixed = set() if found.deviation else _SAME_IN_EVERY_ROUND
    return {held_out(name): v for name, v in found.tracked().items() if name not in fixed}


def held_out_tags(found: HeldOut | TaskFigures) -> dict[str, str]:
    """Return the held-out figures that are the same in every round, as tags."""
    if found.deviation:
        return {}
    return {
        CONSTANT + _SHORT.get(name, name): f"{value:g}"
        for name, value in found.tracked().items()
        if name in _SAME_IN_EVERY_ROUND
    }


def loggable(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that are finite. SQLite turns infinity into 1.8e308, and MLflow refuses to
    log a model at a step that has a NaN."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def figures_of(metrics: Mapping[str, float], tags: Mapping[str, str]) -> dict[str, float]:
    """Return a logged run's figures by their names without groups, such as "accuracy" and
    "seconds_round". Runs from before there were groups have these names in MLflow."""
    found = {_figure(name): value for name, value in metrics.items()}
    for name, said in tags.items():
        if name.startswith(CONSTANT):
            short = name.removeprefix(CONSTANT)
            found[_LONG.get(short, short)] = float(said)
    return found


def _figure(metric: str) -> str:
    if metric.startswith(EPSILON):
        return f"epsilon_spent.{metric.removeprefix(EPSILON)}"
    name = metric.rpartition("/")[2]
    return _LONG.get(name, name) if metric.startswith(HELD_OUT) else name
