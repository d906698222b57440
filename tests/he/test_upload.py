"""A vector's whole path: upload in parts, total in parts, and the sum computed again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from blindsum.he.cipher import CkksAdder, CkksCipher, generate_secret_key
from blindsum.he.coefficients import SEED_BYTES
from blindsum.he.exchange import PART_CHUNKS, Exchange
from blindsum.he.identity import Identity
from blindsum.he.linear_hash import HashKey
from blindsum.he.masks import hash_of
from blindsum.he.packing import Integers
from blindsum.he.parameters import Parameters
from blindsum.he.upload import Sum, decrypt_parts, encrypt_parts, sum_again
from blindsum.he.wire import read_upload
from blindsum.platform.errors import EncryptionError, UploadRefused
from tests.he.parties import exchange, pair_seeds, roster

P = Parameters.derive(2, 12)
KEY = HashKey(b"k" * 32)
VALUES = (PART_CHUNKS + 2) * P.values_per_chunk - 5
COUNTS = 5000  # they begin in a chunk with digits, and end in one without


class Sent:
    """Two silos' uploads of two parts each, and the total of an honest aggregator."""

    def __init__(self, folder: Path) -> None:
        self.one: Exchange = exchange(P, VALUES, counts=COUNTS)
        self.counts = np.random.default_rng(1).integers(-(2**38), 2**38, (2, COUNTS))
        self.vectors = np.random.default_rng(0).integers(-900, 901, (2, VALUES))
        self.identities = {name: Identity(folder / name) for name in roster(2)}
        self.public = {name: one.public for name, one in self.identities.items()}
        self.cipher = CkksCipher(P, generate_secret_key())
        seeds = pair_seeds(roster(2))
        self.frames = [
            frame
            for name, vector, counts in zip(roster(2), self.vectors, self.counts, strict=True)
            for frame in encrypt_parts(
                self.one,
                name,
                lambda where, v=vector: v[where],
                lambda c=counts: c,
                self.cipher,
                seeds[name].open(self.one, KEY),
                self.identities[name],
            )
        ]
        self.totals = self.total(self.frames)

    def total(self, frames: list[pa.Buffer], spoil: Any = None) -> list[pa.Buffer]:
        made = Sum(self.one)
        for frame in frames:
            made.add(read_upload(frame, self.one, self.public))
        if spoil:
            spoil(made.adder)
        return [made.frame(part) for part in self.one.parts]

    def parts(self, totals: list[pa.Buffer]) -> Iterator[tuple[slice, Integers]]:
        self.summed = np.zeros(COUNTS, np.int64)
        hashing = hash_of(self.one, KEY)
        return decrypt_parts(self.one, totals, self.cipher, hashing, self.summed)

    def opened(self, totals: list[pa.Buffer]) -> list[tuple[slice, Integers]]:
        return list(self.parts(totals))


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Sent:
    return Sent(tmp_path_factory.mktemp("identities"))


def test_a_vector_of_several_parts_comes_back_summed(sent: Sent) -> None:
    assert len(sent.frames) == 4 and len(sent.totals) == 2
    summed = np.empty(VALUES, np.int64)
    for where, integers in sent.opened(sent.totals):
        summed[where] = integers
    np.testing.assert_array_equal(summed, sent.vectors.sum(axis=0))
    np.testing.assert_array_equal(sent.summed, sent.counts.sum(axis=0))


def test_a_total_that_lacks_a_part_is_refused(sent: Sent) -> None:
    with pytest.raises(UploadRefused, match="part 1 of the total is missing"):
        sent.opened(sent.totals[:1])
    with pytest.raises(UploadRefused, match="more parts"):
        sent.opened([*sent.totals, sent.totals[0]])
    with pytest.raises(UploadRefused, match="more parts"):
        sum_again(sent.one, sent.frames, [*sent.totals, sent.totals[0]], sent.public)
    with pytest.raises(UploadRefused, match="not this part"):
        sent.opened(sent.totals[::-1])


def test_anyone_with_the_uploads_can_sum_them_again(sent: Sent) -> None:
    assert sum_again(sent.one, sent.frames[::-1], sent.totals, sent.public) is None


def test_summing_again_needs_every_upload_once(sent: Sent) -> None:
    with pytest.raises(UploadRefused, match="cannot be summed again"):
        sum_again(sent.one, sent.frames[1:], sent.totals, sent.public)
    with pytest.raises(UploadRefused, match="was received twice"):
        sum_again(sent.one, [*sent.frames, sent.frames[0]], sent.totals, sent.public)


def shift(adder: CkksAdder) -> None:
    """Add a chosen plaintext to the sum. CKKS is malleable: anyone can do so without a key."""
    for first, add in (
        (1000 * P.scale, adder._evaluator.add_inplace),
        (0, adder._evaluator.sub_inplace),  # takes off the second polynomial again
    ):
        words = np.array([first], np.uint64)
        add(adder._sums[0], adder._coefficients.expanded(words, bytes(SEED_BYTES)))


def test_an_aggregator_that_adds_to_the_sum_is_detected(sent: Sent) -> None:
    """Decryption alone does not detect it; the hash does."""
    forged = sent.total(sent.frames, shift)
    parts = sent.parts(forged)
    first = next(parts)[1]
    assert (first != sent.vectors.sum(axis=0)[: first.size]).any()
    with pytest.raises(EncryptionError, match="not the sum of the silos' uploads"):
        list(parts)
    with pytest.raises(UploadRefused, match="not the sum of the uploads"):
        sum_again(sent.one, sent.frames, forged, sent.public)


@pytest.mark.parametrize("which", [[0, 1], [0, 1, 2], [0, 1, 2, 3, 0]])
def test_a_total_of_other_uploads_decrypts_to_nothing(sent: Sent, which: list[int]) -> None:
    """The totals are one silo's upload, one with a part missing and one with a part doubled."""
    forged = sent.total([sent.frames[i] for i in which])
    with pytest.raises(EncryptionError, match="nothing was released"):
        sent.opened(forged)
