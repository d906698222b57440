"""A silo: one data owner's data, model, ledger and keys. `SiloActor` runs it.

Every argument is checked against its type (`blindsum.actors.door`) and then against the silo's
state (`blindsum.actors.silo_state`). What a method returns leaves the silo: only messages.
Ciphertext goes to the aggregators through the vault.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from blindsum.actors.admission import Admission
from blindsum.actors.books import Books
from blindsum.actors.channel import Channel, RayChannel
from blindsum.actors.codec import encoded_vector
from blindsum.actors.door import checked, checked_all, checked_round, checked_spec
from blindsum.actors.messages import ApplyReport, SiloSpec, TrainReport
from blindsum.actors.policy import metrics_exchange
from blindsum.actors.prepared import PreparedSilo, prepare
from blindsum.actors.returning import state_for_another, take_over
from blindsum.actors.silo_messages import Inspection
from blindsum.actors.silo_state import ModelState, SentUpdate, SiloState, require_allowed
from blindsum.actors.vault import Vault
from blindsum.he.exchange import Exchange
from blindsum.he.handover import Handover, StateRequest, seal_to
from blindsum.he.identity import fingerprint
from blindsum.he.keys import Agreement, Contribution, Introduction
from blindsum.he.packing import require_finite
from blindsum.platform.errors import (
    AggregatorLost,
    BlindsumError,
    FederationError,
    KeyRefused,
    guarded,
)
from blindsum.platform.evaluation.figures import Metrics
from blindsum.platform.evaluation.round_counts import Tally
from blindsum.platform.training.models import get_parameters, set_parameters
from blindsum.platform.training.vector import digest


class Silo:
    """One silo in one run. `blindsum.actors.silo_state` says which methods may be called when.

    Args:
        owner_file: as `blindsum.actors.admission.Admission`.
    """

    def __init__(self, spec: SiloSpec, owner_file: str | None = None) -> None:
        self._spec = spec = checked_spec(spec)
        self.name, self._job = spec.name, spec.job
        self._admission = Admission(spec, owner_file)
        self._state = SiloState.STARTED
        self._prepared: PreparedSilo | None = None
        self._vault: Vault | None = None
        self._models: tuple[ModelState, ...] = ()  # the newest is last, after its predecessor
        self._announced = self._last_attempt = (0, 0)
        self._update: SentUpdate | None = None
        self._counts: Exchange | None = None
        self._handover: Handover | None = None
        if spec.threads:
            torch.set_num_threads(spec.threads)

    # -- before the rounds ---------------------------------------------------------------

    @guarded
    def inspect(self) -> Inspection:
        """Plan the spend, load the data and build the model. This spends nothing. The audit log
        notes the job before the table is read.

        Raises:
            CannotTakePart: this silo refuses, on a machine with an owner's file. The driver learns
                nothing more.
            ConsentError, DataError, ModelError, PrivacyError, LedgerError: the reason, elsewhere.
        """
        require_allowed("inspect", self._state)
        own = prepare(self._spec, self._admission)
        books, vector = self._books, get_parameters(own.model)
        fingerprints = (own.data.fingerprint, *own.data.earlier)
        lifetime, last = books.inspect(own.dataset, fingerprints, own.plan)
        self._last_attempt = (last.round, last.attempt)
        own.policy.goes_on(last.round, last.roster)
        kept = {0: own.weights, **(own.checkpoints.rounds() if self._spec.resumed else {})}
        self._models = (own.model_state(0, vector, own.weights),)
        self._prepared, self._state = own, SiloState.PREPARED
        return Inspection(
            silo=self.name,
            plan=own.plan if self._job.private else None,
            parameters=own.values,
            model_digest=own.weights,
            ledger="" if own.owned else str(books.path),
            lifetime=None if own.owned else lifetime,
            kept=kept,
            charged=self._last_attempt,
            owned=own.owned,
        )

    def note_refusal(self, error: BlindsumError) -> BlindsumError:
        """Note in the audit log why this silo refused; returns the error that leaves it."""
        books = self._admission.books
        if books and not isinstance(error, AggregatorLost):
            books.refuses(error, *self._announced, logged=self._admission.owner is None)
        return self._admission.outward(error, begun=bool(books and books.joined))

    @guarded
    def restore(self, round: int) -> str:
        """Return to the state after a round of the interrupted run; returns its model's digest.

        Raises:
            FederationError: the state after that round is missing, or this silo never joined the
                run.
        """
        require_allowed("restore", self._state)
        if checked_round(round):
            self._require_joined()
            self._models = (self._own.go_to(self._own.checkpoints.read(round)),)
        return self._model.digest

    @guarded
    def request_state(self) -> StateRequest:
        """Ask the other silos for the present state, after this silo was away.

        Raises:
            FederationError: this silo was not away: nothing but a resumed run is taken over.
        """
        require_allowed("request_state", self._state)
        if not self._spec.resumed:
            raise FederationError("this silo's run has just begun: it takes over no state")
        self._handover = Handover(self._spec.run, self.name, self._books.identity)
        return self._handover.request

    @guarded
    def seal_state(self, request: StateRequest) -> bytes:
        """Seal the present state to a silo of this run that comes back.

        Raises:
            KeyRefused: the request is not from a silo of the run, or is for another run.
        """
        request = checked(request, StateRequest)
        require_allowed("seal_state", self._state)
        if request.run != self._spec.run or not self._keys.knows(request.silo, request.identity):
            raise KeyRefused(f"the request for the state is not from a silo '{request.silo}' here")
        state = state_for_another(self._own, self._model)
        return seal_to(request, state, self._books.identity)

    @guarded
    def take_state(self, sealed: Sequence[pa.Buffer]) -> str:
        """Take over a state that another silo sealed to this one; returns its model's digest.

        Raises:
            KeyRefused: it was not sealed to this silo, or not by another silo of the run.
            FederationError: it is not a state that this run can have.
        """
        require_allowed("take_state", self._state)
        handover, self._handover = self._handover, None
        if handover is None:
            raise FederationError("received a state that this silo did not request")
        others = [silo for silo in self._job.silos if silo.name != self.name]
        pins = {silo.identity for silo in others if silo.identity}
        content = handover.open(
            b"".join(bytes(part) for part in sealed),
            lambda identity: fingerprint(identity) in pins or len(pins) < len(others),
        )
        self._models = (take_over(self._own, content),)
        return self._model.digest

    @guarded
    def forget(self) -> None:
        """Delete the checkpoints, after a completed run.

        Raises: FederationError, if this silo never joined the run.
        """
        require_allowed("forget", self._state)
        self._require_joined()
        self._own.checkpoints.drop()

    @guarded
    def introduce(self) -> Introduction:
        """Open ledger and identity, and begin a key ceremony. A second ceremony replaces the keys.

        Raises:
            LedgerError, KeyRefused: the state folder cannot be used or trusted.
        """
        require_allowed("introduce", self._state)
        if self._vault is None:
            job, own = self._job, self._own
            pins = {silo.name: silo.identity for silo in job.silos if silo.identity}
            self._vault = Vault(
                self._spec.run,
                own.terms,
                self.name,
                own.policy.allows_ceremony,
                own.parameters,
                self._books.identity,
                pins,
                job.encryption.verify == "keep",
            )
        self._state = SiloState.AGREEING
        return self._vault.introduce()

    @guarded
    def contribute(self, introductions: tuple[Introduction, ...]) -> Contribution:
        """Seal this silo's part of the keys to each other silo.

        Raises:
            KeyRefused: an introduction is not the one that its silo made.
        """
        require_allowed("contribute", self._state)
        return self._keys.contribute(checked_all(introductions, Introduction))

    @guarded
    def agree(self, contributions: tuple[Contribution, ...]) -> Agreement:
        """Open the parts sealed to this silo, and sign the whole ceremony.

        Raises:
            KeyRefused: something is missing, stale, swapped or forged.
        """
        require_allowed("agree", self._state)
        return self._keys.agree(checked_all(contributions, Contribution))

    @guarded
    def finish(self, agreements: tuple[Agreement, ...], aggregators: Sequence[Any]) -> None:
        """Take up the keys, and reserve the whole plan before anything is trained.

        Args:
            aggregators: the aggregators' actors, in the order of their ranges.

        Raises:
            KeyRefused: a silo signed another ceremony.
        """
        require_allowed("finish", self._state)
        self._keys.finish(checked_all(agreements, Agreement))
        self._keys.connect(self._channel(aggregators))
        self._books.join(self._keys.identities)
        self._own.policy.regroups(tuple(self._keys.identities))
        self._state = SiloState.READY

    def _channel(self, aggregators: Sequence[Any]) -> Channel:
        return RayChannel(aggregators)

    # -- a round -------------------------------------------------------------------------

    @guarded
    def train(self, exchange: Exchange, *opened: object) -> TrainReport:
        """Charge the ledger, train, and send the masked, encrypted, signed update.

        Args:
            opened: the aggregators' answers that they expect the update.

        Raises:
            BudgetExceeded: the charge would exceed the budget; nothing was trained.
            LedgerError: the charge could not be committed; nothing was trained.
            FederationError: the exchange is not the next one of this job.
            SiloRefused: an aggregator refused the upload.
        """
        exchange = checked(exchange, Exchange)
        self._announced = (exchange.round, exchange.attempt)
        require_allowed("train", self._state)
        own = self._own
        self._require_next(own, exchange)
        self._last_attempt = (exchange.round, exchange.attempt)
        self._state, self._update, self._counts = SiloState.READY, None, None
        own.policy.takes(exchange)
        own.head.at(exchange.round)
        started = time.perf_counter()
        epsilon, metrics_epsilon = self._books.charge(exchange)  # before the data is touched
        charged = time.perf_counter()
        update = own.trainer.train(self._model.vector, exchange.clipping)
        require_finite(update.values)
        trained = time.perf_counter()
        tally = Tally(unclipped=update.unclipped)
        digits = own.digitiser.digits(update, exchange, exchange.range or own.range, tally)
        self._books.sends(exchange)  # before any part is sent
        upload_bytes = self._keys.send(exchange, digits)
        self._update = SentUpdate(exchange=exchange, unit=update.unit, tally=tally)
        self._state = SiloState.TRAINED
        return TrainReport(
            silo=self.name,
            epsilon=epsilon,
            upload_bytes=upload_bytes,
            charge_s=charged - started,
            train_s=trained - charged,
            send_s=time.perf_counter() - trained,
            ledger=self._books.head,
            metrics_epsilon=metrics_epsilon,
        )

    def _require_next(self, own: PreparedSilo, exchange: Exchange) -> None:
        """Raise FederationError unless the exchange is the next attempt that this silo expects."""
        if self._announced <= self._last_attempt:
            raise FederationError(
                f"attempt {exchange.attempt} of round {exchange.round} was announced again",
                "A silo never computes or sends an update twice.",
            )
        if exchange.round == self._model.round and exchange.attempt > 1:
            self._undo(own)  # other silos refused the total that this one applied
        now = self._model
        own.policy.require(exchange, "update", now.vector.size, now.digest)
        if exchange.round != now.round + 1:
            raise FederationError(f"round {exchange.round} was announced after {now.round}")
        self._keys.require(exchange)  # before anything is charged

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
            uploads: references to each aggregator's frames, if they are kept; empty otherwise.
            totals: the total's frames, from each aggregator.

        Raises:
            TotalRefused: the total is not the sum of one upload of each silo. This silo then gives
                up its keys.
        """
        exchange, counts = checked(exchange, Exchange), checked(counts, Exchange)
        require_allowed("apply", self._state)
        own, sent = self._own, self._update
        if sent is None or exchange != sent.exchange:
            raise FederationError("received a total for an exchange that this silo took no part in")
        self._state, self._update = SiloState.READY, None  # it can be opened only once
        started = time.perf_counter()
        stood = replace(self._model, mark=self._keys.mark(), course=own.policy.course)
        self._models = (stood,)  # the state to which `_undo` returns
        mean = own.mean_change(sent, self._keys.receive(exchange, totals, uploads))
        decrypted = time.perf_counter()
        self._move_on(own, exchange.round, mean)
        counted = own.counting.counts(own.model, exchange.round, sent.tally, exchange.roster)
        if own.counting.evaluates(exchange.round, exchange.roster):
            own.head.keep(exchange.round, own.counting.by_task)
        # One time covers applying and evaluating: that of evaluation would reveal the fold's size.
        applied = time.perf_counter()
        if counts != metrics_exchange(exchange, counted.size):
            raise FederationError("the announced metrics exchange does not belong to the update")
        self._books.sends(counts)
        upload_bytes = self._keys.send(counts, lambda where: counted[where])
        self._counts, self._state = counts, SiloState.APPLIED
        return ApplyReport(
            silo=self.name,
            model_digest=self._model.digest,
            upload_bytes=upload_bytes,
            decrypt_s=decrypted - started,
            apply_s=applied - decrypted,
            send_s=time.perf_counter() - applied,
        )

    @guarded
    def read_metrics(
        self, exchange: Exchange, uploads: Sequence[Any], *totals: Sequence[pa.Buffer]
    ) -> Metrics:
        """Decrypt the consortium's metrics, once for each round that was applied.

        Raises:
            FederationError: this silo did not send to that metrics total.
            TotalRefused: as in `apply`.
        """
        exchange = checked(exchange, Exchange)
        require_allowed("read_metrics", self._state)
        if exchange != self._counts:
            raise FederationError("received a metrics total that this silo took no part in")
        own, self._counts, self._state = self._own, None, SiloState.READY
        counts = [part for _, part in self._keys.receive(exchange, totals, uploads)]
        values = self._model.vector.size * len(exchange.roster)
        metrics = own.counting.summarise(
            np.concatenate(counts), exchange.round, values, exchange.roster
        )
        # Every silo decrypts them and computes range and clip norm itself; no announcement decides.
        own.policy.follow(metrics)
        own.keep(self._model)
        return metrics

    # -- at any time ---------------------------------------------------------------------

    @guarded
    def release(self, round: int) -> bytes | None:
        """Return the model after that round, if it is one of the two newest, as `encoded_vector`
        writes it. This is a release under the charged budget. None before this silo joined the run.

        Answers at any time, in its own thread: an interrupted run must get its last model from
        silos that are busy training.
        """
        wanted, books = checked_round(round), self._admission.books
        if not books or not books.joined:
            return None
        vectors = [one.vector for one in self._models if one.round == wanted]
        return encoded_vector(wanted, vectors[0]) if vectors else None

    def ping(self) -> None:
        """Return at once, as a sign of life, at any time."""

    # -- the model -----------------------------------------------------------------------

    @property
    def _model(self) -> ModelState:
        return self._models[-1]

    def _move_on(
        self, own: PreparedSilo, round: int, mean: np.ndarray[Any, np.dtype[np.float64]]
    ) -> None:
        vector = own.optimizer.apply(self._model.vector, mean)
        self._models = (self._model, own.model_state(round, vector, digest(vector)))
        set_parameters(own.model, vector)

    def _undo(self, own: PreparedSilo) -> None:
        """Return to the model before the last total, for another attempt of its round."""
        self._models = self._models[:1]
        before = self._model
        own.optimizer.state = before.optimizer
        self._keys.back_to(before.mark)
        # The roster does not grow back.
        course = before.course
        own.policy.course = replace(own.policy.course, range=course.range, clipping=course.clipping)
        set_parameters(own.model, before.vector)

    # -- attributes that only some states have -------------------------------------------

    @property
    def _own(self) -> PreparedSilo:
        if self._prepared is None:
            raise FederationError("this silo was not inspected")
        return self._prepared

    @property
    def _books(self) -> Books:
        if self._admission.books is None:
            raise FederationError("this silo was not inspected")
        return self._admission.books

    @property
    def _keys(self) -> Vault:
        if self._vault is None:
            raise FederationError("this silo was not introduced to the others")
        return self._vault

    def _require_joined(self) -> None:
        if not self._books.joined:
            raise FederationError("this silo has never joined that run")
