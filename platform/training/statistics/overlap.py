"""How many identifiers silos have in common, from a sketch and a look-up in it.

    round 1   Sketch       every silo adds +1 or -1 for each of its identifiers to one of m buckets
    round 2   Identifiers  the number of distinct identifiers of each silo, summed
              Lookup       every silo finds each of its identifiers in the sketch's total

Bucket and sign are a keyed hash of the identifier (Charikar, Chen and Farach-Colton, ICALP 2002),
with a key that the silos agreed on and nobody else has. The total T is noised. An identifier i that
c silos have finds sign(i) T[bucket(i)] - 1 = c - 1 + noise there. Cut to [-C, C] and summed over
all silos' identifiers, this is about g times sum c (c - 1), twice the number of pairs of silos that
share an identifier, with g = E[cut(1 + noise)] known in advance. That is one further sum under
noise: an identifier adds at most C to it.

The noise of the estimate grows with the square root of the number of identifiers, as it must
without another party that computes on them (McGregor et al., FOCS 2010). The squared
norm of T alone, with the variance of Alon, Matias and Szegedy (STOC 1996), needs no second round
but has two to three times the deviation.
"""

from __future__ import annotations

import hmac
import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from blindsum.platform.data.record_digests import Digests
from blindsum.platform.training.statistics.parts import Found, Part
from blindsum.platform.training.statistics.variables import Values, Variables

Reals = npt.NDArray[np.float64]
KEY_BYTES = 32
_LEAST_BUCKETS, _MOST_BUCKETS = 2**10, 2**18
_PER_IDENTIFIER, _MOST_PER_IDENTIFIER = 10.0, 2.0
"""Buckets for each identifier, over the noise's variance: collisions then add a fifth of it. More
are not needed, however little noise there is."""
_OF_THREE = 2.0
"""What an identifier of three silos finds without noise."""


@dataclass(frozen=True)
class Hashed:
    """A silo's distinct identifiers under the silos' key. Private to the silo.

    Attributes:
        draws: uint64 [identifiers], pseudorandom.
    """

    draws: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, digests: Digests, key: bytes) -> Hashed:
        """Hash distinct digests by HMAC-SHA256."""
        begun, distinct = hmac.new(key, digestmod="sha256"), set(digests.tolist())
        found = bytearray()
        for one in distinct:
            hashing = begun.copy()
            hashing.update(one)
            found += hashing.digest()[:8]
        return cls(np.frombuffer(bytes(found), "<u8").astype(np.uint64))

    def __len__(self) -> int:
        return len(self.draws)

    def __repr__(self) -> str:
        return "Hashed(private)"

    def places(self, buckets: int) -> tuple[npt.NDArray[np.intp], Reals]:
        """Return the bucket and the sign of each, [identifiers].

        Args:
            buckets: a power of two.
        """
        at = ((self.draws >> np.uint64(1)) % np.uint64(buckets)).astype(np.intp)
        return at, 1.0 - 2.0 * (self.draws & np.uint64(1)).astype(np.float64)


class OfIdentifiers(Part):
    """A part that sums over a silo's distinct identifiers, and not over its records.

    A record changes the identifiers of its silo by at most one.
    """

    @abstractmethod
    def collect_identifiers(self, hashed: Hashed, found: Found) -> Reals:
        """Return the silo's sums."""

    def collect(self, values: Values, found: Found) -> Reals:
        """Return zeros: records as such add nothing."""
        return np.zeros(self.shape)


class Distinct(OfIdentifiers):
    """The number of each silo's distinct identifiers, summed."""

    name, share = "identifiers", 0.5
    shape, norm = (1,), 1.0

    def collect_identifiers(self, hashed: Hashed, found: Found) -> Reals:
        """Count."""
        return np.array([float(len(hashed))])


class Sketch(OfIdentifiers):
    """For each bucket, the sum of its identifiers' signs.

    Args:
        most: identifiers that all silos can have, a public bound.
        noise: returns the deviation of the noise on each bucket.
    """

    name, share = "sketch", 1.0
    norm = 1.0

    def __init__(self, variables: Variables, most: float, noise: Callable[[], float]) -> None:
        super().__init__(variables, exact=False)
        self._most, self._noise = most, noise

    @cached_property
    def noise(self) -> float:
        """The deviation of the noise on each bucket."""
        return self._noise()

    @cached_property
    def buckets(self) -> int:
        """Their number, a power of two."""
        wanted = self._most * min(_PER_IDENTIFIER / self.noise**2, _MOST_PER_IDENTIFIER)
        return 1 << math.ceil(math.log2(min(max(wanted, _LEAST_BUCKETS), _MOST_BUCKETS)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of buckets."""
        return (self.buckets,)

    @property
    def is_empty(self) -> bool:
        """It never is: how many buckets there are depends on the noise, and so on the shares."""
        return False

    def collect_identifiers(self, hashed: Hashed, found: Found) -> Reals:
        """Add signs."""
        at, signs = hashed.places(self.size)
        return np.bincount(at, signs, self.size).astype(np.float64)


class Lookup(OfIdentifiers):
    """The sum of what identifiers find in the sketch's total, cut."""

    name, share = "lookup", 3.0
    shape = (1,)

    def __init__(self, variables: Variables, sketch: Sketch) -> None:
        super().__init__(variables, exact=False)
        self._sketch = sketch

    @property
    def norm(self) -> float:
        """C: one deviation of the noise beyond what an identifier of three silos finds. A greater
        one would take in more of what finds much by chance, under more noise."""
        return self._sketch.noise + _OF_THREE

    def collect_identifiers(self, hashed: Hashed, found: Found) -> Reals:
        """Look up."""
        at, signs = hashed.places(self._sketch.size)
        others = signs * found.sums[self._sketch.name][at] - 1.0
        return np.array([np.clip(others, -self.norm, self.norm).sum()])

    def pairs(self, found: Found, silos: int) -> tuple[float, float, float]:
        """Return the number of pairs of silos that share an identifier; its deviation, by the noise
        and by collisions in the sketch; and how many times as many there can be.

        The number holds if two silos share each identifier. Cutting takes more of what more silos
        share: if all do, there are so many times as many.
        """
        sums, pairs = float(found.sums[self.name][0]), 0.0
        distinct = max(float(found.sums[Distinct.name][0]), 1.0)
        for _ in range(3):  # the gain depends a little on the result
            # Silos that share an identifier find the same noise: sum c^2.
            joint = distinct + 2 * max(pairs, 0.0)
            noise = math.hypot(self._sketch.noise, math.sqrt(joint / self._sketch.size))
            gain = self._finds(1.0, noise)
            pairs = sums / (2 * gain)
        variance = joint * self._square(noise) + (gain * joint) ** 2 / self._sketch.size
        variance += found.deviations[self.name] ** 2
        deviation = math.sqrt(variance) / (2 * gain)
        taken = self._finds(silos - 1.0, noise) / ((silos - 1) * gain)
        return pairs, deviation, 1 / taken

    def _finds(self, others: float, noise: float) -> float:
        """Return what an identifier of so many other silos finds on average."""
        cut = self.norm
        low, high = (-cut - others) / noise, (cut - others) / noise
        inside, tails = norm.cdf(high) - norm.cdf(low), norm.sf(high) - norm.cdf(low)
        return float(others * inside + cut * tails + noise * (norm.pdf(low) - norm.pdf(high)))

    def _square(self, noise: float) -> float:
        """Return the mean square of what an identifier of no other silo finds."""
        k = self.norm / noise
        inside = 1 - 2 * norm.sf(k) - 2 * k * norm.pdf(k)
        return float(noise**2 * inside + 2 * self.norm**2 * norm.sf(k))
