"""The cluster port over separate clusters: silos behind agents, aggregators here.

A call begins once its inputs have arrived, whoever provides them. Frames that a silo sends go to
the aggregators as they arrive; totals go back with the next instruction. This process relays
ciphertext and holds no key.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from blindsum.actors.cluster import (
    Answered,
    Cluster,
    Died,
    Handle,
    InputLost,
    Outcome,
    Peer,
    Raised,
    Unreachable,
)
from blindsum.actors.codec import decoded
from blindsum.actors.futures import after, ended
from blindsum.actors.messages import SiloSpec
from blindsum.actors.separate.mailbox import LEAST_VALUE, Mailbox
from blindsum.actors.separate.messages import PARK_S, PART
from blindsum.actors.silo_messages import Inspection
from blindsum.platform.errors import (
    AggregatorLost,
    ClusterError,
    FederationError,
    SiloRefused,
    UploadRefused,
    without_values,
)

_FOREVER_S = 3600.0
_WATCH_S = 0.25
_OF_A_VALUE = 32
"""Bytes of a sealed state for each parameter: float32 for the model and for its average, twice
float64 for adam; and to spare."""
_MOST_VALUE = 2**33


@dataclass(frozen=True, eq=False)
class RemoteSilo:
    """A silo in its own cluster, in one life of its agent."""

    mailbox: Mailbox
    run: str
    life: int


@dataclass(frozen=True, eq=False)
class LocalPeer:
    """An aggregator in the coordinator's cluster."""

    peer: Peer


class SeparateCluster:
    """A `Cluster` whose silos are reached through their agents.

    Args:
        local: where the aggregators run.
        mailboxes: the silos' mailboxes, by name.
        proposal: the digest of the proposal that the silos approved.
        silent_s: the time without a sign of life after which a silo counts as dead.
    """

    def __init__(
        self, local: Cluster, mailboxes: Mapping[str, Mailbox], proposal: str, silent_s: float
    ) -> None:
        self._local, self._mailboxes, self._proposal = local, mailboxes, proposal
        self._silent_s = silent_s
        self._waiters = ThreadPoolExecutor(64, thread_name_prefix="answers")
        self._aggregators: list[LocalPeer] = []
        self._silos: list[RemoteSilo] = []
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="silence", daemon=True).start()

    def start_silos(self, specs: Mapping[str, SiloSpec]) -> dict[str, Peer]:
        """As `Cluster.start_silos`. A silo that is not connected gets a peer that has died.

        Raises:
            ClusterError: the job simulates silos: these are real owners'.
        """
        if simulated := [name for name, spec in specs.items() if spec.job.simulation]:
            raise ClusterError(
                "simulation.silos_per_process is for simulated silos, and "
                f"{', '.join(simulated)} are in clusters of their owners",
                "Leave the job's section simulation out.",
            )
        silos: dict[str, Peer] = {}
        for name, spec in specs.items():
            mailbox = self._mailboxes[name]
            silos[name] = silo = RemoteSilo(mailbox, spec.run, mailbox.life)
            mailbox.post(
                "start", spec.run, silo.life, proposal=self._proposal, resumed=spec.resumed
            )
            self._silos.append(silo)
        return silos

    def returned(self, lost: Collection[str]) -> list[str]:
        """As `Cluster.returned`: those whose agents are connected."""
        return [name for name in lost if self._mailboxes[name].silent_s() < 2 * PARK_S]

    def start_aggregators(self, count: int, keep: bool) -> list[Peer]:
        """As `Cluster.start_aggregators`."""
        self._aggregators = [LocalPeer(one) for one in self._local.start_aggregators(count, keep)]
        return list(self._aggregators)

    def call(self, peer: Peer, method: str, *arguments: Any, answers: int = 1) -> list[Handle]:
        """As `Cluster.call`."""
        handles: list[Future[Outcome]] = [Future() for _ in range(answers)]
        inputs = [one for one in arguments if isinstance(one, Future)]

        def begin() -> None:
            outcomes = [one.result() for one in inputs]
            failed = [one for one in outcomes if not isinstance(one, Answered)]
            if failed:
                return _settle(handles, _as_input(failed[0]))
            given = [_value(one) if isinstance(one, Future) else one for one in arguments]
            try:
                if isinstance(peer, LocalPeer):
                    self._call_local(peer, method, given, handles)
                else:
                    _follow(self._call_remote(peer, method, given), handles[0])
            except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
                _settle(handles, Raised(without_values(error)))
            return None

        after(inputs, begin)
        return list(handles)

    def _call_local(
        self, to: LocalPeer, method: str, given: list[Any], handles: list[Future[Outcome]]
    ) -> None:
        of_local = self._local.call(to.peer, method, *given, answers=len(handles))
        for local, handle in zip(of_local, handles, strict=True):
            self._waiters.submit(self._await_local, local, handle)

    def _await_local(self, local: Handle, handle: Future[Outcome]) -> None:
        outcome: Outcome = Unreachable("no outcome")
        try:
            while not self._closed.is_set():
                found = self._local.wait([local], 1, _FOREVER_S)
                if found:
                    outcome = found[local]
                    break
        except Exception as error:  # noqa: BLE001 - whoever waits for the handle must hear of it
            outcome = Unreachable(type(error).__name__)
        handle.set_result(outcome)

    def _call_remote(self, to: RemoteSilo, method: str, given: list[Any]) -> Future[Outcome]:
        messages = [one for one in given if isinstance(one, bytes)]
        lists = [one for one in given if isinstance(one, list)]
        if method == "finish":
            return to.mailbox.post(
                method, to.run, to.life, messages, aggregators=len(self._aggregators)
            )
        if method == "take_state":
            pieces = [
                whole[at : at + PART] for whole in lists[0] for at in range(0, len(whole), PART)
            ]
            return to.mailbox.post(method, to.run, to.life, messages, [(0, p) for p in pieces])
        if method == "inspect":
            outcome = to.mailbox.post(method, to.run, to.life, messages)
            outcome.add_done_callback(lambda done: _expect_values(to.mailbox, done.result()))
            return outcome
        frames = [
            (index, frame)
            for index, one in enumerate(lists[1:])  # the first list is of kept uploads
            for frame in one
        ]
        sends = method in ("train", "evaluate")
        add = self._adding(to.mailbox.silo) if sends else None
        return to.mailbox.post(method, to.run, to.life, messages, frames, add)

    def _adding(self, silo: str) -> Callable[[int, pa.Buffer], Future[Outcome]]:
        """Return how a silo's frames are added: it fails as if the silo itself had sent them."""

        def add(aggregator: int, frame: pa.Buffer) -> Future[Outcome]:
            result: Future[Outcome] = Future()
            if aggregator >= len(self._aggregators):
                result.set_result(_refused(silo, "there is no such aggregator"))
                return result
            (handle,) = self.call(self._aggregators[aggregator], "add", frame)

            def done(added: Future[Outcome]) -> None:
                outcome = added.result()
                if isinstance(outcome, Raised) and isinstance(outcome.error, UploadRefused):
                    outcome = _refused(silo, outcome.error.what)
                elif isinstance(outcome, Died | InputLost):
                    outcome = Raised(AggregatorLost("the aggregator's process died"))
                result.set_result(outcome)

            handle.add_done_callback(done)
            return result

        return add

    def wait(
        self, handles: Sequence[Handle], count: int, timeout_s: float
    ) -> dict[Handle, Outcome]:
        """As `Cluster.wait`."""
        return {handle: handle.result() for handle in ended(handles, count, timeout_s)}

    def kill(self, peer: Peer) -> None:
        """As `Cluster.kill`. A silo that cannot be reached is ended when its agent returns."""
        if isinstance(peer, LocalPeer):
            return self._local.kill(peer.peer)
        self._silos = [one for one in self._silos if one is not peer]
        peer.mailbox.post("end", peer.run, peer.mailbox.life)
        return None

    def close(self) -> None:
        """End the threads."""
        self._closed.set()
        self._waiters.shutdown(wait=False, cancel_futures=True)

    def _watch(self) -> None:
        """Give up silos that were silent for too long."""
        while not self._closed.wait(_WATCH_S):
            for silo in list(self._silos):
                box = silo.mailbox
                if box.life == silo.life and box.silent_s() > self._silent_s:
                    box.give_up(f"nothing was heard of it for {self._silent_s:g} s")


def _expect_values(mailbox: Mailbox, outcome: Outcome) -> None:
    """Let a silo answer with a model and its optimizer's state, of the size that it said. Nobody
    asks for them before all silos have said the same."""
    with suppress(FederationError):
        if isinstance(outcome, Answered):
            parameters = decoded(outcome.value, Inspection).parameters
            mailbox.most_value = min(LEAST_VALUE + _OF_A_VALUE * max(parameters, 0), _MOST_VALUE)


def _follow(source: Future[Outcome], handle: Future[Outcome]) -> None:
    source.add_done_callback(lambda done: handle.set_result(done.result()))


def _settle(handles: Sequence[Future[Outcome]], outcome: Outcome) -> None:
    for handle in handles:
        handle.set_result(outcome)


def _as_input(outcome: Outcome) -> Outcome:
    """Return the outcome of a call of which an input had this outcome."""
    return InputLost() if isinstance(outcome, Died) else outcome


def _value(handle: Future[Outcome]) -> Any:
    outcome = handle.result()
    return outcome.value if isinstance(outcome, Answered) else None


def _refused(silo: str, why: str) -> Raised:
    return Raised(
        SiloRefused(
            f"its upload was refused: {why}",
            "It was corrupted in transit, or this silo encodes uploads incorrectly (check that all "
            "silos run the same version).",
            silo=silo,
        )
    )
