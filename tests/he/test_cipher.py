"""CKKS sums are exact integers, and decryption returns only rounded integers."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsum.he import cipher
from blindsum.he.cipher import (
    CkksAdder,
    CkksCipher,
    PlainAdder,
    PlainCipher,
    body_bytes,
    generate_secret_key,
)
from blindsum.he.coefficients import (
    SEED_BYTES,
    Coefficients,
    make_context,
    read_words,
    write_words,
)
from blindsum.he.packing import Integers, pack, unpack
from blindsum.he.parameters import PRIME, RESIDUAL_LIMIT, RING_DEGREE, Parameters, dropped
from blindsum.platform.errors import EncryptionError, KeyRefused, UploadRefused
from tests.he.parties import add_all, bare


@pytest.mark.parametrize(
    ("silos", "bits", "values"),
    [
        (2, 12, 1_000_003),
        (2, 24, 20_011),
        (3, 12, 1_500_001),
        (3, 19, 20_011),
        (3, 19, 1),
        (8, 12, 300_007),
        (8, 20, 20_011),
        (64, 16, 20_011),
        (64, 24, 9_001),
        (3, 4, 60_013),
        (2, 2, 130_003),
    ],
)
def test_encrypted_sums_equal_integer_sums_bit_for_bit(silos: int, bits: int, values: int) -> None:
    p = Parameters.derive(silos, bits)
    one = CkksCipher(p, generate_secret_key())
    vectors = np.random.default_rng(silos).integers(-p.limit, p.limit + 1, (silos, values))
    vectors[:, :1] = p.limit
    vectors[:, -1:] = -p.limit
    adder = CkksAdder(p)
    add_all(p, vectors, one, adder)
    reals = p.reals(values)
    body = adder.total(0, reals)
    assert body.size == body_bytes(p, reals)[1]
    np.testing.assert_array_equal(unpack(one.decrypt(body, reals), values, p), vectors.sum(axis=0))


@pytest.mark.parametrize("silos", [2, 3, 8, 33, 64])
def test_exact_sums_are_exact(silos: int) -> None:
    p = Parameters.derive(silos).exact
    one = CkksCipher(p, generate_secret_key())
    vectors = np.random.default_rng(silos).integers(-p.limit, p.limit + 1, (silos, 5_003))
    adder = CkksAdder(p)
    add_all(p, vectors, one, adder)
    found = one.decrypt(adder.total(0, 5_003), 5_003)
    np.testing.assert_array_equal(unpack(found, 5_003, p), vectors.sum(axis=0))


def test_plain_sums_are_the_same_integers() -> None:
    p = Parameters.derive(3, scheme="none")
    vectors = np.random.default_rng(1).integers(-p.limit, p.limit + 1, (3, 20_011))
    adder, reals = PlainAdder(), p.reals(20_011)
    add_all(p, vectors, PlainCipher(), adder)
    packed = PlainCipher().decrypt(adder.total(0, reals), reals)
    np.testing.assert_array_equal(unpack(packed, 20_011, p), vectors.sum(axis=0))


def residuals(one: CkksCipher, adder: CkksAdder, reals: int, scale: int) -> np.ndarray:
    """Return the errors of a sum's coefficients, in units of the ciphertext, as decryption finds
    them before it rounds."""
    found: list[np.ndarray] = []
    rounded = one._rounded

    def spy(coefficients: Integers) -> Integers:
        integers = rounded(coefficients)  # leaves the residuals in its argument
        found.append(coefficients.copy())
        return integers

    one._rounded = spy  # type: ignore[method-assign]
    one.decrypt(adder.total(0, reals), reals)
    return found[0]


@pytest.mark.parametrize(("silos", "bits"), [(3, 12), (8, 12), (8, 19), (64, 16)])
def test_errors_have_the_deviation_that_the_bound_assumes(silos: int, bits: int) -> None:
    """Fresh errors, and the errors of what is rounded off on the wire."""
    p = Parameters.derive(silos, bits)
    one, adder = CkksCipher(p, generate_secret_key()), CkksAdder(p)
    random, reach = np.random.default_rng(0), 1 << (p.real_bits - 1)
    for _ in range(silos):
        reals = random.integers(-reach, reach, 4 * RING_DEGREE)
        adder.add(0, one.encrypt(reals, bare(p, reals.size)), reals.size)
    errors = residuals(one, adder, 4 * RING_DEGREE, p.scale)
    words = p.words
    uniform = silos * 4.0 ** dropped(words.upload) * (words.upload < 8)
    # Sums of rounded coefficients lack those bits already, but for multiples of q: q is 1 mod 2^12.
    assert words.first >= words.upload or words.first == 7
    uniform += 4.0 ** dropped(words.first) * (words.first < words.upload)
    if words.second < 8:  # times the secret: two of three of its coefficients are not zero
        uniform += 4.0 ** dropped(words.second) * 2 / 3 * RING_DEGREE
    assert errors.std() == pytest.approx(np.sqrt(10.5 * silos + uniform / 12), rel=0.06)
    assert np.abs(errors).max() < RESIDUAL_LIMIT * p.scale


def test_a_ciphertext_scaled_by_64_releases_nothing() -> None:
    """Plaintext and errors grow 64-fold. (By eight, errors stay small enough: the hash detects
    it.)"""
    p = Parameters.derive(3)
    one, adder = CkksCipher(p, generate_secret_key()), CkksAdder(p)
    adder.add(0, one.encrypt(pack(np.ones(5000, np.int64), p), bare(p, 2500)), 2500)
    for _ in range(6):
        adder._evaluator.add_inplace(adder._sums[0], adder._sums[0])
    with pytest.raises(EncryptionError, match="residual"):
        one.decrypt(adder.total(0, 2500), 2500)


def moved(one: CkksCipher, p: Parameters, by: float) -> np.ndarray:
    """Return the sum of zeros with a first real that is moved by so many units."""
    adder = CkksAdder(p)
    adder.add(0, one.encrypt(np.zeros(9, np.int64), bare(p, 9)), 9)
    for first, add in (
        (int(by * p.scale) % PRIME, adder._evaluator.add_inplace),
        (0, adder._evaluator.sub_inplace),
    ):
        words = np.array([first], np.uint64)
        add(adder._sums[0], adder._coefficients.expanded(words, bytes(SEED_BYTES)))
    return adder.total(0, 9)


def test_a_real_that_lies_between_integers_releases_nothing() -> None:
    p = Parameters.derive(3)
    one = CkksCipher(p, generate_secret_key())
    assert not one.decrypt(moved(one, p, 0.30), 9).any()
    for by in (0.5, -0.5):
        with pytest.raises(EncryptionError, match="residual above 0.42"):
            one.decrypt(moved(one, p, by), 9)


def test_a_real_beyond_the_reach_of_all_silos_releases_nothing() -> None:
    p = Parameters.derive(3)
    one = CkksCipher(p, generate_secret_key())
    most = 3 << (p.real_bits - 1)
    assert one.decrypt(moved(one, p, most - 5), 9)[0] == most - 5
    assert (most + 6) * p.scale < PRIME // 2, "the scale leaves room for more"
    for by in (most + 5, -most - 5):
        with pytest.raises(EncryptionError, match="one of its reals is too large"):
            one.decrypt(moved(one, p, by), 9)


def test_another_key_decrypts_nothing() -> None:
    p = Parameters.derive(3)
    adder = CkksAdder(p)
    packed = pack(np.arange(100), p)
    body = CkksCipher(p, generate_secret_key()).encrypt(packed, bare(p, packed.size))
    adder.add(0, body, packed.size)
    with pytest.raises(EncryptionError, match="has another key"):
        CkksCipher(p, generate_secret_key()).decrypt(adder.total(0, packed.size), packed.size)


def test_ciphertext_of_equal_plaintext_differs() -> None:
    """Also where encryptions of zero were made ahead: each is used once."""
    p = Parameters.derive(3)
    one = CkksCipher(p, generate_secret_key())
    one.prepare(8)
    reals = np.zeros(2 * RING_DEGREE, np.int64)
    bodies = [one.encrypt(reals, bare(p, reals.size)) for _ in range(6)]
    chunks = np.stack(bodies).reshape(12, -1)
    assert len({chunk[-SEED_BYTES:].tobytes() for chunk in chunks}) == 12
    assert (chunks[0] != chunks[1:]).mean() > 0.9


def test_a_chunk_that_is_not_a_ciphertext_is_refused_and_the_sum_is_unharmed() -> None:
    """A word of the second of two chunks is beyond the modulus."""
    p = Parameters.derive(3, 19)
    one = CkksCipher(p, generate_secret_key())
    packed = pack(np.arange(10_000), p)
    good = one.encrypt(packed, bare(p, packed.size))
    bad = good.copy()
    bad[-SEED_BYTES - 904 * p.words.upload : -SEED_BYTES] = 255
    adder = CkksAdder(p)
    for begun in (False, True):
        with pytest.raises(UploadRefused, match="not a ciphertext"):
            adder.add(0, bad, packed.size)
        if not begun:
            assert not adder._sums
            adder.add(0, good, packed.size)
    total = adder.total(0, packed.size)
    assert unpack(one.decrypt(total, packed.size), 10_000, p).tolist() == list(range(10_000))
    first, second = RING_DEGREE * p.words.first, RING_DEGREE * p.words.second
    for wrong, at in ((total.copy(), slice(None, first)), (total.copy(), slice(-second, None))):
        wrong[at] = 255
        with pytest.raises(UploadRefused, match="not a ciphertext"):
            one.decrypt(wrong, packed.size)
    with pytest.raises(UploadRefused, match="not a ciphertext"):
        one.decrypt(np.zeros_like(total), packed.size)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), width=st.sampled_from([6, 7, 8]), count=st.integers(1, 4096))
def test_words_keep_their_high_bytes(seed: int, width: int, count: int) -> None:
    random = np.random.default_rng(seed)
    words = random.integers(0, PRIME, count, dtype=np.uint64)
    words[:3] = [0, PRIME - 1, PRIME - 2048][: min(count, 3)]
    body = np.zeros(count * width, np.uint8)
    write_words(words, width, body)
    read = read_words(body, width)
    rounding = np.abs(read.astype(np.int64) - words.astype(np.int64))
    assert rounding.max() <= (1 << dropped(width)) // 2
    assert int(read.max()) < PRIME
    again = np.zeros_like(body)
    write_words(read, width, again)
    np.testing.assert_array_equal(again, body)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_polynomials_pass_through_seal_unchanged(seed: int) -> None:
    """Coefficients and back, of any words below the modulus."""
    one, random = Coefficients(make_context()), np.random.default_rng(seed)
    words = random.integers(0, PRIME, (2, RING_DEGREE), dtype=np.uint64)
    words[:, :4] = [0, PRIME - 1, 1, 1 << 59]
    transformed = one.polynomials(one.of_second(words[1]))
    assert not transformed[0].any()
    back = one.to_coefficients(transformed[1], transformed[1])
    np.testing.assert_array_equal(back, [words[1], words[1]])
    loaded = one.expanded(words[0][:77], random.bytes(SEED_BYTES))
    first = one.polynomials(loaded)[0]
    np.testing.assert_array_equal(first[:77], words[0][:77])
    assert not first[77:].any()


def test_a_stream_that_seal_compressed_is_read_too() -> None:
    """Words with a pattern compress, so their stream is decompressed before it is read."""
    one = Coefficients(make_context())
    pattern = np.zeros(RING_DEGREE, np.uint64)
    pattern[::7] = 12345
    np.testing.assert_array_equal(one.polynomials(one.expanded(pattern, bytes(64)))[0], pattern)


def test_the_secret_key_cannot_be_pickled_or_printed() -> None:
    key = generate_secret_key()
    with pytest.raises(KeyRefused):
        pickle.dumps(key)
    assert len(repr(key)) < 20
    with pytest.raises(KeyRefused, match="does not belong"):
        CkksCipher(Parameters.derive(3), cipher.SecretKey(key.content[:100]))
