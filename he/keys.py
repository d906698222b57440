"""The one key ceremony of a job: one secret for all silos, one seed for each pair.

    1. introduce   every silo: fresh public keys, signed by its identity    Introduction
    2. contribute  every silo, to each other: 32 random bytes for their     Contribution
                   mask seed, sealed; the first silo's hold the CKKS secret too
    3. agree       every silo opens what is for it, and signs the digest    Agreement
                   of all that was said, with a proof that it holds the secret
    4. finish      every silo checks that all signed the same digest        Keys

Sealing is HPKE (RFC 9180) with the hybrid KEM ML-KEM-768 + X25519 (FIPS 203 and RFC 7748),
HKDF-SHA256 and ChaCha20-Poly1305: recorded traffic stays closed unless both lattices and
elliptic curves fall. A pair's seed is HKDF-SHA256 over both silos' contributions, salted with
the digest: it is secret and random if one of the two is honest and its KEM holds.

Everything passes through the driver. What it alters, drops or swaps is detected, except that
it may introduce itself in the silos' names to all of them: identities that are pinned in the
job file (`silos.NAME.identity`) close that.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from dataclasses import field, replace
from typing import Annotated

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import Field
from pydantic.dataclasses import dataclass

from blindsum.he.cipher import SecretKey, generate_secret_key
from blindsum.he.exchange import STRICT, Digest, RunName, SiloName
from blindsum.he.identity import Identity, fingerprint, verify
from blindsum.he.linear_hash import HashKey
from blindsum.he.masks import SEED_BYTES, PairSeeds
from blindsum.platform.errors import KeyRefused

_SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)


Bytes = Annotated[bytes, Field(max_length=65_536)]
Sealed = Annotated[Mapping[SiloName, Bytes], Field(max_length=64)]


@dataclass(frozen=True, config=STRICT)
class Introduction:
    """A silo's public keys for one ceremony, signed by its identity. Public."""

    run: RunName
    silo: SiloName
    identity: Bytes  # Ed25519 and ML-DSA-65, 1,984 bytes
    mlkem: Bytes  # ML-KEM-768 encapsulation key, 1,184 bytes
    x25519: Bytes  # 32 bytes
    signature: Bytes = b""

    def signed_content(self) -> bytes:
        """Return the bytes that the identity signs."""
        parts = [self.identity, self.mlkem, self.x25519]
        return _message("introduction", self.run, self.silo, *(part.hex() for part in parts))


@dataclass(frozen=True, config=STRICT)
class Contribution:
    """What one silo sealed to each of the others. Public: only they can open it."""

    silo: SiloName
    transcript: Digest
    sealed: Sealed
    signature: Bytes = b""

    def signed_content(self) -> bytes:
        """Return the bytes that the identity signs."""
        sealed = [f"{to} {hashlib.sha256(text).hexdigest()}" for to, text in self.sealed.items()]
        return _message("contribution", self.silo, self.transcript, *sorted(sealed))


@dataclass(frozen=True, config=STRICT)
class Agreement:
    """A silo's signature on the whole ceremony, and its proof that it holds the secret."""

    silo: SiloName
    transcript: Digest
    proof: Digest
    signature: Bytes = b""

    def signed_content(self) -> bytes:
        """Return the bytes that the identity signs."""
        return _message("agreement", self.silo, self.transcript, self.proof)


@plain_dataclass(frozen=True)
class Keys:
    """What a silo has after the ceremony. `hashing` is the key of totals' hash, `verifiers` draws
    who looks for the one that cheated (HMAC key); `ceremony` is the digest that all silos signed."""

    secret: SecretKey
    seeds: PairSeeds
    hashing: HashKey
    verifiers: bytes = field(repr=False)
    ceremony: bytes

    def verifier(self, roster: tuple[str, ...], exchange: bytes) -> str:
        """The silo that looks who cheated: no one without the secret can foresee it."""
        drawn = hmac.digest(self.verifiers, exchange, "sha256")
        return roster[int.from_bytes(drawn, "big") % len(roster)]


class KeyCeremony:
    """One silo's side of one ceremony. The sealing keys live as long as this object.

    Args:
        run: the run's unique name.
        terms: digest of what all silos must agree on: the job and its parameters.
        pins: fingerprints of silos' identities, as far as they are known beforehand.
    """

    def __init__(
        self, run: str, terms: str, silo: str, identity: Identity, pins: Mapping[str, str]
    ) -> None:
        self._terms, self._silo, self._identity, self._pins = terms, silo, identity, pins
        self._mlkem = mlkem.MLKEM768PrivateKey.generate()
        self._x25519 = x25519.X25519PrivateKey.generate()
        unsigned = Introduction(
            run,
            silo,
            identity.public,
            self._mlkem.public_key().public_bytes_raw(),
            self._x25519.public_key().public_bytes_raw(),
        )
        signature = identity.sign(unsigned.signed_content())
        self.introduction = replace(unsigned, signature=signature)

    def contribute(self, introductions: tuple[Introduction, ...]) -> Contribution:
        """Seal a contribution to every other silo; the first silo adds the secret it makes.

        Raises:
            KeyRefused: an introduction was altered, doubled, swapped or is another's than
                the job file says.
        """
        self._check(introductions)
        self._introductions = introductions
        self._transcript = transcript(introductions, self._terms)
        first = introductions[0].silo
        self._secret = generate_secret_key() if self._silo == first else None
        self._mine = {
            one.silo: os.urandom(SEED_BYTES) for one in introductions if one.silo != self._silo
        }
        secret = self._secret.content if self._secret else b""
        sealed = {
            one.silo: self._seal(one, self._mine[one.silo] + secret)
            for one in introductions
            if one.silo != self._silo
        }
        unsigned = Contribution(self._silo, self._transcript, sealed)
        return replace(unsigned, signature=self._identity.sign(unsigned.signed_content()))

    def agree(self, contributions: tuple[Contribution, ...]) -> Agreement:
        """Open what the others sealed to this silo, and sign all that was said.

        Raises:
            KeyRefused: a contribution is missing, forged, stale, or sealed to another silo.
        """
        names = tuple(one.silo for one in self._introductions)
        if tuple(one.silo for one in contributions) != names:
            raise KeyRefused("the key ceremony lacks a silo's contribution", "Start the job again.")
        theirs = {}
        for one, card in zip(contributions, self._introductions, strict=True):
            what = f"contribution of '{one.silo}'"
            verify(card.identity, one.signature, one.signed_content(), what)
            if one.transcript != self._transcript:
                raise KeyRefused(
                    f"silo '{one.silo}' was told other introductions or another job",
                    "Something between the silos alters messages, or their job files differ.",
                )
            if one.silo != self._silo:
                theirs[one.silo] = self._open(one)
        if self._secret is None:
            self._secret = SecretKey(theirs[names[0]][SEED_BYTES:])
        said = [one.signed_content() for one in contributions]
        self._digest = hashlib.sha256(b"\0".join([self._transcript.encode(), *said])).digest()
        self._seeds: dict[str, bytes] | None = {
            name: self._seed(name, text[:SEED_BYTES]) for name, text in theirs.items()
        }
        self._proving = hashlib.sha256(b"blindsum agreement" + self._secret.content).digest()
        unsigned = Agreement(self._silo, self._digest.hex(), self._proof())
        return replace(unsigned, signature=self._identity.sign(unsigned.signed_content()))

    def finish(self, agreements: tuple[Agreement, ...]) -> Keys:
        """Check that every silo signed the same ceremony and holds the same secret.

        Raises:
            KeyRefused: names the silo that differs.
        """
        for one, card in zip(agreements, self._introductions, strict=False):
            what = f"agreement of '{card.silo}'"
            verify(card.identity, one.signature, one.signed_content(), what)
            if (one.silo, one.transcript) != (card.silo, self._digest.hex()):
                raise KeyRefused(
                    f"silo '{card.silo}' has seen another key ceremony than '{self._silo}'",
                    "Something between the silos alters messages. Do not run this job.",
                )
            if not hmac.compare_digest(one.proof, self._proof()):
                raise KeyRefused(
                    f"silo '{card.silo}' does not hold the same key", "Start the job again."
                )
        if len(agreements) != len(self._introductions):
            raise KeyRefused("the key ceremony lacks a silo's agreement", "Start the job again.")
        secret, seeds = self._secret, self._seeds
        if secret is None or seeds is None:
            raise KeyRefused("the keys of this ceremony were taken up before", "Begin another.")
        # Given out once: two sets of the same seeds could each open the same masks.
        self._secret = self._seeds = None
        hashing, verifiers = (
            hashlib.sha256(b"blindsum " + of + secret.content).digest()
            for of in (b"hashing", b"verifiers")
        )
        return Keys(secret, PairSeeds(self._silo, seeds), HashKey(hashing), verifiers, self._digest)

    def _check(self, introductions: tuple[Introduction, ...]) -> None:
        if self.introduction not in introductions:
            raise KeyRefused(
                f"the introduction of silo '{self._silo}' was replaced on its way",
                "Something between the silos alters messages. Do not run this job.",
            )
        for one in introductions:
            pinned = self._pins.get(one.silo)
            if pinned is not None and fingerprint(one.identity) != pinned:
                raise KeyRefused(
                    f"the identity of silo '{one.silo}' is {fingerprint(one.identity)[:16]}…, "
                    f"the job file says {pinned[:16]}…",
                    "Ask that silo for its fingerprint (blindsum identity); if it is still the "
                    "old one, someone else answers in its name.",
                )

    def _seal(self, to: Introduction, text: bytes) -> bytes:
        receiver = hpke.MLKEM768X25519PublicKey(
            mlkem.MLKEM768PublicKey.from_public_bytes(to.mlkem),
            x25519.X25519PublicKey.from_public_bytes(to.x25519),
        )
        return _SUITE.encrypt(text, receiver, _info(self._transcript, self._silo, to.silo))

    def _open(self, contribution: Contribution) -> bytes:
        try:
            key = hpke.MLKEM768X25519PrivateKey(self._mlkem, self._x25519)
            info = _info(self._transcript, contribution.silo, self._silo)
            text: bytes = _SUITE.decrypt(contribution.sealed[self._silo], key, info)
        except (KeyError, InvalidTag, ValueError):
            raise KeyRefused(
                f"what silo '{contribution.silo}' sealed was not made for this silo in this "
                "ceremony",
                "It is stale, swapped or forged. Start the job again.",
            ) from None
        if len(text) < SEED_BYTES:
            raise KeyRefused(f"silo '{contribution.silo}' sealed too little for a seed")
        return text

    def _seed(self, other: str, theirs: bytes) -> bytes:
        """The pair's seed: the contribution of the silo that is first in the roster goes first."""
        names = [one.silo for one in self._introductions]
        mine = self._mine[other]
        both = mine + theirs if names.index(self._silo) < names.index(other) else theirs + mine
        pair = sorted((self._silo, other), key=names.index)
        derive = HKDF(
            hashes.SHA256(), SEED_BYTES, salt=self._digest, info=_message("blindsum pair", *pair)
        )
        return derive.derive(both)

    def _proof(self) -> str:
        """HMAC-SHA256 (RFC 2104) under a digest of the secret: tells nothing about it."""
        return hmac.digest(self._proving, self._digest, "sha256").hex()


def transcript(introductions: tuple[Introduction, ...], terms: str) -> str:
    """Digest of all introductions in roster order and the terms, hex.

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
    if len({one.run for one in introductions}) > 1:
        raise KeyRefused("introductions of different runs were mixed", "Start the job again.")
    contents = [one.signed_content() for one in introductions]
    return hashlib.sha256(b"\0".join([terms.encode(), *contents])).hexdigest()


def _info(transcript: str, sender: str, receiver: str) -> bytes:
    return _message("blindsum key", transcript, sender, receiver)


def _message(*parts: str) -> bytes:
    """Unambiguous bytes to sign: JSON, so that no two lists of parts look alike."""
    return json.dumps(parts).encode()
