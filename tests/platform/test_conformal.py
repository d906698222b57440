"""Conformal predictions keep their promise, and positives at the top are counted as elsewhere."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit.ML.Scoring import Scoring

from blindsum.platform.evaluation.conformal import (
    PARTS,
    conformal,
    dealt,
    least_of_share,
    p_values,
)
from blindsum.platform.evaluation.enrichment import bedroc, enrichment
from blindsum.platform.evaluation.figures import SIGNIFICANCE
from blindsum.platform.evaluation.intervals import TOPS, of_figure

Reals = npt.NDArray[np.float64]


def drawn(random: np.random.Generator, positives: int, negatives: int, apart: float) -> Reals:
    """Logits of so many positives, and then of negatives."""
    centers = np.repeat([apart, 0.0], [positives, negatives])
    return random.normal(centers, 1.0)


def labels(positives: int, negatives: int) -> Reals:
    return np.repeat([1.0, 0.0], [positives, negatives])


@settings(max_examples=60, deadline=None)
@given(
    of=st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=40),
    parts=st.integers(2, 12),
)
def test_p_values_are_those_of_the_definition(of: list[tuple[bool, int]], parts: int) -> None:
    """Compared with a loop over records; whole logits give ties."""
    true, said = (np.array(one, np.float64) for one in zip(*of, strict=True))
    part = dealt(true.astype(np.int64), parts)
    found = p_values(true, said, part)
    for i in range(len(true)):
        for label, sign in ((0, -1), (1, 1)):
            others = sign * said[(part != part[i]) & (true == label)]
            worse = (others <= sign * said[i]).sum()
            assert found[i, label] == pytest.approx((worse + 1) / (len(others) + 1))


@given(true=st.lists(st.booleans(), min_size=2, max_size=60), parts=st.integers(2, 10))
def test_every_part_has_its_share_of_each_class(true: list[bool], parts: int) -> None:
    classes = np.array(true, np.int64)
    for label in (0, 1):
        counts = np.bincount(dealt(classes, parts)[classes == label], minlength=parts)
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("apart", [-0.5, 0.0, 1.0, 3.0])
@pytest.mark.parametrize(("positives", "negatives"), [(5, 60), (12, 9), (25, 400)])
@pytest.mark.parametrize("grain", [None, 1.0])
def test_sets_are_valid_for_each_class_whatever_the_model(
    apart: float, positives: int, negatives: int, grain: float | None
) -> None:
    """On exchangeable records, however few there are, of a rare class too, with ties, and even of a
    model that is worse than guessing. This fails if classes are calibrated together."""
    random, runs = np.random.default_rng(1), 150
    true, covered = labels(positives, negatives), np.zeros((runs, 2))
    for run in range(runs):
        said = drawn(random, positives, negatives, apart)
        if grain:
            said = np.round(said / grain) * grain
        order = random.permutation(len(true))
        one = conformal(true[order], said[order])
        covered[run] = one.covered_positives / positives, one.covered_negatives / negatives
    errors = covered.std(axis=0) / runs**0.5
    assert (covered.mean(axis=0) >= 1 - SIGNIFICANCE - 3 * errors - 1e-9).all()


def test_sets_are_valid_for_records_that_calibrated_nothing() -> None:
    """Calibrated on 30 positives and 90 negatives, for others with another share of positives."""
    random, covered = np.random.default_rng(2), []
    true = np.concatenate([labels(30, 90), labels(50, 50)])
    part = np.repeat([0, 1], [120, 100])
    for _ in range(200):
        said = np.concatenate([drawn(random, 30, 90, 1.0), drawn(random, 50, 50, 1.0)])
        sets = p_values(true, said, part)[120:] > SIGNIFICANCE
        covered.append((sets[:50, 1].mean(), sets[50:, 0].mean()))
    assert np.mean(covered, axis=0) == pytest.approx([0.805, 0.802], abs=0.02)


def test_a_better_model_tells_more_records_apart_until_it_errs_less_than_it_may() -> None:
    random, true = np.random.default_rng(3), labels(2000, 4000)
    found = [conformal(true, drawn(random, 2000, 4000, a)) for a in (0.0, 0.8, 1.6, 8.0)]
    guessing, fair, good, perfect = (one.efficiency for one in found)
    assert guessing == pytest.approx(2 * SIGNIFICANCE, abs=0.02)
    assert guessing < fair < good and good > 0.95
    assert (perfect, found[3].empty) == pytest.approx((0.8, 0.2), abs=0.01)
    assert found[0].empty == 0


@pytest.mark.parametrize("apart", [0.3, 1.0, 1.5, 2.5])
@pytest.mark.parametrize(("positives", "negatives"), [(8, 60), (40, 60), (20, 300)])
def test_intervals_of_the_efficiency_cover_it(apart: float, positives: int, negatives: int) -> None:
    """The mean of all draws, which has its calibration in it; at least 91 of 100, and 85 where sets
    begin to be empty."""
    random, true, runs = np.random.default_rng(4), labels(positives, negatives), 300
    found, ends = [], []
    for _ in range(runs):
        one = conformal(true, drawn(random, positives, negatives, apart))
        least = least_of_share(one.efficiency, len(true))
        variance = max(float((one.influence**2).sum()), least)
        found.append(one.efficiency)
        ends.append(
            of_figure("conformal_efficiency", one.efficiency, variance, positives, negatives)
        )
    center = np.mean(found)
    assert np.mean([low <= center <= high for low, high in ends]) >= (0.91 if apart < 2 else 0.85)


def test_few_records_without_an_error_are_no_certainty() -> None:
    assert least_of_share(1.0, 20) == least_of_share(0.0, 20) > 0 == least_of_share(0.5, 20)


@settings(max_examples=60, deadline=None)
@given(positives=st.integers(2, 40), negatives=st.integers(2, 200), seed=st.integers(0, 10**6))
def test_enrichment_and_bedroc_are_rdkit_s(positives: int, negatives: int, seed: int) -> None:
    true = labels(positives, negatives)
    said = drawn(np.random.default_rng(seed), positives, negatives, 1.0)
    ranked = [[one] for one in true[np.argsort(-said)]]
    assert bedroc(true, said)[0] == pytest.approx(Scoring.CalcBEDROC(ranked, 0, 20.0), abs=1e-9)
    for top in TOPS.values():
        (theirs,) = Scoring.CalcEnrichment(ranked, 0, [top])
        assert enrichment(true, said, top)[0] == pytest.approx(theirs)


def test_equal_scores_count_as_in_a_random_order() -> None:
    random, true = np.random.default_rng(5), labels(20, 180)
    said = np.round(drawn(random, 20, 180, 1.0) * 2) / 2
    for figure in (bedroc, lambda t, s: enrichment(t, s, 0.05)):
        drawn_ = [figure(true, said + random.random(200) * 1e-6)[0] for _ in range(3000)]
        assert figure(true, said)[0] == pytest.approx(np.mean(drawn_), rel=0.03)
    assert enrichment(true, np.zeros(200), 0.05)[0] == pytest.approx(1.0)


@pytest.mark.parametrize("name", [*TOPS, "bedroc"])
def test_intervals_at_the_top_cover_it(name: str) -> None:
    random, true, runs = np.random.default_rng(6), labels(25, 475), 300
    found, ends = [], []
    for _ in range(runs):
        said = drawn(random, 25, 475, 1.2)
        if name == "bedroc":
            (value, influence), top = bedroc(true, said), 1.0
        else:
            top = TOPS[name]
            value, influence = enrichment(true, said, top)
        variance = max(float((influence**2).sum()), least_of_share(value * top, 25))
        found.append(value)
        ends.append(of_figure(name, value, variance, 25, 475))
    center = np.mean(found)
    assert np.mean([low <= center <= high for low, high in ends]) >= 0.91


def test_there_are_calibration_records_of_every_class_in_every_part() -> None:
    """Five positives are the fewest that are scored: four calibrate, and a label can be ruled
    out."""
    true = labels(5, 5)
    said = np.concatenate([np.full(5, 9.0), np.full(5, -9.0)])
    part = dealt(true.astype(np.int64), PARTS)
    assert p_values(true, said, part).min() <= SIGNIFICANCE
