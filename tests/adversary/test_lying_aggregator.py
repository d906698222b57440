"""A lying aggregator: every silo refuses every altered total, in the same exchange."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from blindsum.he import masks as masks_module
from blindsum.he.coefficients import SEED_BYTES, read_words, write_words
from blindsum.he.exchange import Exchange
from blindsum.he.linear_hash import LinearHash, added
from blindsum.he.packing import pack
from blindsum.he.parameters import PRIME, RING_DEGREE
from blindsum.he.upload import Sum
from blindsum.he.wire import read_total, read_upload, write_total
from blindsum.platform.errors import FederationError, KeyRefused, TotalRefused
from blindsum.platform.job.file import JobFile
from tests.actors.test_silo import NO_NOISE, Consortium, Totals
from tests.conftest import MakeJob, ledger_of

LARGE = "model={kind: mlp, hidden: [4100]}"  # several chunks


class Lie:
    """An aggregator between a consortium's silos: it checks uploads, and then does as it likes."""

    def __init__(
        self, consortium: Consortium, exchange: Exchange, uploads: list[pa.Buffer]
    ) -> None:
        self.consortium, self.exchange, self.sum = consortium, exchange, Sum(exchange)
        public = consortium.aggregator._identities
        self.read = [read_upload(frame, exchange, public) for frame in uploads]

    def all(self) -> Sum:
        for upload in self.read:
            self.sum.add(upload)
        return self.sum

    def frames(self) -> Totals:
        return [[self.sum.frame(part) for part in self.exchange.parts]]

    def add_plain(self, reals: np.ndarray) -> None:
        """Add packed reals, int64, of its own choice: that takes no key."""
        adder: Any = self.sum.adder
        for chunk in range(-(-reals.size // RING_DEGREE)):
            row = reals[chunk * RING_DEGREE : (chunk + 1) * RING_DEGREE]
            words = (row * self.exchange.parameters.scale % PRIME).astype(np.uint64)
            for first, add in (
                (words, adder._evaluator.add_inplace),
                (words[:0], adder._evaluator.sub_inplace),  # takes off the second polynomial again
            ):
                add(adder._sums[chunk], adder._coefficients.expanded(first, bytes(SEED_BYTES)))


def adds_to_the_first_polynomial(lie: Lie) -> Totals:
    lie.all()
    reals = np.zeros(lie.exchange.reals, np.int64)
    reals[7] = 1
    lie.add_plain(reals)
    return lie.frames()


def adds_to_the_second_polynomial(lie: Lie) -> Totals:
    """The constant polynomial, by as much as moves reals by about a unit."""
    lie.all()
    (frames,) = lie.frames()
    part = lie.exchange.parts[0]
    body, check = read_total(frames[0], lie.exchange, part)
    altered, words = body.copy(), lie.exchange.parameters.words
    start = RING_DEGREE * words.first
    second = altered[start : start + RING_DEGREE * words.second]
    y = lie.exchange.parameters.scale
    shifted = (read_words(second, words.second).astype(object) + y) % PRIME
    write_words(shifted.astype(np.uint64), words.second, second)
    return [[write_total(lie.exchange, part, altered, check), *frames[1:]]]


def doubles(lie: Lie) -> Totals:
    adder: Any = lie.all().adder
    for ciphertext in adder._sums.values():
        adder._evaluator.add_inplace(ciphertext, ciphertext)
    lie.sum.words = added(lie.sum.words, lie.sum.words)
    return lie.frames()


def drops_an_upload(lie: Lie) -> Totals:
    for upload in lie.read[1:]:
        lie.sum.add(upload)
    return lie.frames()


def swaps_chunks(lie: Lie) -> Totals:
    adder: Any = lie.all().adder
    adder._sums[0], adder._sums[1] = adder._sums[1], adder._sums[0]
    return lie.frames()


def alters_the_words(lie: Lie) -> Totals:
    lie.all().words = added(lie.sum.words, (1, 0))
    return lie.frames()


def replays_an_older_total(lie: Lie) -> Totals:
    """The ciphertexts and words of the round before, under this exchange's name."""
    (older,) = lie.consortium.__dict__["kept"]
    return [
        [
            write_total(lie.exchange, part, *read_total(frame, of, part))
            for part, (of, frame) in zip(lie.exchange.parts, older, strict=True)
        ]
    ]


ATTACKS = (
    adds_to_the_first_polynomial,
    adds_to_the_second_polynomial,
    doubles,
    drops_an_upload,
    swaps_chunks,
    alters_the_words,
    replays_an_older_total,
)
UNSEEN_BY_DECRYPTION = (adds_to_the_first_polynomial, swaps_chunks, alters_the_words)
"""What passes every other check of the decryptor, and so shows what the hash is for."""


def second_round(job_file: JobFile) -> tuple[Consortium, Exchange, list[pa.Buffer]]:
    consortium = Consortium(job_file)
    exchange = consortium.exchange(1)
    total = consortium.sum(exchange, consortium.train(exchange))
    consortium.__dict__["kept"] = [[(exchange, frame) for frame in total[0]]]
    consortium.apply(exchange, total)
    (consortium.model,) = {silo._model.digest for silo in consortium.silos.values()}
    exchange = consortium.exchange(2)
    return consortium, exchange, consortium.train(exchange)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_every_silo_refuses_an_altered_total_and_gives_up_its_keys(
    make_job: MakeJob, tmp_path: Path, attack: Callable[[Lie], Totals]
) -> None:
    consortium, exchange, uploads = second_round(make_job(LARGE))
    forged = attack(Lie(consortium, exchange, uploads))
    following = consortium.exchange(2, 2)
    for name, silo in consortium.silos.items():
        before = silo._model.vector.copy()
        with pytest.raises(TotalRefused, match="nothing was released|is not the sum"):
            silo.apply(exchange, [], *forged)
        np.testing.assert_array_equal(silo._model.vector, before)
        charged = len(ledger_of(tmp_path / "state" / name, name).entries())
        with pytest.raises(KeyRefused, match="holds no key"):
            silo.train(following)  # a driver that goes on regardless
        assert len(ledger_of(tmp_path / "state" / name, name).entries()) == charged
        said = b"".join(p.read_bytes() for p in (tmp_path / "state" / name).glob("audit.sqlite*"))
        assert b"TotalRefused" in said
    consortium.exchange_keys()
    consortium.round(2, attempt=3)


@pytest.mark.parametrize("attack", UNSEEN_BY_DECRYPTION, ids=lambda attack: attack.__name__)
def test_without_the_hash_those_attacks_succeed(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, attack: Callable[[Lie], Totals]
) -> None:
    consortium, exchange, uploads = second_round(make_job(LARGE))
    forged = attack(Lie(consortium, exchange, uploads))
    monkeypatch.setattr(LinearHash, "holds", lambda self, words: True)
    before = consortium.models()[0].copy()
    consortium.apply(exchange, forged)
    assert (consortium.models()[0] != before).any(), "a total that nobody sent was applied"


@pytest.mark.parametrize("checked", [True, False])
def test_no_model_is_planted_in_the_first_round(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, checked: bool
) -> None:
    """Initial weights are public, so the aggregator knows what to add for a model of its choice."""
    consortium = Consortium(make_job(NO_NOISE, "training.learning_rate=0.01"))
    exchange = consortium.exchange(1)
    lie = Lie(consortium, exchange, consortium.train(exchange))
    lie.all()
    start = consortium.models()[0]
    moved = np.sign(np.sin(np.arange(start.size) * 1.7)) * 0.4
    unit = (exchange.range or 1.0) / exchange.parameters.limit
    integers = np.rint(moved / unit).astype(np.int64)
    for _ in exchange.roster:  # the total is divided by so many
        lie.add_plain(pack(integers, exchange.parameters))
    if not checked:
        monkeypatch.setattr(LinearHash, "holds", lambda self, words: True)
        consortium.apply(exchange, lie.frames())
        assert np.corrcoef(consortium.models()[0] - start, moved)[0, 1] > 0.95
        return
    forged = lie.frames()
    for silo in consortium.silos.values():
        with pytest.raises(TotalRefused, match="not the sum of the silos' uploads"):
            silo.apply(exchange, [], *forged)


@pytest.mark.parametrize("checked", [True, False])
def test_the_metrics_total_is_checked_as_well(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, checked: bool
) -> None:
    consortium = Consortium(make_job())
    consortium.round(1)
    counts = consortium.counts(2)
    lie = Lie(consortium, counts, consortium.train(counts))
    forged = adds_to_the_first_polynomial(lie)
    for silo in consortium.silos.values():
        if checked:
            with pytest.raises(TotalRefused, match="not the sum of the silos' uploads"):
                silo.read_metrics(counts, [], *forged)
        else:
            monkeypatch.setattr(LinearHash, "holds", lambda self, words: True)
            with pytest.raises(FederationError, match="at least one silo lies about its own"):
                silo.read_metrics(counts, [], *forged)


def test_what_one_silo_alone_is_shown_ends_at_that_silo(make_job: MakeJob) -> None:
    """The others cannot go on without it: nothing opens that lacks its upload."""
    consortium, exchange, uploads = second_round(make_job(LARGE))
    honest = consortium.sum(exchange, uploads)
    (frames,) = honest
    body, words = read_total(frames[-1], exchange, exchange.parts[-1])
    altered = write_total(exchange, exchange.parts[-1], body, added(words, (0, 1)))
    victim, *others = consortium.silos.values()
    with pytest.raises(TotalRefused):
        victim.apply(exchange, [], [*frames[:-1], altered])
    for silo in others:
        silo.apply(exchange, [], *honest)
    (consortium.model,) = {silo._model.digest for silo in others}
    following = consortium.exchange(3)
    for silo in others:
        silo.train(replace(following, range=silo._own.policy.course.range))
    lie = Lie(consortium, following, [frame for silo in others for _, frame in silo.taken()])
    lie.all()
    forged = lie.frames()
    for silo in others:
        with pytest.raises(TotalRefused):
            silo.apply(following, [], *forged)


@pytest.mark.parametrize("bound", [True, False])
def test_nothing_opens_between_silos_that_were_shown_different_things(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, bound: bool
) -> None:
    """A driver keeps the metrics' total from one silo, and goes on as if nothing were."""
    if not bound:
        salt = masks_module.salt_of
        monkeypatch.setattr(masks_module, "salt_of", lambda exchange, view: salt(exchange, b""))
    consortium = Consortium(make_job(NO_NOISE, "encryption.adapt_range=false"))
    consortium.round(1)
    counts = consortium.counts(2)
    counted = consortium.sum(counts, consortium.train(counts))
    for silo in list(consortium.silos.values())[1:]:
        silo.read_metrics(counts, [], *counted)
    exchange = consortium.exchange(2, attempt=2)
    total = consortium.sum(exchange, consortium.train(exchange))
    if not bound:
        consortium.apply(exchange, total)
        return
    for silo in consortium.silos.values():
        with pytest.raises(TotalRefused):
            silo.apply(exchange, [], *total)
