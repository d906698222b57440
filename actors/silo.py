"""One data owner: its data, model, ledger and keys. A plain class; `SiloActor` is its shell.

Whatever a method returns is pickled out of the silo, so methods return messages from
`actors.messages` and of the key ceremony, and nothing else. Ciphertext goes to the aggregators
through the vault.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from blindsum.actors.books import Books
from blindsum.actors.channel import Channel, RayChannel
from blindsum.actors.messages import ApplyReport, Inspection, Release, SiloSpec, TrainReport
from blindsum.actors.policy import Policy, metrics_exchange
from blindsum.actors.vault import Vault, open_identity
from blindsum.he.exchange import Exchange
from blindsum.he.keys import Agreement, Contribution, Introduction
from blindsum.he.packing import Integers, quantise, require_finite
from blindsum.he.parameters import Parameters
from blindsum.platform.approval import require_approved
from blindsum.platform.checkpoint import Checkpoint, Checkpoints, set_state, state_of
from blindsum.platform.data import SiloData, load_data
from blindsum.platform.errors import (
    AggregatorLost,
    BlindsumError,
    FederationError,
    LedgerError,
    guarded,
)
from blindsum.platform.features import feature_count
from blindsum.platform.labels import load_private_tasks
from blindsum.platform.losses import record_loss
from blindsum.platform.metrics import Counting, Metrics, Tally
from blindsum.platform.models import (
    Vector,
    build_model,
    digest,
    get_parameters,
    initial_digest,
    set_parameters,
)
from blindsum.platform.paths import import_from, require_usable, resolve, state_folder
from blindsum.platform.privacy import greatest_sum, plan, update_range
from blindsum.platform.private_head import PrivateHead
from blindsum.platform.random_source import cryptographic_generator, seeded_generator
from blindsum.platform.server_optimizer import ServerOptimizer
from blindsum.platform.shared_noise import noised_integers, require_fine
from blindsum.platform.training import LocalTrainer


class Silo:
    """One silo in one run. Methods are called in the order they stand in."""

    def __init__(self, spec: SiloSpec) -> None:
        self.name = spec.name
        self._spec, self._job = spec, spec.job
        self._section = spec.job.silo(spec.name)
        self._vault: Vault | None = None
        self._books: Books | None = None
        self._last_attempt = self._announced = (0, 0)
        self._pending: Exchange | None = None
        self._pending_metrics: Exchange | None = None
        self._round = 0
        if spec.threads:
            torch.set_num_threads(spec.threads)

    @guarded
    def inspect(self) -> Inspection:
        """Plan the spend, load the data, build the model. Writes nothing but rejected rows, and into the audit
        log if it refuses.

        Raises:
            DataError, ModelError, PrivacyError, LedgerError: this silo cannot take part.
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
        self._state = state_folder(section)
        require_usable(self._state)
        run = self._spec.run
        resumed = self._spec.resumed
        self._books = self._books or Books(job, run, self.name, self._state, self._plan, resumed)
        require_approved(self._state, job)
        import_from(self._spec.folder)
        own = load_private_tasks(section, job, self._spec.folder)
        self._data: SiloData = load_data(
            resolve(section.data, self._spec.folder),
            job.data,
            self._state / "rejected_rows.txt",
            own,
        )
        self._model = build_model(
            job.model, feature_count(job.data.features), job.data.outputs, seed=job.seed,
            private=self._plan is not None, own=len(own) if job.has_private_tasks else None,
        )  # fmt: skip
        self._global: Vector = get_parameters(self._model)
        self._recent = {0: self._global}
        self._model_digest = initial_digest(self._model)
        require_approved(self._state, job, self._model_digest)
        self._optimizer = ServerOptimizer(job.server, self._global.size)
        self._random = self._generator()
        self._trainer = LocalTrainer(
            self._model, self._data.train, job.training, self._plan, self._random,
            record_loss(job.data, own),
        )  # fmt: skip
        self._counting = Counting(job, self._plan, self._data, self._random, own)
        self._head = PrivateHead(self._model, self._state / "models" / self._spec.run)
        self._checkpoints = Checkpoints(self._state / "checkpoints" / self._spec.run)
        lifetime, self._last_attempt = self._books.inspect(self._data.fingerprint)
        kept = {0: self._model_digest, **(self._checkpoints.rounds() if self._spec.resumed else {})}
        return Inspection(
            self.name, self._plan if job.private else None, self._global.size,
            self._model_digest, str(self._books.path), lifetime, kept, self._last_attempt,
        )  # fmt: skip

    def note_refusal(self, error: BlindsumError) -> None:
        """Keep in the audit log why this silo did not do what it was told."""
        if self._books and not isinstance(error, AggregatorLost):
            self._books.refuses(error, *self._announced)

    @guarded
    def restore(self, round: int) -> str:
        """Go back to where this silo stood after a round; returns its model's digest.

        Raises: FederationError, where its state after that round is not there.
        """
        if round:
            kept = self._checkpoints.read(round)
            self._global = kept.model
            self._optimizer.state, self._head.state = kept.optimizer, kept.head
            if kept.random is not None and not self._job.private:
                set_state(self._random, kept.random)
            self._round, self._recent = round, {round: kept.model}
            set_parameters(self._model, kept.model)
            self._model_digest = digest(kept.model)
        return self._model_digest

    def _keep(self) -> None:
        random = None if self._job.private else state_of(self._random)
        self._checkpoints.write(
            Checkpoint(self._round, self._global, self._optimizer.state, self._head.state, random)
        )

    @guarded
    def forget(self) -> None:
        """The run has ended well: nothing of it is needed to go on."""
        self._checkpoints.drop()

    def _generator(self) -> np.random.Generator:
        """Noise and samples. Never from a seed, but in a run that says it is not private."""
        if self._job.private:
            return cryptographic_generator()
        section = self._job.privacy
        seed = None if section.noise == "none" else section.test_seed
        return seeded_generator(self._job.seed if seed is None else seed, self.name)

    @guarded
    def introduce(self) -> Introduction:
        """Open ledger and identity, and begin a key ceremony; a second one rotates the keys.

        Raises:
            LedgerError, KeyRefused: the state folder cannot be used or trusted.
        """
        if self._vault is None:
            job = self._job
            identity = open_identity(self._state)
            self._written().open(identity)
            pins = {silo.name: silo.identity for silo in job.silos if silo.identity}
            self._vault = Vault(
                self._spec.run, self._terms, self.name, self._policy.allows_roster, self._parameters,
                identity, pins, job.encryption.verify,
            )  # fmt: skip
        return self._vault.introduce()

    @guarded
    def contribute(self, introductions: tuple[Introduction, ...]) -> Contribution:
        """Seal this silo's part of the keys to each of the others.

        Raises:
            KeyRefused: an introduction is not the one that its silo made.
        """
        return self._keyed().contribute(introductions)

    @guarded
    def agree(self, contributions: tuple[Contribution, ...]) -> Agreement:
        """Open what was sealed to this silo, and sign the whole ceremony.

        Raises:
            KeyRefused: something is missing, stale, swapped or forged.
        """
        return self._keyed().agree(contributions)

    @guarded
    def finish(self, agreements: tuple[Agreement, ...], aggregators: Sequence[Any]) -> None:
        """Take up the keys, and reserve the whole plan before anything is trained.

        Args:
            aggregators: the actors, in order of their ranges.

        Raises:
            KeyRefused: a silo signed another ceremony.
        """
        self._keyed().finish(agreements)
        self._keyed().connect(self._channel(aggregators))
        self._written().join(self._keyed().identities, self._data.fingerprint)

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
        self._last_attempt = (exchange.round, exchange.attempt)
        self._head.at(exchange.round)
        started = time.perf_counter()
        epsilon, metrics_epsilon = self._written().charge(exchange)
        charged = time.perf_counter()
        update = self._trainer.train(self._global, exchange.clipping)
        require_finite(update)
        trained = time.perf_counter()
        self._tally = Tally(unclipped=self._trainer.unclipped)
        bound = exchange.range or self._range

        def digits(where: slice) -> Integers:
            if self._plan and self._plan.share:
                unit = bound / self._parameters.limit
                cut = greatest_sum(self._job) * exchange.clipping
                share = self._plan.share * exchange.clipping
                return noised_integers(update[where], cut, share, unit, self._random)
            quantised = quantise(update[where], bound, self._parameters, self._random)
            self._tally.saturated += quantised.saturated
            self._tally.large += quantised.large
            return quantised.integers

        self._written().sends(exchange)
        sent = self._keyed().send(exchange, digits)
        self._pending = exchange
        return TrainReport(
            self.name, epsilon, sent, charged - started, trained - charged,
            time.perf_counter() - trained,
            self._written().head, metrics_epsilon,
        )  # fmt: skip

    @guarded
    def apply(
        self, exchange: Exchange, counts: Exchange, uploads: Sequence[Any],
        *totals: Sequence[pa.Buffer],
    ) -> ApplyReport:  # fmt: skip
        """Decrypt the total, move to the next model, and send its encrypted metrics.

        Args:
            counts: the metrics exchange that follows.
            uploads: references to the frames that each aggregator got, where totals are
                verified; empty otherwise.
            totals: the total's frames, from each aggregator.

        Raises:
            TotalRefused: the total is no sum of one upload of each silo; this silo's keys are
                given up with it.
            UploadRefused: this silo summed the uploads again, and found another total.
        """
        if exchange != self._pending:
            raise FederationError("a total came for an exchange this silo did not send to")
        self._pending = None
        started = time.perf_counter()
        unit = (exchange.range or self._range) / self._parameters.limit * self._trainer.scale
        mean = np.empty(exchange.values, np.float64)
        for where, summed in self._keyed().receive(exchange, totals, uploads):
            np.multiply(summed, unit / len(exchange.roster), out=mean[where])
        decrypted = time.perf_counter()
        self._before = copy(self._optimizer), self._model_digest
        self._global = self._optimizer.apply(self._global, mean)
        self._round = exchange.round
        self._recent = {self._round - 1: self._recent[self._round - 1], self._round: self._global}
        set_parameters(self._model, self._global)
        self._model_digest = digest(self._global)
        counted = self._counting.counts(self._model, exchange.round, self._tally)
        if self._job.evaluates(self._round):
            self._head.keep(self._round, self._counting.by_task)
        self._keep()
        # One figure for applying and evaluating: evaluation alone would tell the fold's size.
        applied = time.perf_counter()
        if counts != metrics_exchange(exchange, counted.size):
            raise FederationError("the announced metrics exchange is not the update's")
        self._pending_metrics = counts
        self._written().sends(counts)
        sent = self._keyed().send(counts, lambda where: counted[where])
        return ApplyReport(
            self.name, self._model_digest, sent, decrypted - started, applied - decrypted,
            time.perf_counter() - applied,
        )  # fmt: skip

    @guarded
    def read_metrics(
        self, exchange: Exchange, uploads: Sequence[Any], *totals: Sequence[pa.Buffer]
    ) -> Metrics:
        """Decrypt the consortium's metrics, once for each round that was applied.

        Raises:
            FederationError: this is not the metrics total that this silo sent to.
            TotalRefused, UploadRefused: as in `apply`.
        """
        if exchange != self._pending_metrics:
            raise FederationError("a metrics total came that this silo did not send to")
        self._pending_metrics = None
        counts = [part for _, part in self._keyed().receive(exchange, totals, uploads)]
        values = self._global.size * len(exchange.roster)
        return self._counting.summarise(
            np.concatenate(counts), exchange.round, values, len(exchange.roster)
        )

    @guarded
    @ray.method(concurrency_group="release")
    def release(self, round: int) -> Release | None:
        """The model after that round, of the two newest: a release under the charged budget.

        Answers at any time, in a thread of its own: an interrupted run must get its last
        model from silos that are deep in their training.
        """
        vector = self._recent.get(round)
        return None if vector is None else Release(round, vector)

    def _undo(self) -> None:
        """Back to the model before the last total, for another attempt of its round."""
        self._round -= 1
        self._global = self._recent[self._round]
        self._recent = {self._round: self._global}
        self._optimizer, self._model_digest = self._before
        set_parameters(self._model, self._global)

    def _written(self) -> Books:
        if self._books is None:
            raise LedgerError("this silo was asked to take part before it was inspected")
        return self._books

    def _keyed(self) -> Vault:
        if self._vault is None:
            raise LedgerError("this silo was asked to take part before it was introduced")
        return self._vault
