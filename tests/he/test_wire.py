"""Frames: what was signed arrives, and every other frame is refused with a reason."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blindsum.he.keys import Identity
from blindsum.he.parameters import Parameters
from blindsum.he.wire import Exchange, Header, read_total, read_upload, write_total, write_upload
from blindsum.platform.errors import UploadRefused

CHUNKS = [b"one" * 50, b"two" * 60]


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    folder = tmp_path_factory.mktemp("identities")
    return {silo: Identity(folder / silo) for silo in ("a", "b", "mallory")}


@pytest.fixture(scope="module")
def public(identities: dict[str, Identity]) -> dict[str, bytes]:
    return {silo: identities[silo].public for silo in ("a", "b")}


def exchange(**changes: object) -> Exchange:
    p = Parameters.derive(2)
    plain = Exchange("job", 4, 1, "update", ("a", "b"), 2 * p.values_per_chunk, p)
    return replace(plain, **changes)  # type: ignore[arg-type]


def signed(identities: dict[str, Identity], silo: str, **changes: object) -> pa.Buffer:
    return write_upload(exchange(**changes), silo, CHUNKS, identities[silo])


def entry(identities: dict[str, Identity], silo: str, **changes: object) -> tuple[Header, bytes]:
    public = {s: i.public for s, i in identities.items()}
    upload = read_upload(signed(identities, silo, **changes), exchange(**changes), public)
    return upload.header, upload.signature


def test_an_upload_arrives_as_it_was_signed(identities, public) -> None:  # type: ignore[no-untyped-def]
    upload = read_upload(signed(identities, "a"), exchange(), public)
    assert upload.header.silo == "a"
    assert [bytes(chunk) for chunk in upload.chunks] == CHUNKS


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"round": 3}, "round 3"),
        ({"attempt": 2}, "attempt 2"),
        ({"job": "other"}, "job other"),
        ({"purpose": "metrics"}, "purpose metrics"),
        ({"roster": ("a", "b", "c")}, "roster"),
        ({"values": 10}, "values 10"),
        ({"parameters": Parameters.derive(2, 12)}, "values|parameters"),
    ],
)
def test_replayed_and_foreign_uploads_are_refused(identities, public, changes, reason) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UploadRefused, match=reason):
        read_upload(signed(identities, "a", **changes), exchange(), public)


def test_strangers_and_forgers_are_refused(identities, public) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UploadRefused, match="not in the roster"):
        read_upload(signed(identities, "mallory"), exchange(), public)
    as_a = write_upload(exchange(), "a", CHUNKS, identities["mallory"])
    with pytest.raises(UploadRefused, match="signature"):
        read_upload(as_a, exchange(), public)


def test_too_few_chunks_are_refused(identities, public) -> None:  # type: ignore[no-untyped-def]
    short = write_upload(exchange(), "a", CHUNKS[:1], identities["a"])
    with pytest.raises(UploadRefused, match="1 chunks, expected 2"):
        read_upload(short, exchange(), public)


@settings(
    max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_altered_frame_is_taken_for_what_was_signed(identities, public, data) -> None:  # type: ignore[no-untyped-def]
    """Bit flips, cuts and insertions: refused, or (in padding) read as exactly what was signed."""
    frame = bytearray(signed(identities, "a").to_pybytes())
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "swap"]))
    at = data.draw(st.integers(0, len(frame) - 1))
    if kind == "flip":
        frame[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del frame[at:]
    elif kind == "insert":
        frame[at:at] = data.draw(st.binary(min_size=1, max_size=16))
    else:
        other = data.draw(st.integers(0, len(frame) - 1))
        frame[at], frame[other] = frame[other], frame[at]
    try:
        upload = read_upload(pa.py_buffer(bytes(frame)), exchange(), public)
    except UploadRefused:
        return
    assert [bytes(chunk) for chunk in upload.chunks] == CHUNKS


def test_a_total_names_exactly_its_roster(identities, public) -> None:  # type: ignore[no-untyped-def]
    a, b = entry(identities, "a"), entry(identities, "b")
    total = write_total([b, a], CHUNKS)
    assert [bytes(c) for c in read_total(total, exchange(), public)] == CHUNKS
    for uploads, reason in (
        ([a], "total is over a"),
        ([a, a], "total is over a, a"),
        ([a, b, b], "a, b, b"),
        ([], "nobody"),
        ([a, (replace(b[0], round=3), b[1])], "round 3"),
        ([a, (replace(b[0], chunks="0" * 64), b[1])], "signature"),
    ):
        with pytest.raises(UploadRefused, match=reason):
            read_total(write_total(uploads, CHUNKS), exchange(), public)


def test_an_upload_is_no_total_and_garbage_is_neither(identities, public, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UploadRefused, match="without the uploads"):
        read_total(signed(identities, "a"), exchange(), public)
    with pytest.raises(UploadRefused, match="signed header"):
        read_upload(write_total([], CHUNKS), exchange(), public)
    table = pa.table({"x": [1]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    for garbage in (b"", b"\0" * 100, sink.getvalue().to_pybytes()):
        with pytest.raises(UploadRefused, match="frame"):
            read_upload(pa.py_buffer(garbage), exchange(), public)
