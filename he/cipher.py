"""Encrypt, add and decrypt packed reals: CKKS through `tenseal.sealapi`.

    Cipher    in a silo: holds the secret key; masks, encrypts and decrypts
    Adder     in an aggregator: holds only public parameters

A real is a coefficient of a plaintext (`blindsum.he.parameters`). A silo adds reals, times the
scale, to the first polynomial of an encryption of zero (`blindsum.he.zeros`).

    body of an upload   for each chunk, its coefficients of the first polynomial and a seed
    body of a sum       for each chunk, its coefficients of the first polynomial, then all N of the
                        second

A chunk has as many coefficients of the first polynomial as reals: N, or fewer at a vector's end.
Decryption of one coefficient needs that coefficient of the first polynomial, and all of the second.

`Cipher.decrypt` returns rounded integers and never SEAL's raw decoding: two full-precision
decodings of CKKS reveal the secret key (Li and Micciancio, EUROCRYPT 2021, section 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import tenseal.sealapi as seal

from blindsum.he.coefficients import (
    SEED_BYTES,
    Body,
    Coefficients,
    make_context,
    read_words,
    write_words,
)
from blindsum.he.masks import MaskStream
from blindsum.he.packing import Integers
from blindsum.he.parameters import PRIME, RESIDUAL_LIMIT, RING_DEGREE, Parameters
from blindsum.he.zeros import Zeros
from blindsum.platform.errors import EncryptionError, KeyRefused

_Q = np.uint64(PRIME)


class Adder(Protocol):
    """Adds the uploads' bodies without being able to read them.

    `first` is the index, within the exchange, of the first chunk of a range.
    """

    def add(self, first: int, body: Body, reals: int) -> None:
        """Add a range of one upload, uint8 [bytes], from chunk `first` on."""

    def total(self, first: int, reals: int) -> Body:
        """Return the sum's body of that range, uint8 [bytes], and drop it here."""

    def clear(self) -> None:
        """Drop all sums."""


class Cipher(Protocol):
    """Encrypts packed reals, int64, and decrypts their sum."""

    def encrypt(self, packed: Integers, masks: MaskStream) -> Body:
        """Encrypt reals, from the start of a chunk on, into uint8 [bytes]."""

    def decrypt(self, body: Body, reals: int) -> Integers:
        """Return the packed sums, int64 [reals], which the caller must take mod 2^K."""

    def prepare(self, chunks: int) -> None:
        """Begin what encrypting that many chunks needs and no data decides."""


@dataclass(frozen=True)
class SecretKey:
    """The CKKS secret key of one job, serialised. It exists only in silo processes.

    Its repr does not show the key, so that it cannot reach a log or a traceback by accident.
    """

    content: bytes = field(repr=False)

    def __reduce__(self) -> str:
        raise KeyRefused(
            "the secret key was about to be pickled",
            "Silos exchange it only in sealed form (blindsum.he.keys).",
        )


def generate_secret_key() -> SecretKey:
    """Return a fresh secret key, uniform ternary, from SEAL's generator, which the operating system
    seeds."""
    context = make_context()
    return SecretKey(Coefficients(context).save_key(seal.KeyGenerator(context).secret_key()))


class CkksCipher:
    """Secret-key CKKS of exactly packed, masked integers.

    Raises:
        KeyRefused: the key does not belong to these parameters.
    """

    def __init__(self, parameters: Parameters, key: SecretKey) -> None:
        self._scale, self._words = parameters.scale, parameters.words
        self._greatest = parameters.silos << (parameters.real_bits - 1)
        context = make_context()
        self._coefficients = Coefficients(context)
        secret = self._coefficients.load_key(key.content)
        self._key = self._coefficients.as_plaintext(secret)
        self._zeros = Zeros(key.content)

    def prepare(self, chunks: int) -> None:
        """Begin to make as many encryptions of zero, and return at once."""
        self._zeros.make_ahead(chunks)

    def encrypt(self, packed: Integers, masks: MaskStream) -> Body:
        # Masking is part of encryption: all silos share the key, which opens unmasked chunks.
        scaled = (masks.apply(packed) * self._scale).view(np.uint64)
        scaled += (scaled >> np.uint64(63)) * _Q  # negative numbers mod q
        body = np.empty(upload_bytes(len(packed), self._words.upload), np.uint8)
        for start, chunk in _chunks(body, len(packed), self._words.upload, SEED_BYTES):
            reals = scaled[start : start + RING_DEGREE]
            zero, seed = self._zeros.take()
            reals += zero[: reals.size]
            reals -= (reals >= _Q) * _Q
            write_words(reals, self._words.upload, chunk[:-SEED_BYTES])
            chunk[-SEED_BYTES:] = np.frombuffer(seed, np.uint8)
        return body

    def decrypt(self, body: Body, reals: int) -> Integers:
        """Return the packed sums, int64 [reals], which the caller must take mod 2^K.

        Raises:
            UploadRefused: a chunk is not a ciphertext of these parameters.
            EncryptionError: a coefficient is further than RESIDUAL_LIMIT from a multiple of the
                scale, or larger than the sum of n masked reals can be. The chunk is not the sum of
                at most n fresh uploads, or was encrypted with another key.
        """
        _, first, second = self._words
        found, seconds = np.empty(reals, np.uint64), []
        for start, chunk in _chunks(body, reals, first, RING_DEGREE * second):
            own = found[start : start + RING_DEGREE]
            own[:] = read_words(chunk[: own.size * first], first)
            seconds.append(read_words(chunk[own.size * first :], second))
        for index in range(0, len(seconds), 2):
            pair = seconds[index], seconds[min(index + 1, len(seconds) - 1)]
            for offset, words in enumerate(self._coefficients.products(*pair, self._key)):
                start = (index + offset) * RING_DEGREE
                own = found[start : start + RING_DEGREE]  # empty for the second of an odd pair
                own += words[: own.size]
        found -= (found >= _Q) * _Q
        return self._rounded(found.view(np.int64))

    def _rounded(self, residual: Integers) -> Integers:
        """Return the multiples of the scale next to coefficients, and leave the residuals."""
        residual -= (residual > PRIME // 2) * PRIME
        rounded = (residual + self._scale // 2) // self._scale
        residual -= rounded * self._scale
        most = int(RESIDUAL_LIMIT * self._scale)
        small = max(int(rounded.max()), -int(rounded.min())) <= self._greatest
        if not (small and max(int(residual.max()), -int(residual.min())) <= most):
            raise EncryptionError(
                "the total is not a sum of this job's uploads: one of its reals is too large, or "
                f"has a rounding residual above {RESIDUAL_LIMIT}; nothing was released",
                "A ciphertext was altered, or a silo has another key.",
            )
        return rounded


class CkksAdder:
    """Adds ciphertexts as they arrive. It holds one sum and the ciphertexts of one range."""

    def __init__(self, parameters: Parameters) -> None:
        self._words = parameters.words
        context = make_context()
        self._coefficients = Coefficients(context)
        self._evaluator = seal.Evaluator(context)
        self._sums: dict[int, object] = {}

    def clear(self) -> None:
        self._sums.clear()

    def add(self, first: int, body: Body, reals: int) -> None:
        """Add a range of one upload, from chunk `first` on.

        Raises:
            UploadRefused: a chunk is not a ciphertext of these parameters; the sum is unchanged.
        """
        width = self._words.upload
        read = [
            (read_words(chunk[:-SEED_BYTES], width), chunk[-SEED_BYTES:].tobytes())
            for _, chunk in _chunks(body, reals, width, SEED_BYTES)
        ]
        for index, (words, seed) in enumerate(read, first):
            one = self._coefficients.expanded(words, seed)
            if index in self._sums:
                self._evaluator.add_inplace(self._sums[index], one)
            else:
                self._sums[index] = one

    def total(self, first: int, reals: int) -> Body:
        width, second = self._words.first, self._words.second
        chunks = -(-reals // RING_DEGREE)
        held = [
            self._coefficients.polynomials(self._sums.pop(first + index)) for index in range(chunks)
        ]
        body = np.empty(sum_bytes(reals, width, second), np.uint8)
        places = list(_chunks(body, reals, width, RING_DEGREE * second))
        for index in range(0, chunks, 2):
            pair = held[index : index + 2]
            seconds = self._coefficients.to_coefficients(pair[0][1], pair[-1][1])
            for (start, chunk), (own, _), words in zip(places[index:], pair, seconds, strict=False):
                count = min(reals - start, RING_DEGREE)
                write_words(own[:count], width, chunk[: count * width])
                write_words(words, second, chunk[count * width :])
        return body


class PlainCipher:
    """The same integers without encryption or masks, for comparisons and audits."""

    def encrypt(self, packed: Integers, masks: MaskStream) -> Body:
        masks.hash(packed)
        return packed.view(np.uint8)

    def decrypt(self, body: Body, reals: int) -> Integers:
        return np.array(body).view(np.int64)

    def prepare(self, chunks: int) -> None:
        pass


class PlainAdder:
    """Adds unencrypted reals, for comparisons and audits only."""

    def __init__(self) -> None:
        self._sums: dict[int, Integers] = {}

    def clear(self) -> None:
        self._sums.clear()

    def add(self, first: int, body: Body, reals: int) -> None:
        self._sums[first] = self._sums.get(first, np.int64(0)) + np.array(body).view(np.int64)

    def total(self, first: int, reals: int) -> Body:
        return self._sums.pop(first).view(np.uint8)


def adder(parameters: Parameters) -> Adder:
    """Return a fresh adder for one exchange."""
    return CkksAdder(parameters) if parameters.scheme == "ckks" else PlainAdder()


def body_bytes(parameters: Parameters, reals: int) -> tuple[int, int]:
    """Return the sizes in bytes of an upload's and of a sum's body of that many reals."""
    words = parameters.words
    if parameters.scheme == "none":
        return reals * words.upload, reals * words.first
    return upload_bytes(reals, words.upload), sum_bytes(reals, words.first, words.second)


def upload_bytes(reals: int, width: int) -> int:
    """Return the size of an upload's body, with coefficients of `width` bytes."""
    return reals * width + -(-reals // RING_DEGREE) * SEED_BYTES


def sum_bytes(reals: int, first: int, second: int) -> int:
    """Return the size of a sum's body, with coefficients of `first` and `second` bytes."""
    return reals * first + -(-reals // RING_DEGREE) * RING_DEGREE * second


def _chunks(body: Body, reals: int, width: int, rest: int) -> Iterator[tuple[int, Body]]:
    """Yield the chunks of a body, each with the index of its first real.

    Args:
        width: bytes of each coefficient of the first polynomial.
        rest: bytes of a chunk after those.
    """
    at = 0
    for start in range(0, reals, RING_DEGREE):
        size = min(reals - start, RING_DEGREE) * width + rest
        yield start, body[at : at + size]
        at += size
