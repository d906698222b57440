"""A review of a proposed job, and its text for the terminal and the page."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from blindsum.actors.separate.inbox import Received
from blindsum.pipelines.consortium.budget import Budget
from blindsum.pipelines.consortium.changes import Earlier
from blindsum.pipelines.consortium.review_features import feature_lines
from blindsum.pipelines.run.job_words import model_line
from blindsum.pipelines.show.console import plain, size
from blindsum.platform.errors import PrivacyError
from blindsum.platform.job.own_code import WHAT_FOR, own_functions
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import UNIT, PrivacyPlan, describe
from blindsum.platform.privacy.releases import metrics_guarantee
from blindsum.platform.privacy.sanity import job_warnings
from blindsum.platform.privacy.statement import privacy_statement

Rows = tuple[tuple[str, str], ...]

_LABEL = 20
_WIDTH = 100
_MOST_NAMED = 40


@dataclass(frozen=True)
class Traffic:
    """Bytes of one silo's ciphertexts in a round, without signatures and framing."""

    up: int
    down: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a review: a heading, and texts with a label each, which may be empty."""

    heading: str
    rows: Rows


@dataclass(frozen=True, kw_only=True)
class JobReview:
    """What a job would do at a silo. For the silo's owner alone.

    Attributes:
        policy: why the owner's file does not allow the job; empty if it does.
        obstacles: why a run would fail here although the owner's file allows it.
        concerns: what is odd about the silo's data; empty if its features were not computed.
        columns: the table's columns that the job names, without private tasks.
        parameters: None if only the code of a `model.factory` knows their number.
        frozen: the number of parameters that are not trained.
        plan, held_out: None without differential privacy, or if no plan is possible.
        budget: None if this silo has no such dataset.
        code: SHA-256 of each file that comes with the proposal.
        folder: where the owner can read that code, and the job file.
        fingerprint: of the dataset's columns that the job uses; None if it cannot be read.
        earlier: the last approved job of that name.
        hub: who besides the silos sees what is released.
    """

    silo: str
    job: Job
    job_digest: str
    policy: tuple[str, ...]
    obstacles: tuple[str, ...]
    concerns: tuple[str, ...]
    columns: tuple[str, ...]
    parameters: int | None
    frozen: int
    plan: PrivacyPlan | None
    held_out: PrivacyPlan | None
    budget: Budget | None
    traffic: Traffic | None
    code: Mapping[str, str]
    folder: Path
    fingerprint: str | None
    earlier: Earlier | None
    hub: str = "the coordinator"

    @property
    def rounds(self) -> int:
        """The number of rounds that the job asks for and its budget covers."""
        asked = self.job.training.rounds
        return min(asked, self.plan.rounds_within_budget) if self.plan else asked

    @property
    def parts(self) -> tuple[Part, ...]:
        """The whole review in words, without characters that change how text is shown."""
        made = (
            ("The owner's file refuses it", [("", text) for text in self.policy]),
            ("A run would fail at this silo", [("", text) for text in self.obstacles]),
            ("Doubtful settings", [("", text) for text in job_warnings(self.job)]),
            ("Odd about your data", [("", text) for text in self.concerns]),
            ("Since the last approved job of this name", list(_changes(self))),
            ("It would train", list(trains(self))),
            ("It would spend", list(spends(self))),
            ("It would send", list(sends(self))),
            ("It would reveal", list(reveals(self))),
            ("Roster", list(_roster(self))),
            ("Code", list(_code(self))),
            ("Whom it trusts", list(_trusts(self))),
        )
        return tuple(
            Part(heading=heading, rows=tuple((plain(a), plain(b)) for a, b in rows))
            for heading, rows in made
            if rows
        )


@dataclass(frozen=True, kw_only=True)
class Review(JobReview):
    """The review of a proposed job, which lies in the silo's inbox."""

    received: Received

    def lines(self) -> list[str]:
        """Return the review as lines of text for a terminal."""
        one = self.received
        lines = [
            f"job {plain(one.name)}, proposal {one.digest}",
            f"received {when(one.at)} UTC; {decision(one)}",
            f"job file and code are in {self.folder}",
        ]
        for part in self.parts:
            lines += ["", part.heading]
            for label, text in part.rows:
                lines += _wrapped(label, text)
        return lines


def _wrapped(label: str, text: str) -> list[str]:
    """Return a text beside its label, or below a long one."""
    indent = " " * (_LABEL + 3 if label else 4)
    first = f"  {label:<{_LABEL}} " if label else "  "
    above = [first.rstrip()] if len(label) > _LABEL else []
    lines = textwrap.wrap(
        text, _WIDTH, initial_indent=indent if above else first, subsequent_indent=indent
    )
    return above + (lines or [first.rstrip()])


def when(time_s: float) -> str:
    """Return a time, seconds since 1970, as UTC for people."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(time_s))


def short(fingerprint: str) -> str:
    """Return the start of a fingerprint, in groups that people can compare."""
    return " ".join(fingerprint[i : i + 4] for i in range(0, 16, 4))


def decision(one: Received) -> str:
    """Return the owner's decision in words."""
    said = {"pending": "not decided", "approved": "approved", "refused": "refused"}[one.verdict]
    reason = f": {plain(one.reason)}" if one.reason else ""
    withdrawn = "" if one.open else "; no longer proposed"
    return f"{said}{reason}{withdrawn}"


def epsilon_line(review: JobReview) -> str:
    """Return the job's epsilon in words."""
    if not review.job.private:
        return "unbounded: no differential privacy"
    if review.plan is None:
        return "no plan is possible"
    own = review.plan
    return f"epsilon {own.epsilon_planned:.4g} of at most {own.epsilon:g}, delta {own.delta:g}"


def _changes(one: JobReview) -> Iterator[tuple[str, str]]:
    if one.earlier is None:
        yield "", "no job of this name was approved at this silo before"
    elif one.earlier.changes is None:
        gone = f"job {one.earlier.digest[:16]} was approved, but is no longer in the inbox"
        yield "", f"{gone}: read every setting"
    elif not one.earlier.changes:
        yield "", "nothing changed: the same settings and the same code"
    else:
        for change in one.earlier.changes:
            yield change.setting, f"{change.old} -> {change.new}"


def trains(one: JobReview) -> Iterator[tuple[str, str]]:
    """Yield what would be trained, on what."""
    job, training = one.job, one.job.training
    yield "model", model_line(job, one.parameters, one.frozen)
    if one.silo in job.roster:
        yield "dataset", job.silo(one.silo).data
        if (workers := job.silo(one.silo).workers) > 1:
            yield "workers", f"{workers} processes in this silo's own Ray share the dataset"
        if gpus := job.silo(one.silo).resources.gpus:
            each = " for each" if workers > 1 else ""
            yield "GPUs", f"{gpus:g} of this silo's own Ray{each}"
    yield "fingerprint", one.fingerprint or "not known: the dataset could not be read"
    yield "columns read", named(one.columns)
    for label, lines in feature_lines(job.data.features):
        yield label, named(lines)
    if job.data.target:
        classes = named([str(c) for c in job.data.target.classes])
        yield "target", f"{job.data.target.column}: {classes}"
    elif job.data.tasks:
        yield "tasks", named([f"{name} ({task.kind})" for name, task in job.data.tasks.items()])
    if not job.model.is_scored:
        yield "rounds", f"{one.rounds}, of sums over all records, held-out ones too"
        return
    steps = "step" if training.local_steps == 1 else "steps"
    each = f"{training.local_steps} {steps} on a sample of {training.sampling_rate:.4g}"
    yield "rounds", f"{one.rounds} of {training.rounds}, each with {each} of the records"


def spends(one: JobReview) -> Iterator[tuple[str, str]]:
    """Yield what it would cost the silo's records."""
    yield "this job", epsilon_line(one)
    if one.plan and one.job.privacy.noise != "none":
        yield "for each", UNIT
        yield "mechanism", describe(one.job.privacy, one.job.model.kind)["mechanism"]
        yield "noise multiplier", f"{one.plan.noise_multiplier:.4g}"
    if one.held_out:
        epsilon = f"epsilon {one.held_out.epsilon_planned:.4g}, delta {one.held_out.delta:g}"
        yield "held-out records", f"{epsilon}, for each held-out record"
    if one.budget:
        yield "this dataset", one.budget.line


def sends(one: JobReview) -> Iterator[tuple[str, str]]:
    """Yield what would leave the silo, and how it is protected on the way."""
    job = one.job
    encrypted = job.encryption.scheme == "ckks"
    how = "masked and encrypted (CKKS)" if encrypted else "NOT encrypted"
    if one.traffic is None:
        yield "updates", f"{how}; their size depends on the model's code"
    else:
        sent, received = size(one.traffic.up), size(one.traffic.down)
        whole = size(one.rounds * (one.traffic.up + one.traffic.down))
        yield "updates", f"{how}; {sent} sent and {received} received a round, {whole} in all"
    yield "metrics", f"counts, {how}; only their sums over all silos are decrypted"


def reveals(one: JobReview) -> Iterator[tuple[str, str]]:
    """Yield what others would learn."""
    job = one.job
    if job.private:
        guarantee = "differentially private for each record, within this job's epsilon"
    else:
        guarantee = "WITHOUT differential privacy: it may reveal training records"
    yield "model", f"after every round, to all silos and {one.hub}; {guarantee}"
    figures = (
        "accuracy, loss, number of records and of each class"
        if job.data.target
        else "AUROC, average precision, calibration, conformal sets, enrichment, R2, RMSE and "
        "loss, as means over tasks (and over each group of them) with their variances, and the "
        "numbers of records, of positive and of negative labels"
    )
    if not job.model.is_scored:
        figures = "no figures of held-out records alone"
    yield (
        "held-out figures",
        f"{figures}, in clear to all silos and {one.hub}; {metrics_guarantee(job)}",
    )
    of_updates = "shares of cut and of large values"
    if job.privacy.noise != "none" and job.privacy.clip_quantile:
        of_updates += ", and of gradients within the clip norm"
    yield "of updates", f"{of_updates}, over all silos, in clear to all silos and {one.hub}"
    yield "of this silo", "epsilon spent in this job, head of its ledger, sizes and times"


def _roster(one: JobReview) -> Iterator[tuple[str, str]]:
    for silo in one.job.silos:
        pinned = f"identity {short(silo.identity)}" if silo.identity else "identity not pinned"
        yield silo.name, f"{pinned} (this silo)" if silo.name == one.silo else pinned
    yield "quorum", f"{one.job.least_silos} of {len(one.job.silos)} silos"


def _code(one: JobReview) -> Iterator[tuple[str, str]]:
    for setting, named in own_functions(one.job).items():
        yield setting, f"{named} {WHAT_FOR[setting]}"
    for name, digest in one.code.items():
        yield name, f"SHA-256 {digest}"


def _trusts(one: JobReview) -> Iterator[tuple[str, str]]:
    try:
        stated = privacy_statement(one.job, {one.silo: one.plan})
    except PrivacyError:
        return  # no plan is possible, which the obstacles say
    yield from stated["Threat model and trust"].items()
    for text in stated["What is not covered"].values():
        yield "not covered", text


def named(names: tuple[str, ...] | list[str]) -> str:
    """Return names in one line. A table of fingerprints or assays may have thousands."""
    left = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {left} more" if left > 0 else "")
