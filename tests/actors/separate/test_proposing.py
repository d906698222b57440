"""Proposing a job: whoever has a token, each proposal once, as it was made."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

import pytest

from blindsum.actors.separate.messages import JobProposal, Proposal, Proposed, packed, unpacked
from blindsum.actors.separate.registry import UNPROVEN, proof
from blindsum.platform.job.schema import Job
from tests.actors.separate.deceived import proposed
from tests.actors.separate.liars import Refused, request, uncertified
from tests.actors.separate.organisations import Coordinator

CODE = [b"import torch"]


def made(job: Job, secret: bytes, code: list[bytes]) -> JobProposal:
    """A proposal that a secret proves."""
    one = JobProposal(
        proposal=proposed(job, ("net.py",)), nonce=secrets.token_hex(16), proof=UNPROVEN
    )
    return replace(one, proof=proof(secret, packed(one, code)))


def send(coordinator: Coordinator, one: JobProposal, code: list[bytes]) -> tuple[Proposed, bytes]:
    """Send a proposal; returns the answer, and what was sent. Raises Refused."""
    body = packed(one, code)
    answer = request(coordinator.url, uncertified(coordinator), "POST", "/v1/jobs", body)
    return unpacked(answer, Proposed)[0], body


def test_a_token_proposes_jobs(coordinator: Coordinator, job: Job) -> None:
    secret = coordinator.registry.add_proposer("desk")
    answer, asked = send(coordinator, made(job, secret, CODE), CODE)
    (found,) = coordinator.registry.proposals()
    assert found.digest == answer.digest and dict(found.code) == {"net.py": CODE[0]}
    unproven = packed(replace(answer, proof=UNPROVEN))
    assert answer.proof == proof(secret, asked, unproven)


@pytest.mark.parametrize("lie", ["secret", "nonce", "job", "proof", "code", "more code"])
def test_no_other_proposal_is_taken(coordinator: Coordinator, job: Job, lie: str) -> None:
    secret, code = coordinator.registry.add_proposer("desk"), CODE
    one = made(job, secrets.token_bytes(16) if lie == "secret" else secret, CODE)
    other = Proposal(name="trial", job=one.proposal.job, code=("net.py",))
    changes: dict[str, Any] = {
        "nonce": {"nonce": "0" * 32},
        "job": {"proposal": replace(other, name="another")},
        "proof": {"proof": UNPROVEN},
    }.get(lie, {})
    if lie in ("code", "more code"):
        code = [b"import os"] if lie == "code" else [*CODE, b"import os"]
    with pytest.raises(Refused, match="403 this token may not propose jobs here"):
        send(coordinator, replace(one, **changes), code)
    assert coordinator.registry.proposals() == []


def test_a_proposal_that_somebody_recorded_is_refused(coordinator: Coordinator, job: Job) -> None:
    """It was withdrawn, and must not come back by itself."""
    one = made(job, coordinator.registry.add_proposer("desk"), CODE)
    answer, _ = send(coordinator, one, CODE)
    coordinator.registry.note(answer.digest, "withdrawn")
    with pytest.raises(Refused, match="403 this proposal was made before"):
        send(coordinator, one, CODE)
    (found,) = coordinator.registry.proposals()
    assert found.state == "withdrawn"


@pytest.mark.parametrize("code", [[], [b"a", b"b"]])
def test_files_are_as_listed(coordinator: Coordinator, job: Job, code: list[bytes]) -> None:
    one = made(job, coordinator.registry.add_proposer("desk"), code)
    with pytest.raises(Refused, match="400 the proposal's files are not as listed"):
        send(coordinator, one, code)
