"""Packing is exact over the whole range; quantising is unbiased and refuses NaN."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsum.he.packing import (
    adapted_range,
    pack,
    quantise,
    require_counts,
    require_finite,
    square_sum,
    unpack,
    unpack_counts,
)
from blindsum.he.parameters import Parameters
from blindsum.platform.errors import EncryptionError


@st.composite
def parameters(draw: st.DrawFn) -> Parameters:
    silos, bits = draw(st.integers(2, 64)), draw(st.integers(2, 24))
    most = Parameters.derive(silos, bits).digits
    return Parameters.derive(silos, bits, digits=draw(st.integers(1, most)))


@settings(max_examples=60, deadline=None)
@given(
    p=parameters(),
    size=st.integers(1, 30_000),
    seed=st.integers(0, 2**32 - 1),
    extreme=st.booleans(),
)
def test_sums_of_packed_reals_unpack_to_sums_of_integers(
    p: Parameters, size: int, seed: int, extreme: bool
) -> None:
    random = np.random.default_rng(seed)
    if extreme:
        vectors = random.choice([-p.limit, 0, p.limit], (p.silos, size))
    else:
        vectors = random.integers(-p.limit, p.limit + 1, (p.silos, size))
    packed = sum(pack(v, p) for v in vectors)
    assert isinstance(packed, np.ndarray) and packed.shape == (p.reals(size),)
    np.testing.assert_array_equal(unpack(packed, size, p), vectors.sum(axis=0))


@pytest.mark.parametrize(("silos", "bits"), [(2, 22), (3, 19), (8, 12), (64, 24), (3, 4), (2, 2)])
def test_millions_of_values_that_do_not_fill_the_last_chunk(silos: int, bits: int) -> None:
    """With D = 2, 2, 3, 1, 8 and 17; the last has the most bits that a real may have, 51."""
    p = Parameters.derive(silos, bits)
    random = np.random.default_rng(0)
    one = random.integers(-p.limit, p.limit + 1, 2_000_003)
    packed = pack(one, p) * (silos - 1) + pack(one[::-1], p)
    np.testing.assert_array_equal(unpack(packed, one.size, p), one * (silos - 1) + one[::-1])


def test_an_integer_beyond_the_limit_is_refused() -> None:
    p = Parameters.derive(3)
    for value in (p.limit + 1, -p.limit - 1):
        with pytest.raises(EncryptionError, match="exceeds the limit"):
            pack(np.array([0, value]), p)
    for shapeless in (np.array([], np.int64), np.ones((2, 2), np.int64), np.int64(3)):
        with pytest.raises(EncryptionError, match="cannot be packed"):
            pack(shapeless, p)  # type: ignore[arg-type]


def test_a_sum_that_no_roster_can_reach_is_refused() -> None:
    p = Parameters.derive(2, 19)
    packed = pack(np.full(9001, p.limit), p)
    assert (unpack(packed * 2, 9001, p) == 2 * p.limit).all()
    one_more = packed * 2 + pack(np.eye(1, 9001, dtype=np.int64)[0], p)
    beyond_the_end = packed + pack(np.eye(1, 9002, 9001, dtype=np.int64)[0], p)
    for wrong in (packed * 64, one_more, -one_more, beyond_the_end):
        with pytest.raises(EncryptionError, match="not the sum of one upload from each silo"):
            unpack(wrong, 9001, p)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinite_values_are_refused(bad: float) -> None:
    with pytest.raises(EncryptionError, match="NaN or infinite"):
        quantise(np.array([0.0, bad]), 1.0, Parameters.derive(3), np.random.default_rng(0))
    with pytest.raises(EncryptionError, match="NaN or infinite"):
        require_finite(np.array([0.0, bad]))


@settings(max_examples=50, deadline=None)
@given(bound=st.floats(1e-6, 1e6), seed=st.integers(0, 2**32 - 1))
def test_quantised_values_are_within_one_unit_and_in_range(bound: float, seed: int) -> None:
    p, random = Parameters.derive(3), np.random.default_rng(seed)
    values = random.uniform(-1.5 * bound, 1.5 * bound, 1000)
    quantised = quantise(values, bound, p, random)
    unit = bound / p.limit
    assert np.abs(quantised.integers).max() <= p.limit
    assert np.abs(quantised.integers * unit - np.clip(values, -bound, bound)).max() <= unit * 1.001
    assert quantised.saturated == np.count_nonzero(np.abs(values) > bound)
    assert quantised.large == np.count_nonzero(np.abs(values) > bound / 8)


def test_the_largest_draw_stays_within_the_limit() -> None:
    class Greatest:
        def random(self, out: np.ndarray) -> np.ndarray:
            return np.full(out.shape, 1 - 2.0**-53)

    for bits in (2, 12, 19, 24):
        p = Parameters.derive(2, bits)
        quantised = quantise(np.array([5.0, -5.0, 0.2]), 1.0, p, Greatest())  # type: ignore[arg-type]
        assert np.abs(quantised.integers).max() <= p.limit


def test_stochastic_rounding_is_unbiased() -> None:
    p = Parameters.derive(3, 8)
    unit = 1.0 / p.limit
    values = np.full(200_000, 0.3 * unit)
    mean = quantise(values, 1.0, p, np.random.default_rng(1)).integers.mean()
    assert abs(mean - 0.3) < 5 * np.sqrt(0.21 / 200_000)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), silos=st.integers(2, 64))
def test_sums_of_counts_are_exact_and_show_no_carry(data: st.DataObject, silos: int) -> None:
    """A count is one digit. Split into several, equal totals of different counts would differ."""
    p, bits = Parameters.derive(silos), data.draw(st.integers(2, 24))
    for one in (p, Parameters.derive(silos, bits)):
        most = one.count_limit
        assert most > 2**36
        counts = data.draw(st.lists(st.integers(-most, most), min_size=silos, max_size=silos))
        summed = np.sum([require_counts(np.array([c]), one) for c in counts], axis=0)
        assert unpack_counts(summed, one).tolist() == [sum(counts)] == summed.tolist()
        with pytest.raises(EncryptionError, match="a count"):
            require_counts(np.array([0, most + 1]), one)
        with pytest.raises(EncryptionError, match="not the sum of one upload"):
            unpack_counts(np.array([silos * most + 1]), one)


def test_exact_sums_have_as_many_bits_as_fit() -> None:
    assert [Parameters.derive(n).exact.bits for n in (2, 3, 8, 16, 64)] == [50, 49, 46, 43, 38]
    for p in (Parameters.derive(3).exact, Parameters.derive(64).exact):
        assert p.digits == 1 and p.summed_bits == p.real_bits


def test_the_range_follows_public_shares_and_stays_near_the_jobs() -> None:
    assert adapted_range(1.0, 1.0, saturated=0.01, large=0.5) == 2.0
    assert adapted_range(1.0, 1.0, saturated=0.0, large=0.0) == 0.5
    assert adapted_range(1.0, 1.0, saturated=0.0, large=0.001) == 1.0
    low = high = 0.3
    for _ in range(40):
        low, high = adapted_range(low, 0.3, 0, 0), adapted_range(high, 0.3, 1, 1)
    assert low == 0.3 * 2**-10 and high == 0.3 * 2**10


def test_squares_are_summed_exactly() -> None:
    random = np.random.default_rng(0)
    for greatest in (1, 1 << 15, 1 << 22, 1 << 36):
        integers = random.integers(-greatest, greatest + 1, 5000)
        assert square_sum(integers) == sum(int(i) ** 2 for i in integers)


def test_a_range_that_is_too_wide_or_too_narrow_adapts_in_a_few_rounds() -> None:
    p, random = Parameters.derive(3, 12), np.random.default_rng(0)
    for start in (100.0, 1e-3):
        at = start
        for _ in range(20):
            quantised = quantise(random.normal(0, 0.02, 50_000), at, p, random)
            at = adapted_range(at, start, quantised.saturated / 50_000, quantised.large / 50_000)
        assert 0.06 < at < 0.8
