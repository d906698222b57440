"""Identities: two keys used as one, in a file that only its owner can read."""

import pickle
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519

from blindsum.he.identity import PUBLIC_BYTES, Identity, fingerprint, verify
from blindsum.platform.errors import KeyRefused


def pem(key: ed25519.Ed25519PrivateKey | x25519.X25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def test_an_identity_lasts_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "silo" / "identity.pem"
    first = Identity(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["identity.pem"]
    assert Identity(path).public == first.public and len(first.public) == PUBLIC_BYTES
    assert fingerprint(first.public) != fingerprint(Identity(tmp_path / "other").public)
    with pytest.raises(KeyRefused):
        pickle.dumps(first)
    path.chmod(0o644)
    with pytest.raises(KeyRefused, match="chmod 600"):
        Identity(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"not a key", pem(x25519.X25519PrivateKey.generate())],
    ids=["nothing", "words", "another kind of key"],  # the same in every process of tests
)
def test_a_file_without_an_identity_is_refused_and_left_unchanged(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "identity.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyRefused, match="not an Ed25519 and an ML-DSA-65 key"):
        Identity(path)
    assert path.read_bytes() == content


def test_an_identity_of_an_earlier_version_keeps_its_key_and_gains_the_other(
    tmp_path: Path,
) -> None:
    path = tmp_path / "identity.pem"
    key = ed25519.Ed25519PrivateKey.generate()
    path.write_bytes(pem(key))
    path.chmod(0o600)
    public = Identity(path).public
    assert public[:32] == key.public_key().public_bytes_raw()
    assert Identity(path).public == public and path.stat().st_mode & 0o777 == 0o600


def test_a_signature_is_valid_only_if_both_halves_are(tmp_path: Path) -> None:
    one, other = Identity(tmp_path / "one"), Identity(tmp_path / "other")
    good, theirs = one.sign(b"content"), other.sign(b"content")
    verify(one.public, good, b"content", "thing")
    forgeries = [
        theirs,
        good[:64] + theirs[64:],
        theirs[:64] + good[64:],
        good[:64],
        good[64:],
        b"",
        good + b"\0",
    ]
    for forged in forgeries:
        with pytest.raises(KeyRefused, match="signature of the thing does not verify"):
            verify(one.public, forged, b"content", "thing")
    for identity in (one.public[:32] + other.public[32:], one.public[:-1], b""):
        with pytest.raises(KeyRefused, match="does not verify"):
            verify(identity, good, b"content", "thing")
    with pytest.raises(KeyRefused, match="does not verify"):
        verify(one.public, good, b"another", "thing")
