"""CKKS sums are exact integers, and nothing but rounded integers comes out."""

import pickle

import numpy as np
import pytest
import tenseal.sealapi as seal

from blindsum.he import cipher
from blindsum.he.cipher import CkksAdder, CkksCipher, PlainAdder, PlainCipher, generate_secret_key
from blindsum.he.packing import pack, unpack
from blindsum.he.parameters import Parameters
from blindsum.platform.errors import EncryptionError, KeyRefused, UploadRefused


def views(chunks: list[bytes]) -> list[memoryview]:
    return [memoryview(chunk) for chunk in chunks]


@pytest.mark.parametrize(("silos", "bits"), [(2, 19), (3, 19), (3, 12), (8, 12), (64, 16)])
def test_encrypted_sums_equal_integer_sums_bit_for_bit(silos: int, bits: int) -> None:
    p = Parameters.derive(silos, bits)
    one = CkksCipher(p, generate_secret_key())
    vectors = np.random.default_rng(silos).integers(-p.limit, p.limit + 1, (silos, 20_011))
    vectors[:, :2] = [p.limit, -p.limit]
    adder, plain = CkksAdder(p), PlainAdder()
    for vector in vectors:
        adder.add(views(one.encrypt(pack(vector, p))))
        plain.add(views(PlainCipher().encrypt(pack(vector, p))))
    packed = one.decrypt(views(adder.total()))
    np.testing.assert_array_equal(unpack(packed, 20_011, p), vectors.sum(axis=0))
    np.testing.assert_array_equal(packed, PlainCipher().decrypt(views(plain.total())))


def test_noise_is_what_the_bound_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The residual of a sum of n has the predicted deviation: the bound rests on it."""
    p = Parameters.derive(8)
    one = CkksCipher(p, generate_secret_key())
    adder = CkksAdder(p)
    for _ in range(8):
        adder.add(views(one.encrypt(np.zeros((1, 4096), np.int64))))
    decoded: list[np.ndarray] = []
    real = np.rint
    monkeypatch.setattr(cipher.np, "rint", lambda x: (decoded.append(x.copy()), real(x))[1])
    one.decrypt(views(adder.total()))
    measured = (decoded[0] - real(decoded[0])).std() * p.scale
    assert measured == pytest.approx(np.sqrt(8 * (10.5 + 1 / 12) * 2048), rel=0.06)


def test_a_ciphertext_scaled_by_eight_releases_nothing() -> None:
    p = Parameters.derive(3)
    one = CkksCipher(p, generate_secret_key())
    adder = CkksAdder(p)
    chunk = one.encrypt(pack(np.ones(100, np.int64), p))
    for _ in range(64):  # the same upload again and again: noise grows with it, not with its root
        adder.add(views(chunk))
    with pytest.raises(EncryptionError, match="residual"):
        one.decrypt(views(adder.total()))


def test_another_key_decrypts_nothing() -> None:
    p = Parameters.derive(3)
    chunks = CkksCipher(p, generate_secret_key()).encrypt(pack(np.arange(100), p))
    with pytest.raises(EncryptionError, match="holds another key"):
        CkksCipher(p, generate_secret_key()).decrypt(views(chunks))


def test_ciphertext_of_equal_plaintext_differs() -> None:
    p = Parameters.derive(3)
    one = CkksCipher(p, generate_secret_key())
    row = np.zeros((1, 4096), np.int64)
    assert one.encrypt(row) != one.encrypt(row)


@pytest.mark.parametrize("bad", [b"", b"x", bytes(30_000), b"\x5e\xa1\x10\x04" + bytes(200)])
def test_what_is_no_ciphertext_is_refused_and_the_sum_is_unharmed(bad: bytes) -> None:
    p = Parameters.derive(3)
    one = CkksCipher(p, generate_secret_key())
    good = one.encrypt(pack(np.arange(10_000), p))
    adder = CkksAdder(p)
    adder.add(views(good))
    with pytest.raises(UploadRefused):
        adder.add(views([good[0], bad]))
    assert unpack(one.decrypt(views(adder.total())), 10_000, p).tolist() == list(range(10_000))


def test_truncated_oversized_and_foreign_chunks_are_refused() -> None:
    p = Parameters.derive(3)
    good = CkksCipher(p, generate_secret_key()).encrypt(np.zeros((1, 4096), np.int64))[0]
    literal = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    literal.set_poly_modulus_degree(4096)
    literal.set_coeff_modulus(seal.CoeffModulus.Create(4096, [54]))
    context = seal.SEALContext(literal, True, seal.SEC_LEVEL_TYPE.TC128)
    key = seal.KeyGenerator(context).secret_key()
    wire = cipher._Wire(context)
    plain = seal.Plaintext()
    seal.CKKSEncoder(context).encode([1j], 2.0**20, plain)
    foreign = wire.save(seal.Encryptor(context, key).encrypt_symmetric(plain))
    for bad in (good[:-3], good + bytes(60_000), foreign):
        with pytest.raises(UploadRefused):
            CkksAdder(p).add(views([bad]))
    with pytest.raises(UploadRefused, match="expected 1"):
        adder = CkksAdder(p)
        adder.add(views([good]))
        adder.add(views([good, good]))


def test_the_secret_key_cannot_be_pickled_or_printed() -> None:
    key = generate_secret_key()
    with pytest.raises(KeyRefused):
        pickle.dumps(key)
    assert len(repr(key)) < 20
    with pytest.raises(KeyRefused, match="does not belong"):
        CkksCipher(Parameters.derive(3), cipher.SecretKey(key.content[:100]))


def test_plain_chunks_are_checked_too() -> None:
    adder = PlainAdder()
    with pytest.raises(UploadRefused, match="expected 32768"):
        adder.add([memoryview(b"123")])
    assert adder.total() == []


def test_a_chunk_of_another_scale_is_refused_and_the_sum_is_unharmed() -> None:
    """Its addition would fail half way, after earlier chunks were added."""
    p, other = Parameters.derive(3), Parameters.derive(8)
    key = generate_secret_key()
    good = CkksCipher(p, key).encrypt(pack(np.arange(10_000), p))
    foreign = CkksCipher(other, key).encrypt(np.zeros((1, 4096), np.int64))
    adder = CkksAdder(p)
    adder.add(views(good))
    with pytest.raises(UploadRefused, match="another shape or scale"):
        adder.add(views([good[0], *foreign]))
    packed = CkksCipher(p, key).decrypt(views(adder.total()))
    assert unpack(packed, 10_000, p).tolist() == list(range(10_000))
