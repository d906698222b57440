"""One data owner: its data, model, ledger and keys. `SiloActor` is its shell.

Whatever comes in is checked by its type first (`blindsum.actors.door`). What a method returns leaves
the silo: messages alone. Ciphertext goes to the aggregators through the vault.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from blindsum.actors.admission import Admission
from blindsum.actors.books import Books
from blindsum.actors.channel import Channel, RayChannel
from blindsum.actors.codec import encoded_vector
from blindsum.actors.digitiser import Digitiser
from blindsum.actors.door import checked, checked_all, checked_round, checked_spec
from blindsum.actors.messages import ApplyReport, SiloSpec, TrainReport
from blindsum.actors.policy import Policy, metrics_exchange
from blindsum.actors.silo_messages import Inspection
from blindsum.actors.vault import Vault
from blindsum.he.exchange import Exchange
from blindsum.he.keys import Agreement, Contribution, Introduction
from blindsum.he.packing import require_finite, square_sum
from blindsum.he.parameters import Parameters
from blindsum.platform.data.features import feature_count
from blindsum.platform.data.table import SiloData, load_data
from blindsum.platform.errors import (
    AggregatorLost,
    BlindsumError,
    FederationError,
    LedgerError,
    guarded,
)
from blindsum.platform.evaluation.round_counts import Counting, Metrics, Tally
from blindsum.platform.job.private_tasks import load_private_tasks
from blindsum.platform.privacy.plan import plan, update_range
from blindsum.platform.privacy.randomness import generator_of
from blindsum.platform.privacy.reach import held_to, honest_reach
from blindsum.platform.privacy.shared_noise import require_fine
from blindsum.platform.state.checkpoint import Checkpoint, Checkpoints, set_state, state_of
from blindsum.platform.state.private_head import PrivateHead
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.losses import record_loss
from blindsum.platform.training.models import (
    Vector,
    build_model,
    digest,
    get_parameters,
    initial_digest,
    set_parameters,
)
from blindsum.platform.training.server_optimizer import ServerOptimizer


class Silo:
    """One silo in one run. Methods are called in the order they stand in."""

    def __init__(self, spec: SiloSpec) -> None:
        self._spec = spec = checked_spec(spec)
        self.name, self._job = spec.name, spec.job
        self._section = spec.job.silo(spec.name)
        self._admission = Admission(spec)
        self._vault: Vault | None = None
        self._last_attempt = self._announced = (0, 0)
        self._pending: Exchange | None = None
        self._pending_metrics: Exchange | None = None
        self._round = 0
        if spec.threads:
            torch.set_num_threads(spec.threads)

    @guarded
    def inspect(self) -> Inspection:
        """Plan the spend, load the data, build the model. Spends nothing; the audit log says that the
        job was here before the table is read.

        Raises:
            CannotTakePart: it does not take part. On a machine with an owner's file, that is all
                the driver is told.
            ConsentError, DataError, ModelError, PrivacyError, LedgerError: without one, why.
        """
        job, section = self._job, self._section
        self._parameters = Parameters.derive(
            len(job.silos), job.encryption.bits, scheme=job.encryption.scheme
        )
        # All silos must have been told the same job: the key ceremony is bound to its digest.
        terms = f"{self._parameters.digest}\n{job.model_dump_json()}"
        self._terms = hashlib.sha256(terms.encode()).hexdigest()
        self._plan = plan(job, self.name)
        self._range = update_range(job, self._plan)
        if self._plan and self._plan.share:
            require_fine(self._plan.share, self._range, self._parameters.limit)
        self._policy = Policy(job, self._spec.run, self.name, self._parameters, self._range)
        places, books = self._admission.admit()
        self._state, of_run = places.state, places.of_run(self._spec.run)
        own = load_private_tasks(section, job, places.private_tasks)
        self._data: SiloData = load_data(places.table, job.data, of_run / "rejected_rows.txt", own)
        self._model = build_model(
            job.model,
            feature_count(job.data.features),
            job.data.outputs,
            seed=job.seed,
            private=self._plan is not None,
            own=len(own) if job.has_private_tasks else None,
        )
        self._global: Vector = get_parameters(self._model)
        self._recent = {0: self._global}
        self._model_digest = initial_digest(self._model)
        self._admission.require_weights(self._model_digest)
        self._optimizer = ServerOptimizer(job.server, self._global.size)
        self._random = generator_of(job, self.name)
        self._trainer = LocalTrainer(
            self._model,
            self._data.train,
            job.training,
            self._plan,
            self._random,
            record_loss(job.data, own),
        )
        self._digitiser = Digitiser(job, self._plan, self._parameters, self._random)
        self._counting = Counting(job, self._plan, self._data, self._random, own)
        self._head = PrivateHead(self._model, of_run)
        self._checkpoints = Checkpoints(of_run)
        fingerprints = (self._data.fingerprint, *self._data.earlier)
        lifetime, last = books.inspect(places.dataset, fingerprints, self._plan)
        self._last_attempt = (last.round, last.attempt)
        self._policy.goes_on(last.round, last.roster)
        kept = {0: self._model_digest, **(self._checkpoints.rounds() if self._spec.resumed else {})}
        owned = places.owner is not None
        return Inspection(
            self.name,
            self._plan if job.private else None,
            self._global.size,
            self._model_digest,
            "" if owned else str(books.path),
            None if owned else lifetime,
            kept,
            self._last_attempt,
            owned,
        )

    def note_refusal(self, error: BlindsumError) -> BlindsumError:
        """Keep in the audit log why this silo did not do what it was told; gives what leaves of it."""
        books = self._admission.books
        if books and not isinstance(error, AggregatorLost):
            books.refuses(error, *self._announced, logged=self._admission.owner is None)
        return self._admission.outward(error, begun=bool(books and books.joined))

    @guarded
    def restore(self, round: int) -> str:
        """Go back to where this silo stood after a round; returns its model's digest.

        Raises:
            FederationError: the state after that round is missing, or this silo never joined the
                run.
        """
        if checked_round(round):
            self._require_joined()
            kept = self._checkpoints.read(round)
            self._global = kept.model
            self._optimizer.state, self._head.state = kept.optimizer, kept.head
            if kept.random is not None and not self._job.private:
                set_state(self._random, kept.random)
            self._round, self._recent = round, {round: kept.model}
            set_parameters(self._model, kept.model)
            self._model_digest = digest(kept.model)
            self._policy.course = replace(
                self._policy.course, range=kept.range, clipping=kept.clipping
            )
        return self._model_digest

    def _keep(self) -> None:
        random = None if self._job.private else state_of(self._random)
        self._checkpoints.write(
            Checkpoint(
                self._round,
                self._global,
                self._optimizer.state,
                self._head.state,
                random,
                self._policy.course.range,
                self._policy.course.clipping,
            )
        )

    @guarded
    def forget(self) -> None:
        """The run has ended well: nothing of it is needed to go on.

        Raises: FederationError, if this silo never joined the run.
        """
        self._require_joined()
        self._checkpoints.drop()

    @guarded
    def introduce(self) -> Introduction:
        """Open ledger and identity, and begin a key ceremony; a second one rotates the keys.

        Raises:
            LedgerError, KeyRefused: the state folder cannot be used or trusted.
        """
        if self._vault is None:
            job, identity = self._job, self._written().identity
            pins = {silo.name: silo.identity for silo in job.silos if silo.identity}
            self._vault = Vault(
                self._spec.run,
                self._terms,
                self.name,
                self._policy.allows_roster,
                self._parameters,
                identity,
                pins,
                job.encryption.verify == "keep",
            )
        return self._vault.introduce()

    @guarded
    def contribute(self, introductions: tuple[Introduction, ...]) -> Contribution:
        """Seal this silo's part of the keys to each of the others.

        Raises:
            KeyRefused: an introduction is not the one that its silo made.
        """
        return self._keyed().contribute(checked_all(introductions, Introduction))

    @guarded
    def agree(self, contributions: tuple[Contribution, ...]) -> Agreement:
        """Open what was sealed to this silo, and sign the whole ceremony.

        Raises:
            KeyRefused: something is missing, stale, swapped or forged.
        """
        return self._keyed().agree(checked_all(contributions, Contribution))

    @guarded
    def finish(self, agreements: tuple[Agreement, ...], aggregators: Sequence[Any]) -> None:
        """Take up the keys, and reserve the whole plan before anything is trained.

        Args:
            aggregators: the actors, in order of their ranges.

        Raises:
            KeyRefused: a silo signed another ceremony.
        """
        self._keyed().finish(checked_all(agreements, Agreement))
        self._keyed().connect(self._channel(aggregators))
        self._written().join(self._keyed().identities)

    def _channel(self, aggregators: Sequence[Any]) -> Channel:
        return RayChannel(aggregators)

    @guarded
    def train(self, exchange: Exchange, *opened: object) -> TrainReport:
        """Charge the ledger, train, and send the masked, encrypted, signed update.

        Args:
            opened: the aggregators' answers that they expect it.

        Raises:
            BudgetExceeded: the charge would pass the budget; nothing was trained.
            LedgerError: the charge could not be committed; nothing was trained.
            FederationError: the exchange is not the next one of this job.
            SiloRefused: an aggregator refused what was sent.
        """
        exchange = checked(exchange, Exchange)
        self._announced = (exchange.round, exchange.attempt)
        if self._announced <= self._last_attempt:
            raise FederationError(
                f"attempt {exchange.attempt} of round {exchange.round} was announced again",
                "An update is never made or sent twice.",
            )
        if exchange.round == self._round and exchange.attempt > 1:
            self._undo()  # other silos refused the total that this one applied
        self._policy.require(exchange, "update", self._global.size, self._model_digest)
        if exchange.round != self._round + 1:
            raise FederationError(f"round {exchange.round} was announced after {self._round}")
        self._keyed().require(exchange)  # before anything is charged
        self._last_attempt = (exchange.round, exchange.attempt)
        self._policy.takes(exchange)
        self._head.at(exchange.round)
        started = time.perf_counter()
        epsilon, metrics_epsilon = self._written().charge(exchange)
        charged = time.perf_counter()
        update = self._trainer.train(self._global, exchange.clipping)
        require_finite(update)
        trained = time.perf_counter()
        self._tally = Tally(unclipped=self._trainer.unclipped)
        bound = exchange.range or self._range
        digits = self._digitiser.digits(update, exchange, bound, self._tally)
        self._written().sends(exchange)
        sent = self._keyed().send(exchange, digits)
        self._pending = exchange
        return TrainReport(
            self.name,
            epsilon,
            sent,
            charged - started,
            trained - charged,
            time.perf_counter() - trained,
            self._written().head,
            metrics_epsilon,
        )

    @guarded
    def apply(
        self,
        exchange: Exchange,
        counts: Exchange,
        uploads: Sequence[Any],
        *totals: Sequence[pa.Buffer],
    ) -> ApplyReport:
        """Decrypt the total, move to the next model, and send its encrypted metrics.

        Args:
            counts: the metrics exchange that follows.
            uploads: references to each aggregator's frames, where they are kept; empty otherwise.
            totals: the total's frames, from each aggregator.

        Raises:
            TotalRefused: the total is not the sum of one upload of each silo; this silo's keys
                are given up with it.
        """
        if checked(exchange, Exchange) != self._pending:
            raise FederationError("received a total for an exchange that this silo took no part in")
        counts = checked(counts, Exchange)
        self._pending = None
        started = time.perf_counter()
        stood = self._keyed().mark()
        silos, unit = len(exchange.roster), (exchange.range or self._range) / self._parameters.limit
        step = unit * self._trainer.scale / silos
        mean = np.empty(exchange.values, np.float64)
        squares = 0
        for where, summed in self._keyed().receive(exchange, totals, uploads):
            np.multiply(summed, step, out=mean[where])
            squares += square_sum(summed)
        reach = honest_reach(self._job, self._plan, silos, exchange.values, unit, exchange.clipping)
        held_to(mean, abs(step) * math.sqrt(squares), reach)
        decrypted = time.perf_counter()
        self._before = copy(self._optimizer), self._model_digest, self._policy.course, stood
        self._global = self._optimizer.apply(self._global, mean)
        self._round = exchange.round
        self._recent = {self._round - 1: self._recent[self._round - 1], self._round: self._global}
        set_parameters(self._model, self._global)
        self._model_digest = digest(self._global)
        counted = self._counting.counts(self._model, exchange.round, self._tally, exchange.roster)
        if self._counting.evaluates(self._round, exchange.roster):
            self._head.keep(self._round, self._counting.by_task)
        # One figure for applying and evaluating: evaluation alone would tell the fold's size.
        applied = time.perf_counter()
        if counts != metrics_exchange(exchange, counted.size):
            raise FederationError("the announced metrics exchange is not the update's")
        self._pending_metrics = counts
        self._written().sends(counts)
        sent = self._keyed().send(counts, lambda where: counted[where])
        return ApplyReport(
            self.name,
            self._model_digest,
            sent,
            decrypted - started,
            applied - decrypted,
            time.perf_counter() - applied,
        )

    @guarded
    def read_metrics(
        self, exchange: Exchange, uploads: Sequence[Any], *totals: Sequence[pa.Buffer]
    ) -> Metrics:
        """Decrypt the consortium's metrics, once for each round that was applied.

        Raises:
            FederationError: this is not the metrics total that this silo sent to.
            TotalRefused: as in `apply`.
        """
        if checked(exchange, Exchange) != self._pending_metrics:
            raise FederationError("received a metrics total that this silo took no part in")
        self._pending_metrics = None
        counts = [part for _, part in self._keyed().receive(exchange, totals, uploads)]
        values = self._global.size * len(exchange.roster)
        metrics = self._counting.summarise(
            np.concatenate(counts), exchange.round, values, exchange.roster
        )
        # Every silo opens them and computes range and clip norm itself: nobody announces them.
        self._policy.follow(metrics)
        self._keep()
        return metrics

    @guarded
    @ray.method(concurrency_group="release")
    def release(self, round: int) -> bytes | None:
        """The model after that round, of the two newest, as `encoded_vector` writes it: a release
        under the charged budget. None before this silo has joined the run.

        Answers at any time, in a thread of its own: an interrupted run must get its last
        model from silos that are deep in their training.
        """
        books = self._admission.books
        vector = self._recent.get(checked_round(round)) if books and books.joined else None
        return None if vector is None else encoded_vector(round, vector)

    @ray.method(concurrency_group="release")
    def ping(self) -> None:
        """A sign of life, at any time."""

    def _undo(self) -> None:
        """Back to the model before the last total, for another attempt of its round."""
        self._round -= 1
        self._global = self._recent[self._round]
        self._recent = {self._round: self._global}
        self._optimizer, self._model_digest, course, stood = self._before
        self._keyed().back_to(stood)
        # The roster does not grow back.
        self._policy.course = replace(
            self._policy.course, range=course.range, clipping=course.clipping
        )
        set_parameters(self._model, self._global)

    def _written(self) -> Books:
        if self._admission.places is None or self._admission.books is None:
            raise LedgerError("this silo was asked to take part before it was inspected")
        return self._admission.books

    def _require_joined(self) -> None:
        if not self._written().joined:
            raise FederationError("this silo has never joined that run")

    def _keyed(self) -> Vault:
        if self._vault is None:
            raise LedgerError("this silo was asked to take part before it was introduced")
        return self._vault
