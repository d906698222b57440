"""Records that are kept in another form than the dense one in which a model gets them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]
Selected = slice | Numbers
"""Records by their numbers, by bool [records], or as a slice."""


class Compact(ABC):
    """Records of one kind. `width` is the number of values of a record in its dense form."""

    width: int

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, rows: Selected) -> Self:
        """Return some of the records, in that order."""

    @property
    @abstractmethod
    def arrays(self) -> list[Numbers]:
        """The arrays that hold the records; those of more records are these one after the other."""

    @abstractmethod
    def like(self, arrays: Sequence[Numbers]) -> Self:
        """Return other records of the same kind and width, from their `arrays`."""

    def with_more(self, others: Sequence[Self]) -> Self:
        """Return these records and then others of the same kind."""
        arrays = [one.arrays for one in (self, *others)]
        return self.like([np.concatenate(columns) for columns in zip(*arrays, strict=True)])

    @abstractmethod
    def dense(self) -> Numbers:
        """Return all values of all records."""

    @property
    def values_at_work(self) -> int:
        """The numbers of a record that memory must hold while a model works on it."""
        return self.width

    @property
    def sizes(self) -> Numbers | None:
        """How large each record is, if work on a batch grows with its largest record."""
        return None

    @property
    def shape(self) -> tuple[int, int]:
        """The number of records, and of values of one."""
        return len(self), self.width


class Pixels(Compact):
    """Images of one size as bytes.

    Args:
        values: uint8 [images, channels * height * width].
        center, scale: of each channel, in units of the greatest byte: public constants.
    """

    def __init__(
        self, values: npt.NDArray[np.uint8], center: Sequence[float], scale: Sequence[float]
    ) -> None:
        self._values, self._center, self._scale = values, tuple(center), tuple(scale)
        self.width = values.shape[1]

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, rows: Selected) -> Pixels:
        """Return some of the images, in that order."""
        return self.like([self._values[rows]])

    @property
    def arrays(self) -> list[Numbers]:
        """The bytes."""
        return [self._values]

    def like(self, arrays: Sequence[Numbers]) -> Pixels:
        """Return other images with the same constants."""
        return Pixels(arrays[0], self._center, self._scale)

    def dense(self) -> npt.NDArray[np.float32]:
        """Return scaled values, float32 [images, channels * height * width]."""
        channels = len(self._center)
        by_channel = self._values.reshape(len(self), channels, self.width // channels)
        center, scale = (np.array(one, np.float32)[:, None] for one in (self._center, self._scale))
        found = by_channel.astype(np.float32)
        found /= 255
        found -= center
        found /= scale
        return found.reshape(len(self), self.width)
