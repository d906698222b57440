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
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from blindsum.he.cipher import chunk_bytes
from blindsum.he.coefficients import Chunks
from blindsum.he.exchange import Exchange, Part
from blindsum.he.identity import Identity, verify
from blindsum.platform.errors import KeyRefused, UploadRefused

_HEADER = b"blindsum"
_FORMAT = 2
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
    part: int
    silo: str
    chunks: str  # SHA-256 over the chunks' own SHA-256 digests, hex

    @classmethod
    def of(cls, exchange: Exchange, part: int, silo: str, chunks: str) -> Header:
        return cls(
            _FORMAT, exchange.job, exchange.round, exchange.attempt, exchange.purpose,
            exchange.roster, exchange.values, exchange.range, exchange.parameters.digest, part,
            silo, chunks,
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
    metadata, indices, chunks = _read(frame, chunk_bytes(exchange.parameters)[0])
    receipt = _receipt(metadata)
    part = check_receipt(receipt, exchange, identities)
    silo = receipt.header.silo
    if not _in_order(indices, part):
        raise UploadRefused(
            f"part {part.index} of silo '{silo}' has {len(indices)} chunks, not the "
            f"{part.chunks} from chunk {part.first} in order"
        )
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
    metadata, indices, chunks = _read(frame, chunk_bytes(exchange.parameters)[1])
    if metadata != {_TOTAL: exchange.digest.hex(), "part": part.index}:
        raise UploadRefused("a frame came that is not this part of this exchange's total")
    if not _in_order(indices, part):
        raise UploadRefused("the total's chunks are not all there in order")
    return chunks


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


def _read(
    frame: pa.Buffer, chunk: int
) -> tuple[dict[str, Any], np.ndarray[Any, np.dtype[np.int32]], Chunks]:
    """A frame's metadata, its chunk indices and its chunks, the latter without a copy."""
    try:
        with pa.ipc.open_stream(frame) as reader:
            schema, batch = reader.schema, reader.read_next_batch()
            metadata = json.loads((schema.metadata or {})[_HEADER])
        if not schema.equals(_schema(chunk)) or not isinstance(metadata, dict):
            raise UploadRefused(
                "a frame of another schema",
                "Its ciphertexts are not of this job's parameters.",
            )
        batch.validate(full=True)
        indices, column = batch.columns
        content = column.buffers()[1]
        if column.null_count or indices.null_count or content is None:
            raise ValueError
        start = column.offset * chunk
        size = len(column) * chunk
        chunks = np.frombuffer(content, np.uint8)[start : start + size].reshape(-1, chunk)
        return metadata, indices.to_numpy(), chunks
    except (pa.ArrowException, OSError, StopIteration, KeyError, ValueError, TypeError):
        raise UploadRefused("a frame that is not a complete Arrow stream of ciphertexts") from None
    except RecursionError:
        raise UploadRefused("a frame whose header is nested too deep") from None


def _in_order(indices: np.ndarray[Any, np.dtype[np.int32]], part: Part) -> bool:
    return np.array_equal(indices, np.arange(part.first, part.first + part.chunks))


def _digest(chunks: Chunks) -> str:
    outer = hashlib.sha256()
    for chunk in chunks:
        outer.update(hashlib.sha256(chunk).digest())
    return outer.hexdigest()


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:16]}…"
