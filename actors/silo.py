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

from blindsum.actors.codec import encoded_models
from blindsum.actors.digitiser import noting
from blindsum.actors.door import checked, checked_round
from blindsum.actors.joining import JoiningSilo
from blindsum.actors.messages import ApplyReport, TrainReport
from blindsum.actors.policy import metrics_exchange
from blindsum.actors.prepared import MeanChange, PreparedSilo
from blindsum.actors.silo_messages import Progress
from blindsum.actors.silo_state import SentUpdate, SiloState, require_allowed
from blindsum.he.exchange import Exchange
from blindsum.he.packing import require_exact, require_finite
from blindsum.platform.errors import FederationError, guarded
from blindsum.platform.evaluation.figures import Metrics
from blindsum.platform.evaluation.round_counts import Tally
from blindsum.platform.training.average import averaged, showing
from blindsum.platform.training.control_variates import ControlVariates
from blindsum.platform.training.models import set_parameters
from blindsum.platform.training.vector import digest, put_away


class Silo(JoiningSilo):
    """One silo in one run. `blindsum.actors.silo_state` says which methods may be called when."""

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
        variates = self._variates(exchange.roster)
        started = time.perf_counter()
        epsilon, metrics_epsilon = self._books.charge(exchange)  # before the data is touched
        charged = time.perf_counter()
        subset = own.subset(exchange.round)
        update = own.trainer.train(
            self._model.vector,
            exchange.clipping,
            exchange.round,
            subset,
            variates.correction if variates else None,
        )
        own.add_unsent(update, self._model, subset)
        require_finite(update.values)
        trained = time.perf_counter()
        tally = Tally(unclipped=update.unclipped)
        bound, values = exchange.range or own.range, None
        if self._job.sums_exactly:
            require_exact(update.values, bound)
        digits = own.digitiser.digits(update, exchange, bound, tally)
        if variates:  # they may depend on nothing but what is sent
            values = np.zeros_like(update.values)
            digits = noting(digits, values, update.unit * bound / own.parameters.limit)
        self._books.sends(exchange)  # before any part is sent
        upload_bytes = self._keys.send(exchange, digits)
        self._update = SentUpdate(
            exchange=exchange,
            unit=update.unit,
            tally=tally,
            unsent=own.unsent(update.values, self._model, subset),
            variates=variates,
            values=values,
        )
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
        own.policy.require(exchange, "update", own.sent_values(exchange.round), now.digest)
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
        self._move_on(own, sent, mean)
        with showing(own.model, self._model.average, own.room) as shown:
            counted = own.counting.counts(shown, exchange.round, sent.tally, exchange.roster)
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
            state_digest=self._model.digest,
            model_digest=digest(self._model.average.shared),
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
        values = own.sent_values(exchange.round) * len(exchange.roster)
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
        """Return the average of the models up to that round and the newest of them, if it is one of
        the two newest rounds, as `encoded_models` writes them. This is a release under the charged
        budget. None before this silo joined the run.

        Answers at any time, in its own thread: an interrupted run must get its last model from
        silos that are busy training.
        """
        wanted, books = checked_round(round), self._admission.books
        if not books or not books.joined:
            return None
        found = [(one.average.shared, one.vector) for one in self._models if one.round == wanted]
        return encoded_models(wanted, *found[0]) if found else None

    @guarded
    def progress(self) -> Progress:
        """Return how far this silo is with reading its data, at any time. It tells no count."""
        return self._work.progress()

    def ping(self) -> None:
        """Return at once, as a sign of life, at any time."""

    # -- the model -----------------------------------------------------------------------

    def _variates(self, roster: tuple[str, ...]) -> ControlVariates | None:
        """Return the control variates for a round of that roster; None if the job uses none."""
        if not self._job.training.control_variates:
            return None
        kept = self._model.variates
        if kept is None or kept.roster != roster:
            return ControlVariates.none(self._model.vector.size, roster)
        return kept

    def _variates_after(self, sent: SentUpdate, mean: MeanChange) -> ControlVariates | None:
        if sent.variates is None or sent.values is None or mean.held < 1:
            return None
        training = self._job.training
        length = training.local_steps * training.rate(sent.exchange.round)
        return sent.variates.after(sent.values, mean[:], length)

    def _move_on(self, own: PreparedSilo, sent: SentUpdate, mean: MeanChange) -> None:
        before, round = self._model, sent.exchange.round
        vector = own.next_model(before.vector, mean, sent.exchange)
        variates = self._variates_after(sent, mean)
        put_away(mean.sums)
        set_parameters(own.model, vector)
        rule = self._job.training.average
        average = averaged(rule, before.average, own.model, round, own.room)
        now = own.model_state(round, vector, average, unsent=sent.unsent)
        self._models = (before, replace(now, variates=variates))

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
