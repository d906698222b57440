"""Uploads and totals as Arrow IPC streams: typed, signed, and nothing else.

A frame is one record batch with a binary column `chunk`, one row per ciphertext, and a JSON
header in the schema's metadata. An upload's header is signed by its silo and covers the
digest of the chunks. A total carries the signed headers of the uploads, so that every silo
checks for itself that each of the roster sent one. That the total's ciphertext is their sum is
not shown by this.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa

from blindsum.he.keys import Identity, verify
from blindsum.he.parameters import Parameters
from blindsum.platform.errors import KeyRefused, UploadRefused

Purpose = Literal["update", "metrics"]

_SCHEMA = pa.schema([pa.field("chunk", pa.binary(), nullable=False)])
_HEADER = b"blindsum"
_FORMAT = 1


@dataclass(frozen=True)
class Exchange:
    """One sum over one roster: what every upload and total of it must match. Public."""

    job: str
    round: int
    attempt: int
    purpose: Purpose
    roster: tuple[str, ...]
    values: int
    parameters: Parameters

    @property
    def chunks(self) -> int:
        return self.parameters.chunks(self.values)


@dataclass(frozen=True)
class Header:
    """What an upload says of itself, under its silo's signature."""

    format: int
    job: str
    round: int
    attempt: int
    purpose: str
    roster: tuple[str, ...]
    silo: str
    values: int
    parameters: str
    chunks: str  # SHA-256 over the chunks' own SHA-256 digests, hex

    @classmethod
    def of(cls, exchange: Exchange, silo: str, chunks: str) -> Header:
        return cls(
            _FORMAT, exchange.job, exchange.round, exchange.attempt, exchange.purpose,
            exchange.roster, silo, exchange.values, exchange.parameters.digest, chunks,
        )  # fmt: skip

    def signed_content(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()


@dataclass(frozen=True)
class Upload:
    """An upload that passed every check. `chunks` are views into the received buffer."""

    header: Header
    signature: bytes
    chunks: Sequence[memoryview]


def write_upload(
    exchange: Exchange, silo: str, chunks: Sequence[bytes], identity: Identity
) -> pa.Buffer:
    """Frame and sign one silo's chunks."""
    header = Header.of(exchange, silo, _digest(chunks))
    signature = identity.sign(header.signed_content())
    return _write({"header": asdict(header), "signature": signature.hex()}, chunks)


def read_upload(frame: pa.Buffer, exchange: Exchange, identities: Mapping[str, bytes]) -> Upload:
    """Read and check one upload.

    Raises:
        UploadRefused: it is malformed, for another exchange, from a stranger, altered, or
            of the wrong size. The message names the first thing that differs.
    """
    metadata, chunks = _read(frame)
    header, signature = _signed_header(metadata)
    _check(header, signature, exchange, identities)
    if len(chunks) != exchange.chunks:
        raise UploadRefused(
            f"the upload of silo '{header.silo}' has {len(chunks)} chunks, "
            f"expected {exchange.chunks}"
        )
    if _digest(chunks) != header.chunks:
        raise UploadRefused(f"the upload of silo '{header.silo}' was altered on its way")
    return Upload(header, signature, chunks)


def write_total(uploads: Sequence[tuple[Header, bytes]], chunks: Sequence[bytes]) -> pa.Buffer:
    """Frame the sum with the signed headers of what is in it."""
    entries = [
        {"header": asdict(header), "signature": signature.hex()} for header, signature in uploads
    ]
    return _write({"uploads": entries, "chunks": _digest(chunks)}, chunks)


def read_total(
    frame: pa.Buffer, exchange: Exchange, identities: Mapping[str, bytes]
) -> Sequence[memoryview]:
    """Check that exactly the roster signed uploads for it, and return the total's chunks.

    Raises:
        UploadRefused: it is malformed or altered, or an upload in it is missing, doubled,
            forged or of another exchange.
    """
    metadata, chunks = _read(frame)
    entries = metadata.get("uploads")
    if not isinstance(entries, list):
        raise UploadRefused("a total without the uploads that are in it")
    headers = []
    for entry in entries:
        header, signature = _signed_header(entry if isinstance(entry, dict) else {})
        _check(header, signature, exchange, identities)
        headers.append(header)
    silos = sorted(header.silo for header in headers)
    if silos != sorted(exchange.roster):
        raise UploadRefused(
            f"the total is over {', '.join(silos) or 'nobody'}, "
            f"agreed were {', '.join(sorted(exchange.roster))}"
        )
    if len(chunks) != exchange.chunks or _digest(chunks) != metadata.get("chunks"):
        raise UploadRefused("the total was altered on its way")
    return chunks


def _check(
    header: Header, signature: bytes, exchange: Exchange, identities: Mapping[str, bytes]
) -> None:
    expected = Header.of(exchange, header.silo, header.chunks)
    for name, value in asdict(expected).items():
        got = getattr(header, name)
        if got != value:
            raise UploadRefused(
                f"an upload for {name} {_short(got)} came in place of {_short(value)}",
                "It is stale, replayed or of another job.",
            )
    if header.silo not in exchange.roster or header.silo not in identities:
        raise UploadRefused(f"an upload from '{_short(header.silo)}', which is not in the roster")
    try:
        verify(identities[header.silo], signature, header.signed_content(), "upload")
    except KeyRefused as error:
        raise UploadRefused(f"{error.what} as that of silo '{header.silo}'") from None


def _signed_header(entry: Mapping[str, Any]) -> tuple[Header, bytes]:
    try:
        fields = dict(entry["header"])
        header = Header(**(fields | {"roster": tuple(fields["roster"])}))
        return header, bytes.fromhex(entry["signature"])
    except (KeyError, TypeError, ValueError):
        raise UploadRefused("an upload without a complete signed header") from None


def _write(metadata: Mapping[str, Any], chunks: Sequence[bytes]) -> pa.Buffer:
    schema = _SCHEMA.with_metadata({_HEADER: json.dumps(metadata).encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.record_batch([pa.array(chunks, pa.binary())], schema=schema))
    return sink.getvalue()


def _read(frame: pa.Buffer) -> tuple[dict[str, Any], Sequence[memoryview]]:
    try:
        with pa.ipc.open_stream(frame) as reader:
            schema, batch = reader.schema, reader.read_next_batch()
            metadata = json.loads((schema.metadata or {})[_HEADER])
        if not schema.equals(_SCHEMA) or not isinstance(metadata, dict):
            raise UploadRefused("a frame of another schema")
        batch.validate(full=True)
        chunks = [memoryview(value.as_buffer()) for value in batch.column(0)]
    except (pa.ArrowException, OSError, StopIteration, KeyError, ValueError, TypeError):
        raise UploadRefused("a frame that is not a complete Arrow stream of ciphertexts") from None
    return metadata, chunks


def _digest(chunks: Sequence[bytes] | Sequence[memoryview]) -> str:
    outer = hashlib.sha256()
    for chunk in chunks:
        outer.update(hashlib.sha256(chunk).digest())
    return outer.hexdigest()


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:16]}…"
