"""Uploads and totals as Arrow IPC streams: typed, signed, and nothing else.

A frame is one part of an upload or of a total: a record batch with a row for each ciphertext,
its chunk index and its bytes, and a JSON header in the schema's metadata. The header of
an upload is under its silo's signature and holds the digest of the chunks, so that a frame is
checked whole before any of it is added, and `Receipt`, header and signature, proves to anyone
what a silo sent.

A total is not signed: its masks cancel for the sum over the whole roster and for nothing
else, and whoever wants to know that nothing was added to it sums the uploads again
(`blindsum.he.upload.sum_again`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from blindsum.he.cipher import chunk_bytes
from blindsum.he.coefficients import Chunks
from blindsum.he.exchange import PART_CHUNKS, Exchange, Part
from blindsum.he.identity import Identity, verify
from blindsum.platform.errors import KeyRefused, UploadRefused

_HEADER = b"blindsum"
_FORMAT = 4
_TOTAL = "total"


@dataclass(frozen=True)
class Header:
    """What a part of an upload says of itself, under its silo's signature."""

    format: int
    job: str
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

    @classmethod
    def of(cls, exchange: Exchange, part: int, silo: str, chunks: str) -> Header:
        return cls(
            _FORMAT, exchange.job, exchange.round, exchange.attempt, exchange.purpose,
            exchange.roster, exchange.values, exchange.range, exchange.parameters.digest,
            exchange.model, exchange.clipping, part, silo, chunks,
        )  # fmt: skip

    def signed_content(self) -> bytes:
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
        return self.receipt.header.silo


def write_upload(
    exchange: Exchange, part: Part, silo: str, chunks: Chunks, identity: Identity
) -> pa.Buffer:
    """Frame and sign one part of a silo's upload, uint8 [part.chunks, bytes]."""
    header = Header.of(exchange, part.index, silo, _digest(chunks))
    signature = identity.sign(header.signed_content())
    return _write({"header": asdict(header), "signature": signature.hex()}, part, chunks)


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
    expected = Header.of(exchange, header.part, header.silo, header.chunks)
    for name, value in asdict(expected).items():
        got = getattr(header, name)
        if got != value or type(got) is not type(value):
            raise UploadRefused(
                f"an upload for {name} {_short(got)} came in place of {_short(value)}",
                "It is stale, replayed or of another job.",
            )
    if header.silo not in exchange.roster or header.silo not in identities:
        raise UploadRefused(f"an upload from '{_short(header.silo)}', which is not in the roster")
    if type(header.part) is not int or not 0 <= header.part < len(exchange.parts):
        raise UploadRefused(
            f"part {_short(header.part)} came of silo '{header.silo}', "
            f"there are {len(exchange.parts)}"
        )
    try:
        verify(
            identities[header.silo], receipt.signature, header.signed_content(),
            f"upload as that of silo '{header.silo}'",
        )  # fmt: skip
    except KeyRefused as error:
        raise UploadRefused(error.what) from None
    return exchange.parts[header.part]


def write_total(exchange: Exchange, part: Part, chunks: Chunks) -> pa.Buffer:
    """Frame one part of the sum, uint8 [part.chunks, bytes]."""
    return _write({_TOTAL: exchange.digest.hex(), "part": part.index}, part, chunks)


def read_total(frame: pa.Buffer, exchange: Exchange, part: Part) -> Chunks:
    """The chunks of that part of the sum, a view into the received buffer.

    Raises:
        UploadRefused: it is malformed, or another exchange's or part's.
    """
    content = _Frame(frame, chunk_bytes(exchange.parameters)[1])
    if content.metadata != {_TOTAL: exchange.digest.hex(), "part": part.index}:
        raise UploadRefused("a frame came that is not this part of this exchange's total")
    return content.chunks(part, f"part {part.index} of the total")


def _receipt(metadata: Mapping[str, Any]) -> Receipt:
    try:
        fields = dict(metadata["header"])
        header = Header(**(fields | {"roster": tuple(fields["roster"])}))
        hash(header)  # every field a plain value: none can be a list to choke on later
        return Receipt(header, bytes.fromhex(metadata["signature"]))
    except (KeyError, TypeError, ValueError):
        raise UploadRefused("an upload without a complete signed header") from None


def _schema(chunk: int) -> pa.Schema:
    return pa.schema(
        [
            pa.field("index", pa.int32(), nullable=False),
            pa.field("chunk", pa.binary(chunk), nullable=False),
        ]
    )


def _write(metadata: Mapping[str, Any], part: Part, chunks: Chunks) -> pa.Buffer:
    rows, size = chunks.shape
    schema = _schema(size).with_metadata({_HEADER: json.dumps(metadata).encode()})
    content = pa.py_buffer(np.ascontiguousarray(chunks))
    batch = pa.record_batch(
        [
            pa.array(np.arange(part.first, part.first + rows, dtype=np.int32)),
            pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), rows, [None, content]),
        ],
        schema=schema,
    )
    buffer = pa.allocate_buffer(_size(schema, batch))  # at once: a growing one copies again
    with pa.FixedSizeBufferWriter(buffer) as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(batch)
    return buffer


def _size(schema: pa.Schema, batch: pa.RecordBatch) -> int:
    counting = pa.MockOutputStream()
    with pa.ipc.new_stream(counting, schema) as writer:
        writer.write_batch(batch)
    return int(counting.size())


class _Frame:
    """A frame whose schema and metadata were read, and nothing else yet.

    The body is taken only if it has the size and layout that this module writes for the rows
    that are due: a compressed one could unfold to any size, and what follows could be anything.

    Raises:
        UploadRefused: the frame is larger than any part, or of another schema.
    """

    def __init__(self, frame: pa.Buffer, chunk: int) -> None:
        self._chunk = chunk
        if not isinstance(frame, pa.Buffer):
            raise UploadRefused("something came that is not a frame")
        if frame.size > PART_CHUNKS * (chunk + 8) + _MAX_HEAD:
            raise UploadRefused(f"a frame of {frame.size} bytes, larger than any part")
        with _malformed():
            self._stream = pa.BufferReader(frame)
            schema = pa.ipc.read_schema(pa.ipc.read_message(self._stream))
            metadata = json.loads((schema.metadata or {})[_HEADER])
        if not schema.equals(_schema(chunk)) or not isinstance(metadata, dict):
            raise UploadRefused(
                "a frame of another schema", "Its ciphertexts are not of this job's parameters."
            )
        self._schema, self.metadata = schema, metadata

    def chunks(self, part: Part, what: str) -> Chunks:
        """The chunks of that part, a view into the frame.

        Raises:
            UploadRefused: the body is not exactly those chunks in order.
        """
        with _malformed():
            message = pa.ipc.read_message(self._stream)
            rest = self._stream.read()
        head, size = _layout(part.chunks, self._chunk)
        if message.metadata.to_pybytes() != head or message.body.size != size or rest != _END:
            raise UploadRefused(f"{what} is not exactly its {part.chunks} chunks and their indices")
        with _malformed():
            batch = pa.ipc.read_record_batch(message, self._schema)
        indices, column = batch.columns
        if not np.array_equal(indices.to_numpy(), np.arange(part.first, part.first + part.chunks)):
            raise UploadRefused(f"the chunks of {what} are not those from {part.first} in order")
        return np.frombuffer(column.buffers()[1], np.uint8).reshape(-1, self._chunk)


_MAX_HEAD = 1 << 16
"""Bytes of a frame beside its chunks and their indices, at most: roster, signature, padding."""

_END = b"\xff\xff\xff\xff\0\0\0\0"  # of an Arrow stream


@lru_cache(maxsize=256)
def _layout(rows: int, chunk: int) -> tuple[bytes, int]:
    """Metadata and size of the body of a batch of that many rows, as `_write` makes it."""
    chunks = np.zeros((rows, chunk), np.uint8)
    stream = pa.BufferReader(_write({}, Part(0, 0, rows), chunks))
    pa.ipc.read_message(stream)
    message = pa.ipc.read_message(stream)
    return message.metadata.to_pybytes(), message.body.size


@contextmanager
def _malformed() -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, StopIteration, KeyError, ValueError, TypeError):
        raise UploadRefused("a frame that is not a complete Arrow stream of ciphertexts") from None
    except RecursionError:
        raise UploadRefused("a frame whose header is nested too deep") from None


def _digest(chunks: Chunks) -> str:
    outer = hashlib.sha256()
    for chunk in chunks:
        outer.update(hashlib.sha256(chunk).digest())
    return outer.hexdigest()


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:16]}…"
