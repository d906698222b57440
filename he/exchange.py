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

from blindsum.he.parameters import MAX_SILOS, Parameters

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
class Part:
    """A range of an exchange's chunks: `chunks` of them from chunk `first` on."""

    index: int
    first: int
    chunks: int

    def values(self, exchange: Exchange) -> slice:
        """Return the range of values that this part carries."""
        return exchange.slice(self.first, self.first + self.chunks)

    def groups(self, exchange: Exchange) -> Iterator[tuple[slice, slice]]:
        """Yield the part's rows and the range of their values, GROUP_CHUNKS at a time."""
        for start in range(0, self.chunks, GROUP_CHUNKS):
            stop = min(start + GROUP_CHUNKS, self.chunks)
            yield slice(start, stop), exchange.slice(self.first + start, self.first + stop)


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Exchange:
    """One sum over one roster. Every upload and total of the exchange must match it.

    `run` is the name of the run. `values` is the length of the vector. `range` is the greatest
    magnitude of a real value that becomes a digit; it is None where the values are counts. `model`
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
    values: Annotated[int, Field(ge=1, lt=2**40)]
    range: Factor | None
    parameters: Parameters
    model: Digest = ""
    clipping: Factor = 1.0

    @property
    def chunks(self) -> int:
        """The number of ciphertexts of one silo's upload."""
        return self.parameters.chunks(self.values)

    @property
    def parts(self) -> tuple[Part, ...]:
        """All chunks in order, divided into parts of PART_CHUNKS."""
        return _parts(self.chunks, PART_CHUNKS)

    def slice(self, first: int, stop: int) -> slice:
        """Return the range of values of a range of chunks."""
        each = self.parameters.values_per_chunk
        return slice(first * each, min(stop * each, self.values))

    @cached_property
    def digest(self) -> bytes:
        """The SHA-256 over every field, 32 bytes. Masks and verifiers are derived from it."""
        content = {one.name: getattr(self, one.name) for one in fields(self)}
        content["parameters"] = self.parameters.digest
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()


@lru_cache(maxsize=16)
def _parts(chunks: int, each: int) -> tuple[Part, ...]:
    return tuple(
        Part(index, first, min(each, chunks - first))
        for index, first in enumerate(range(0, chunks, each))
    )
