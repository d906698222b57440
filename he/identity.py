"""A silo's long-term identity: an Ed25519 and an ML-DSA-65 key, used together.

A signature consists of one by each key over the same content, and is valid only if both are. To
forge it, an attacker must break both elliptic curves and lattices. Ed25519 is RFC 8032, ML-DSA-65
is FIPS 204.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa

from blindsum.platform.errors import KeyRefused

_ED25519_KEY, _MLDSA_KEY = 32, 1952
_ED25519_SIGNATURE = 64
PUBLIC_BYTES = _ED25519_KEY + _MLDSA_KEY
SIGNATURE_BYTES = _ED25519_SIGNATURE + 3309
_END = b"-----END PRIVATE KEY-----\n"


class Identity:
    """A silo's signing keys, in a file that only its owner can read, created if it is missing.

    If a file from an earlier version has only an Ed25519 key, an ML-DSA-65 key is added.

    Raises:
        KeyRefused: other users can read the file, or it contains anything but the two keys.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            _write(path, ed25519.Ed25519PrivateKey.generate())
        if path.stat().st_mode & 0o077:
            raise KeyRefused(f"other users can read the identity {path}", f"Run: chmod 600 {path}")
        keys = _read(path)
        if len(keys) == 1 and isinstance(keys[0], ed25519.Ed25519PrivateKey):
            _write(path, keys[0])
            keys = _read(path)
        classical, lattice = (keys + [None, None])[:2]
        if (
            len(keys) != 2
            or not isinstance(classical, ed25519.Ed25519PrivateKey)
            or not isinstance(lattice, mldsa.MLDSA65PrivateKey)
        ):
            raise KeyRefused(
                f"the identity {path} is not an Ed25519 and an ML-DSA-65 key",
                "Restore it from a backup, or move it elsewhere: a new one is then created.",
            )
        self._keys = (classical, lattice)

    @property
    def public(self) -> bytes:
        """Both public keys, PUBLIC_BYTES."""
        return b"".join(key.public_key().public_bytes_raw() for key in self._keys)

    def sign(self, content: bytes) -> bytes:
        """Return both signatures, 64 and 3,309 bytes, concatenated."""
        return b"".join(key.sign(content) for key in self._keys)

    @staticmethod
    def holds(public: bytes, signature: bytes, content: bytes) -> bool:
        """Return whether both signatures are that public identity's signatures of that content."""
        try:
            verify(public, signature, content, "content")
        except (KeyRefused, TypeError):
            return False
        return True

    def __reduce__(self) -> str:
        raise KeyRefused("an identity was about to be pickled", "It never leaves its silo.")


def verify(identity: bytes, signature: bytes, content: bytes, what: str) -> None:
    """Check both signatures of a public identity.

    Raises:
        KeyRefused: one of them does not verify. `what` names the signed object in the message.
    """
    try:
        if len(identity) != PUBLIC_BYTES:
            raise ValueError
        classical = ed25519.Ed25519PublicKey.from_public_bytes(identity[:_ED25519_KEY])
        classical.verify(signature[:_ED25519_SIGNATURE], content)
        lattice = mldsa.MLDSA65PublicKey.from_public_bytes(identity[_ED25519_KEY:])
        lattice.verify(signature[_ED25519_SIGNATURE:], content)
    except (InvalidSignature, ValueError):
        raise KeyRefused(f"the signature of the {what} does not verify") from None


def fingerprint(identity: bytes) -> str:
    """Return the SHA-256 of a public identity, in hex, for people to compare over the telephone."""
    return hashlib.sha256(identity).hexdigest()


def _read(path: Path) -> list[object]:
    """Return the private keys in a file of PEM blocks, or an empty list if one cannot be read."""
    blocks = [block + _END for block in path.read_bytes().split(_END) if block.strip()]
    try:
        return [serialization.load_pem_private_key(block, password=None) for block in blocks]
    except ValueError:
        return []


def _write(path: Path, classical: ed25519.Ed25519PrivateKey) -> None:
    content = b"".join(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        for key in (classical, mldsa.MLDSA65PrivateKey.generate())
    )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Created with its final mode and then renamed, so that at no moment can others open it, and a
    # crash never leaves half a file.
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fsync(file.fileno())
    os.rename(fresh, path)
