"""One upload decrypted with the shared key is noise, and the whole roster's sum is exact."""

import pickle
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from blindsum.he.cipher import CkksAdder, CkksCipher, generate_secret_key
from blindsum.he.masks import MaskStream, PairSeeds
from blindsum.he.packing import Integers, centred, pack, unpack
from blindsum.he.parameters import RING_DEGREE, Parameters
from blindsum.platform.errors import EncryptionError, KeyRefused
from tests.he.parties import bare, exchange, pair_seeds, raw_seeds, roster

CHUNKS = 12


def uniformity(reals: Integers, p: Parameters) -> float:
    """Return the smallest p-value of chi-squared tests that packed reals are uniform in K bits: of
    the highest six bits, the lowest six, and the six where the digits meet."""
    shifted = centred(reals.copy(), p) + (1 << (p.real_bits - 1))
    values = []
    for shift in (p.real_bits - 6, 0, p.summed_bits - 3):
        observed = np.bincount((shifted.ravel() >> shift) & 63, minlength=64)
        values.append(float(stats.chisquare(observed).pvalue))
    return min(values)


def correlation(reals: Integers, packed: Integers) -> float:
    return float(abs(np.corrcoef(reals.ravel(), packed.ravel())[0, 1]))


def opened_upload(masks: MaskStream, p: Parameters) -> tuple[Integers, Integers]:
    """Decrypt one upload as an aggregator with the leaked key could; return it and the original."""
    update = np.random.default_rng(3).normal(0, p.limit / 20, CHUNKS * p.values_per_chunk)
    packed = pack(np.rint(np.clip(update, -p.limit, p.limit)).astype(np.int64), p)
    one = CkksCipher(p, generate_secret_key())
    adder = CkksAdder(p)
    adder.add(0, one.encrypt(packed, masks), packed.size)
    return one.decrypt(adder.total(0, packed.size), packed.size), packed


@pytest.mark.parametrize(("silos", "bits"), [(2, 19), (3, 12), (8, 12)])
def test_an_upload_decrypted_with_the_shared_key_is_uniform_noise(silos: int, bits: int) -> None:
    p = Parameters.derive(silos, bits)
    one = exchange(p, CHUNKS * p.values_per_chunk)
    masks = pair_seeds(one.roster, seed=1)["silo01"].open(one)
    opened, packed = opened_upload(masks, p)
    assert uniformity(opened, p) > 1e-6
    assert correlation(opened, packed) < 5 / np.sqrt(packed.size)


def test_the_same_decryption_of_an_unmasked_upload_gives_the_update() -> None:
    p = Parameters.derive(3, 12)
    opened, packed = opened_upload(bare(p, CHUNKS * RING_DEGREE), p)
    np.testing.assert_array_equal(opened, packed)
    assert uniformity(opened, p) < 1e-100 and correlation(opened, packed) > 0.99


def test_all_other_silos_together_learn_only_the_sum_of_two() -> None:
    p = Parameters.derive(5, 12)
    one = exchange(p, CHUNKS * p.values_per_chunk)
    seeds = raw_seeds(one.roster, seed=2)
    everyone = pair_seeds(one.roster, seed=2)
    random = np.random.default_rng(5)
    vectors = random.integers(-9, 10, (2, one.values))
    honest = one.roster[1], one.roster[3]
    masked = {n: everyone[n].open(one).apply(pack(v, p)) for n, v in zip(honest, vectors)}
    for name in honest:  # what the colluders know of this silo's masks, they take off
        for pair in combinations(one.roster, 2):
            other = next((o for o in pair if o != name), "")
            if name in pair and other not in honest:
                known = PairSeeds(name, {o: seeds[frozenset(pair)] for o in one.roster})
                stripped = _only(known, name, other, one, p)
                masked[name] = centred(masked[name] - stripped, p)
        assert uniformity(masked[name], p) > 1e-6
    total = masked[honest[0]] + masked[honest[1]]
    np.testing.assert_array_equal(unpack(total, one.values, p), vectors.sum(axis=0))


def _only(known: PairSeeds, name: str, other: str, one, p: Parameters) -> Integers:  # type: ignore[no-untyped-def]
    """Return the mask from one pair's seed, as the pair stands in the roster."""
    stream = known.open(one)
    position = [o for o in one.roster if o != name].index(other)
    before = one.roster.index(name)
    kept = stream._subtracted if position < before else stream._added
    index = position if position < before else position - before
    added = [] if position < before else [kept[index]]
    subtracted = [kept[index]] if position < before else []
    reals = CHUNKS * RING_DEGREE
    return MaskStream(p, reals, added, subtracted).apply(np.zeros(reals, np.int64))


@settings(max_examples=40, deadline=None)
@given(
    silos=st.integers(2, 64),
    bits=st.integers(2, 24),
    size=st.integers(1, 20_000),
    seed=st.integers(0, 2**32 - 1),
)
def test_masks_cancel_over_the_whole_roster(silos: int, bits: int, size: int, seed: int) -> None:
    p = Parameters.derive(silos, bits)
    one = exchange(p, size)
    seeds = pair_seeds(one.roster, seed)
    vectors = np.random.default_rng(seed).integers(-p.limit, p.limit + 1, (silos, size))
    total = sum(seeds[n].open(one).apply(pack(v, p)) for n, v in zip(one.roster, vectors))
    np.testing.assert_array_equal(unpack(np.asarray(total), size, p), vectors.sum(axis=0))


@pytest.mark.parametrize("silos", [2, 3, 8, 64])
@pytest.mark.parametrize("values", [2000, 3 * 8192])
def test_a_sum_over_another_roster_is_refused(silos: int, values: int) -> None:
    """If one upload is left out, doubled, or from another attempt, the masks do not cancel."""
    p = Parameters.derive(silos)
    one, other = exchange(p, values), exchange(p, values, attempt=2)
    seeds = pair_seeds(one.roster)
    zeros = np.zeros(values, np.int64)
    uploads = [seeds[name].open(one).apply(pack(zeros, p)) for name in one.roster]
    strange = seeds[one.roster[0]].open(other).apply(pack(zeros, p))
    assert not unpack(np.asarray(sum(uploads)), values, p).any()
    for wrong in (uploads[1:], [*uploads, uploads[0]], [strange, *uploads[1:]]):
        with pytest.raises(EncryptionError, match="not the sum of one upload from each silo"):
            unpack(np.asarray(sum(wrong)), values, p)


def test_every_exchange_has_its_own_streams_and_each_is_returned_once() -> None:
    p = Parameters.derive(3)
    seeds = pair_seeds(roster(3))["silo00"]
    zeros = np.zeros(RING_DEGREE // 4, np.int64)
    one = exchange(p, RING_DEGREE)
    others = [
        exchange(p, change.pop("values", RING_DEGREE), **change)
        for change in (
            {"attempt": 2},
            {"round": 5},
            {"purpose": "metrics"},
            {"clipping": 2.0},
            {"run": "other"},
            {"values": RING_DEGREE + 1},
            {"range": 2.0},
            {"roster": ("silo00", "silo02", "silo01")},
        )
    ]
    masks = [seeds.open(each).apply(zeros).tobytes() for each in (one, *others)]
    assert len(set(masks)) == len(masks)
    for each in (one, *others):
        with pytest.raises(EncryptionError, match="used before"):
            seeds.open(each)
    stream = seeds.open(exchange(p, 2 * zeros.size * p.digits, attempt=9))
    first, second = stream.apply(zeros), stream.apply(zeros)
    assert (first != second).any()
    with pytest.raises(EncryptionError, match="more reals"):
        stream.apply(zeros)


def test_seeds_stay_in_their_silo_and_work_only_for_its_roster() -> None:
    p = Parameters.derive(3)
    seeds = pair_seeds(roster(3))["silo00"]
    with pytest.raises(KeyRefused):
        pickle.dumps(seeds)
    assert "seed" not in repr(seeds).replace("PairSeeds", "")
    for names in (("silo00", "stranger"), ("silo01", "silo02"), ("silo00", "silo00")):
        with pytest.raises(KeyRefused, match="not in the key ceremony"):
            seeds.open(exchange(p, 10, roster=names))
