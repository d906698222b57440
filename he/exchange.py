"""The definition of one encrypted sum. It is public, and the same for all silos and aggregators."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass as plain_dataclass
from dataclasses import fields
from functools import cached_property, lru_cache
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from blindsum.he.parameters import MAX_SILOS, RING_DEGREE, Parameters

Purpose = Literal["update", "metrics"]
STRICT = ConfigDict(
    strict=True,
    extra="forbid",
    arbitrary_types_allowed=True,
    ser_json_bytes="base64",
    val_json_bytes="base64",
)

RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$")]
"""A run's name. Every silo names a folder after it, so it can never be a path."""

SiloName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
Digest = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
Number = Annotated[int, Field(ge=1, le=10_000_000)]
Factor = Annotated[float, Field(gt=1e-30, lt=1e30)]

PART_CHUNKS = 64
"""Number of chunks that travel together under one signature: 2 MB. A silo and an aggregator hold
only a few parts in memory at a time, whatever the size of the model."""

GROUP_CHUNKS = 8
"""Number of chunks that are quantised, packed and encrypted at a time, so that their integers stay
in the cache."""


@plain_dataclass(frozen=True)
class Group:
    """A range of an exchange's reals, from the start of a chunk on, with the digits and the counts
    that they carry."""

    reals: slice
    values: slice
    counts: slice


@plain_dataclass(frozen=True)
class Part:
    """A range of an exchange's chunks: `chunks` of them from chunk `first` on, which hold `reals`
    reals."""

    index: int
    first: int
    chunks: int
    reals: int

    def groups(self, exchange: Exchange) -> Iterator[Group]:
        """Yield the part's reals, GROUP_CHUNKS chunks at a time."""
        start, stop = self.first * RING_DEGREE, self.first * RING_DEGREE + self.reals
        for at in range(start, stop, GROUP_CHUNKS * RING_DEGREE):
            yield exchange.group(at, min(at + GROUP_CHUNKS * RING_DEGREE, stop))


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Exchange:
    """One sum over one roster. Every upload and total of the exchange must match it.

    `run` is the name of the run. `values` is the number of digits, and `counts` the number of
    counts, which travel behind them. `range` is the greatest magnitude of a real value that becomes
    a digit; it is None without digits. `model`
    is the digest of the model that the silos start from. A silo takes part only if it is the digest
    of its own model: if silos received different totals, the next sum reveals it, whatever the
    driver says. `clipping` is the round's clip norm in units of the job's. If silos receive
    different values of it, their masks do not cancel, and no total can be decrypted.
    """

    run: RunName
    round: Number
    attempt: Number
    purpose: Purpose
    roster: Annotated[tuple[SiloName, ...], Field(min_length=2, max_length=MAX_SILOS)]
    values: Annotated[int, Field(ge=0, lt=2**40)]
    counts: Annotated[int, Field(ge=0, lt=2**20)] = 0
    range: Factor | None
    parameters: Parameters
    model: Digest = ""
    clipping: Factor = 1.0

    @cached_property
    def reals(self) -> int:
        """The number of reals of one silo's upload: those of the digits, then one for each
        count."""
        return self.parameters.reals(self.values, self.counts)

    @property
    def chunks(self) -> int:
        """The number of ciphertexts of one silo's upload."""
        return -(-self.reals // RING_DEGREE)

    @property
    def parts(self) -> tuple[Part, ...]:
        """All chunks in order, divided into parts of PART_CHUNKS."""
        return _parts(self.reals, PART_CHUNKS)

    def group(self, start: int, stop: int) -> Group:
        """Return a range of reals, which starts with a chunk, with what they carry."""
        each, digits = self.parameters.digits, self.parameters.reals(self.values)
        return Group(
            reals=slice(start, stop),
            values=slice(min(start * each, self.values), min(stop * each, self.values)),
            counts=slice(max(start - digits, 0), max(stop - digits, 0)),
        )

    @cached_property
    def digest(self) -> bytes:
        """The SHA-256 over every field, 32 bytes. Masks and verifiers are derived from it."""
        content = {one.name: getattr(self, one.name) for one in fields(self)}
        content["parameters"] = self.parameters.digest
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()


@lru_cache(maxsize=16)
def _parts(reals: int, chunks: int) -> tuple[Part, ...]:
    each = chunks * RING_DEGREE
    parts = []
    for index, start in enumerate(range(0, reals, each)):
        held = min(each, reals - start)
        parts.append(Part(index, index * chunks, -(-held // RING_DEGREE), held))
    return tuple(parts)
