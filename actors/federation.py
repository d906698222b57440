"""Drives the rounds. Passes references to ciphertext, and holds no key and no record.

A round, top to bottom, is `Federation.run_round`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import ray
from ray import ObjectRef
from ray.exceptions import (
    ActorUnschedulableError,
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayError,
    RayTaskError,
)

from blindsum.actors.aggregator import AggregatorActor
from blindsum.actors.messages import (
    AddReport,
    ApplyReport,
    Inspection,
    Release,
    SiloSpec,
    TotalReport,
    TrainReport,
)
from blindsum.actors.placement import ONCE, pinned, silo_options
from blindsum.actors.silo import SiloActor, metrics_exchange
from blindsum.he.keys import Introduction
from blindsum.he.packing import count_limbs
from blindsum.he.parameters import Parameters
from blindsum.he.wire import Exchange
from blindsum.platform.errors import (
    BlindsumError,
    ClusterError,
    FederationError,
    KeyRefused,
    ModelsDiffer,
    SiloLost,
    Unexpected,
)
from blindsum.platform.job import Job
from blindsum.platform.metrics import FIXED_COUNTS, Metrics
from blindsum.platform.models import digest

T = TypeVar("T")
_AGGREGATOR = "aggregator"
POLL_S = 1.0


@dataclass(frozen=True)
class RoundReport:
    """One round of the whole consortium. `phases` are seconds, the slowest silo's each;
    `epsilon` is spent so far, by silo."""

    round: int
    metrics: Metrics
    model_digest: str
    epsilon: Mapping[str, float]
    up_bytes: int
    down_bytes: int
    seconds: float
    phases: Mapping[str, float]


class Federation:
    """The silos and the aggregator of one run, on a Ray that is already connected.

    Args:
        run: unique name of this run; ledgers know the run by it.
        folder: the job file's folder, on the silos' nodes.
        interrupted: set by a signal's handler. Python can lose a KeyboardInterrupt that is
            raised inside a destructor, and Ray has many; this is looked at once a second.
        silo_actor, aggregator_actor: Ray actor classes of the same shape, for tests and
            benchmarks that look inside.
    """

    def __init__(
        self, job: Job, run: str, folder: str,
        silo_actor: Any = SiloActor, aggregator_actor: Any = AggregatorActor,
        interrupted: threading.Event | None = None,
    ) -> None:  # fmt: skip
        self.job, self.run = job, run
        self._interrupted = interrupted or threading.Event()
        self.parameters = Parameters.derive(
            len(job.silos), job.encryption.bits, scheme=job.encryption.scheme
        )
        options = silo_options(job.roster, ray.cluster_resources())  # type: ignore[no-untyped-call]
        threads = None if pinned(options) else max(1, (os.cpu_count() or 1) // len(job.silos))
        self._silos = {
            name: silo_actor.options(**options[name]).remote(
                SiloSpec(job, run, name, folder, threads)
            )
            for name in job.roster
        }
        self._aggregator: Any = aggregator_actor.options(**ONCE).remote()
        self._values = 0

    def inspect(self) -> dict[str, Inspection]:
        """Every silo checks its data, model and plan; nothing is trained, spent or sent.

        Raises:
            BlindsumError: the first silo's reason why it cannot take part.
        """
        inspections = self._each("inspect", "start", self.job.deadlines.start_s)
        self._values = next(iter(inspections.values())).parameters
        self._same((i.model_digest for i in inspections.values()), "initial weights")
        return cast(dict[str, Inspection], inspections)

    def exchange_keys(self) -> None:
        """The key ceremony: every silo ends with the same secret key, the driver with none.

        Raises:
            KeyRefused: silos end with different keys, or refuse each other's.
        """
        introduced = self._each("introduce", "introduce themselves", self.job.deadlines.start_s)
        introductions = tuple(cast(Introduction, introduced[name]) for name in self.job.roster)
        maker, *others = self.job.roster
        made, sealed = self._ask(maker, "make_key", introductions)
        refs = {
            one.silo: self._silos[one.silo].open_key.remote(introductions, one) for one in sealed
        }
        opened = self._gather(refs, "open the key", self.job.deadlines.start_s)
        if set(opened) != set(others) or {made, *opened.values()} != {made}:
            raise KeyRefused("the silos do not hold the same key", "Start the job again.")
        met = self._aggregator.meet.remote({one.silo: one.identity for one in introductions})
        self._gather({_AGGREGATOR: met}, "meet the silos", self.job.deadlines.start_s)

    def run_round(self, number: int) -> RoundReport:
        """One round. All calls are submitted at once and Ray starts each when its inputs are
        there; then answers are read in the order in which things can go wrong.

        Raises:
            SiloLost: a silo died or missed the deadline. `release` still gives the last model.
            BlindsumError: a silo or the aggregator refused; the error says which and why.
        """
        started = time.perf_counter()
        update = Exchange(
            self.run, number, 1, "update", self.job.roster, self._values, self.parameters
        )
        counts = metrics_exchange(update, self._count_values())
        training, uploads = self._submit("train", update)
        adding, totalling, total = self._sum(update, uploads)
        applying, count_uploads = self._submit("apply", update, total)
        adding_counts, totalling_counts, total_counts = self._sum(counts, count_uploads)
        reading = {
            self.job.roster[0]: self._silos[self.job.roster[0]].read_metrics.remote(
                counts, total_counts
            )
        }
        try:
            trained = self._answers(training, TrainReport, "train")
            added = self._answers(adding, AddReport, "add")
            totals = self._answers(totalling, TotalReport, "add")
            applied = self._answers(applying, ApplyReport, "apply the total")
            counts_added = self._answers(adding_counts, AddReport, "add metrics")
            count_totals = self._answers(totalling_counts, TotalReport, "add metrics")
            (metrics,) = self._answers(reading, Metrics, "read the metrics")
        except BlindsumError as error:
            raise error.located(round=number) from None
        model_digest = self._same((a.model_digest for a in applied), "model", number)
        seconds = time.perf_counter() - started
        phases = _phases(trained, added, totals, applied, counts_added, count_totals)
        return RoundReport(
            number, metrics, model_digest,
            {t.silo: t.epsilon for t in trained if t.epsilon is not None},
            up_bytes=sum(t.upload_bytes for t in trained) + sum(a.upload_bytes for a in applied),
            down_bytes=len(applied) * totals[0].total_bytes + count_totals[0].total_bytes,
            seconds=seconds, phases=phases,
        )  # fmt: skip

    def release(self, round: int, model_digest: str, timeout_s: float = 60.0) -> Release:
        """The model on which all silos agreed after that round, from the first that gives it.

        Raises:
            FederationError: no living silo gives a model of that digest in time.
        """
        waiting = [silo.release.remote(round) for silo in self._silos.values()]
        end = time.monotonic() + timeout_s
        while waiting:
            done, waiting = ray.wait(waiting, timeout=max(0.0, end - time.monotonic()))
            if not done:
                break
            try:
                release = ray.get(done[0])
            except RayError:
                continue  # that silo is the one that was lost
            if isinstance(release, Release) and digest(release.vector) == model_digest:
                return release
        raise FederationError(f"no silo is left to give the model after round {round}")

    def close(self) -> None:
        """End silos and aggregator."""
        for actor in (*self._silos.values(), self._aggregator):
            ray.kill(actor, no_restart=True)

    # -- calls ---------------------------------------------------------------------------

    def _submit(
        self, method: str, *arguments: Any
    ) -> tuple[dict[str, ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Call every silo; returns references to reports, by silo, and to uploads."""
        pairs = {
            name: getattr(silo, method).remote(*arguments) for name, silo in self._silos.items()
        }
        return {n: report for n, (report, _) in pairs.items()}, [u for _, u in pairs.values()]

    def _sum(
        self, exchange: Exchange, uploads: Sequence[ObjectRef[Any]]
    ) -> tuple[dict[str, ObjectRef[Any]], dict[str, ObjectRef[Any]], ObjectRef[Any]]:
        """Have the aggregator add uploads; returns its reports and the total's reference."""
        aggregator = self._aggregator
        adding = {_AGGREGATOR: aggregator.open.remote(exchange)}
        adding |= {
            f"{_AGGREGATOR} {name}": aggregator.add.remote(upload)
            for name, upload in zip(self.job.roster, uploads, strict=True)
        }
        report, total = aggregator.total.remote()
        return adding, {_AGGREGATOR: report}, total

    def _answers(self, refs: Mapping[str, ObjectRef[Any]], kind: type[T], doing: str) -> list[T]:
        answers = self._gather(refs, doing, self.job.deadlines.round_s)
        return [answer for answer in answers.values() if isinstance(answer, kind)]

    def _each(self, method: str, doing: str, deadline_s: float) -> dict[str, Any]:
        refs = {name: getattr(silo, method).remote() for name, silo in self._silos.items()}
        return self._gather(refs, doing, deadline_s)

    def _ask(self, silo: str, method: str, *arguments: Any) -> Any:
        ref = getattr(self._silos[silo], method).remote(*arguments)
        return self._gather({silo: ref}, method, self.job.deadlines.start_s)[silo]

    def _gather(
        self, refs: Mapping[str, ObjectRef[Any]], doing: str, deadline_s: float
    ) -> dict[str, Any]:
        """Answers by name, in the order of `refs`. The first failure ends the waiting.

        Raises:
            SiloLost, FederationError: a process died or the deadline passed.
            BlindsumError: what the silo or the aggregator raised.
        """
        names = {ref: name for name, ref in refs.items()}
        answers: dict[str, Any] = {}
        end = time.monotonic() + deadline_s
        waiting = list(names)
        while waiting:
            left = end - time.monotonic()
            done, waiting = ray.wait(waiting, timeout=max(0.0, min(left, POLL_S)))
            if self._interrupted.is_set():
                raise KeyboardInterrupt
            if not done and left > POLL_S:
                continue
            if not done:
                late = ", ".join(names[ref] for ref in waiting)
                raise SiloLost(
                    f"{late} did not {doing} within {deadline_s:g} s",
                    "Look at that node, or raise deadlines.start_s or deadlines.round_s.",
                )
            answers[names[done[0]]] = _fetch(done[0], names[done[0]], doing)
        return {name: answers[name] for name in refs}

    def _count_values(self) -> int:
        counts = FIXED_COUNTS + len(self.job.data.target.classes)
        return counts * count_limbs(self.parameters)

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


def _fetch(ref: ObjectRef[Any], name: str, doing: str) -> Any:
    """One answer, with Ray's wrappings taken off its error.

    `name` is a silo, the aggregator, or "aggregator SILO" for its handling of that upload.
    """
    actor, _, sender = name.partition(" ")
    try:
        return ray.get(ref, timeout=60)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, BlindsumError):
            raise cause from None
        if isinstance(cause, (RayActorError, ObjectLostError)):  # its input's owner died
            raise _lost(sender or name, doing) from None
        raise Unexpected(
            f"'{name}' failed with {type(cause).__qualname__} while asked to {doing}",
            "This is a fault in Blindsum: please report it.",
        ) from None
    except RayActorError as error:
        started = not isinstance(error, ActorUnschedulableError) and not error.actor_init_failed
        raise (_lost(actor, doing) if started else _never_started(actor, error)) from None
    except ObjectLostError:
        raise _lost(sender or name, doing) from None
    except (RayError, GetTimeoutError) as error:
        raise FederationError(f"'{name}' gave no answer: {type(error).__name__}") from None


def _lost(name: str, doing: str) -> FederationError:
    if name == _AGGREGATOR:
        return FederationError(
            "the aggregator's process died", "Look at its node's memory and logs."
        )
    return SiloLost(
        f"its process died while asked to {doing}",
        "Look at that node's memory and logs, then start the job again.",
        silo=name,
    )


def _never_started(name: str, error: RayActorError) -> ClusterError:
    return ClusterError(
        f"'{name}' could not start on its node ({type(error).__name__})",
        "The node needs the same blindsum, with its dependencies, as the driver.",
    )


def _phases(
    trained: list[TrainReport], added: list[AddReport], totals: list[TotalReport],
    applied: list[ApplyReport], counts_added: list[AddReport], count_totals: list[TotalReport],
) -> dict[str, float]:  # fmt: skip
    return {
        "charge": max(t.charge_s for t in trained),
        "train": max(t.train_s for t in trained),
        "encrypt": max(t.encrypt_s for t in trained),
        "add": sum(a.add_s for a in added) + totals[0].total_s,
        "decrypt": max(a.decrypt_s for a in applied),
        "apply": max(a.apply_s for a in applied),
        "metrics": max(a.encrypt_s for a in applied)
        + sum(a.add_s for a in counts_added)
        + count_totals[0].total_s,
    }
