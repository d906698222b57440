"""The `blindsum` command.

Exit status: 0 for success, 1 if refused or failed, 2 for wrong usage, 130 after Ctrl-C.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from blindsum.pipelines.cli import (
    approve,
    audit_log,
    cache,
    certificates,
    coordinator,
    describe,
    doctor,
    features,
    imports,
    ledger,
    plan,
    predict,
    release,
    runs,
    silo_agent,
    submit,
)
from blindsum.pipelines.cli.approve import say_how_to_go_on
from blindsum.pipelines.cli.completion import run_folders, silo_names
from blindsum.pipelines.cli.options import (
    AddressOption,
    JobArgument,
    JsonOption,
    LinesOption,
    SetOption,
    SiloOption,
    YesOption,
    interruptible,
)
from blindsum.pipelines.cli.public_weights import WeightsOption, say_public
from blindsum.pipelines.show.console import emit, keep_stdout, show_error
from blindsum.pipelines.show.progress import progress
from blindsum.platform.errors import (
    BlindsumError,
    CannotTakePart,
    ConsentError,
    JobError,
    without_values,
)
from blindsum.platform.job.file import JobFile, load_job

if TYPE_CHECKING:
    from blindsum.pipelines.run.run_log import Kept

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train one model over data that cannot leave its owners.",
)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("job.yaml"),
) -> None:
    """Write a commented job file to start from."""
    starter = files("blindsum.pipelines.cli").joinpath("starter.yaml").read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(starter)
    except FileExistsError:
        raise JobError(f"{path} already exists", "Name another file.") from None
    except OSError as error:
        raise JobError(f"{path} cannot be written: {error.strerror}") from None
    typer.echo(f"wrote {path}; edit it, then run: blindsum check {quote(str(path))}", err=True)


@app.command()
@interruptible
def check(
    job: JobArgument,
    set_: SetOption = None,
    address: AddressOption = None,
    json: JsonOption = False,
) -> None:
    """Validate the job, silo data and privacy plan; print what a run would spend and send."""
    job_file = load_job(job, set_ or [])
    with progress("starting", json):
        from blindsum.pipelines.run.check import check as check_job
        from blindsum.pipelines.run.check import show_check

    keep_stdout()
    show_check(job_file, check_job(job_file, address, quiet=json), json)


@app.command()
@interruptible
def run(
    job: JobArgument,
    set_: SetOption = None,
    address: AddressOption = None,
    json: JsonOption = False,
    lines: LinesOption = False,
) -> None:
    """Train: start the silos, run the rounds, save the model."""
    _train(load_job(job, set_ or []), address, json, lines)


@app.command()
@interruptible
def resume(
    run_folder: Annotated[
        Path,
        typer.Argument(
            help="The run's folder: runs/NAME.", metavar="RUN", autocompletion=run_folders
        ),
    ],
    address: AddressOption = None,
    json: JsonOption = False,
    lines: LinesOption = False,
) -> None:
    """Resume an interrupted run after its last completed round."""
    from blindsum.pipelines.interface.training import resumable

    kept = resumable(run_folder)
    _train(kept.job_file, address, json, lines, kept)


def _train(
    job_file: JobFile, address: str | None, json: bool, lines: bool, kept: Kept | None = None
) -> None:
    from blindsum.pipelines.interface.training import train_shown
    from blindsum.pipelines.run import output
    from blindsum.pipelines.run.closing import show_end
    from blindsum.pipelines.run.run import Run

    def ended(one: Run) -> None:
        emit("end", **one.summary()) if json else show_end(one)

    keep_stdout()
    shown = output.listener(json, lines, job_file.job.name)
    train_shown(job_file, address, shown, ended, kept)


@app.command()
def identity(
    job: JobArgument,
    silo: SiloOption,
) -> None:
    """Print the fingerprint of a silo's identity on this machine; create one if none exists."""
    from blindsum.actors.vault import open_identity
    from blindsum.he.identity import fingerprint
    from blindsum.platform.job.paths import state_folder

    opened = open_identity(state_folder(load_job(job, []).silo(silo)))
    typer.echo(fingerprint(opened.public))


@app.command()
@interruptible
def audit(
    job: JobArgument,
    silo: Annotated[
        str | None,
        typer.Option(
            "--silo",
            help="The silo to audit, on its own machine. Default: the job's first silo.",
            autocompletion=silo_names,
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Use weaker attackers; takes minutes.")
    ] = False,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIGURE=NUMBER", help="Fail if the figure exceeds the number; may repeat."
        ),
    ] = None,
    mlflow: Annotated[
        bool, typer.Option("--mlflow", help="Also store the report in the job's MLflow.")
    ] = False,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Attack the job's own model, data and protocol; report which defence stops which attack."""
    job_file = load_job(job, set_ or [])
    with progress("starting", json):
        from blindsum.pipelines.audit.command import run_audit

    keep_stdout()
    run_audit(job_file, silo, quick, fail_on or [], json, mlflow)


@app.command()
@interruptible
def baseline(
    arm: Annotated[
        str, typer.Argument(metavar="local|pooled", help="Each silo alone, or all pooled.")
    ],
    job: JobArgument,
    silo: Annotated[
        str | None,
        typer.Option(
            "--silo",
            help="With local: only this silo, on its machine.",
            autocompletion=silo_names,
        ),
    ] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Also send the exact figures to an MLflow server.")
    ] = False,
    weights: WeightsOption = None,
    yes: YesOption = False,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Train without a federation, for comparison; reads the silos' tables on this machine."""
    job_file = load_job(job, set_ or [])
    if weights:
        say_public(job_file, weights, yes)
    if arm not in ("local", "pooled"):
        raise JobError(f"unknown baseline {arm!r}", "Use local or pooled.")
    keep_stdout()
    models = len(job_file.job.roster) if arm == "local" and silo is None else 1
    rounds = models * job_file.job.training.rounds
    with progress(f"{arm} baseline", json, rounds) as shown:
        from blindsum.pipelines.comparison.baseline import baseline as train_baseline
        from blindsum.pipelines.comparison.baseline import show_baseline

        found = train_baseline(
            job_file,
            "local" if arm == "local" else "pooled",
            silo,
            done=shown.step,
            publish=publish,
            weights=weights,
        )
    show_baseline(found, json)


@app.command()
@interruptible
def compare(
    job: JobArgument,
    runs: Annotated[list[str] | None, typer.Argument(help="Names of runs; default: all.")] = None,
    experiment: Annotated[
        str | None, typer.Option(help="MLflow experiment; default: the job's.")
    ] = None,
    silo: Annotated[
        list[str] | None,
        typer.Option(
            "--silo",
            help="Add this silo's gain on each task; private to the silo. May repeat.",
            autocompletion=silo_names,
        ),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Where to write the page; default: next to the job file.")
    ] = None,
    mlflow: Annotated[
        bool, typer.Option("--mlflow", help="Also store the page in MLflow.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Compare finished runs and baselines side by side."""
    job_file = load_job(job, [])
    with progress("starting", json):
        from blindsum.pipelines.comparison.compare_page import run_compare

    run_compare(job_file, experiment, runs or [], silo or [], page, mlflow, json)


@app.command()
@interruptible
def sweep(
    job: JobArgument,
    epsilon: Annotated[
        str, typer.Option(help='Comma-separated budgets; "none" trains without privacy.')
    ],
    seeds: Annotated[int, typer.Option(min=1, max=100, help="How many seeds for each budget.")] = 1,
    arms: Annotated[
        str, typer.Option(help="Comma-separated: federated, local, pooled.")
    ] = "federated",
    parallel: Annotated[
        int, typer.Option(min=1, max=64, help="Runs at the same time, on one Ray cluster.")
    ] = 1,
    set_: SetOption = None,
) -> None:
    """Run a job at several budgets and seeds; run it again to resume after an interruption."""
    job_file = load_job(job, set_ or [])
    with progress("starting", quiet=False):
        from blindsum.pipelines.comparison.sweep import run_sweep

    keep_stdout()
    run_sweep(job_file, set_ or [], epsilon, seeds, arms, parallel)


@app.command()
@interruptible
def prepare(
    recipe: Annotated[
        Path, typer.Argument(help="The recipe that all silos agreed on.", metavar="RECIPE.YAML")
    ],
    sources: Annotated[
        Path, typer.Argument(help="Describes this silo's tables.", metavar="SOURCES.YAML")
    ],
    secret: Annotated[Path, typer.Option("--secret", help="The consortium's secret file.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    against: Annotated[
        list[Path] | None, typer.Option(help="Another silo's manifest.json; may repeat.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Worker processes; default: one per core.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Build a silo's table from its assays: standardised structures, features, folds, labels."""
    with progress("starting", json):
        from blindsum.pipelines.preparation.prepare import prepare as prepare_tables
        from blindsum.pipelines.preparation.prepare import show_report

    keep_stdout()
    show_report(prepare_tables(recipe, sources, secret, out, against or [], workers, json), json)
    typer.echo(f"wrote {out}; copy the job's data section from {out / 'data.yaml'}", err=True)


@app.command()
def secret(path: Annotated[Path, typer.Argument(help="File to write.", metavar="FILE")]) -> None:
    """Create the consortium's secret for `prepare`: one silo runs this, then shares the file."""
    from blindsum.platform.data.preparation.secret import make_secret

    make_secret(path)
    typer.echo(
        f"wrote {path}: share it with the silos only, never with the server or in the job", err=True
    )


# In the order of --help: what everyone uses first, then what owners and operators use.
app.add_typer(runs.app, name="runs")
app.command("predict")(predict.predict)
app.add_typer(release.app, name="release")
app.command("verify")(release.verify)
app.command("describe")(describe.describe)
app.command("features")(features.features)
app.command("plan")(plan.plan)
app.command("doctor")(doctor.doctor)
app.add_typer(imports.app, name="import")
app.add_typer(ledger.app, name="ledger")
app.add_typer(audit_log.app, name="audit-log")
app.add_typer(cache.app, name="cache")
app.add_typer(silo_agent.app, name="silo")
app.command("approve")(approve.approve)
app.add_typer(coordinator.app, name="coordinator")
app.command("invite")(coordinator.invite)
app.command("propose")(coordinator.propose)
app.command("submit")(submit.submit)
app.add_typer(submit.app, name="job")
app.add_typer(certificates.app, name="certificates")


def _version(wanted: bool) -> None:
    if wanted:
        from blindsum.pipelines.cli.versions import version_lines

        typer.echo("\n".join(version_lines()))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print versions.")
    ] = False,
) -> None:
    """Train one model over data that cannot leave its owners."""


def main() -> None:
    """Run the command; an error ends in one message, never in a traceback."""
    try:
        app()
    except BlindsumError as error:
        show_error(error)
        if isinstance(error, (CannotTakePart, ConsentError)):
            say_how_to_go_on()
        sys.exit(1)
    except ModuleNotFoundError as error:
        show_error(
            JobError(
                f"the module {error.name!r} is not installed for {sys.executable}",
                "Install Blindsum with its dependencies; for a cluster's nodes: "
                "blindsum submit --ship all.",
            )
        )
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - a traceback of the driver may quote values
        show_error(without_values(error))
        sys.exit(1)
