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
from blindsum.actors.prepared import MeanChange, PreparedSilo
from blindsum.actors.silo_messages import Progress
from blindsum.actors.silo_state import SentUpdate, SiloState, require_allowed
from blindsum.he.exchange import Exchange
from blindsum.he.packing import Integers, require_exact, require_finite
from blindsum.platform.errors import FederationError, guarded
from blindsum.platform.evaluation.figures import Metrics, count_values
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
        """Charge the ledger, evaluate the newest model, train, and send the masked, encrypted,
        signed update together with the counts of both.

        Args:
            opened: the aggregators' answers that they expect the update.

        Raises:
            BudgetExceeded: the charge would exceed the budget; nothing was trained.
            LedgerError: the charge could not be committed; nothing was trained.
            FederationError: the exchange is not the next one of this job.
            SiloRefused: an aggregator refused the upload.
        """
        exchange = checked(exchange, Exchange)
        own = self._begin("train", exchange)
        variates = self._variates(exchange.roster)
        started = time.perf_counter()
        spent = self._books.charge(exchange)  # before the data is touched
        charged = time.perf_counter()
        held_out = self._held_out(own, exchange)
        own.head.at(exchange.round)
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
        upload_bytes = self._keys.send(
            exchange, digits, lambda: own.counting.counts(tally, held_out)
        )
        self._update = SentUpdate(
            exchange=exchange,
            unit=update.unit,
            evaluated=held_out is not None,
            unsent=own.unsent(update.values, self._model, subset),
            variates=variates,
            values=values,
        )
        self._state = SiloState.TRAINED
        return self._report(spent, upload_bytes, started, charged, trained)

    def _report(
        self,
        spent: tuple[float | None, float | None],
        upload_bytes: int,
        started: float,
        charged: float,
        computed: float,
    ) -> TrainReport:
        return TrainReport(
            silo=self.name,
            epsilon=spent[0],
            upload_bytes=upload_bytes,
            charge_s=charged - started,
            # One time covers evaluating and training: that of evaluation would reveal the fold's
            # size.
            train_s=computed - charged,
            send_s=time.perf_counter() - computed,
            ledger=self._books.head,
            metrics_epsilon=spent[1],
        )

    def _begin(self, method: str, exchange: Exchange) -> PreparedSilo:
        """Begin an attempt that this silo expects, or raise FederationError."""
        self._announced = (exchange.round, exchange.attempt)
        require_allowed(method, self._state)
        own = self._own
        self._require_next(own, exchange, "update" if method == "train" else "metrics")
        self._last_attempt = (exchange.round, exchange.attempt)
        self._state, self._update, self._counts = SiloState.READY, None, None
        own.policy.takes(exchange)
        return own

    def _require_next(self, own: PreparedSilo, exchange: Exchange, purpose: str) -> None:
        """Raise FederationError unless the exchange is the next attempt that this silo expects."""
        if self._announced <= self._last_attempt:
            raise FederationError(
                f"attempt {exchange.attempt} of round {exchange.round} was announced again",
                "A silo never computes or sends an update twice.",
            )
        if exchange.round == self._model.round and exchange.attempt > 1:
            self._undo(own)  # other silos refused the total that this one applied
        now, values = self._model, own.sent_values(exchange.round) if purpose == "update" else 0
        own.policy.require(exchange, purpose, values, count_values(self._job), now.digest)
        if exchange.round != now.round + 1:
            raise FederationError(f"round {exchange.round} was announced after {now.round}")
        self._keys.require(exchange)  # before anything is charged

    def _held_out(self, own: PreparedSilo, exchange: Exchange) -> Integers | None:
        """Return the counts of the newest model on held-out records, if it is to be evaluated."""
        round = exchange.round - 1
        if not own.counting.evaluates(round, exchange.roster):
            return None
        with showing(own.model, self._model.average, own.room) as shown:
            counted = own.counting.of_held_out(shown)
            own.head.keep(round, own.counting.by_task)
        return counted

    @guarded
    def apply(
        self, exchange: Exchange, uploads: Sequence[Any], *totals: Sequence[pa.Buffer]
    ) -> ApplyReport:
        """Decrypt the total, and move to the next model.

        Args:
            uploads: references to each aggregator's frames, if they are kept; empty otherwise.
            totals: the total's frames, from each aggregator.

        Raises:
            TotalRefused: the total is not the sum of one upload of each silo. This silo then gives
                up its keys.
        """
        exchange = checked(exchange, Exchange)
        require_allowed("apply", self._state)
        own, sent = self._own, self._update
        if sent is None or exchange != sent.exchange:
            raise FederationError("received a total for an exchange that this silo took no part in")
        self._state, self._update = SiloState.READY, None  # it can be opened only once
        started = time.perf_counter()
        stood = replace(self._model, mark=self._keys.mark(), course=own.policy.course)
        self._models = (stood,)  # the state to which `_undo` returns
        counts = np.zeros(exchange.counts, np.int64)
        mean = own.mean_change(sent, self._keys.receive(exchange, totals, uploads, counts))
        silos = len(exchange.roster)
        metrics = own.counting.summarise(counts, exchange.values * silos, silos, sent.evaluated)
        decrypted = time.perf_counter()
        # Every silo decrypts them and computes range and clip norm itself; no announcement decides.
        own.policy.follow(metrics)
        self._move_on(own, sent, mean)
        own.keep(self._model)
        return ApplyReport(
            silo=self.name,
            state_digest=self._model.digest,
            model_digest=digest(self._model.average.shared),
            metrics=metrics,
            decrypt_s=decrypted - started,
            apply_s=time.perf_counter() - decrypted,
        )

    @guarded
    def evaluate(self, exchange: Exchange, *opened: object) -> TrainReport:
        """Charge the ledger, and send the counts of the newest model on held-out records alone: no
        update follows the last round's model.

        Args:
            opened: the aggregators' answers that they expect the counts.

        Raises:
            BudgetExceeded, LedgerError, FederationError, SiloRefused: as `train`.
        """
        exchange = checked(exchange, Exchange)
        own = self._begin("evaluate", exchange)
        if not own.counting.evaluates(exchange.round - 1, exchange.roster):
            raise FederationError("the newest model is not to be evaluated by these silos")
        started = time.perf_counter()
        spent = self._books.charge(exchange)
        charged = time.perf_counter()
        held_out = self._held_out(own, exchange)
        counted = time.perf_counter()
        upload_bytes = self._keys.send(
            exchange, _no_digits, lambda: own.counting.counts(Tally(), held_out)
        )
        self._counts, self._state = exchange, SiloState.COUNTED
        return self._report(spent, upload_bytes, started, charged, counted)

    @guarded
    def read_metrics(
        self, exchange: Exchange, uploads: Sequence[Any], *totals: Sequence[pa.Buffer]
    ) -> Metrics:
        """Decrypt the total of what `evaluate` sent, once.

        Raises:
            FederationError: this silo did not send to that total.
            TotalRefused: as in `apply`.
        """
        exchange = checked(exchange, Exchange)
        require_allowed("read_metrics", self._state)
        if exchange != self._counts:
            raise FederationError("received a metrics total that this silo took no part in")
        own, self._counts, self._state = self._own, None, SiloState.READY
        counts = np.zeros(exchange.counts, np.int64)
        for _ in self._keys.receive(exchange, totals, uploads, counts):
            raise FederationError("the metrics total carries an update")
        self._books.ended(self._model.round, digest(self._model.average.shared))
        return own.counting.summarise(counts, 0, len(exchange.roster), evaluated=True)

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


def _no_digits(where: slice) -> Integers:
    return np.zeros(0, np.int64)
