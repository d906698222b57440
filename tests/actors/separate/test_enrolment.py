"""Enrolment: one invitation, one silo, once, in time."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from blindsum.actors.separate.messages import Enrolled, Enrolment, packed, unpacked
from blindsum.actors.separate.registry import UNPROVEN, proof
from blindsum.he.identity import Identity
from blindsum.infra.certificates import make_request
from tests.actors.separate.liars import Refused, request, uncertified
from tests.actors.separate.organisations import Coordinator


def enrolment(
    coordinator: Coordinator,
    silo: str,
    secret: bytes,
    identity: Identity,
    folder: Path,
    changes: Mapping[str, Any] | None = None,
) -> tuple[Enrolled, bytes]:
    """Ask to be enrolled; returns the answer, and what was sent. Raises Refused."""
    asked = Enrolment(
        silo=silo,
        identity=identity.public,
        request=make_request(folder, f"{silo}.silo"),
        proof=UNPROVEN,
    )
    proven = replace(asked, proof=proof(secret, packed(asked)))
    body = packed(replace(proven, **(changes or {})))
    answer = request(coordinator.url, uncertified(coordinator), "POST", "/v1/enrolments", body)
    return unpacked(answer, Enrolled)[0], body


def test_an_invitation_enrols_once(coordinator: Coordinator, tmp_path: Path) -> None:
    identity = Identity(tmp_path / "identity.pem")
    secret = coordinator.registry.invite("alder", 1)
    answer, asked = enrolment(coordinator, "alder", secret, identity, tmp_path)
    found = coordinator.registry.silo("alder")
    assert found and found.identity == identity.public
    # the coordinator proves that it knows the secret too
    unproven = packed(replace(answer, proof=UNPROVEN))
    assert answer.proof == proof(secret, asked, unproven)
    assert answer.identity == coordinator.identity.public
    with pytest.raises(Refused, match="not valid here"):
        enrolment(coordinator, "alder", secret, Identity(tmp_path / "o.pem"), tmp_path)
    again = coordinator.registry.silo("alder")
    assert again and again.identity == identity.public


@pytest.mark.parametrize(
    "lie", ["secret", "silo", "identity", "request", "proof", "late", "nobody"]
)
def test_no_other_enrolment_is_taken(coordinator: Coordinator, tmp_path: Path, lie: str) -> None:
    registry, identity = coordinator.registry, Identity(tmp_path / "identity.pem")
    thief = Identity(tmp_path / "thief.pem").public
    secret = registry.invite("alder", 1)
    registry.invite("birch", 1)
    silo, changes = "alder", dict[str, Any]()
    if lie == "secret":
        secret = secrets.token_bytes(16)
    elif lie == "silo":  # another silo's name under one's own invitation
        silo = "birch"
    elif lie == "identity":  # whoever is in between puts in their own
        changes = {"identity": thief}
    elif lie == "request":
        changes = {"request": make_request(tmp_path, "alder.silo")}
    elif lie == "proof":
        changes = {"proof": UNPROVEN}
    elif lie == "late":
        secret = registry.invite("alder", 0)
    else:
        silo = "cedar"
    with pytest.raises(Refused, match="403 this invitation of silo '.*' is not valid here"):
        enrolment(coordinator, silo, secret, identity, tmp_path, changes)
    assert registry.silos() == {}


def requests() -> dict[str, str]:
    """Certificate requests that nobody needs."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "alder.silo")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    edwards = ed25519.Ed25519PrivateKey.generate()
    long = rsa.generate_private_key(65537, 2048)
    pem = serialization.Encoding.PEM
    return {
        "empty": "",
        "no PEM": "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        "ed25519": builder.sign(edwards, None).public_bytes(pem).decode(),
        "rsa": builder.sign(long, hashes.SHA256()).public_bytes(pem).decode(),
        "not ASCII": "\u00e9",
    }


@pytest.mark.parametrize("kind", requests())
def test_a_wrong_request_leaves_the_invitation(
    coordinator: Coordinator, tmp_path: Path, kind: str
) -> None:
    """Whoever mistypes can try again."""
    identity = Identity(tmp_path / "identity.pem")
    secret = coordinator.registry.invite("alder", 1)
    asked = Enrolment(
        silo="alder", identity=identity.public, request=requests()[kind], proof=UNPROVEN
    )
    proven = replace(asked, proof=proof(secret, packed(asked)))
    with pytest.raises(Refused, match="403 the certificate request is not valid"):
        request(coordinator.url, uncertified(coordinator), "POST", "/v1/enrolments", packed(proven))
    enrolment(coordinator, "alder", secret, identity, tmp_path)
