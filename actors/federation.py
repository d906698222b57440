"""The driver of the rounds. It passes references to ciphertext, and holds no key and no record.

`Federation.run_round` is a whole round, from top to bottom.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from blindsum.actors.agreement import same_digest, same_metrics, same_size
from blindsum.actors.ceremony import hold_ceremony
from blindsum.actors.cluster import Cluster
from blindsum.actors.exchange_calls import ExchangeCalls, Send, Take
from blindsum.actors.handles import (
    AggregatorHandle,
    Reply,
    SiloHandle,
    aggregator_names,
    is_aggregator,
)
from blindsum.actors.heartbeat import Heartbeats, Told
from blindsum.actors.messages import SiloSpec, Standing, TotalReport, TrainReport
from blindsum.actors.policy import Course, next_course
from blindsum.actors.ray_cluster import RayCluster
from blindsum.actors.recovery import Recovery, recovery
from blindsum.actors.releasing import released_by
from blindsum.actors.returns import Returns
from blindsum.actors.round_report import Evaluation, RoundReport, most_spent, reported
from blindsum.actors.silo_messages import Inspection, Release
from blindsum.actors.summing import first_range, parameters_of
from blindsum.actors.waiting import Waiting
from blindsum.he.exchange import Exchange
from blindsum.he.parameters import RING_DEGREE
from blindsum.platform.errors import BlindsumError, FederationError, SiloLost
from blindsum.platform.evaluation.figures import count_values, evaluates
from blindsum.platform.events import Log
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import plan

T = TypeVar("T")
CHUNKS_PER_AGGREGATOR = 1024
"""One aggregator's range: a sum of 64 MB, or 12 million values at three digits a real."""


class Federation:
    """The silos and aggregators of one run.

    Args:
        run: the run's unique name, under which ledgers record it.
        folder: the job file's folder on the silos' nodes.
        cluster: starts and calls the peers; by default Ray, which must already be connected.
        interrupted: set by a signal's handler (`blindsum.actors.waiting`).
        standing: where an interrupted run stood; the run resumes from there.
        log: the log for the driver's events.

    Raises:
        ClusterError: a silo has no node to run on.
    """

    def __init__(
        self,
        job: Job,
        run: str,
        folder: str,
        cluster: Cluster | None = None,
        interrupted: threading.Event | None = None,
        standing: Standing | None = None,
        log: Log | None = None,
    ) -> None:
        self.job, self.run = job, run
        self.standing = standing or Standing()
        self.parameters = parameters_of(job)
        self._resumed = standing is not None
        self._log = log or Log(job=job.name, run=run)
        self._cluster = cluster or RayCluster()
        self._waiting = Waiting(self._cluster, interrupted or threading.Event())

        def spec_of(name: str, resumed: bool = True) -> SiloSpec:
            return SiloSpec(job=job, run=run, name=name, folder=folder, resumed=resumed)

        specs = {
            name: spec_of(name, self._resumed)
            for name in job.roster
            if name not in self.standing.lost
        }
        start_s = job.deadlines.start_s
        self._returns = Returns(self._cluster, self._waiting, spec_of, start_s, self._log)
        self._silos = {
            name: SiloHandle(name, peer, self._cluster)
            for name, peer in self._cluster.start_silos(specs).items()
        }
        self._aggregators: list[AggregatorHandle] = []
        self._values, self._first_range = 0, 0.0
        self._sent: tuple[int, ...] = (1,)
        self._charged: dict[int, int] = {}  # the newest attempts that may be charged, by round
        self._pending: list[Reply[Any]] = []
        self._keys_due = False
        self._keeps = job.encryption.verify == "keep"

    @property
    def roster(self) -> tuple[str, ...]:
        """The silos that are left, in the job's order."""
        return tuple(self._silos)

    @property
    def retries(self) -> int:
        """Attempts beyond each round's first. They were charged and gave no model."""
        return self.standing.retries

    @property
    def lost(self) -> Mapping[str, int]:
        """Silos that were dropped, by the round in which they were lost."""
        return self.standing.lost

    def warm_up(self) -> None:
        """Start an aggregator now rather than after `inspect`: few models need more than one."""
        self._start_aggregators(self.job.encryption.aggregators or 1)

    def inspect(self, told: Told = lambda shares: None) -> dict[str, Inspection]:
        """Have every silo check its data, model and plan; nothing is trained, spent or sent. Silos
        that die or are silent meanwhile are dropped, as long as the quorum remains.

        Args:
            told: called with the percent of its data that each silo has read, as it changes.

        Raises:
            SiloLost: too few silos are left.
            BlindsumError: silos cannot take part; the reasons of all of them.
        """
        asked = [silo.inspect() for silo in self._silos.values()]
        beats = Heartbeats(self._silos, self.job.deadlines.start_s, told)

        def gather() -> dict[str, Inspection]:
            left = [one for one in asked if one.peer in self._silos]
            return self._waiting.gather_faults(left, "start", beats)

        inspections = self._dropping_lost(gather)
        first = next(iter(inspections.values()))
        self._first_range = first_range(self.job, first.plan or plan(self.job, first.silo))
        model = same_digest((i.model_digest for i in inspections.values()), "initial weights")
        self._values = same_size(i.parameters for i in inspections.values())
        self._sent = same_size(i.sent for i in inspections.values())
        at = self.standing
        self.standing = replace(at, model=at.model or model, range=at.range or self._first_range)
        if self._resumed:
            self._resume(inspections)
        return inspections

    def _resume(self, inspections: Mapping[str, Inspection]) -> None:
        """Bring every silo back to the run's standing. Silos that cannot be restored are dropped,
        as long as the quorum remains."""
        at = self.standing
        behind = [name for name, i in inspections.items() if i.kept.get(at.round) != at.model]
        if behind and len(inspections) - len(behind) < self.job.least_silos:
            raise FederationError(
                f"{', '.join(behind)} cannot resume after round {at.round}: the state folder has "
                "no state of that round",
                "Restore the silo's state folder from a backup, or start a new run.",
            )
        for name in behind:
            self._drop(name, at.round + 1)
        restoring = [silo.restore(at.round) for silo in self._silos.values()]
        restored = self._waiting.gather(restoring, "restore its state", self.job.deadlines.start_s)
        model = same_digest(restored.values(), "restored models", at.round or None)
        self.standing = replace(self.standing, model=model)
        round, attempts = max(i.charged for i in inspections.values())
        if round == at.round + 1:  # this round had been charged when the run was interrupted
            self._charged[round] = attempts
            self.standing = replace(self.standing, retries=at.retries + attempts)

    def forget(self) -> None:
        """Have the silos delete their checkpoints, after a completed run."""
        asked = [silo.forget() for silo in self._silos.values()]
        self._waiting.settle(asked, self.job.deadlines.start_s)

    def _dropping_lost(self, step: Callable[[], T]) -> T:
        """Take a step before the next round; drop the silos that are lost in it and take it again,
        as long as the quorum remains."""
        while True:
            try:
                return step()
            except SiloLost as error:
                lost = [name for name in (error.silo or "").split(", ") if name in self._silos]
                if not lost or len(self._silos) - len(lost) < self.job.least_silos:
                    raise
                for name in lost:
                    self._drop(name, self.standing.round)
                self._log.say("lost", silo=error.silo or "", said=error.what)

    def exchange_keys(self) -> None:
        """Run the key ceremony. Afterwards the silos have one common secret and a seed for each
        pair of silos, and the driver has neither. A second ceremony replaces all keys. Silos that
        die meanwhile are dropped, as long as the quorum remains.

        Raises:
            SiloLost: too few silos are left.
            KeyRefused: a silo received other messages than the others sent.
        """
        self._dropping_lost(self._exchange_keys)

    def _exchange_keys(self) -> None:
        needed = self._aggregators_needed()
        if len(self._aggregators) != needed:
            self._end_aggregators()
            self._start_aggregators(needed)
        within_s = self.job.deadlines.start_s
        hold_ceremony(self._waiting, self._silos.values(), self._aggregators, within_s)

    def _aggregators_needed(self) -> int:
        chunks = -(-self.parameters.reals(max(self._sent)) // RING_DEGREE)
        return self.job.encryption.aggregators or -(-chunks // CHUNKS_PER_AGGREGATOR)

    def _start_aggregators(self, count: int) -> None:
        peers = self._cluster.start_aggregators(count, self._keeps)
        self._aggregators = [
            AggregatorHandle(name, peer, self._cluster)
            for name, peer in zip(aggregator_names(count), peers, strict=True)
        ]

    def run_round(self, number: int) -> RoundReport:
        """Run one round, in as many attempts as `blindsum.actors.recovery` allows. After a refused
        total the next attempt has new keys. Lost silos are dropped as long as the job's quorum
        remains. Each attempt is charged.

        The model from which the round starts is evaluated in the same exchange
        (`RoundReport.before`), and the model after the round in the next one or in `evaluate`.

        Raises:
            SiloLost: too few silos are left. `release` still returns the last model.
            BlindsumError: a silo or an aggregator refused; the error says which and why.
        """
        self._readmit()
        report = self._retried(number, self._attempt)
        self._move_on(report)
        return report

    def evaluate(self) -> Evaluation | None:
        """Evaluate the newest model, after the last round; None if these silos do not evaluate it.

        Raises:
            SiloLost, BlindsumError: as `run_round`.
        """
        return self._retried(self.standing.round + 1, self._evaluation)

    def _retried(self, number: int, step: Callable[[int, int], T]) -> T:
        """Take a step with the next attempt's number, until it succeeds or may not be repeated."""
        failures: Counter[str] = Counter()
        while True:
            attempt = self._charged.get(number, 0) + 1
            try:
                self._make_ready()
                self._charged[number] = attempt
                return step(number, attempt)
            except BlindsumError as error:
                how = recovery(error, self.roster, self.job.least_silos, failures)
                self._log.say(
                    "attempt failed",
                    round=number,
                    attempt=attempt,
                    silo=error.silo or "",
                    error=type(error).__name__,
                    said=error.what,
                )
                if how is None:
                    raise error.located(round=number) from None
                self._recover(how, number)

    def _readmit(self) -> None:
        """Take silos that were lost and have come back into the next round, with new keys. If that
        fails, the run goes on without them."""
        at = self.standing
        back = self._returns.brought(at, self._silos, list(at.lost), self._values)
        if not back:
            return
        stayed, together = self._silos, {**self._silos, **back}
        self._silos = {name: together[name] for name in self.job.roster if name in together}
        try:
            self._exchange_keys()
        except BlindsumError as error:
            self._log.say("could not return", silos=list(back), said=error.what)
            self._silos, self._keys_due = stayed, True
            for silo in back.values():
                silo.kill()
            return
        self._keys_due = False
        self.standing = replace(at, lost={n: r for n, r in at.lost.items() if n not in back})
        self._log.say("returned", silos=list(back))

    def _recover(self, how: Recovery, number: int) -> None:
        """Drop lost silos and aggregators. New keys and aggregators are made at the start of the
        next attempt, because making them can fail too."""
        self.standing = replace(self.standing, retries=self.retries + 1)
        # Drop all dead silos at once, because the roster may shrink only once a round.
        others = [silo for name, silo in self._silos.items() if name not in how.without]
        gone = self._waiting.dead([silo.ping() for silo in others] if how.without else [])
        if len(self._silos) - len({*how.without, *gone}) < self.job.least_silos:
            gone = []
        for name in dict.fromkeys([*how.without, *gone]):
            self._drop(name, number)
        if how.aggregators:
            self._end_aggregators()
        self._keys_due = self._keys_due or how.keys

    def _drop(self, silo: str, round: int) -> None:
        self._silos.pop(silo).kill()  # a silo that is only late must not wake up
        self.standing = replace(self.standing, lost={**self.lost, silo: round})

    def _make_ready(self) -> None:
        """Wait until every call of an earlier attempt has ended, and renew the keys if needed."""
        pending = [
            one
            for one in self._pending
            if one.peer in self._silos or (is_aggregator(one.peer) and self._aggregators)
        ]
        self._waiting.settle(pending, self.job.deadlines.round_s)
        self._pending = []
        if self._keys_due:
            self._exchange_keys()
            self._keys_due = False

    def _move_on(self, report: RoundReport) -> None:
        """Set the next round's model, clip norm and range, as every silo computes them."""
        at = self.standing
        course = Course(at.range or self._first_range, at.clipping)
        following = next_course(course, self.job, self._first_range, report.metrics)
        self.standing = replace(
            at,
            round=report.round,
            model=report.state_digest,
            range=following.range,
            clipping=following.clipping,
            metrics_epsilon=report.metrics_epsilon,
        )

    def _exchange(self, number: int, attempt: int, values: int) -> Exchange:
        at = self.standing
        return Exchange(
            run=self.run,
            round=number,
            attempt=attempt,
            purpose="update" if values else "metrics",
            roster=self.roster,
            values=values,
            counts=count_values(self.job),
            range=at.range if values else None,
            parameters=self.parameters,
            model=at.model or "",
            clipping=at.clipping if values else 1.0,
        )

    def _attempt(self, number: int, attempt: int) -> RoundReport:
        started = time.perf_counter()
        update = self._exchange(number, attempt, self._sent[(number - 1) % len(self._sent)])
        trained, closed, applied = self._summed(
            update, SiloHandle.train, "train", SiloHandle.apply, "apply the total"
        )
        seconds = time.perf_counter() - started
        before = most_spent(trained, self.standing.metrics_epsilon)
        return reported(self.job, update, trained, closed, applied, seconds, before)

    def _evaluation(self, number: int, attempt: int) -> Evaluation | None:
        at = self.standing
        if not at.round or not evaluates(self.job, at.round, self.roster):
            return None
        counts = self._exchange(number, attempt, 0)
        counted, closed, read = self._summed(
            counts, SiloHandle.evaluate, "evaluate", SiloHandle.read_metrics, "read the metrics"
        )
        spent = most_spent(counted, at.metrics_epsilon)
        self.standing = replace(self.standing, metrics_epsilon=spent)
        return Evaluation(
            held_out=same_metrics(read).held_out,
            epsilon=spent,
            up_bytes=sum(c.upload_bytes for c in counted),
            down_bytes=len(read) * sum(t.total_bytes for t in closed),
        )

    def _summed(
        self, exchange: Exchange, send: Send, sending: str, take: Take[T], taking: str
    ) -> tuple[list[TrainReport], list[TotalReport], list[T]]:
        calls = ExchangeCalls.submit(
            exchange, self._silos.values(), self._aggregators, send, take, self._keeps
        )
        self._pending = calls.all
        found = calls.answers(self._waiting, self.job.deadlines, sending, taking)
        self._pending = []  # all have ended
        return found

    def release(self, round: int, state_digest: str, timeout_s: float = 60.0) -> Release:
        """Return the average and the newest model on which all silos agreed after that round.
        Raises FederationError if no silo returns them in time."""
        return released_by(self._silos.values(), self._cluster, round, state_digest, timeout_s)

    def close(self) -> None:
        """End silos and aggregators."""
        self._returns.close()
        for silo in self._silos.values():
            silo.kill()
        self._end_aggregators()

    def _end_aggregators(self) -> None:
        for one in self._aggregators:
            one.kill()
        self._aggregators = []
