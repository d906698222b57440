"""The aggregator, which adds uploads that it cannot read.

It holds public parameters and identities, and no key.
"""

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
    """An aggregator. It computes one sum at a time: `open`, `add` for each frame, `total`.

    If there are several aggregators, each adds its own range of the parts.

    Args:
        index: this aggregator's number, from 0.
        of: the number of aggregators.
        keep: keep the uploads until the next sum is opened, so that a silo can sum them again.
    """

    def __init__(self, index: int = 0, of: int = 1, keep: bool = False) -> None:
        self._index, self._of, self._keep = index, of, keep
        self._log = Log(who=f"aggregator {index + 1} of {of}")
        self._identities: dict[str, bytes] = {}
        self._sum: Sum | None = None
        self._before: Sum | None = None
        self._last = (0, 0)
        self._frames: list[pa.Buffer] = []
        self._closed: list[pa.Buffer] = []
        self._proofs: list[Receipt] = []

    @guarded
    def meet(self, identities: Mapping[str, bytes]) -> None:
        """Learn the silos' public identities, at every key ceremony.

        Raises:
            FederationError: it knows another identity of one of the silos.
        """
        for silo, identity in identities.items():
            if self._identities.get(silo, identity) != identity:
                raise FederationError(
                    f"the aggregator already knows another identity of silo '{silo}'",
                    "An aggregator serves one run. Start the job again.",
                )
        self._identities |= identities

    @guarded
    def open(self, exchange: Exchange) -> None:
        """Begin a new sum, and discard an unfinished one.

        Raises:
            FederationError: this sum or a later one was opened before.
        """
        now = (exchange.round, exchange.attempt)
        if now <= self._last:
            raise FederationError(
                f"the {exchange.purpose} sum of round {exchange.round} was opened before"
            )
        self._last = now
        self._sum = Sum(exchange, self._sum or self._before)
        self._receipts: dict[tuple[str, int], Receipt] = {}
        self._frames = []
        self._add_s = 0.0

    @guarded
    def add(self, frame: pa.Buffer) -> AddReport:
        """Check one part of an upload and add it.

        Raises:
            UploadRefused: the upload is not valid here; the sum so far is unchanged.
        """
        started = time.perf_counter()
        exchange = self._open_sum().exchange
        upload = read_upload(frame, exchange, self._identities)
        if upload.part not in self._parts(exchange):
            raise UploadRefused(f"part {upload.part.index} belongs to another aggregator")
        key = (upload.silo, upload.part.index)
        if key in self._receipts:
            raise UploadRefused(
                f"silo '{upload.silo}' already sent part {upload.part.index} to this sum"
            )
        self._open_sum().add(upload)
        self._receipts[key] = upload.receipt
        if self._keep:
            self._frames.append(frame)
        seconds = time.perf_counter() - started
        self._add_s += seconds
        return AddReport(silo=upload.silo, upload_bytes=frame.size, add_s=seconds)

    @guarded
    @ray.method(num_returns=2)
    def total(self, exchange: Exchange, *sent: object) -> tuple[TotalReport, list[pa.Buffer]]:
        """Close the sum and publish its frames, in the order of the parts.

        Args:
            sent: the silos' reports. Ray starts this call once all of them have arrived.

        Raises:
            UploadRefused: an upload is missing.
        """
        started = time.perf_counter()
        if exchange != self._open_sum().exchange:
            raise FederationError(
                f"the {exchange.purpose} total of round {exchange.round} was requested, but "
                "another sum is open"
            )
        parts = self._parts(exchange)
        missing = [
            silo
            for silo in exchange.roster
            if any((silo, part.index) not in self._receipts for part in parts)
        ]
        if missing:
            raise UploadRefused(f"no complete valid upload arrived from {', '.join(missing)}")
        frames = [self._open_sum().frame(part) for part in parts]
        size = sum(frame.size for frame in frames)
        report = TotalReport(
            roster=exchange.roster,
            total_bytes=size,
            add_s=self._add_s,
            total_s=time.perf_counter() - started,
        )
        self._say("added", bytes_down=size)
        self._sum, self._before, self._closed = None, self._sum, self._frames
        self._proofs = list(self._receipts.values())
        return report, frames

    @guarded
    def receipts(self) -> list[Receipt]:
        """Return the signed digests of all uploads in the sum that was closed last. To anyone who
        knows the silos' identities they prove which ciphertexts the sum must consist of."""
        return self._proofs

    @guarded
    def uploads(self, *closed: object) -> list[pa.Buffer]:
        """Return every signed frame of the sum that was closed last, for a silo to sum again."""
        return self._closed

    def note_refusal(self, error: BlindsumError) -> None:
        """Log a refusal in this process's log."""
        self._say("refused", error=type(error).__name__, said=error.what)

    def _say(self, event: str, **public: object) -> None:
        if self._sum:
            e = self._sum.exchange
            public |= {"run": e.run, "round": e.round, "attempt": e.attempt, "purpose": e.purpose}
        self._log.say(event, **public)

    def _parts(self, exchange: Exchange) -> list[Part]:
        count = len(exchange.parts)
        return [p for p in exchange.parts if shard(p.index, count, self._of) == self._index]

    def _open_sum(self) -> Sum:
        if self._sum is None:
            raise FederationError("the aggregator has no open sum")
        return self._sum


CALLS = {
    "meet": Call((dict[SiloName, bytes],), answers=False),
    "open": Call((Exchange,), answers=False),
    "add": Call(),
    "total": Call((Exchange,), frames=True),
}


def as_aggregator(aggregator: type[Aggregator]) -> Any:
    """Return the Ray actor class of an aggregator class."""
    return ray.remote(shell(aggregator, CALLS))


AggregatorActor = as_aggregator(Aggregator)
