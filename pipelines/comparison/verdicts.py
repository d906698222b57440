"""What a comparison says in words: what its intervals cover, and which differences are noise."""

from __future__ import annotations

from collections.abc import Sequence

from blindsum.pipelines.comparison.compare import SCORES, Comparison, Group, Trial, arm_of, label


def notes(comparison: Comparison) -> list[str]:
    """Return what a reader of the table has to know, a paragraph each."""
    found = []
    if comparison.groups:
        found += [_covers(comparison), *_verdict(comparison)]
    if comparison.alone:
        found.append(_alone(comparison.alone, SCORES[comparison.metric][0]))
    if comparison.diverged:
        names = ", ".join(trial.name for trial in comparison.diverged)
        found.append(f"Diverged, and in no mean: {names}.")
    if comparison.stopped:
        named = ", ".join(f"{trial.name} (after {trial.stopped})" for trial in comparison.stopped)
        found.append(f"Evaluation stopped before the last rounds, so in no mean: {named}.")
    if sum(group.score.count for group in comparison.groups) < len(comparison.trials):
        found.append("Of several runs with one seed, the newest counts.")
    return found


def _covers(comparison: Comparison) -> str:
    counts = {group.score.count for group in comparison.groups}
    if counts == {1}:
        return (
            "Intervals cover the choice of the held-out records, for models of one seed. Another "
            "seed gives another model: run several (blindsum sweep --seeds)."
        )
    few = (
        " With two runs, Student's interval is 12.7 standard errors wide: it says how little two "
        "runs show."
        if 2 in counts
        else ""
    )
    return (
        "Intervals cover the choice of the held-out records and, for several runs, their seeds "
        f"(Student's interval of the mean).{few} Gains pair runs with the same seed."
    )


def _verdict(comparison: Comparison) -> list[str]:
    others = [group for group in comparison.groups if group.behind]
    if not others:
        return []
    best = label(comparison.best.key)
    alike = [_behind(group) for group in others if group.behind and group.behind.within_noise]
    apart = [_behind(group) for group in others if group.behind and not group.behind.within_noise]
    found = [f"Best mean: {best}."]
    if alike:
        found.append(f"Not distinguishable from it on these records: {'; '.join(alike)}.")
    if apart:
        found.append(f"Distinguishable from it: {'; '.join(apart)}.")
    found.append(
        "All runs are evaluated on the same held-out records, which err together: differences are "
        "known somewhat better than these intervals say."
    )
    return [" ".join(found)]


def _behind(group: Group) -> str:
    behind = group.behind
    if behind is None:
        return label(group.key)
    unknown = "" if behind.interval else ", of one run, whose interval is unknown"
    return f"{label(group.key)}: {behind.written(signed=True)}{unknown}"


def _alone(trials: Sequence[Trial], score: str) -> str:
    said = [f"{_named(trial)}: {score} {trial.scored.written}" for trial in trials]
    return f"On one silo's own held-out records, comparable with nothing above: {'; '.join(said)}."


def _named(trial: Trial) -> str:
    """Return "alder alone, epsilon 1"."""
    return label(trial.group).replace(arm_of(trial.group), f"{trial.silo} alone", 1)
