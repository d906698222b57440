"""A keyed linear hash by which every silo verifies that a total is the sum of the uploads.

The silos share a secret that no aggregator has. HKDF-SHA256 (RFC 5869) and ChaCha20 (RFC 8439)
derive from it elements of the field of p = 2^61 - 1, for each of two folds:

    v_k   one for each packed real of a chunk, fixed for a key ceremony
    r_c   one for each chunk of an exchange, fixed for a key ceremony
    o     an offset, fresh for each exchange

A silo hashes the masked, packed reals x_ck that it encrypts:

    h = sum over c of r_c * (sum over k of v_k * x_ck)  mod p

It hides h under one-time masks that it shares with each other silo and that cancel in the sum over
the roster. The roster's first silo also adds o. The resulting words, one per fold, go into the
signed header of the upload. The aggregator adds the words like the ciphertexts, and the result must
be o + h(total).

- Reals and decrypted sums are integers below 2^53 in magnitude, and the hash is linear over them:
  an honest total always passes.
- A total that differs in any real differs by integers below p that are not all zero. Whatever words
  come with it, it passes only if a polynomial of degree two in r and v takes one particular value.
  The probability of that is at most 2/p per fold (Schwartz, J. ACM 1980), 2^-120 for both.
  (Without encryption, reals are not bounded, and nothing is claimed.)
- The words are tags as in Wegman and Carter (JCSS 1981): one universal hash, with an offset per
  message that is used once. Their sum is uniform to anyone who lacks o, and one silo's words are
  uniform to anyone who lacks the seed of one of its pairs. So r and v are as unknown after any
  number of exchanges as before. The first total that fails ends the use of the keys.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher as StreamCipher
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from blindsum.he.packing import Integers
from blindsum.he.parameters import RING_DEGREE
from blindsum.platform.errors import EncryptionError, KeyRefused, UploadRefused

PRIME = (1 << 61) - 1
FOLDS = 2
Words = tuple[int, ...]
"""FOLDS elements of the field."""

NO_WORDS: Words = (0,) * FOLDS
_WRITTEN = re.compile(rf"[0-9a-f]{{{16 * FOLDS}}}")

# numpy multiplies matrices in doubles. To be exact, the products of a real's and a multiplier's
# limbs, summed over a chunk, must stay below 2^53: they have 18 + 21 + 12 bits.
_REAL_LIMB, _LIMB = 18, 21
_REAL_LIMBS, _LIMBS = 3, 3


def added(one: Words, other: Words) -> Words:
    """Return the sum of two hashes, word by word."""
    return tuple((a + b) % PRIME for a, b in zip(one, other, strict=True))


def written(words: Words) -> str:
    """Return words as frames carry them: 16 hexadecimal digits per word."""
    return "".join(f"{word:016x}" for word in words)


def read(text: object) -> Words:
    """Read words in the form that `written` returns.

    Raises:
        UploadRefused: the text does not have that form.
    """
    if isinstance(text, str) and _WRITTEN.fullmatch(text):
        words = tuple(int(text[at : at + 16], 16) for at in range(0, len(text), 16))
        if max(words) < PRIME:
            return words
    raise UploadRefused("received a frame whose check words are not elements of the field")


def keystream(key: bytes, salt: bytes, info: bytes) -> Any:
    """Return ChaCha20 under a key that HKDF-SHA256 derives. `update` of zero bytes returns the next
    bytes of the stream.

    Args:
        salt: a value for one use: two streams with the same key, salt and info are identical.
    """
    derived = HKDF(hashes.SHA256(), 32, salt=salt, info=info).derive(key)
    # Every salt gives a different key, so the nonce may be constant.
    return StreamCipher(algorithms.ChaCha20(derived, bytes(16)), mode=None).encryptor()


def elements(stream: Any, count: int) -> npt.NDArray[np.uint64]:
    """Return the next uniform elements of the field, uint64 [count], from a keystream."""
    found = np.zeros(0, np.uint64)
    while found.size < count:
        drawn = np.frombuffer(stream.update(bytes(8 * (count - found.size))), "<u8")
        drawn = drawn & np.uint64(PRIME)
        found = np.concatenate([found, drawn[drawn != PRIME]])  # 61 bits can also be p, 0 mod p
    return found


def next_words(stream: Any) -> Words:
    """Return the next FOLDS elements of the field from a keystream."""
    return tuple(elements(stream, FOLDS).tolist())


class HashKey:
    """The hash's multipliers and offsets, derived from the silos' secret, for one key ceremony.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        drawn = elements(keystream(key, b"", b"blindsum hash of reals"), FOLDS * RING_DEGREE)
        low = np.uint64((1 << _LIMB) - 1)
        rows = drawn.reshape(FOLDS, RING_DEGREE)
        limbs = [rows >> np.uint64(_LIMB * i) & low for i in range(_LIMBS)]
        self.of_reals = np.concatenate(limbs).T.astype(np.float64)
        """Limbs of the multipliers of a chunk's reals, float64 [N, limbs * FOLDS]."""
        self._chunks = keystream(key, b"", b"blindsum hash of chunks")
        self._of_chunks: list[Words] = []

    def of_chunks(self, chunks: int) -> list[Words]:
        """Return the multipliers of at least that many chunks."""
        while len(self._of_chunks) < chunks:
            self._of_chunks.append(next_words(self._chunks))
        return self._of_chunks

    def offset(self, salt: bytes) -> Words:
        """Return the offset of one exchange."""
        return next_words(keystream(self._key, salt, b"blindsum hash offset"))

    def __reduce__(self) -> str:
        raise KeyRefused("a hash's key was about to be pickled", "It never leaves its silo.")


class LinearHash:
    """The hash of one exchange's packed reals, taken from the first to the last. The last chunk's
    missing reals are zero.

    Args:
        salt: a value for this exchange only, 32 bytes.
        reals: the number of reals of the exchange.
    """

    def __init__(self, key: HashKey, salt: bytes, reals: int) -> None:
        self.offset = key.offset(salt)
        self._multipliers = key.of_reals
        self._of_chunks = key.of_chunks(-(-reals // RING_DEGREE))
        self._left, self._done, self._words = reals, 0, NO_WORDS
        self._limbs = np.empty((_REAL_LIMBS, RING_DEGREE))  # a buffer reused between calls
        self._part = np.empty(RING_DEGREE, np.int64)

    def add(self, reals: Integers) -> None:
        """Add the next packed reals, int64 [reals], each below 2^53 in magnitude: whole chunks,
        except at the end.

        Raises:
            EncryptionError: there are more reals than the exchange has.
        """
        self._left -= len(reals)
        if self._left < 0:
            raise EncryptionError("more reals were to be hashed than the exchange has")
        if missing := -len(reals) % RING_DEGREE:
            reals = np.concatenate([reals, np.zeros(missing, np.int64)])
        for row in reals.reshape(-1, RING_DEGREE):
            products = self._products(row)
            of_chunk = self._of_chunks[self._done]
            self._words = tuple(
                (self._words[fold] + of_chunk[fold] * _joined(products[:, :, fold])) % PRIME
                for fold in range(FOLDS)
            )
            self._done += 1

    def _products(self, row: Integers) -> Integers:
        """Return the products of a chunk's limbs with the multipliers' limbs, summed over the
        chunk, int64 [real limbs, limbs, FOLDS]. The matrices are so small that numpy starts no
        threads, which cost more than they save where silos share a machine's cores."""
        limbs, part, last = self._limbs, self._part, _REAL_LIMBS - 1
        for i in range(last):
            np.right_shift(row, _REAL_LIMB * i, out=part)
            np.bitwise_and(part, (1 << _REAL_LIMB) - 1, out=part)
            limbs[i] = part
        np.right_shift(row, _REAL_LIMB * last, out=part)  # with the sign
        limbs[last] = part
        products = limbs @ self._multipliers
        return products.astype(np.int64).reshape(_REAL_LIMBS, _LIMBS, FOLDS)

    @property
    def words(self) -> Words:
        """The hash of all reals.

        Raises:
            EncryptionError: reals are missing.
        """
        if self._left:
            raise EncryptionError(f"the hash was requested while {self._left} reals were missing")
        return self._words

    def holds(self, words: Words) -> bool:
        """Return whether these are the words of the hashed total."""
        return words == added(self.words, self.offset)


def _joined(limbs: Any) -> int:
    """Combine sums of products of limbs, int64 [real limbs, limbs], into one integer."""
    total = 0
    for i, row in enumerate(limbs.tolist()):
        for j, product in enumerate(row):
            total += product << (_REAL_LIMB * i + _LIMB * j)
    return total
