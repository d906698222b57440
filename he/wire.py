"""The wire format: uploads and totals as frames of plain bytes.

A frame is one part of an upload or of a total:

    8 bytes    "blindsum"
    4 bytes    format, uint32, little-endian
    4 bytes    length of the head, uint32, little-endian
    head       JSON (UTF-8), padded with blanks so that the chunks begin at a multiple of 64
    chunks     the ciphertexts of the part, in order

The silo signs the header of its upload, which includes the digest of the chunks. A frame is
therefore checked as a whole before any of it is added, and a `Receipt` (header and signature)
proves to anyone what a silo sent. Frames were once Arrow streams, but Arrow 25 ends the process on
some malformed ones, so that any sender could have ended an aggregator (tests/fuzz).

A total is not signed. Its last part carries the words by which every silo verifies that the total
is the sum of what the roster's silos hashed (`blindsum.he.linear_hash`).
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
from blindsum.he.identity import SIGNATURE_BYTES, Identity, verify
from blindsum.he.linear_hash import NO_WORDS, Words, read, written
from blindsum.platform.errors import KeyRefused, UploadRefused

_FORMAT = 6
_TOTAL = "total"
_PREFIX = struct.Struct("<8sII")
_MAGIC = b"blindsum"
_ALIGNED = 64

_MAX_HEAD = 1 << 16
"""The greatest size of a head in bytes: roster, signature and padding."""


@dataclass(frozen=True)
class Header:
    """The header of a part of an upload, which its silo signs."""

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
    check: str  # only in the last part: the whole upload's words of `blindsum.he.linear_hash`, hex

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
        return json.dumps(vars(self), sort_keys=True).encode()  # asdict copies the roster deeply


@dataclass(frozen=True)
class Receipt:
    """A header and its silo's signature: they prove what that silo sent, and for which exchange."""

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
        words: the words of the whole upload; they travel with its last part.
    """
    check = _check(exchange, part.index, words)
    header = Header.of(exchange, part.index, silo, _digest(chunks), check)
    signature = identity.sign(header.signed_content())
    return _write({"header": asdict(header), "signature": signature.hex()}, chunks)


def read_upload(frame: pa.Buffer, exchange: Exchange, identities: Mapping[str, bytes]) -> Upload:
    """Read and check one part of an upload.

    Raises:
        UploadRefused: it is malformed, for another exchange, from a silo outside the roster,
            altered, or of the wrong size. The message names the first difference.
    """
    content = _Frame(frame, chunk_bytes(exchange.parameters)[0])
    receipt = _receipt(content.metadata)
    part = check_receipt(receipt, exchange, identities)
    silo = receipt.header.silo
    chunks = content.chunks(part, f"part {part.index} of silo '{silo}'")
    if _digest(chunks) != receipt.header.chunks:
        raise UploadRefused(f"part {part.index} of silo '{silo}' was altered in transit")
    return Upload(receipt, part, chunks)


def upload_bytes(exchange: Exchange, part: Part, silo: str) -> int:
    """Return the size of the frame in which a silo sends that part."""
    header = Header.of(exchange, part.index, silo, "0" * 64, _check(exchange, part.index, NO_WORDS))
    signed = {"header": asdict(header), "signature": "0" * (2 * SIGNATURE_BYTES)}
    return _framed_bytes(signed, part.chunks * chunk_bytes(exchange.parameters)[0])


def total_bytes(exchange: Exchange, part: Part) -> int:
    """Return the size of the frame in which a silo receives that part of the sum."""
    named = _named(exchange, part, _check(exchange, part.index, NO_WORDS))
    return _framed_bytes(named, part.chunks * chunk_bytes(exchange.parameters)[1])


def check_receipt(receipt: Receipt, exchange: Exchange, identities: Mapping[str, bytes]) -> Part:
    """Check that a silo of the roster signed this receipt for this exchange, and return its part.

    Raises:
        UploadRefused: no such silo did. The message names the first difference.
    """
    header = receipt.header
    expected = Header.of(exchange, header.part, header.silo, header.chunks, header.check)
    for name, value in vars(expected).items():
        got = getattr(header, name)
        if got != value or type(got) is not type(value):
            raise UploadRefused(
                f"received an upload for {name} {_short(got)}, expected {_short(value)}",
                "It is stale, replayed or from another run.",
            )
    if header.silo not in exchange.roster or header.silo not in identities:
        raise UploadRefused(
            f"received an upload from '{_short(header.silo)}', which is not in the roster"
        )
    if type(header.part) is not int or not 0 <= header.part < len(exchange.parts):
        raise UploadRefused(
            f"received part {_short(header.part)} of silo '{header.silo}', but the exchange "
            f"has only {len(exchange.parts)} parts, numbered from 0"
        )
    if header.check or header.part == len(exchange.parts) - 1:
        words = read(header.check)
        if header.check != _check(exchange, header.part, words):
            raise UploadRefused("received check words with a part that is not the last")
    try:
        verify(
            identities[header.silo],
            receipt.signature,
            header.signed_content(),
            f"upload from silo '{header.silo}'",
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
    return _write(_named(exchange, part, check), chunks)


def read_total(frame: pa.Buffer, exchange: Exchange, part: Part) -> tuple[Chunks, Words]:
    """Read one part of the sum: its chunks, a view into the received buffer, and its words.

    Raises:
        UploadRefused: it is malformed, or belongs to another exchange or part.
    """
    content = _Frame(frame, chunk_bytes(exchange.parameters)[1])
    check = content.metadata.pop("check", "")
    if content.metadata != {_TOTAL: exchange.digest.hex(), "part": part.index}:
        raise UploadRefused("received a frame that is not this part of this exchange's total")
    words = read(check) if check or part.index == len(exchange.parts) - 1 else NO_WORDS
    if check != _check(exchange, part.index, words):
        raise UploadRefused("received check words with a part that is not the last")
    return content.chunks(part, f"part {part.index} of the total"), words


def _named(exchange: Exchange, part: Part, check: str) -> dict[str, Any]:
    return {_TOTAL: exchange.digest.hex(), "part": part.index, "check": check}


def _check(exchange: Exchange, part: int, words: Words) -> str:
    return written(words) if part == len(exchange.parts) - 1 else ""


def _receipt(metadata: Mapping[str, Any]) -> Receipt:
    try:
        fields = dict(metadata["header"])
        header = Header(**(fields | {"roster": tuple(fields["roster"])}))
        hash(header)  # only plain values can be hashed: this refuses lists early
        return Receipt(header, bytes.fromhex(metadata["signature"]))
    except (KeyError, TypeError, ValueError):
        raise UploadRefused("received an upload without a complete signed header") from None


def _head(metadata: Mapping[str, Any]) -> bytes:
    text = json.dumps(metadata).encode()
    return text + b" " * (-(_PREFIX.size + len(text)) % _ALIGNED)


def _framed_bytes(metadata: Mapping[str, Any], chunks: int) -> int:
    return _PREFIX.size + len(_head(metadata)) + chunks


def _write(metadata: Mapping[str, Any], chunks: Chunks) -> pa.Buffer:
    head = _PREFIX.pack(_MAGIC, _FORMAT, len(_head(metadata))) + _head(metadata)
    buffer = pa.allocate_buffer(len(head) + chunks.nbytes)
    content = np.frombuffer(buffer, np.uint8)
    content[: len(head)] = np.frombuffer(head, np.uint8)
    content[len(head) :] = chunks.reshape(-1)
    return buffer


class _Frame:
    """A frame of which only the head has been read.

    Args:
        chunk: the size of one ciphertext in bytes.

    Raises:
        UploadRefused: the frame is larger than any part, or its head is not as `_write` writes it.
    """

    def __init__(self, frame: pa.Buffer, chunk: int) -> None:
        self._chunk = chunk
        if not isinstance(frame, pa.Buffer):
            raise UploadRefused("received something that is not a frame")
        if frame.size > PART_CHUNKS * chunk + _PREFIX.size + _MAX_HEAD:
            raise UploadRefused(f"received a frame of {frame.size} bytes, larger than any part")
        self._content = np.frombuffer(frame, np.uint8) if frame.size else np.zeros(0, np.uint8)
        self._start, self.metadata = self._read_head()

    def _read_head(self) -> tuple[int, dict[str, Any]]:
        prefix = self._content[: _PREFIX.size].tobytes()
        magic, format, size = _PREFIX.unpack(prefix.ljust(_PREFIX.size, b"\0"))
        if magic != _MAGIC or size > _MAX_HEAD:
            raise UploadRefused("received something that is not a frame of ciphertexts")
        if format != _FORMAT:
            raise UploadRefused(
                f"received a frame of format {format}, expected {_FORMAT}",
                "All silos must run the same version of blindsum.",
            )
        start = _PREFIX.size + size
        head = self._content[_PREFIX.size : start].tobytes()
        try:
            metadata = json.loads(head)
        except RecursionError:
            raise UploadRefused("received a frame whose head is nested too deeply") from None
        except ValueError:
            raise UploadRefused("received a frame whose head cannot be read") from None
        if not isinstance(metadata, dict) or _head(metadata) != head:
            raise UploadRefused("received a frame whose head is not in the canonical form")
        return start, metadata

    def chunks(self, part: Part, what: str) -> Chunks:
        """Return the chunks of that part, a view into the frame.

        Raises:
            UploadRefused: the frame does not have exactly the size of that part.
        """
        body = self._content[self._start :]
        if body.size != part.chunks * self._chunk:
            raise UploadRefused(
                f"{what} has {body.size} bytes, not exactly its {part.chunks} chunks of "
                f"{self._chunk} bytes"
            )
        return body.reshape(part.chunks, self._chunk)


def _digest(chunks: Chunks) -> str:
    outer = hashlib.sha256()
    for chunk in chunks:
        outer.update(hashlib.sha256(chunk).digest())
    return outer.hexdigest()


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:16]}…"
