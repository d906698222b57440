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

from blindsum.actors.separate.messages import MOST_PART
from blindsum.he import exchange as exchange_module
from blindsum.he.cipher import body_bytes
from blindsum.he.coefficients import Body
from blindsum.he.exchange import PART_CHUNKS, Exchange, Part
from blindsum.he.identity import SIGNATURE_BYTES, Identity
from blindsum.he.parameters import RING_DEGREE, Parameters
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


REALS = 2 * RING_DEGREE
UPLOAD, SUM = body_bytes(P, REALS)
PART = Part(0, 0, 2, REALS)


def body(size: int = UPLOAD) -> Body:
    return np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)


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
    return write_upload(one, part, silo, body(body_bytes(P, part.reals)[0]), identities[silo])


def test_an_upload_arrives_as_it_was_signed(identities, public) -> None:  # type: ignore[no-untyped-def]
    upload = read_upload(signed(identities, "a"), exchange(), public)
    assert upload.silo == "a" and upload.part == Part(0, 0, 2, REALS)
    np.testing.assert_array_equal(upload.body, body())


def test_the_check_costs_few_bytes(identities) -> None:  # type: ignore[no-untyped-def]
    """At most 64 bytes for each silo and exchange, for an exchange of one part."""
    with_words = asdict(Header.of(exchange(), 0, "a", "0" * 64, "f" * 32))
    without = {name: value for name, value in with_words.items() if name != "check"}
    assert len(json.dumps(with_words)) - len(json.dumps(without)) == 45
    assert (signed(identities, "a").size - UPLOAD - SIGNATURE_BYTES) % 64 == 0


def test_parts_cover_every_value_once_and_are_bounded() -> None:
    for values in (1, P.values_per_chunk * PART_CHUNKS, 10_000_019):
        one = exchange(values=values, counts=7)
        groups = [group for part in one.parts for group in part.groups(one)]
        for where, size in (
            ([group.reals for group in groups], one.reals),
            ([group.values for group in groups], values),
            ([group.counts for group in groups], 7),
        ):
            assert where[0].start == 0 and where[-1].stop == size
            assert all(a.stop == b.start for a, b in itertools.pairwise(where))
        assert sum(part.chunks for part in one.parts) == one.chunks
        assert sum(part.reals for part in one.parts) == one.reals == P.reals(values) + 7
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
        ({"counts": 3}, "counts 3"),
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
    frame = write_upload(plain, plain.parts[0], "a", body(8 * REALS), identities["a"])
    with pytest.raises(UploadRefused, match="parameters"):
        read_upload(frame, exchange(), public)


def test_strangers_and_forgers_are_refused(identities, public) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UploadRefused, match="not in the roster"):
        read_upload(signed(identities, "mallory"), exchange(), public)
    as_a = write_upload(exchange(), PART, "a", body(), identities["mallory"])
    with pytest.raises(UploadRefused, match="signature"):
        read_upload(as_a, exchange(), public)


@pytest.mark.parametrize(
    ("part", "size", "reason"),
    [
        (Part(0, 0, 2, REALS), UPLOAD - 1, f"has {UPLOAD - 1} bytes, not exactly {UPLOAD}"),
        (Part(0, 0, 2, REALS), 2 * UPLOAD, f"not exactly {UPLOAD}"),
        (Part(1, 0, 2, REALS), UPLOAD, "has only 1 parts"),
        (Part(-1, 0, 2, REALS), UPLOAD, "has only 1 parts"),
    ],
)
def test_a_frame_that_is_not_exactly_a_part_is_refused(
    identities, public, part, size, reason
) -> None:  # type: ignore[no-untyped-def]
    frame = write_upload(exchange(), part, "a", body(size), identities["a"])
    with pytest.raises(UploadRefused, match=reason):
        read_upload(frame, exchange(), public)


def framed(metadata: object, content: bytes = b"", *, size: int | None = None) -> pa.Buffer:
    """Return a frame as a stranger would write it."""
    head = json.dumps(metadata).encode()
    head += b" " * (-(16 + len(head)) % 64)
    return pa.py_buffer(struct.pack("<8sII", b"blindsum", 7, size or len(head)) + head + content)


def opened(frame: pa.Buffer) -> tuple[dict[str, Any], bytes]:
    """Return a frame's head, and its body with the signature."""
    content = frame.to_pybytes()
    start = 16 + struct.unpack("<8sII", content[:16])[2]
    return json.loads(content[16:start]), content[start:]


def test_reordered_chunks_are_refused(identities, public) -> None:  # type: ignore[no-untyped-def]
    metadata, content = opened(signed(identities, "a"))
    half = UPLOAD // 2
    swapped = content[half:UPLOAD] + content[:half] + content[UPLOAD:]
    with pytest.raises(UploadRefused, match="altered in transit"):
        read_upload(framed(metadata, swapped), exchange(), public)


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
    np.testing.assert_array_equal(upload.body, body())
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
    "counts",
    "range",
    "parameters",
    "model",
    "clipping",
    "part",
    "silo",
    "body",
    "check",
]


@settings(
    max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(field=st.sampled_from([*FIELDS, "header", "more", "new"]), value=anything)
def test_no_header_of_any_shape_gets_past_the_signature(  # type: ignore[no-untyped-def]
    identities, public, frames, field, value
) -> None:
    metadata, content = opened(pa.py_buffer(frames["a"]))
    target = metadata if field in ("header", "more") else metadata["header"]
    same = target.get(field, ...) == value and type(target.get(field)) is type(value)
    target[field] = value
    if same:
        return
    with pytest.raises(UploadRefused):
        read_upload(framed(metadata, content), exchange(), public)


def test_receipts_prove_what_a_silo_sent_and_for_which_exchange(identities, public) -> None:  # type: ignore[no-untyped-def]
    receipt = read_upload(signed(identities, "a"), exchange(), public).receipt
    assert check_receipt(receipt, exchange(), public) == PART
    for wrong, reason in (
        (Receipt(replace(receipt.header, body="0" * 64), receipt.signature), "signature"),
        (Receipt(replace(receipt.header, silo="b"), receipt.signature), "signature"),
        (Receipt(receipt.header, receipt.signature[:-1]), "signature"),
        (Receipt(replace(receipt.header, round=3), receipt.signature), "round 3"),
    ):
        with pytest.raises(UploadRefused, match=reason):
            check_receipt(wrong, exchange(), public)


def test_a_total_is_read_only_for_its_own_exchange_and_part() -> None:
    part = exchange().parts[0]
    total = write_total(exchange(), part, body(SUM), (5, 7))
    read, words = read_total(total, exchange(), part)
    np.testing.assert_array_equal(read, body(SUM))
    assert words == (5, 7)
    for other in (exchange(round=5), exchange(attempt=2), exchange(roster=("a", "c"))):
        with pytest.raises(UploadRefused, match="not this part of this exchange's total"):
            read_total(total, other, part)
    with pytest.raises(UploadRefused, match="not this part"):
        read_total(total, exchange(), Part(1, 64, 2, REALS))
    short = write_total(exchange(), part, body(SUM - 7))
    with pytest.raises(UploadRefused, match=f"not exactly {SUM}"):
        read_total(short, exchange(), part)


def test_an_upload_is_not_a_total_and_garbage_is_neither(identities, public) -> None:  # type: ignore[no-untyped-def]
    part = exchange().parts[0]
    with pytest.raises(UploadRefused, match="not this part of this exchange's total"):
        read_total(signed(identities, "a"), exchange(), part)
    with pytest.raises(UploadRefused, match="without a complete header"):
        read_upload(write_total(exchange(), part, body(SUM)), exchange(), public)
    for garbage in (b"", b"\0" * 100, b"blindsum", b"blindsum" + b"\xff" * 100):
        with pytest.raises(UploadRefused, match="frame"):
            read_upload(pa.py_buffer(garbage), exchange(), public)
    with pytest.raises(UploadRefused, match="not a frame"):
        read_upload(None, exchange(), public)


def test_an_upload_larger_than_any_part_is_refused_unread(  # type: ignore[no-untyped-def]
    identities, public, monkeypatch
) -> None:
    frame = write_upload(exchange(), PART, "a", body(100 * UPLOAD), identities["a"])
    monkeypatch.setattr(json, "loads", lambda text: pytest.fail("read"))
    with pytest.raises(UploadRefused, match="larger than any part"):
        read_upload(frame, exchange(), public)


def test_nothing_may_follow_or_hide_in_a_frame(identities, public) -> None:  # type: ignore[no-untyped-def]
    frame = signed(identities, "a")
    metadata, content = opened(frame)
    whole = frame.to_pybytes()
    forged = content[:-1] + bytes([content[-1] ^ 1])
    for altered, reason in (
        (whole + b"\0", "signature|not exactly"),
        (whole + whole, "signature|not exactly"),
        (whole[:-8], "signature|not exactly"),
        (framed(metadata, forged).to_pybytes(), "signature"),
        (framed(metadata | {"more": 1}, content).to_pybytes(), "without a complete header"),
        (whole.replace(b"  ", b" \n", 1), "not in the canonical form"),
        (whole[:8] + b"\4" + whole[9:], "received a frame of format 4, expected 7"),
        (framed([], content).to_pybytes(), "not in the canonical form"),
        (framed("[" * 60_000, content).to_pybytes().replace(b'"', b"["), "nested too deeply"),
    ):
        with pytest.raises(UploadRefused, match=reason):
            read_upload(pa.py_buffer(altered), exchange(), public)


def test_a_part_is_small_whatever_the_model() -> None:
    for silos in (2, 64):
        most = body_bytes(Parameters.derive(silos), exchange_module.PART_CHUNKS * RING_DEGREE)
        assert most[0] < 2_200_000 and most[1] < MOST_PART
