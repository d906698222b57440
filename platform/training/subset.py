"""A round's random subset: the parameters that train and travel in that round.

With `training.subset` below 1, only so many of the parameters change in a round. Which ones is
public and the same in all silos: the subset follows from the digest of the terms on which all silos
agreed, and from the round. It never depends on a silo's data or on a seed of its own: silos add
values by their position, and under differential privacy the choice of the coordinates must not
depend on a record (docs/privacy.md).

Every GROUP parameters have the same number of chosen ones, so that the size of an update is known
without drawing. Of a group, those are chosen whose 64-bit words of a ChaCha20 stream are the least:
each parameter with the same probability, independently of other rounds. Random masks for updates:
Konecny, McMahan, Yu, Richtarik, Suresh and Bacon, "Federated learning: strategies for improving
communication efficiency", 2016, section 2.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from blindsum.platform.training.vector import Vector, put_away

GROUP = 1 << 16
_PUT_AWAY = 16  # groups


def chosen_count(parameters: int, share: float) -> int:
    """Return how many of a model's parameters change in a round, at least one of every group."""
    whole, rest = divmod(parameters, GROUP)
    return whole * _of_group(GROUP, share) + (_of_group(rest, share) if rest else 0)


def _of_group(size: int, share: float) -> int:
    return max(1, math.ceil(size * share))


class Subset:
    """The parameters that change in one round.

    Args:
        terms: digest of everything on which all silos agreed.
        parameters: the number of the model's parameters.
        share: the share of them that changes, above 0 and at most 1.
    """

    def __init__(self, terms: str, round: int, parameters: int, share: float) -> None:
        self._parameters, self.size = parameters, chosen_count(parameters, share)
        key = hashlib.sha256(f"blindsum subset\0{terms}\0{round}".encode()).digest()
        stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
        self._groups: list[npt.NDArray[np.uint16]] = []
        for start in range(0, parameters, GROUP):
            size = min(GROUP, parameters - start)
            words = np.frombuffer(stream.update(bytes(8 * size)), "<u8")
            count = _of_group(size, share)
            greatest = np.partition(words, count - 1)[count - 1]
            self._groups.append(np.flatnonzero(words <= greatest)[:count].astype(np.uint16))

    def groups(self, *mapped: npt.NDArray[Any]) -> Iterator[tuple[npt.NDArray[np.int64], slice]]:
        """Yield the places of the chosen parameters in the model's vector, int64, in order and some
        at a time, each with their range among all chosen ones.

        Args:
            mapped: vectors that are read or written there, as of
                `blindsum.platform.training.vector_room.blocks`.
        """
        done = 0
        for number, chosen in enumerate(self._groups):
            yield number * GROUP + chosen.astype(np.int64), slice(done, done + chosen.size)
            done += chosen.size
            if number % _PUT_AWAY == 0:
                put_away(*mapped)
        put_away(*mapped)

    def of(self, vector: Vector) -> Vector:
        """Return the chosen values of a vector, float32 [size]."""
        found = np.empty(self.size, np.float32)
        for where, at in self.groups(vector):
            found[at] = vector[where]
        return found

    def mask(self) -> npt.NDArray[np.bool_]:
        """Return whether each parameter is chosen, bool [parameters]."""
        found = np.zeros(self._parameters, np.bool_)
        for where, _ in self.groups():
            found[where] = True
        return found
