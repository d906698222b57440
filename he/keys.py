"""The key ceremony of a run: one secret for all silos, and one seed for each pair.

    1. introduce   every silo sends fresh public keys, signed by its        Introduction
                   identity
    2. contribute  every silo seals 32 random bytes for each other silo,    Contribution
                   towards their mask seed; the first silo adds the CKKS secret
    3. agree       every silo opens what was sealed for it, and signs the   Agreement
                   digest of all messages, with a proof that it has the secret
    4. finish      every silo checks that all signed the same digest        Keys

Sealing is HPKE (RFC 9180) with the hybrid KEM ML-KEM-768 + X25519 (FIPS 203 and RFC 7748),
HKDF-SHA256 and ChaCha20-Poly1305. Recorded traffic stays secret unless both lattices and elliptic
curves are broken. A pair's seed is HKDF-SHA256 over both silos' contributions, salted with the
digest. It is secret and random if one of the two silos is honest and its KEM is secure.

All messages pass through the driver. If it alters, drops or swaps one, the silos detect it. There
is one exception: a driver can introduce itself to every silo in the names of all others. Identities
pinned in the job file (`silos.NAME.identity`) prevent that.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Iterator, Mapping, Sequence
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
Digests = Annotated[Mapping[SiloName, Digest], Field(max_length=64)]


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
    """The bytes that one silo sealed for each of the others. Public: only the receivers can open
    them.

    A copy for one receiver has `digests` (SHA-256, in hex) in place of what is sealed for the
    others, which it could not open. The signature is over digests, so that it holds for every copy.
    """

    silo: SiloName
    transcript: Digest
    sealed: Sealed
    signature: Bytes = b""
    digests: Digests = field(default_factory=dict)

    def signed_content(self) -> bytes:
        """Return the bytes that the identity signs."""
        parts = [f"{to} {digest}" for to, digest in self.all_digests().items()]
        return _message("contribution", self.silo, self.transcript, *sorted(parts))

    def all_digests(self) -> dict[str, str]:
        """Return the digest of every receiver's part. Of a part that is here it is computed: a
        digest that came with it would let anyone replace it."""
        computed = {to: hashlib.sha256(text).hexdigest() for to, text in self.sealed.items()}
        return {**self.digests, **computed}


@dataclass(frozen=True, config=STRICT)
class Agreement:
    """A silo's signature on the whole ceremony, and its proof that it has the secret."""

    silo: SiloName
    transcript: Digest
    proof: Digest
    signature: Bytes = b""

    def signed_content(self) -> bytes:
        """Return the bytes that the identity signs."""
        return _message("agreement", self.silo, self.transcript, self.proof)


@plain_dataclass(frozen=True)
class Keys:
    """A silo's keys after the ceremony.

    `hashing` is the key of the totals' hash. `verifiers` is the HMAC key that selects the silo to
    find out who cheated. `identifiers` is the HMAC key of what records are known by. `ceremony` is
    the digest that all silos signed.
    """

    secret: SecretKey
    seeds: PairSeeds
    hashing: HashKey
    verifiers: bytes = field(repr=False)
    identifiers: bytes = field(repr=False)
    ceremony: bytes

    def verifier(self, roster: tuple[str, ...], exchange: bytes) -> str:
        """Return the silo that finds out who cheated. Nobody without the secret can predict it."""
        drawn = hmac.digest(self.verifiers, exchange, "sha256")
        return roster[int.from_bytes(drawn, "big") % len(roster)]


def copies(
    contributions: Sequence[Contribution], silos: Sequence[str]
) -> Iterator[tuple[Contribution, ...]]:
    """Yield for each silo, in that order, all contributions without what is sealed for the others.
    Whole ones would grow with the cube of the number of silos, over all that are sent."""
    digests = [one.all_digests() for one in contributions]
    for silo in silos:
        yield tuple(
            replace(
                one,
                sealed={to: text for to, text in one.sealed.items() if to == silo},
                digests={to: digest for to, digest in known.items() if to != silo},
            )
            for one, known in zip(contributions, digests, strict=True)
        )


class KeyCeremony:
    """One silo's side of one ceremony. The sealing keys exist as long as this object.

    Args:
        run: the run's unique name.
        terms: digest of the job and its parameters, on which all silos must agree.
        pins: the pinned fingerprints of identities, by silo; may be incomplete.
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
        """Seal a contribution for every other silo; the first silo generates and adds the secret.

        Raises:
            KeyRefused: an introduction was altered, duplicated or swapped, or its identity is not
                the one that the job file pins.
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
        """Open the contributions for this silo, and sign the digest of all messages.

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
                    f"silo '{one.silo}' received other introductions or another job",
                    "Messages between the silos are altered, or their job files differ.",
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
            KeyRefused: one did not; the message names it.
        """
        for one, card in zip(agreements, self._introductions, strict=False):
            what = f"agreement of '{card.silo}'"
            verify(card.identity, one.signature, one.signed_content(), what)
            if (one.silo, one.transcript) != (card.silo, self._digest.hex()):
                raise KeyRefused(
                    f"silos '{card.silo}' and '{self._silo}' have seen different key ceremonies",
                    "Messages between the silos are altered. Do not run this job.",
                )
            if not hmac.compare_digest(one.proof, self._proof()):
                raise KeyRefused(
                    f"silo '{card.silo}' does not have the same secret key", "Start the job again."
                )
        if len(agreements) != len(self._introductions):
            raise KeyRefused("the key ceremony lacks a silo's agreement", "Start the job again.")
        secret, seeds = self._secret, self._seeds
        if secret is None or seeds is None:
            raise KeyRefused(
                "the keys of this ceremony were already handed out", "Hold a new ceremony."
            )
        # Handed out once only: each of two copies of the seeds could open the same masks.
        self._secret = self._seeds = None
        hashing, verifiers, identifiers = (
            hashlib.sha256(b"blindsum " + of + secret.content).digest()
            for of in (b"hashing", b"verifiers", b"identifiers")
        )
        return Keys(
            secret=secret,
            seeds=PairSeeds(self._silo, seeds),
            hashing=HashKey(hashing),
            verifiers=verifiers,
            identifiers=identifiers,
            ceremony=self._digest,
        )

    def _check(self, introductions: tuple[Introduction, ...]) -> None:
        if self.introduction not in introductions:
            raise KeyRefused(
                f"the introduction of silo '{self._silo}' was replaced in transit",
                "Messages between the silos are altered. Do not run this job.",
            )
        for one in introductions:
            pinned = self._pins.get(one.silo)
            if pinned is not None and fingerprint(one.identity) != pinned:
                raise KeyRefused(
                    f"the identity of silo '{one.silo}' is {fingerprint(one.identity)[:16]}…, but "
                    f"the job file pins {pinned[:16]}…",
                    "Ask that silo for its fingerprint (blindsum identity). If it is the pinned "
                    "one, someone else is impersonating the silo.",
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
                f"the contribution of silo '{contribution.silo}' was not made for this silo in "
                "this ceremony",
                "It is stale, swapped or forged. Start the job again.",
            ) from None
        if len(text) < SEED_BYTES:
            raise KeyRefused(
                f"the contribution of silo '{contribution.silo}' has {len(text)} bytes, fewer than "
                f"the {SEED_BYTES} of a seed",
                "Start the job again.",
            )
        return text

    def _seed(self, other: str, theirs: bytes) -> bytes:
        """Derive the pair's seed. The contributions are concatenated in roster order."""
        names = [one.silo for one in self._introductions]
        mine = self._mine[other]
        both = mine + theirs if names.index(self._silo) < names.index(other) else theirs + mine
        pair = sorted((self._silo, other), key=names.index)
        derive = HKDF(
            hashes.SHA256(), SEED_BYTES, salt=self._digest, info=_message("blindsum pair", *pair)
        )
        return derive.derive(both)

    def _proof(self) -> str:
        """Return an HMAC-SHA256 (RFC 2104) under a digest of the secret. It does not reveal the
        secret."""
        return hmac.digest(self._proving, self._digest, "sha256").hex()


def transcript(introductions: tuple[Introduction, ...], terms: str) -> str:
    """Return the digest, in hex, of the terms and all introductions in roster order.

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
    """Return the bytes to sign: JSON, so that different lists of parts give different bytes."""
    return json.dumps(parts).encode()
