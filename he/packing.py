"""Quantises reals to signed integers, and packs integers into reals that CKKS adds exactly.

A vector of v values becomes `chunks` rows of N packed reals, int64. Row c packs its D * N
integers as D digits: real j of the row is the sum over d of x[c, d, j] * 2^(k d). Adding packed
reals adds their digits, since no sum of digits exceeds its k bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blindsum.he.parameters import RING_DEGREE, Parameters
from blindsum.platform.errors import EncryptionError

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


LARGE = 1 / 8
"""Share of the range beyond which a value counts as large: `adapted_range`."""

_BLOCK = 1 << 15  # values quantised at a time, so that temporaries stay in the cache


@dataclass(frozen=True)
class Quantised:
    """Signed integers, int64 [values]; the number of values that were cut to the range, and the
    number beyond an eighth of it (including those that were cut)."""

    integers: Integers
    saturated: int
    large: int


def quantise(
    values: npt.NDArray[np.floating],
    bound: float,
    parameters: Parameters,
    random: np.random.Generator | None,
) -> Quantised:
    """Clip to [-bound, bound] and round to b-bit signed integers. One unit is bound / limit.

    Stochastic rounding is unbiased, so the mean over silos keeps small values that rounding to
    nearest would drop.

    Args:
        random: draws the stochastic rounding; None rounds to nearest.

    Raises:
        EncryptionError: a value is NaN or infinite.
    """
    integers = np.empty(values.size, np.int64)
    saturated = large = 0
    for start in range(0, values.size, _BLOCK):
        block = values[start : start + _BLOCK]
        cut, beyond = _quantise(block, bound, parameters.limit, random, integers[start:])
        saturated, large = saturated + cut, large + beyond
    return Quantised(integers, saturated, large)


def _quantise(
    values: npt.NDArray[np.floating],
    bound: float,
    limit: int,
    random: np.random.Generator | None,
    out: Integers,
) -> tuple[int, int]:
    scaled = np.multiply(values, limit / bound, dtype=np.float64)
    magnitude = np.abs(scaled)
    greatest = magnitude.max()
    if not np.isfinite(greatest):  # the maximum is NaN if any value is
        raise _not_finite()
    saturated = large = 0
    if greatest > limit * LARGE:
        large = int(np.count_nonzero(magnitude > limit * LARGE))
        saturated = int(np.count_nonzero(magnitude > limit))
        np.clip(scaled, -limit, limit, out=scaled)
    scaled += random.random(out=magnitude) if random else 0.5
    np.floor(scaled, out=scaled)
    # In float64, limit plus a draw just below one rounds up.
    np.minimum(scaled, limit, out=out[: scaled.size], casting="unsafe")
    return saturated, large


def require_finite(values: npt.NDArray[np.floating]) -> None:
    """Raise EncryptionError if a value is NaN or infinite. Called before any part is sent."""
    for start in range(0, values.size, _BLOCK):
        if not np.isfinite(values[start : start + _BLOCK]).all():
            raise _not_finite()


def require_exact(values: npt.NDArray[np.floating], bound: float) -> None:
    """Raise EncryptionError if a value is above the bound: it would be cut, and a sum that has to
    be exact would not be. Called before any part is sent."""
    if values.size and float(np.abs(values).max()) > bound:
        raise EncryptionError(
            "a sum of this silo is too large to be added exactly",
            "Lower class weights, or scale the numbers that are predicted.",
        )


def _not_finite() -> EncryptionError:
    return EncryptionError(
        "the update has NaN or infinite values, which cannot be encrypted",
        "Training diverged: lower training.learning_rate, or scale the features.",
    )


MAX_DOUBLINGS = 10
"""Greatest number of doublings or halvings by which the range may move from the job's. It limits
how far a silo that lies about its counts can move the range of all silos."""


def adapted_range(range: float, job_range: float, saturated: float, large: float) -> float:
    """Return the next round's range, from this round's public shares over all silos.

    The range doubles if more than one value in 1,000 was cut. It halves if fewer than one value in
    100,000 was beyond an eighth of it, so that after halving a factor of four remains.
    """
    if saturated > 1e-3:
        return min(range * 2, math.ldexp(job_range, MAX_DOUBLINGS))
    return max(range / 2, math.ldexp(job_range, -MAX_DOUBLINGS)) if large < 1e-5 else range


def square_sum(integers: Integers) -> int:
    """Return the exact sum of the squares of at most 2^17 integers below 2^37 in magnitude, or of
    2^19 below 2^30.

    It is exact so that silos on different processors compare a total with the bound identically.
    """
    high, low = integers >> 15, integers & 0x7FFF
    return (int(high @ high) << 30) + (int(high @ low) << 16) + int(low @ low)


def pack(integers: Integers, parameters: Parameters) -> Integers:
    """Pack signed integers [values] within `limit` into reals, int64 [chunks, N].

    Raises:
        EncryptionError: an integer exceeds the limit, or the vector is empty.
    """
    if integers.ndim != 1 or integers.size == 0:
        raise EncryptionError(f"a vector of shape {integers.shape} cannot be packed")
    if max(int(integers.max()), -int(integers.min())) > parameters.limit:
        raise EncryptionError(
            f"an integer exceeds the limit of {parameters.limit} ({parameters.bits} bits)"
        )
    chunks = parameters.chunks(integers.size)
    if integers.size == chunks * parameters.values_per_chunk:
        digits = integers
    else:
        digits = np.zeros(chunks * parameters.values_per_chunk, np.int64)
        digits[: integers.size] = integers
    rows = digits.reshape(chunks, parameters.digits, RING_DEGREE)
    packed = rows[:, -1].copy()
    for d in range(parameters.digits - 2, -1, -1):  # Horner's scheme, in base 2^k
        packed <<= parameters.summed_bits
        packed += rows[:, d]
    return packed


def centred(packed: Integers, parameters: Parameters) -> Integers:
    """Reduce packed reals mod 2^K to [-2^(K-1), 2^(K-1)). Changes its argument and returns it."""
    half = 1 << (parameters.real_bits - 1)
    packed += half
    packed &= (1 << parameters.real_bits) - 1
    packed -= half
    return packed


def unpack(packed: Integers, values: int, parameters: Parameters) -> Integers:
    """Return the summed integers, int64 [values], of packed reals [chunks, N] mod 2^K.

    This is the inverse of `pack`. Digits that n honest uploads cannot sum to are refused: at least
    one in 256 of a digit's 2^k values is unreachable, and digits that carry no value must be zero.
    If the masks of the reals do not cancel, the digits are uniform. A chunk of 4,096 digits then
    passes with probability below 2^-23, one of 12,288 digits with probability below 2^-69, and one
    of more digits more rarely.

    Raises:
        EncryptionError: the reals are not the sum of one honest upload from each silo.
    """
    k = parameters.summed_bits
    rest = centred(packed.copy(), parameters)
    rows = np.empty((packed.shape[0], parameters.digits, RING_DEGREE), np.int64)
    for d in range(parameters.digits - 1):
        digit = rows[:, d]
        np.left_shift(rest, 64 - k, out=digit)  # the digit's sign becomes the word's
        digit >>= 64 - k
        rest -= digit
        rest >>= k
    rows[:, -1] = rest
    digits = rows.reshape(-1)
    reach = parameters.silos * parameters.limit
    if int(digits.max()) > reach or int(digits.min()) < -reach or digits[values:].any():
        raise EncryptionError(
            "the total is not the sum of one upload from each silo; nothing was released",
            "An upload was left out, duplicated or altered in transit.",
        )
    return digits[:values]
