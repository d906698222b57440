"""Parameters are derived from silos and bits, and refused where sums could be wrong."""

import math
from fractions import Fraction

import pytest

from blindsum.he.parameters import (
    MAX_REAL_BITS,
    PRIME,
    RESIDUAL_LIMIT,
    RING_DEGREE,
    Parameters,
    dropped,
)
from blindsum.platform.errors import EncryptionError


@pytest.mark.parametrize("silos", [2, 3, 5, 8, 16, 32, 64])
def test_defaults_leave_several_digits_and_room(silos: int) -> None:
    p = Parameters.derive(silos)
    assert (p.digits, p.bits) == (3, 12) if silos <= 8 else p.digits == 2 and p.bits >= 16
    assert p.digits * p.summed_bits <= p.real_bits <= MAX_REAL_BITS
    assert silos * p.limit < 2 ** (p.summed_bits - 1)


@pytest.mark.parametrize(
    ("silos", "bits", "digits"),
    [(8, 12, 3), (8, 19, 2), (32, 17, 2), (64, 8, 3), (3, 4, 8), (2, 2, 17)],
)
def test_measured_choices_of_the_design(silos: int, bits: int, digits: int) -> None:
    assert Parameters.derive(silos, bits).digits == digits


@pytest.mark.parametrize(
    ("silos", "two", "three"),
    [
        (2, 24, 16),
        (3, 23, 15),
        (4, 23, 14),
        (5, 22, 13),
        (8, 21, 13),
        (9, 20, 12),
        (16, 19, 11),
        (17, 18, 10),
        (32, 18, 10),
        (33, 17, 9),
        (64, 16, 8),
    ],
)
def test_the_documented_table_lists_the_limits(silos: int, two: int, three: int) -> None:
    for digits, bits in ((2, two), (3, three)):
        assert Parameters.derive(silos, bits, digits=digits).digits == digits
        if bits < 24:
            with pytest.raises(EncryptionError, match="are not exact"):
                Parameters.derive(silos, bits + 1, digits=digits)
    Parameters.derive(silos, 24, digits=1)


def every(silos: int) -> list[Parameters]:
    derived = [Parameters.derive(silos, bits) for bits in range(2, 25)]
    return [*derived, *(Parameters.derive(silos, bits, digits=1) for bits in (2, 24))] + [
        derived[0].exact
    ]


@pytest.mark.parametrize("silos", range(2, 65))
def test_nothing_wraps_and_digits_leave_room_to_detect_a_wrong_total(silos: int) -> None:
    for p in every(silos):
        assert silos * 2 ** (p.real_bits - 1) * p.scale + p.scale // 2 <= PRIME // 2
        assert silos * 2 ** (p.real_bits - 1) < 2**53, "the hash is exact below"
        for limit, bits in ((p.limit, p.summed_bits), (p.count_limit, p.real_bits)):
            assert 2 * silos * limit + 1 <= 255 / 256 * 2**bits


@pytest.mark.parametrize("silos", range(2, 65))
def test_failure_probability_is_below_2_to_minus_80(silos: int) -> None:
    """An independent bound: of what is certain, the worst case; of the rest, the tail of a
    sub-Gaussian variable at what is left of half a unit, in log space."""
    for p in every(silos):
        words = p.words
        certain = sum(
            Fraction(count * 2 ** dropped(width), 2)
            for count, width in ((silos, words.upload), (1, words.first))
            if width < 8
        )
        left = float(Fraction(p.scale, 2) - certain)
        variance = 10.5 * silos
        if words.second < 8:
            variance += 4 ** dropped(words.second) * RING_DEGREE / 12
        tail = 1 - left**2 / 2 / variance / math.log(2)
        assert tail <= -80 or 21 * silos + (words.second < 8) * 1e9 < left


def test_as_many_bits_are_left_out_as_allowed() -> None:
    """At 12 bits and three silos: 2 bytes a value up, 4.33 down. The residual limit holds for
    honest sums, or every round would be refused now and then."""
    p = Parameters.derive(3, 12)
    assert p.words == (6, 6, 7) and p.digits == 3
    most = 3 * 2**11 + 2**11 + 63 + 10.6 * 2**4 * math.sqrt(RING_DEGREE / 12)
    assert most < RESIDUAL_LIMIT * p.scale
    assert Parameters.derive(8, 12).words == (7, 7, 8)
    assert Parameters.derive(3, scheme="none").words == (8, 8, 0)


@pytest.mark.parametrize(
    ("silos", "up", "down"),
    [
        (range(2, 5), (2.0, 2.0), (4.3, 4.4)),
        (range(5, 9), (2.3, 2.4), (4.6, 5.0)),
        (range(9, 17), (2.3, 3.5), (5.0, 7.5)),
        (range(17, 33), (3.5, 4.0), (7.5, 8.0)),
        (range(33, 65), (4.0, 4.0), (7.5, 8.0)),
    ],
)
def test_the_documented_table_lists_the_bytes_of_a_value(
    silos: range, up: tuple[float, float], down: tuple[float, float]
) -> None:
    derived = [Parameters.derive(n) for n in silos]
    ups = [p.words.upload / p.digits for p in derived]
    downs = [(p.words.first + p.words.second) / p.digits for p in derived]
    assert up[0] <= min(ups) and max(ups) <= up[1]
    assert down[0] <= min(downs) and max(downs) <= down[1]


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
