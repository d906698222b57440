"""Where randomness comes from. Noise and sampling never come from a seed.

A seed in a job file is known to everyone who holds the file: noise drawn from it could be
subtracted from an update. Only the job's reference arm without privacy is seeded.
"""

from __future__ import annotations

import hashlib
import secrets

import numpy as np
from randomgen import AESCounter


def cryptographic_generator() -> np.random.Generator:
    """AES-128 in counter mode (NIST SP 800-38A) under a fresh key from the operating system."""
    return np.random.Generator(AESCounter(key=secrets.randbits(128)))


def seeded_generator(seed: int, *labels: str | int) -> np.random.Generator:
    """A reproducible generator, for runs without privacy and for stochastic rounding there."""
    text = "\0".join(str(part) for part in (seed, *labels))
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()))
