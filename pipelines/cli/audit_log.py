"""`blindsum audit-log`: a silo's owner reads, on its machine, what it took part in and sent."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from blindsum.pipelines.cli.options import (
    ExportOption,
    HeadOption,
    JobArgument,
    JsonOption,
    SiloOption,
)
from blindsum.pipelines.show.console import emit, show_result
from blindsum.pipelines.show.table import Sheet
from blindsum.platform.errors import LedgerError
from blindsum.platform.job.file import load_job
from blindsum.platform.state.audit_log import AuditLog, Event

app = typer.Typer(
    no_args_is_help=True,
    help="Show what a silo took part in, sent and refused; for its owner, on its machine.",
)


@app.command()
def show(
    job: JobArgument,
    silo: SiloOption,
    run: Annotated[str | None, typer.Option(help="Show only this run.")] = None,
    json: JsonOption = False,
) -> None:
    """Print all events, oldest first."""
    log = _opened(job, silo)
    events = [event for event in log.events() if run in (None, event.job)]
    if json:
        for one in events:
            emit("logged", **vars(one))
        return
    for name in dict.fromkeys(one.job for one in events):
        show_result(_table(name, [one for one in events if one.job == name]))
    show_result(f"head: {log.chain.head()}", soft_wrap=True)


@app.command()
def verify(
    job: JobArgument,
    silo: SiloOption,
    head: HeadOption = None,
) -> None:
    """Check every hash and every signature."""
    from blindsum.pipelines.cli import signed_log

    signed_log.verify(_opened(job, silo).chain, head, "an earlier output of audit-log show")


@app.command()
def export(
    job: JobArgument,
    silo: SiloOption,
    to: ExportOption,
) -> None:
    """Write all events, with hashes and signatures, to a JSON file."""
    from blindsum.pipelines.cli import signed_log

    log = _opened(job, silo)
    signed_log.export(log.chain, "audit log", log.path, to)


def _opened(job: Path, silo: str) -> AuditLog:
    from blindsum.actors.books import AUDIT_LOG
    from blindsum.actors.vault import open_identity
    from blindsum.platform.job.paths import state_folder

    state = state_folder(load_job(job, []).silo(silo))
    path = state / AUDIT_LOG
    if not path.exists():
        raise LedgerError(
            f"silo '{silo}' has no audit log at {path}",
            "The silo's first run creates it, on the silo's own machine.",
        )
    return AuditLog(path, silo, open_identity(state))


def _table(run: str, events: list[Event]) -> Sheet:
    table = Sheet("time (UTC)", "round", "attempt", "event", "", title=run, text=True)
    for one in events:
        table.add(
            time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(one.time)),
            str(one.round or ""),
            str(one.attempt or ""),
            one.kind,
            _detail(one),
        )
    return table


def _detail(event: Event) -> str:
    said = event.detail
    if event.kind == "inspected":
        return f"job {said['job_digest'][:12]}"
    if event.kind == "joined":
        return f"{', '.join(said['roster'])}; job {said['job_digest'][:12]}"
    if event.kind == "charged":
        return f"epsilon {said['epsilon']:.4g}" if said["epsilon"] is not None else "no privacy"
    if event.kind == "sent":
        return f"{said['purpose']} to {', '.join(said['roster'])}; {said['digest'][:12]}"
    if event.kind == "ended":
        return f"model {said['model'][:12]}"
    return f"{said['error']}: {said['said']}"
