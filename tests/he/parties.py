"""Silos for the tests of `he`: rosters, mask seeds and exchanges."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import Any

import numpy as np

from blindsum.he.cipher import Adder, Cipher
from blindsum.he.exchange import Exchange
from blindsum.he.masks import MaskStream, PairSeeds
from blindsum.he.packing import Integers, pack
from blindsum.he.parameters import Parameters


def roster(silos: int) -> tuple[str, ...]:
    return tuple(f"silo{i:02}" for i in range(silos))


def raw_seeds(names: Iterable[str], seed: int = 0) -> dict[frozenset[str], bytes]:
    random = np.random.default_rng(seed)
    return {frozenset(pair): random.bytes(32) for pair in combinations(names, 2)}


def pair_seeds(names: tuple[str, ...], seed: int = 0) -> dict[str, PairSeeds]:
    """Return the mask seeds that every silo has after a ceremony."""
    seeds = raw_seeds(names, seed)
    return {
        name: PairSeeds(name, {o: seeds[frozenset((name, o))] for o in names if o != name})
        for name in names
    }


def exchange(p: Parameters, values: int, /, **changes: Any) -> Exchange:
    fields: dict[str, Any] = {
        "run": "run",
        "round": 4,
        "attempt": 1,
        "purpose": "update",
        "roster": roster(p.silos),
        "values": values,
        "range": 1.0,
        "parameters": p,
    }
    return Exchange(**(fields | changes))


def bare(p: Parameters, reals: int) -> MaskStream:
    """Return a stream without masks, to show what an unmasked upload reveals."""
    return MaskStream(p, reals, [], [])


def no_counts() -> Integers:
    return np.zeros(0, np.int64)


def add_all(p: Parameters, vectors: Integers, cipher: Cipher, *adders: Adder) -> None:
    """Mask, encrypt and add every silo's vector, int64 [silos, values]."""
    one = exchange(p, vectors.shape[1])
    seeds = pair_seeds(one.roster)
    for name, vector in zip(one.roster, vectors, strict=True):
        body = cipher.encrypt(pack(vector, p), seeds[name].open(one))
        for adder in adders:
            adder.add(0, body, one.reals)
