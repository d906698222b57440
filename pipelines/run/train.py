"""`blindsum run`: run a job file to a released model, an MLflow run and charged ledgers."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blindsum.infra.ray_session import ray_session
from blindsum.pipelines.run.files import write_whole
from blindsum.pipelines.run.folders import run_name, runs_folder, silo_folder
from blindsum.pipelines.run.listeners import (
    KeepsRounds,
    Listener,
    Listeners,
    LogsEvents,
    Measures,
    TracksFigures,
)
from blindsum.pipelines.run.run import Run, RunSpec
from blindsum.pipelines.run.run_log import Kept, RunLog
from blindsum.pipelines.run.save import closing_tags, save
from blindsum.pipelines.run.stopping import converged, stopped_early
from blindsum.platform.errors import BlindsumError, BudgetExceeded, without_values
from blindsum.platform.events import Log
from blindsum.platform.job.file import JobFile

if TYPE_CHECKING:  # torch, Ray and MLflow are imported while Ray starts, not before
    from blindsum.actors.cluster import Cluster
    from blindsum.actors.federation import Federation
    from blindsum.actors.round_report import Evaluation
    from blindsum.platform.tracking.mlflow_run import Tracker


def train(
    job_file: JobFile,
    address: str | None,
    listener: Listener,
    finished: Callable[[Run], None] = lambda run: None,
    tags: Mapping[str, str] | None = None,
    kept: Kept | None = None,
    cluster: Cluster | None = None,
    begun: Callable[[Run], None] = lambda run: None,
    simulated: bool = False,
) -> Run:
    """Run a job to its end, and save its results even if it fails.

    Args:
        address: address of a Ray cluster to join, or None to start Ray here.
        listener: hears the run's events, for example to show them on the terminal.
        finished: called with the run, whatever its outcome, once its model is saved.
        tags: tags for MLflow, besides the job's.
        kept: an interrupted run of this job, to be resumed.
        cluster: where the silos run instead of on the Ray of `address`: in other clusters, or as
            threads of this process.
        begun: called with the run once its log exists, from which it could be resumed.
        simulated: whether `cluster` is a simulation of silos in this process, as its results say.

    Returns:
        The run, with status FINISHED.

    Raises:
        BlindsumError: the run failed; the last good model is saved and MLflow is closed.
        KeyboardInterrupt: Ctrl-C or SIGTERM, likewise.
    """
    run = Run(_resumed_spec(kept) if kept else _new_spec(job_file, simulated))
    log = RunLog(run.folder, run.name, job_file)
    if kept:
        log.open(kept.mlflow_run)  # before anything else: another process may be running it
        run.reports, run.standing = list(kept.reports), kept.standing
        run.announced = kept.standing.round
    events = Log(job=job_file.job.name, run=run.name)
    listeners = Listeners([LogsEvents(run, events), listener])
    if cluster is None:
        listeners.add_first(Measures())
        listeners.stage("starting Ray")
    ray = ray_session(address) if cluster is None else nullcontext()
    imported = threading.Event()
    threading.Thread(target=_work_ahead, args=(job_file, imported), daemon=True).start()
    with _hearing(run.interrupted), ray:
        from blindsum.platform.tracking.mlflow_run import Tracker

        imported.wait()
        about = {"blindsum.arm": "federated", **(tags or {})}
        tracker = Tracker(job_file, run.name, about, kept.mlflow_run if kept else "")
        listeners.add_first(KeepsRounds(log), TracksFigures(tracker))
        session = _Session(run, tracker, listeners, log, events, cluster, begun)
        try:
            session.run_to_the_end()
        finally:
            with _undisturbed():
                session.close()
                finished(run)
    if run.unsaved:
        raise BlindsumError(
            run.unsaved, "Make room. MLflow's run has what could be logged; charges remain charged."
        )
    return run


def _work_ahead(job_file: JobFile, imported: threading.Event) -> None:
    """Import what the run needs and compute its plans while Ray starts, which is mostly waiting."""
    try:
        importlib.import_module("blindsum.actors.federation")
    except ImportError:
        return  # the next import of it says what is missing
    finally:
        imported.set()
    from blindsum.platform.privacy.plan import compute_ahead

    with suppress(BlindsumError):  # silos report it, with their names
        compute_ahead(job_file.job)


@dataclass
class _Session:
    """A run while Ray is connected."""

    run: Run
    tracker: Tracker
    listeners: Listeners
    log: RunLog
    events: Log
    cluster: Cluster | None
    begun: Callable[[Run], None]
    federation: Federation | None = None

    def run_to_the_end(self) -> None:
        """Start the silos and run all rounds; note in the run how it ended."""
        run = self.run
        try:
            federation = self.federation = self._start()
            if run.spec.resumed:
                self.tracker.log_missing(run.spec.resumed.figures)
            self._rounds(federation)
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

    def _start(self) -> Federation:
        from blindsum.actors.federation import Federation

        run, job = self.run, self.run.job_file.job
        self.listeners.stage("silos read their data")
        # Assigned at once, so that silos are ended even if one refuses in `inspect`.
        federation = self.federation = Federation(
            job,
            run.name,
            silo_folder(run.job_file),
            self.cluster,
            interrupted=run.interrupted,
            standing=run.standing,
            log=self.events,
        )
        federation.warm_up()
        run.inspections = federation.inspect(self._reading)
        plans = [plan for plan in run.plans.values() if plan]
        run.rounds_planned = min([job.training.rounds, *(p.rounds_within_budget for p in plans)])
        self.listeners.stage("opening MLflow")
        run.link = self.tracker.ready(job.deadlines.start_s)
        if not run.spec.resumed:
            self.log.open(run.link.run_id)
        self.begun(run)
        self.listeners.stage("key ceremony")
        federation.exchange_keys()
        run.startup_s = run.seconds
        self.listeners.planned(run)
        return federation

    def _reading(self, percents: Mapping[str, int]) -> None:
        shares = ", ".join(f"{silo} {percent} %" for silo, percent in percents.items())
        self.listeners.stage(f"silos read their data: {shares}")

    def _rounds(self, federation: Federation) -> None:
        run, planned = self.run, self.run.job_file.job.training.rounds
        self._note_standing(federation)
        for number in range(len(run.reports) + 1, run.rounds_planned + 1):
            run.announced = number
            try:
                report = federation.run_round(number)
            except BudgetExceeded as error:  # the ledger has charges that the plan did not expect
                run.ended = f"stopped before round {number}: {error}"
                break
            finally:
                self._note_standing(federation)
            if report.before:
                self._evaluated(report.before)
            run.reports.append(report)
            self.listeners.completed(run, report)
            job = run.job_file.job
            if why := stopped_early(job.training, run.reports) or converged(job, run.reports):
                run.ended = why
                break
        else:
            if run.rounds_planned < planned:
                run.ended = (
                    f"stopped after round {run.rounds_planned} of {planned}: "
                    "the next round would exceed a silo's budget"
                )
        self._evaluate_last(federation)

    def _evaluated(self, found: Evaluation) -> None:
        """Add what the silos found of the newest round's model."""
        if self.run.reports:
            self.run.reports[-1] = self.run.reports[-1].evaluated(found)
            self.listeners.round(self.run, self.run.reports[-1])

    def _evaluate_last(self, federation: Federation) -> None:
        """Evaluate the model that is released. A run whose silos cannot do so any more has it
        nevertheless."""
        from blindsum.actors.round_report import Evaluation

        if not self.run.reports:
            return
        found = Evaluation(held_out=None, epsilon=self.run.reports[-1].metrics_epsilon)
        try:
            found = federation.evaluate() or found
        except BlindsumError as error:
            self.run.also(f"the last round's model is not evaluated: {error}")
        finally:
            self._note_standing(federation)
        self._evaluated(found)

    def _note_standing(self, federation: Federation) -> None:
        run = self.run
        known, run.standing = set(run.lost), federation.standing
        if fresh := run.lost.keys() - known:
            self.listeners.lost(run, sorted(fresh), len(federation.roster))
        if back := known - run.lost.keys():
            self.listeners.returned(run, sorted(back))

    def close(self) -> None:
        """Save the results and close everything, whatever the outcome."""
        self.listeners.stage("saving the model and closing the run")
        self._finish()
        if self.run.status == "FINISHED":
            self.log.end()
        self.log.close()
        self.listeners.ended(self.run)

    def _finish(self) -> None:
        """Save and tag the results. Raises nothing that would hide how the run ended."""
        run, federation = self.run, self.federation
        if federation and run.reports:
            try:
                save(run, federation, self.tracker)
                if run.status == "FINISHED":
                    federation.forget()  # only now: a run that was not saved may be resumed
            except BlindsumError as error:
                run.unsaved = f"the last model could not be saved: {error}"
            except OSError as error:
                reason = os.strerror(error.errno or 0)
                run.unsaved = f"results could not be saved in {run.folder}: {reason}"
        if run.unsaved:
            run.status = "FAILED" if run.status == "FINISHED" else run.status
            run.also(run.unsaved)
        if run.unkept:
            run.also(f"this run cannot be resumed from its last rounds: {run.unkept}")
        ended = run.ended or "all rounds completed"
        run.tracking_failure = self.tracker.finish(run.status, ended, closing_tags(run))
        if federation:
            federation.close()
        if run.saved:
            try:
                content = json.dumps(run.summary(), indent=2).encode()
                write_whole(run.folder / "summary.json", content)
            except OSError as error:
                run.also(f"summary.json could not be written: {os.strerror(error.errno or 0)}")


def _new_spec(job_file: JobFile, simulated: bool) -> RunSpec:
    name = run_name(job_file.job)
    folder = runs_folder(job_file) / name
    return RunSpec(name=name, job_file=job_file, folder=folder, simulated=simulated)


def _resumed_spec(kept: Kept) -> RunSpec:
    return RunSpec(name=kept.name, job_file=kept.job_file, folder=kept.folder, resumed=kept)


@contextmanager
def _hearing(interrupted: threading.Event) -> Iterator[None]:
    """Let a job manager's SIGTERM end a run as Ctrl-C does, and let neither get lost."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    def unraisable(what: sys.UnraisableHookArgs) -> None:
        # The interrupt was raised in a destructor. `interrupted` is set, so it is not lost.
        if not isinstance(what.exc_value, KeyboardInterrupt):
            hook(what)

    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    before = {s: signal.signal(s, interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore a second Ctrl-C while the run is closed, which has its own timeouts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
