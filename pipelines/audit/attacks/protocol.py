"""Attack as a malicious aggregator: it opens, alters, repeats or leaves out uploads.

A consortium of the job's size runs one exchange on made-up integers, with the product's own code
for silos (keys, masks, signatures, frames) and for the aggregator.

    opened, shared-key design   an upload without masks, with the key that all silos share
    opened, Blindsum            the same upload with masks: the result is uniform
    forged                      doubled, dropped, amplified, replayed, altered or added to: the
                                silos or the aggregator refuse it
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats

from blindsum.actors.aggregator import Aggregator
from blindsum.he.cipher import CkksAdder, CkksCipher, generate_secret_key
from blindsum.he.coefficients import SEED_BYTES
from blindsum.he.exchange import Exchange
from blindsum.he.identity import Identity
from blindsum.he.linear_hash import HashKey
from blindsum.he.masks import MaskStream, PairSeeds, hash_of
from blindsum.he.packing import Integers, pack
from blindsum.he.parameters import Parameters
from blindsum.he.upload import Sum, decrypt_parts, encrypt_parts
from blindsum.he.wire import read_upload
from blindsum.pipelines.audit.victim import digits
from blindsum.platform.errors import BlindsumError

VALUES = 1000


class Consortium:
    """Silos that share one key and a seed for each pair, and an aggregator that knows them."""

    def __init__(self, parameters: Parameters, folder: Path) -> None:
        self.parameters = parameters
        self.roster = tuple(f"silo{i:02}" for i in range(parameters.silos))
        random = np.random.default_rng()
        pairs = {frozenset(pair): random.bytes(32) for pair in combinations(self.roster, 2)}
        self.seeds = {
            name: PairSeeds(
                name, {o: pairs[frozenset((name, o))] for o in self.roster if o != name}
            )
            for name in self.roster
        }
        self.identities = {name: Identity(folder / f"{name}.pem") for name in self.roster}
        self.public = {name: one.public for name, one in self.identities.items()}
        self.cipher = CkksCipher(parameters, generate_secret_key())
        self.hashing = HashKey(random.bytes(32))
        self.integers = random.integers(
            -parameters.limit, parameters.limit + 1, (parameters.silos, VALUES)
        )

    def exchange(self, round: int) -> Exchange:
        """Return the exchange of a round over all silos."""
        return Exchange(
            run="audit",
            round=round,
            attempt=1,
            purpose="update",
            roster=self.roster,
            values=VALUES,
            range=1.0,
            parameters=self.parameters,
        )

    def uploads(self, exchange: Exchange) -> list[pa.Buffer]:
        """Return all silos' frames."""
        return [
            frame
            for name, vector in zip(self.roster, self.integers, strict=True)
            for frame in encrypt_parts(
                exchange,
                name,
                vector.__getitem__,
                _no_counts,
                self.cipher,
                self.seeds[name].open(exchange, self.hashing),
                self.identities[name],
            )
        ]

    def aggregator(self, exchange: Exchange) -> Aggregator:
        """Return an aggregator that has opened an exchange."""
        one = Aggregator()
        one.meet(self.public)
        one.open(exchange)
        return one

    def opened(self, exchange: Exchange, totals: list[pa.Buffer]) -> Integers:
        """Return the integers that a silo reads from a total."""
        hashing = hash_of(exchange, self.hashing)
        parts = decrypt_parts(exchange, totals, self.cipher, hashing, _no_counts())
        return np.concatenate([part for _, part in parts])


def _no_counts() -> Integers:
    return np.zeros(0, np.int64)


def refusals(parameters: Parameters) -> dict[str, str]:
    """Try every forgery; return for each the refusal it met, or "" if it was accepted.

    Raises:
        BlindsumError: even the honest sum is wrong.
    """
    with TemporaryDirectory() as folder:
        one = Consortium(parameters, Path(folder))
        first, second = one.exchange(1), one.exchange(2)
        uploads, later = one.uploads(first), one.uploads(second)
        honest = one.opened(first, _forged(one, first, uploads))
        if (honest != one.integers.sum(0)).any():
            # Without a correct honest sum, no result below would mean anything.
            raise BlindsumError("the audit's own sum is wrong")
        tried: dict[str, Callable[[], object]] = {
            "doubled": lambda: one.opened(first, _forged(one, first, [*uploads, uploads[0]])),
            "dropped": lambda: one.opened(first, _forged(one, first, uploads[1:])),
            "replaced by another silo's": lambda: one.opened(
                first, _forged(one, first, [*uploads[:-1], uploads[0]])
            ),
            "amplified": lambda: one.opened(first, _forged(one, first, uploads * 3)),
            "replayed in a later round": lambda: one.aggregator(second).add(uploads[0]),
            "replayed past the aggregator": lambda: one.opened(
                second, _forged(one, second, [*later[1:]], first, uploads[:1])
            ),
            "added to by the aggregator": lambda: one.opened(
                first, _forged(one, first, uploads, adding=True)
            ),
            "sent twice": lambda: [one_.add(later[0]) for one_ in [one.aggregator(second)] * 2],
            "altered by a bit": lambda: one.aggregator(second).add(_flipped(later[0])),
        }
        return {name: _refused(attempt) for name, attempt in tried.items()}


def _refused(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except BlindsumError as error:
        return error.what
    return ""


def _forged(
    one: Consortium,
    exchange: Exchange,
    uploads: list[pa.Buffer],
    other: Exchange | None = None,
    others: list[pa.Buffer] | None = None,
    adding: bool = False,
) -> list[pa.Buffer]:
    """Return a total of the given uploads, by an aggregator that skips all its own checks."""
    made = Sum(exchange)
    for of, frames in ((exchange, uploads), (other or exchange, others or [])):
        for frame in frames:
            made.add(read_upload(frame, of, one.public))
    if adding:  # adding a plaintext needs no key: CKKS is malleable
        adder: Any = made.adder
        for first, add in (
            (1000 * one.parameters.scale, adder._evaluator.add_inplace),
            (0, adder._evaluator.sub_inplace),  # takes off the second polynomial again
        ):
            words = np.array([first], np.uint64)
            add(adder._sums[0], adder._coefficients.expanded(words, bytes(SEED_BYTES)))
    return [made.frame(part) for part in exchange.parts]


def _flipped(frame: pa.Buffer) -> pa.Buffer:
    content = bytearray(frame.to_pybytes())
    content[len(content) // 2] ^= 1
    return pa.py_buffer(bytes(content))


def opened_with_shared_key(parameters: Parameters) -> tuple[float, float]:
    """Return the shares of one upload's integers that a leaked key opens: unmasked and masked."""
    with TemporaryDirectory() as folder:
        one = Consortium(parameters, Path(folder))
        exchange = one.exchange(1)
        integers, rows = one.integers[0], pack(one.integers[0], parameters)
        masks = {
            "none": MaskStream(parameters, exchange.reals, [], []),
            "masked": one.seeds[one.roster[0]].open(exchange),
        }
        shares = []
        for stream in masks.values():
            adder = CkksAdder(parameters)
            adder.add(0, one.cipher.encrypt(rows, stream), exchange.reals)
            opened = one.cipher.decrypt(adder.total(0, exchange.reals), exchange.reals)
            shares.append(float((digits(opened, parameters)[:VALUES] == integers).mean()))
        return shares[0], shares[1]


def uniformity(parameters: Parameters) -> float:
    """Return the Kolmogorov-Smirnov p-value for the uniformity of one masked upload's reals."""
    with TemporaryDirectory() as folder:
        one = Consortium(parameters, Path(folder))
        exchange = one.exchange(1)
        adder = CkksAdder(parameters)
        stream = one.seeds[one.roster[0]].open(exchange)
        packed = pack(one.integers[0], parameters)
        adder.add(0, one.cipher.encrypt(packed, stream), exchange.reals)
        reals = one.cipher.decrypt(adder.total(0, exchange.reals), exchange.reals)
        scaled = reals / 2.0**parameters.real_bits + 0.5
        return float(stats.kstest(scaled, "uniform").pvalue)
