"""`blindsum run`: from a job file to a released model, an MLflow run and charged ledgers."""

from __future__ import annotations

import importlib
import io
import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from blindsum.infra.ray_session import ray_session
from blindsum.pipelines.run.folders import runs_folder, silo_folder
from blindsum.pipelines.run.listeners import Watched, figures
from blindsum.pipelines.run.run import Observer, Run
from blindsum.pipelines.run.run_log import Kept, RunLog
from blindsum.platform.errors import BlindsumError, BudgetExceeded, without_values
from blindsum.platform.events import Log
from blindsum.platform.job.file import JobFile

if TYPE_CHECKING:  # torch, Ray and MLflow are imported while Ray starts, not before
    from blindsum.actors.federation import Federation
    from blindsum.platform.tracking.mlflow_run import Tracker


def train(
    job_file: JobFile,
    address: str | None,
    observer: Observer,
    finished: Callable[[Run], None] = lambda run: None,
    tags: Mapping[str, str] | None = None,
    kept: Kept | None = None,
) -> Run:
    """Run a job to its end, whatever the end is.

    Args:
        address: of a Ray cluster to join, or None for a Ray of our own.
        finished: called with the run however it ended, once its model is saved.
        tags: for MLflow, beside the job's own.
        kept: an interrupted run of this job, to go on with.

    Returns:
        The run, with status FINISHED.

    Raises:
        BlindsumError: the run failed; the last good model is saved and MLflow is closed.
        KeyboardInterrupt: Ctrl-C or SIGTERM, likewise.
    """
    run = _interrupted(kept) if kept else _new_run(job_file)
    log = RunLog(run.folder, run.name, job_file)
    if kept:
        log.open(kept.mlflow_run)  # first of all: another process may have it
    told = Log(job=job_file.job.name, run=run.name)
    observer = watched = Watched(observer, run, told)
    observer.stage("starting Ray")
    ahead = threading.Thread(target=_import_ahead, daemon=True)
    ahead.start()
    # Twice: Ray, once started, puts a handler of its own in place.
    heard = run.interrupted
    with _hearing(heard), ray_session(address), _hearing(heard):
        from blindsum.platform.tracking.mlflow_run import Tracker

        ahead.join()
        tracker = Tracker(
            job_file,
            run.name,
            {"blindsum.arm": "federated", **(tags or {})},
            kept.mlflow_run if kept else "",
        )
        federation: Federation | None = None
        try:
            federation = _start(run, tracker, observer, log, told)
            if kept:
                tracker.log_missing(kept.figures)
            _rounds(run, federation, tracker, observer, log)
            run.status = "FINISHED"
        except KeyboardInterrupt:
            run.status, run.ended = "KILLED", "interrupted"
            raise
        except BlindsumError as error:
            run.ended = str(error)
            raise
        except Exception as error:
            run.ended = str(without_values(error))
            raise
        finally:
            with _undisturbed():
                observer.stage("saving the model and closing the run")
                _finish(run, federation, tracker)
                if run.status == "FINISHED":
                    log.end()
                log.close()
                watched.end()
                finished(run)
    if run.unsaved:
        raise BlindsumError(
            run.unsaved, "Make room. What MLflow took is in its run; charges stay charged."
        )
    return run


def _import_ahead() -> None:
    with suppress(ImportError):  # who needs it next says what is missing
        importlib.import_module("blindsum.actors.federation")


def _start(run: Run, tracker: Tracker, observer: Observer, log: RunLog, told: Log) -> Federation:
    from blindsum.actors.federation import Federation

    job = run.job_file.job
    observer.stage("silos read their data and plan their spend")
    federation = Federation(
        job,
        run.name,
        silo_folder(run.job_file),
        interrupted=run.interrupted,
        standing=run.standing,
        log=told,
    )
    run.inspections = federation.inspect()
    plans = [plan for plan in run.plans.values() if plan]
    run.rounds_planned = min([job.training.rounds, *(p.rounds_within_budget for p in plans)])
    link = tracker.ready()
    run.tracking_uri, run.experiment, run.run_id = link.uri, link.experiment, link.run_id
    if not run.standing:
        log.open(run.run_id)
    observer.stage("silos exchange keys")
    federation.exchange_keys()
    run.startup_s = run.seconds
    observer.planned(run)
    return federation


def _rounds(
    run: Run, federation: Federation, tracker: Tracker, observer: Observer, log: RunLog
) -> None:
    _tell_of_lost(run, federation, observer)
    for number in range(len(run.reports) + 1, run.rounds_planned + 1):
        run.announced = number
        try:
            report = federation.run_round(number)
        except BudgetExceeded as error:  # the ledger knows of a spend that the plan did not
            run.ended = f"stopped before round {number}: {error}"
            return
        finally:
            run.retries = federation.retries
            _tell_of_lost(run, federation, observer)
        run.reports.append(report)
        found = figures(run, report)
        run.unkept = log.round(report, found, federation.standing) or run.unkept
        tracker.log_round(number, found)
        observer.round(run, report)
    if run.rounds_planned < run.job_file.job.training.rounds:
        run.ended = (
            f"stopped after round {run.rounds_planned} of {run.job_file.job.training.rounds}: "
            "the next one would pass a silo's budget"
        )


def _tell_of_lost(run: Run, federation: Federation, observer: Observer) -> None:
    if fresh := federation.lost.keys() - run.lost.keys():
        run.lost = dict(federation.lost)
        observer.lost(run, sorted(fresh), len(federation.roster))


def _finish(run: Run, federation: Federation | None, tracker: Tracker) -> None:
    """Save what there is. Runs on every way out, and raises nothing that would hide it."""
    if federation and run.reports:
        try:
            _save(run, federation, tracker)
            if run.status == "FINISHED":
                federation.forget()  # and before that nothing: who saves in vain may go on
        except BlindsumError as error:
            run.unsaved = f"the last model could not be saved: {error}"
        except OSError as error:
            run.unsaved = (
                f"results could not be saved in {run.folder}: {os.strerror(error.errno or 0)}"
            )
    if run.unsaved:
        run.status = "FAILED" if run.status == "FINISHED" else run.status
        run.also(run.unsaved)
    if run.unkept:
        run.also(f"it cannot be gone on with from its last rounds: {run.unkept}")
    tags = {"blindsum.rounds": str(len(run.reports)), "blindsum.announced": str(run.announced)}
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
    if run.reports:
        heads = {silo: h for report in run.reports for silo, h in report.ledgers.items()}
        tags |= {f"blindsum.ledger.{silo}": h for silo, h in heads.items()}
        tags["mlflow.note.content"] = run.headline()
    run.tracking_failure = tracker.finish(run.status, run.ended or "all rounds", tags)
    if federation:
        federation.close()
    if run.model:
        try:
            _write(run.folder / "summary.json", json.dumps(run.summary(), indent=2).encode())
        except OSError as error:
            run.also(f"summary.json could not be written: {os.strerror(error.errno or 0)}")


def _save(run: Run, federation: Federation, tracker: Tracker) -> None:
    import torch

    from blindsum.platform.data.features import features_of
    from blindsum.platform.job.paths import import_from
    from blindsum.platform.privacy.statement import as_page, privacy_statement
    from blindsum.platform.tracking.curves import draw_run
    from blindsum.platform.training.models import model_of, set_parameters

    job = run.job_file.job
    # An interrupted user waits for no silo that is deep in its training.
    timeout_s = 10.0 if run.status == "KILLED" else 60.0
    release = federation.release(run.reports[-1].round, run.reports[-1].model_digest, timeout_s)
    import_from(str(run.job_file.folder))
    features = features_of(job.data.features).width
    model = model_of(job, private=False)
    set_parameters(model, release.vector)
    tracker.log_model(model, features, release.round)  # first: it may have more room
    run.folder.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    torch.save(model.state_dict(), content)
    run.model = _write(run.folder / "model.pt", content.getvalue())
    run.model_round = release.round
    text = run.job_file.text.replace(tracker.uri, tracker.shown_uri)
    _write(run.folder / "job.yaml", text.encode())
    curves = run.folder / "accuracy_and_epsilon.png"
    private = bool(run.reports[0].epsilon)
    draw_run(
        curves,
        f"{run.name}\n{run.headline()}",
        [r.round for r in run.reports],
        {r.round: r.metrics.held_out for r in run.reports if r.metrics.held_out},
        {s: [r.epsilon[s] for r in run.reports if s in r.epsilon] for s in job.roster}
        if private
        else {},
        {s: b for s in job.roster if (b := run.budget(s)) is not None},
    )
    tracker.log_file(curves)
    owned = {name: i.owned for name, i in run.inspections.items()}
    stated = privacy_statement(job, run.plans, run.epsilon(), run.headline(), owned)
    page = as_page(stated, run.name).encode()
    content_json = json.dumps({"run": run.name, **stated}, indent=2).encode()
    tracker.log_file(_write(run.folder / "privacy-statement.json", content_json))
    tracker.log_file(_write(run.folder / "privacy-statement.html", page))


def _write(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        return partial.rename(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _new_run(job_file: JobFile) -> Run:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    # The budget early in the name: MLflow cuts names short, and runs differ by it first.
    privacy = job_file.job.privacy
    label = "nodp" if privacy.noise == "none" else f"eps{privacy.epsilon:g}"
    label = label if job_file.job.private or label == "nodp" else "NOT-PRIVATE-TEST"
    name = f"{job_file.job.name}-{label}-{stamp}-{secrets.token_hex(3)}"
    return Run(name, job_file, runs_folder(job_file) / name)


def _interrupted(kept: Kept) -> Run:
    at = kept.standing
    return Run(
        kept.name,
        kept.job_file,
        kept.folder,
        reports=list(kept.reports),
        announced=at.round,
        retries=at.retries,
        lost=dict(at.lost),
        standing=at,
    )


@contextmanager
def _hearing(interrupted: threading.Event) -> Iterator[None]:
    """A job manager's SIGTERM ends a run as Ctrl-C does, and neither can get lost."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    before = {s: signal.signal(s, interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No second Ctrl-C cuts the closing short; it is bounded by its own timeouts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
