"""Sources of randomness. In a private run, noise and samples never come from a seed.

Everyone who has a job file knows its seed. If noise were drawn from the seed, they could subtract
it from an update. Only runs without privacy are seeded.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from randomgen import AESCounter

from blindsum.platform.job.schema import Job

_BLOCK = 1 << 15  # values drawn at a time: temporaries stay in the cache
_FRACTION = (1 << 52) - 1  # of an IEEE 754 double
_ODD_TWO_TO_FOUR = 0x400 << 52 | 1  # the exponent of 2 to 4, and an odd fraction
_ROOT_2 = math.sqrt(2)


def cryptographic_generator() -> np.random.Generator:
    """Return AES-128 in counter mode (NIST SP 800-38A), with a fresh key from the operating
    system."""
    return np.random.Generator(AESCounter(key=secrets.randbits(128)))


def seeded_generator(seed: int, *labels: str | int) -> np.random.Generator:
    """Return a reproducible generator, for runs without privacy and their stochastic rounding."""
    text = "\0".join(str(part) for part in (seed, *labels))
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()))


def generator_of(job: Job, silo: str) -> np.random.Generator:
    """Return the generator of a silo's noise and samples: seeded only in a run that says that it
    is not private."""
    if job.private:
        return cryptographic_generator()
    section = job.privacy
    seed = None if section.noise == "none" else section.test_seed
    return seeded_generator(job.seed if seed is None else seed, silo)


def normal_blocks(count: int, random: np.random.Generator) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield `count` standard normals, float64, a block at a time, each with its slice.

    A block's values are valid only until the next block is drawn. A fresh key from `random` starts
    AES-256 in counter mode; 51 bits of each 64-bit word make a uniform on the midpoints of
    (-1, 1), which the inverse error function turns into a normal. This takes a third of the time
    of numpy's ziggurat, which draws one value at a time. No draw exceeds 8.2 standard deviations;
    a true normal does so with probability 2^-51.
    """
    stream = Cipher(algorithms.AES(random.bytes(32)), modes.CTR(bytes(16))).encryptor()
    zeros, drawn = bytes(8 * _BLOCK), bytearray(8 * _BLOCK)
    words = torch.frombuffer(drawn, dtype=torch.int64)
    for start in range(0, count, _BLOCK):
        stream.update_into(zeros, drawn)
        size = min(_BLOCK, count - start)
        bits = words[:size].bitwise_and_(_FRACTION).bitwise_or_(_ODD_TWO_TO_FOUR)
        yield slice(start, start + size), bits.view(torch.float64).sub_(3.0).erfinv_().mul_(_ROOT_2)


def add_gaussian(target: torch.Tensor, deviation: float, random: np.random.Generator) -> None:
    """Add a draw from N(0, deviation^2) to every value of a contiguous tensor, in place."""
    if deviation == 0:
        return
    flat = target.view(-1)
    drawn = torch.empty(_BLOCK, dtype=target.dtype)  # adding tensors of two dtypes is slower
    for where, normals in normal_blocks(flat.numel(), random):
        flat[where].add_(drawn[: normals.numel()].copy_(normals), alpha=deviation)


def normals(count: int, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return `count` standard normals by Box and Muller (1958), accurate into the tails.

    Uniforms of 64 bits, the small ones at full relative precision, give radii up to 9.5. A pair
    of true normals exceeds that radius with probability 2^-65.
    """
    pairs = (count + 1) // 2
    words = np.frombuffer(random.bytes(16 * pairs), "<u8")
    radii = words[:pairs] + 0.5
    radii *= 2.0**-64
    np.log(radii, out=radii)
    radii *= -2.0
    np.sqrt(radii, out=radii)
    angles = words[pairs:] * (math.tau * 2.0**-64)
    drawn = np.empty(2 * pairs)
    np.multiply(np.cos(angles), radii, out=drawn[:pairs])
    np.multiply(np.sin(angles), radii, out=drawn[pairs:])
    return drawn[:count]
