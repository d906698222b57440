"""A silo's agent that lies: it speaks for no other silo, and takes no more than its own share."""

from __future__ import annotations

import threading
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blindsum.actors.cluster import Answered, Died, Raised
from blindsum.actors.federation import Federation
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
from blindsum.platform.errors import DataError, FederationError, Unexpected
from tests.actors.separate.liars import (
    Adding,
    Liar,
    Refused,
    answered,
    attached,
    listed,
    of,
    post,
    put,
)
from tests.actors.separate.organisations import Coordinator, until
from tests.actors.separate.samples import any_of, forget_peak, peak_bytes
from tests.conftest import MakeJob

MB = 2**20


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


def test_only_answers_with_a_model_are_as_long_as_one(alder: Liar, box: Mailbox) -> None:
    """What a silo says of its model's size is compared with the others before a model is asked for;
    until then it must not fill the coordinator's memory."""
    post(box, "release"), post(box, "seal_state"), post(box, "progress")
    box.most_value = 2**33
    for number in (1, 2):
        for part in range(18):
            put(alder, number, bytes([part]) * MB)
    with pytest.raises(Refused, match="400 the answer is longer than 16777216 bytes"):
        for part in range(18):
            put(alder, 3, bytes([part]) * MB)
    answer = Answer(number=3, outcome="answered", value=listed(bytes([1]) * MB) * 17)
    with pytest.raises(Refused, match="400 the answer is longer than 16777216 bytes"):
        alder.poll(answers=(answer,))


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


# -- proposals and decisions ---------------------------------------------------------------


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
