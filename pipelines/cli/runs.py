"""`blindsum runs`: the runs whose results lie on this machine."""

from __future__ import annotations

import time
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from blindsum.pipelines.cli.completion import job_files, run_folders
from blindsum.pipelines.cli.options import JsonOption, YesOption, agreed
from blindsum.pipelines.show.console import console, emit, show_result, size
from blindsum.pipelines.show.progress import progress
from blindsum.pipelines.show.table import Pairs, Sheet
from blindsum.platform.job.file import load_job
from blindsum.platform.job.paths import results_folder

if TYPE_CHECKING:
    from blindsum.pipelines.run.past_runs import PastRun

app = typer.Typer(no_args_is_help=True, help="List, show and delete the runs on this machine.")
RunArgument = Annotated[
    Path,
    typer.Argument(
        help="The run's folder, runs/NAME; or its name, if it is in ./runs.",
        metavar="RUN",
        autocompletion=run_folders,
    ),
]


@app.command("list")
def list_(
    where: Annotated[
        Path | None,
        typer.Argument(
            help="A job file, or a folder of runs. Default: ./runs.",
            metavar="JOB.YAML",
            autocompletion=job_files,
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """List runs, the newest first; interrupted ones can be resumed."""
    from blindsum.pipelines.run.past_runs import past_runs

    folder = _folder(where)
    with progress("reading runs", json) as shown:
        found = past_runs(folder, shown.share)
        sizes = [] if json else [size(one.bytes) for one in found]
    if json:
        for one in found:
            emit("run", **_figures(one))
        return
    if not found:
        console.print(f"no run lies in {folder}", soft_wrap=True)
        return
    table = Sheet("run", "last written (UTC)", "state", "rounds", "epsilon", "size")
    for one, bytes_ in zip(found, sizes, strict=True):
        table.add(one.name, _utc(one.changed), one.state, str(one.rounds), _largest(one), bytes_)
    show_result(table)
    for one in found:
        if one.state == "interrupted":
            console.print(f"to resume: {_resume(one)}", soft_wrap=True)


@app.command()
def show(run: RunArgument, json: JsonOption = False) -> None:
    """Show one run: its state, its result, what it spent, and where its files are."""
    one = _run(run)
    if json:
        return emit("run", **_figures(one))
    table = Pairs([("run", one.name), ("state", one.state)])
    if one.state == "interrupted":
        table.add("", f"to resume: {_resume(one)}")
    table.add("rounds", f"{one.rounds} completed, the last on {_utc(one.changed)} UTC")
    if one.result:
        table.add("result", one.result)
    spent = ", ".join(f"{silo} {epsilon:.3f}" for silo, epsilon in one.epsilon.items())
    table.add("epsilon", spent or "none known: no round with privacy was completed")
    table.add("job", one.job)
    table.add("model", str(one.model or "none"))
    table.add("files", f"{one.folder} ({size(one.bytes)})")
    if one.mlflow_run:
        table.add("MLflow", f"run {one.mlflow_run}")
    table.add("at silos", f"each keeps runs/{one.name} in its own state folder")
    show_result(table)
    return None


@app.command()
def delete(run: RunArgument, yes: YesOption = False) -> None:
    """Delete a run's folder: model, statement and log. Ledgers keep every charge."""
    from blindsum.pipelines.run.past_runs import delete_run

    one = _run(run)
    kept = [
        ("deletes", f"{one.folder} ({size(one.bytes)}), with {_contents(one)}"),
        ("keeps", "every charge in the silos' ledgers: what was spent stays spent"),
        ("", "the silos' audit logs, and each silo's own folder of the run"),
        ("", f"MLflow's run {one.mlflow_run}" if one.mlflow_run else "MLflow's run, if any"),
    ]
    if one.state == "interrupted":
        kept.append(("", "The run was interrupted: it cannot be resumed afterwards."))
    console.print(Pairs(kept))
    agreed(f"Delete {one.name}?", yes)
    delete_run(one)
    show_result(f"deleted {one.folder}", soft_wrap=True)


def _folder(where: Path | None) -> Path:
    if where is None:
        return results_folder(Path.cwd()) / "runs"
    if where.is_dir():
        return where
    from blindsum.pipelines.run.folders import runs_folder

    return runs_folder(load_job(where))


def _run(path: Path) -> PastRun:
    from blindsum.pipelines.run.past_runs import past_run

    inside = results_folder(Path.cwd()) / "runs" / path
    return past_run(inside if not path.exists() and inside.exists() else path)


def _contents(one: PastRun) -> str:
    return ", ".join(sorted(entry.name for entry in one.folder.iterdir()))


def _figures(one: PastRun) -> dict[str, object]:
    return {
        "run": one.name,
        "folder": str(one.folder),
        "state": one.state,
        "rounds": one.rounds,
        "epsilon": dict(one.epsilon),
        "result": one.result or None,
        "job": one.job,
        "model": str(one.model) if one.model else None,
        "mlflow_run": one.mlflow_run or None,
        "written": one.changed,
        "bytes": one.bytes,
    }


def _largest(one: PastRun) -> str:
    return f"{max(one.epsilon.values()):.3f}" if one.epsilon else ""


def _resume(one: PastRun) -> str:
    return f"blindsum resume {quote(str(one.folder))}"


def _utc(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(when))
