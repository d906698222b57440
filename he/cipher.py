"""Encrypt, add and decrypt packed reals: CKKS through `tenseal.sealapi`.

    Cipher    in a silo: holds the secret key; masks, encrypts and decrypts
    Adder     in an aggregator: holds only public parameters

Chunks are rows of bytes, one ciphertext each (`blindsum.he.coefficients`). A fresh chunk consists
of its first polynomial and the seed of the second (secret-key encryption); a sum's chunk consists
of both polynomials.

`Cipher.decrypt` returns rounded integers and never SEAL's raw decoding: two full-precision
decodings of CKKS reveal the secret key (Li and Micciancio, EUROCRYPT 2021, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import tenseal.sealapi as seal

from blindsum.he.coefficients import SUM_BYTES, UPLOAD_BYTES, Chunks, Coefficients, make_context
from blindsum.he.masks import MaskStream
from blindsum.he.packing import Integers
from blindsum.he.parameters import RESIDUAL_LIMIT, RING_DEGREE, Parameters
from blindsum.platform.errors import EncryptionError, KeyRefused, UploadRefused


class Adder(Protocol):
    """Adds the uploads' chunks without being able to read them.

    `first` is the index, within the exchange, of the first chunk of a range.
    """

    def add(self, first: int, chunks: Chunks) -> None:
        """Add one upload's chunks, uint8 [chunks, bytes], from chunk `first` on."""

    def total(self, first: int, chunks: int) -> Chunks:
        """Return the sum's chunks of that range, uint8 [chunks, bytes], and drop them here."""


class Cipher(Protocol):
    """Encrypts packed reals [chunks, N], int64, and decrypts their sum."""

    def encrypt(self, packed: Integers, masks: MaskStream) -> Chunks:
        """Encrypt each row into a row of bytes, uint8 [chunks, bytes]."""

    def decrypt(self, chunks: Chunks) -> Integers:
        """Return the packed sums mod 2^K, int64 [chunks, N]."""


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
        self._scale = float(parameters.scale)
        # The greatest real to which n masked uploads can sum. Far beyond it, doubles have no
        # fractional part, and the residual would be zero for any ciphertext.
        self._greatest = parameters.silos * 2.0 ** (parameters.real_bits - 1) + 0.5
        context = make_context()
        self._coefficients = Coefficients(context, self._scale)
        secret = self._coefficients.load_key(key.content)
        self._encryptor = seal.Encryptor(context, secret)
        self._decryptor = seal.Decryptor(context, secret)
        self._encoder = seal.CKKSEncoder(context)

    def encrypt(self, packed: Integers, masks: MaskStream) -> Chunks:
        plain = seal.Plaintext()
        chunks = np.empty((len(packed), UPLOAD_BYTES), np.uint8)
        # Masking is part of encryption: all silos share the key, which opens unmasked chunks.
        for masked, chunk in zip(masks.apply(packed), chunks, strict=True):
            slots = masked.astype(np.float64).view(np.complex128)
            self._encoder.encode(slots.tolist(), self._scale, plain)
            self._coefficients.write_upload(self._encryptor.encrypt_symmetric(plain), chunk)
        return chunks

    def decrypt(self, chunks: Chunks) -> Integers:
        """Return the packed sums, int64 [chunks, N], which the caller must take mod 2^K.

        Raises:
            UploadRefused: a chunk is not a ciphertext of these parameters.
            EncryptionError: a slot is further than RESIDUAL_LIMIT from an integer, or larger
                than the sum of n masked reals can be. The chunk is not the sum of at most n fresh
                uploads, or was encrypted with another key.
        """
        plain = seal.Plaintext()
        integers = np.empty((len(chunks), RING_DEGREE), np.int64)
        rounded = np.empty(RING_DEGREE)
        for chunk, row in zip(chunks, integers, strict=True):
            self._decryptor.decrypt(self._coefficients.read_sum(chunk), plain)
            slots = self._encoder.decode_complex(plain)
            reals = np.fromiter(slots, np.complex128, len(slots)).view(np.float64)
            np.rint(reals, out=rounded)
            small = max(rounded.max(), -rounded.min()) <= self._greatest
            reals -= rounded
            if not (small and max(reals.max(), -reals.min()) <= RESIDUAL_LIMIT):
                raise EncryptionError(
                    "the total is not a sum of this job's uploads: one of its reals is too large, "
                    f"or has a rounding residual above {RESIDUAL_LIMIT}; nothing was released",
                    "A ciphertext was altered, or a silo has another key.",
                )
            row[:] = rounded
        return integers


class CkksAdder:
    """Adds ciphertexts as they arrive. It holds one sum and one further ciphertext in memory."""

    def __init__(self, parameters: Parameters) -> None:
        context = make_context()
        self._coefficients = Coefficients(context, float(parameters.scale))
        self._evaluator = seal.Evaluator(context)
        self._sums: dict[int, object] = {}

    def add(self, first: int, chunks: Chunks) -> None:
        """Add one upload's chunks, from chunk `first` on.

        Raises:
            UploadRefused: a chunk is not a ciphertext of these parameters; the sum is unchanged.
        """
        begins = first not in self._sums
        for index, chunk in enumerate(chunks, first):
            try:
                one = self._coefficients.read_upload(chunk)
            except UploadRefused:
                self._take_back(first, chunks[: index - first], begins)
                raise
            if begins:
                self._sums[index] = one
            else:
                self._evaluator.add_inplace(self._sums[index], one)

    def _take_back(self, first: int, chunks: Chunks, began: bool) -> None:
        for index, chunk in enumerate(chunks, first):
            if began:
                del self._sums[index]
            else:
                one = self._coefficients.read_upload(chunk)
                self._evaluator.sub_inplace(self._sums[index], one)

    def total(self, first: int, chunks: int) -> Chunks:
        rows = np.empty((chunks, SUM_BYTES), np.uint8)
        for index, row in enumerate(rows, first):
            self._coefficients.write_sum(self._sums.pop(index), row)
        return rows


class PlainCipher:
    """The same integers without encryption or masks, for comparisons and audits."""

    def encrypt(self, packed: Integers, masks: MaskStream) -> Chunks:
        masks.hash(packed)
        return packed.view(np.uint8)

    def decrypt(self, chunks: Chunks) -> Integers:
        return np.ascontiguousarray(chunks).view(np.int64)


class PlainAdder:
    """Adds unencrypted chunks, for comparisons and audits only."""

    def __init__(self) -> None:
        self._sums: dict[int, Integers] = {}

    def add(self, first: int, chunks: Chunks) -> None:
        for index, row in enumerate(np.ascontiguousarray(chunks).view(np.int64), first):
            self._sums[index] = self._sums.get(index, np.int64(0)) + row

    def total(self, first: int, chunks: int) -> Chunks:
        rows = [self._sums.pop(index) for index in range(first, first + chunks)]
        return np.stack(rows).view(np.uint8)


def adder(parameters: Parameters) -> Adder:
    """Return a fresh adder for one exchange."""
    return CkksAdder(parameters) if parameters.scheme == "ckks" else PlainAdder()


def chunk_bytes(parameters: Parameters) -> tuple[int, int]:
    """Return the sizes in bytes of a fresh chunk and of a sum's chunk."""
    if parameters.scheme == "none":
        return 8 * RING_DEGREE, 8 * RING_DEGREE
    return UPLOAD_BYTES, SUM_BYTES
