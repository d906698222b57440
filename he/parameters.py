"""Parameters of an exact encrypted sum, derived from the number of silos and bits.

Legend, used in all of `he`:

    n  silos in the sum            N  ring degree            q  the only coefficient prime
    b  bits of a signed digit      k  bits of a summed digit, b + ceil(log2 n)
    D  digits packed in one real   K  bits of a packed real, D * k

`Parameters.derive` returns only parameters whose probability of a wrong integer is negligible:

* A fresh SEAL error is centred binomial with variance 10.5; encoding rounds with variance
  about 1/12. A real slot of the sum of n ciphertexts therefore has noise of variance
  V = n (10.5 + 1/12) N / 2, sub-Gaussian with that proxy (canonical embedding; Cheon, Kim,
  Kim and Song, ASIACRYPT 2017, section 2 and 3.4).
* The double-precision FFT adds about f = 0.48 * 2^(K - 52) * sqrt(n) integer units (measured
  standard deviation, slots uniform in K bits).
* A real is decoded wrongly if its noise exceeds half a unit. If scale >= sqrt(V / ((0.5 / t)^2 -
  f^2)), the probability of that is at most 2 exp(-t^2 / 2) = 2^-80 per real, with
  t = sqrt(2 * 81 * ln 2).
* Coefficients must stay below q / 2. Every upload is masked (`blindsum.he.masks`), so its reals
  are uniform in K bits: those of n - 1 uploads are independent, and determine those of the last.
  A uniform variable is sub-Gaussian with its own variance as proxy. A coefficient of a sum is
  therefore sub-Gaussian with (sqrt(n - 1) + 1) * 2^K * scale / sqrt(6 N), and t times that must
  fit.
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
from typing import Literal

from blindsum.platform.errors import EncryptionError

Scheme = Literal["ckks", "none"]

RING_DEGREE = 4096
PRIME_BITS = 60
MAX_SILOS = 64
MAX_REAL_BITS = 46  # beyond it the error of the double-precision FFT alone can change a digit
FAILURE_LOG2 = -80
RESIDUAL_LIMIT = 0.42  # in units; an honest real exceeds it with probability below 2^-56
_DEVIATIONS = math.sqrt(2 * (1 - FAILURE_LOG2) * math.log(2))  # t above: 10.6


@dataclass(frozen=True, slots=False)
class Parameters:
    """Checked, immutable parameters. They are public, and equal at every silo and aggregator.

    Build them with `derive`. Attributes: `silos` is n, 2 to 64; `bits` is b, 2 to 24 (more in
    `of_counts`); `digits` is D, 1 to 15; `limit` is the greatest magnitude of a silo's digit;
    `scale` is the scale of CKKS, an integer.
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
            bits: b, or None for the most bits, up to 19, that allow two digits per real.
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
        if bits is None:
            bits = next(b for b in range(19, 1, -1) if _scale(silos, b, 2) is not None)
        if not 2 <= bits <= 24:
            raise EncryptionError(
                f"encryption.bits is {bits}, but must be 2 to 24",
                "Use 2 to 24 bits, or leave it out.",
            )
        most = MAX_REAL_BITS // _summed_bits(silos, bits)
        fitting = [d for d in range(most, 0, -1) if _scale(silos, bits, d) is not None]
        chosen = digits if digits is not None else next(iter(fitting), 0)
        if chosen not in fitting:
            raise EncryptionError(
                f"with {bits} bits and {chosen or 'any number of'} digits per real, sums over "
                f"{silos} silos are not exact",
                f"At {bits} bits, at most {max(fitting, default=0)} digits fit.",
            )
        return cls(scheme, silos, bits, chosen, _scale(silos, bits, chosen) or 1)

    @property
    def limit(self) -> int:
        """Greatest magnitude of one silo's digit: 2^(b-1) - 1, or up to 1/256 less."""
        return _limit(self.silos, self.bits)

    @property
    def summed_bits(self) -> int:
        """k, the bits of a digit of the total, including the sign."""
        return _summed_bits(self.silos, self.bits)

    @property
    def real_bits(self) -> int:
        """K, the bits of a packed real. Masks and sums are taken mod 2^K."""
        return self.digits * self.summed_bits

    @property
    def values_per_chunk(self) -> int:
        """The number of integers in one ciphertext: N/2 complex slots of two reals of D digits."""
        return RING_DEGREE * self.digits

    @cached_property
    def of_counts(self) -> Parameters:
        """The parameters for sums of counts: each real holds one integer, of as many bits as are
        exact.

        The sum of such integers reveals nothing but their total. If counts were split into several
        digits, the sums of the digits would reveal more: how often they carried.
        """
        bits = next(b for b in range(MAX_REAL_BITS, 1, -1) if _scale(self.silos, b, 1) is not None)
        return Parameters(self.scheme, self.silos, bits, 1, _scale(self.silos, bits, 1) or 1)

    def chunks(self, values: int) -> int:
        """Return the number of ciphertexts needed for that many integers."""
        return -(-values // self.values_per_chunk)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 over all parameters, in hex. Uploads under other parameters are refused."""
        content = asdict(self) | {"ring_degree": RING_DEGREE, "prime_bits": PRIME_BITS}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _summed_bits(silos: int, bits: int) -> int:
    return bits + math.ceil(math.log2(silos))


def _limit(silos: int, bits: int) -> int:
    reachable = 255 * (1 << _summed_bits(silos, bits)) // 256  # values -n limit to n limit
    return min((1 << (bits - 1)) - 1, (reachable - 1) // 2 // silos)


def _scale(silos: int, bits: int, digits: int) -> int | None:
    """Return the smallest scale that keeps sums exact, or None if there is none."""
    k = _summed_bits(silos, bits)
    real_bits = digits * k
    if real_bits > MAX_REAL_BITS:
        return None
    variance = silos * (10.5 + 1 / 12) * RING_DEGREE / 2
    fft = 0.48 * 2.0 ** (real_bits - 52) * math.sqrt(silos)
    room = (0.5 / _DEVIATIONS) ** 2 - fft**2
    if room <= 0:
        return None
    scale = math.ceil(math.sqrt(variance / room))
    fresh_error = 21.0 * silos  # a centred binomial of 42 coins never exceeds 21
    deviation = (math.sqrt(silos - 1) + 1) * 2.0**real_bits * scale / math.sqrt(6 * RING_DEGREE)
    if _DEVIATIONS * deviation + fresh_error >= 2.0 ** (PRIME_BITS - 1) * 0.99:
        return None
    return scale
