"""Parameters of an exact encrypted sum, derived from the number of silos and bits.

Legend, used in all of `he`:

    n  silos in the sum            N  ring degree            q  the only coefficient prime
    b  bits of a signed digit      k  bits of a summed digit, b + ceil(log2 n)
    D  digits packed in one real   K  bits of a packed real, at least D * k
    S  the scale of CKKS           t  sqrt(2 * 81 * ln 2) = 10.6

A real is one coefficient of a CKKS plaintext, not one of its slots: slots multiply, and sums need
no products. The coefficient is the real times S (Cheon, Kim, Kim and Song, ASIACRYPT 2017,
section 3.2, without the canonical embedding, whose rounding errors this avoids).

`Parameters.derive` returns only parameters whose probability of a wrong integer is negligible:

* Every upload is masked (`blindsum.he.masks`), so its reals lie in [-2^(K-1), 2^(K-1)). S is the
  greatest integer for which n of them, times S, stay below q / 2. Nothing wraps.
* A fresh SEAL error is centred binomial with 42 coins: at most 21, and sub-Gaussian with variance
  10.5. n of them add up to at most min(21 n, t sqrt(10.5 n)), except with probability
  2 exp(-t^2 / 2) = 2^-80.
* Coefficients travel without their lowest bits (`Words`). Rounding off w bits of a first polynomial
  adds at most 2^(w-1). Rounding off w bits of the second, which is uniform, adds the product of the
  secret with errors uniform in w bits. The secret is ternary, so that is sub-Gaussian with variance
  2^(2w) N / 12 at most; t deviations of it are counted.
* All of that together is at most RESIDUAL_LIMIT of S, so that rounding to multiples of S is exact.
  As many bits are left out as that allows.
* `limit` leaves at least one in 256 of a digit's 2^k values unreachable by honest sums, so that a
  total whose masks do not cancel is detected: see `blindsum.he.packing.unpack`.

N = 4096 with one 60-bit prime has 192-bit classical security according to the Homomorphic
Encryption Standard (Albrecht et al., 2018, table 1, ternary secret). SEAL refuses parameters that
do not.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from typing import Literal, NamedTuple

from blindsum.platform.errors import EncryptionError

Scheme = Literal["ckks", "none"]

RING_DEGREE = 4096
PRIME_BITS = 60
PRIME = (1 << PRIME_BITS) - (1 << 14) + 1
"""SEAL's prime of 60 bits for this ring degree. `blindsum.he.coefficients` checks that it is."""

MAX_SILOS = 64
MAX_REAL_BITS = 51  # so that sums stay below 2^53 (`blindsum.he.linear_hash`)
COUNT_BITS = 40
"""The bits of a count, if as many are exact: with 64 silos 38 are."""

DEFAULT_BITS, MOST_DEFAULT_BITS = 12, 19
FAILURE_LOG2 = -80
RESIDUAL_LIMIT = 0.42  # in units; an honest real exceeds it with probability below 2^-80
_DEVIATIONS = math.sqrt(2 * (1 - FAILURE_LOG2) * math.log(2))  # t above: 10.6
_COINS, _VARIANCE = 21, 10.5  # of a fresh error: its greatest magnitude, and its variance
_WIDTHS = (6, 7, 8)


class Words(NamedTuple):
    """Bytes of a coefficient on the wire: of an upload's first polynomial, whose second is a seed,
    and of a sum's first and second. Eight bytes are the whole coefficient; fewer are its highest
    bits of 60."""

    upload: int
    first: int
    second: int


def dropped(width: int) -> int:
    """Return the number of low bits that a coefficient of that many bytes lacks."""
    return max(PRIME_BITS - 8 * width, 0)


@dataclass(frozen=True, slots=False)
class Parameters:
    """Checked, immutable parameters. They are public, and equal at every silo and aggregator.

    Build them with `derive`. Attributes: `silos` is n, 2 to 64; `bits` is b, 2 to 24 (more in
    `exact`); `digits` is D, 1 to 17; `scale` is S, an integer.
    """

    scheme: Scheme
    silos: int
    bits: int
    digits: int
    scale: int

    @classmethod
    def derive(
        cls,
        silos: int,
        bits: int | None = None,
        *,
        digits: int | None = None,
        scheme: Scheme = "ckks",
    ) -> Parameters:
        """Return the parameters with the most digits per real that are exact for n and b.

        Args:
            silos: n, the greatest number of ciphertexts that will ever be added, 2 to 64.
            bits: b, or None for 12 if three such digits fit, and otherwise the most, up to 19, of
                which two fit. Fewer bits cost no accuracy until 4 (docs/measurements.md).
            digits: D, or None for the most digits that fit.
            scheme: "ckks", or "none" for the same integers without encryption.

        Raises:
            EncryptionError: the combination cannot be exact; the message says what would fit.
        """
        if not 2 <= silos <= MAX_SILOS:
            raise EncryptionError(
                f"an encrypted sum over {silos} silos is not possible",
                f"Use 2 to {MAX_SILOS} silos.",
            )
        most_bits = _most_real_bits(silos)
        if bits is None:
            two = min(MOST_DEFAULT_BITS, most_bits // 2 - _carry_bits(silos))
            bits = DEFAULT_BITS if most_bits >= 3 * (DEFAULT_BITS + _carry_bits(silos)) else two
        if not 2 <= bits <= 24:
            raise EncryptionError(
                f"encryption.bits is {bits}, but must be 2 to 24",
                "Use 2 to 24 bits, or leave it out.",
            )
        most = most_bits // (bits + _carry_bits(silos))
        chosen = most if digits is None else digits
        if not 1 <= chosen <= most:
            raise EncryptionError(
                f"with {bits} bits and {chosen} digits per real, sums over {silos} silos are not "
                "exact",
                f"At {bits} bits, at most {most} digits fit.",
            )
        return cls(scheme, silos, bits, chosen, _scale(silos, _real_bits(silos, bits, chosen)))

    @cached_property
    def exact(self) -> Parameters:
        """The parameters for sums that have to be exact: each real is one integer, of as many bits
        as there is room for."""
        bits = _most_real_bits(self.silos) - _carry_bits(self.silos)
        scale = _scale(self.silos, _real_bits(self.silos, bits, 1))
        return Parameters(self.scheme, self.silos, bits, 1, scale)

    @cached_property
    def limit(self) -> int:
        """Greatest magnitude of one silo's digit: 2^(b-1) - 1, or up to 1/256 less."""
        return _limit(self.silos, self.bits)

    @cached_property
    def count_limit(self) -> int:
        """Greatest magnitude of one silo's count. Each count is a real of its own: if it were split
        into digits, their sums would reveal more than its sum, namely how often they carried."""
        return _limit(self.silos, self.real_bits - _carry_bits(self.silos))

    @property
    def summed_bits(self) -> int:
        """k, the bits of a digit of the total, including the sign."""
        return self.bits + _carry_bits(self.silos)

    @cached_property
    def real_bits(self) -> int:
        """K, the bits of a packed real. Masks and sums are taken mod 2^K."""
        return _real_bits(self.silos, self.bits, self.digits)

    @property
    def values_per_chunk(self) -> int:
        """The number of digits in one ciphertext: N coefficients of D digits."""
        return RING_DEGREE * self.digits

    @cached_property
    def words(self) -> Words:
        """The fewest bytes per coefficient with which sums are exact: first of a sum's second
        polynomial, which travels whole whatever the vector's length, then of uploads."""
        if self.scheme == "none":
            return Words(8, 8, 0)
        room = RESIDUAL_LIMIT * self.scale - _fresh_error(self.silos)
        for second, upload, first in product(_WIDTHS, repeat=3):
            cut = self.silos * _rounding(upload) + _rounding(first)
            spread = 2.0 ** dropped(second) * math.sqrt(RING_DEGREE / 12) if second < 8 else 0.0
            if cut + _DEVIATIONS * spread <= room:
                return Words(upload, first, second)
        return Words(8, 8, 8)

    def reals(self, values: int, counts: int = 0) -> int:
        """Return the number of reals for that many digits and counts."""
        return -(-values // self.digits) + counts

    @cached_property
    def digest(self) -> str:
        """The SHA-256 over all parameters, in hex. Uploads under other parameters are refused."""
        content = asdict(self) | {"ring_degree": RING_DEGREE, "prime": PRIME}
        content |= {"real_bits": self.real_bits, "words": self.words}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _carry_bits(silos: int) -> int:
    return math.ceil(math.log2(silos))


def _limit(silos: int, bits: int) -> int:
    reachable = 255 * (1 << (bits + _carry_bits(silos))) // 256  # values -n limit to n limit
    return min((1 << (bits - 1)) - 1, (reachable - 1) // 2 // silos)


def _real_bits(silos: int, bits: int, digits: int) -> int:
    """Return K: as many bits as the digits need, and enough for a count."""
    counted = min(COUNT_BITS + _carry_bits(silos), _most_real_bits(silos))
    return max(digits * (bits + _carry_bits(silos)), counted)


def _most_real_bits(silos: int) -> int:
    fitting = range(MAX_REAL_BITS, 0, -1)
    return next(k for k in fitting if RESIDUAL_LIMIT * _scale(silos, k) >= _fresh_error(silos))


def _scale(silos: int, real_bits: int) -> int:
    """Return the greatest scale with which n masked reals, and half a unit of error, stay below
    half the prime."""
    return (PRIME // 2) // ((silos << (real_bits - 1)) + 1)


def _fresh_error(silos: int) -> float:
    return min(_COINS * silos, _DEVIATIONS * math.sqrt(_VARIANCE * silos))


def _rounding(width: int) -> float:
    bits = dropped(width)
    return 2.0 ** (bits - 1) if bits else 0.0
