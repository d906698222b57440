"""A coordinator that lies to an agent: nothing runs, nothing is written, and the agent goes on."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blindsum.actors.separate import agent as agent_module
from blindsum.actors.separate.messages import (
    MOST_PART,
    Answer,
    Frame,
    Instruction,
    Next,
    Notice,
    Poll,
    most_bytes,
    packed,
    unpacked,
)
from blindsum.platform.job.schema import Job
from tests.actors.separate.deceived import (
    SILENT_S,
    Deceived,
    Running,
    notice,
    proposed,
    sealed,
)
from tests.actors.separate.organisations import until
from tests.actors.separate.samples import any_of, forget_peak, peak_bytes
from tests.fuzz.mutation import COUNT, mutants

# -- instructions --------------------------------------------------------------------------


def kinds(answers: dict[int, Answer]) -> dict[int, str]:
    """The kind of failure of each answer, or its outcome."""
    return {
        number: one.failure.kind if one.failure else one.outcome for number, one in answers.items()
    }


def test_nothing_starts_without_the_owner_s_approval(deceived: Deceived, job: Job) -> None:
    pending = deceived.liar.propose(proposed(job))
    refused = deceived.liar.propose(replace(proposed(job), name="other"))
    deceived.inbox.decide(refused, "refused", "no")
    answers = deceived.liar.order(
        Instruction(number=1, run="run-1", method="start", proposal=pending),
        Instruction(number=2, run="run-1", method="start", proposal=refused),
        Instruction(number=3, run="run-1", method="start", proposal="f" * 64),
        Instruction(number=4, run="run-1", method="start"),
        Instruction(number=5, run="run-1", method="inspect"),
        Instruction(number=6, run="run-1", method="train", messages=2),
        Instruction(number=7, run="run-1", method="end"),
        attached=(b"exchange", b"more"),
    )
    assert kinds(answers) == {
        **dict.fromkeys((1, 2, 3, 4), "ConsentError"),
        **dict.fromkeys((5, 6), "died"),
        7: "answered",
    }
    deceived.goes_on()


@pytest.fixture
def running(deceived: Deceived, job: Job) -> Running:
    return Running(deceived, job)


def test_repeated_and_earlier_numbers_are_not_taken_again(running: Running) -> None:
    before = len(running.liar.polls)
    for number in (1, 2, 1):
        again = Instruction(number=number, run="run-1", method="start", proposal="f" * 64)
        running.liar.tell(packed(Next(instructions=(again,), board=running.liar.board)))
    both = tuple(Instruction(number=number, run="run-1", method="ping") for number in (9, 8, 9, 7))
    running.liar.tell(packed(Next(instructions=both, board=running.liar.board)))
    until(lambda: any(p.after == 9 for p in running.liar.polls[before:]), 20)
    answered = [a.number for poll in running.liar.polls[before:] for a in poll.answers]
    assert set(answered) == {9}
    running.number = 9
    running.goes_on()


def test_an_instruction_of_another_run_finds_no_silo(running: Running) -> None:
    assert running.give("train", b"x", run="run-2", messages=1).outcome == "died"
    assert running.give("end", run="run-2").outcome == "answered"
    running.goes_on()
    assert running.give("end").outcome == "answered"
    assert running.give("inspect").outcome == "died"
    assert running.give("train", b"x", messages=1).outcome == "died"


@pytest.mark.parametrize("method", ["contribute", "agree", "finish", "train", "restore"])
def test_a_message_that_is_none_is_refused_by_the_silo(running: Running, method: str) -> None:
    for content in (b"", b"[]", b"{" * 1000, b"\0" * 100):
        answer = running.give(method, content, messages=1)
        assert answer.outcome == "raised" and answer.failure
        assert len(answer.failure.what) < 300 and "Traceback" not in answer.failure.what
    for attached in ((), (b"1", b"2"), (b"1",) * 5):
        assert running.give(method, *attached, messages=len(attached[:2])).outcome == "raised"
    running.goes_on()


def test_attachments_that_are_not_there_are_noticed(running: Running) -> None:
    frame = Frame(aggregator=0, digest="", size=3)
    for frames, attached in (
        ((frame, frame), (b"m", b"n", b"abc")),  # one too few
        ((frame,), (b"m", b"n", b"abcd")),  # a byte too long
        ((frame,), (b"m",)),
        ((frame,), ()),
        ((frame, Frame(aggregator=0, digest="a" * 64, size=3)), (b"m", b"n", b"abc")),
    ):
        answer = running.give("apply", *attached, messages=2, frames=frames)
        assert answer.outcome == "raised", frames
        assert answer.failure and answer.failure.kind in ("FederationError", "ClusterError")
    running.goes_on()


def test_no_total_takes_all_memory(running: Running) -> None:
    """A total has a size that the job knows: nothing of a larger one is fetched."""
    asked: list[object] = []
    running.liar.gate.mailbox("alder").part = asked.append  # type: ignore[method-assign, assignment]
    endless = (Frame(aggregator=0, digest="a" * 64, size=MOST_PART),) * 1000
    before = forget_peak()
    for method in ("apply", "read_metrics", "take_state"):
        answer = running.give(method, b"m", b"n", messages=2, frames=endless)
        assert answer.failure and "longer than any of this job's" in answer.failure.what
    assert asked == [] and peak_bytes() - before < 2**25
    running.goes_on()


@pytest.mark.parametrize("size", [0, 99, 101])
def test_a_part_of_a_total_is_as_announced(running: Running, size: int) -> None:
    running.liar.gate.mailbox("alder").part = lambda digest: bytes(size)  # type: ignore[method-assign, assignment]
    frames = (Frame(aggregator=0, digest="a" * 64, size=100),)
    answer = running.give("read_metrics", b"m", messages=1, frames=frames)
    assert answer.failure and "not as announced" in answer.failure.what
    running.goes_on()


def test_answers_that_are_never_received_do_not_pile_up(
    deceived: Deceived, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator could ask for the same model without end and never take it."""
    monkeypatch.setattr(agent_module, "_MOST_OPEN", 8)
    liar, agent = deceived.liar, deceived.alder.agent

    async def deaf(request: web.BaseRequest) -> web.StreamResponse:
        _, session, content = await liar.gate._authentic(request, most_bytes(Poll))
        poll, _ = unpacked(content, Poll)
        liar.polls.append(poll)
        await asyncio.sleep(SILENT_S / 10)
        more = tuple(
            Instruction(number=poll.after + 1 + i, run="none", method="ping") for i in range(16)
        )
        return sealed(session, request, packed(Next(instructions=more, board=poll.board)))

    liar.gate._poll = deaf  # type: ignore[method-assign]
    until(lambda: len(agent._answers) >= 8, 20)
    seen = len(liar.polls)
    until(lambda: len(liar.polls) > seen + 10, 20)
    assert len(agent._answers) == 8 and agent._after == 8
    assert deceived.alder._thread.is_alive()


# -- anything ------------------------------------------------------------------------------


def test_answers_that_are_no_messages_stop_nothing(
    deceived: Deceived, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(failures: int, most_s: float) -> None:
        await asyncio.sleep(SILENT_S / 10)

    monkeypatch.setattr(agent_module, "_pause", at_once)
    good = packed(
        Next(
            board=0,
            instructions=(Instruction(number=1, run="none", method="apply", messages=1),),
            notices=(notice("f" * 64), notice("e" * 64, "failed")),
        ),
        [b"message"],
    )
    deceived.liar.lies = list(mutants(good, max(60, COUNT)))
    until(lambda: not deceived.liar.lies, 60)
    deceived.alder.agent._after = 0  # a mutated number may be a large one
    deceived.goes_on()


@given(st.data())
@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_whatever_a_coordinator_says_the_agent_goes_on(deceived: Deceived, data: Any) -> None:
    following = data.draw(any_of(Next))
    contents = data.draw(st.lists(st.binary(max_size=9), max_size=4))
    deceived.liar.tell(packed(following, contents))
    assert deceived.alder._thread.is_alive() and deceived.started == []


@pytest.mark.parametrize("place", ["_take_proposals", "_take_instructions", "_decisions", "_begin"])
def test_a_fault_of_ours_ends_no_agent(
    deceived: Deceived, job: Job, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Whatever a message may find in our code, the next one is asked for."""
    failed: list[str] = []

    def fault(*_: object, **__: object) -> None:
        failed.append(place)
        raise ZeroDivisionError("a value that nobody may see")

    agent = deceived.alder.agent
    with monkeypatch.context() as patched:
        patched.setattr(agent, place, fault)
        deceived.liar.board += 1
        one = Instruction(number=1, run="none", method="ping")
        following = Next(
            board=deceived.liar.board, notices=(notice("e" * 64),), instructions=(one,)
        )
        deceived.liar.lies += [packed(following)] * 9
        until(lambda: failed or setattr(agent, "_told", None), 20)  # decisions are due again
        if place != "_begin":  # an instruction is begun once
            until(lambda: any("ZeroDivisionError" in line for line in deceived.alder.said), 20)
    until(lambda: not deceived.liar.lies, 20)
    deceived.goes_on()
    assert not any("nobody may see" in line for line in deceived.alder.said)


@pytest.mark.parametrize("error", [BrokenPipeError(), UnicodeEncodeError("ascii", "x", 0, 1, "")])
def test_a_line_that_cannot_be_shown_stops_nothing(
    deceived: Deceived, job: Job, error: Exception
) -> None:
    """The terminal is gone, or does not know the letters of the coordinator's note."""
    digest = deceived.liar.propose(proposed(job))

    def gone(line: str) -> None:
        raise error

    deceived.alder.agent._say = gone
    deceived.liar.board += 1
    ended = Notice(proposal=digest, state="failed", note="\N{SNOWMAN}\x1b[2J")
    deceived.liar.tell(packed(Next(board=deceived.liar.board, notices=(ended,))))
    (kept,) = deceived.inbox.all()
    assert kept.note == "\N{SNOWMAN} [2J"
    assert deceived.liar.polls[-1].board == deceived.liar.board
    deceived.goes_on()


def test_the_agent_s_own_folder_may_vanish(deceived: Deceived, job: Job) -> None:
    """A careless hand, or a disk that is not mounted."""
    digest = deceived.liar.propose(proposed(job))
    folder = deceived.alder.state / "proposals"
    os.rename(folder, folder.with_name("away"))
    deceived.liar.board += 1
    one = notice(digest)
    deceived.liar.tell(packed(Next(board=deceived.liar.board, notices=(one,))))
    assert [kept.digest for kept in deceived.inbox.all()] == [digest]
    for path in sorted(folder.with_name("away").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    folder.with_name("away").rmdir()
    deceived.goes_on()
