"""`blindsum baseline`: the same job without a federation, to compare one with.

    local     every silo trains alone on its own records
    pooled    one model on all silos' records, as nobody who cannot share them could

Same folds, model, settings and number of steps; one process that reads every silo's table, so it is for
simulations and for pilots on one machine (`local` with one silo runs at that silo). Figures are of the
same held-out records, summed as a run sums them, and are exact. Nothing is charged: models are
dropped, and the figures are for those who own the records.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import nn

from blindsum.pipelines.show.console import console, emit
from blindsum.platform.data.features import feature_count
from blindsum.platform.data.records import Fold, stacked
from blindsum.platform.data.table import SiloData, load_data
from blindsum.platform.errors import BlindsumError, JobError
from blindsum.platform.evaluation.classes import Counts, HeldOut
from blindsum.platform.evaluation.round_counts import Counting, Tally
from blindsum.platform.evaluation.tasks import TaskFigures
from blindsum.platform.job.data_section import Tasks
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.paths import import_from, silo_places, state_folder
from blindsum.platform.job.private_tasks import load_private_tasks
from blindsum.platform.job.schema import Job, NoNoise
from blindsum.platform.privacy.plan import PrivacyPlan, plan
from blindsum.platform.privacy.randomness import cryptographic_generator, seeded_generator
from blindsum.platform.state.private_head import PrivateHead
from blindsum.platform.tracking.mlflow_run import Tracker
from blindsum.platform.tracking.mlflow_uri import sqlite_file
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.losses import record_loss
from blindsum.platform.training.models import build_model, get_parameters, set_parameters
from blindsum.platform.training.server_optimizer import ServerOptimizer

Arm = Literal["local", "pooled"]


@dataclass(frozen=True)
class Baseline:
    """What came out. `held_out` is of all silos' held-out records, `epsilon` the largest silo's plan's,
    None without privacy."""

    run: str
    arm: Arm
    held_out: HeldOut | TaskFigures
    epsilon: float | None
    seconds: float
    tracking_failure: str | None = None


@dataclass(frozen=True)
class Member:
    """One silo's records and tasks of its own."""

    name: str
    data: SiloData
    own: Tasks


def baseline(
    job_file: JobFile,
    arm: Arm,
    silo: str | None = None,
    tags: dict[str, str] | None = None,
    done: Callable[[], None] = lambda: None,
    publish: bool = False,
) -> Baseline:
    """Train and evaluate one arm, and leave it with the job's MLflow.

    Args:
        silo: with `local`, the one silo of this machine.
        done: called after each round of each model.
        publish: leave figures with an MLflow server, which others may read.

    Raises:
        BlindsumError: a table cannot be read, or MLflow cannot be used.
    """
    started, job = time.monotonic(), job_file.job
    if silo is not None and arm == "pooled":
        raise JobError("pooled is of all silos' records", "Leave out --silo, or take local.")
    if job.tracking.uri and not sqlite_file(job.tracking.uri) and not publish:
        raise JobError(
            "this job's MLflow is a server, and a baseline's exact figures are for who owns the records",
            "Give --set tracking.uri=sqlite:////path/to/mlflow.db, or --publish to leave them there.",
        )
    names = job.roster if silo is None else (job_file.silo(silo).name,)
    import_from(str(job_file.folder))
    members = [member_of(job_file, name) for name in names]
    run = f"{job.name}-{arm}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
    tracker = Tracker(job_file, run, _tags(job, arm, silo) | (tags or {}))
    tracker.ready()
    try:
        counts, epsilon = (_local if arm == "local" else _pooled)(job, members, run, done)
        of_all = Counting(_exact(job), None, members[0].data, np.random.default_rng())
        metrics = of_all.summarise(counts, job.training.rounds, 2**62, job.roster)
    except BaseException:
        tracker.finish("FAILED", "the baseline did not end", {})
        raise
    if metrics.held_out is None:
        raise BlindsumError("no held-out record was evaluated")
    seconds = time.monotonic() - started
    figures = {**metrics.held_out.tracked(), "seconds": seconds}
    tracker.log_round(
        job.training.rounds, figures | ({"epsilon_planned": epsilon} if epsilon else {})
    )
    note = {"mlflow.note.content": f"{arm}: {metrics.held_out.line()}"}
    failure = tracker.finish("FINISHED", "all rounds", note)
    return Baseline(run, arm, metrics.held_out, epsilon, seconds, failure)


def _tags(job: Job, arm: Arm, silo: str | None) -> dict[str, str]:
    """In place of what a run's tags promise."""
    private = job.privacy.noise != "none"
    return {
        "blindsum.arm": arm,
        "blindsum.silo": silo or "",
        "blindsum.differential_privacy": "of the dropped models; figures are exact, nothing is charged"
        if private
        else "NONE",
        "blindsum.encryption": "nothing is sent",
        "blindsum.metrics_guarantee": "exact figures of one process, for who owns the records",
        **({"privacy.mechanism": "DP-SGD in one process"} if private else {}),
    }


def member_of(job_file: JobFile, name: str) -> Member:
    """Load a silo's table and private tasks in this process.

    Raises:
        BlindsumError: the table or the tasks cannot be used; names the silo.
    """
    job, section = job_file.job, job_file.silo(name)
    try:
        places = silo_places(section, str(job_file.folder))
        own = load_private_tasks(section, job, places.private_tasks)
        rejects = places.of_run("baseline") / "rejected_rows.txt"
        data = load_data(places.table, job.data, rejects, own)
    except BlindsumError as error:
        raise error.located(silo=name) from None
    return Member(name, data, own)


def _local(
    job: Job, members: Sequence[Member], run: str, done: Callable[[], None]
) -> tuple[Counts, float | None]:
    total, epsilons = None, []
    for member in members:
        # Alone, a silo has to make all of the noise.
        own = _alone(plan(job, member.name))
        model = trained(job, member, own, member.name, done)
        counting = Counting(_exact(job), None, member.data, np.random.default_rng(), member.own)
        counts = counting.counts(model, job.training.rounds, Tally(), job.roster)
        total = counts if total is None else total + counts
        head = PrivateHead(model, state_folder(job.silo(member.name)) / "runs" / run)
        head.keep(job.training.rounds, counting.by_task)
        epsilons += [own.epsilon_planned] if own else []
    if total is None:
        raise JobError("the job has no silo")
    return total, max(epsilons, default=None)


def _pooled(
    job: Job, members: Sequence[Member], run: str, done: Callable[[], None]
) -> tuple[Counts, float | None]:
    plans = [_alone(plan(job, member.name)) for member in members]
    own = max((p for p in plans if p), key=lambda p: p.noise_multiplier, default=None)
    batch = job.training.expected_batch_size * len(members)
    larger = job.training.model_copy(update={"expected_batch_size": batch})
    whole = job.model_copy(update={"training": larger})
    model = trained(whole, together(job, members), own, "pooled", done)
    total, first = np.zeros(0, np.int64), job.data.outputs
    for member in members:
        last = first + len(member.own)
        chosen = [*range(job.data.outputs), *range(first, last)]
        first = last
        counting = Counting(_exact(job), None, member.data, np.random.default_rng(), member.own)
        counts = counting.counts(_Outputs(model, chosen), job.training.rounds, Tally(), job.roster)
        total = counts if not total.size else total + counts
    return total, own.epsilon_planned if own else None


def trained(
    job: Job, member: Member, own: PrivacyPlan | None, name: str, done: Callable[[], None]
) -> nn.Module:
    """Train one model in this process with a job's settings; `done` is called after each round."""
    model = build_model(
        job.model,
        feature_count(job.data.features),
        job.data.outputs,
        seed=job.seed,
        private=own is not None,
        own=len(member.own) if job.has_private_tasks else None,
    )
    random = cryptographic_generator() if job.private else seeded_generator(job.seed, name)
    loss = record_loss(job.data, member.own)
    trainer = LocalTrainer(model, member.data.train, job.training, own, random, loss)
    vector = get_parameters(model)
    server = ServerOptimizer(job.server, vector.size)
    for _ in range(own.rounds_within_budget if own else job.training.rounds):
        vector = server.apply(vector, trainer.train(vector).astype(np.float64))
        done()
    set_parameters(model, vector)
    return model


def _alone(own: PrivacyPlan | None) -> PrivacyPlan | None:
    return replace(own, share=0.0, count_noise=0.0) if own else None


def _exact(job: Job) -> Job:
    """The job with exact counts."""
    return job.model_copy(update={"privacy": NoNoise(noise="none")})


class _Outputs(nn.Module):
    """Some of a model's outputs."""

    def __init__(self, model: nn.Module, chosen: list[int]) -> None:
        super().__init__()
        self.model, self.chosen = model, chosen

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model(x)[:, self.chosen]
        return found


def together(job: Job, members: Sequence[Member]) -> Member:
    """All training records as one silo's, with every silo's tasks; another silo's tasks are gaps."""
    shared = job.data.outputs
    tasks = {f"{m.name}/{name}": task for m in members for name, task in m.own.items()}
    labels, first = [], shared
    for member in members:
        own = member.data.train.labels
        if job.data.target is None:
            wide = np.full((len(own), 2, shared + len(tasks)), np.nan, np.float32)
            wide[:, 1] = 0.0
            wide[:, :, :shared] = own[:, :, :shared]
            wide[:, :, first : first + len(member.own)] = own[:, :, shared:]
            first += len(member.own)
            own = wide
        labels.append(own)
    train = Fold(stacked([m.data.train.stored for m in members]), np.concatenate(labels))
    return Member("pooled", SiloData(train, members[0].data.test, "", 0), tasks)


def show_baseline(found: Baseline, as_json: bool) -> None:
    """What a baseline reached."""
    if as_json:
        emit(
            "baseline",
            run=found.run,
            arm=found.arm,
            metrics=found.held_out.as_dict(),
            epsilon=found.epsilon,
            seconds=round(found.seconds, 3),
        )
        return
    privacy = f"epsilon {found.epsilon:.3g}" if found.epsilon else "no differential privacy"
    console.print(f"{found.arm}: {found.held_out.line()}, {privacy} ({found.seconds:.0f} s)")
    console.print(
        "exact figures, for those who own the records; nothing was charged and no model was kept "
        "outside the silos' folders"
    )
    if found.tracking_failure:
        console.print(f"[yellow]MLflow is incomplete:[/] {found.tracking_failure}")
