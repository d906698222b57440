"""Tokens that people pass on: an invitation for a silo, and the token of whoever may propose.

A token is one word. It has the coordinator's address, the fingerprint of its identity, and a
secret. The secret never crosses the network: it keys an HMAC over what is sent and what comes back,
so that neither TLS nor anything on the way has to be trusted before the first pins exist.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from blindsum.actors.separate.client import LinkLost, SessionEnded, open_http, request
from blindsum.actors.separate.messages import (
    Enrolled,
    Enrolment,
    JobProposal,
    Proposal,
    Proposed,
    packed,
    unpacked,
)
from blindsum.actors.separate.registry import UNPROVEN, proof
from blindsum.he.identity import fingerprint
from blindsum.infra.certificates import keep_certificate, make_request
from blindsum.platform.errors import ClusterError, JobError, KeyRefused

PREFIX = "blindsum1"
Kind = Literal["join", "propose"]


@dataclass(frozen=True)
class Token:
    """An invitation (`join`), or a proposer's token (`propose`).

    `identity` is the coordinator's public identity or its fingerprint's 32 bytes, `secret` has 16
    bytes, and `silo` is the invited silo's name.
    """

    kind: Kind
    url: str
    identity: bytes
    secret: bytes
    silo: str

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the coordinator's identity, in hex."""
        long = len(self.identity) != 32
        return fingerprint(self.identity) if long else self.identity.hex()


def written(token: Token) -> str:
    """Return a token as one word."""
    text = f"{token.kind}\n{token.url}\n{token.silo}".encode()
    content = token.secret + bytes.fromhex(token.fingerprint) + text
    check = hashlib.sha256(content).digest()[:4]
    return f"{PREFIX}-{base64.urlsafe_b64encode(check + content).decode().rstrip('=')}"


def read_token(text: str, kind: Kind) -> Token:
    """Return the token that a word stands for.

    Raises:
        JobError: it is not such a token; for example, characters are missing.
    """
    called = "an invitation" if kind == "join" else "a proposer's token"
    try:
        prefix, _, word = text.strip().partition("-")
        content = base64.urlsafe_b64decode(word + "=" * (-len(word) % 4))
        check, rest = content[:4], content[4:]
        if prefix != PREFIX or hashlib.sha256(rest).digest()[:4] != check:
            raise ValueError
        found, url, silo = rest[48:].decode().split("\n")
    except (ValueError, binascii.Error):
        raise JobError(f"this is not {called}", "Copy it again, as one word.") from None
    if found != kind:
        raise JobError(f"this is not {called}, but a token to {found}")
    return Token(kind, url, rest[16:48], rest[:16], silo)


def short_fingerprint(coordinator: bytes, silo: bytes) -> str:
    """Return what people on both sides compare after an enrolment: 64 bits over both identities."""
    digest = hashlib.sha256(b"blindsum enrolment" + coordinator + silo).hexdigest()[:16]
    return "-".join(digest[start : start + 4] for start in range(0, 16, 4))


def join(token: Token, identity: bytes, tls: Path, proxy: str | None = None) -> Enrolled:
    """Enrol a silo with its invitation: send a certificate request, keep the certificate.

    Args:
        identity: the silo's public identity.
        tls: folder for the certificate and its key.

    Raises:
        ClusterError: the coordinator cannot be reached or refuses.
        KeyRefused: someone else answered.
    """
    tls.mkdir(parents=True, exist_ok=True, mode=0o700)
    asked = Enrolment(
        silo=token.silo,
        identity=identity,
        request=make_request(tls, f"{token.silo}.silo"),
        proof=UNPROVEN,
    )
    body = packed(replace(asked, proof=proof(token.secret, packed(asked))))
    answer = asyncio.run(_post(token.url + "/v1/enrolments", body, proxy))
    enrolled, _ = unpacked(answer, Enrolled)
    expected = proof(token.secret, body, packed(replace(enrolled, proof=UNPROVEN)))
    _require_proof(hmac.compare_digest(expected, enrolled.proof))
    _require_proof(fingerprint(enrolled.identity) == token.fingerprint)
    keep_certificate(tls, enrolled.certificate, enrolled.authority)
    return enrolled


def propose(
    token: Token, proposal: Proposal, code: list[bytes], nonce: Callable[[], str]
) -> Proposed:
    """Propose a job. Raises as `join`."""
    asked = JobProposal(proposal=proposal, nonce=nonce(), proof=UNPROVEN)
    body = packed(replace(asked, proof=proof(token.secret, packed(asked, code))), code)
    answer = asyncio.run(_post(token.url + "/v1/jobs", body, None))
    proposed, _ = unpacked(answer, Proposed)
    expected = proof(token.secret, body, packed(replace(proposed, proof=UNPROVEN)))
    _require_proof(hmac.compare_digest(expected, proposed.proof))
    return proposed


def _require_proof(holds: bool) -> None:
    if not holds:
        raise KeyRefused(
            "the answer is not from the coordinator that made this token",
            "Someone on the way answers in its name. Do not go on; tell the coordinator's "
            "operator.",
        )


async def _post(url: str, body: bytes, proxy: str | None) -> bytes:
    context = ssl.create_default_context()
    # The HMAC by the token's secret authenticates both sides, whoever ends TLS.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    http = open_http(context, url, proxy)
    try:
        return await request(http, "POST", url, body, {}, 60.0)
    except LinkLost as lost:
        raise ClusterError(
            f"the coordinator at {url.rpartition('/v1/')[0]} cannot be reached: {lost}",
            "Check that it is serving, and that the firewall lets this machine connect to it; "
            "behind a proxy, set HTTPS_PROXY.",
        ) from None
    except SessionEnded:
        raise ClusterError("the coordinator does not accept this token") from None
    finally:
        await http.close()
