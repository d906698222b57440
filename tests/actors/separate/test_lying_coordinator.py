"""A coordinator that lies to an agent: nothing runs, nothing is written, and the agent goes on."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blindsum.actors.separate import agent as agent_module
from blindsum.actors.separate import inbox as inbox_module
from blindsum.actors.separate.gate import _sealed
from blindsum.actors.separate.inbox import Inbox
from blindsum.actors.separate.messages import (
    MOST_FILES,
    MOST_PART,
    Answer,
    Frame,
    Instruction,
    Next,
    Notice,
    Poll,
    Proposal,
    most_bytes,
    packed,
    unpacked,
)
from blindsum.actors.separate.registry import proposal_digest
from blindsum.actors.silo import Silo
from blindsum.platform.job.schema import Job
from tests.actors.separate.consortium import shared_job
from tests.actors.separate.organisations import Coordinator, Organisation, until
from tests.actors.separate.samples import any_of, forget_peak, peak_bytes
from tests.fuzz.mutation import COUNT, mutants

SILENT_S = 0.02


class Liar:
    """A coordinator that answers polls as the test says, with its own identity and keys."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.gate = coordinator.gate
        self.lies: list[bytes] = []
        self.polls: list[Poll] = []
        self.bodies: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.board = 1
        self.gate._poll = self._poll  # type: ignore[method-assign]
        self.gate._proposal = self._proposal  # type: ignore[method-assign]

    async def _poll(self, request: web.BaseRequest) -> web.StreamResponse:
        _, session, content = await self.gate._authentic(request, most_bytes(Poll))
        poll, _ = unpacked(content, Poll)
        self.polls.append(poll)
        if poll.park and not self.lies:
            await asyncio.sleep(SILENT_S)  # an honest one parks polls for longer
        received = tuple(one.number for one in poll.answers)
        lie = self.lies.pop(0) if self.lies else packed(Next(received=received, board=poll.board))
        return _sealed(session, request, lie)

    async def _proposal(self, request: web.BaseRequest, digest: str) -> web.StreamResponse:
        _, session, _ = await self.gate._authentic(request, 0)
        self.asked.append(digest)
        return _sealed(session, request, self.bodies.get(digest, b""))

    def tell(self, body: bytes) -> None:
        """Answer a poll with this, and wait until the agent has taken it and asked again."""
        self.lies.append(body)
        until(lambda: not self.lies, 20)
        seen = len(self.polls)
        until(lambda: len(self.polls) > seen + 1, 20)

    def order(
        self, *instructions: Instruction, attached: tuple[bytes, ...] = ()
    ) -> dict[int, Answer]:
        """Send instructions; returns what the agent answered to each."""
        before = len(self.polls)
        self.tell(packed(Next(instructions=instructions, board=self.board), attached))
        return {one.number: one for poll in self.polls[before:] for one in poll.answers}

    def propose(self, proposal: Proposal, *code: bytes, digest: str = "") -> str:
        """Propose a job; returns its digest."""
        digest = digest or proposal_digest(proposal, list(code))
        self.bodies[digest] = packed(proposal, code)
        self.board += 1
        self.tell(packed(Next(board=self.board, notices=(notice(digest),))))
        return digest


def notice(digest: str, state: str = "proposed") -> Notice:
    return Notice(proposal=digest, state=state)


class Deceived:
    """An agent of alder, its coordinator, and everything that its silos were started for."""

    started: list[Any]

    def __init__(self, folder: Path, tables: dict[str, Path]) -> None:
        self.folder = folder
        self.coordinator = Coordinator(folder / "coordinator")
        self.liar = Liar(self.coordinator)
        self.alder = Organisation(folder / "alder", "alder", tables["alder"], self.coordinator)
        started = self.started = []

        class Watched(Silo):
            def __init__(self, *arguments: Any) -> None:
                started.append(arguments[0])
                super().__init__(*arguments)

        self.alder.start(Watched)
        until(lambda: self.liar.polls, 20)
        self.inbox = Inbox(self.alder.state)
        self.before = self.files()

    def files(self) -> dict[str, int]:
        """Every file outside of the inbox that is not the agent's own note, and when it changed."""
        skipped = (self.alder.state / "proposals", self.folder / "coordinator")
        return {
            str(path): path.stat().st_mtime_ns
            for path in self.folder.rglob("*")
            if path.is_file()
            and path.name != "agent.json"
            and not any(path.is_relative_to(one) for one in skipped)
        }

    def goes_on(self) -> None:
        """Nothing ran, nothing was written outside of the inbox, and the agent is there."""
        assert self.started == [] and self.files() == self.before
        assert self.alder._thread.is_alive()
        number = self.alder.agent._after + 1
        answer = self.liar.order(Instruction(number=number, run="none", method="ping"))[number]
        assert answer.outcome == "died"

    def close(self) -> None:
        self.alder.stop()
        self.coordinator.close()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return shared_job(tmp_path)


@pytest.fixture
def deceived(tmp_path: Path, tables: dict[str, Path], job: Job) -> Iterator[Deceived]:
    made = Deceived(tmp_path, tables)
    yield made
    made.close()


def proposed(job: Job, code: tuple[str, ...] = ()) -> Proposal:
    return Proposal(name=job.name, job=job.model_dump_json(), code=code)


def changed(job: Job, **sections: Any) -> Proposal:
    """A proposal of the job with some settings replaced, which need not be valid."""
    content = json.loads(job.model_dump_json())
    for key, value in sections.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    return Proposal(name=job.name, job=json.dumps(content))


# -- proposals -----------------------------------------------------------------------------


def test_an_honest_proposal_is_kept(deceived: Deceived, job: Job) -> None:
    """The liar of these tests could be believed."""
    digest = deceived.liar.propose(proposed(job))
    (kept,) = deceived.inbox.all()
    assert (kept.digest, kept.verdict) == (digest, "pending")
    assert deceived.inbox.job(digest) == job
    deceived.goes_on()


NAMES = (
    "../x.py",
    "/tmp/x.py",
    "a/../../x.py",
    "a/../x.py",
    "./x.py",
    "a//x.py",
    "x.py/",
    "x.py\n",
    "x.py\0.py",
    "..",
    "",
    "x.pth",
    "x.so",
    "job.yaml",
    "../proposal.json",
    "../../../identity.pem",
    "~/x.py",
    "C:\\x.py",
    "a\\..\\x.py",
    "-x.py",
    "x y.py",
    ".x.py",
    "a/b/c/d/e/f/g/h/i/j.py",
)


@pytest.mark.parametrize("name", NAMES)
def test_no_name_of_a_file_leads_out_of_the_inbox(deceived: Deceived, job: Job, name: str) -> None:
    deceived.liar.propose(proposed(job, (name,)), b"import os")
    assert deceived.inbox.all() == []
    assert any("not Python modules" in line for line in deceived.alder.said)
    assert not list(deceived.alder.state.rglob("*.py*"))
    deceived.goes_on()


def test_a_proposal_is_what_was_announced(deceived: Deceived, job: Job) -> None:
    proposal = proposed(job, ("net.py",))
    for lie in ("f" * 64, proposal_digest(proposal, [b"other"])):
        deceived.liar.propose(proposal, b"import torch", digest=lie)
        assert not list((deceived.alder.state / "proposals").iterdir())
    assert any("another proposal than it announced" in line for line in deceived.alder.said)
    deceived.goes_on()


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (("a.py",), ()),
        ((), (b"x",)),
        (("a.py", "a.py"), (b"x", b"y")),
        (("a.py", "b.py"), (b"x",)),
        (("a.py",), (bytes(MOST_FILES + 1),)),
        (("a.py", "b.py"), (bytes(MOST_FILES), b"x")),
    ],
)
def test_files_are_as_listed_and_small(
    deceived: Deceived, job: Job, names: tuple[str, ...], code: tuple[bytes, ...]
) -> None:
    deceived.liar.propose(proposed(job, names), *code)
    assert not list((deceived.alder.state / "proposals").iterdir())
    deceived.goes_on()


NO_JOBS = {
    "empty": "",
    "null": "null",
    "a list": "[]",
    "no key": "{}",
    "deep": "{" * 5000,
    "long": '{"name": "' + "x" * 2**19 + '"}',
    "infinite": '{"name": 1e999}',
    "twice": '{"name": "a", "name": "b"}',
    "a bomb": "[" + "{}," * 300_000 + "{}]",
}


@pytest.mark.parametrize("kind", NO_JOBS)
def test_a_job_that_is_none_is_dropped(deceived: Deceived, kind: str) -> None:
    before = forget_peak()
    deceived.liar.propose(Proposal(name="trial", job=NO_JOBS[kind]))
    assert peak_bytes() - before < 2**26
    assert deceived.inbox.all() == []
    assert any("a proposed job was dropped" in line for line in deceived.alder.said)
    deceived.goes_on()


def test_mutated_proposals_are_dropped_or_valid(
    deceived: Deceived, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "MOST_KEPT", 2)
    for text in mutants(job.model_dump_json().encode(), max(30, COUNT // 4)):
        proposal = Proposal(name="trial", job=text.decode("utf-8", "replace"))
        digest = deceived.liar.propose(proposal)
        for one in deceived.inbox.all():
            assert deceived.inbox.job(one.digest)
        assert digest in deceived.liar.asked
    deceived.goes_on()


PATH = "/etc/passwd"
POLICIES: dict[str, dict[str, Any]] = {
    "asks for dataset": {"silos": [{"name": "alder", "data": PATH}, {"name": "b", "data": "x"}]},
    "asks for dataset 'other'": {
        "silos": [{"name": "alder", "data": "other"}, {"name": "b", "data": "x"}]
    },
    "names a path at this silo": {
        "silos": [
            {"name": "alder", "data": "tumours", "state": "/tmp/elsewhere"},
            {"name": "b", "data": "x"},
        ]
    },
    "does not name silo 'alder'": {
        "silos": [{"name": "birch", "data": "tumours"}, {"name": "b", "data": "x"}]
    },
    "at least 2": {"quorum": None, "silos": [{"name": "alder", "data": "tumours"}]},
    "has a model.factory, but": {"model": {"kind": "factory", "factory": "os:system"}},
    "does not encrypt updates": {"encryption": {"scheme": "none"}},
    "asks aggregators to keep uploads": {"encryption": {"verify": "keep"}},
    "spends epsilon 9": {"privacy": {"epsilon": 9.0}},
    "has no differential privacy": {"privacy": {"test_seed": 1}},
}


@pytest.mark.parametrize("rule", POLICIES)
def test_a_job_against_the_owner_s_rules_is_refused_before_anybody_sees_it(
    tmp_path: Path, tables: dict[str, Path], job: Job, rule: str
) -> None:
    coordinator = Coordinator(tmp_path / "coordinator")
    policy = {"most_epsilon": 5.0, "least_silos": 2}
    alder = Organisation(tmp_path / "alder", "alder", tables["alder"], coordinator, policy=policy)
    liar = Liar(coordinator)
    alder.start()
    try:
        sections = POLICIES[rule]
        content = json.loads(job.model_dump_json())
        if sections.get("model"):
            content["model"] = sections["model"]
        for key, value in sections.items():
            if key != "model":
                content[key] = {**content[key], **value} if isinstance(value, dict) else value
        digest = liar.propose(Proposal(name=job.name, job=json.dumps(content)))
        if rule == "at least 2":  # such a job is not even valid
            assert Inbox(alder.state).all() == []
            return
        (kept,) = Inbox(alder.state).all()
        assert kept.verdict == "refused" and rule in kept.reason
        until(lambda: any(p.decisions for p in liar.polls), 20)
        said = next(p.decisions for p in reversed(liar.polls) if p.decisions)
        assert [(one.proposal, one.verdict) for one in said] == [(digest, "refused")]
        start = Instruction(number=1, run="run-1", method="start", proposal=digest)
        assert liar.order(start)[1].failure.kind == "ConsentError"  # type: ignore[union-attr]
    finally:
        alder.stop()
        coordinator.close()


def test_code_is_refused_unless_the_owner_takes_any(deceived: Deceived, job: Job) -> None:
    content = json.loads(job.model_dump_json())
    content["model"] = {"kind": "factory", "factory": "net:make"}
    proposal = Proposal(name=job.name, job=json.dumps(content), code=("net.py",))
    deceived.liar.propose(proposal, b"raise SystemExit")
    (kept,) = deceived.inbox.all()
    assert kept.verdict == "refused" and "brings code of its own" in kept.reason
    deceived.goes_on()


def test_proposals_do_not_fill_the_disk(
    deceived: Deceived, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new list each time: those of before are closed, and forgotten in the end."""
    monkeypatch.setattr(inbox_module, "MOST_KEPT", 5)
    for number in range(20):
        deceived.liar.propose(replace(proposed(job), name=f"job-{number}"))
    assert len(list((deceived.alder.state / "proposals").iterdir())) <= 7
    deceived.goes_on()


def test_a_proposal_that_cannot_be_fetched_stops_nothing(deceived: Deceived, job: Job) -> None:
    digest = proposal_digest(proposed(job), [])
    for body in (b"", b"x" * 1000, packed(Next()), bytes(most_bytes(Proposal) + 1)):
        deceived.liar.bodies["e" * 64] = body
        deceived.liar.bodies[digest] = packed(proposed(job))
        deceived.liar.board += 1
        both = (notice("e" * 64), notice(digest))
        deceived.liar.tell(packed(Next(board=deceived.liar.board, notices=both)))
    assert [one.digest for one in deceived.inbox.all()] == [digest]
    deceived.goes_on()


def test_a_proposal_that_the_coordinator_denies_stops_nothing(deceived: Deceived, job: Job) -> None:
    """It is listed, and gone when it is fetched: instructions still arrive."""
    del deceived.coordinator.gate._proposal  # type: ignore[attr-defined]
    liar = deceived.liar
    liar.board += 1
    listed = Next(
        board=liar.board,
        notices=(notice("e" * 64),),
        instructions=(Instruction(number=1, run="none", method="ping"),),
    )
    before = len(liar.polls)
    liar.tell(packed(listed))
    assert any(one.number == 1 for poll in liar.polls[before:] for one in poll.answers)
    deceived.goes_on()


def test_a_full_disk_stops_no_instruction(
    deceived: Deceived, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(inbox_module, "_write", full)
        deceived.liar.propose(proposed(job))
        assert any("No space left on device" in line for line in deceived.alder.said)
        deceived.goes_on()
    deceived.liar.propose(proposed(job))
    assert len(deceived.inbox.all()) == 1
    with monkeypatch.context() as patched:
        patched.setattr(inbox_module, "_write", full)
        deceived.liar.board += 1
        deceived.liar.tell(packed(Next(board=deceived.liar.board)))  # it is forgotten
        deceived.goes_on()


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


class Running:
    """An approved run of alder, whose silo was inspected."""

    def __init__(self, deceived: Deceived, job: Job) -> None:
        self.deceived, self.liar = deceived, deceived.liar
        digest = self.liar.propose(proposed(job))
        deceived.alder.approve(digest)
        self.number = 0
        start = self.give("start", proposal=digest)
        assert start.outcome == "answered" and len(deceived.started) == 1
        assert self.give("inspect").outcome == "answered"

    def give(self, method: Any, *attached: bytes, run: str = "run-1", **fields: Any) -> Answer:
        """Send one instruction; returns its answer."""
        self.number += 1
        one = Instruction(number=self.number, run=run, method=method, **fields)
        before = len(self.liar.polls)
        self.liar.tell(packed(Next(instructions=(one,), board=self.liar.board), attached))

        def answered() -> Answer | None:
            found = [a for poll in self.liar.polls[before:] for a in poll.answers]
            return next((a for a in found if a.number == self.number), None)

        answer: Answer = until(answered, 30)
        return answer

    def goes_on(self) -> None:
        """The run is where it was: the silo answers, and takes the next step of a run."""
        assert self.give("introduce").outcome == "answered"
        assert len(self.deceived.started) == 1 and self.deceived.alder._thread.is_alive()


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
        return _sealed(session, request, packed(Next(instructions=more, board=poll.board)))

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
        deceived.liar.lies.append(packed(following))
        until(lambda: failed or setattr(agent, "_told", None), 20)  # decisions are due again
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
