"""Reals to signed integers, and integers to the packed reals that CKKS adds exactly.

A vector of v values becomes `chunks` rows of N packed reals, int64. Row c packs its D * N
integers as D digits: real j of the row is the sum over d of x[c, d, j] * 2^(k d). Adding packed
reals adds digits, since no digit's sum leaves its k bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blindsum.he.parameters import RING_DEGREE, Parameters
from blindsum.platform.errors import EncryptionError

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Quantised:
    """Signed integers, int64 [values], and how many values the range cut off."""

    integers: Integers
    saturated: int


def quantise(
    values: npt.NDArray[np.floating],
    bound: float,
    parameters: Parameters,
    random: np.random.Generator,
) -> Quantised:
    """Clip to [-bound, bound] and round stochastically to b-bit signed integers.

    Stochastic rounding is unbiased, so the mean over silos keeps the small values that
    rounding to nearest would drop. One integer unit is bound / limit.

    Raises:
        EncryptionError: a value is NaN or infinite.
    """
    scaled = np.asarray(values, dtype=np.float64) * (parameters.limit / bound)
    if not np.isfinite(scaled).all():
        raise EncryptionError(
            "the update holds NaN or infinite values, nothing was sent",
            "Training diverged: lower training.learning_rate, or scale the features.",
        )
    saturated = int(np.count_nonzero(np.abs(scaled) > parameters.limit))
    np.clip(scaled, -parameters.limit, parameters.limit, out=scaled)
    scaled += random.random(scaled.shape)
    np.floor(scaled, out=scaled)
    # limit plus a draw just below one rounds up in float64
    np.minimum(scaled, parameters.limit, out=scaled)
    return Quantised(scaled.astype(np.int64), saturated)


def pack(integers: Integers, parameters: Parameters) -> Integers:
    """Packed reals, int64 [chunks, N], of signed integers [values] within `limit`.

    Raises:
        EncryptionError: an integer passes the limit, or there are none.
    """
    if integers.ndim != 1 or integers.size == 0:
        raise EncryptionError(f"a vector of shape {integers.shape} cannot be packed")
    if max(int(integers.max()), -int(integers.min())) > parameters.limit:
        raise EncryptionError(
            f"an integer passes the limit of {parameters.limit} ({parameters.bits} bits)"
        )
    chunks = parameters.chunks(integers.size)
    digits = np.zeros(chunks * parameters.values_per_chunk, np.int64)
    digits[: integers.size] = integers
    rows = digits.reshape(chunks, parameters.digits, RING_DEGREE)
    packed = rows[:, 0].copy()
    for d in range(1, parameters.digits):
        packed += rows[:, d] << (parameters.summed_bits * d)
    return packed


def unpack(packed: Integers, values: int, parameters: Parameters) -> Integers:
    """The summed integers, int64 [values], of packed reals [chunks, N]. Inverse of `pack`."""
    k = parameters.summed_bits
    half, mask = 1 << (k - 1), (1 << k) - 1
    rest = packed.copy()
    rows = np.empty((packed.shape[0], parameters.digits, RING_DEGREE), np.int64)
    for d in range(parameters.digits):
        rows[:, d] = ((rest + half) & mask) - half
        rest = (rest - rows[:, d]) >> k
    if rest.any():
        raise EncryptionError(
            "the total holds integers that no sum of honest uploads can reach",
            "An upload was added more than once or a ciphertext was altered; the round ends.",
        )
    return rows.reshape(-1)[:values]


def split_counts(counts: Integers, parameters: Parameters) -> Integers:
    """Non-negative integers below 2^48 as limbs that fit a digit, int64 [limbs * counts].

    Limbs have b - 1 bits, so their sums over all silos stay exact: `join_counts` of a sum of
    limbs is the sum of the counts.
    """
    if counts.size and (int(counts.min()) < 0 or int(counts.max()) >= 1 << _COUNT_BITS):
        raise EncryptionError(f"a count is outside 0 to 2^{_COUNT_BITS} - 1")
    width = parameters.bits - 1
    shifts = np.arange(count_limbs(parameters), dtype=np.int64) * width
    return ((counts[None, :] >> shifts[:, None]) & ((1 << width) - 1)).reshape(-1)


def join_counts(limbs: Integers, parameters: Parameters) -> Integers:
    """The counts, int64, of summed limbs. Inverse of `split_counts`."""
    rows = limbs.reshape(count_limbs(parameters), -1)
    shifts = np.arange(rows.shape[0], dtype=np.int64) * (parameters.bits - 1)
    joined: Integers = (rows << shifts[:, None]).sum(axis=0)
    return joined


def count_limbs(parameters: Parameters) -> int:
    """Digits that one count takes."""
    return -(-_COUNT_BITS // (parameters.bits - 1))


_COUNT_BITS = 48
