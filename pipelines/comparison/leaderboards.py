"""The consortium's groups of runs in order, for all shared tasks and for each group of tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blindsum.pipelines.comparison.compare import Comparison, Key, Trial, bases_of, newest
from blindsum.pipelines.comparison.estimates import Estimate, Scored, difference, mean
from blindsum.platform.evaluation.figures import GROUP
from blindsum.platform.evaluation.intervals import Interval

RANKED_BY = {
    "auroc": "mean AUROC",
    "conformal_efficiency": "conformal efficiency",
    "r2": "mean R2",
}
"""The figures of leaderboards, in words: runs are ordered by the first that they have."""

ALL = ""
"""Stands for all shared tasks."""


@dataclass(frozen=True)
class Place:
    """A group of runs with its figures, and their gains over each silo alone, paired by seed."""

    key: Key
    figures: Mapping[str, Estimate]
    gains: Mapping[str, Estimate]


def leaderboards(comparison: Comparison) -> dict[str, list[Place]]:
    """Return the places by group of tasks, the best first; empty for runs without tasks."""
    named = dict.fromkeys(name for trial in comparison.trials for name in trial.figures)
    first = [name.partition(GROUP) for name in named]
    groups = dict.fromkeys(group for name, _, group in first if name in RANKED_BY and group)
    boards = {group: _board(comparison.trials, group) for group in (ALL, *groups)}
    return {group: places for group, places in boards.items() if len(places) > 0}


def _board(trials: Sequence[Trial], group: str) -> list[Place]:
    of_groups: dict[Key, list[Trial]] = defaultdict(list)
    for trial in trials:
        of_groups[trial.group].append(trial)
    places = [_place(list(newest(of).values()), trials, group) for of in of_groups.values()]
    first = next((name for name in RANKED_BY if any(name in p.figures for p in places)), None)
    if first is None:
        return []
    placed = [place for place in places if first in place.figures]
    return sorted(placed, key=lambda place: -place.figures[first].mean)


def _place(own: Sequence[Trial], trials: Sequence[Trial], group: str) -> Place:
    one = own[0]
    bases = bases_of([t for t in trials if t.model == one.model], one.epsilon)
    figures, gains = {}, {}
    for figure in RANKED_BY:
        known = [scored for trial in own if (scored := _scored(trial, figure, group))]
        if not known:
            continue
        figures[figure] = mean(known, 1.0)
        seeds = {scored.seed for scored in known}
        alone = [
            b for seed, t in bases.items() if seed in seeds and (b := _scored(t, figure, group))
        ]
        if alone and one.arm != "local":
            paired = {base.seed for base in alone}
            gains[figure] = difference([s for s in known if s.seed in paired], alone)
    return Place(one.group, figures, gains)


def _scored(trial: Trial, figure: str, group: str) -> Scored | None:
    """Return a run's figure, if it has it."""
    end = GROUP + group if group else ""
    value = trial.figures.get(figure + end)
    if value is None:
        return None
    low, high = (trial.figures.get(f"{figure}_{side}{end}") for side in ("low", "high"))
    interval = None if low is None or high is None else Interval(low, high)
    return Scored(value, trial.seed, interval)
