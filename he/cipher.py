"""Encrypt, add and decrypt packed reals: CKKS through `tenseal.sealapi`.

    Cipher    in a silo: holds the secret key, encrypts and decrypts
    Adder     in the aggregator: holds public parameters alone

Chunks are serialised SEAL ciphertexts, one of N packed reals each. A fresh one carries the
seed of its uniform half instead of the half itself (secret-key encryption), which halves it.

`Cipher.decrypt` returns rounded integers and never SEAL's raw decoding: two full-precision
decodings of CKKS hand out the secret key (Li and Micciancio, EUROCRYPT 2021, section 3).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import tenseal.sealapi as seal

from blindsum.he.packing import Integers
from blindsum.he.parameters import PRIME_BITS, RESIDUAL_LIMIT, RING_DEGREE, Parameters
from blindsum.platform.errors import EncryptionError, KeyRefused, UploadRefused

SLOTS = RING_DEGREE // 2
MAX_CHUNK_BYTES = 80_000  # a sum of two polynomials has 65,536 bytes of coefficients


class Adder(Protocol):
    """Adds chunks it cannot read."""

    def add(self, chunks: Sequence[memoryview]) -> None:
        """Add one upload's chunks to the running sum."""

    def total(self) -> list[bytes]:
        """The serialised sum of all that was added."""


class Cipher(Protocol):
    """Encrypts packed reals [chunks, N], int64, and decrypts their sum."""

    def encrypt(self, packed: Integers) -> list[bytes]:
        """One serialised chunk per row."""

    def decrypt(self, chunks: Iterable[memoryview]) -> Integers:
        """Packed sums, int64 [chunks, N]."""


class _Wire:
    """Serialises SEAL objects through one memory file, reused: SEAL saves only to paths."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._file = os.memfd_create("seal")
        self._path = f"/proc/self/fd/{self._file}"

    def save(self, thing: Any) -> bytes:
        os.ftruncate(self._file, 0)
        thing.save(self._path)
        return os.pread(self._file, os.fstat(self._file).st_size, 0)

    def load(self, empty: Any, content: bytes | memoryview) -> Any:
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, content, 0)
        empty.load(self._context, self._path)
        return empty

    def wipe(self) -> None:
        os.ftruncate(self._file, 0)

    def __del__(self) -> None:
        os.close(self._file)


@dataclass(frozen=True)
class SecretKey:
    """The CKKS secret of one job, serialised. Lives in silo processes alone.

    Its repr shows nothing, so that it cannot reach a log or a traceback by accident.
    """

    content: bytes = field(repr=False)

    def __reduce__(self) -> str:
        raise KeyRefused(
            "the secret key was about to be pickled",
            "It crosses between silos only sealed (blindsum.he.keys).",
        )


def generate_secret_key() -> SecretKey:
    """A fresh secret key, uniform ternary, from SEAL's generator seeded by the system."""
    context = _context()
    wire = _Wire(context)
    try:
        return SecretKey(wire.save(seal.KeyGenerator(context).secret_key()))
    finally:
        wire.wipe()


class CkksCipher:
    """Secret-key CKKS over exactly packed integers.

    Raises:
        KeyRefused: the key does not belong to these parameters.
    """

    def __init__(self, parameters: Parameters, key: SecretKey) -> None:
        self._scale = float(parameters.scale)
        context = _context()
        self._wire = _Wire(context)
        try:
            secret = self._wire.load(seal.SecretKey(), key.content)
            self._encryptor = seal.Encryptor(context, secret)
            self._decryptor = seal.Decryptor(context, secret)
        except (RuntimeError, ValueError):
            raise KeyRefused(
                "the secret key does not belong to this job's parameters",
                "Start the job again: every job makes its own key.",
            ) from None
        finally:
            self._wire.wipe()
        self._encoder = seal.CKKSEncoder(context)

    def encrypt(self, packed: Integers) -> list[bytes]:
        plain = seal.Plaintext()
        chunks = []
        for slots in packed.astype(np.float64).view(np.complex128):
            self._encoder.encode(slots.tolist(), self._scale, plain)
            chunks.append(self._wire.save(self._encryptor.encrypt_symmetric(plain)))
        return chunks

    def decrypt(self, chunks: Iterable[memoryview]) -> Integers:
        """Packed sums, int64 [chunks, N].

        Raises:
            UploadRefused: a chunk is not a ciphertext of these parameters.
            EncryptionError: a slot is further than RESIDUAL_LIMIT from an integer. The sum
                is not one of at most n fresh uploads, or was made with another key.
        """
        plain = seal.Plaintext()
        rows = []
        for chunk in chunks:
            self._decryptor.decrypt(_load(self._wire, chunk, self._scale), plain)
            decoded = np.asarray(self._encoder.decode_complex(plain), np.complex128)
            reals = decoded.view(np.float64)
            rounded = np.rint(reals)
            if not np.abs(reals - rounded).max() <= RESIDUAL_LIMIT:
                raise EncryptionError(
                    "the total is not a sum of this job's uploads: its rounding residual passes "
                    f"{RESIDUAL_LIMIT}; nothing was released",
                    "A ciphertext was altered or a silo holds another key. Start the job again.",
                )
            rows.append(rounded.astype(np.int64))
        return np.stack(rows)


class CkksAdder:
    """Adds ciphertexts as they come. Memory: one sum, and one chunk in flight."""

    def __init__(self, parameters: Parameters) -> None:
        context = _context()
        self._scale = float(parameters.scale)
        self._wire = _Wire(context)
        self._evaluator = seal.Evaluator(context)
        self._sum: list[Any] = []

    def add(self, chunks: Sequence[memoryview]) -> None:
        """Add one upload's chunks.

        Every chunk is checked before the first is added: a refused upload leaves the sum
        as it was.

        Raises:
            UploadRefused: a chunk is not a ciphertext, or the count differs from the sum's.
        """
        loaded = [_load(self._wire, chunk, self._scale) for chunk in chunks]
        if not self._sum:
            self._sum = loaded
            return
        if len(loaded) != len(self._sum):
            raise UploadRefused(f"upload of {len(loaded)} chunks, expected {len(self._sum)}")
        for total, one in zip(self._sum, loaded, strict=True):
            self._evaluator.add_inplace(total, one)

    def total(self) -> list[bytes]:
        return [self._wire.save(chunk) for chunk in self._sum]


class PlainCipher:
    """No encryption: the same integers in the clear, for comparisons and audits only."""

    def encrypt(self, packed: Integers) -> list[bytes]:
        return [row.tobytes() for row in packed]

    def decrypt(self, chunks: Iterable[memoryview]) -> Integers:
        return np.stack([_plain(chunk) for chunk in chunks])


class PlainAdder:
    """Adds unencrypted chunks, for comparisons and audits only."""

    def __init__(self) -> None:
        self._sum: Integers | None = None

    def add(self, chunks: Sequence[memoryview]) -> None:
        rows = np.stack([_plain(chunk) for chunk in chunks])
        if self._sum is not None and rows.shape != self._sum.shape:
            raise UploadRefused(f"upload of {len(rows)} chunks, expected {len(self._sum)}")
        self._sum = rows if self._sum is None else self._sum + rows

    def total(self) -> list[bytes]:
        return [] if self._sum is None else [row.tobytes() for row in self._sum]


def adder(parameters: Parameters) -> Adder:
    """A fresh adder for one exchange."""
    return CkksAdder(parameters) if parameters.scheme == "ckks" else PlainAdder()


def chunk_bytes(parameters: Parameters) -> tuple[int, int]:
    """Serialised bytes of a fresh chunk and of a sum's chunk, measured on random integers."""
    packed = np.random.default_rng(0).integers(0, 2**40, (1, RING_DEGREE))
    if parameters.scheme == "none":
        return 8 * RING_DEGREE, 8 * RING_DEGREE
    (fresh,) = CkksCipher(parameters, generate_secret_key()).encrypt(packed)
    adding = CkksAdder(parameters)
    adding.add([memoryview(fresh)])
    return len(fresh), len(adding.total()[0])


def _plain(chunk: memoryview) -> Integers:
    if len(chunk) != 8 * RING_DEGREE:
        raise UploadRefused(f"a chunk of {len(chunk)} bytes, expected {8 * RING_DEGREE}")
    return np.frombuffer(chunk, np.int64)


def _load(wire: _Wire, chunk: memoryview, scale: float) -> Any:
    """A ciphertext that is valid for the context, of two polynomials, at the given scale."""
    if len(chunk) > MAX_CHUNK_BYTES:
        raise UploadRefused(f"a chunk of {len(chunk)} bytes, at most {MAX_CHUNK_BYTES} expected")
    try:
        loaded = wire.load(seal.Ciphertext(), chunk)  # SEAL checks it against the context
    except (RuntimeError, ValueError, IndexError):
        raise UploadRefused("a chunk is not a ciphertext of this job's parameters") from None
    if loaded.size() != 2 or loaded.scale != scale:
        raise UploadRefused("a chunk is a ciphertext of another shape or scale")
    return loaded


def _context() -> Any:
    literal = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    literal.set_poly_modulus_degree(RING_DEGREE)
    literal.set_coeff_modulus(seal.CoeffModulus.Create(RING_DEGREE, [PRIME_BITS]))
    context = seal.SEALContext(literal, True, seal.SEC_LEVEL_TYPE.TC192)
    if not context.parameters_set():
        raise EncryptionError(f"SEAL refuses the parameters: {context.parameters_error_message()}")
    return context
