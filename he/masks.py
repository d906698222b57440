"""Pairwise one-time masks: they hide an upload from anyone with the shared secret key.

Silos i < j share a seed to which both contributed (`blindsum.he.keys`). For one exchange

    key    = HKDF-SHA256(seed, salt of the exchange, info)                   RFC 5869
    stream = ChaCha20(key), one 64-bit word for each packed real              RFC 8439
             (after two that hide the upload's hash: `blindsum.he.linear_hash`)

Silo i adds the stream's words to its packed reals mod 2^K, and j subtracts them. The reals of one
upload are then uniform in K bits to anyone who lacks one of its silo's seeds, even with the secret
key. The sum over the whole roster, mod 2^K, is the sum of the reals (Bonawitz et al., "Practical
secure aggregation", CCS 2017, section 4, on a complete graph). An aggregator that colludes with all
but two silos learns the sum of those two and nothing else.

A stream used twice would reveal the difference of two updates. The exchange's digest covers run,
round, attempt, purpose and roster, and `PairSeeds.open` returns each stream once. The salt covers
the digest and everything that the silo accepted before (`view`): if two silos were shown anything
different, their masks do not cancel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from blindsum.he.exchange import Exchange
from blindsum.he.linear_hash import (
    NO_WORDS,
    PRIME,
    HashKey,
    LinearHash,
    Words,
    added,
    keystream,
    next_words,
)
from blindsum.he.packing import Integers, centred
from blindsum.he.parameters import RING_DEGREE, Parameters
from blindsum.platform.errors import EncryptionError, KeyRefused

SEED_BYTES = 32
_WORD = 8


class PairSeeds:
    """One silo's seeds, by the other silo's name. Cannot be pickled or printed."""

    def __init__(self, silo: str, seeds: Mapping[str, bytes]) -> None:
        self._silo = silo
        self._seeds = dict(seeds)
        self._opened: set[bytes] = set()

    def open(self, exchange: Exchange, key: HashKey | None = None, view: bytes = b"") -> MaskStream:
        """Return the masks of this silo's upload to that exchange. Each is returned once only.

        Args:
            key: the key of the hash of the masked reals; without one they are not hashed.
            view: digest of everything that this silo accepted before in the run.

        Raises:
            KeyRefused: a silo of the roster has no seed here, or this silo is not in the roster.
            EncryptionError: the masks of this exchange were returned before.
        """
        others = [name for name in exchange.roster if name != self._silo]
        if len(others) + 1 != len(exchange.roster) or not set(others) <= set(self._seeds):
            raise KeyRefused(
                "the roster names silos that were not in the key ceremony",
                "Start the job again.",
            )
        if exchange.digest in self._opened:
            raise EncryptionError(
                "the masks of this exchange were used before; nothing was sent",
                "Every attempt needs a new number.",
            )
        self._opened.add(exchange.digest)
        mine = exchange.roster.index(self._silo)
        salt = salt_of(exchange, view)
        hashing = hash_of(exchange, key, view) if key else None
        words = NO_WORDS if mine or hashing is None else hashing.offset
        plus: list[Any] = []
        minus: list[Any] = []
        for name in others:
            first = mine < exchange.roster.index(name)
            stream = keystream(self._seeds[name], salt, b"blindsum mask")
            pads = next_words(stream)  # the rest of the stream masks the reals
            words = added(words, tuple(pad if first else PRIME - pad for pad in pads))
            (plus if first else minus).append(stream)
        return MaskStream(exchange.parameters, exchange.reals, plus, minus, hashing, words)

    def __reduce__(self) -> str:
        raise KeyRefused("mask seeds were about to be pickled", "They never leave their silo.")


class MaskStream:
    """The masks of one upload's packed reals, from the first to the last. Every word is used once.

    Args:
        reals: the number of the upload's reals.
        hashing: the hash of the masked reals, if they are hashed.
        words: the words that hide the hash.
    """

    def __init__(
        self,
        parameters: Parameters,
        reals: int,
        added: list[Any],
        subtracted: list[Any],
        hashing: LinearHash | None = None,
        words: Words = NO_WORDS,
    ) -> None:
        self._parameters, self._left = parameters, reals
        self._hashing, self._offset = hashing, words
        self._added, self._subtracted = added, subtracted
        self._zeros = memoryview(bytes(_WORD * RING_DEGREE))
        self._bytes = bytearray(_WORD * RING_DEGREE)
        self._words = np.frombuffer(self._bytes, "<u8")

    def apply(self, reals: Integers) -> Integers:
        """Mask the next reals; returns them mod 2^K and centred, int64 [reals].

        Raises:
            EncryptionError: there are more reals than the exchange has.
        """
        self._left -= len(reals)
        if self._left < 0:
            raise EncryptionError("more reals were to be masked than the exchange has")
        masked = reals.astype(np.int64)
        for start in range(0, len(masked), RING_DEGREE):  # so that buffers stay in the cache
            row = masked[start : start + RING_DEGREE].view(np.uint64)
            for stream in self._added:
                row += self._next(stream, len(row))
            for stream in self._subtracted:
                row -= self._next(stream, len(row))
        found = centred(masked, self._parameters)
        self.hash(found)
        return found

    def hash(self, reals: Integers) -> None:
        """Hash the uploaded reals. `apply` does this itself; without encryption the caller does."""
        if self._hashing:
            self._hashing.add(reals)

    @property
    def words(self) -> Words:
        """The hidden hash of the whole upload. Raises EncryptionError while reals are missing."""
        return added(self._hashing.words, self._offset) if self._hashing else self._offset

    def _next(self, stream: Any, count: int) -> np.ndarray[Any, Any]:
        stream.update_into(self._zeros[: _WORD * count], self._bytes)
        return self._words[:count]


def salt_of(exchange: Exchange, view: bytes) -> bytes:
    """Return the salt from which masks and hash of an exchange are derived, 32 bytes."""
    return hashlib.sha256(exchange.digest + view).digest()


def hash_of(exchange: Exchange, key: HashKey, view: bytes = b"") -> LinearHash:
    """Return a fresh hash of that exchange's total, for a silo with the secret and that view."""
    return LinearHash(key, salt_of(exchange, view), exchange.reals)
