"""Parameters are derived from silos and bits, and refused where sums could be wrong."""

import math

import pytest

from blindsum.he.parameters import MAX_REAL_BITS, RING_DEGREE, Parameters
from blindsum.platform.errors import EncryptionError


@pytest.mark.parametrize("silos", [2, 3, 5, 8, 16, 32, 64])
def test_defaults_leave_two_digits_and_room(silos: int) -> None:
    p = Parameters.derive(silos)
    assert p.digits >= 2 and p.bits >= 16
    assert p.digits * p.summed_bits <= MAX_REAL_BITS
    assert silos * p.limit < 2 ** (p.summed_bits - 1)


@pytest.mark.parametrize(
    ("silos", "bits", "digits"),
    [(8, 12, 3), (8, 19, 2), (32, 17, 2), (64, 8, 3), (3, 4, 7), (2, 2, 15)],
)
def test_measured_choices_of_the_design(silos: int, bits: int, digits: int) -> None:
    assert Parameters.derive(silos, bits).digits == digits


@pytest.mark.parametrize(
    ("silos", "two", "three"),
    [
        (2, 22, 14),
        (3, 21, 13),
        (4, 21, 13),
        (5, 20, 12),
        (8, 20, 12),
        (9, 19, 11),
        (16, 19, 11),
        (17, 18, 10),
        (32, 17, 10),
        (33, 16, 9),
        (64, 16, 8),
    ],
)
def test_the_documented_table_lists_the_limits(silos: int, two: int, three: int) -> None:
    for digits, bits in ((2, two), (3, three)):
        assert Parameters.derive(silos, bits, digits=digits).digits == digits
        with pytest.raises(EncryptionError, match="are not exact"):
            Parameters.derive(silos, bits + 1, digits=digits)
    Parameters.derive(silos, 24, digits=1)


@pytest.mark.parametrize("silos", range(2, 65))
def test_coefficients_of_a_sum_stay_below_half_the_prime(silos: int) -> None:
    """An independent check: sums of uniform reals, the last of which the others determine."""
    derived = [Parameters.derive(silos, bits) for bits in range(2, 25)]
    for p in (*derived, derived[0].of_counts):
        one = 2.0**p.real_bits / math.sqrt(12) * p.scale * math.sqrt(2 / RING_DEGREE)
        tails = math.sqrt(2 * 81 * math.log(2))
        assert tails * one * (math.sqrt(silos - 1) + 1) + 21 * silos < 2.0**59
        reached = 2 * silos * p.limit + 1
        assert reached <= 255 / 256 * 2**p.summed_bits


@pytest.mark.parametrize("silos", [2, 8, 64])
def test_failure_probability_is_below_2_to_minus_80(silos: int) -> None:
    """Checked by an independent bound: the Gaussian tail at half a unit, in log space."""
    for p in (Parameters.derive(silos), Parameters.derive(silos).of_counts):
        assert _log2_tail(p) <= -80


def _log2_tail(p: Parameters) -> float:
    silos = p.silos
    variance = silos * (10.5 + 1 / 12) * RING_DEGREE / 2 / p.scale**2
    fft = (0.48 * 2.0 ** (p.digits * p.summed_bits - 52)) ** 2 * silos
    return math.log2(2) - 0.25 / 2 / (variance + fft) / math.log(2)


@pytest.mark.parametrize("silos", [0, 1, 65])
def test_impossible_rosters_are_refused(silos: int) -> None:
    with pytest.raises(EncryptionError, match="2 to 64 silos"):
        Parameters.derive(silos)


def test_bits_that_do_not_fit_are_refused_with_those_that_do() -> None:
    with pytest.raises(EncryptionError, match="at most 2 digits fit"):
        Parameters.derive(8, 19, digits=3)
    with pytest.raises(EncryptionError, match="2 to 24 bits"):
        Parameters.derive(8, 30)


def test_digest_tells_parameters_apart() -> None:
    digests = {Parameters.derive(n, b).digest for n in (2, 3, 4) for b in (12, 16, 19)}
    assert len(digests) == 9
    assert Parameters.derive(3).digest != Parameters.derive(3, scheme="none").digest
