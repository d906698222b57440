"""`blindsum ledger`: its commands. What they do is in `blindsum.pipelines.ledger`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blindsum.pipelines.cli_options import JobArgument, SiloOption
from blindsum.platform.job_file import load_job

app = typer.Typer(
    no_args_is_help=True, help="What a silo's data has spent; run by its owner, on its machine."
)


@app.command("show")
def show(job: JobArgument, silo: SiloOption) -> None:
    """Print every job's spend, and each table's over all jobs."""
    from blindsum.pipelines import ledger

    ledger.show(ledger.open_ledger(load_job(job, []), silo))


@app.command("verify")
def verify(
    job: JobArgument,
    silo: SiloOption,
    head: Annotated[
        str | None, typer.Option("--head", help="A head kept earlier, which must still be there.")
    ] = None,
) -> None:
    """Check every hash and every signature."""
    from blindsum.pipelines import chains, ledger

    opened = ledger.open_ledger(load_job(job, []), silo)
    chains.verify(opened.chain, head, "blindsum.ledger.SILO in a run's MLflow tags")


@app.command("export")
def export(
    job: JobArgument,
    silo: SiloOption,
    to: Annotated[Path, typer.Option("--to", help="JSON file to write.")],
) -> None:
    """Write all entries, with hashes and signatures, to a JSON file."""
    from blindsum.pipelines import chains, ledger

    opened = ledger.open_ledger(load_job(job, []), silo)
    chains.export(opened.chain, "ledger", opened.path, to)


@app.command("limit")
def limit(
    job: JobArgument,
    silo: SiloOption,
    epsilon: Annotated[float, typer.Option("--epsilon", help="For each table, over all jobs.")],
    delta: Annotated[float, typer.Option("--delta")] = 1e-5,
) -> None:
    """Put a lifetime budget in force: jobs that would pass it are refused."""
    from blindsum.pipelines import ledger

    ledger.set_limit(ledger.open_ledger(load_job(job, []), silo, make=True), epsilon, delta)


@app.command("adopt")
def adopt(job: JobArgument, silo: SiloOption) -> None:
    """Go on with a ledger that another identity, or an earlier version, wrote."""
    from blindsum.pipelines import ledger

    adopted = ledger.open_ledger(load_job(job, []), silo, adopt=True)
    typer.echo(f"{adopted.path} goes on under this silo's identity", err=True)
