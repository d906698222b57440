"""`blindsum baseline`: the same job without a federation, for comparison with a run.

    local     every silo trains alone on its own records
    pooled    one model is trained on all silos' records, which the silos could not do without
              sharing them

Folds, model, settings and number of steps are those of the job. One process reads every silo's
table, so baselines suit simulations and pilots on one machine (`local` with one silo runs at that
silo). The figures cover the same held-out records, summed as in a run, and are exact. Nothing is
charged: the models are deleted, and the figures are only for the owners of the records. Only
weights of public records are kept, if the user asks for it
(`blindsum.pipelines.comparison.public_trunk`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from blindsum.pipelines.comparison.compare import ARMS
from blindsum.pipelines.comparison.public_trunk import Trunk, require_publishable, write_trunk
from blindsum.pipelines.show.console import console, emit, show_incomplete, show_result
from blindsum.platform.data.member import Member, open_member
from blindsum.platform.data.records import Fold, stacked
from blindsum.platform.data.table import SiloData
from blindsum.platform.errors import BlindsumError, JobError
from blindsum.platform.evaluation.classes import Counts
from blindsum.platform.evaluation.figures import HeldOut, TaskFigures
from blindsum.platform.evaluation.round_counts import Counting, Tally
from blindsum.platform.job.file import JobFile, require_scored
from blindsum.platform.job.labels_section import Tasks
from blindsum.platform.job.paths import import_from, silo_places, state_folder
from blindsum.platform.job.privacy_section import NoNoise
from blindsum.platform.job.schema import Job
from blindsum.platform.job.trees_section import Boosted
from blindsum.platform.prediction.released import released
from blindsum.platform.privacy.plan import PrivacyPlan, plan
from blindsum.platform.privacy.randomness import cryptographic_generator, seeded_generator
from blindsum.platform.state.private_head import PrivateHead
from blindsum.platform.tracking.mlflow_run import Tracker
from blindsum.platform.tracking.mlflow_uri import sqlite_file
from blindsum.platform.tracking.names import (
    EPSILON_PLANNED,
    SECONDS,
    held_out_metrics,
    held_out_tags,
)
from blindsum.platform.tracking.run_facts import NOTE
from blindsum.platform.training.augmentation import augmentation_of
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.losses import record_loss
from blindsum.platform.training.models import get_parameters, model_of, set_parameters
from blindsum.platform.training.simulation import Simulation
from blindsum.platform.training.summed_models import summed_of
from blindsum.platform.training.sums import followed
from blindsum.platform.training.trees.boosting import Boosting

Arm = Literal["local", "pooled"]


@dataclass(frozen=True)
class Baseline:
    """The result of a baseline. `held_out` covers all silos' held-out records. `epsilon` is the
    largest of the silos' planned epsilons, None without privacy; `silo` is the only one that
    trained, None for all; `trunk` has the published weights."""

    run: str
    arm: Arm
    held_out: HeldOut | TaskFigures
    epsilon: float | None
    seconds: float
    tracking_failure: str | None = None
    silo: str | None = None
    trunk: Trunk | None = None

    @property
    def who(self) -> str:
        """Who trained, in words."""
        return f"{self.silo} alone" if self.silo else ARMS[self.arm]


def baseline(
    job_file: JobFile,
    arm: Arm,
    silo: str | None = None,
    tags: dict[str, str] | None = None,
    done: Callable[[], None] = lambda: None,
    publish: bool = False,
    weights: Path | None = None,
) -> Baseline:
    """Train and evaluate one arm, and log it in the job's MLflow.

    Args:
        silo: for `local`, the one silo to train, that of this machine.
        done: called after each round of each model.
        publish: allow an MLflow server, where others may read the figures.
        weights: for `pooled`, a file for the model's weights without its head. The records must be
            public: it is trained without privacy, whatever the job says.

    Raises:
        BlindsumError: a table cannot be read, or MLflow cannot be used.
        ConsentError: weights are to be published, and a table is an owner's dataset.
    """
    started, job = time.monotonic(), job_file.job
    require_scored(job, "a baseline")
    if weights is not None:
        if arm != "pooled":
            raise JobError("only the pooled arm makes weights to publish", "Use: baseline pooled.")
        require_publishable(job_file, weights)
        job = _exact(job)
    if silo is not None and arm == "pooled":
        raise JobError(
            "the pooled arm uses all silos' records", "Omit --silo, or use the local arm."
        )
    if job.tracking.uri and not sqlite_file(job.tracking.uri) and not publish:
        raise JobError(
            "this job's MLflow is a server, but a baseline's exact figures are only for the owners "
            "of the records",
            "Pass --set tracking.uri=sqlite:////path/to/mlflow.db, or --publish to log them there.",
        )
    names = job.roster if silo is None else (job_file.silo(silo).name,)
    import_from(str(job_file.folder))
    members = [member_of(job_file, name) for name in names]
    run = f"{job.name}-{arm}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
    about = _tags(job, arm, silo) | (tags or {})
    tracker = Tracker(job_file, run, about, command=f"baseline {arm}")
    tracker.ready()
    trunk = None
    try:
        if arm == "local":
            counts, epsilon = _local(job, members, run, done)
        else:
            model, counts, epsilon = _pooled(job, members, done)
            trunk = write_trunk(job, model, weights) if weights is not None else None
        of_all = Counting(_exact(job), None, members[0].data, np.random.default_rng())
        metrics = of_all.summarise(counts, 0, len(job.roster), evaluated=True)
    except BaseException:
        tracker.finish("FAILED", "the baseline failed", {})
        raise
    if metrics.held_out is None:
        raise BlindsumError("no held-out record was evaluated")
    seconds = time.monotonic() - started
    planned = {EPSILON_PLANNED: epsilon} if epsilon else {}
    figures = {**held_out_metrics(metrics.held_out), SECONDS: seconds, **planned}
    tracker.log_round(job.training.rounds, figures)
    closing = {NOTE: f"{arm}: {metrics.held_out.line()}", **held_out_tags(metrics.held_out)}
    failure = tracker.finish("FINISHED", "all rounds completed", closing)
    return Baseline(run, arm, metrics.held_out, epsilon, seconds, failure, silo, trunk)


def _tags(job: Job, arm: Arm, silo: str | None) -> dict[str, str]:
    """Return tags that replace a run's, because a run's promises do not hold for a baseline."""
    private = job.privacy.noise != "none"
    return {
        "blindsum.arm": arm,
        "blindsum.silo": silo or "",
        "blindsum.differential_privacy": (
            "only of the deleted models; figures are exact, and nothing is charged"
            if private
            else "NONE"
        ),
        "blindsum.encryption": "nothing is sent",
        "blindsum.metrics_guarantee": "exact figures of one process, for the owners of the records",
        **({"privacy.mechanism": "DP-SGD in one process"} if private else {}),
    }


def member_of(job_file: JobFile, name: str) -> Member:
    """Read one silo's records on this machine."""
    try:
        places = silo_places(job_file.silo(name), str(job_file.folder))
        return open_member(job_file.job, name, places, "baseline")
    except BlindsumError as error:
        raise error.located(silo=name) from None


def _local(
    job: Job, members: Sequence[Member], run: str, done: Callable[[], None]
) -> tuple[Counts, float | None]:
    total, epsilons = None, []
    for member in members:
        own = plan(job, member.name)
        own = own.alone() if own else None
        model = trained(job, member, own, member.name, done)
        counting = Counting(_exact(job), None, member.data, np.random.default_rng(), member.own)
        counts = counting.counts(Tally(), counting.of_held_out(model))
        total = counts if total is None else total + counts
        folder = state_folder(job.silo(member.name)) / "runs" / run
        release = partial(_own_model, job, run, model, member.own)
        PrivateHead(model, folder, release).keep(job.training.rounds, counting.by_task)
        epsilons += [own.epsilon_planned] if own else []
    if total is None:
        raise JobError("the job has no silo")
    return total, max(epsilons, default=None)


def _own_model(job: Job, run: str, model: nn.Module, own: Tasks, round: int) -> bytes:
    return released(job, run, round, model, {}, own)


def _pooled(
    job: Job, members: Sequence[Member], done: Callable[[], None]
) -> tuple[nn.Module, Counts, float | None]:
    plans = [own.alone() for member in members if (own := plan(job, member.name))]
    own = max(plans, key=lambda p: p.noise_multiplier, default=None)
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
        counts = counting.counts(Tally(), counting.of_held_out(_Outputs(model, chosen)))
        total = counts if not total.size else total + counts
    return model, total, own.epsilon_planned if own else None


def trained(
    job: Job, member: Member, own: PrivacyPlan | None, name: str, done: Callable[[], None]
) -> nn.Module:
    """Train one model on one member's records, for as many rounds as the plan covers.

    Args:
        own: the plan for training alone; None trains without differential privacy.
        name: seeds the sampling in a job without differential privacy.
        done: called after each round.
    """
    model = model_of(job, private=own is not None, own=len(member.own))
    random = cryptographic_generator() if job.private else seeded_generator(job.seed, name)
    rounds = own.rounds_within_budget if own else job.training.rounds
    summed = summed_of(job)
    if isinstance(job.model, Boosted):  # which shrinks leaves by the noise that they have here
        summed = Boosting(job, job.model, own.own_noise if own else None)
    if summed:
        part, start = summed.trainer(member.data, own, random), get_parameters(model)
        set_parameters(model, followed(summed, job, part, start, rounds, done))
        return model
    loss = record_loss(job, member.own)
    trainer = LocalTrainer(
        model,
        member.data.train,
        job.training,
        own,
        random,
        loss,
        augmentation=augmentation_of(job.data.features),
    )
    averaging = job.training.average
    return Simulation(model, [trainer], job.server, average=averaging).run(rounds, done)


def _exact(job: Job) -> Job:
    """Return the job with exact counts."""
    return job.model_copy(update={"privacy": NoNoise(noise="none")})


class _Outputs(nn.Module):
    """A model with only some of another model's outputs."""

    def __init__(self, model: nn.Module, chosen: list[int]) -> None:
        super().__init__()
        self.model, self.chosen = model, chosen

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model(x)[:, self.chosen]
        return found


def together(job: Job, members: Sequence[Member]) -> Member:
    """Return all training records as one silo's, with every silo's private tasks. Labels of other
    silos' tasks are missing."""
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
    """Print a baseline's result."""
    if as_json:
        emit(
            "baseline",
            run=found.run,
            arm=found.arm,
            metrics=found.held_out.as_dict(),
            epsilon=found.epsilon,
            seconds=round(found.seconds, 3),
            **_published(found.trunk),
        )
        return
    privacy = f"epsilon {found.epsilon:.3g}" if found.epsilon else "no differential privacy"
    show_result(f"{found.who}: {found.held_out.line()}, {privacy} ({found.seconds:.0f} s)")
    if found.trunk:
        lines = [f"wrote {found.trunk.path}; in the model section of a job:", *found.trunk.lines]
        show_result("\n  ".join(lines), soft_wrap=True)
    else:
        console.print(
            "exact figures, only for the owners of the records; nothing was charged, and no model "
            "was kept outside the silos' folders"
        )
    if found.tracking_failure:
        show_incomplete(found.tracking_failure)


def _published(trunk: Trunk | None) -> dict[str, object]:
    if trunk is None:
        return {}
    return {"weights": {"file": str(trunk.path), "sha256": trunk.sha256, "only": [*trunk.only]}}
