"""What an approval covers, in about ten lines that an owner reads before saying yes."""

from __future__ import annotations

from collections.abc import Iterator

from blindsum.pipelines.consortium.review_text import (
    JobReview,
    epsilon_line,
    named,
    reveals,
    sends,
)
from blindsum.pipelines.run.job_words import model_line
from blindsum.pipelines.show.console import plain
from blindsum.platform.job.own_code import own_functions
from blindsum.platform.job.owner import Owner
from blindsum.platform.privacy.sanity import job_warnings

_DIGITS = 12


def brief(review: JobReview, owner: Owner, runs: int, until: str) -> list[tuple[str, str]]:
    """Return labels and texts, without characters that change how text is shown.

    Args:
        until: the last day, in words.
    """
    return [(label, plain(text)) for label, text in _rows(review, owner, runs, until)]


def _rows(one: JobReview, owner: Owner, runs: int, until: str) -> Iterator[tuple[str, str]]:
    job, sent, revealed = one.job, dict(sends(one)), dict(reveals(one))
    data = job.silo(one.silo).data
    yield "job", f"{job.name}, settings {one.job_digest[:_DIGITS]}, as silo {one.silo}"
    yield "table", f"{data}, which is {owner.dataset(data).path}"
    yield "columns read", named(one.columns)
    yield "model", model_line(job, one.parameters, one.frozen)
    yield "rounds", f"{one.rounds}"
    yield "spends", epsilon_line(one) + (f"; {one.budget.line}" if one.budget else "")
    pinned = sum(silo.identity is not None for silo in job.silos)
    pins = f"{pinned} of {len(job.silos)} identities pinned"
    yield "silos", f"{', '.join(job.roster)}; at least {job.least_silos} take part; {pins}"
    yield "leaves: updates", sent["updates"]
    yield "leaves: model", revealed["model"]
    yield "leaves: figures", revealed["held-out figures"]
    for setting, function in own_functions(job).items():
        files = named(tuple(one.code)) if one.code else f"what it imports from {one.folder}"
        yield "runs code", f"{function} ({setting}): {files}"
    yield "allows", f"{runs} {'run' if runs == 1 else 'runs'}, until {until} (UTC)"
    for text in (*job_warnings(job), *one.concerns):
        yield "warning", text
    for text in (*one.policy, *one.obstacles):
        yield "would fail", text
