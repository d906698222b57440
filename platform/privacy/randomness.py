"""Sources of randomness. In a private run, noise and samples never come from a seed.

Everyone who has a job file knows its seed. If noise were drawn from the seed, they could subtract
it from an update. Only runs without privacy are seeded.
"""

from __future__ import annotations

import hashlib
import math
import secrets

import numpy as np
import numpy.typing as npt
from randomgen import AESCounter

from blindsum.platform.job.schema import Job


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
