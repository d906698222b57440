"""A sample of a table's records, of bounded size, that is the same for the same records.

Records whose digests begin with a small number are in it: all of them in a table that is not large.
Two silos' samples therefore have the same records in common as their tables, as far as both go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from blindsum.platform.data.record_digests import SIZE, Digests

MOST_BYTES = 32 * 2**20
"""Memory of a sample's values and digests."""

_MANY = 16
"""So many parts are joined."""


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

    @property
    def bytes(self) -> int:
        return int(self.table.nbytes) + self.digests.nbytes

    def sampled(self, most: int) -> _Part:
        chosen = _begins(self.digests) <= most
        if chosen.all():
            return self
        table = self.table.filter(pa.array(chosen))
        return _Part(table, self.digests[chosen], self.held_out[chosen])


def _joined(parts: Sequence[_Part]) -> _Part:
    return _Part(
        pa.concat_tables([part.table for part in parts]).combine_chunks(),
        np.concatenate([part.digests for part in parts]),
        np.concatenate([part.held_out for part in parts]),
    )


class RecordSample:
    """A sample to which records are added.

    Args:
        most_bytes: the memory of its records' values and digests.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes, self._most = most_bytes, 2**64 - 1
        self._parts = list[_Part]()

    def add(self, table: pa.Table, digests: Digests, held_out: npt.NDArray[np.bool_]) -> None:
        """Add records, of which the last two arguments are [records]."""
        self._parts.append(_Part(table, digests, held_out).sampled(self._most))
        self._make_room()

    def sizes(self) -> dict[int, int]:
        """Return the memory of the records whose digests begin with at most some numbers: the
        sample's own, and its halves down to none."""
        found, parts, most = dict[int, int](), self._parts, self._most
        while True:
            parts = [part.sampled(most) for part in parts]
            found[most] = sum(part.bytes for part in parts)
            if not found[most] or not most:
                return found
            most //= 2

    def at_most(self, most: int) -> RecordSample:
        """Return the sample of its records whose digests begin with at most that number."""
        found = RecordSample(self._most_bytes)
        found._most = min(most, self._most)
        found._parts = [part.sampled(most) for part in self._parts]
        return found

    def join(self, other: RecordSample) -> None:
        """Add the records of a sample of other records of the table."""
        self._most = min(self._most, other._most)
        self._parts = [part.sampled(self._most) for part in (*self._parts, *other._parts)]
        self._make_room()

    @classmethod
    def of(
        cls, table: pa.Table, digests: Digests, held_out: npt.NDArray[np.bool_], most: int
    ) -> RecordSample:
        """Return a sample again, from its attributes and `known.most`."""
        found = cls()
        found._most = most
        found._parts.append(_Part(table, digests, held_out))
        return found

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever added, not even no records of some kind."""
        return not self._parts

    def _make_room(self) -> None:
        if len(self._parts) > _MANY:  # each column of each part takes memory of its own
            self._parts = [_joined(self._parts)]
        while sum(part.bytes for part in self._parts) > self._most_bytes and self._most:
            self._most //= 2
            self._parts = [_joined(self._parts).sampled(self._most)]

    @property
    def is_whole(self) -> bool:
        """Whether it has all records."""
        return self._most == 2**64 - 1

    @property
    def table(self) -> pa.Table:
        """The records."""
        return _joined(self._parts).table

    @property
    def known(self) -> SampledDigests:
        """The records' digests."""
        return SampledDigests(_joined(self._parts).digests, self._most)

    @property
    def held_out(self) -> npt.NDArray[np.bool_]:
        """Which of the records are held out, bool [records]."""
        return _joined(self._parts).held_out
