"""`blindsum release` and `blindsum verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blindsum.pipelines.cli.completion import run_folders
from blindsum.pipelines.cli.options import JobArgument, JsonOption, SiloOption
from blindsum.pipelines.show.console import console, emit, show_result, show_warnings
from blindsum.platform.errors import JobError

app = typer.Typer(
    no_args_is_help=True,
    help="Make one file of a run's results, and sign it as a silo.",
)
BundleArgument = Annotated[Path, typer.Argument(help="The release's file.", metavar="BUNDLE")]


@app.command()
def create(
    run: Annotated[
        Path,
        typer.Argument(
            help="The run's folder: runs/NAME.", metavar="RUN", autocompletion=run_folders
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="File to write.")],
    audit: Annotated[
        Path | None, typer.Option(help="audit.json of an audit of this job, as part of it.")
    ] = None,
) -> None:
    """Collect model, job, statement, model card and bill of materials; nobody has signed yet."""
    from blindsum.pipelines.release.make import make_release

    made = make_release(run, to, audit)
    names = ", ".join(made.said.predicate.silos)
    console.print(f"wrote {to}: {len(made.files)} files", soft_wrap=True)
    console.print(f"now each silo signs it: blindsum release sign {to} JOB.YAML --silo NAME\n"
                  f"silos: {names}", soft_wrap=True)  # fmt: skip


@app.command()
def sign(bundle: BundleArgument, job: JobArgument, silo: SiloOption) -> None:
    """Sign as a silo, on its own machine, if its ledger and audit log confirm the release."""
    from blindsum.pipelines.release.make import sign_release

    confirmed = sign_release(bundle, job, silo)
    budget = (
        "without differential privacy"
        if confirmed.epsilon is None
        else f"epsilon {confirmed.epsilon:g} at delta {confirmed.delta:g}"
    )
    console.print(
        f"silo '{silo}' signed {bundle}: run {confirmed.run}, {len(confirmed.charges)} charged "
        f"attempts, {budget}",
        soft_wrap=True,
    )


def verify(
    bundle: BundleArgument,
    silo: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FINGERPRINT", help="A silo's known identity; may repeat."),
    ] = None,
    require_audit: Annotated[
        bool, typer.Option("--require-audit", help="Fail if no audit is part of it.")
    ] = False,
    limit: Annotated[
        list[str] | None,
        typer.Option(metavar="FIGURE=NUMBER", help="Fail if the audit's figure is above."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Say what a release proves: needs nothing but the file, and the silos' fingerprints."""
    from blindsum.pipelines.release.verify import figures_of, verify_release

    known = dict[str, str]()
    for text in silo or ():
        name, separator, fingerprint = text.partition("=")
        if not separator or len(fingerprint) != 64:
            raise JobError(f"--silo {text!r} is no fingerprint", "Write NAME=64 hex digits.")
        known[name] = fingerprint
    proof = verify_release(bundle, known, figures_of(limit or ()), require_audit)
    if json:
        emit(
            "verified",
            run=proof.release.run,
            round=proof.release.round,
            silos={name: one.by for name, one in proof.signed.items()},
            proves=proof.lines,
            warnings=proof.warnings,
        )
        return
    for line in proof.lines:
        show_result(line, soft_wrap=True)
    show_warnings(list(proof.warnings))
