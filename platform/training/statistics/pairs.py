"""Numbers of 48 bits in a model's parameters, which have 24: as the sum of two parameters each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from blindsum.platform.training.vector import Vector

Reals = npt.NDArray[np.float64]


def as_pairs(values: Reals) -> Vector:
    """Return float32 [2 n] for float64 [n]: the nearest parameters, then what they leave."""
    nearest = values.astype(np.float32)
    return np.concatenate([nearest, (values - nearest.astype(np.float64)).astype(np.float32)])


def of_pairs(vector: Vector) -> Reals:
    """Return the numbers that `as_pairs` wrote, to 2^-48 of each."""
    nearest, rest = np.split(vector.astype(np.float64), 2)
    return nearest + rest
