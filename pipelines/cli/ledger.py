"""`blindsum ledger`: its commands. What they do is in `blindsum.pipelines.cli.ledger_tables`."""

from __future__ import annotations

from typing import Annotated

import typer

from blindsum.pipelines.cli.options import ExportOption, HeadOption, JobArgument, SiloOption
from blindsum.platform.job.file import load_job

app = typer.Typer(
    no_args_is_help=True, help="What a silo's data has spent; run by its owner, on its machine."
)


@app.command()
def show(job: JobArgument, silo: SiloOption) -> None:
    """Print every job's spend, and each table's over all jobs."""
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
    signed_log.verify(opened.chain, head, "blindsum.ledger.SILO in a run's MLflow tags")


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
    epsilon: Annotated[float, typer.Option("--epsilon", help="For each table, over all jobs.")],
    delta: Annotated[float, typer.Option("--delta")] = 1e-5,
) -> None:
    """Put a lifetime budget in force: jobs that would pass it are refused."""
    from blindsum.pipelines.cli import ledger_tables

    ledger_tables.set_limit(
        ledger_tables.open_ledger(load_job(job, []), silo, make=True), epsilon, delta
    )


@app.command()
def adopt(job: JobArgument, silo: SiloOption) -> None:
    """Go on with a ledger that another identity, or an earlier version, wrote."""
    from blindsum.pipelines.cli import ledger_tables

    adopted = ledger_tables.open_ledger(load_job(job, []), silo, adopt=True)
    typer.echo(f"{adopted.path} goes on under this silo's identity", err=True)
