"""Encryptions of zero under one secret key. They depend on no data, so that a thread can make them
while a silo waits for others: a silo that then sends has only to add what it sends."""

from __future__ import annotations

import time
import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tenseal.sealapi as seal

from blindsum.he.coefficients import Coefficients, Words, make_context

MOST_READY = 256
"""The most encryptions that are kept: 8 MB."""

_PAUSE_S = 1e-4  # SEAL holds the interpreter's lock: another thread takes it in a pause

_THREAD = ThreadPoolExecutor(1, "blindsum-zeros")

Zero = tuple[Words, bytes]
"""Coefficients of a first polynomial, uint64 [N], and the seed of the second."""


class Zeros:
    """Encryptions of zero, each returned once: one that was used twice would reveal a difference.

    Args:
        key: SEAL's secret key, serialised.
    """

    def __init__(self, key: bytes) -> None:
        self._key, self._here = key, _Maker(key)
        self._there: _Maker | None = None
        self._ready: deque[Zero] = deque()
        self._wanted, self._at_work = 0, False

    def take(self) -> Zero:
        """Return an encryption of zero, and forget it."""
        try:
            return self._ready.pop()
        except IndexError:
            first, second = self._here.pair()
            self._ready.append(second)
            return first

    def make_ahead(self, count: int) -> None:
        """Begin to make encryptions, so that at most so many are ready, and return at once."""
        self._wanted = min(count, MOST_READY)
        if not self._at_work:
            self._at_work = True
            _THREAD.submit(_fill, weakref.ref(self))


def _fill(of: weakref.ref[Zeros]) -> None:
    """Make encryptions until enough are ready, or nobody holds the key any more."""
    while zeros := of():
        if len(zeros._ready) >= zeros._wanted:
            zeros._at_work = False
            return
        # SEAL's objects and their buffers are used by one thread only.
        zeros._there = zeros._there or _Maker(zeros._key)
        zeros._ready.extend(zeros._there.pair())
        del zeros
        time.sleep(_PAUSE_S)


class _Maker:
    def __init__(self, key: bytes) -> None:
        context = make_context()
        self._coefficients = Coefficients(context)
        self._encryptor = seal.Encryptor(context, self._coefficients.load_key(key))

    def pair(self) -> tuple[Zero, Zero]:
        made: list[Any] = [self._encryptor.encrypt_zero_symmetric() for _ in range(2)]
        (first, seed), (second, other_seed) = map(self._coefficients.fresh, made)
        first, second = self._coefficients.to_coefficients(first, second)
        return (first, seed), (second, other_seed)
