"""Parameters of an exact encrypted sum, derived from the number of silos and bits.

Legend, used in all of `he`:

    n  silos in the sum            N  ring degree            q  the one coefficient prime
    b  bits of a signed digit      k  bits of a summed digit, b + ceil(log2 n)
    D  digits packed in one real   K  bits of a packed real, D * k

`Parameters.derive` builds only what decodes a wrong integer with negligible probability:

* A fresh SEAL error is centred binomial with variance 10.5; encoding rounds with variance
  about 1/12. A real slot of the sum of n ciphertexts therefore has noise of variance
  V = n (10.5 + 1/12) N / 2, sub-Gaussian with that proxy (canonical embedding; Cheon, Kim,
  Kim and Song, ASIACRYPT 2017, section 2 and 3.4).
* The double-precision FFT adds about f = 0.48 * 2^(K - 52) * sqrt(n) integer units (measured
  standard deviation, slots uniform in K bits).
* A real decodes wrongly when noise passes half a unit. With scale >= sqrt(V / ((0.5 / t)^2 - f^2))
  that has probability at most 2 exp(-t^2 / 2) = 2^-80 per real, with t = sqrt(2 * 81 * ln 2).
* Coefficients must stay below q / 2. Every upload is masked (`blindsum.he.masks`), so its reals
  are uniform in K bits, n - 1 uploads' independently and the last one's determined by them.
  A uniform variable is sub-Gaussian with its own variance as proxy, a coefficient of a sum
  therefore with (sqrt(n - 1) + 1) * 2^K * scale / sqrt(6 N), and t of those must fit.
* `limit` leaves at least one in 256 of a digit's 2^k values unreachable by honest sums, so that
  a total whose masks do not cancel is caught: see `blindsum.he.packing.unpack`.

N = 4096 with one 60-bit prime has 192-bit classical security in the Homomorphic Encryption
Standard (Albrecht et al., 2018, table 1, ternary secret) and SEAL refuses it otherwise.
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
MAX_REAL_BITS = 46  # beyond it the double-precision FFT alone can move a digit
FAILURE_LOG2 = -80
RESIDUAL_LIMIT = 0.42  # of one unit; an honest real passes it with probability below 2^-56
_DEVIATIONS = math.sqrt(2 * (1 - FAILURE_LOG2) * math.log(2))  # t above: 10.6


@dataclass(frozen=True, slots=False)
class Parameters:
    """Checked, immutable parameters; equal on every silo and the aggregator, and public.

    Build with `derive`. Attributes: `silos` n in 2..64, `bits` b in 2..24 (more in `of_counts`),
    `digits` D in 1..3, `limit` the greatest magnitude of a silo's digit, `scale` of CKKS (an integer).
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
        """The parameters with the most digits per real that are exact for n and b.

        Args:
            silos: n, the most ciphertexts that will ever be added, 2 to 64.
            bits: b, or None for the most bits up to 19 that leave two digits to a real.
            digits: D, or None for the most that fit.
            scheme: "ckks", or "none" for the same integers without encryption.

        Raises:
            EncryptionError: the combination cannot be exact; says what would fit.
        """
        if not 2 <= silos <= MAX_SILOS:
            raise EncryptionError(
                f"an encrypted sum over {silos} silos is not possible",
                f"Take 2 to {MAX_SILOS} silos.",
            )
        if bits is None:
            bits = next(b for b in range(19, 1, -1) if _scale(silos, b, 2) is not None)
        if not 2 <= bits <= 24:
            raise EncryptionError(
                f"encryption.bits is {bits}", "Take 2 to 24 bits, or leave it out."
            )
        fitting = [d for d in (3, 2, 1) if _scale(silos, bits, d) is not None]
        chosen = digits if digits is not None else next(iter(fitting), 0)
        if chosen not in fitting:
            raise EncryptionError(
                f"{bits} bits and {chosen or 'any'} digits per real are not exact for {silos} silos",
                f"At {bits} bits, at most {max(fitting, default=0)} digits fit.",
            )
        return cls(scheme, silos, bits, chosen, _scale(silos, bits, chosen) or 1)

    @property
    def limit(self) -> int:
        """Greatest magnitude of one silo's digit: 2^(b-1) - 1, or up to 1/256 less."""
        return _limit(self.silos, self.bits)

    @property
    def summed_bits(self) -> int:
        """k: bits of a digit of the total, sign included."""
        return _summed_bits(self.silos, self.bits)

    @property
    def real_bits(self) -> int:
        """K: bits of a packed real; masks and sums are taken mod 2^K."""
        return self.digits * self.summed_bits

    @property
    def values_per_chunk(self) -> int:
        """Integers in one ciphertext: N/2 complex slots of two reals of D digits."""
        return RING_DEGREE * self.digits

    @cached_property
    def of_counts(self) -> Parameters:
        """The parameters of sums of counts: one integer of as many bits as are exact to a real.

        Nothing but the total of such an integer can be seen in its sum. Cut into several digits,
        the digits' sums would tell more than the count's: how often they carried.
        """
        bits = next(b for b in range(MAX_REAL_BITS, 1, -1) if _scale(self.silos, b, 1) is not None)
        return Parameters(self.scheme, self.silos, bits, 1, _scale(self.silos, bits, 1) or 1)

    def chunks(self, values: int) -> int:
        """Ciphertexts needed for that many integers."""
        return -(-values // self.values_per_chunk)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all parameters, hex. Uploads under other parameters are refused."""
        content = asdict(self) | {"ring_degree": RING_DEGREE, "prime_bits": PRIME_BITS}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _summed_bits(silos: int, bits: int) -> int:
    return bits + math.ceil(math.log2(silos))


def _limit(silos: int, bits: int) -> int:
    reachable = 255 * (1 << _summed_bits(silos, bits)) // 256  # values -n limit to n limit
    return min((1 << (bits - 1)) - 1, (reachable - 1) // 2 // silos)


def _scale(silos: int, bits: int, digits: int) -> int | None:
    """The least scale that keeps sums exact, or None where there is none."""
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
    fresh_error = 21.0 * silos  # a centred binomial of 42 coins never passes 21
    deviation = (math.sqrt(silos - 1) + 1) * 2.0**real_bits * scale / math.sqrt(6 * RING_DEGREE)
    if _DEVIATIONS * deviation + fresh_error >= 2.0 ** (PRIME_BITS - 1) * 0.99:
        return None
    return scale
