"""A coordinator that lies to an agent about jobs: nothing is written, and nobody is asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blindsum.actors.separate import inbox as inbox_module
from blindsum.actors.separate.inbox import Inbox
from blindsum.actors.separate.messages import (
    MOST_FILES,
    Instruction,
    Next,
    Proposal,
    most_bytes,
    packed,
)
from blindsum.actors.separate.registry import proposal_digest
from blindsum.platform.job.schema import Job
from tests.actors.separate.deceived import (
    DENIED,
    Deceived,
    LyingCoordinator,
    notice,
    proposed,
)
from tests.actors.separate.organisations import Coordinator, Organisation, until
from tests.actors.separate.samples import forget_peak, peak_bytes
from tests.fuzz.mutation import COUNT, mutants

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
    liar = LyingCoordinator(coordinator)
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
    """It is listed, and gone when it is fetched: the others are taken, and instructions too."""
    liar = deceived.liar
    liar.board += 1
    digest = proposal_digest(proposed(job), [])
    liar.bodies[digest] = packed(proposed(job))
    listed = Next(
        board=liar.board,
        notices=(notice(DENIED), notice(digest)),
        instructions=(Instruction(number=1, run="none", method="ping"),),
    )
    before = len(liar.polls)
    liar.tell(packed(listed))
    assert any(one.number == 1 for poll in liar.polls[before:] for one in poll.answers)
    assert [one.digest for one in deceived.inbox.all()] == [digest]
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
        deceived.alder.said.clear()
        one = Instruction(number=9, run="none", method="ping")
        forgotten = Next(board=deceived.liar.board, instructions=(one,))
        before = len(deceived.liar.polls)
        deceived.liar.lies += [packed(forgotten)] * 9
        until(lambda: any("No space left on device" in line for line in deceived.alder.said))
        assert not any("fault in Blindsum" in line for line in deceived.alder.said)
        polls = deceived.liar.polls
        until(lambda: any(one.number == 9 for p in polls[before:] for one in p.answers))
    deceived.goes_on()
