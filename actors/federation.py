"""Drives the rounds. Passes references to ciphertext, and holds no key and no record.

A round, top to bottom, is `Federation.run_round`.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import ray
from ray import ObjectRef
from ray.exceptions import RayError

from blindsum.actors.aggregator import AggregatorActor
from blindsum.actors.codec import decoded, decoded_vector, encoded
from blindsum.actors.messages import ApplyReport, SiloSpec, Standing, TotalReport, TrainReport
from blindsum.actors.placement import aggregator_options, pinned, silo_options
from blindsum.actors.policy import Course, metrics_exchange, next_course
from blindsum.actors.recovery import Recovery, recovery
from blindsum.actors.round_report import RoundReport, phases_of
from blindsum.actors.silo_actor import SiloActor
from blindsum.actors.silo_messages import Inspection, Release
from blindsum.actors.waiting import Waiting
from blindsum.he.exchange import Exchange
from blindsum.he.keys import Agreement, Contribution, Introduction
from blindsum.he.parameters import Parameters
from blindsum.platform.errors import (
    BlindsumError,
    FederationError,
    ModelsDiffer,
)
from blindsum.platform.evaluation.round_counts import Metrics, count_values
from blindsum.platform.events import Log
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import plan, update_range
from blindsum.platform.training.models import digest

T = TypeVar("T")
_AGGREGATOR = "the aggregator"  # a blank in it: no silo has such a name
CHUNKS_PER_AGGREGATOR = 1024
"""A sum of 64 MB, of 12 million values at three digits a real."""


class Federation:
    """The silos and the aggregator of one run, on a Ray that is already connected.

    Args:
        run: unique name of this run; ledgers know the run by it.
        folder: the job file's folder, on the silos' nodes.
        interrupted: set by a signal's handler (`blindsum.actors.waiting`).
        standing: where an interrupted run stood, to go on from there.
        log: of the driver's events.
        silo_actor: Ray actor class of the same shape, for tests and benchmarks that look inside.
        aggregator_actor: likewise for aggregators.
    """

    def __init__(
        self,
        job: Job,
        run: str,
        folder: str,
        silo_actor: Any = SiloActor,
        aggregator_actor: Any = AggregatorActor,
        interrupted: threading.Event | None = None,
        standing: Standing | None = None,
        log: Log | None = None,
    ) -> None:
        self.job, self.run = job, run
        self._log = log or Log(job=job.name, run=run)
        self._waiting = Waiting(interrupted or threading.Event())
        self.parameters = Parameters.derive(
            len(job.silos), job.encryption.bits, scheme=job.encryption.scheme
        )
        self.lost = dict(standing.lost) if standing else {}  # silos, by the round they were lost in
        roster = [name for name in job.roster if name not in self.lost]
        options = silo_options(roster, ray.cluster_resources())  # type: ignore[no-untyped-call]
        threads = None if pinned(options) else max(1, (os.cpu_count() or 1) // len(job.silos))
        self._silos = {
            name: silo_actor.options(**options[name]).remote(
                encoded(SiloSpec(job, run, name, folder, threads, standing is not None))
            )
            for name in roster
        }
        self._aggregator_actor = aggregator_actor
        self._aggregators: list[Any] = []
        self._values = self._round = 0
        self._model = ""  # digest of what the silos start the next round from
        self._range = self._first_range = 0.0
        self._clipping = 1.0  # of the job's clip norm
        self._metrics_epsilon: float | None = None
        self._standing = standing
        # By round, the attempts that an interrupted run has charged.
        self._charged: dict[int, int] = {}
        self._pending: dict[str, list[ObjectRef[Any]]] = {}
        self._keys_due = False
        self._keeps = job.encryption.verify == "keep"
        self.retries = 0  # attempts beyond each round's first: charged, and without a model

    @property
    def roster(self) -> tuple[str, ...]:
        """Silos that are left, in the job's order."""
        return tuple(self._silos)

    def inspect(self) -> dict[str, Inspection]:
        """Every silo checks its data, model and plan; nothing is trained, spent or sent.

        Raises:
            BlindsumError: the first silo's reason why it cannot take part.
        """
        waited = self.job.deadlines.start_s
        inspections = self._read(self._of_silos("inspect"), Inspection, "start", waited)
        first = next(iter(inspections.values()))
        self._values = first.parameters
        self._range = self._first_range = update_range(
            self.job, first.plan or plan(self.job, first.silo)
        )
        self._model = self._same((i.model_digest for i in inspections.values()), "initial weights")
        if self._standing:
            self._go_on(self._standing, inspections)
        return inspections

    def _go_on(self, at: Standing, inspections: Mapping[str, Inspection]) -> None:
        """Bring every silo back to where the run stood. Silos that cannot are lost, down to the quorum."""
        behind = [
            n for n, i in inspections.items() if i.kept.get(at.round) != (at.model or self._model)
        ]
        if behind and len(inspections) - len(behind) < self.job.least_silos:
            raise FederationError(
                f"{', '.join(behind)} cannot go on from round {at.round}: no such state is kept there",
                "Put the silo's state folder back from a backup, or start a new run.",
            )
        for name in behind:
            self.lost[name] = at.round + 1
            ray.kill(self._silos.pop(name), no_restart=True)
        restored = self._read(
            self._of_silos("restore", encoded(at.round)),
            str,
            "restore its state",
            self.job.deadlines.start_s,
        )
        self._model = self._same(restored.values(), "restored models", at.round or None)
        if at.range:
            self._range = at.range
        self._clipping, self._metrics_epsilon = at.clipping, at.metrics_epsilon
        self.retries = at.retries
        last = max(i.charged for i in inspections.values())
        if last[0] == at.round + 1:  # begun and charged when the run was interrupted
            self._charged[last[0]] = last[1]
            self.retries += last[1]

    @property
    def standing(self) -> Standing:
        """Where the run stands between two rounds; the driver keeps it."""
        return Standing(
            self._round,
            self._model,
            self._range,
            self._clipping,
            self._metrics_epsilon,
            self.retries,
            dict(self.lost),
        )

    def forget(self) -> None:
        """Have the silos drop what they kept to go on with: the run has ended well."""
        self._waiting.settle(_by_name(self._of_silos("forget")), self.job.deadlines.start_s)

    def exchange_keys(self) -> None:
        """The key ceremony: the silos end with one secret and a seed for each pair of them, the
        driver with nothing. Again: all keys are new.

        Raises:
            KeyRefused: what a silo was told is not what the others said.
        """
        if not self._aggregators:
            chunks = self.parameters.chunks(self._values)
            of = self.job.encryption.aggregators or -(-chunks // CHUNKS_PER_AGGREGATOR)
            here = ray.get_runtime_context().get_node_id()
            options = aggregator_options(of, ray.nodes(), here)  # type: ignore[no-untyped-call]
            self._aggregators = [
                self._aggregator_actor.options(**one).remote(index, of, self._keeps)
                for index, one in enumerate(options)
            ]
        introductions = self._told("introduce", Introduction, "introduce themselves")
        met = {one.silo: one.identity for one in introductions}
        self._waiting.gather(
            self._of_aggregators("meet", encoded(met)), "meet the silos", self.job.deadlines.start_s
        )
        contributions = self._told(
            "contribute", Contribution, "contribute to the keys", introductions
        )
        agreements = self._told("agree", Agreement, "agree on the keys", contributions)
        finished = self._of_silos("finish", encoded(agreements), self._aggregators)
        self._waiting.gather(finished, "take up the keys", self.job.deadlines.start_s)

    def run_round(self, number: int) -> RoundReport:
        """One round, in as many attempts as `blindsum.actors.recovery` allows: with fresh keys after a
        refused total, without silos that are lost as long as the job's quorum is left. Each has a charge.

        Raises:
            SiloLost: too few silos are left. `release` still gives the last model.
            BlindsumError: a silo or the aggregator refused; the error says which and why.
        """
        failures: Counter[str] = Counter()
        for attempt in itertools.count(self._charged.get(number, 0) + 1):
            try:
                self._make_ready()
                report = self._attempt(number, attempt)
                break
            except BlindsumError as error:
                found = recovery(error, self.roster, self.job.least_silos, failures)
                self._log.say(
                    "attempt failed",
                    round=number,
                    attempt=attempt,
                    silo=error.silo or "",
                    error=type(error).__name__,
                    said=error.what,
                )
                if found is None:
                    raise error.located(round=number) from None
                self._recover(found, number)
        self._adapt(report.metrics)
        self._round = number
        return report

    def _recover(self, how: Recovery, number: int) -> None:
        """Part from what is lost. What is due for the next attempt is done as a part of it: that may
        fail too."""
        self.retries += 1
        # All that are gone at once: the roster shrinks once a round.
        others = {n: silo for n, silo in self._silos.items() if n not in how.without}
        pings = {n: silo.ping.remote() for n, silo in others.items()} if how.without else {}
        gone = self._waiting.dead(pings)
        if len(self._silos) - len({*how.without, *gone}) < self.job.least_silos:
            gone = []
        for name in dict.fromkeys([*how.without, *gone]):
            self.lost[name] = number
            ray.kill(self._silos.pop(name), no_restart=True)  # the late one must not wake up
        if how.aggregators:
            self._end_aggregators()
        self._keys_due = self._keys_due or how.keys

    def _make_ready(self) -> None:
        """Every call of an earlier attempt has ended, and keys that are due are there."""
        pending = {
            name: refs
            for name, refs in self._pending.items()
            if name in self._silos or (" " in name and self._aggregators)
        }
        self._waiting.settle(pending, self.job.deadlines.round_s)
        self._pending = {}
        if self._keys_due:
            self.exchange_keys()
            self._keys_due = False

    def _adapt(self, metrics: Metrics) -> None:
        """Clip norm and range of the next round, as every silo computes them."""
        course = Course(self._range, self._clipping)
        following = next_course(course, self.job, self._first_range, metrics)
        self._range, self._clipping = following.range, following.clipping

    def _attempt(self, number: int, attempt: int) -> RoundReport:
        """All calls are submitted at once and Ray starts each when its inputs are there; then
        answers are read in the order in which things can go wrong."""
        started = time.perf_counter()
        update = Exchange(
            self.run,
            number,
            attempt,
            "update",
            self.roster,
            self._values,
            self._range,
            self.parameters,
            self._model,
            self._clipping,
        )
        counts = metrics_exchange(update, count_values(self.job))
        announced, following = encoded(update), encoded(counts)
        opened = self._of_aggregators("open", announced)
        training = self._of_silos("train", announced, *opened.values())
        totalling, totals, uploads = self._close(announced, training, following)
        applying = self._of_silos("apply", announced, following, uploads, *totals)
        totalling_counts, count_totals, count_uploads = self._close(
            following, applying, encoded(None)
        )
        reading = self._of_silos("read_metrics", following, count_uploads, *count_totals)
        self._pending = _by_name(opened, training, totalling, applying, totalling_counts, reading)
        self._waiting.gather(opened, "expect uploads", self.job.deadlines.start_s)
        trained = self._answers(training, TrainReport, "train")
        closed = self._answers(totalling, TotalReport, "add")
        applied = self._answers(applying, ApplyReport, "apply the total")
        counts_closed = self._answers(totalling_counts, TotalReport, "add metrics")
        read = self._answers(reading, Metrics, "read the metrics")
        metrics = read[0]
        if len({repr(one) for one in read}) > 1:
            raise ModelsDiffer("the silos read different metrics", "Do not go on with this run.")
        self._model = self._same((a.model_digest for a in applied), "model", number)
        seconds = time.perf_counter() - started
        held_out = [t.metrics_epsilon for t in trained if t.metrics_epsilon is not None]
        self._metrics_epsilon = max(held_out, default=self._metrics_epsilon)
        privacy = self.job.privacy
        return RoundReport(
            number,
            attempt,
            self._range,
            metrics,
            self._model,
            {t.silo: t.epsilon for t in trained if t.epsilon is not None},
            up_bytes=sum(t.upload_bytes for t in trained) + sum(a.upload_bytes for a in applied),
            down_bytes=len(applied) * sum(t.total_bytes for t in closed)
            + len(read) * sum(t.total_bytes for t in counts_closed),
            seconds=seconds,
            phases=phases_of(trained, closed, applied, counts_closed),
            roster=self.roster,
            ledgers={t.silo: t.ledger for t in trained},
            clip_norm=None if privacy.noise == "none" else privacy.clip_norm * update.clipping,
            metrics_epsilon=self._metrics_epsilon,
        )

    def release(self, round: int, model_digest: str, timeout_s: float = 60.0) -> Release:
        """The model on which all silos agreed after that round, from the first that gives it.

        Raises:
            FederationError: no living silo gives a model of that digest in time.
        """
        waiting = [silo.release.remote(encoded(round)) for silo in self._silos.values()]
        end = time.monotonic() + timeout_s
        while waiting:
            done, waiting = ray.wait(waiting, timeout=max(0.0, end - time.monotonic()))
            if not done:
                break
            try:
                of, vector = decoded_vector(ray.get(done[0]))
            except (RayError, FederationError):
                continue  # that silo is the one that was lost, or has none
            if of == round and digest(vector) == model_digest:
                return Release(round, vector)
        raise FederationError(f"no silo is left to give the model after round {round}")

    def close(self) -> None:
        """End silos and aggregator."""
        for actor in self._silos.values():
            ray.kill(actor, no_restart=True)
        self._end_aggregators()

    def _end_aggregators(self) -> None:
        for actor in self._aggregators:
            ray.kill(actor, no_restart=True)
        self._aggregators = []

    # -- calls ---------------------------------------------------------------------------

    def _of_silos(self, method: str, *arguments: Any) -> dict[str, ObjectRef[Any]]:
        """Call every silo; returns references to their answers, by silo."""
        return {
            name: getattr(silo, method).remote(*arguments) for name, silo in self._silos.items()
        }

    def _of_aggregators(self, method: str, *arguments: Any) -> dict[str, Any]:
        of = len(self._aggregators)
        names = [f"aggregator {i + 1} of {of}" if of > 1 else _AGGREGATOR for i in range(of)]
        return {
            name: getattr(one, method).remote(*arguments)
            for name, one in zip(names, self._aggregators, strict=True)
        }

    def _close(
        self,
        exchange: bytes,
        sending: Mapping[str, ObjectRef[Any]],
        following: bytes,
    ) -> tuple[dict[str, ObjectRef[Any]], list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Have the aggregators close a sum once all silos have sent; returns references to
        their reports, to the total's frames, and to the uploads where those are kept."""
        pairs = self._of_aggregators("total", exchange, following, *sending.values())
        reports = {name: report for name, (report, _) in pairs.items()}
        totals = [frames for _, frames in pairs.values()]
        uploads: list[ObjectRef[Any]] = []
        if self._keeps:
            uploads = list(self._of_aggregators("uploads", *reports.values()).values())
        return reports, totals, uploads

    def _answers(self, refs: Mapping[str, ObjectRef[Any]], kind: type[T], doing: str) -> list[T]:
        return list(self._read(refs, kind, doing, self.job.deadlines.round_s).values())

    def _read(
        self, refs: Mapping[str, ObjectRef[Any]], kind: type[T], doing: str, deadline_s: float
    ) -> dict[str, T]:
        """Every answer, read as a message of that kind."""
        found = {}
        for name, content in self._waiting.gather(refs, doing, deadline_s).items():
            try:
                found[name] = decoded(content, kind)
            except FederationError:
                raise FederationError(
                    f"'{name}' answered with something else than a {kind.__name__} when asked to {doing}",
                    "All silos must run the same version of blindsum.",
                ) from None
        return found

    def _told(self, method: str, kind: type[T], doing: str, *messages: Any) -> tuple[T, ...]:
        """One step of the key ceremony: what every silo answers, in the roster's order."""
        refs = self._of_silos(method, *map(encoded, messages))
        return tuple(self._read(refs, kind, doing, self.job.deadlines.start_s).values())

    def _same(self, digests: Iterable[str], what: str, round: int | None = None) -> str:
        found = set(digests)
        if len(found) != 1:
            raise ModelsDiffer(
                f"the silos' {what} differ in their digests",
                "All silos must run the same versions of blindsum, torch and numpy, and a "
                "model.factory must draw its weights from torch's generator alone.",
                round=round,
            )
        return found.pop()


def _by_name(*calls: Mapping[str, ObjectRef[Any]]) -> dict[str, list[ObjectRef[Any]]]:
    found: dict[str, list[ObjectRef[Any]]] = {}
    for refs in calls:
        for name, ref in refs.items():
            found.setdefault(name, []).append(ref)
    return found
