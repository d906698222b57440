"""`blindsum approve`: a silo's owner consents to a job, or takes a consent back."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from blindsum.pipelines.cli.completion import job_files, silo_names
from blindsum.pipelines.cli.options import SetOption, YesOption, agreed
from blindsum.pipelines.show.console import console, show_result
from blindsum.pipelines.show.table import Pairs, Sheet
from blindsum.platform.errors import ConsentError, JobError
from blindsum.platform.job.file import load_job
from blindsum.platform.job.owner import Owner, find_owner

if TYPE_CHECKING:
    from blindsum.pipelines.consortium.review_text import JobReview
    from blindsum.platform.state.approval import Approval

_FEWEST_DIGITS = 4
"""Of an approval's id, to revoke it."""

RunsOption = Annotated[int, typer.Option(help="How many runs to allow.")]
UntilOption = Annotated[
    str | None, typer.Option(metavar="YYYY-MM-DD", help="Last day (UTC); default: in 30 days.")
]
ListOption = Annotated[bool, typer.Option("--list", help="List this silo's approvals.")]
RevokeOption = Annotated[
    str | None,
    typer.Option(
        metavar="APPROVAL",
        help="Take back an approval: its id from --list, or a job's name for all of it.",
    ),
]


def approve(
    job: Annotated[
        Path | None,
        typer.Argument(help="The job file.", metavar="JOB.YAML", autocompletion=job_files),
    ] = None,
    silo: Annotated[
        str | None,
        typer.Option(
            "--silo",
            help="The silo's name in the job file; default: the only one in the owner's file.",
            autocompletion=silo_names,
        ),
    ] = None,
    runs: RunsOption = 1,
    until: UntilOption = None,
    set_: SetOption = None,
    yes: YesOption = False,
    list_: ListOption = False,
    revoke: RevokeOption = None,
) -> None:
    """Allow a silo on this machine to take part in this job for a number of runs."""
    owner = find_owner()
    if owner is None:
        raise ConsentError(
            "this machine has no owner's file, so an approval would have no effect",
            "Write one first: blindsum silo init NAME --dataset NAME=/PATH.",
        )
    command = "blindsum approve" + (f" --silo {silo}" if silo else "")
    silo = silo or _only_name(owner)
    if list_:
        return list_approvals(owner, silo)
    if revoke is not None:
        return revoke_approvals(owner, silo, revoke, command)
    if job is None:
        raise JobError("approve needs a job file", "Or use --list, or --revoke APPROVAL.")
    name, given = _approve(owner, silo, job, runs, until, set_ or [], yes)
    say_approved(name, given, command)
    return None


def _approve(
    owner: Owner, silo: str, job: Path, runs: int, until: str | None, set_: list[str], yes: bool
) -> tuple[str, Approval]:
    from blindsum.actors.approving import approve_job
    from blindsum.pipelines.consortium.review import review_here
    from blindsum.platform.job.paths import places_under
    from blindsum.platform.state.approval import DEFAULT_DAYS, require_useful

    job_file = load_job(job, set_)
    end = end_of(until, DEFAULT_DAYS)
    require_useful(runs, end, time.time())
    places = places_under(owner, job_file.silo(silo), str(job_file.folder))
    ask(review_here(owner, silo, job_file.job, job_file.folder), owner, runs, end, yes)
    given = approve_job(job_file.job, silo, places, job_file.folder, runs, end)
    return job_file.job.name, given


def ask(review: JobReview, owner: Owner, runs: int, end: float, yes: bool) -> None:
    """Show what an approval would cover, and end the command unless the owner agrees.

    Raises:
        JobError: nobody can be asked, and --yes was not given.
    """
    from blindsum.pipelines.consortium.brief import brief

    console.print(Pairs(brief(review, owner, runs, last_day(end))))
    agreed("Approve this?", yes)


def say_approved(name: str, given: Approval, command: str) -> None:
    """Print what was approved, and how that command takes it back."""
    runs = "1 run" if given.runs == 1 else f"{given.runs} runs"
    show_result(
        f"approved {name} for {runs} until {last_day(given.until)}, as {given.id[:8]}; to take it "
        f"back: {command} --revoke {given.id[:8]}",
        soft_wrap=True,
    )
    for path, digest in given.code.items():
        show_result(f"with the code of {path}, SHA-256 {digest}", soft_wrap=True)


def list_approvals(owner: Owner, silo: str) -> None:
    """Print the approvals in a silo's ledger."""
    from blindsum.pipelines.consortium.budget import open_ledger
    from blindsum.platform.state.approval import Approvals

    rows = []
    with open_ledger(owner, silo) as ledger:
        if ledger is not None:
            approvals = Approvals(ledger)
            rows = [(o, approvals.standing(o), len(approvals.runs(o))) for o in approvals.all()]
    if not rows:
        console.print(f"silo {silo} has approved no job")
        return
    table = Sheet("approval", "job", "settings", "until", "runs used", "state")
    for one, state, used in rows:
        table.add(
            one.id[:8],
            one.name,
            one.job[:12],
            last_day(one.until),
            f"{used} of {one.runs}",
            state,
        )
    show_result(table)


def revoke_approvals(owner: Owner, silo: str, said: str, command: str) -> None:
    """Revoke the approvals of the job with that name, or else the one whose id begins so.

    Args:
        command: lists them, with --list.

    Raises:
        JobError: there is none, or the ids of several begin so.
    """
    from blindsum.pipelines.consortium.budget import open_ledger
    from blindsum.platform.state.approval import Approvals

    with open_ledger(owner, silo) as ledger:
        approvals = Approvals(ledger) if ledger is not None else None
        revoked = approvals.revoked() if approvals else frozenset[str]()
        given = [one for one in approvals.all() if one.id not in revoked] if approvals else []
        meant = [one for one in given if one.name == said] or _by_id(given, said)
        if approvals is None or not meant:
            raise JobError(
                f"silo {silo} has no approval {said!r} to revoke", f"See: {command} --list."
            )
        for one in meant:
            approvals.revoke(one)
    show_result(
        f"revoked {', '.join(one.id[:8] for one in meant)} of job {meant[0].name}: no run starts "
        "or is resumed with it. A run that has begun goes on until it ends",
        soft_wrap=True,
    )


def _by_id(given: list[Approval], said: str) -> list[Approval]:
    """Return the one approval whose id begins as said, or none.

    Raises:
        JobError: several begin so.
    """
    found = [one for one in given if len(said) >= _FEWEST_DIGITS and one.id.startswith(said)]
    if len(found) > 1:
        raise JobError(
            f"{said!r} begins the ids of {len(found)} approvals", "Write more of the id."
        )
    return found


def _only_name(owner: Owner) -> str:
    names = owner.file.names
    if len(names) > 1:
        raise JobError(f"{owner.path} has the names {', '.join(names)}", "Choose one with --silo.")
    return names[0]


def end_of(until: str | None, days: int) -> float:
    """Return the end of that day, UTC, in seconds since 1970."""
    today = datetime.datetime.now(datetime.UTC).date()
    try:
        day = datetime.date.fromisoformat(until) if until else today + datetime.timedelta(days=days)
    except ValueError:
        raise JobError(f"--until {until!r} is not a date", "Write it as YYYY-MM-DD.") from None
    end = datetime.datetime.combine(day, datetime.time.max, datetime.UTC)
    return end.timestamp()


def last_day(end: float) -> str:
    """Return the day whose end `end_of` returned."""
    return datetime.datetime.fromtimestamp(end - 1, datetime.UTC).date().isoformat()


def say_how_to_go_on() -> None:
    """After a refusal: if this machine has an owner's file, say what it demands and how to go on.

    The file is this user's or root's own, so nothing is told that its reader could not read.
    """
    try:
        owner = find_owner()
    except ConsentError:
        return  # the refusal itself names what is wrong with the file
    if owner is None:
        return
    console.print(
        f"This machine has an owner's file, {owner.path}: silo {', '.join(owner.file.names)} takes "
        "part only in jobs that were approved here, and other names not at all.\n"
        "  To approve this job here, with the same --set: blindsum approve JOB.YAML\n"
        "  To simulate several silos here, as the examples do, move the file away first: "
        f"mv {quote(str(owner.path))} {quote(f'{owner.path}.away')}",
        soft_wrap=True,
    )
