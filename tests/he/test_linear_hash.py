"""The hash by which silos verify totals, compared with exact integers."""

import hashlib
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsum.he.linear_hash import (
    FOLDS,
    NO_WORDS,
    PRIME,
    HashKey,
    LinearHash,
    added,
    elements,
    keystream,
    read,
    written,
)
from blindsum.he.masks import hash_of
from blindsum.he.packing import Integers
from blindsum.he.parameters import RING_DEGREE, Parameters
from blindsum.platform.errors import EncryptionError, KeyRefused, UploadRefused
from tests.he.parties import exchange, pair_seeds

KEY, SALT = HashKey(b"k" * 32), b"s" * 32
GREATEST = 2**53 - 1


def hashed(reals: Integers, key: HashKey = KEY, salt: bytes = SALT) -> tuple[int, ...]:
    one = LinearHash(key, salt, reals.size)
    one.add(reals.ravel())
    return one.words


def reals(seed: int, chunks: int, greatest: int = GREATEST) -> Integers:
    return np.random.default_rng(seed).integers(
        -greatest, greatest, (chunks, RING_DEGREE), endpoint=True
    )


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    chunks=st.integers(1, 3),
    greatest=st.sampled_from([0, 1, 2**18, 2**36, GREATEST]),
)
def test_the_hash_follows_the_formula_of_its_docstring(
    seed: int, chunks: int, greatest: int
) -> None:
    packed = reals(seed, chunks, greatest)
    drawn = elements(keystream(b"k" * 32, b"", b"blindsum hash of reals"), FOLDS * RING_DEGREE)
    rows = elements(keystream(b"k" * 32, b"", b"blindsum hash of chunks"), FOLDS * chunks)
    for fold, word in enumerate(hashed(packed)):
        of_reals = drawn.reshape(FOLDS, -1)[fold].tolist()
        of_chunks = rows.reshape(-1, FOLDS)[:, fold].tolist()
        sums = [sum(v * x for v, x in zip(of_reals, row, strict=True)) for row in packed.tolist()]
        assert word == sum(r * s for r, s in zip(of_chunks, sums, strict=True)) % PRIME


def test_the_hash_depends_on_every_real_and_its_position() -> None:
    packed = reals(1, 2)
    honest = hashed(packed)
    for row, at, by in ((0, 0, 1), (1, 4095, -1), (0, 17, 2**52)):
        changed = packed.copy()
        changed[row, at] += by if abs(int(changed[row, at]) + by) <= GREATEST else -by
        assert all(a != b for a, b in zip(hashed(changed), honest, strict=True))
    assert hashed(packed[::-1]) != honest and hashed(packed[:, ::-1]) != honest
    assert hashed(packed, key=HashKey(b"o" * 32)) != honest
    assert KEY.offset(SALT) != KEY.offset(b"o" * 32), "every exchange has an offset of its own"


def test_parts_may_have_any_size_but_no_chunk_may_be_missing_or_extra() -> None:
    packed = reals(2, 5)
    one = LinearHash(KEY, SALT, packed.size)
    one.add(packed[:2].ravel())
    with pytest.raises(EncryptionError, match="while 12288 reals were missing"):
        _ = one.words
    one.add(packed[2:].ravel())
    assert one.words == hashed(packed)
    with pytest.raises(EncryptionError, match="more reals"):
        one.add(packed[:1, 0])


@pytest.mark.parametrize("silos", [2, 3, 8])
def test_the_silos_words_add_up_to_the_totals_and_reveal_nothing_alone(silos: int) -> None:
    p = Parameters.derive(silos)
    one = exchange(p, 2 * p.values_per_chunk)
    seeds = pair_seeds(one.roster)
    total, words, alone = np.zeros(2 * RING_DEGREE, np.int64), NO_WORDS, []
    for index, name in enumerate(one.roster):
        masks = seeds[name].open(one, KEY)
        masked = masks.apply(reals(index, 2, 2**20).ravel())
        total += masked
        words = added(words, masks.words)
        alone.append((masks.words, hash_of(one, KEY), masked))
    check = hash_of(one, KEY)
    check.add(total)
    assert check.holds(words) and not check.holds(added(words, (1, 0)))
    assert not check.holds(added(words, words)), "words of a total that was doubled"
    for own, hashing, masked in alone:
        hashing.add(masked)
        assert not hashing.holds(own) and own != hashing.words, "hidden by the others' masks"
    again = pair_seeds(one.roster)
    other = exchange(p, 2 * p.values_per_chunk, attempt=2)
    for changed, view in ((one, b"shown something else"), (other, b"")):
        masks = again[one.roster[0]].open(changed, KEY, view)
        masks.apply(reals(0, 2, 2**20).ravel())
        assert masks.words != alone[0][0]


def test_the_key_cannot_be_pickled() -> None:
    with pytest.raises(KeyRefused, match="about to be pickled"):
        pickle.dumps(KEY)


def test_elements_are_uniform_and_every_version_draws_the_same() -> None:
    drawn = elements(keystream(b"k" * 32, SALT, b"test"), 200_000)
    assert int(drawn.max()) < PRIME
    counts = np.bincount((drawn >> np.uint64(53)).astype(np.int64), minlength=256)
    expected = len(drawn) / 256
    assert ((counts - expected) ** 2 / expected).sum() < 360  # chi-squared, 255: p = 2e-5
    assert hashlib.sha256(drawn.tobytes()).hexdigest() == GOLDEN_ELEMENTS
    assert written(hashed(np.arange(2 * RING_DEGREE).reshape(2, -1) - 99)) == GOLDEN_WORDS
    assert written(KEY.offset(SALT)) == GOLDEN_OFFSET


GOLDEN_ELEMENTS = "b1f4bebcf9f447d42a1c9a3b6c16f3fcadc32b563cade2f333b1e3b64499e72a"
GOLDEN_OFFSET = "08f97cc6874fc362073cf409d6122d27"
GOLDEN_WORDS = "0f678b3efc466037139cfc6145fa8fcd"


@pytest.mark.parametrize(
    "text", ["", "0" * 31, "0" * 33, "F" * 32, "g" * 32, f"{PRIME:016x}" * 2, None, 5, " " * 32]
)
def test_malformed_words_are_refused(text: object) -> None:
    with pytest.raises(UploadRefused, match="not elements of the field"):
        read(text)
    assert read(written((3, PRIME - 1))) == (3, PRIME - 1)
