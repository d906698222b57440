"""A sample of a table's records, of bounded size, that is the same for the same records.

Records whose digests begin with a small number are in it: all of them in a table that is not large.
Two silos' samples therefore have the same records in common as their tables, as far as both go.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from blindsum.platform.data.record_digests import SIZE, Digests

MOST_BYTES = 32 * 2**20
"""Memory of a sample's values."""


def _begins(digests: Digests) -> npt.NDArray[np.uint64]:
    """Return the first 64 bits of each digest as a number."""
    return digests.view(">u8").reshape(-1, 2)[:, 0].astype(np.uint64)


@dataclass(frozen=True)
class SampledDigests:
    """Digests of a table's records, [records], of those that begin with a number of at most `most`.
    Private to the silo: they confirm guesses."""

    digests: Digests = field(default_factory=lambda: np.zeros(0, f"V{SIZE}"))
    most: int = 2**64 - 1

    def __repr__(self) -> str:
        return "SampledDigests(private)"

    def at_most(self, most: int) -> frozenset[bytes]:
        """Return the distinct digests that begin with a number of at most `most`."""
        return frozenset(self.digests[_begins(self.digests) <= most].tolist())


class _Part(NamedTuple):
    table: pa.Table
    digests: Digests
    held_out: npt.NDArray[np.bool_]
    bytes: int

    def sampled(self, most: int) -> _Part:
        chosen = _begins(self.digests) <= most
        if chosen.all():
            return self
        table = self.table.filter(pa.array(chosen))
        return _Part(table, self.digests[chosen], self.held_out[chosen], table.nbytes)


class RecordSample:
    """A sample to which records are added.

    Args:
        most_bytes: the memory of the values of its records.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes, self._most = most_bytes, 2**64 - 1
        self._parts = list[_Part]()

    def add(self, table: pa.Table, digests: Digests, held_out: npt.NDArray[np.bool_]) -> None:
        """Add records, of which the last two arguments are [records]."""
        self._parts.append(_Part(table, digests, held_out, table.nbytes).sampled(self._most))
        while sum(part.bytes for part in self._parts) > self._most_bytes and self._most:
            self._most //= 2
            self._parts = [part.sampled(self._most) for part in self._parts]

    @property
    def is_whole(self) -> bool:
        """Whether it has all records."""
        return self._most == 2**64 - 1

    @property
    def table(self) -> pa.Table:
        """The records."""
        return pa.concat_tables([part.table for part in self._parts])

    @property
    def known(self) -> SampledDigests:
        """The records' digests."""
        digests = np.concatenate([part.digests for part in self._parts])
        return SampledDigests(digests, self._most)

    @property
    def held_out(self) -> npt.NDArray[np.bool_]:
        """Which of the records are held out, bool [records]."""
        return np.concatenate([part.held_out for part in self._parts])
