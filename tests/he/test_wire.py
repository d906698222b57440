"""Frames: a signed frame arrives unchanged, and any other is refused with a reason."""

import itertools
import json
import struct
from dataclasses import asdict, replace
from typing import Any

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
    Header,
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
    plain = Exchange(
        run="run",
        round=4,
        attempt=1,
        purpose="update",
        roster=ROSTER,
        values=2 * P.values_per_chunk,
        range=1.0,
        parameters=P,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def signed(identities: dict[str, Identity], silo: str, **changes: object) -> pa.Buffer:
    one = exchange(**changes)
    part = one.parts[0]
    return write_upload(one, part, silo, chunks(part.chunks), identities[silo])


def test_an_upload_arrives_as_it_was_signed(identities, public) -> None:  # type: ignore[no-untyped-def]
    upload = read_upload(signed(identities, "a"), exchange(), public)
    assert upload.silo == "a" and upload.part == Part(0, 0, 2)
    np.testing.assert_array_equal(upload.chunks, chunks(2))


def test_the_check_costs_few_bytes(identities) -> None:  # type: ignore[no-untyped-def]
    """At most 64 bytes for each silo and exchange, for an exchange of one part."""
    with_words = asdict(Header.of(exchange(), 0, "a", "0" * 64, "f" * 32))
    without = {name: value for name, value in with_words.items() if name != "check"}
    assert len(json.dumps(with_words)) - len(json.dumps(without)) == 45
    one, other = signed(identities, "a"), chunks(2).nbytes
    assert (one.size - other) % 64 == 0


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
        ({"run": "other"}, "run other"),
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
    with pytest.raises(UploadRefused, match="parameters"):
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
        (Part(1, 0, 2), 2, "has only 1 parts"),
        (Part(-1, 0, 2), 2, "has only 1 parts"),
    ],
)
def test_a_frame_that_is_not_exactly_a_part_is_refused(
    identities, public, part, rows, reason
) -> None:  # type: ignore[no-untyped-def]
    frame = write_upload(exchange(), part, "a", chunks(rows), identities["a"])
    with pytest.raises(UploadRefused, match=reason):
        read_upload(frame, exchange(), public)


def framed(metadata: object, content: bytes = b"", *, size: int | None = None) -> pa.Buffer:
    """Return a frame as a stranger would write it."""
    head = json.dumps(metadata).encode()
    head += b" " * (-(16 + len(head)) % 64)
    return pa.py_buffer(struct.pack("<8sII", b"blindsum", 6, size or len(head)) + head + content)


def opened(frame: pa.Buffer) -> tuple[dict[str, Any], bytes]:
    """Return a frame's head and its chunks."""
    content = frame.to_pybytes()
    start = 16 + struct.unpack("<8sII", content[:16])[2]
    return json.loads(content[16:start]), content[start:]


def test_reordered_chunks_are_refused(identities, public) -> None:  # type: ignore[no-untyped-def]
    metadata, content = opened(signed(identities, "a"))
    half = len(content) // 2
    with pytest.raises(UploadRefused, match="altered in transit"):
        read_upload(framed(metadata, content[half:] + content[:half]), exchange(), public)


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
def test_no_altered_frame_passes_as_the_signed_one(  # type: ignore[no-untyped-def]
    identities, public, frames, kind, at, other, noise
) -> None:
    """After bit flips, cuts and insertions, a frame is refused or read exactly as it was signed.

    Half of the changes are in the head of the frame, which defines its structure.
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
    "format",
    "run",
    "round",
    "attempt",
    "purpose",
    "roster",
    "values",
    "range",
    "parameters",
    "model",
    "part",
    "silo",
    "chunks",
    "check",
]


@settings(
    max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(field=st.sampled_from([*FIELDS, "header", "signature", "new"]), value=anything)
def test_no_header_of_any_shape_gets_past_the_signature(  # type: ignore[no-untyped-def]
    identities, public, frames, field, value
) -> None:
    metadata, content = opened(pa.py_buffer(frames["a"]))
    target = metadata if field in ("header", "signature") else metadata["header"]
    same = target.get(field, ...) == value and type(target.get(field)) is type(value)
    target[field] = value
    if same:
        return
    with pytest.raises(UploadRefused):
        read_upload(framed(metadata, content), exchange(), public)


def test_receipts_prove_what_a_silo_sent_and_for_which_exchange(identities, public) -> None:  # type: ignore[no-untyped-def]
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


def test_a_total_is_read_only_for_its_own_exchange_and_part() -> None:
    part = exchange().parts[0]
    total = write_total(exchange(), part, chunks(2, SUM_BYTES), (5, 7))
    read, words = read_total(total, exchange(), part)
    np.testing.assert_array_equal(read, chunks(2, SUM_BYTES))
    assert words == (5, 7)
    for other in (exchange(round=5), exchange(attempt=2), exchange(roster=("a", "c"))):
        with pytest.raises(UploadRefused, match="not this part of this exchange's total"):
            read_total(total, other, part)
    with pytest.raises(UploadRefused, match="not this part"):
        read_total(total, exchange(), Part(1, 64, 2))
    short = write_total(exchange(), part, chunks(1, SUM_BYTES))
    with pytest.raises(UploadRefused, match="not exactly its 2 chunks"):
        read_total(short, exchange(), part)


def test_an_upload_is_not_a_total_and_garbage_is_neither(identities, public) -> None:  # type: ignore[no-untyped-def]
    part = exchange().parts[0]
    with pytest.raises(UploadRefused, match="not this part of this exchange's total"):
        read_total(signed(identities, "a"), exchange(), part)
    with pytest.raises(UploadRefused, match="without a complete signed header"):
        read_upload(write_total(exchange(), part, chunks(2, SUM_BYTES)), exchange(), public)
    for garbage in (b"", b"\0" * 100, b"blindsum", b"blindsum" + b"\xff" * 100):
        with pytest.raises(UploadRefused, match="frame"):
            read_upload(pa.py_buffer(garbage), exchange(), public)
    with pytest.raises(UploadRefused, match="not a frame"):
        read_upload(None, exchange(), public)


def test_an_upload_larger_than_any_part_is_refused_unread(  # type: ignore[no-untyped-def]
    identities, public, monkeypatch
) -> None:
    frame = write_upload(exchange(), Part(0, 0, 2), "a", chunks(1000), identities["a"])
    monkeypatch.setattr(json, "loads", lambda text: pytest.fail("read"))
    with pytest.raises(UploadRefused, match="larger than any part"):
        read_upload(frame, exchange(), public)


def test_nothing_may_follow_or_hide_in_a_frame(identities, public) -> None:  # type: ignore[no-untyped-def]
    frame = signed(identities, "a")
    metadata, content = opened(frame)
    whole = frame.to_pybytes()
    hidden = dict(reversed(metadata.items())) | {"signature": metadata["signature"][:-2] + "00"}
    for altered, reason in (
        (whole + b"\0", "not exactly its 2 chunks"),
        (whole + whole, "not exactly its 2 chunks"),
        (whole[:-8], "not exactly its 2 chunks"),
        (framed(hidden, content).to_pybytes(), "signature"),
        (whole.replace(b"  ", b" \n", 1), "not in the canonical form"),
        (whole[:8] + b"\4" + whole[9:], "received a frame of format 4, expected 6"),
        (framed([], content).to_pybytes(), "not in the canonical form"),
        (framed("[" * 60_000, content).to_pybytes().replace(b'"', b"["), "nested too deeply"),
    ):
        with pytest.raises(UploadRefused, match=reason):
            read_upload(pa.py_buffer(altered), exchange(), public)


def test_a_part_is_small_whatever_the_model() -> None:
    assert exchange_module.PART_CHUNKS * UPLOAD_BYTES < 2_000_000
