"""The aggregator that does not keep to its part: it opens, alters, repeats, leaves out.

A consortium of the job's size runs one exchange with the product's own silos' half (keys, masks,
signatures, frames) and its own aggregator's, on made-up integers.

    opened in the shared-key design    with the key that all silos share, and no masks
    opened here                        the same upload, masked: uniform
    doubled, dropped, amplified, replayed, altered, added to    what the silos, or the aggregator, refuse
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import tenseal.sealapi as seal
from scipy import stats

from blindsum.actors.aggregator import Aggregator
from blindsum.he.cipher import CkksAdder, CkksCipher, generate_secret_key
from blindsum.he.coefficients import make_context
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
    """Silos with one key, seeds for each pair, and an aggregator that has met them."""

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
        return Exchange("audit", round, 1, "update", self.roster, VALUES, 1.0, self.parameters)

    def uploads(self, exchange: Exchange) -> list[pa.Buffer]:
        """Every silo's frame."""
        return [
            frame
            for name, vector in zip(self.roster, self.integers, strict=True)
            for frame in encrypt_parts(
                exchange,
                name,
                vector.__getitem__,
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
        """What a silo reads from a total."""
        hashing = hash_of(exchange, self.hashing)
        parts = decrypt_parts(exchange, totals, self.cipher, hashing)
        return np.concatenate([part for _, part in parts])


def refusals(parameters: Parameters) -> dict[str, str]:
    """What was tried against the sum, and the refusal that answered; empty where nothing did."""
    with TemporaryDirectory() as folder:
        one = Consortium(parameters, Path(folder))
        first, second = one.exchange(1), one.exchange(2)
        uploads, later = one.uploads(first), one.uploads(second)
        honest = one.opened(first, _forged(one, first, uploads))
        if (honest != one.integers.sum(0)).any():
            raise BlindsumError("the audit's own sum is wrong")  # nothing else would mean anything
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
    """A total of whatever uploads, by an aggregator that skips every check of its own."""
    made = Sum(exchange)
    for of, frames in ((exchange, uploads), (other or exchange, others or [])):
        for frame in frames:
            made.add(read_upload(frame, of, one.public))
    if adding:  # a plaintext, which takes no key: CKKS is malleable
        adder: Any = made.adder
        plain = seal.Plaintext()
        seal.CKKSEncoder(make_context()).encode(1000.0, float(one.parameters.scale), plain)
        adder._evaluator.add_plain_inplace(adder._sums[0], plain)
    return [made.frame(part) for part in exchange.parts]


def _flipped(frame: pa.Buffer) -> pa.Buffer:
    content = bytearray(frame.to_pybytes())
    content[len(content) // 2] ^= 1
    return pa.py_buffer(bytes(content))


def opened_with_shared_key(parameters: Parameters) -> tuple[float, float]:
    """Shares of one upload's integers that the leaked key gives: without masks, and with them."""
    with TemporaryDirectory() as folder:
        one = Consortium(parameters, Path(folder))
        exchange = one.exchange(1)
        integers, rows = one.integers[0], pack(one.integers[0], parameters)
        masks = {
            "none": MaskStream(parameters, exchange.chunks, [], []),
            "masked": one.seeds[one.roster[0]].open(exchange),
        }
        shares = []
        for stream in masks.values():
            adder = CkksAdder(parameters)
            adder.add(0, one.cipher.encrypt(rows, stream))
            opened = one.cipher.decrypt(adder.total(0, exchange.chunks))
            shares.append(float((digits(opened, parameters)[:VALUES] == integers).mean()))
        return shares[0], shares[1]


def uniformity(parameters: Parameters) -> float:
    """Kolmogorov and Smirnov's p for the reals of one masked upload to be uniform in K bits."""
    with TemporaryDirectory() as folder:
        one = Consortium(parameters, Path(folder))
        exchange = one.exchange(1)
        adder = CkksAdder(parameters)
        stream = one.seeds[one.roster[0]].open(exchange)
        adder.add(0, one.cipher.encrypt(pack(one.integers[0], parameters), stream))
        reals = one.cipher.decrypt(adder.total(0, exchange.chunks)).ravel()
        scaled = reals / 2.0**parameters.real_bits + 0.5
        return float(stats.kstest(scaled, "uniform").pvalue)
