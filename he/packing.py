"""Quantises reals to signed integers, and packs integers into reals that CKKS adds exactly.

A vector of v values becomes ceil(v / D) packed reals, int64, N to a chunk; the last chunk may hold
fewer, m. A chunk's integers are D rows of m digits: its real j is the sum over d of x[d, j] times
2^(k d). Adding packed reals adds their digits, since no sum of digits exceeds its k bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
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
    """Pack signed integers [values] within `limit`, from the start of a chunk on, into reals, int64
    [ceil(values / D)].

    Raises:
        EncryptionError: an integer exceeds the limit, or the vector is empty.
    """
    if integers.ndim != 1 or integers.size == 0:
        raise EncryptionError(f"a vector of shape {integers.shape} cannot be packed")
    _require_within(integers, parameters.limit, f"{parameters.bits} bits")
    packed = np.empty(parameters.reals(integers.size), np.int64)
    for digits, rows in _chunks(integers, packed, parameters):
        rows[:] = digits[:, -1]
        for d in range(parameters.digits - 2, -1, -1):  # Horner's scheme, in base 2^k
            rows <<= parameters.summed_bits
            rows += digits[:, d]
    return packed


def require_counts(counts: Integers, parameters: Parameters) -> Integers:
    """Return counts, int64 [counts]: each is a real of its own.

    Raises:
        EncryptionError: a count exceeds the limit.
    """
    if counts.size:
        _require_within(counts, parameters.count_limit, "a count")
    return counts


def _require_within(integers: Integers, limit: int, what: str) -> None:
    if max(int(integers.max()), -int(integers.min())) > limit:
        raise EncryptionError(f"an integer exceeds the limit of {limit} ({what})")


def _chunks(
    integers: Integers, packed: Integers, parameters: Parameters
) -> Iterator[tuple[Integers, Integers]]:
    """Yield a vector's digits [chunks, D, reals] and its reals [chunks, reals]: the full chunks,
    then the last. Digits that carry no value are zero, and are not written back."""
    each, digits = parameters.values_per_chunk, parameters.digits
    full = integers.size // each
    if full:
        yield (
            integers[: full * each].reshape(full, digits, RING_DEGREE),
            packed[: full * RING_DEGREE].reshape(full, RING_DEGREE),
        )
    if rest := integers.size - full * each:
        last = np.zeros(digits * -(-rest // digits), np.int64)
        last[:rest] = integers[full * each :]
        yield last.reshape(1, digits, -1), packed[full * RING_DEGREE :].reshape(1, -1)


def centred(packed: Integers, parameters: Parameters) -> Integers:
    """Reduce packed reals mod 2^K to [-2^(K-1), 2^(K-1)). Changes its argument and returns it."""
    half = 1 << (parameters.real_bits - 1)
    packed += half
    packed &= (1 << parameters.real_bits) - 1
    packed -= half
    return packed


def unpack(packed: Integers, values: int, parameters: Parameters) -> Integers:
    """Return the summed integers, int64 [values], of packed reals [ceil(values / D)] mod 2^K.

    This is the inverse of `pack`. Digits that n honest uploads cannot sum to are refused: at least
    one in 256 of a digit's 2^k values is unreachable, and digits that carry no value must be zero.
    If the masks of the reals do not cancel, the digits are uniform. 4,096 digits then pass with
    probability below 2^-23, 12,288 digits with probability below 2^-69, and fewer digits more
    often: a short vector relies on the linear hash alone.

    Raises:
        EncryptionError: the reals are not the sum of one honest upload from each silo.
    """
    found = np.empty(values, np.int64)
    reals = centred(packed.copy(), parameters)
    full = values // parameters.values_per_chunk
    held, at = full * parameters.values_per_chunk, full * RING_DEGREE
    if full:
        _unpack(reals[:at].reshape(full, RING_DEGREE), found[:held], parameters)
    if held < values:
        _unpack(reals[at:].reshape(1, -1), found[held:], parameters)
    return found


def _unpack(rest: Integers, out: Integers, parameters: Parameters) -> None:
    """Unpack chunks of reals [chunks, reals], which are used up, into integers [values]."""
    k = parameters.summed_bits
    rows = np.empty((len(rest), parameters.digits, rest.shape[1]), np.int64)
    for d in range(parameters.digits - 1):
        digit = rows[:, d]
        np.left_shift(rest, 64 - k, out=digit)  # the digit's sign becomes the word's
        digit >>= 64 - k
        rest -= digit
        rest >>= k
    rows[:, -1] = rest
    digits = rows.reshape(-1)
    reach = parameters.silos * parameters.limit
    if int(digits.max()) > reach or int(digits.min()) < -reach or digits[out.size :].any():
        raise _not_a_sum()
    out[:] = digits[: out.size]


def unpack_counts(reals: Integers, parameters: Parameters) -> Integers:
    """Return summed counts, int64 [counts], from as many reals mod 2^K.

    Raises:
        EncryptionError: the reals are not the sum of one honest upload from each silo.
    """
    counts = centred(reals.copy(), parameters)
    reach = parameters.silos * parameters.count_limit
    if counts.size and (int(counts.max()) > reach or int(counts.min()) < -reach):
        raise _not_a_sum()
    return counts


def _not_a_sum() -> EncryptionError:
    return EncryptionError(
        "the total is not the sum of one upload from each silo; nothing was released",
        "An upload was left out, duplicated or altered in transit.",
    )
