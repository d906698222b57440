"""Adds uploads it cannot read. Holds public parameters and identities, and no key."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import ray

from blindsum.actors.channel import shard
from blindsum.actors.messages import AddReport, TotalReport
from blindsum.actors.shell import Call, shell
from blindsum.he.exchange import Exchange, Part, SiloName
from blindsum.he.upload import Sum
from blindsum.he.wire import Receipt, read_upload
from blindsum.platform.errors import BlindsumError, FederationError, UploadRefused, guarded
from blindsum.platform.events import Log


class Aggregator:
    """One sum at a time: `open`, `add` per frame, `total`.

    Where there are several aggregators, each adds its own range of the parts.

    Args:
        index: which aggregator this is, from 0.
        of: the number of aggregators.
        keep: hold on to the uploads until the next sum is opened, to be summed again.
    """

    def __init__(self, index: int = 0, of: int = 1, keep: bool = False) -> None:
        self._index, self._of, self._keep = index, of, keep
        self._log = Log(who=f"aggregator {index + 1} of {of}")
        self._identities: dict[str, bytes] = {}
        self._exchange: Exchange | None = None
        self._last = (0, 0, "")
        self._frames: list[pa.Buffer] = []
        self._closed: list[pa.Buffer] = []
        self._proofs: list[Receipt] = []

    @guarded
    def meet(self, identities: Mapping[str, bytes]) -> None:
        """Learn the silos' public identities, once per run; again, of those that are left.

        Raises:
            FederationError: other ones are known already.
        """
        if not self._identities:
            self._identities = dict(identities)
        elif not identities or not identities.items() <= self._identities.items():
            raise FederationError("the aggregator has met other silos already")

    @guarded
    def open(self, exchange: Exchange) -> None:
        """Begin a new sum; what was gathered of an unfinished one is forgotten.

        Raises:
            FederationError: this sum, or one after it, was opened before.
        """
        self._begin(exchange)

    def _begin(self, exchange: Exchange) -> None:
        # "update" comes after "metrics" in the alphabet, and before it in a round
        now = (exchange.round, exchange.attempt, "" if exchange.purpose == "update" else "m")
        if now <= self._last:
            raise FederationError(
                f"the {exchange.purpose} sum of round {exchange.round} was opened again"
            )
        self._last = now
        self._exchange = exchange
        self._sum = Sum(exchange)
        self._receipts: dict[tuple[str, int], Receipt] = {}
        self._frames = []
        self._add_s = 0.0

    @guarded
    def add(self, frame: pa.Buffer) -> AddReport:
        """Check one part of an upload and add it.

        Raises:
            UploadRefused: says why; the sum so far is unharmed.
        """
        started = time.perf_counter()
        exchange = self._open_exchange()
        upload = read_upload(frame, exchange, self._identities)
        if upload.part not in self._parts(exchange):
            raise UploadRefused(f"part {upload.part.index} belongs to another aggregator")
        key = (upload.silo, upload.part.index)
        if key in self._receipts:
            raise UploadRefused(
                f"silo '{upload.silo}' has sent part {upload.part.index} to this sum already"
            )
        self._sum.add(upload)
        self._receipts[key] = upload.receipt
        if self._keep:
            self._frames.append(frame)
        seconds = time.perf_counter() - started
        self._add_s += seconds
        return AddReport(upload.silo, frame.size, seconds)

    @guarded
    @ray.method(num_returns=2)
    def total(
        self, exchange: Exchange, following: Exchange | None, *sent: object
    ) -> tuple[TotalReport, list[pa.Buffer]]:
        """Close the sum and publish its frames, in the order of the parts.

        Args:
            following: a sum to open in the same step: silos may send to it once they have
                this total.
            sent: the silos' reports; Ray starts this once all of them are there.

        Raises:
            UploadRefused: an upload is missing.
        """
        started = time.perf_counter()
        if exchange != self._open_exchange():
            raise FederationError("a total was asked for that is not the open one")
        parts = self._parts(exchange)
        missing = [
            silo
            for silo in exchange.roster
            if any((silo, part.index) not in self._receipts for part in parts)
        ]
        if missing:
            raise UploadRefused(f"no valid upload came from {', '.join(missing)}")
        frames = [self._sum.frame(part) for part in parts]
        size = sum(frame.size for frame in frames)
        report = TotalReport(exchange.roster, size, self._add_s, time.perf_counter() - started)
        self._say("added", bytes_down=size)
        self._exchange, self._closed = None, self._frames
        self._proofs = list(self._receipts.values())
        if following:
            self._begin(following)
        return report, frames

    @guarded
    def receipts(self) -> list[Receipt]:
        """The signed digests of all that is in the sum that was closed last: they prove, to
        anyone who knows the silos' identities, which ciphertexts it must be the sum of."""
        return self._proofs

    @guarded
    def uploads(self, *closed: object) -> list[pa.Buffer]:
        """Every signed frame of the sum that was closed last, so that a silo can sum again."""
        return self._closed

    def note_refusal(self, error: BlindsumError) -> None:
        """Say in this process's log what was refused."""
        self._say("refused", error=type(error).__name__, said=error.what)

    def _say(self, event: str, **public: object) -> None:
        if e := self._exchange:
            public |= {"run": e.run, "round": e.round, "attempt": e.attempt, "purpose": e.purpose}
        self._log.say(event, **public)

    def _parts(self, exchange: Exchange) -> list[Part]:
        count = len(exchange.parts)
        return [p for p in exchange.parts if shard(p.index, count, self._of) == self._index]

    def _open_exchange(self) -> Exchange:
        if self._exchange is None:
            raise FederationError("no sum is open at the aggregator")
        return self._exchange


CALLS = {
    "meet": Call((dict[SiloName, bytes],), answers=False),
    "open": Call((Exchange,), answers=False),
    "add": Call(),
    "total": Call((Exchange, Exchange | None), frames=True),
}


def as_aggregator(aggregator: type[Aggregator]) -> Any:
    """The Ray actor class of an aggregator class."""
    return ray.remote(shell(aggregator, CALLS))


AggregatorActor = as_aggregator(Aggregator)
