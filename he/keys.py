"""Identities, and the one key ceremony of a job.

    1. every silo introduces itself          Introduction: its public keys, signed by its identity
    2. all of them, in one order, make the   transcript: a digest every later step is bound to
    3. one silo makes the CKKS secret and    Sealed: HPKE to each other silo, signed by the maker
    4. the others open it and confirm        confirmation: the federation goes on if all agree

Sealing is HPKE (RFC 9180) with the hybrid KEM ML-KEM-768 + X25519 (FIPS 203 and RFC 7748),
HKDF-SHA256 and ChaCha20-Poly1305: recorded traffic stays closed unless both lattices and
elliptic curves fall. Identities are Ed25519 (RFC 8032). All from `cryptography`.

The introductions pass through the driver. A driver that replaces them is not detected here:
SECURITY.md says so.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hpke, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, mlkem, x25519

from blindsum.he.cipher import SecretKey, generate_secret_key
from blindsum.platform.errors import KeyRefused

_SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)


@dataclass(frozen=True)
class Introduction:
    """A silo's public keys for one job, signed by its identity. Public."""

    job: str
    silo: str
    identity: bytes  # Ed25519, 32 bytes
    mlkem: bytes  # ML-KEM-768 encapsulation key, 1,184 bytes
    x25519: bytes  # 32 bytes
    signature: bytes = b""

    def signed_content(self) -> bytes:
        parts = [self.identity, self.mlkem, self.x25519]
        return _message("introduction", self.job, self.silo, *(part.hex() for part in parts))


@dataclass(frozen=True)
class Sealed:
    """The job's CKKS secret, sealed to one silo. Public: only that silo can open it."""

    maker: str
    silo: str
    content: bytes
    signature: bytes

    @staticmethod
    def signed_content(transcript: str, silo: str, content: bytes) -> bytes:
        return _message("sealed key", transcript, silo, hashlib.sha256(content).hexdigest())


class Identity:
    """A silo's long-term signing key, in a file that only its owner can read.

    Raises:
        KeyRefused: the file is readable by others, or is not an Ed25519 key.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            _create(path)
        if path.stat().st_mode & 0o077:
            raise KeyRefused(f"the identity {path} can be read by others", f"Run: chmod 600 {path}")
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except ValueError:
            key = None
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise KeyRefused(
                f"the identity {path} is not an Ed25519 key",
                "Restore it from a backup, or move it away to have a new one made.",
            )
        self._key = key

    @property
    def public(self) -> bytes:
        return self._key.public_key().public_bytes_raw()

    def sign(self, content: bytes) -> bytes:
        return self._key.sign(content)


class KeyCeremony:
    """One silo's side of the ceremony. The sealing keys live as long as this object."""

    def __init__(self, job: str, silo: str, identity: Identity) -> None:
        self._silo, self._identity = silo, identity
        self._mlkem = mlkem.MLKEM768PrivateKey.generate()
        self._x25519 = x25519.X25519PrivateKey.generate()
        unsigned = Introduction(
            job,
            silo,
            identity.public,
            self._mlkem.public_key().public_bytes_raw(),
            self._x25519.public_key().public_bytes_raw(),
        )
        self.introduction = Introduction(
            **{**vars(unsigned), "signature": identity.sign(unsigned.signed_content())}
        )

    def make(
        self, introductions: tuple[Introduction, ...], terms: str
    ) -> tuple[SecretKey, list[Sealed]]:
        """Make the job's secret and seal it to every other silo."""
        transcript = self._transcript(introductions, terms)
        secret = generate_secret_key()
        sealed = []
        for other in introductions:
            if other.silo == self._silo:
                continue
            receiver = hpke.MLKEM768X25519PublicKey(
                mlkem.MLKEM768PublicKey.from_public_bytes(other.mlkem),
                x25519.X25519PublicKey.from_public_bytes(other.x25519),
            )
            content = _SUITE.encrypt(secret.content, receiver, _info(transcript, other.silo))
            signature = self._identity.sign(Sealed.signed_content(transcript, other.silo, content))
            sealed.append(Sealed(self._silo, other.silo, content, signature))
        return secret, sealed

    def open(
        self, introductions: tuple[Introduction, ...], terms: str, sealed: Sealed
    ) -> SecretKey:
        """Open the secret that the maker sealed to this silo.

        Raises:
            KeyRefused: it was sealed to another silo, in another ceremony, or not by `maker`.
        """
        transcript = self._transcript(introductions, terms)
        makers = {one.silo: one.identity for one in introductions}
        try:
            ed25519.Ed25519PublicKey.from_public_bytes(makers[sealed.maker]).verify(
                sealed.signature, Sealed.signed_content(transcript, self._silo, sealed.content)
            )
            key = hpke.MLKEM768X25519PrivateKey(self._mlkem, self._x25519)
            return SecretKey(_SUITE.decrypt(sealed.content, key, _info(transcript, self._silo)))
        except (KeyError, InvalidSignature, InvalidTag, ValueError):
            raise KeyRefused(
                "the sealed key was not made for this silo in this ceremony",
                "It is stale, swapped or forged. Start the job again.",
            ) from None

    def _transcript(self, introductions: tuple[Introduction, ...], terms: str) -> str:
        if self.introduction not in introductions:
            raise KeyRefused(
                f"the introduction of silo '{self._silo}' was replaced on its way",
                "Something between the silos alters messages. Do not run this job.",
            )
        return transcript(introductions, terms)


def transcript(introductions: tuple[Introduction, ...], terms: str) -> str:
    """Digest of all introductions in roster order and the terms, hex.

    `terms` is a digest of what all silos must agree on: the job and its parameters.

    Raises:
        KeyRefused: a signature does not verify, or a silo or an identity appears twice.
    """
    for one in introductions:
        verify(one.identity, one.signature, one.signed_content(), f"introduction of '{one.silo}'")
    for name in ("silo", "identity"):
        if len({getattr(one, name) for one in introductions}) < len(introductions):
            raise KeyRefused(
                f"two silos introduce themselves with the same {name}",
                "Every silo needs its own name and its own state folder.",
            )
    if len({one.job for one in introductions}) > 1:
        raise KeyRefused("introductions of different jobs were mixed", "Start the job again.")
    contents = [one.signed_content() for one in introductions]
    return hashlib.sha256(b"\0".join([terms.encode(), *contents])).hexdigest()


def confirmation(secret: SecretKey, transcript: str) -> str:
    """What a silo shows to prove that it holds the same key, hex. Tells nothing about it.

    HMAC-SHA256 under a digest of a key of more than 6,000 bits of entropy (RFC 2104).
    """
    key = hashlib.sha256(b"blindsum confirmation" + secret.content).digest()
    return hmac.new(key, transcript.encode(), "sha256").hexdigest()


def verify(identity: bytes, signature: bytes, content: bytes, what: str) -> None:
    """Check an Ed25519 signature.

    Raises:
        KeyRefused: it does not verify. `what` names the signed thing.
    """
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(identity).verify(signature, content)
    except (InvalidSignature, ValueError):
        raise KeyRefused(f"the signature of the {what} does not verify") from None


def _create(path: Path) -> None:
    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Created with its final mode: no moment in which others could open it.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)


def _info(transcript: str, silo: str) -> bytes:
    return _message("blindsum key", transcript, silo)


def _message(*parts: str) -> bytes:
    """Unambiguous bytes to sign: JSON, so that no two lists of parts look alike."""
    return json.dumps(parts).encode()
