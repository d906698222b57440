"""Encrypts an update for the aggregator, sums uploads and decrypts the total, a part at a time.

Beside the vector itself, a silo never holds more than a few parts; beside the sum, neither does an
aggregator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa

from blindsum.he.cipher import Adder, Cipher, adder, body_bytes
from blindsum.he.exchange import Exchange, Group, Part
from blindsum.he.identity import Identity
from blindsum.he.linear_hash import NO_WORDS, LinearHash, Words, added, read
from blindsum.he.masks import MaskStream
from blindsum.he.packing import Integers, pack, require_counts, unpack, unpack_counts
from blindsum.he.wire import Upload, read_total, read_upload, write_total, write_upload
from blindsum.platform.errors import EncryptionError, UploadRefused


def encrypt_parts(
    exchange: Exchange,
    silo: str,
    digits: Callable[[slice], Integers],
    counts: Callable[[], Integers],
    cipher: Cipher,
    masks: MaskStream,
    identity: Identity,
) -> Iterator[pa.Buffer]:
    """Yield one silo's upload, frame by frame.

    Args:
        digits: returns the integers, int64, of a range of the exchange's values. It is called once
            for each range, in order.
        counts: returns the exchange's counts, int64. It is called once, after all digits.

    Raises:
        EncryptionError: an integer is too large to be added exactly.
    """
    parameters, found = exchange.parameters, None

    def reals(group: Group) -> Integers:
        nonlocal found
        held = [np.zeros(0, np.int64)]
        if group.values.stop > group.values.start:
            held.append(pack(digits(group.values), parameters))
        if group.counts.stop > group.counts.start:
            if found is None:
                found = require_counts(counts(), parameters)
            held.append(found[group.counts])
        return np.concatenate(held)

    for part in exchange.parts:
        groups = [cipher.encrypt(reals(group), masks) for group in part.groups(exchange)]
        last = part.index == len(exchange.parts) - 1
        words = masks.words if last else NO_WORDS
        yield write_upload(exchange, part, silo, np.concatenate(groups), identity, words)


class Sum:
    """An aggregator's side of one exchange: it adds uploads, and returns the total's frames.

    Args:
        before: the sum of an earlier exchange, which ends here. Making an adder is slow.
    """

    def __init__(self, exchange: Exchange, before: Sum | None = None) -> None:
        self.exchange = exchange
        same = before is not None and before.exchange.parameters == exchange.parameters
        self.adder: Adder = before.adder if before and same else adder(exchange.parameters)
        self.adder.clear()
        self.words: Words = NO_WORDS

    def add(self, upload: Upload) -> None:
        """Add a part that passed every check. On UploadRefused the sum is unchanged."""
        self.adder.add(upload.part.first, upload.body, upload.part.reals)
        if check := upload.receipt.header.check:
            self.words = added(self.words, read(check))

    def frame(self, part: Part) -> pa.Buffer:
        """Return the frame of one part of the total, and drop that part here."""
        body = self.adder.total(part.first, part.reals)
        return write_total(self.exchange, part, body, self.words)


def decrypt_parts(
    exchange: Exchange,
    frames: Iterable[pa.Buffer],
    cipher: Cipher,
    hashing: LinearHash,
    counts: Integers,
) -> Iterator[tuple[slice, Integers]]:
    """Yield the summed integers, int64, range by range, from a total's frames in order.

    The caller must not use any of them, nor the counts, before the iterator is exhausted: only then
    has the total been verified.

    Args:
        counts: where the summed counts are written, int64 [exchange.counts].

    Raises:
        UploadRefused: a frame is malformed, belongs to another exchange, or is missing.
        EncryptionError: the total is not the sum of one upload from each silo.
    """
    words, parameters = NO_WORDS, exchange.parameters
    for part, frame in _parts_of_total(exchange, frames):
        body, words = read_total(frame, exchange, part)
        for group in part.groups(exchange):
            reals = group.reals.stop - group.reals.start
            size = body_bytes(parameters, reals)[1]
            packed, body = cipher.decrypt(body[:size], reals), body[size:]
            hashing.add(packed)
            values = group.values.stop - group.values.start
            digits = parameters.reals(values)
            counts[group.counts] = unpack_counts(packed[digits:], parameters)
            if values:
                yield group.values, unpack(packed[:digits], values, parameters)
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
        adding.add(upload.part.first, upload.body, upload.part.reals)
    if len(seen) != len(exchange.roster) * len(exchange.parts):
        raise UploadRefused(
            f"only {len(seen)} of {len(exchange.roster) * len(exchange.parts)} parts of the "
            "uploads were received, so they cannot be summed again"
        )
    for part, frame in _parts_of_total(exchange, totals):
        ours = adding.total(part.first, part.reals)
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
