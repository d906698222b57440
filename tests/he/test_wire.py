"""Frames: what was signed arrives, and every other frame is refused with a reason."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blindsum.he import exchange as exchange_module
from blindsum.he.coefficients import SUM_BYTES, UPLOAD_BYTES, Chunks
from blindsum.he.exchange import PART_CHUNKS, Exchange, Part
from blindsum.he.identity import Identity
from blindsum.he.parameters import Parameters
from blindsum.he.wire import (
    Receipt,
    check_receipt,
    read_total,
    read_upload,
    write_total,
    write_upload,
)
from blindsum.platform.errors import UploadRefused

P = Parameters.derive(2)
ROSTER = ("a", "b")


def chunks(count: int, size: int = UPLOAD_BYTES) -> Chunks:
    return np.random.default_rng(count).integers(0, 256, (count, size), dtype=np.uint8)


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    folder = tmp_path_factory.mktemp("identities")
    return {silo: Identity(folder / silo) for silo in ("a", "b", "mallory")}


@pytest.fixture(scope="module")
def public(identities: dict[str, Identity]) -> dict[str, bytes]:
    return {silo: identities[silo].public for silo in ROSTER}


def exchange(**changes: object) -> Exchange:
    plain = Exchange("job", 4, 1, "update", ROSTER, 2 * P.values_per_chunk, 1.0, P)
    return replace(plain, **changes)  # type: ignore[arg-type]


def signed(identities: dict[str, Identity], silo: str, **changes: object) -> pa.Buffer:
    one = exchange(**changes)
    part = one.parts[0]
    return write_upload(one, part, silo, chunks(part.chunks), identities[silo])


def test_an_upload_arrives_as_it_was_signed(identities, public) -> None:  # type: ignore[no-untyped-def]
    upload = read_upload(signed(identities, "a"), exchange(), public)
    assert upload.silo == "a" and upload.part == Part(0, 0, 2)
    np.testing.assert_array_equal(upload.chunks, chunks(2))


def test_parts_cover_every_value_once_and_are_bounded() -> None:
    for values in (1, P.values_per_chunk * PART_CHUNKS, 10_000_019):
        one = exchange(values=values)
        where = [part.values(one) for part in one.parts]
        assert where[0].start == 0 and where[-1].stop == values
        assert all(a.stop == b.start for a, b in itertools.pairwise(where))
        assert sum(part.chunks for part in one.parts) == one.chunks
        assert all(part.chunks <= PART_CHUNKS for part in one.parts)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"round": 3}, "round 3"),
        ({"attempt": 2}, "attempt 2"),
        ({"job": "other"}, "job other"),
        ({"purpose": "metrics"}, "purpose metrics"),
        ({"clipping": 2.0}, "clipping 2.0"),
        ({"roster": ("a", "b", "c")}, "roster"),
        ({"values": 10}, "values 10"),
        ({"range": 2.0}, "range 2.0"),
        ({"range": None}, "range None"),
        ({"parameters": Parameters.derive(2, 18)}, "parameters"),
        ({"model": "ab" * 32}, "model abab"),
    ],
)
def test_replayed_and_foreign_uploads_are_refused(identities, public, changes, reason) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UploadRefused, match=f"for {reason}"):
        read_upload(signed(identities, "a", **changes), exchange(), public)


def test_uploads_of_another_scheme_are_refused(identities, public) -> None:  # type: ignore[no-untyped-def]
    plain = exchange(parameters=Parameters.derive(2, scheme="none"))
    frame = write_upload(plain, plain.parts[0], "a", chunks(2, 32_768), identities["a"])
    with pytest.raises(UploadRefused, match="another schema"):
        read_upload(frame, exchange(), public)


def test_strangers_and_forgers_are_refused(identities, public) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UploadRefused, match="not in the roster"):
        read_upload(signed(identities, "mallory"), exchange(), public)
    as_a = write_upload(exchange(), Part(0, 0, 2), "a", chunks(2), identities["mallory"])
    with pytest.raises(UploadRefused, match="signature"):
        read_upload(as_a, exchange(), public)


@pytest.mark.parametrize(
    ("part", "rows", "reason"),
    [
        (Part(0, 0, 1), 1, "not exactly its 2 chunks"),
        (Part(0, 0, 3), 3, "not exactly its 2 chunks"),
        (Part(0, 1, 2), 2, "in order"),
        (Part(1, 0, 2), 2, "there are 1"),
        (Part(-1, 0, 2), 2, "there are 1"),
    ],
)
def test_what_is_not_exactly_a_part_is_refused(identities, public, part, rows, reason) -> None:  # type: ignore[no-untyped-def]
    frame = write_upload(exchange(), part, "a", chunks(rows), identities["a"])
    with pytest.raises(UploadRefused, match=reason):
        read_upload(frame, exchange(), public)


def test_reordered_chunks_are_refused_even_with_their_indices_put_right(identities, public) -> None:  # type: ignore[no-untyped-def]
    frame = signed(identities, "a")
    with pa.ipc.open_stream(frame) as reader:
        batch = reader.read_next_batch()
    for indices in ([1, 0], [0, 1]):
        columns = [pa.array(indices, pa.int32()), batch.column(1).take(pa.array([1, 0]))]
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(pa.record_batch(columns, schema=batch.schema))
        with pytest.raises(UploadRefused, match="in order|altered on its way"):
            read_upload(sink.getvalue(), exchange(), public)


FUZZ = settings(
    max_examples=2500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FUZZ
@given(
    kind=st.sampled_from(["flip", "cut", "insert", "swap", "repeat"]),
    at=st.floats(0, 1, exclude_max=True),
    other=st.floats(0, 1, exclude_max=True),
    noise=st.binary(min_size=1, max_size=16),
)
def test_no_altered_frame_is_taken_for_what_was_signed(  # type: ignore[no-untyped-def]
    identities, public, frames, kind, at, other, noise
) -> None:
    """Bit flips, cuts and insertions: refused, or (in padding) read as exactly what was signed.

    Half of the positions lie in the head of the frame, where its structure is.
    """
    frame = bytearray(frames["a"])
    reach = len(frame) if at < 0.5 else 8192
    one, two = int(at * reach), int(other * reach)
    if kind == "flip":
        frame[one] ^= 1 << (noise[0] & 7)
    elif kind == "cut":
        del frame[one:]
    elif kind == "insert":
        frame[one:one] = noise
    elif kind == "swap":
        frame[one], frame[two] = frame[two], frame[one]
    else:
        frame[one : one + 64] = frame[two : two + 64]
    try:
        upload = read_upload(pa.py_buffer(bytes(frame)), exchange(), public)
    except UploadRefused:
        return
    np.testing.assert_array_equal(upload.chunks, chunks(2))
    assert upload.silo == "a"


@pytest.fixture(scope="module")
def frames(identities: dict[str, Identity]) -> dict[str, bytes]:
    return {"a": signed(identities, "a").to_pybytes()}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
FIELDS = [
    "format", "job", "round", "attempt", "purpose", "roster", "values", "range", "parameters",
    "model", "part", "silo", "chunks",
]  # fmt: skip


@settings(
    max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(field=st.sampled_from([*FIELDS, "header", "signature", "new"]), value=anything)
def test_no_header_of_any_shape_gets_past_the_signature(  # type: ignore[no-untyped-def]
    identities, public, frames, field, value
) -> None:
    with pa.ipc.open_stream(pa.py_buffer(frames["a"])) as reader:
        batch = reader.read_next_batch()
    metadata = json.loads(batch.schema.metadata[b"blindsum"])
    target = metadata if field in ("header", "signature") else metadata["header"]
    same = target.get(field, ...) == value and type(target.get(field)) is type(value)
    target[field] = value
    schema = batch.schema.with_metadata({b"blindsum": json.dumps(metadata).encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(batch.replace_schema_metadata(schema.metadata))
    if same:
        return
    with pytest.raises(UploadRefused):
        read_upload(sink.getvalue(), exchange(), public)


def test_receipts_prove_what_a_silo_sent_and_to_what(identities, public) -> None:  # type: ignore[no-untyped-def]
    receipt = read_upload(signed(identities, "a"), exchange(), public).receipt
    assert check_receipt(receipt, exchange(), public) == Part(0, 0, 2)
    for wrong, reason in (
        (Receipt(replace(receipt.header, chunks="0" * 64), receipt.signature), "signature"),
        (Receipt(replace(receipt.header, silo="b"), receipt.signature), "signature"),
        (Receipt(receipt.header, receipt.signature[:-1]), "signature"),
        (Receipt(replace(receipt.header, round=3), receipt.signature), "round 3"),
    ):
        with pytest.raises(UploadRefused, match=reason):
            check_receipt(wrong, exchange(), public)


def test_a_total_is_read_for_its_own_exchange_and_part_alone() -> None:
    part = exchange().parts[0]
    total = write_total(exchange(), part, chunks(2, SUM_BYTES))
    np.testing.assert_array_equal(read_total(total, exchange(), part), chunks(2, SUM_BYTES))
    for other in (exchange(round=5), exchange(attempt=2), exchange(roster=("a", "c"))):
        with pytest.raises(UploadRefused, match="not this part of this exchange's total"):
            read_total(total, other, part)
    with pytest.raises(UploadRefused, match="not this part"):
        read_total(total, exchange(), Part(1, 64, 2))
    short = write_total(exchange(), part, chunks(1, SUM_BYTES))
    with pytest.raises(UploadRefused, match="not exactly its 2 chunks"):
        read_total(short, exchange(), part)


def test_an_upload_is_no_total_and_garbage_is_neither(identities, public) -> None:  # type: ignore[no-untyped-def]
    part = exchange().parts[0]
    with pytest.raises(UploadRefused, match="another schema"):
        read_total(signed(identities, "a"), exchange(), part)
    with pytest.raises(UploadRefused, match="another schema"):
        read_upload(write_total(exchange(), part, chunks(2, SUM_BYTES)), exchange(), public)
    table = pa.table({"x": [1]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    for garbage in (b"", b"\0" * 100, sink.getvalue().to_pybytes()):
        with pytest.raises(UploadRefused, match="frame"):
            read_upload(pa.py_buffer(garbage), exchange(), public)


def streamed(schema: pa.Schema, *batches: pa.RecordBatch, compressed: bool = False) -> bytes:
    options = pa.ipc.IpcWriteOptions(compression="zstd" if compressed else None)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def test_an_upload_larger_than_any_part_is_refused_unread(  # type: ignore[no-untyped-def]
    identities, public, monkeypatch
) -> None:
    frame = write_upload(exchange(), Part(0, 0, 2), "a", chunks(1000), identities["a"])
    monkeypatch.setattr(pa.ipc, "read_message", lambda stream: pytest.fail("read"))
    with pytest.raises(UploadRefused, match="larger than any part"):
        read_upload(frame, exchange(), public)


def test_an_upload_that_would_unfold_is_refused_while_it_is_small(identities, public) -> None:  # type: ignore[no-untyped-def]
    """A few kilobytes of compressed noughts, 256 MB when read: from a signer, or from anyone."""
    with pa.ipc.open_stream(signed(identities, "a")) as reader:
        schema = reader.schema
    rows = 256 * 2**20 // UPLOAD_BYTES
    noughts = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(UPLOAD_BYTES), rows, [None, pa.py_buffer(bytes(rows * UPLOAD_BYTES))]
    )
    batch = pa.record_batch([pa.array(np.arange(rows, dtype=np.int32)), noughts], schema=schema)
    bomb = streamed(schema, batch, compressed=True)
    assert len(bomb) < 200_000
    del noughts, batch
    held = pa.total_allocated_bytes()
    peak = pa.default_memory_pool().max_memory()
    with pytest.raises(UploadRefused, match="not exactly its 2 chunks"):
        read_upload(pa.py_buffer(bomb), exchange(), public)
    assert pa.total_allocated_bytes() <= held
    assert pa.default_memory_pool().max_memory() == peak  # nothing was unfolded meanwhile


def test_nothing_may_follow_or_hide_in_a_frame(identities, public) -> None:  # type: ignore[no-untyped-def]
    frame = signed(identities, "a").to_pybytes()
    with pa.ipc.open_stream(pa.py_buffer(frame)) as reader:
        schema, batch = reader.schema, reader.read_next_batch()
    for altered in (
        frame + b"\0", frame + frame, frame[:-8], streamed(schema, batch, batch),
        streamed(schema, batch, compressed=True), streamed(schema, batch.slice(0, 1), batch.slice(1)),
    ):  # fmt: skip
        with pytest.raises(UploadRefused, match="not exactly its 2 chunks|complete Arrow stream"):
            read_upload(pa.py_buffer(altered), exchange(), public)
    with pytest.raises(UploadRefused, match="not a frame"):
        read_upload(None, exchange(), public)


def test_a_part_is_small_whatever_the_model() -> None:
    assert exchange_module.PART_CHUNKS * UPLOAD_BYTES < 2_000_000
