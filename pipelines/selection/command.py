"""`blindsum features`: compares, shows what it found, and writes the job's sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from blindsum.pipelines.selection.candidates import Plan, Setting, settings_of
from blindsum.pipelines.selection.compared import Compared, compared
from blindsum.pipelines.selection.digits import encryption_of
from blindsum.pipelines.selection.public_records import PublicRecords, read_public, require_public
from blindsum.pipelines.selection.sections import offer, require_new
from blindsum.pipelines.selection.trial import parameters_of
from blindsum.pipelines.show.console import console, emit, show_result
from blindsum.pipelines.show.progress import progress
from blindsum.pipelines.show.table import Sheet
from blindsum.platform.job.schema import Job
from blindsum.platform.job.yaml_reader import dump

WARNING = (
    "The file must be public: these trainings are charged to no budget, and the choice that they "
    "lead to reveals something about its records."
)


def choose_features(
    path: Path,
    labels: Sequence[str],
    plan: Plan,
    names: Sequence[str],
    folds: int,
    seeds: int,
    write: Path | None,
    as_json: bool,
) -> None:
    """Compare representations on public records, print what was found, and write the best one's
    sections of a job file.

    Args:
        names: the representations to compare; all, if none.
        write: the new file; None prints the sections.

    Raises:
        ConsentError: this machine's tables are an owner's datasets.
        DataError, JobError: the file cannot be used, or a name is unknown.
    """
    require_public(path)
    require_new(write)
    settings = settings_of(names, plan.epsilon)
    wanted = list(dict.fromkeys(one.representation for one in settings))
    with progress("reading", as_json) as shown:
        records = read_public(
            path, plan.smiles, labels, wanted, lambda name: shown.stage(f"computing {name}"),
            shown.share,
        )  # fmt: skip
        plan = replace(plan, tasks=records.task_sections)
        shown.stage("training", len(settings) * folds * seeds)
        found = compared(records, settings, plan, folds, seeds, shown.step)
    text = _text(path, found, records, plan)
    _show_json(found, records, plan) if as_json else _show(found, records, plan, folds)
    offer(text, write, as_json)


def _show(found: Sequence[Compared], records: PublicRecords, plan: Plan, folds: int) -> None:
    best, measure = found[0], "AUROC" if records.is_binary else "R2"
    table = Sheet("features", "inputs", "parameters", "model", measure, "against the best")
    for one in found:
        table.add(
            one.name,
            f"{records.width(one.name):,}",
            f"{parameters_of(plan, one.setting):,}",
            one.setting.name,
            str(one.estimate),
            "" if one is best else one.over(best).signed(),
        )
    show_result(table)
    tasks = f"{len(records.tasks)} {'task' if len(records.tasks) == 1 else 'tasks'}"
    console.print(
        f"{measure} under {_budget(plan)}, mean over {tasks} and {folds} folds by scaffold, ± one "
        f"standard error; {len(records):,} records, {records.left_out:,} left out"
    )
    if alike := [one.name for one in found[1:] if one.over(best).is_zero]:
        console.print(f"not distinguishable from {best.name}: {', '.join(alike)}")
    if said := _beyond(records, plan, folds):
        console.print(said)


def _beyond(records: PublicRecords, plan: Plan, folds: int) -> str:
    here = len(records) * (folds - 1) / folds / plan.silos
    if plan.records is None or plan.records <= here:
        return ""
    return (
        f"the public records are fewer than those of the plan (about {here:,.0f} of "
        f"{plan.records:,} a silo): noise is that of the plan, but what a model learns from more "
        "records is not seen here"
    )


def _budget(plan: Plan) -> str:
    if plan.epsilon is None:
        return f"no privacy with {plan.silos} silos"
    return f"epsilon {plan.epsilon:g} and delta {plan.delta:g} with {plan.silos} silos"


def _show_json(found: Sequence[Compared], records: PublicRecords, plan: Plan) -> None:
    best = found[0]
    for one in found:
        against = one.over(best)
        emit(
            "features",
            name=one.name,
            inputs=records.width(one.name),
            parameters=parameters_of(plan, one.setting),
            setting=one.setting.name,
            score=one.estimate.mean,
            standard_error=one.estimate.error,
            by_fold=one.by_fold.tolist(),
            against_best=against.mean,
            against_best_standard_error=against.error,
        )
    emit(
        "chosen",
        measure="auroc" if records.is_binary else "r2",
        records=len(records),
        left_out=records.left_out,
        sections=_sections(best.setting, records, plan),
    )


def _sections(setting: Setting, records: PublicRecords, plan: Plan) -> dict[str, Any]:
    each = plan.records or len(records) / plan.silos
    job = Job.model_validate(plan.job(setting, each, seed=1))
    return plan.sections(setting, each) | encryption_of(job)


def _text(path: Path, found: Sequence[Compared], records: PublicRecords, plan: Plan) -> str:
    best = found[0]
    measure = "AUROC" if records.is_binary else "R2"
    each = "" if plan.records is None else f" of {plan.records:,} training records"
    return (
        f"# Chosen by `blindsum features` on {path.name}: {measure} {best.estimate} under "
        f"{_budget(plan)}{each}.\n"
        + "# Add silos, labels and folds. expected_batch_size is half of a silo's training records."
        + f"\n{dump(_sections(best.setting, records, plan))}"
    )
