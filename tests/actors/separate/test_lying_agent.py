"""A silo's agent that lies: it speaks for no other silo, and takes no more than its own share."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blindsum.actors.cluster import Answered, Died, Outcome, Raised
from blindsum.actors.codec import decoded
from blindsum.actors.federation import Federation
from blindsum.actors.separate import mailbox as mailbox_module
from blindsum.actors.separate.mailbox import Mailbox
from blindsum.actors.separate.messages import (
    MOST_PART,
    Answer,
    Decision,
    Failure,
    Frame,
    Poll,
    packed,
)
from blindsum.platform.errors import DataError, FederationError, SiloRefused, Unexpected
from blindsum.platform.job.schema import Job
from tests.actors.separate.liars import Liar, Refused
from tests.actors.separate.organisations import Coordinator, Organisation, until
from tests.actors.separate.samples import any_of, forget_peak, peak_bytes
from tests.conftest import MakeJob

MB = 2**20


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    made = Coordinator(tmp_path / "coordinator")
    yield made
    made.close()


@pytest.fixture
def liars(tmp_path: Path, coordinator: Coordinator) -> dict[str, Liar]:
    """Alder and birch, each with a session."""
    found = {}
    for name in ("alder", "birch"):
        one = Organisation(tmp_path / name, name, tmp_path / "t.parquet", coordinator)
        found[name] = Liar(one, coordinator).begin()
        found[name].poll()
    return found


@pytest.fixture
def alder(liars: dict[str, Liar]) -> Liar:
    return liars["alder"]


@pytest.fixture
def box(coordinator: Coordinator, alder: Liar) -> Mailbox:
    """Alder's mailbox."""
    return coordinator.gate.mailbox("alder")


def post(box: Mailbox, method: str = "inspect", **named: Any) -> Future[Outcome]:
    return box.post(method, "run-1", box.life, **named)


def listed(*contents: bytes, aggregator: int = 0) -> tuple[Frame, ...]:
    """The parts as a message announces them that were put ahead of it."""
    return tuple(
        Frame(aggregator=aggregator, digest=hashlib.sha256(one).hexdigest(), size=len(one))
        for one in contents
    )


def attached(*contents: bytes, aggregator: int = 0) -> tuple[Frame, ...]:
    return tuple(Frame(aggregator=aggregator, digest="", size=len(one)) for one in contents)


def answered(number: int, *contents: bytes, **named: Any) -> Answer:
    return Answer(number=number, outcome="answered", value=attached(*contents), **named)


def put(liar: Liar, number: int, content: bytes) -> None:
    digest = hashlib.sha256(content).hexdigest()
    liar.ask("POST", f"/v1/calls/{number}/values/{digest}", content)


# -- answers -------------------------------------------------------------------------------


def test_an_answer_before_its_instruction_is_dropped(alder: Liar, box: Mailbox) -> None:
    assert alder.poll([b"lie"], answers=(answered(1, b"lie"),)).received == (1,)
    outcome = post(box)
    assert not outcome.done()
    alder.poll([b"truth"], answers=(answered(1, b"truth"),))
    assert outcome.result(0) == Answered(b"truth")


def test_the_first_answer_counts(alder: Liar, box: Mailbox) -> None:
    outcome = post(box)
    both = (answered(1, b"first"), answered(1, b"second"))
    alder.poll([b"first", b"second"], answers=both)
    alder.poll([b"third"], answers=(answered(1, b"third"),))
    alder.poll(answers=(Answer(number=1, outcome="died"),))
    assert outcome.result(0) == Answered(b"first")


def test_nobody_answers_for_another_silo(
    coordinator: Coordinator, liars: dict[str, Liar], box: Mailbox
) -> None:
    outcome = post(box)
    birch = liars["birch"]
    birch.poll([b"lie"], answers=(answered(1, b"lie"),))
    birch.poll(answers=(Answer(number=1, outcome="died"),))
    with pytest.raises(Refused, match="400 instruction 1 is not open"):
        put(birch, 1, b"lie")
    with pytest.raises(Refused, match="400 instruction 1 is not open"):
        birch.ask("POST", f"/v1/calls/1/frames/0/{'a' * 64}", b"lie")
    assert not outcome.done() and len(box.since(0)) == 1


def test_a_failure_without_its_kind_leaves_the_call_open(alder: Liar, box: Mailbox) -> None:
    """It once took the call away, and its outcome never came."""
    outcome = post(box)
    with pytest.raises(Refused, match="400 received a failure without its kind"):
        alder.poll(answers=(Answer(number=1, outcome="raised"),))
    box.give_up("it was silent")
    assert outcome.result(0) == Died(reason="it was silent")


@pytest.mark.parametrize(
    ("said", "kind", "what"),
    [
        (Failure(kind="DataError", what="no table", silo="birch"), DataError, "no table"),
        (Failure(kind="KeyError", what="x", silo="birch"), Unexpected, "x"),
        (Failure(kind="eval", what="a\x1b[2Jb\nc\x07d\u2028e"), Unexpected, "a [2Jb c d e"),
        (Failure(kind="SiloLost", what="it died", silo="birch"), FederationError, "it died"),
    ],
)
def test_a_failure_is_the_silo_s_own(
    alder: Liar, box: Mailbox, said: Failure, kind: type[Exception], what: str
) -> None:
    """No silo can speak of another, and none can forge lines on the operator's terminal."""
    outcome = post(box)
    alder.poll(answers=(Answer(number=1, outcome="raised", failure=said),))
    raised = outcome.result(0)
    assert isinstance(raised, Raised) and isinstance(raised.error, kind)
    assert raised.error.silo == "alder" and raised.error.what == what  # type: ignore[attr-defined]


def test_an_answer_without_a_value_is_no_answer_of_a_silo(
    coordinator: Coordinator, liars: dict[str, Liar], make_job: MakeJob
) -> None:
    """The federation names the silo that sent it."""
    job = of(make_job().job, "alder", "birch")
    cluster = coordinator.cluster(coordinator.propose(job), job)
    federation = Federation(job, "run-1", "", cluster)
    failed: list[BaseException] = []

    def inspect() -> None:
        try:
            federation.inspect()
        except BaseException as error:  # noqa: BLE001 - looked at below
            failed.append(error)

    thread = threading.Thread(target=inspect)
    thread.start()
    after = 0
    while not failed:
        for name, lie in (("alder", b"[]"), ("birch", b"[" * 9000)):
            for one in liars[name].poll(after=after).instructions:
                liars[name].poll([lie], answers=(answered(one.number, lie),))
    thread.join(20)
    assert isinstance(failed[0], FederationError)
    assert "answer is not of kind Inspection" in str(failed[0])
    federation.close()
    cluster.close()


# -- values --------------------------------------------------------------------------------


def test_equal_parts_of_a_value_are_read(alder: Liar, box: Mailbox) -> None:
    """A model has stretches of zeros: their parts have one digest."""
    outcome = post(box, "release")
    zeros = bytes(MB)
    put(alder, 1, zeros)
    answer = Answer(number=1, outcome="answered", value=listed(zeros, zeros, zeros))
    alder.poll(answers=(answer,))
    assert outcome.result(0) == Answered(bytes(3 * MB))


def test_a_part_cannot_be_listed_without_end(alder: Liar, box: Mailbox) -> None:
    outcome = post(box, "release")
    part = bytes(2 * MB)
    put(alder, 1, part)
    answer = Answer(number=1, outcome="answered", value=listed(part) * 4000)
    before = forget_peak()
    with pytest.raises(Refused, match="400 the answer is longer than"):
        alder.poll(answers=(answer,))
    assert peak_bytes() - before < 2**25 and not outcome.done()


def test_parts_are_put_up_to_the_longest_answer(alder: Liar, box: Mailbox) -> None:
    post(box, "release")
    box.most_value = 8 * MB
    with pytest.raises(Refused, match="400 the answer is longer than 8388608 bytes"):
        for number in range(20):
            put(alder, 1, bytes([number]) * MB)
    (call,) = box.since(0)
    assert sum(map(len, call.values.values())) <= 8 * MB


def test_tiny_parts_do_not_pile_up(alder: Liar, box: Mailbox) -> None:
    post(box, "release")
    with pytest.raises(Refused, match="400 the answer is longer than"):
        for number in range(200):
            put(alder, 1, bytes([number]))
    with pytest.raises((Refused, OSError)):  # the gate does not wait for the end of it
        put(alder, 1, bytes(MOST_PART + 65))


@pytest.mark.parametrize("lie", ["size", "digest", "missing", "none attached", "another call's"])
def test_a_value_is_as_announced(alder: Liar, box: Mailbox, lie: str) -> None:
    outcome, other = post(box, "release"), post(box, "release")
    put(alder, 1, b"one part")
    put(alder, 2, b"of another")
    (good,) = listed(b"one part")
    value = {
        "size": (Frame(aggregator=0, digest=good.digest, size=9),),
        "digest": listed(b"ONE PART"),
        "missing": (good, *listed(b"never put")),
        "none attached": attached(b"inline"),
        "another call's": listed(b"of another"),
    }[lie]
    with pytest.raises(Refused, match="400 a part of an answer is missing"):
        alder.poll(answers=(Answer(number=1, outcome="answered", value=value),))
    assert not outcome.done() and not other.done()
    alder.poll(answers=(Answer(number=1, outcome="answered", value=(good,)),))
    assert outcome.result(0) == Answered(b"one part")


# -- frames --------------------------------------------------------------------------------


class Adding:
    """Aggregators as a mailbox knows them."""

    def __init__(self, outcome: Outcome | None = None) -> None:
        self.outcome = outcome or Answered(b"")
        self.stuck = False
        self.got: list[tuple[int, bytes]] = []

    def __call__(self, aggregator: int, frame: pa.Buffer) -> Future[Outcome]:
        self.got.append((aggregator, frame.to_pybytes()))
        added: Future[Outcome] = Future()
        if not self.stuck:
            added.set_result(self.outcome)
        return added


def send_frame(liar: Liar, content: bytes, number: int = 1, aggregator: int = 0) -> bytes:
    digest = hashlib.sha256(content).hexdigest()
    return liar.ask("POST", f"/v1/calls/{number}/frames/{aggregator}/{digest}", content)


def test_a_frame_is_added_once(alder: Liar, box: Mailbox) -> None:
    adding = Adding()
    outcome = post(box, "train", add=adding)
    for _ in range(3):
        assert send_frame(alder, b"frame") == b""
    again = answered(1, b"report", frames=attached(b"frame", b"other", aggregator=1))
    alder.poll([b"report", b"frame", b"other"], answers=(again,))
    assert adding.got == [(0, b"frame"), (1, b"other")]
    assert outcome.result(0) == Answered(b"report")


def test_frames_are_taken_by_calls_that_send(alder: Liar, box: Mailbox) -> None:
    post(box, "inspect")
    with pytest.raises(Refused, match="400 instruction 1 takes no frames"):
        send_frame(alder, b"frame")
    with pytest.raises(Refused, match="400 instruction 1 takes no frames"):
        alder.poll([b"frame"], answers=(answered(1, frames=attached(b"frame")),))
    for path in ("/v1/calls/1/frames/x/a", "/v1/calls/1/frames/-1/a", "/v1/calls/1/frames/a"):
        with pytest.raises(Refused, match="404"):
            alder.ask("POST", path, b"frame")


def test_a_frame_for_an_aggregator_that_is_none_fails_the_silo_alone(
    coordinator: Coordinator, alder: Liar, box: Mailbox, make_job: MakeJob
) -> None:
    job = of(make_job().job, "alder", "birch")
    cluster = coordinator.cluster(coordinator.propose(job), job)
    try:
        cluster.start_aggregators(1, keep=False)
        outcome = post(box, "train", add=cluster._adding("alder"))
        for aggregator in (1, 63, 10**11):
            said = decoded(send_frame(alder, b"%d" % aggregator, aggregator=aggregator), Failure)
            assert (said.kind, said.silo) == ("SiloRefused", "alder")
        alder.poll([b"report"], answers=(answered(1, b"report"),))
        raised = outcome.result(20)
        assert isinstance(raised, Raised) and isinstance(raised.error, SiloRefused)
    finally:
        cluster.close()


def test_frames_that_the_aggregators_have_not_taken_up_are_bounded(
    alder: Liar, box: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox_module, "_MOST_FLYING", 8 * MB)
    monkeypatch.setattr(mailbox_module, "_MOST_FRAMES", 20)
    adding = Adding()
    adding.stuck = True
    post(box, "train", add=adding)
    for number in range(8):
        box.receive_frame(1, 0, bytes([number]) * MB)
    with pytest.raises(Refused, match="400 instruction 1 takes no more frames now"):
        send_frame(alder, b"x" * MB)
    adding.stuck = False
    post(box, "train", add=adding)
    for number in range(20):
        send_frame(alder, bytes([number]) * MB, number=2)
    with pytest.raises(Refused, match="400 instruction 2 takes no more frames now"):
        send_frame(alder, b"x", number=2)
    assert len(adding.got) == 28


# -- proposals and decisions ---------------------------------------------------------------


def of(job: Job, *names: str) -> Job:
    """The job with these silos, at machines with owners' files."""
    content = job.model_dump(mode="json")
    content["silos"] = [{"name": name, "data": "tumours"} for name in names]
    return Job.model_validate(content)


def test_a_silo_sees_and_decides_its_own_proposals_alone(
    coordinator: Coordinator, liars: dict[str, Liar], make_job: MakeJob
) -> None:
    registry, birch = coordinator.registry, liars["birch"]
    theirs = coordinator.propose(of(make_job().job, "alder", "cedar"))
    ours = coordinator.propose(of(make_job().job, "alder", "birch"))
    closed = coordinator.propose(of(make_job().job, "birch", "cedar"))
    registry.note(closed, "withdrawn")
    for digest in (theirs, closed, "f" * 64, "x"):
        with pytest.raises(Refused, match="404 no such job is proposed to this silo"):
            birch.ask("POST", f"/v1/proposals/{digest}")
    assert birch.ask("POST", f"/v1/proposals/{ours}")
    said = [
        Decision(proposal=digest, verdict="approved", weights="a" * 64)
        for digest in (theirs, ours, closed, "f" * 64)
    ]
    birch.poll(decisions=tuple(said))
    assert registry.decisions(theirs) == registry.decisions(closed) == {}
    assert registry.decisions("f" * 64) == {}
    assert registry.decisions(ours) == {"birch": said[1]}


def test_decisions_are_written_when_they_change(
    coordinator: Coordinator, alder: Liar, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write to the disk each would stop the gate for everybody."""
    registry = coordinator.registry
    written: list[Decision] = []
    decide = registry.decide
    monkeypatch.setattr(registry, "decide", lambda silo, d: written.append(d) or decide(silo, d))
    digest = coordinator.propose(of(make_job().job, "alder", "birch"))
    no = Decision(proposal=digest, verdict="refused", reason="no\x1b[2J\nnever")
    yes = Decision(proposal=digest, verdict="approved", weights="a" * 64)
    alder.poll(decisions=(no, yes) * 128)
    alder.poll(decisions=(yes,) * 256)
    alder.poll(decisions=(no,))
    assert [one.verdict for one in written] == ["approved", "refused"]
    assert registry.decisions(digest)["alder"].reason == "no [2J never"


def test_a_silo_fetches_parts_of_its_own_total_alone(
    coordinator: Coordinator, liars: dict[str, Liar], box: Mailbox
) -> None:
    frames = [(0, pa.py_buffer(bytes([number]) * MB)) for number in range(3)]
    post(box, "apply", frames=frames)
    digests = [frame.digest for frame in box.since(0)[0].instruction.frames]
    assert liars["alder"].ask("POST", f"/v1/parts/{digests[1]}/0") == b"\1" * MB
    assert liars["alder"].ask("POST", f"/v1/parts/{digests[1]}/{10**9}") == b""
    for digest in (digests[1], "", "a" * 64):
        with pytest.raises(Refused, match="40[04]"):
            liars["birch"].ask("POST", f"/v1/parts/{digest}/0")
    for start in ("-1", "x", "1" * 30):
        with pytest.raises(Refused, match="404"):
            liars["alder"].ask("POST", f"/v1/parts/{digests[1]}/{start}")


# -- anything ------------------------------------------------------------------------------


@given(st.data())
@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_whatever_a_silo_says_the_gate_goes_on(alder: Liar, box: Mailbox, data: Any) -> None:
    """Well-formed polls of an agent that means no good, while calls are open."""
    add = data.draw(st.sampled_from([None, Adding(), Adding(Died())]))
    outcome = post(box, data.draw(st.sampled_from(["train", "release", "apply"])), add=add)
    newest = box.since(0)[-1].instruction.number
    said = data.draw(any_of(Poll))
    numbers = st.integers(-2, 2).map(lambda distance: max(1, newest + distance))
    answers = tuple(Answer(**{**vars(one), "number": data.draw(numbers)}) for one in said.answers)
    contents = data.draw(st.lists(st.binary(max_size=9), max_size=4))
    lie = {**vars(said), "answers": answers, "park": False}
    try:
        alder.ask("POST", "/v1/poll", packed(Poll(**lie), contents))
    except Refused as refused:
        assert refused.status == 400, refused
    path = data.draw(st.sampled_from(["values/a", "frames/0/a", "frames/7/a"]))
    try:
        alder.ask("POST", f"/v1/calls/{data.draw(numbers)}/{path}", data.draw(st.binary()))
    except Refused as refused:
        assert refused.status in (400, 413), refused
    box.give_up("the end of this example")
    until(outcome.done, 10)
    assert alder.poll(after=newest).board
