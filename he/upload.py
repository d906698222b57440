"""Encrypts an update for the aggregator, sums uploads and decrypts the total, a part at a time.

Beside the vector itself, a silo never holds more than a few parts; beside the sum, neither does an
aggregator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa

from blindsum.he.cipher import Adder, Cipher, adder, chunk_bytes
from blindsum.he.exchange import Exchange, Part
from blindsum.he.identity import Identity
from blindsum.he.linear_hash import NO_WORDS, LinearHash, Words, added, read
from blindsum.he.masks import MaskStream
from blindsum.he.packing import Integers, pack, unpack
from blindsum.he.wire import Upload, read_total, read_upload, write_total, write_upload
from blindsum.platform.errors import EncryptionError, UploadRefused


def encrypt_parts(
    exchange: Exchange,
    silo: str,
    digits: Callable[[slice], Integers],
    cipher: Cipher,
    masks: MaskStream,
    identity: Identity,
) -> Iterator[pa.Buffer]:
    """Yield one silo's upload, frame by frame.

    Args:
        digits: returns the integers, int64, of a range of the exchange's values. It is called once
            for each range, in order.
    """
    for part in exchange.parts:
        chunks = np.empty((part.chunks, chunk_bytes(exchange.parameters)[0]), np.uint8)
        for rows, where in part.groups(exchange):
            packed = pack(digits(where), exchange.parameters)
            chunks[rows] = cipher.encrypt(packed, masks)
        last = part.index == len(exchange.parts) - 1
        words = masks.words if last else NO_WORDS
        yield write_upload(exchange, part, silo, chunks, identity, words)


class Sum:
    """An aggregator's side of one exchange: it adds uploads, and returns the total's frames."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.adder: Adder = adder(exchange.parameters)
        self.words: Words = NO_WORDS

    def add(self, upload: Upload) -> None:
        """Add a part that passed every check. On UploadRefused the sum is unchanged."""
        self.adder.add(upload.part.first, upload.chunks)
        if check := upload.receipt.header.check:
            self.words = added(self.words, read(check))

    def frame(self, part: Part) -> pa.Buffer:
        """Return the frame of one part of the total, and drop that part here."""
        chunks = self.adder.total(part.first, part.chunks)
        return write_total(self._exchange, part, chunks, self.words)


def decrypt_parts(
    exchange: Exchange, frames: Iterable[pa.Buffer], cipher: Cipher, hashing: LinearHash
) -> Iterator[tuple[slice, Integers]]:
    """Yield the summed integers, int64, range by range, from a total's frames in order.

    The caller must not use any of them before the iterator is exhausted: only then has the total
    been verified.

    Raises:
        UploadRefused: a frame is malformed, belongs to another exchange, or is missing.
        EncryptionError: the total is not the sum of one upload from each silo.
    """
    words = NO_WORDS
    for part, frame in _parts_of_total(exchange, frames):
        chunks, words = read_total(frame, exchange, part)
        for rows, where in part.groups(exchange):
            packed = cipher.decrypt(chunks[rows])
            hashing.add(packed)
            yield where, unpack(packed, where.stop - where.start, exchange.parameters)
    if not hashing.holds(words):
        raise EncryptionError(
            "the total is not the sum of the silos' uploads; nothing was released",
            "An aggregator altered it, or silos received different messages or totals.",
        )


def sum_again(
    exchange: Exchange,
    uploads: Iterable[pa.Buffer],
    totals: Iterable[pa.Buffer],
    identities: Mapping[str, bytes],
) -> None:
    """Verify that a total is the sum of the signed uploads, ciphertext by ciphertext.

    Args:
        uploads: every silo's frames, in any order, each once.
        totals: the total's frames, in order.

    Raises:
        UploadRefused: an upload is missing, duplicated or forged, or the total is not their sum.
    """
    adding, seen = adder(exchange.parameters), set()
    for frame in uploads:
        upload = read_upload(frame, exchange, identities)
        if (upload.silo, upload.part.index) in seen:
            raise UploadRefused(
                f"part {upload.part.index} of silo '{upload.silo}' was received twice"
            )
        seen.add((upload.silo, upload.part.index))
        adding.add(upload.part.first, upload.chunks)
    if len(seen) != len(exchange.roster) * len(exchange.parts):
        raise UploadRefused(
            f"only {len(seen)} of {len(exchange.roster) * len(exchange.parts)} parts of the "
            "uploads were received, so they cannot be summed again"
        )
    for part, frame in _parts_of_total(exchange, totals):
        ours = adding.total(part.first, part.chunks)
        if (ours != read_total(frame, exchange, part)[0]).any():
            raise UploadRefused(
                "the aggregator's total is not the sum of the uploads that the silos signed",
                "The aggregator altered it. Do not use this aggregator again.",
            )


def _parts_of_total(
    exchange: Exchange, frames: Iterable[pa.Buffer]
) -> Iterator[tuple[Part, pa.Buffer]]:
    arrived = iter(frames)
    for part in exchange.parts:
        frame = next(arrived, None)
        if frame is None:
            raise UploadRefused(f"part {part.index} of the total is missing")
        yield part, frame
    if next(arrived, None) is not None:
        raise UploadRefused(f"the total has more parts than the {len(exchange.parts)} expected")
