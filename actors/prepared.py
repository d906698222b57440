"""An inspected silo: its data, model and plan, checked against the job."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from blindsum.actors.admission import Admission
from blindsum.actors.digitiser import Digitiser
from blindsum.actors.messages import SiloSpec
from blindsum.actors.policy import Policy
from blindsum.actors.silo_state import ModelState, SentUpdate
from blindsum.actors.summing import first_range, parameters_of
from blindsum.actors.workers.team import Team
from blindsum.he.exchange import Exchange
from blindsum.he.packing import Integers, square_sum
from blindsum.he.parameters import Parameters
from blindsum.platform.data.computing import Told, computing_in
from blindsum.platform.data.device import CPU, device_for
from blindsum.platform.data.member import open_member
from blindsum.platform.data.reading import require_shareable
from blindsum.platform.data.table import SiloData, load_data
from blindsum.platform.evaluation.round_counts import Counting
from blindsum.platform.job.paths import SiloPlaces
from blindsum.platform.job.schema import Job
from blindsum.platform.prediction.released import released
from blindsum.platform.privacy.plan import PrivacyPlan, plan
from blindsum.platform.privacy.randomness import generator_of
from blindsum.platform.privacy.reach import held_to, honest_reach
from blindsum.platform.state.checkpoint import Checkpoint, Checkpoints, set_state, state_of
from blindsum.platform.state.private_head import PrivateHead
from blindsum.platform.training.augmentation import augmentation_of
from blindsum.platform.training.average import Averaged
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.losses import record_loss
from blindsum.platform.training.models import (
    initial_digest,
    model_of,
    parameter_count,
    set_parameters,
    shared_parameters,
)
from blindsum.platform.training.sent import sent_counts
from blindsum.platform.training.server_optimizer import ServerOptimizer
from blindsum.platform.training.subset import Subset
from blindsum.platform.training.summed_models import summed_of
from blindsum.platform.training.sums import SumsOptimizer, SumsTrainer
from blindsum.platform.training.update import Update
from blindsum.platform.training.vector import Vector, digest, put_away
from blindsum.platform.training.vector_room import VectorRoom


@dataclass(frozen=True)
class MeanChange:
    """The silos' mean change of the parameters, computed range by range from their summed integers.

    Attributes:
        sums: int32 [parameters], int64 if they are exact.
        step: the change that one integer stands for.
        held: the factor that keeps the change within the reach of honest silos.
    """

    sums: npt.NDArray[np.int32 | np.int64] = field(repr=False)
    step: float
    held: float

    def __getitem__(self, where: slice) -> npt.NDArray[np.float64]:
        """Return the change of a range of the parameters."""
        mean = np.multiply(self.sums[where], self.step, dtype=np.float64)
        mean *= self.held
        return mean


@dataclass(frozen=True, kw_only=True)
class PreparedSilo:
    """One silo of one run, ready to spend. Private to the silo.

    Attributes:
        terms: digest of everything on which all silos must agree; the key ceremony is bound to it.
        plan: the run's plan for its training records; None without differential privacy.
        range: the range of the first round's exchange.
        state: the silo's folder with ledger, identity and approvals.
        dataset: the owner's name for the table; None without an owner's file.
        owned: whether the machine has an owner's file.
        weights: digest of the model's initial weights.
        room: where vectors as long as the model lie.
    """

    job: Job
    parameters: Parameters
    terms: str
    plan: PrivacyPlan | None
    range: float
    policy: Policy
    state: Path
    dataset: str | None
    owned: bool
    data: SiloData = field(repr=False)
    model: nn.Module = field(repr=False)
    weights: str
    random: np.random.Generator = field(repr=False)
    trainer: LocalTrainer | SumsTrainer = field(repr=False)
    digitiser: Digitiser = field(repr=False)
    counting: Counting = field(repr=False)
    optimizer: ServerOptimizer | SumsOptimizer = field(repr=False)
    head: PrivateHead = field(repr=False)
    checkpoints: Checkpoints = field(repr=False)
    room: VectorRoom = field(repr=False)

    @property
    def values(self) -> int:
        """The number of parameters that the silos share."""
        return parameter_count(self.model)

    @cached_property
    def sent(self) -> tuple[int, ...]:
        """The numbers of values in the updates of rounds, as `sent_counts`."""
        return sent_counts(self.job, self.values)

    def sent_values(self, round: int) -> int:
        """Return the number of values in a round's update."""
        return self.sent[(round - 1) % len(self.sent)]

    def subset(self, round: int) -> Subset | None:
        """Return the parameters that change in a round; None if all do."""
        share = self.job.training.subset
        return Subset(self.terms, round, self.values, share) if share < 1 else None

    def add_unsent(self, update: Update, now: ModelState, subset: Subset | None) -> None:
        """Add to an update, in place, what the silo's earlier updates did not carry."""
        if now.unsent is not None:
            unsent = now.unsent if subset is None else subset.of(now.unsent)
            np.add(update.values, unsent, out=update.values)
            put_away(now.unsent)

    def unsent(self, rest: Vector, now: ModelState, subset: Subset | None) -> Vector | None:
        """Return what the updates do not carry after one of which that rest was not sent.

        Args:
            rest: in the order of the update.
        """
        if not self.job.encryption.error_feedback:
            return None
        if subset is None:
            return self.room.copy(rest)
        # A parameter that was not chosen keeps its rest until it is.
        whole = self.room.zeros(self.values) if now.unsent is None else self.room.copy(now.unsent)
        for where, at in subset.groups(whole):
            whole[where] = rest[at]
        return whole

    @property
    def frozen(self) -> int:
        """The number of shared parameters that stay as they begin."""
        return sum(p.numel() for p in shared_parameters(self.model)) - self.values

    def model_state(
        self,
        round: int,
        vector: Vector,
        average: Averaged,
        weights: str | None = None,
        unsent: Vector | None = None,
    ) -> ModelState:
        """Return the global model after a round, with the present optimizer and course.

        Args:
            weights: the digest, before round 1.
            unsent: as of `ModelState`.
        """
        return ModelState(
            round=round,
            vector=vector,
            average=average,
            digest=weights or digest(vector, average.shared),
            optimizer=self.optimizer.state,
            course=self.policy.course,
            unsent=unsent,
        )

    def mean_change(self, sent: SentUpdate, summed: Iterable[tuple[slice, Integers]]) -> MeanChange:
        """Return the mean change of the parameters from a decrypted sum. Its norm is limited to
        what honest silos can reach.

        Args:
            summed: the sum of all silos' integers, range by range.
        """
        exchange, silos = sent.exchange, len(sent.exchange.roster)
        unit = (exchange.range or self.range) / self.parameters.limit
        step, squares = unit * sent.unit / silos, 0
        # Of at most 64 silos' integers of 24 bits, unless they are exact.
        whole = self.room.zeros(exchange.values, np.int64 if self.job.sums_exactly else np.int32)
        sums: npt.NDArray[np.int32 | np.int64] = whole
        for where, integers in summed:
            sums[where] = integers
            if self.plan:  # integers that are exact would be too large, and have no bound
                squares += square_sum(integers)
        reach = honest_reach(
            self.job, self.plan, silos, exchange.values, unit, exchange.clipping, exchange.round
        )
        return MeanChange(sums, step, held_to(abs(step) * math.sqrt(squares), reach))

    def next_model(self, before: Vector, mean: MeanChange, exchange: Exchange) -> Vector:
        """Return the model after a round from the one before it, float32 [parameters]."""
        if isinstance(self.optimizer, SumsOptimizer):
            silos = len(exchange.roster)
            return self.optimizer.apply(before, mean[:], exchange.round, silos)
        return self.optimizer.apply(before, mean, self.subset(exchange.round))

    def go_to(self, kept: Checkpoint) -> ModelState:
        """Return to the state of a checkpoint, and return it as the model's."""
        self.optimizer.state = kept.optimizer
        if kept.head:
            self.head.state = kept.head
        if kept.random is not None and not self.job.private:
            set_state(self.random, kept.random)
        course = self.policy.course
        self.policy.course = replace(course, range=kept.range, clipping=kept.clipping)
        set_parameters(self.model, kept.model)
        average = kept.average if kept.head else replace(kept.average, head=self.head.state)
        return self.model_state(kept.round, kept.model, average, unsent=kept.unsent)

    def keep(self, now: ModelState) -> None:
        """Write the checkpoint from which this silo can resume after that round.

        Raises:
            DataError: it cannot be written, for example because the disk is full.
        """
        course = self.policy.course
        self.checkpoints.write(
            Checkpoint(
                round=now.round,
                model=now.vector,
                average=now.average,
                optimizer=self.optimizer.state,
                head=self.head.state,
                unsent=now.unsent,
                random=None if self.job.private else state_of(self.random),
                range=course.range,
                clipping=course.clipping,
            )
        )


def _team(
    spec: SiloSpec, admission: Admission, plan: PrivacyPlan | None, places: SiloPlaces
) -> Team | None:
    """Return the silo's workers; None if it reads its table itself. Without Ray it does."""
    count = spec.job.silo(spec.name).workers
    if count == 1:
        return None
    import ray

    if not ray.is_initialized():
        return None
    from blindsum.actors.workers.processes import RayProcesses

    processes = RayProcesses(count, admission.by_agent, spec.job.silo(spec.name).resources.gpus)
    return Team(spec, plan, places.state, processes, admission.approval)


def prepare(spec: SiloSpec, admission: Admission, told: Told, alone: bool = False) -> PreparedSilo:
    """Plan the spend, ask the owner, read the data and build the model, in that order.

    Args:
        told: called with the share of the data that was read, as the work goes on.
        alone: whether this process reads the whole table and needs no GPU, whatever the job says.

    Raises:
        ConsentError, DataError, ModelError, PrivacyError, KeyRefused, LedgerError: this silo cannot
            take part; the message says why.
    """
    job, name = spec.job, spec.name
    parameters = parameters_of(job)
    # All silos must have received the same job: the key ceremony is bound to its digest.
    terms = f"{parameters.digest}\n{job.model_dump_json()}"
    own_plan = plan(job, name)
    range = first_range(job, own_plan)
    random = generator_of(job, name)
    digitiser = Digitiser(job, own_plan, parameters, random)
    places, _ = admission.admit()  # notes the inspection, before the table is read
    means = computing_in(places.state, spec.threads, told)
    if job.silo(name).workers > 1:
        require_shareable(places.table)
    team = None if alone else _team(spec, admission, own_plan, places)
    load = team.load if team else load_data
    member = open_member(job, name, places, spec.run, means, load)
    model = model_of(job, own=len(member.own))
    weights = initial_digest(model)
    admission.require_approved(weights, (member.data.fingerprint, *member.data.earlier))
    loss = record_loss(job, member.own)
    of_run, room = places.of_run(spec.run), VectorRoom(places.state)

    model.to(CPU if alone or team else device_for(job.silo(name).resources.gpus))
    trainer: LocalTrainer | SumsTrainer
    optimizer: ServerOptimizer | SumsOptimizer
    if summed := summed_of(job):
        trainer = summed.trainer(member.data, own_plan, random)
        optimizer = SumsOptimizer(summed, job)
    else:
        changed, train = augmentation_of(job.data.features), member.data.train
        trainer = LocalTrainer(model, train, job.training, own_plan, random, loss, team, changed)
        optimizer = ServerOptimizer(job.server, parameter_count(model), room)
    if team:
        team.build()

    def release(round: int) -> bytes:
        return released(job, spec.run, round, model, {}, member.own)

    return PreparedSilo(
        job=job,
        parameters=parameters,
        terms=hashlib.sha256(terms.encode()).hexdigest(),
        plan=own_plan,
        range=range,
        policy=Policy(job, spec.run, name, parameters, range),
        state=places.state,
        dataset=places.dataset,
        owned=places.owner is not None,
        data=member.data,
        model=model,
        weights=weights,
        random=random,
        trainer=trainer,
        digitiser=digitiser,
        counting=Counting(job, own_plan, member.data, random, member.own, team),
        optimizer=optimizer,
        head=PrivateHead(model, of_run, release),
        checkpoints=Checkpoints(of_run, room),
        room=room,
    )
