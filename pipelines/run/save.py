"""Saving of a run's results: its model, its curves, its privacy statement, and tags in MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from blindsum.pipelines.run.coefficients import files_of, inferred
from blindsum.pipelines.run.files import write_whole
from blindsum.pipelines.run.moving import ADVICE
from blindsum.pipelines.run.run import Run, SavedModel
from blindsum.pipelines.run.save_statistics import save_statistics
from blindsum.platform.job.average_section import described
from blindsum.platform.privacy.releases import SIMULATED
from blindsum.platform.tracking.names import EVALUATED, ROUNDS, held_out_tags
from blindsum.platform.tracking.run_facts import NOTE, run_note

if TYPE_CHECKING:  # torch, Ray and MLflow are imported while Ray starts, not before
    from matplotlib.figure import Figure

    from blindsum.actors.federation import Federation
    from blindsum.actors.round_report import RoundReport
    from blindsum.platform.job.schema import Job
    from blindsum.platform.job.trees_section import Boosted
    from blindsum.platform.privacy.statement import Statement
    from blindsum.platform.tracking.mlflow_run import Tracker
    from blindsum.platform.training.vector import Vector


def save(run: Run, federation: Federation, tracker: Tracker) -> None:
    """Fetch the averaged and the newest model from a silo, and write everything into the run's
    folder and MLflow.

    Raises:
        BlindsumError: no silo returns the model.
        OSError: the folder cannot be written.
    """
    stated, model = _statement(run), run.job_file.job.model
    if model.kind == "statistics":
        save_statistics(run, model, federation, tracker)
    else:
        _save_model(run, federation, tracker, stated)
        _save_curves(run, tracker)
    _save_statement(run, tracker, stated)
    text = run.job_file.text.replace(tracker.uri, tracker.shown_uri)
    write_whole(run.folder / "job.yaml", text.encode())


def _save_model(run: Run, federation: Federation, tracker: Tracker, stated: Statement) -> None:
    from blindsum.platform.job.paths import MODEL, NEWEST, import_from
    from blindsum.platform.prediction.released import released
    from blindsum.platform.training.models import model_of, set_parameters

    job, last = run.job_file.job, run.reports[-1]
    # After an interrupt, the user should not wait for silos that are busy training.
    timeout_s = 10.0 if run.status == "KILLED" else 60.0
    release = federation.release(last.round, last.state_digest, timeout_s)
    import_from(str(run.job_file.folder))
    model = model_of(job, private=False)
    set_parameters(model, release.vector)
    content = released(job, run.name, release.round, model, stated)
    # MLflow first: it may have more room.
    tracker.log_model(content, release.round)
    run.folder.mkdir(parents=True, exist_ok=True)
    path = write_whole(run.folder / MODEL, content)
    run.saved = SavedModel(path, release.round)
    if job.training.average.kind != "none":
        set_parameters(model, release.newest)
        content = released(job, run.name, release.round, model, stated, newest=True)
        tracker.log_file(write_whole(run.folder / NEWEST, content))
    if job.model.kind == "trees":
        _save_for_xgboost(run, job, job.model, release.newest, tracker)
        _save_features(run, job, job.model, release.newest, tracker)
    if job.model.kind == "regression":
        run.inference = inferred(job, job.model, release.newest)
        for name, content in files_of(run.inference):
            tracker.log_file(write_whole(run.folder / name, content))


def _save_for_xgboost(
    run: Run, job: Job, section: Boosted, forest: Vector, tracker: Tracker
) -> None:
    """Write the forest in XGBoost's format too, where it has one."""
    from blindsum.platform.errors import ModelError
    from blindsum.platform.job.paths import XGBOOST
    from blindsum.platform.training.trees.xgboost_json import of_job

    try:
        content = of_job(job, section, forest)
    except ModelError:  # tasks of two kinds
        return
    tracker.log_file(write_whole(run.folder / XGBOOST, content))


def _save_features(run: Run, job: Job, section: Boosted, forest: Vector, tracker: Tracker) -> None:
    """Write what the forest learned from which feature, as JSON and as a page."""
    from blindsum.pipelines.run.forest_page import as_page, explained
    from blindsum.platform.job.paths import FEATURES, FEATURES_PAGE

    found = explained(job, section, forest)
    content = json.dumps({"run": run.name, **found.as_dict()}, indent=1).encode()
    tracker.log_file(write_whole(run.folder / FEATURES, content))
    page = as_page(found, run.name).encode()
    tracker.log_file(write_whole(run.folder / FEATURES_PAGE, page))


def _save_curves(run: Run, tracker: Tracker) -> None:
    budgets = {s: run.budget(s) for s in run.job_file.job.roster}
    figure = draw(f"{run.name}\n{run.headline()}", run.reports, budgets)
    path = run.folder / "accuracy_and_epsilon.png"
    figure.savefig(path, dpi=130)
    tracker.log_file(path)


def draw(title: str, reports: Sequence[RoundReport], budgets: Mapping[str, float | None]) -> Figure:
    """Return a figure of the rounds: the held-out score, and each silo's spent epsilon.

    Args:
        budgets: the epsilon that each silo may spend, None without differential privacy.
    """
    from blindsum.platform.tracking.curves import draw_run

    spent = {s: [r.epsilon[s] for r in reports if s in r.epsilon] for s in budgets}
    return draw_run(
        title,
        [r.round for r in reports],
        {r.round: r.metrics.held_out for r in reports if r.metrics.held_out},
        spent if reports[0].epsilon else {},
        {s: budget for s, budget in budgets.items() if budget is not None},
    )


def _statement(run: Run) -> Statement:
    from blindsum.platform.privacy.statement import privacy_statement

    owned = {name: i.owned for name, i in run.inspections.items()}
    return privacy_statement(
        run.job_file.job, run.plans, run.epsilon(), run.headline(), owned, run.spec.simulated
    )


def _save_statement(run: Run, tracker: Tracker, stated: Statement) -> None:
    from blindsum.platform.privacy.statement import as_page

    content = json.dumps({"run": run.name, **stated}, indent=2).encode()
    page = as_page(stated, run.name).encode()
    tracker.log_file(write_whole(run.folder / "privacy-statement.json", content))
    tracker.log_file(write_whole(run.folder / "privacy-statement.html", page))


def closing_tags(run: Run) -> dict[str, str]:
    """Return the MLflow tags of a run that is over: spend, ledgers, consent, lost silos."""
    tags = {ROUNDS: str(len(run.reports)), "blindsum.announced": str(run.announced)}
    tags["blindsum.average"] = described(run.job_file.job.training.average)
    if simulated := SIMULATED if run.spec.simulated else run.job_file.job.simulated:
        tags["blindsum.simulated"] = simulated
    if run.still_moving:
        tags["blindsum.still_moving"] = ADVICE
    tags |= {f"blindsum.lost.{silo}": f"in round {round}" for silo, round in run.lost.items()}
    tags |= {f"blindsum.epsilon.{silo}": f"{e:.6g}" for silo, e in run.epsilon().items()}
    tags |= {
        f"blindsum.consent.{silo}": "enforced" if one.owned else "NOT ENFORCED: no owner's file"
        for silo, one in run.inspections.items()
    }
    tags |= {
        f"privacy.noise_multiplier.{silo}": f"{plan.noise_multiplier:.6g}"
        for silo, plan in run.plans.items()
        if plan
    }
    if found := run.held_out():
        tags[EVALUATED] = str(found[0])
        tags |= held_out_tags(found[1])
    if run.reports:
        if not run.job_file.job.moves_range:
            tags["blindsum.range"] = f"{run.reports[-1].range:g}"
        heads = {silo: h for report in run.reports for silo, h in report.ledgers.items()}
        tags |= {f"blindsum.ledger.{silo}": h for silo, h in heads.items()}
        tags[NOTE] = f"{run.headline()}\n\n{run_note(run.job_file.job)}"
    return tags
