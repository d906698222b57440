"""Ciphertexts as bare coefficients: the wire carries nothing that follows from the parameters.

SEAL reads and writes its objects as streams, only to paths, and compresses them. For all objects of
one kind and context, a stream is the same except for its words (the coefficients) and the seed. So
this module keeps one uncompressed stream of each kind, and inserts words into it to load an object.
SEAL then checks every word against the modulus, as it does for any stream. The layout of a stream
is defined in SEAL 4.1: `serialization.h`, `ciphertext.cpp` (`save_members`), `dynarray.h`. This
module takes it from streams that SEAL wrote, and refuses to start if it is not as expected.

SEAL keeps polynomials of CKKS in NTT form, as values at roots of unity. `to_coefficients` returns
the coefficients, of which short vectors need only a few.
"""

from __future__ import annotations

import os
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tenseal.sealapi as seal

from blindsum.he.parameters import PRIME, PRIME_BITS, RING_DEGREE, dropped
from blindsum.platform.errors import EncryptionError, KeyRefused, UploadRefused

Words = npt.NDArray[np.uint64]
Body = npt.NDArray[np.uint8]

SEED_BYTES = 64
_WORDS = 8 * RING_DEGREE

_HEADER = 16  # magic, sizes, compression mode, and the size of the whole stream as uint64
_RAW_BLOCK = 10  # zstd's frame header and block header before a block that it stored uncompressed
_LAST_RAW = 1
_PLANES = {6: (4, 2), 7: (4, 2, 1), 8: (8,)}


def make_context() -> Any:
    """Return SEAL's context for the ring and the prime of `blindsum.he.parameters`."""
    literal = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    literal.set_poly_modulus_degree(RING_DEGREE)
    moduli = seal.CoeffModulus.Create(RING_DEGREE, [PRIME_BITS])
    if moduli[0].value() != PRIME:
        raise EncryptionError(
            "the installed SEAL uses another prime",
            "Install the version of tenseal that blindsum requires.",
        )
    literal.set_coeff_modulus(moduli)
    context = seal.SEALContext(literal, True, seal.SEC_LEVEL_TYPE.TC192)
    if not context.parameters_set():
        raise EncryptionError(f"SEAL refuses the parameters: {context.parameters_error_message()}")
    return context


class _File:
    """A memory file. SEAL saves to and loads from paths only."""

    def __init__(self, content: bytes = b"") -> None:
        self._file = os.memfd_create("seal")
        self.path = f"/proc/self/fd/{self._file}"
        self.put(0, content)

    def put(self, offset: int, content: Any) -> None:
        os.pwrite(self._file, content, offset)

    def get(self, *into: Any) -> int:
        """Fill the buffers from the start of the file, and return the number of bytes read."""
        return os.preadv(self._file, into, 0)

    def size(self) -> int:
        return os.fstat(self._file).st_size

    def wipe(self) -> None:
        os.ftruncate(self._file, 0)

    def __del__(self) -> None:
        os.close(self._file)


class _Stream:
    """The stream of one kind of object: its constant parts, and the places of those that vary.

    Args:
        body: an uncompressed body that SEAL wrote.
        words: the number of bytes of words in it.
        seed: the number of bytes from the end of the words to the end of the body.
    """

    def __init__(self, body: bytes, words: int, seed: int = 0) -> None:
        header = b"\x5e\xa1\x10\x04\x03\0\0\0" + struct.pack("<Q", _HEADER + len(body))
        start = len(body) - words - seed  # where the words start in the body
        self.constant = body[:start]
        self.file = _File(header + body)
        self.words_at = _HEADER + start
        self.seed_at = _HEADER + len(body) - SEED_BYTES
        # Buffers for a saved stream. The words have their own, so that they are aligned.
        self.head = bytearray(_HEADER + _RAW_BLOCK + start)
        self.words = np.empty(words // 8, "<u8")
        self.tail = bytearray(seed + 1)  # one byte more, to detect a stream that is too long
        self.size = len(self.head) + words + seed
        self.block = (len(body) << 3 | _LAST_RAW).to_bytes(3, "little")  # RFC 8878, 3.1.1.2

    def put(self, polynomial: int, words: Words) -> None:
        """Insert words, from that polynomial on."""
        self.file.put(self.words_at + _WORDS * polynomial, np.ascontiguousarray(words))


class Coefficients:
    """Reads and writes ciphertexts of one context, and keys as SEAL's own streams. A polynomial is
    uint64 [N]."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._saved = _File()
        self._evaluator = seal.Evaluator(context)
        self._learn()

    def fresh(self, ciphertext: Any) -> tuple[Words, bytes]:
        """Return the first polynomial of a fresh, seeded ciphertext, in NTT form, and the seed of
        its second."""
        words, seed = self._save(ciphertext, self._fresh)
        return words.copy(), seed

    def expanded(self, first: Words, seed: bytes) -> Any:
        """Return the ciphertext of a first polynomial and the seed of the second, which becomes
        that in NTT form. The first is only carried along.

        Args:
            first: the lowest coefficients, uint64, each below the modulus; the others are zero.
        """
        self._first[: first.size] = first
        self._first[first.size :] = 0
        self._fresh.put(0, self._first)
        self._fresh.file.put(self._fresh.seed_at, seed)
        return self._load(self._fresh)

    def polynomials(self, ciphertext: Any) -> tuple[Words, Words]:
        """Return the two polynomials of a ciphertext, as it holds them."""
        words = self._save(ciphertext, self._full)[0].copy()
        return words[:RING_DEGREE], words[RING_DEGREE:]

    def to_coefficients(self, one: Words, other: Words) -> tuple[Words, Words]:
        """Return the coefficients of two polynomials in NTT form. They pass through SEAL as a
        ciphertext, because it transforms nothing else.

        Raises:
            UploadRefused: `other` is zero, which SEAL takes for a ciphertext without a key.
        """
        self._full.put(0, one)
        self._full.put(1, other)
        both = self._load(self._full)
        self._transform(self._evaluator.transform_from_ntt_inplace, both)
        words = self._save(both, self._coefficients)[0].copy()
        return words[:RING_DEGREE], words[RING_DEGREE:]

    def of_second(self, second: Words) -> Any:
        """Return the ciphertext of a zero first polynomial and the coefficients of the second.

        Raises:
            UploadRefused: a coefficient is not below the modulus, or all are zero.
        """
        self._coefficients.put(0, self._zeros)
        self._coefficients.put(1, second)
        both = self._load(self._coefficients)
        self._transform(self._evaluator.transform_to_ntt_inplace, both)
        return both

    def products(self, one: Words, other: Words, factor: Any) -> tuple[Words, Words]:
        """Return the products of two polynomials with a plaintext, by their coefficients. The two
        pass through SEAL as one ciphertext.

        Args:
            factor: a plaintext in NTT form.

        Raises:
            UploadRefused: a coefficient is not below the modulus, or `other` is zero.
        """
        self._coefficients.put(0, one)
        self._coefficients.put(1, other)
        both = self._load(self._coefficients)
        self._transform(self._evaluator.transform_to_ntt_inplace, both)
        self._transform(lambda it: self._evaluator.multiply_plain_inplace(it, factor), both)
        self._transform(self._evaluator.transform_from_ntt_inplace, both)
        words = self._save(both, self._coefficients)[0].copy()
        return words[:RING_DEGREE], words[RING_DEGREE:]

    def as_plaintext(self, key: Any) -> Any:
        """Return a secret key as a plaintext: the decryption of the ciphertext (0, 1)."""
        plain, one = seal.Plaintext(), np.zeros(RING_DEGREE, np.uint64)
        one[0] = 1
        seal.Decryptor(self._context, key).decrypt(self.of_second(one), plain)
        return plain

    def save_key(self, key: Any) -> bytes:
        """Return a secret key as SEAL's own stream. This object keeps no copy."""
        try:
            return self._saved_by(key)
        finally:
            self._saved.wipe()

    def load_key(self, content: bytes) -> Any:
        """Return the secret key in one of SEAL's own streams.

        Raises:
            KeyRefused: it is not a secret key, or belongs to other parameters.
        """
        try:
            self._saved.put(0, content)
            key = seal.SecretKey()
            key.load(self._context, self._saved.path)
            return key
        except (RuntimeError, ValueError):
            raise KeyRefused(
                "the secret key does not belong to this job's parameters",
                "Start the job again: every run makes its own key.",
            ) from None
        finally:
            self._saved.wipe()

    def _learn(self) -> None:
        """Take the streams' constant parts from objects under a key that is then discarded."""
        key = seal.KeyGenerator(self._context).secret_key()
        fresh = seal.Encryptor(self._context, key).encrypt_zero_symmetric()
        self._first, self._zeros = np.zeros((2, RING_DEGREE), np.uint64)
        # After the words comes a nested stream: the generator's kind (one byte) and its seed.
        seed = _HEADER + 1 + SEED_BYTES
        self._fresh = _Stream(_inflated(self._saved_by(fresh)), _WORDS, seed)
        full = self._load(self._fresh)
        self._full = _Stream(_inflated(self._saved_by(full)), 2 * _WORDS)
        in_ntt_form = full.is_ntt_form()
        self._evaluator.transform_from_ntt_inplace(full)
        self._coefficients = _Stream(_inflated(self._saved_by(full)), 2 * _WORDS)
        starts = {self._fresh.words_at, self._full.words_at, self._coefficients.words_at}
        if len(starts) != 1 or full.size() != 2 or not in_ntt_form or full.is_ntt_form():
            raise EncryptionError(
                "the installed SEAL writes ciphertexts in an unknown layout",
                "Install the version of tenseal that blindsum requires.",
            )

    def _transform(self, transform: Any, ciphertext: Any) -> None:
        try:
            transform(ciphertext)
        except (RuntimeError, ValueError):
            raise UploadRefused("a chunk is not a ciphertext of this job's parameters") from None

    def _load(self, stream: _Stream) -> Any:
        loaded = seal.Ciphertext()
        try:
            loaded.load(self._context, stream.file.path)  # checks every word against the modulus
        except (RuntimeError, ValueError, IndexError):
            raise UploadRefused("a chunk is not a ciphertext of this job's parameters") from None
        return loaded

    def _save(self, thing: Any, stream: _Stream) -> tuple[Words, bytes]:
        """Return the words and the seed of an object. The words are valid until the next call.

        Words do not compress, so zstd usually stores them unchanged, and they are read directly
        from the stream. A stream that did compress is decompressed first.
        """
        thing.save(self._saved.path)
        read = self._saved.get(stream.head, stream.words, stream.tail)
        at = _HEADER + _RAW_BLOCK
        if read == stream.size and stream.head[at - 3 : at] == stream.block:
            constant, tail = bytes(stream.head[at:]), bytes(stream.tail[:-1])
        else:
            content = bytearray(self._saved.size())
            self._saved.get(content)
            body = _inflated(content)
            constant, tail = body[: len(stream.constant)], body[len(body) - len(stream.tail) + 1 :]
            start = len(stream.constant)
            stream.words[:] = np.frombuffer(body, "<u8", stream.words.size, start)
        if constant != stream.constant:
            raise EncryptionError("SEAL wrote an object of another shape")
        return stream.words, tail[-SEED_BYTES:]

    def _saved_by(self, thing: Any) -> bytes:
        thing.save(self._saved.path)
        content = bytearray(self._saved.size())
        self._saved.get(content)
        return bytes(content)


def _inflated(stream: bytes | bytearray) -> bytes:
    """Return the decompressed body of a stream."""
    content = pa.BufferReader(memoryview(stream)[_HEADER:])
    with pa.input_stream(content, compression="zstd") as inflating:
        return bytes(inflating.read())


def write_words(words: Words, width: int, out: Body) -> None:
    """Write the highest `width` bytes of coefficients of 60 bits, rounded to the nearest; 8 bytes
    are the whole coefficient. The low four bytes of all come first, then the next two of all, then
    the seventh: numpy copies those faster than bytes in turn."""
    if low := dropped(width):
        words = (words + np.uint64(1 << (low - 1))) >> np.uint64(low)
    at, shift = 0, 0
    for size in _PLANES[width]:
        out[at : at + size * len(words)].view(f"<u{size}")[:] = words >> np.uint64(shift)
        at, shift = at + size * len(words), shift + 8 * size


def read_words(content: Body, width: int) -> Words:
    """Return coefficients as `write_words` wrote them, uint64.

    Raises:
        UploadRefused: a coefficient is not below the modulus.
    """
    count = content.size // width
    words, at, shift = np.zeros(count, np.uint64), 0, dropped(width)
    for size in _PLANES[width]:
        plane = content[at : at + size * count].view(f"<u{size}").astype(np.uint64)
        words |= plane << np.uint64(shift)
        at, shift = at + size * count, shift + 8 * size
    if words.size and int(words.max()) >= PRIME:
        raise UploadRefused("a chunk is not a ciphertext of this job's parameters")
    return words
