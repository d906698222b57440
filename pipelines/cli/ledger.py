"""The commands of `blindsum ledger`; `blindsum.pipelines.cli.ledger_tables` does the work."""

from __future__ import annotations

from typing import Annotated

import typer

from blindsum.pipelines.cli.options import ExportOption, HeadOption, JobArgument, SiloOption
from blindsum.platform.job.file import load_job

app = typer.Typer(
    no_args_is_help=True,
    help="Show, verify, export or limit what a silo's data has spent; on its owner's machine.",
)


@app.command()
def show(job: JobArgument, silo: SiloOption) -> None:
    """Print each job's spend, and each table's spend over all jobs."""
    from blindsum.pipelines.cli import ledger_tables

    ledger_tables.show(ledger_tables.open_ledger(load_job(job, []), silo))


@app.command()
def verify(
    job: JobArgument,
    silo: SiloOption,
    head: HeadOption = None,
) -> None:
    """Check every hash and every signature."""
    from blindsum.pipelines.cli import ledger_tables, signed_log

    opened = ledger_tables.open_ledger(load_job(job, []), silo)
    signed_log.verify(opened.chain, head, "a run's MLflow tag blindsum.ledger.SILO")


@app.command()
def export(
    job: JobArgument,
    silo: SiloOption,
    to: ExportOption,
) -> None:
    """Write all entries, with hashes and signatures, to a JSON file."""
    from blindsum.pipelines.cli import ledger_tables, signed_log

    opened = ledger_tables.open_ledger(load_job(job, []), silo)
    signed_log.export(opened.chain, "ledger", opened.path, to)


@app.command()
def limit(
    job: JobArgument,
    silo: SiloOption,
    epsilon: Annotated[
        float, typer.Option("--epsilon", help="Limit for each table, over all jobs.")
    ],
    delta: Annotated[float, typer.Option("--delta", help="Delta of that limit.")] = 1e-5,
) -> None:
    """Set a lifetime budget: the silo refuses jobs that would exceed it."""
    from blindsum.pipelines.cli import ledger_tables

    ledger_tables.set_limit(
        ledger_tables.open_ledger(load_job(job, []), silo, make=True), epsilon, delta
    )


@app.command()
def adopt(job: JobArgument, silo: SiloOption) -> None:
    """Continue a ledger that another identity, or an earlier version, wrote."""
    from blindsum.pipelines.cli import ledger_tables

    adopted = ledger_tables.open_ledger(load_job(job, []), silo, adopt=True)
    typer.echo(f"{adopted.path} now continues under this silo's identity", err=True)
