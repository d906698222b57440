"""Adds uploads it cannot read. Holds public parameters and identities, and no key."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pyarrow as pa
import ray

from blindsum.actors.messages import AddReport, TotalReport
from blindsum.he.cipher import Adder, adder
from blindsum.he.wire import Exchange, Header, read_upload, write_total
from blindsum.platform.errors import FederationError, UploadRefused, guarded


class Aggregator:
    """One sum at a time: `open`, `add` per silo, `total`."""

    def __init__(self) -> None:
        self._identities: dict[str, bytes] = {}
        self._exchange: Exchange | None = None
        self._closed: set[tuple[int, int, str]] = set()

    @guarded
    def meet(self, identities: Mapping[str, bytes]) -> None:
        """Learn the silos' public Ed25519 keys, 32 bytes each, once per run.

        Raises:
            FederationError: they are known already.
        """
        if self._identities:
            raise FederationError("the aggregator has met its silos already")
        self._identities = dict(identities)

    @guarded
    def open(self, exchange: Exchange) -> None:
        """Begin a new sum; what was gathered of an unfinished one is forgotten.

        Raises:
            FederationError: this round, attempt and purpose was opened before.
        """
        key = (exchange.round, exchange.attempt, exchange.purpose)
        if key in self._closed:
            raise FederationError(f"the {exchange.purpose} sum of round {key[0]} was opened again")
        self._closed.add(key)
        self._exchange = exchange
        self._adder: Adder = adder(exchange.parameters)
        self._uploads: dict[str, tuple[Header, bytes]] = {}

    @guarded
    def add(self, frame: pa.Buffer) -> AddReport:
        """Check one upload and add it.

        Raises:
            UploadRefused: says why; the sum so far is unharmed.
        """
        started = time.perf_counter()
        exchange = self._open_exchange()
        upload = read_upload(frame, exchange, self._identities)
        silo = upload.header.silo
        if silo in self._uploads:
            raise UploadRefused(f"silo '{silo}' has sent to this sum already")
        self._adder.add(upload.chunks)
        self._uploads[silo] = (upload.header, upload.signature)
        return AddReport(silo, frame.size, time.perf_counter() - started)

    @guarded
    @ray.method(num_returns=2)
    def total(self) -> tuple[TotalReport, pa.Buffer]:
        """Close the sum and publish it with the signed headers of what is in it.

        Raises:
            UploadRefused: the roster is not complete.
        """
        started = time.perf_counter()
        exchange = self._open_exchange()
        missing = [silo for silo in exchange.roster if silo not in self._uploads]
        if missing:
            raise UploadRefused(f"no valid upload came from {', '.join(missing)}")
        frame = write_total(list(self._uploads.values()), self._adder.total())
        self._exchange = None
        seconds = time.perf_counter() - started
        return TotalReport(exchange.roster, frame.size, seconds), frame

    def _open_exchange(self) -> Exchange:
        if self._exchange is None:
            raise FederationError("no sum is open at the aggregator")
        return self._exchange


AggregatorActor = ray.remote(Aggregator)
