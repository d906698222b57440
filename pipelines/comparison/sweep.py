"""`blindsum sweep`: run one job at several budgets and seeds, as nested MLflow runs.

An interrupted sweep continues with the missing runs. It finds the finished runs in MLflow by a tag
with the digest of job, budget, seed and arm.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from blindsum.infra.ray_session import ray_session
from blindsum.pipelines.comparison.baseline import baseline
from blindsum.pipelines.comparison.compare import ARMS as ARMS_IN_WORDS
from blindsum.pipelines.comparison.compare import compare
from blindsum.pipelines.comparison.compare_page import show
from blindsum.pipelines.run.listeners import Listener
from blindsum.pipelines.run.train import train
from blindsum.pipelines.show.console import console
from blindsum.pipelines.show.progress import Shown, progress
from blindsum.platform.errors import BlindsumError, JobError
from blindsum.platform.job.file import JobFile, load_job, require_scored
from blindsum.platform.tracking.mlflow_run import tracking_uri
from blindsum.platform.tracking.mlflow_uri import open_client

Arm = Literal["federated", "local", "pooled"]
ARMS: tuple[Arm, ...] = ("federated", "local", "pooled")
TAG = "blindsum.sweep"


@dataclass(frozen=True)
class Point:
    """One run of a sweep; `epsilon` is None without privacy."""

    arm: Arm
    epsilon: float | None
    seed: int

    @property
    def text(self) -> str:
        """The point as a line of output."""
        privacy = "no privacy" if self.epsilon is None else f"epsilon {self.epsilon:g}"
        return f"{ARMS_IN_WORDS[self.arm]}, {privacy}, seed {self.seed}"


def run_sweep(
    job_file: JobFile, overrides: Sequence[str], epsilon: str, seeds: int, arms: str, parallel: int
) -> None:
    """Read the options, print the sweep's cost, run it, and show the comparison.

    Raises:
        BlindsumError: an option is wrong, or a run failed.
    """
    require_scored(job_file.job, "a sweep")
    chosen = [arm.strip() for arm in arms.split(",")]
    if unknown := [arm for arm in chosen if arm not in ARMS]:
        raise JobError(f"unknown arm {unknown[0]!r}", f"Use {', '.join(ARMS)}.")
    try:
        budgets = [None if e.strip() == "none" else float(e) for e in epsilon.split(",")]
    except ValueError:
        raise JobError(
            f"--epsilon {epsilon!r} is not a list of budgets", "Write, for example, none,1,3,8."
        ) from None
    of = points(job_file, budgets, seeds, [arm for arm in ARMS if arm in chosen])
    console.print(cost(job_file, of), soft_wrap=True)

    def said(point: Point, text: str) -> None:
        console.print(f"{point.text}: {text}", soft_wrap=True)

    with progress("looking for finished runs", quiet=False) as shown:
        there = sweep(job_file.path, overrides, of, parallel, said, shown)
        shown.stage("reading runs from MLflow")
        found = compare(job_file, None, [])
    if there:
        console.print(f"{there} of {len(of)} runs were already finished")
    show(found)


def points(
    job_file: JobFile, epsilons: Sequence[float | None], seeds: int, arms: Sequence[Arm]
) -> list[Point]:
    """Return all runs, seed by seed, so that an interrupted sweep has completed whole seeds.

    Raises:
        JobError: there is nothing to sweep, or the job does not say which noise to add.
    """
    if seeds < 1 or not epsilons or not arms:
        raise JobError("a sweep needs a budget, a seed and an arm", "For example: --epsilon 1,3,8.")
    if job_file.job.privacy.noise == "none" and any(epsilons):
        raise JobError(
            "the job has privacy.noise none, so the sweep does not know which noise to add",
            "Give the job a privacy section with noise, and sweep --epsilon none,1,3.",
        )
    first = job_file.job.seed
    return [
        Point(arm, epsilon, first + i) for i in range(seeds) for epsilon in epsilons for arm in arms
    ]


def told(path: Path, overrides: Sequence[str], point: Point) -> JobFile:
    """Return the job of one run.

    Raises:
        JobError: the job is not valid.
    """
    if point.epsilon is not None:
        privacy = [f"privacy.epsilon={point.epsilon!r}"]
    else:
        silos = [s.name for s in load_job(path, overrides).job.silos if s.epsilon is not None]
        privacy = ["privacy={noise: none}", *(f"silos.{name}.epsilon=null" for name in silos)]
    return load_job(path, [*overrides, *privacy, f"seed={point.seed}"])


def cost(job_file: JobFile, of: Sequence[Point]) -> str:
    """Describe what the sweep costs in privacy."""
    federated = [p for p in of if p.arm == "federated"]
    spent = [p.epsilon for p in federated if p.epsilon is not None]
    section, said = job_file.job.privacy, []
    if bare := len(federated) - len(spent):
        said.append(
            f"{bare} federated runs have NO privacy: every silo receives models that may reveal "
            "training records."
        )
    if spent and section.noise != "none":
        said.append(
            f"Each of {len(spent)} private federated runs is charged in full to every silo's "
            f"ledger. Together they have epsilon {sum(spent):g} at delta "
            f"{len(spent) * section.delta:g} (basic composition). Keeping only the best run does "
            "not lower that: choosing it uses them all."
        )
    if len(federated) < len(of):
        said.append(
            "Runs of each silo alone and of pooled records are charged to no ledger; their exact "
            "figures are only for the owners of the records."
        )
    return " ".join(said)


def sweep(
    path: Path,
    overrides: Sequence[str],
    of: Sequence[Point],
    parallel: int,
    said: Callable[[Point, str], None],
    shown: Shown,
) -> int:
    """Run the missing runs; return how many were already finished.

    Args:
        parallel: number of runs at the same time, on one Ray cluster.
        said: called at each run's end with its result in words.
        shown: shows what is under way.

    Raises:
        BlindsumError: runs failed, though the others were completed; names the first failure.
    """
    jobs = {point: told(path, overrides, point) for point in of}
    one = next(iter(jobs.values()))
    parent, finished = _opened(one, _digest(one, overrides))
    missing = [point for point in of if _digest(jobs[point], [point.arm]) not in finished]
    failed: list[tuple[Point, BlindsumError]] = []
    stopped = threading.Event()

    def run(point: Point) -> None:
        if stopped.is_set():
            return
        tags = {TAG: _digest(jobs[point], [point.arm]), "mlflow.parentRunId": parent}
        try:
            if point.arm == "federated":
                done = train(jobs[point], None, Listener(), tags=tags)
                said(point, done.headline())
            else:
                said(point, baseline(jobs[point], point.arm, tags=tags).held_out.line())
        except BlindsumError as error:
            failed.append((point, error))
            said(point, f"failed: {error}")
        finally:
            shown.step()

    shown.stage("starting Ray")
    with ray_session(None):
        shown.stage("runs", len(missing))
        if parallel == 1:  # in the main thread, which receives Ctrl-C
            for point in missing:
                run(point)
        else:
            with ThreadPoolExecutor(parallel) as pool:
                try:
                    list(pool.map(run, missing))
                except BaseException:
                    stopped.set()
                    raise
    _closed(one, parent, not failed)
    if failed:
        raise BlindsumError(
            f"{len(failed)} of {len(missing)} runs failed; the first, {failed[0][0].text}: "
            f"{failed[0][1]}",
            "Fix the cause and sweep again: finished runs are not repeated.",
        )
    return len(of) - len(missing)


def _digest(job_file: JobFile, more: Sequence[str]) -> str:
    job = job_file.job.model_dump(mode="json", exclude={"runs", "tracking"})
    content = json.dumps([job, list(more)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _opened(job_file: JobFile, digest: str) -> tuple[str, set[str]]:
    """Create a parent run; return its id and the digests of the finished runs."""
    from blindsum.platform.tracking.mlflow_run import Tracker

    name = f"{job_file.job.name}-sweep-{digest[:6]}"
    tracker = Tracker(job_file, name, {TAG: "parent"}, command="sweep")
    link = tracker.ready()
    tracker.finish("FINISHED", "a sweep's parent", {})
    uri = tracking_uri(job_file)
    client = open_client(uri)
    experiment = client.get_experiment_by_name(link.experiment)
    runs = client.search_runs(
        [experiment.experiment_id], "attributes.status = 'FINISHED'", max_results=5000
    )
    return link.run_id, {run.data.tags[TAG] for run in runs if TAG in run.data.tags}


def _closed(job_file: JobFile, parent: str, well: bool) -> None:
    uri = tracking_uri(job_file)
    open_client(uri).set_terminated(parent, "FINISHED" if well else "FAILED")
