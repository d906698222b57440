"""Uploads and totals as plain bytes: typed, signed, and nothing else.

A frame is one part of an upload or of a total:

    8 bytes    "blindsum"
    4 bytes    format, uint32, little-endian
    4 bytes    length of the head, uint32, little-endian
    head       JSON (UTF-8), padded with blanks so that the chunks begin at a multiple of 64
    chunks     the ciphertexts of the part, in order

The header of an upload is under its silo's signature and holds the digest of the chunks, so that a
frame is checked whole before any of it is added, and `Receipt`, header and signature, proves to
anyone what a silo sent. Frames were Arrow streams once: Arrow 25 ends the process on some that are
malformed, so that whoever may send one could end an aggregator (tests/fuzz).

A total is not signed: with its last part come the words by which every silo checks that it is the
sum of what the roster's silos hashed (`blindsum.he.linear_hash`).
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from blindsum.he.cipher import chunk_bytes
from blindsum.he.coefficients import Chunks
from blindsum.he.exchange import PART_CHUNKS, Exchange, Part
from blindsum.he.identity import Identity, verify
from blindsum.he.linear_hash import NO_WORDS, Words, read, written
from blindsum.platform.errors import KeyRefused, UploadRefused

_FORMAT = 6
_TOTAL = "total"
_PREFIX = struct.Struct("<8sII")
_MAGIC = b"blindsum"
_ALIGNED = 64

_MAX_HEAD = 1 << 16
"""Bytes of a head, at most: roster, signature, padding."""


@dataclass(frozen=True)
class Header:
    """What a part of an upload says of itself, under its silo's signature."""

    format: int
    run: str
    round: int
    attempt: int
    purpose: str
    roster: tuple[str, ...]
    values: int
    range: float | None
    parameters: str
    model: str
    clipping: float
    part: int
    silo: str
    chunks: str  # SHA-256 over the chunks' own SHA-256 digests, hex
    check: str  # in the last part: words of `blindsum.he.linear_hash` for the whole upload, hex

    @classmethod
    def of(cls, exchange: Exchange, part: int, silo: str, chunks: str, check: str) -> Header:
        """Return the header of one part of a silo's upload to an exchange."""
        return cls(
            _FORMAT,
            exchange.run,
            exchange.round,
            exchange.attempt,
            exchange.purpose,
            exchange.roster,
            exchange.values,
            exchange.range,
            exchange.parameters.digest,
            exchange.model,
            exchange.clipping,
            part,
            silo,
            chunks,
            check,
        )

    def signed_content(self) -> bytes:
        """Return the bytes that the silo signs."""
        return json.dumps(asdict(self), sort_keys=True).encode()


@dataclass(frozen=True)
class Receipt:
    """A header and its silo's signature: proof of what that silo sent, and to what."""

    header: Header
    signature: bytes


@dataclass(frozen=True)
class Upload:
    """A part that passed every check. `chunks` is a view into the received buffer."""

    receipt: Receipt
    part: Part
    chunks: Chunks

    @property
    def silo(self) -> str:
        """The name of the silo that signed the upload."""
        return self.receipt.header.silo


def write_upload(
    exchange: Exchange,
    part: Part,
    silo: str,
    chunks: Chunks,
    identity: Identity,
    words: Words = NO_WORDS,
) -> pa.Buffer:
    """Frame and sign one part of a silo's upload, uint8 [part.chunks, bytes].

    Args:
        words: of the whole upload; they travel with its last part.
    """
    check = _check(exchange, part.index, words)
    header = Header.of(exchange, part.index, silo, _digest(chunks), check)
    signature = identity.sign(header.signed_content())
    return _write({"header": asdict(header), "signature": signature.hex()}, chunks)


def read_upload(frame: pa.Buffer, exchange: Exchange, identities: Mapping[str, bytes]) -> Upload:
    """Read and check one part of an upload.

    Raises:
        UploadRefused: it is malformed, for another exchange, from a stranger, altered, or
            of the wrong size. The message names the first thing that differs.
    """
    content = _Frame(frame, chunk_bytes(exchange.parameters)[0])
    receipt = _receipt(content.metadata)
    part = check_receipt(receipt, exchange, identities)
    silo = receipt.header.silo
    chunks = content.chunks(part, f"part {part.index} of silo '{silo}'")
    if _digest(chunks) != receipt.header.chunks:
        raise UploadRefused(f"part {part.index} of silo '{silo}' was altered on its way")
    return Upload(receipt, part, chunks)


def check_receipt(receipt: Receipt, exchange: Exchange, identities: Mapping[str, bytes]) -> Part:
    """Check that a silo of the roster signed this for this exchange; returns the part it is of.

    Raises:
        UploadRefused: it did not. The message names the first thing that differs.
    """
    header = receipt.header
    expected = Header.of(exchange, header.part, header.silo, header.chunks, header.check)
    for name, value in asdict(expected).items():
        got = getattr(header, name)
        if got != value or type(got) is not type(value):
            raise UploadRefused(
                f"an upload for {name} {_short(got)} came in place of {_short(value)}",
                "It is stale, replayed or of another run.",
            )
    if header.silo not in exchange.roster or header.silo not in identities:
        raise UploadRefused(f"an upload from '{_short(header.silo)}', which is not in the roster")
    if type(header.part) is not int or not 0 <= header.part < len(exchange.parts):
        raise UploadRefused(
            f"part {_short(header.part)} came of silo '{header.silo}', "
            f"there are {len(exchange.parts)}"
        )
    if header.check or header.part == len(exchange.parts) - 1:
        words = read(header.check)
        if header.check != _check(exchange, header.part, words):
            raise UploadRefused("check words came with a part that is not the last")
    try:
        verify(
            identities[header.silo],
            receipt.signature,
            header.signed_content(),
            f"upload as that of silo '{header.silo}'",
        )
    except KeyRefused as error:
        raise UploadRefused(error.what) from None
    return exchange.parts[header.part]


def write_total(
    exchange: Exchange, part: Part, chunks: Chunks, words: Words = NO_WORDS
) -> pa.Buffer:
    """Frame one part of the sum, uint8 [part.chunks, bytes].

    Args:
        words: the sum of the uploads' words; they travel with the last part.
    """
    check = _check(exchange, part.index, words)
    return _write({_TOTAL: exchange.digest.hex(), "part": part.index, "check": check}, chunks)


def read_total(frame: pa.Buffer, exchange: Exchange, part: Part) -> tuple[Chunks, Words]:
    """The chunks of that part of the sum, a view into the received buffer, and its words.

    Raises:
        UploadRefused: it is malformed, or another exchange's or part's.
    """
    content = _Frame(frame, chunk_bytes(exchange.parameters)[1])
    check = content.metadata.pop("check", "")
    if content.metadata != {_TOTAL: exchange.digest.hex(), "part": part.index}:
        raise UploadRefused("a frame came that is not this part of this exchange's total")
    words = read(check) if check or part.index == len(exchange.parts) - 1 else NO_WORDS
    if check != _check(exchange, part.index, words):
        raise UploadRefused("check words came with a part that is not the last")
    return content.chunks(part, f"part {part.index} of the total"), words


def _check(exchange: Exchange, part: int, words: Words) -> str:
    return written(words) if part == len(exchange.parts) - 1 else ""


def _receipt(metadata: Mapping[str, Any]) -> Receipt:
    try:
        fields = dict(metadata["header"])
        header = Header(**(fields | {"roster": tuple(fields["roster"])}))
        hash(header)  # every field a plain value: none can be a list to choke on later
        return Receipt(header, bytes.fromhex(metadata["signature"]))
    except (KeyError, TypeError, ValueError):
        raise UploadRefused("an upload without a complete signed header") from None


def _head(metadata: Mapping[str, Any]) -> bytes:
    text = json.dumps(metadata).encode()
    return text + b" " * (-(_PREFIX.size + len(text)) % _ALIGNED)


def _write(metadata: Mapping[str, Any], chunks: Chunks) -> pa.Buffer:
    head = _PREFIX.pack(_MAGIC, _FORMAT, len(_head(metadata))) + _head(metadata)
    buffer = pa.allocate_buffer(len(head) + chunks.nbytes)
    content = np.frombuffer(buffer, np.uint8)
    content[: len(head)] = np.frombuffer(head, np.uint8)
    content[len(head) :] = chunks.reshape(-1)
    return buffer


class _Frame:
    """A frame whose head was read, and nothing else yet.

    Args:
        chunk: bytes of one ciphertext.

    Raises:
        UploadRefused: the frame is larger than any part, or its head is not as `_write` makes it.
    """

    def __init__(self, frame: pa.Buffer, chunk: int) -> None:
        self._chunk = chunk
        if not isinstance(frame, pa.Buffer):
            raise UploadRefused("something came that is not a frame")
        if frame.size > PART_CHUNKS * chunk + _PREFIX.size + _MAX_HEAD:
            raise UploadRefused(f"a frame of {frame.size} bytes, larger than any part")
        self._content = np.frombuffer(frame, np.uint8) if frame.size else np.zeros(0, np.uint8)
        self._start, self.metadata = self._read_head()

    def _read_head(self) -> tuple[int, dict[str, Any]]:
        prefix = self._content[: _PREFIX.size].tobytes()
        magic, format, size = _PREFIX.unpack(prefix.ljust(_PREFIX.size, b"\0"))
        if magic != _MAGIC or size > _MAX_HEAD:
            raise UploadRefused("something came that is not a frame of ciphertexts")
        if format != _FORMAT:
            raise UploadRefused(
                f"a frame of format {format} came in place of {_FORMAT}",
                "All silos must run the same version of blindsum.",
            )
        start = _PREFIX.size + size
        head = self._content[_PREFIX.size : start].tobytes()
        try:
            metadata = json.loads(head)
        except RecursionError:
            raise UploadRefused("a frame whose head is nested too deep") from None
        except ValueError:
            raise UploadRefused("a frame whose head cannot be read") from None
        if not isinstance(metadata, dict) or _head(metadata) != head:
            raise UploadRefused("a frame whose head is not written as it is due")
        return start, metadata

    def chunks(self, part: Part, what: str) -> Chunks:
        """The chunks of that part, a view into the frame.

        Raises:
            UploadRefused: the frame does not hold exactly so many bytes.
        """
        body = self._content[self._start :]
        if body.size != part.chunks * self._chunk:
            raise UploadRefused(f"{what} is not exactly its {part.chunks} chunks")
        return body.reshape(part.chunks, self._chunk)


def _digest(chunks: Chunks) -> str:
    outer = hashlib.sha256()
    for chunk in chunks:
        outer.update(hashlib.sha256(chunk).digest())
    return outer.hexdigest()


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:16]}…"
