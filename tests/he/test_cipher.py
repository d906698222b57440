"""CKKS sums are exact integers, and decryption returns only rounded integers."""

import pickle

import numpy as np
import pytest
import tenseal.sealapi as seal
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsum.he import cipher
from blindsum.he.cipher import CkksAdder, CkksCipher, PlainAdder, PlainCipher, generate_secret_key
from blindsum.he.coefficients import SUM_BYTES, UPLOAD_BYTES, Coefficients, make_context
from blindsum.he.packing import pack, unpack
from blindsum.he.parameters import RING_DEGREE, Parameters
from blindsum.platform.errors import EncryptionError, KeyRefused, UploadRefused
from tests.he.parties import add_all, bare


@pytest.mark.parametrize(
    ("silos", "bits", "values"),
    [
        (2, 12, 1_000_003),
        (2, 22, 20_011),
        (3, 12, 1_500_001),
        (3, 19, 20_011),
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
    vectors[:, :2] = [p.limit, -p.limit]
    adder = CkksAdder(p)
    add_all(p, vectors, one, adder)
    packed = one.decrypt(adder.total(0, p.chunks(values)))
    np.testing.assert_array_equal(unpack(packed, values, p), vectors.sum(axis=0))


def test_plain_sums_are_the_same_integers() -> None:
    p = Parameters.derive(3)
    vectors = np.random.default_rng(1).integers(-p.limit, p.limit + 1, (3, 20_011))
    adder = PlainAdder()
    add_all(p, vectors, PlainCipher(), adder)
    packed = PlainCipher().decrypt(adder.total(0, p.chunks(20_011)))
    np.testing.assert_array_equal(unpack(packed, 20_011, p), vectors.sum(axis=0))


def test_noise_has_the_deviation_that_the_bound_assumes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The residual of a sum of n has the predicted deviation, on which the bound rests."""
    p = Parameters.derive(8)
    one = CkksCipher(p, generate_secret_key())
    adder = CkksAdder(p)
    for _ in range(8):
        adder.add(0, one.encrypt(np.zeros((1, RING_DEGREE), np.int64), bare(p, 1)))
    decoded: list[np.ndarray] = []
    real = np.rint

    def spy(x: np.ndarray, out: np.ndarray) -> None:
        decoded.append(x.copy())
        real(x, out=out)

    monkeypatch.setattr(cipher.np, "rint", spy)
    one.decrypt(adder.total(0, 1))
    measured = (decoded[0] - real(decoded[0])).std() * p.scale
    assert measured == pytest.approx(np.sqrt(8 * (10.5 + 1 / 12) * 2048), rel=0.06)


def test_a_ciphertext_scaled_by_eight_releases_nothing() -> None:
    """Every coefficient times eight: plaintext and noise grow eightfold."""
    p = Parameters.derive(3)
    one = CkksCipher(p, generate_secret_key())
    adder = CkksAdder(p)
    adder.add(0, one.encrypt(pack(np.ones(100, np.int64), p), bare(p, 1)))
    for _ in range(3):
        ciphertext = adder._sums[0]
        adder._evaluator.add_inplace(ciphertext, ciphertext)
    with pytest.raises(EncryptionError, match="residual"):
        one.decrypt(adder.total(0, 1))


def moved(one: CkksCipher, p: Parameters, by: float) -> np.ndarray:
    """Return a ciphertext of zeros plus a plaintext that moves its first real to `by`, noise
    included; it is redrawn until the real is within 0.01 of `by`."""
    plain = seal.Plaintext()
    while True:
        adder = CkksAdder(p)
        adder.add(0, one.encrypt(np.zeros((1, RING_DEGREE), np.int64), bare(p, 1)))
        one._encoder.encode([complex(by)] + [0j] * (RING_DEGREE // 2 - 1), float(p.scale), plain)
        adder._evaluator.add_plain_inplace(adder._sums[0], plain)
        one._decryptor.decrypt(adder._sums[0], plain)
        if abs(one._encoder.decode_complex(plain)[0].real - by) < 0.01:
            return adder.total(0, 1)


def test_a_real_that_lies_between_integers_releases_nothing() -> None:
    p = Parameters.derive(3)
    one = CkksCipher(p, generate_secret_key())
    assert not one.decrypt(moved(one, p, 0.40)).any()
    for by in (0.44, -0.44):
        with pytest.raises(EncryptionError, match="residual above 0.42"):
            one.decrypt(moved(one, p, by))


def test_a_real_beyond_the_reach_of_all_silos_releases_nothing() -> None:
    """Beyond 2^52 doubles have no fractional part, so the residual alone detects nothing."""
    p = Parameters.derive(3)
    one = CkksCipher(p, generate_secret_key())
    most = 3 * 2 ** (p.real_bits - 1)
    assert one.decrypt(moved(one, p, most - 5))[0, 0] == most - 5
    for by in (most + 5, -most - 5):
        with pytest.raises(EncryptionError, match="one of its reals is too large"):
            one.decrypt(moved(one, p, by))


def test_another_key_decrypts_nothing() -> None:
    p = Parameters.derive(3)
    adder = CkksAdder(p)
    packed = pack(np.arange(100), p)
    adder.add(0, CkksCipher(p, generate_secret_key()).encrypt(packed, bare(p, 1)))
    with pytest.raises(EncryptionError, match="has another key"):
        CkksCipher(p, generate_secret_key()).decrypt(adder.total(0, 1))


def test_ciphertext_of_equal_plaintext_differs() -> None:
    p = Parameters.derive(3)
    one = CkksCipher(p, generate_secret_key())
    row = np.zeros((1, RING_DEGREE), np.int64)
    first, second = (one.encrypt(row, bare(p, 1)) for _ in range(2))
    assert (first != second).mean() > 0.9


def test_a_chunk_that_is_not_a_ciphertext_is_refused_and_the_sum_is_unharmed() -> None:
    """A word of the second of two chunks is beyond the modulus; the first is subtracted again."""
    p = Parameters.derive(3)
    one = CkksCipher(p, generate_secret_key())
    good = one.encrypt(pack(np.arange(10_000), p), bare(p, 2))
    bad = good.copy()
    bad[1, : UPLOAD_BYTES // 2] = 255
    adder = CkksAdder(p)
    for begun in (False, True):
        with pytest.raises(UploadRefused, match="not a ciphertext"):
            adder.add(0, bad)
        if not begun:
            assert not adder._sums
            adder.add(0, good)
    total = adder.total(0, 2)
    assert unpack(one.decrypt(total), 10_000, p).tolist() == list(range(10_000))
    total[0, :8] = 255
    with pytest.raises(UploadRefused, match="not a ciphertext"):
        one.decrypt(total)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_chunks_hold_coefficients_and_seed_and_nothing_else(seed: int) -> None:
    """Any words below the modulus and any seed survive the way to a chunk and back."""
    context = make_context()
    one = Coefficients(context, 4096.0)
    random = np.random.default_rng(seed)
    modulus = one_modulus()
    words = random.integers(0, modulus, RING_DEGREE, dtype=np.uint64)
    words[:4] = [0, modulus - 1, 1, 1 << 59]
    chunk = np.zeros(UPLOAD_BYTES, np.uint8)
    full = np.zeros(SUM_BYTES, np.uint8)
    packed = words.reshape(16, -1)
    shifts = (np.arange(15, dtype=np.uint64) * 4)[:, None]
    chunk[:-64] = (packed[:15] | ((packed[15] >> shifts) << np.uint64(60))).view(np.uint8).ravel()
    chunk[-64:] = np.frombuffer(random.bytes(64), np.uint8)
    loaded = one.read_upload(chunk)
    one.write_sum(loaded, full)
    np.testing.assert_array_equal(full.view(np.uint64)[:RING_DEGREE], words)
    again = np.zeros(SUM_BYTES, np.uint8)
    one.write_sum(one.read_sum(full), again)
    np.testing.assert_array_equal(again, full)
    assert loaded.scale == 4096.0 and loaded.size() == 2


def one_modulus() -> int:
    literal = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    literal.set_poly_modulus_degree(RING_DEGREE)
    literal.set_coeff_modulus(seal.CoeffModulus.Create(RING_DEGREE, [60]))
    return int(literal.coeff_modulus()[0].value())


def test_a_stream_that_seal_compressed_is_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum of zeros compresses, so its stream is decompressed before it is read."""
    p = Parameters.derive(3)
    one = Coefficients(make_context(), float(p.scale))
    zeros = np.zeros(SUM_BYTES, np.uint8)
    zeros.view(np.uint64)[::7] = 12345
    written = np.ones(SUM_BYTES, np.uint8)
    one.write_sum(one.read_sum(zeros), written)
    np.testing.assert_array_equal(written, zeros)


def test_the_secret_key_cannot_be_pickled_or_printed() -> None:
    key = generate_secret_key()
    with pytest.raises(KeyRefused):
        pickle.dumps(key)
    assert len(repr(key)) < 20
    with pytest.raises(KeyRefused, match="does not belong"):
        CkksCipher(Parameters.derive(3), cipher.SecretKey(key.content[:100]))
