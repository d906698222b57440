"""`blindsum cache`: what a silo keeps of what it computed from its tables."""

from __future__ import annotations

import typer

from blindsum.pipelines.cli.options import JobArgument, JsonOption, SiloOption
from blindsum.pipelines.show.console import emit, show_result, size
from blindsum.platform.job.file import load_job

app = typer.Typer(
    no_args_is_help=True,
    help="Show or remove what a silo keeps of what it computed from its tables.",
)


@app.command()
def show(job: JobArgument, silo: SiloOption, json: JsonOption = False) -> None:
    """Print where the silo keeps features that it computed, and how many bytes they take."""
    _show(job, silo, json, remove=False)


@app.command()
def clear(job: JobArgument, silo: SiloOption, json: JsonOption = False) -> None:
    """Remove them. The next start computes them again; ledger and identity are not touched."""
    _show(job, silo, json, remove=True)


def _show(job: JobArgument, silo: str, json: bool, remove: bool) -> None:
    from blindsum.platform.data.kept_results import KeptResults
    from blindsum.platform.job.paths import state_folder

    kept = KeptResults(state_folder(load_job(job, []).silo(silo)))
    entries, held = kept.held()
    if remove:
        kept.clear()
    if json:
        emit("removed" if remove else "kept", silo=silo, entries=entries, bytes=held)
        return
    counted = f"{entries} {'entry' if entries == 1 else 'entries'}, {size(held)}"
    show_result(
        f"silo '{silo}': {'removed' if remove else 'kept'}: {counted}, in {kept.folder}",
        soft_wrap=True,
    )
