"""Ciphertexts as bare coefficients: the wire carries nothing that follows from the parameters.

SEAL reads and writes its objects as streams, only to paths, and compresses them. For all
ciphertexts of one context and scale, a stream is the same except for the coefficients and the seed.
So a chunk carries only those:

    upload   N words of 60 bits (15 bytes for two words) and a seed of 64 bytes
    sum      2 N words of 64 bits

Reading a chunk inserts them into a stored uncompressed stream. SEAL then checks every word against
the modulus, as it does for any stream. The layout of a stream is defined in SEAL 4.1:
`serialization.h`, `ciphertext.cpp` (`save_members`), `dynarray.h`. This module takes it from a
stream that SEAL wrote, and refuses to start if it is not as expected.
"""

from __future__ import annotations

import os
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tenseal.sealapi as seal

from blindsum.he.parameters import PRIME_BITS, RING_DEGREE
from blindsum.platform.errors import EncryptionError, KeyRefused, UploadRefused

Chunks = npt.NDArray[np.uint8]

SEED_BYTES = 64
_WORDS = 8 * RING_DEGREE
_GROUP = 16  # words of 60 bits that become 15 of 64
_ROWS = RING_DEGREE // _GROUP
UPLOAD_BYTES = _WORDS * (_GROUP - 1) // _GROUP + SEED_BYTES
SUM_BYTES = 2 * _WORDS

_HEADER = 16  # magic, sizes, compression mode, and the size of the whole stream as uint64
_RAW_BLOCK = 10  # zstd's frame header and block header before a block that it stored uncompressed
_LAST_RAW = 1
_SHIFTS = (np.arange(_GROUP - 1, dtype=np.uint64) * 4)[:, None]
_LOW = np.uint64((1 << PRIME_BITS) - 1)
_HIGH = np.uint64(PRIME_BITS)


def make_context() -> Any:
    """Return SEAL's context for the ring and the prime of `blindsum.he.parameters`."""
    literal = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    literal.set_poly_modulus_degree(RING_DEGREE)
    literal.set_coeff_modulus(seal.CoeffModulus.Create(RING_DEGREE, [PRIME_BITS]))
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
    """The stream of one kind of ciphertext: its constant parts, and the places of those that vary.

    Args:
        body: an uncompressed body that SEAL wrote.
        words: the number of bytes of coefficients in it.
        seed: the number of bytes from the end of the coefficients to the end of the body.
    """

    def __init__(self, body: bytes, words: int, seed: int) -> None:
        header = b"\x5e\xa1\x10\x04\x03\0\0\0" + struct.pack("<Q", _HEADER + len(body))
        start = len(body) - words - seed  # where the coefficients start in the body
        self.constant = body[:start]
        self.file = _File(header + body)
        self.words_at = _HEADER + start
        self.seed_at = _HEADER + len(body) - SEED_BYTES
        # Buffers for a saved stream. The coefficients have their own, so that they are aligned.
        self.head = bytearray(_HEADER + _RAW_BLOCK + start)
        self.words = np.empty(words // 8, "<u8")
        self.tail = bytearray(seed + 1)  # one byte more, to detect a stream that is too long
        self.size = len(self.head) + words + seed
        self.block = (len(body) << 3 | _LAST_RAW).to_bytes(3, "little")  # RFC 8878, 3.1.1.2


class Coefficients:
    """Reads and writes ciphertexts of one context and scale, and keys as SEAL's own streams."""

    def __init__(self, context: Any, scale: float | None = None) -> None:
        self._context = context
        self._saved = _File()
        if scale is not None:
            self._scale = scale
            self._learn(scale)

    def write_upload(self, fresh: Any, chunk: Chunks) -> None:
        """Write a fresh, seeded ciphertext into a row of UPLOAD_BYTES."""
        words, seed = self._save(fresh, self._fresh)
        grouped = words.reshape(_GROUP, _ROWS)
        packed = chunk[:-SEED_BYTES].view("<u8").reshape(_GROUP - 1, _ROWS)
        np.right_shift(grouped[-1], _SHIFTS, out=packed)
        packed <<= _HIGH
        packed |= grouped[:-1]
        chunk[-SEED_BYTES:] = np.frombuffer(seed, np.uint8)

    def read_upload(self, chunk: Chunks) -> Any:
        """Return the ciphertext of a row of UPLOAD_BYTES. The seed gives its second polynomial.

        Raises:
            UploadRefused: a coefficient is not below the modulus.
        """
        packed = chunk[:-SEED_BYTES].view("<u8").reshape(_GROUP - 1, _ROWS)
        grouped = self._fresh.words.reshape(_GROUP, _ROWS)
        np.bitwise_and(packed, _LOW, out=grouped[:-1])
        np.bitwise_or.reduce((packed >> _HIGH) << _SHIFTS, axis=0, out=grouped[-1])
        self._fresh.file.put(self._fresh.words_at, self._fresh.words)
        self._fresh.file.put(self._fresh.seed_at, chunk[-SEED_BYTES:])
        return self._load(self._fresh)

    def write_sum(self, total: Any, chunk: Chunks) -> None:
        """Write a sum's two polynomials into a row of SUM_BYTES."""
        chunk[:] = self._save(total, self._sum)[0].view(np.uint8)

    def read_sum(self, chunk: Chunks) -> Any:
        """Return the ciphertext of a row of SUM_BYTES.

        Raises:
            UploadRefused: a coefficient is not below the modulus.
        """
        self._sum.file.put(self._sum.words_at, chunk)
        return self._load(self._sum)

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

    def _learn(self, scale: float) -> None:
        """Take the streams' constant parts from ciphertexts under a key that is then discarded."""
        plain = seal.Plaintext()
        seal.CKKSEncoder(self._context).encode(0.0, scale, plain)
        key = seal.KeyGenerator(self._context).secret_key()
        fresh = seal.Encryptor(self._context, key).encrypt_symmetric(plain)
        # After the words comes a nested stream: the generator's kind (one byte) and its seed.
        seed = _HEADER + 1 + SEED_BYTES
        self._fresh = _Stream(_inflated(self._saved_by(fresh)), _WORDS, seed)
        full = self._load(self._fresh)
        self._sum = _Stream(_inflated(self._saved_by(full)), SUM_BYTES, 0)
        if self._fresh.words_at != self._sum.words_at or full.size() != 2 or full.scale != scale:
            raise EncryptionError(
                "the installed SEAL writes ciphertexts in an unknown layout",
                "Install the version of tenseal that blindsum requires.",
            )

    def _load(self, stream: _Stream) -> Any:
        loaded = seal.Ciphertext()
        try:
            loaded.load(self._context, stream.file.path)  # checks every word against the modulus
        except (RuntimeError, ValueError, IndexError):
            raise UploadRefused("a chunk is not a ciphertext of this job's parameters") from None
        return loaded

    def _save(self, ciphertext: Any, stream: _Stream) -> tuple[npt.NDArray[np.uint64], bytes]:
        """Return the words and the seed of a ciphertext. The words are valid until the next call.

        Coefficients do not compress, so zstd usually stores them unchanged, and they are read
        directly from the stream. A stream that did compress is decompressed first.
        """
        ciphertext.save(self._saved.path)
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
            raise EncryptionError("SEAL wrote a ciphertext of another shape or scale")
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
