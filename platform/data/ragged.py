"""Records of different lengths: the bits of a fingerprint that are 1, and the labels that a record
has. They are kept one after the other, so that memory grows with what is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from blindsum.platform.data.compact import Compact, Numbers, Selected

Positions = npt.NDArray[np.integer[Any]]


class Ragged(Compact):
    """Records of any lengths.

    Args:
        counts: the number of entries of each record.
        entries: the entries of all records, record after record; arrays of one length.
        width: the number of values of a record in its dense form.
    """

    def __init__(self, counts: Positions, entries: Sequence[Numbers], width: int) -> None:
        self._ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
        self._entries, self.width = tuple(entries), width

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, rows: Selected) -> Self:
        """Return some of the records, in that order."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        elif rows.dtype == np.bool_:
            rows = np.flatnonzero(rows)
        starts = self._ends[rows]
        counts = self._ends[np.asarray(rows) + 1] - starts
        before = np.cumsum(counts) - counts
        at = np.arange(int(counts.sum())) + np.repeat(starts - before, counts)
        return self.like([counts, *(values[at] for values in self._entries)])

    @property
    def arrays(self) -> list[Numbers]:
        """The number of entries of each record, and the entries."""
        return [self.counts, *self._entries]

    def like(self, arrays: Sequence[Numbers]) -> Self:
        """Return other records of the same kind and width, from their `arrays`."""
        return type(self)(arrays[0], arrays[1:], self.width)

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """The number of entries of each record."""
        return np.diff(self._ends)

    @property
    def of_records(self) -> npt.NDArray[np.int64]:
        """The number of the record that each entry belongs to."""
        return np.repeat(np.arange(len(self)), self.counts)

    @property
    def places(self) -> npt.NDArray[np.int64]:
        """The place of each entry in its record, from 0."""
        records = self.of_records
        found: npt.NDArray[np.int64] = np.arange(len(records)) - self._ends[records]
        return found


class Bits(Ragged):
    """Records of 0 and 1, by the positions that are 1."""

    @classmethod
    def at(cls, positions: Sequence[Positions], width: int) -> Bits:
        """Return records of which each has ones at those positions."""
        found = np.concatenate([*positions, np.zeros(0, np.int64)]).astype(np.int32)
        return cls(np.array([len(one) for one in positions], np.int64), [found], width)

    def dense(self) -> npt.NDArray[np.float32]:
        """Return float32 [records, width]."""
        found = np.zeros(self.shape, np.float32)
        found[self.of_records, self._entries[0]] = 1.0
        return found


class Bytes(Ragged):
    """Texts of at most `width` bytes."""

    @classmethod
    def of(cls, texts: Sequence[bytes], length: int) -> Bytes:
        """Return the first bytes of texts."""
        cut = [text[:length] for text in texts]
        counts = np.array([len(text) for text in cut], np.int64)
        return cls(counts, [np.frombuffer(b"".join(cut), np.uint8)], length)

    def dense(self) -> npt.NDArray[np.float32]:
        """Return float32 [records, width]: each byte's number from 1, and 0 after the end."""
        found = np.zeros(self.shape, np.float32)
        found[self.of_records, self.places] = self._entries[0].astype(np.float32) + 1
        return found


class Ids(Bytes):
    """Texts of at most `width` tokens, by the tokens' ids from 0. Dense, they count from 1."""

    @classmethod
    def of_each(cls, ids: Sequence[npt.NDArray[np.int32]], length: int) -> Ids:
        """Return texts of which each has those ids, at most `length`."""
        counts = np.array([len(one) for one in ids], np.int64)
        return cls(counts, [np.concatenate([*ids, np.zeros(0, np.int32)])], length)


class TaskLabels(Ragged):
    """The labels of many tasks with gaps: of each label its task, its value, and -1, 0 or 1 where
    the true value lies below, at or above it. `width` is the number of tasks."""

    @classmethod
    def of(cls, labels: npt.NDArray[Any]) -> TaskLabels:
        """Return the labels of a dense array, float32 [records, 2, tasks], NaN where missing."""
        rows, tasks = np.nonzero(~np.isnan(labels[:, 0]))
        counts = np.bincount(rows, minlength=len(labels))
        values, sides = (labels[rows, i, tasks] for i in (0, 1))
        return cls(counts, [tasks.astype(np.int32), values, sides.astype(np.int8)], labels.shape[2])

    @classmethod
    def none(cls, tasks: int) -> TaskLabels:
        """Return the labels of no records."""
        return cls.of(np.zeros((0, 2, tasks), np.float32))

    def dense(self) -> npt.NDArray[np.float32]:
        """Return float32 [records, 2, tasks]: values, NaN where missing, and their sides."""
        tasks, values, sides = self._entries
        found = np.zeros((len(self), 2, self.width), np.float32)
        found[:, 0] = np.nan
        found[self.of_records, 0, tasks], found[self.of_records, 1, tasks] = values, sides
        return found

    @property
    def pairs(self) -> npt.NDArray[np.float32]:
        """The value and the side of each label, float32 [labels, 2]."""
        _, values, sides = self._entries
        return np.stack([values, sides.astype(np.float32)], axis=1)

    def of_tasks(self) -> list[npt.NDArray[np.int64]]:
        """Return for each task which of all labels are its own, in the order of their records."""
        tasks, *_ = self._entries
        order = np.argsort(tasks, kind="stable")
        return np.split(order, np.searchsorted(tasks[order], np.arange(1, self.width)))

    def by_task(self) -> Iterator[npt.NDArray[np.float32]]:
        """Yield each task's labels, float32 [labels, 2]."""
        pairs = self.pairs
        return (pairs[chosen] for chosen in self.of_tasks())
