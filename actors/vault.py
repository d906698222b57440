"""A silo's keys and everything that uses them. No other code uses the keys."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from blindsum.actors.channel import Channel, shard
from blindsum.he.cipher import Cipher, CkksCipher, PlainCipher
from blindsum.he.exchange import Exchange
from blindsum.he.identity import Identity, fingerprint
from blindsum.he.keys import Agreement, Contribution, Introduction, KeyCeremony, Keys
from blindsum.he.masks import hash_of
from blindsum.he.packing import Integers
from blindsum.he.parameters import Parameters
from blindsum.he.upload import decrypt_parts, encrypt_parts, sum_again
from blindsum.platform.errors import (
    BlindsumError,
    EncryptionError,
    KeyRefused,
    LedgerError,
    SiloRefused,
    TotalRefused,
    UploadRefused,
)


def open_identity(state: Path) -> Identity:
    """Return the identity in a silo's state folder, and create it if there is none.

    Raises:
        KeyRefused, LedgerError: the folder or the file cannot be used or trusted.
    """
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Identity(state / "identity.pem")
    except OSError as error:
        raise LedgerError(
            f"the state folder {state} cannot be used ({os.strerror(error.errno or 0)})",
            "Check that the disk has room and the folder is writable, or set silos.state.",
        ) from None


class Vault:
    """One silo's side of every key ceremony and every encrypted exchange of a run.

    Args:
        terms: digest of everything on which all silos must agree.
        allows: returns whether this silo takes part in a roster.
        pins: fingerprints of silos' identities, from the job file.
        keep: aggregators keep the uploads, so that after a refused total one silo, which the
            secret chooses, can find out who cheated.
    """

    def __init__(
        self,
        run: str,
        terms: str,
        silo: str,
        allows: Callable[[tuple[str, ...]], bool],
        parameters: Parameters,
        identity: Identity,
        pins: Mapping[str, str],
        keep: bool,
    ) -> None:
        self._run, self._terms, self._silo, self._allows = run, terms, silo, allows
        self._parameters, self._identity, self._pins = parameters, identity, pins
        self._keep = keep
        self._view = b""
        self._identities: dict[str, bytes] = {}
        self._met: dict[str, bytes] = {}
        self._keys: Keys | None = None
        self._cipher: Cipher | None = None
        self._channel: Channel | None = None

    # -- the key ceremony ----------------------------------------------------------------

    def introduce(self) -> Introduction:
        """Begin a ceremony, and give up the keys of an earlier one. This is how keys rotate."""
        self._forget()
        self._ceremony = KeyCeremony(self._run, self._terms, self._silo, self._identity, self._pins)
        return self._ceremony.introduction

    def contribute(self, introductions: tuple[Introduction, ...]) -> Contribution:
        """Seal this silo's part of the keys to each other silo.

        Raises:
            KeyRefused: the ceremony's roster is not the job's, or a silo's identity has changed
                since the start of the run.
        """
        roster = tuple(one.silo for one in introductions)
        if not self._allows(roster):
            raise KeyRefused(
                f"the key ceremony's roster ({', '.join(roster)}) is not one that this silo's job "
                "allows",
                "Start the job again.",
            )
        for one in introductions:
            if self._met.get(one.silo, one.identity) != one.identity:
                raise KeyRefused(
                    f"silo '{one.silo}' presented a different identity from the one it had at the "
                    "start of this run",
                    "Someone else answers in its name. Do not continue this run.",
                )
        contribution = self._ceremony.contribute(introductions)
        self._identities = {one.silo: one.identity for one in introductions}
        self._met |= self._identities
        return contribution

    def agree(self, contributions: tuple[Contribution, ...]) -> Agreement:
        """Open the parts sealed to this silo, and sign the digest of all messages."""
        return self._ceremony.agree(contributions)

    def finish(self, agreements: tuple[Agreement, ...]) -> None:
        """Derive the job's keys, once all silos have signed the same digest."""
        keys = self._ceremony.finish(agreements)
        encrypted = self._parameters.scheme == "ckks"
        self._cipher = CkksCipher(self._parameters, keys.secret) if encrypted else PlainCipher()
        self._keys, self._view = keys, keys.ceremony
        del self._ceremony  # and with it the keys that opened the sealed parts

    def knows(self, silo: str, identity: bytes) -> bool:
        """Return whether that is the identity of that silo in this run."""
        pinned = self._pins.get(silo)
        return fingerprint(identity) == pinned if pinned else self._met.get(silo) == identity

    @property
    def identities(self) -> dict[str, bytes]:
        """The public identities of the silos in the newest ceremony."""
        return dict(self._identities)

    def of_identifiers(self) -> bytes:
        """Return the key of what records are known by, once the ceremony is over.

        Raises:
            KeyRefused: this silo has no keys.
        """
        if self._keys is None:
            raise KeyRefused("this silo has no keys", "Hold a key ceremony first.")
        return self._keys.identifiers

    # -- exchanges -----------------------------------------------------------------------

    def connect(self, channel: Channel) -> None:
        """Set the channel to the aggregators."""
        self._channel = channel

    def send(
        self,
        exchange: Exchange,
        digits: Callable[[slice], Integers],
        counts: Callable[[], Integers],
    ) -> int:
        """Mask, encrypt, sign and send this silo's upload; returns its bytes.

        Args:
            digits: as `blindsum.he.upload.encrypt_parts` takes them.
            counts: likewise.

        Raises:
            SiloRefused: an aggregator refused the upload.
        """
        keys, cipher, channel = self._ready(exchange)
        masks = keys.seeds.open(exchange, keys.hashing, self._view)
        sent = 0
        frames = encrypt_parts(exchange, self._silo, digits, counts, cipher, masks, self._identity)
        try:
            for part, frame in zip(exchange.parts, frames, strict=True):
                channel.send(shard(part.index, len(exchange.parts), channel.aggregators), frame)
                sent += frame.size
            channel.settle()
        except UploadRefused as error:
            raise SiloRefused(
                f"its upload was refused: {error.what}",
                "It was corrupted in transit, or this silo encodes uploads incorrectly (check that "
                "all silos run the same version).",
            ) from None
        cipher.prepare(exchange.chunks)  # for the next upload, while others still send
        return sent

    def receive(
        self,
        exchange: Exchange,
        totals: Sequence[Sequence[pa.Buffer]],
        uploads: Sequence[Any],
        counts: Integers,
    ) -> Iterator[tuple[slice, Integers]]:
        """Yield the summed integers, range by range.

        Args:
            counts: where the summed counts are written, int64 [exchange.counts].
            totals: frames from each aggregator, in the aggregators' order.
            uploads: references to the uploads that each aggregator received, if they are kept.

        Raises:
            TotalRefused: the total is malformed or not the sum of the roster's uploads. This silo
                then gives up its keys.
        """
        keys, cipher, channel = self._ready(exchange)
        frames = [frame for one in totals for frame in one]
        hashing = hash_of(exchange, keys.hashing, self._view)
        try:
            yield from decrypt_parts(exchange, frames, cipher, hashing, counts)
        except EncryptionError as error:
            self._forget()
            drawn = keys.verifier(exchange.roster, exchange.digest) == self._silo
            who = self._cheat(exchange, channel, uploads, frames) if self._keep and drawn else ""
            raise TotalRefused(error.what + who, error.hint) from None
        self._view = hashlib.sha256(self._view + exchange.digest).digest()

    def _cheat(
        self, exchange: Exchange, channel: Channel, uploads: Sequence[Any], frames: list[pa.Buffer]
    ) -> str:
        """Find out who caused a refused total, from the uploads that the silos signed."""
        try:
            sent = (frame for one in uploads for frame in channel.fetch(one))
            sum_again(exchange, sent, frames, self._identities)
        except BlindsumError as error:
            return f" (summed again from the signed uploads: {error.what})"
        return " (it is the sum of the signed uploads: a silo hashed other values than it sent)"

    def require(self, exchange: Exchange) -> None:
        """Raise KeyRefused unless this silo could send to that exchange now."""
        self._ready(exchange)

    def mark(self) -> tuple[bytes, bytes]:
        """Return a mark of everything that this silo accepted so far, for `back_to`."""
        return (self._keys.ceremony if self._keys else b""), self._view

    def back_to(self, mark: tuple[bytes, bytes]) -> None:
        """Forget what was accepted since that mark, unless a new ceremony began meanwhile."""
        if self._keys and self._keys.ceremony == mark[0]:
            self._view = mark[1]

    def _forget(self) -> None:
        self._keys = self._cipher = None

    def _ready(self, exchange: Exchange) -> tuple[Keys, Cipher, Channel]:
        if self._keys is None or self._cipher is None or self._channel is None:
            raise KeyRefused(
                "this silo holds no key: no key ceremony was completed, or a refused total ended "
                "the keys",
                "Start the job again.",
            )
        return self._keys, self._cipher, self._channel
