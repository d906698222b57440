"""Requests that a shared secret proves, outside any session: an invited silo's enrolment, and a job
from someone who may propose."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from blindsum.actors.separate.bodies import Refusal
from blindsum.actors.separate.messages import (
    Enrolled,
    Enrolment,
    JobProposal,
    Proposal,
    Proposed,
    packed,
    unpacked,
)
from blindsum.actors.separate.registry import UNPROVEN, Registry, proof
from blindsum.he.identity import Identity
from blindsum.platform.errors import ClusterError, FederationError

SignRequest = Callable[[str, str], tuple[str, str]]
"""Returns the certificate for a request (PEM) and a silo's name, and the authority's certificate,
with any other authorities that silos are to trust."""
TakeJob = Callable[[Proposal, Mapping[str, bytes]], tuple[str, Mapping[str, str]]]
"""Takes a proposal and its code; returns its digest, and the silos with the short forms of their
fingerprints."""


def enrol(
    body: bytes, registry: Registry, identity: Identity, sign: SignRequest
) -> tuple[str, bytes]:
    """Enrol a silo; returns its name and the answer.

    Args:
        body: an `Enrolment`.
        identity: the coordinator's.

    Raises:
        Refusal: no invitation proves the enrolment.
        BlindsumError: the enrolment is malformed, or its certificate request is not valid.
    """
    asked, _ = unpacked(body, Enrolment)
    unproven = packed(replace(asked, proof=UNPROVEN))
    secret = _proving(registry.invitations(asked.silo), unproven, asked.proof)
    if secret is None:
        raise Refusal(
            403,
            ClusterError(
                f"this invitation of silo '{asked.silo}' is not valid here: it has expired, "
                "was used before, or is another silo's",
                "Ask the coordinator's operator for a new one: blindsum invite NAME.",
            ),
        )
    certificate, authority = sign(asked.request, asked.silo)
    registry.enrol(asked.silo, asked.identity, secret)
    answer = Enrolled(
        identity=identity.public,
        certificate=certificate,
        authority=authority,
        proof=UNPROVEN,
    )
    return asked.silo, packed(replace(answer, proof=proof(secret, body, packed(answer))))


async def propose(body: bytes, registry: Registry, take_job: TakeJob) -> bytes:
    """Take a job, in a thread of its own; returns the answer.

    Args:
        body: a `JobProposal` with its code.

    Raises:
        Refusal: no proposer's token proves it, or its files are not as listed.
        BlindsumError: it is malformed, was made before, or `take_job` refuses it.
    """
    asked, attached = unpacked(body, JobProposal)
    code = [bytes(one) for one in attached]
    unproven = packed(replace(asked, proof=UNPROVEN), code)
    secret = _proving(registry.proposers(), unproven, asked.proof)
    if secret is None:
        raise Refusal(403, ClusterError("this token may not propose jobs here"))
    if len(code) != len(asked.proposal.code):
        raise Refusal(400, FederationError("the proposal's files are not as listed"))
    registry.use_nonce(asked.nonce)
    files = dict(zip(asked.proposal.code, code, strict=True))
    digest, silos = await asyncio.to_thread(take_job, asked.proposal, files)
    answer = Proposed(digest=digest, silos=tuple(silos.items()), proof=UNPROVEN)
    return packed(replace(answer, proof=proof(secret, body, packed(answer))))


def _proving(secrets: Iterable[bytes], content: bytes, given: str) -> bytes | None:
    """Return the secret by which the given proof of a content was made, or None."""
    return next((one for one in secrets if hmac.compare_digest(proof(one, content), given)), None)
