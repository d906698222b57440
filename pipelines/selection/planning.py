"""`blindsum plan`: which sampling rate, rounds, learning rate and clip norm a job should have.

On one division of the public records every candidate is trained once, and the best few also with
other clip norms; a second division decides among the best. A winner of many tries looks better than
it is, so all figures come from further divisions, on which nothing was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from blindsum.pipelines.selection.compared import Estimate
from blindsum.pipelines.selection.digits import encryption_of
from blindsum.pipelines.selection.public_records import require_public
from blindsum.pipelines.selection.rehearsal import Candidate, Rehearsal, rehearsal_of
from blindsum.pipelines.selection.sections import offer, require_new
from blindsum.pipelines.show.console import console, emit, show_result
from blindsum.pipelines.show.progress import progress
from blindsum.pipelines.show.table import Sheet
from blindsum.platform.errors import DataError
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.yaml_reader import dump

RATES = (0.1, 0.25, 0.5, 1.0)
ROUNDS = (30, 60, 120, 240)
FACTORS = (0.25, 1.0, 4.0)
"""Times the job's learning rate."""

CLIPS = (0.3, 3.0)
"""Times the job's clip norm. The learning rate is divided by as much: where all gradients are
clipped, only their product counts."""

BEST, FINALISTS = 3, 6
"""Candidates that are also tried with other clip norms, and those that the second division sees."""

CHOOSING = 2
"""Divisions for choosing."""

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Row:
    """A candidate, and its scores on the divisions on which nothing was chosen."""

    candidate: Candidate
    scores: Scores

    @property
    def estimate(self) -> Estimate:
        """The mean score."""
        return Estimate.of(self.scores)


@dataclass(frozen=True)
class Planned:
    """What was found: the best candidate, the best of each number of rounds, the job's own."""

    best: Row
    by_rounds: tuple[Row, ...]
    own: Row


def candidates(own: Candidate, private: bool) -> list[Candidate]:
    """Return what is tried first, beside the job's own settings."""
    tried = product(RATES, ROUNDS, FACTORS)
    found = [replace(own, sampling_rate=q, rounds=t, learning_rate=own.learning_rate * factor)
             for q, t, factor in tried]  # fmt: skip
    if not private:  # without noise nothing is clipped, and samples save no noise
        found = [one for one in found if one.sampling_rate == RATES[1]]
    return found


def trainings(rehearsal: Rehearsal) -> int:
    """Return about how many trainings a search takes."""
    private = rehearsal.epsilon is not None
    first = len(candidates(rehearsal.own, private)) + 1
    of_each = len(ROUNDS) + 1
    later = of_each + (of_each + 1) * (len(rehearsal.divisions) - CHOOSING)
    return first + (BEST * len(CLIPS) if private else 0) + FINALISTS + later


def planned(rehearsal: Rehearsal, done: Callable[[], None] = lambda: None) -> Planned:
    """Search; returns the rows with their figures.

    Args:
        done: called after each training.

    Raises:
        DataError: every candidate diverged, or held-out records give no score.
    """
    own, private = rehearsal.own, rehearsal.epsilon is not None
    known = _tried(rehearsal, [own, *candidates(own, private)], 0, done)
    if private:
        clipped = [
            replace(one, clip_norm=one.clip_norm * factor, learning_rate=one.learning_rate / factor)
            for one in _first(known, BEST)
            for factor in CLIPS
        ]
        known |= _tried(rehearsal, clipped, 0, done)
    of_each = {one.rounds: one for one in reversed(_first(known, len(known)))}
    finalists = list(dict.fromkeys([*_first(known, FINALISTS), *of_each.values()]))
    again = _tried(rehearsal, finalists, 1, done)
    best = max(finalists, key=lambda one: known[one] + again[one])
    if known[best] + again[best] == -np.inf:
        raise DataError(
            "no setting gave a score: every model diverged, or no task has enough held-out labels",
            "Lower training.learning_rate, or give more public records.",
        )
    chosen = of_each | {best.rounds: best}
    of_rounds = [chosen[rounds] for rounds in sorted(chosen)]
    rows = {one: _row(rehearsal, one, done) for one in dict.fromkeys([best, own, *of_rounds])}
    return Planned(rows[best], tuple(rows[one] for one in of_rounds), rows[own])


def _tried(
    rehearsal: Rehearsal, several: Sequence[Candidate], division: int, done: Callable[[], None]
) -> dict[Candidate, float]:
    """Return each candidate's score on a division, minus infinity if it diverged."""
    found = dict[Candidate, float]()
    for one in dict.fromkeys(several):
        score = rehearsal.score(one, division)
        found[one] = -np.inf if np.isnan(score) else score
        done()
    return found


def _first(known: dict[Candidate, float], count: int) -> list[Candidate]:
    return sorted(known, key=lambda one: -known[one])[:count]


def _row(rehearsal: Rehearsal, candidate: Candidate, done: Callable[[], None]) -> Row:
    scores = list[float]()
    for division in range(CHOOSING, len(rehearsal.divisions)):
        scores.append(rehearsal.score(candidate, division))
        done()
    return Row(candidate, np.array(scores))


def plan_job(
    job_file: JobFile,
    path: Path,
    silos: int | None,
    records: int | None,
    epsilon: float | None,
    divisions: int,
    write: Path | None,
    as_json: bool,
) -> None:
    """Search on public records, print the table, and print or write the job's sections.

    Args:
        divisions: on which figures are measured, at least 2; two more are for choosing.

    Raises:
        ConsentError: this machine's tables are an owner's datasets.
        DataError, JobError: the table or the job cannot be used.
    """
    require_public(path)
    require_new(write)
    with progress("reading", as_json) as shown:
        rehearsal = rehearsal_of(
            job_file, path, silos, records, epsilon, divisions + CHOOSING, shown.share
        )
        shown.stage("training", trainings(rehearsal))
        found = planned(rehearsal, shown.step)
    each = records or round(rehearsal.each(0))
    sections = rehearsal.sections(found.best.candidate, each)
    sections |= encryption_of(rehearsal.planned(found.best.candidate, each))
    text = f"# {_claim(found.best, rehearsal, path, each)}\n{dump(sections)}"
    if as_json:
        for row in dict.fromkeys([*found.by_rounds, found.own]):
            emit(
                "plan",
                **vars(row.candidate),
                score=row.estimate.mean,
                standard_error=row.estimate.error,
                chosen=row is found.best,
                own=row is found.own,
            )
        emit("sections", records=each, silos=rehearsal.silos, sections=sections)
    else:
        _show(found, rehearsal, each)
    offer(text, write, as_json)


def _show(found: Planned, rehearsal: Rehearsal, each: int) -> None:
    sheet = Sheet("rounds", "held-out score", "best settings", "", text=True)
    for row in found.by_rounds:
        _add(sheet, row, found)
    if found.own not in found.by_rounds:
        _add(sheet, found.own, found)
    show_result(sheet)
    console.print(
        f"mean ± one standard error over {len(found.best.scores)} divisions on which nothing was "
        f"chosen; {_budget(rehearsal)}, {rehearsal.silos} silos of {each:,} training records"
    )
    here = rehearsal.each(0)
    if rehearsal.records and rehearsal.records > here:
        console.print(
            f"the public records are fewer than those of the job (about {here:,.0f} of "
            f"{rehearsal.records:,} a silo): noise is that of the job, but what a model learns "
            "from more records is not seen here"
        )
    if found.best is not found.own:
        gain = Estimate.of(found.best.scores - found.own.scores)
        unclear = ", which is not distinguishable from none" if gain.is_zero else ""
        console.print(f"gain over the job's own settings: {gain.signed()}{unclear}")


def _add(sheet: Sheet, row: Row, found: Planned) -> None:
    marks = ["chosen"] if row is found.best else []
    marks += ["the job's own"] if row is found.own else []
    score = "diverged" if np.isnan(row.scores).any() else str(row.estimate)
    sheet.add(f"{row.candidate.rounds}", score, row.candidate.name, ", ".join(marks))


def _budget(rehearsal: Rehearsal) -> str:
    return "no privacy" if rehearsal.epsilon is None else f"epsilon {rehearsal.epsilon:g}"


def _claim(best: Row, rehearsal: Rehearsal, path: Path, each: int) -> str:
    return (
        f"Chosen by `blindsum plan` on {path.name}: held-out score {best.estimate}, "
        f"{_budget(rehearsal)}, {rehearsal.silos} silos of {each:,} training records."
    )
