"""Intervals of held-out figures: against other computations, and by how often they cover."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, r2_score, roc_auc_score
from torch import nn

from blindsum.platform.data.enough import NOTHING_TO_SCORE, nothing_to_score
from blindsum.platform.data.ragged import TaskLabels
from blindsum.platform.data.records import Fold
from blindsum.platform.data.table import SiloData
from blindsum.platform.evaluation.figures import TASK_COUNTS, HeldOut, TaskFigures
from blindsum.platform.evaluation.influence import (
    least_of_auprc,
    least_of_auroc,
    on_auprc,
    on_auroc,
    on_r2,
)
from blindsum.platform.evaluation.intervals import (
    Interval,
    of_r2,
    of_ranking,
    of_share,
    with_interval,
)
from blindsum.platform.evaluation.tasks import VARIANCE_UNIT, TaskCounting
from blindsum.platform.job.labels_section import Task, Tasks

SHARES = st.floats(0, 1)


def labelled(records: int, share: float, apart: float, seed: int, digits: int = 1):  # type: ignore[no-untyped-def]
    """Labels and outputs with ties."""
    random = np.random.default_rng(seed)
    true = (random.random(records) < share).astype(np.float64)
    return true, np.round(random.normal(true * apart, 1.0), digits)


def test_the_auroc_s_variance_is_delong_s() -> None:
    """Of all pairs, one by one (DeLong et al. 1988, equations 4 to 6)."""
    true, said = labelled(60, 0.3, 1.0, 1)
    positives, negatives = said[true == 1], said[true == 0]
    m, n = len(positives), len(negatives)
    wins = (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)
    expected = wins.mean(1).var(ddof=1) / m + wins.mean(0).var(ddof=1) / n
    influence = on_auroc(true, said)
    assert (influence**2).sum() == pytest.approx(expected, rel=1e-12)
    assert influence[true == 1].sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("influence", "figure"),
    [(on_auroc, roc_auc_score), (on_auprc, average_precision_score), (on_r2, r2_score)],
)
def test_variances_are_those_of_the_bootstrap(influence, figure) -> None:  # type: ignore[no-untyped-def]
    """Records are drawn within their class: how many positives there are is given."""
    true, said = labelled(400, 0.3, 1.0, 2)
    strata = [np.flatnonzero(true == label) for label in (0, 1)]
    if figure is r2_score:
        true, strata = np.random.default_rng(3).normal(said, 1.0), [np.arange(400)]
    random, drawn = np.random.default_rng(4), []
    for _ in range(2000):
        rows = np.concatenate([random.choice(rows, len(rows)) for rows in strata])
        drawn.append(figure(true[rows], said[rows]))
    assert (influence(true, said) ** 2).sum() == pytest.approx(np.var(drawn), rel=0.15)


def test_the_interval_of_an_exact_share_is_wilson_s() -> None:
    for hits, records in ((0, 5), (3, 7), (146, 187), (187, 187)):
        ours = of_share(hits / records, records)
        theirs = stats.binomtest(hits, records).proportion_ci(method="wilson")
        assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@given(share=SHARES, records=st.integers(1, 10**6), deviation=st.floats(0, 10))
def test_an_interval_of_a_share_has_it_and_grows_with_the_noise(
    share: float, records: int, deviation: float
) -> None:
    low, high = of_share(share, records)
    noised = of_share(share, records, deviation)
    assert 0 <= low <= share + 1e-12 and share - 1e-12 <= high <= 1
    assert noised.low <= low + 1e-12 and high - 1e-12 <= noised.high <= 1


@given(mean=SHARES, variance=st.floats(0, 1), fewest=st.integers(0, 10**4))
def test_an_interval_of_a_ranking_has_it(mean: float, variance: float, fewest: int) -> None:
    low, high = of_ranking(mean, variance, fewest)
    assert 0 <= low <= mean + 1e-9 and mean - 1e-9 <= high <= 1


@given(mean=st.floats(-1, 1), variance=st.floats(0, 100))
def test_an_interval_of_r2_has_it_and_ends_below_one(mean: float, variance: float) -> None:
    low, high = of_r2(mean, variance)
    assert low <= mean + 1e-9 and mean - 1e-9 <= high <= 1


def test_few_records_that_are_separated_without_error_are_no_certainty() -> None:
    true, said = np.repeat([1.0, 0.0], [5, 30]), np.repeat([1.0, 0.0], [5, 30])
    assert (on_auroc(true, said) ** 2).sum() == 0
    low, high = of_ranking(1.0, least_of_auroc(1.0, 5, 30), 5)
    assert low < 0.85 and high == 1.0
    assert least_of_auroc(0.0, 5, 30) == pytest.approx(least_of_auroc(1.0, 5, 30))
    assert least_of_auprc(1.0, 5) > 0
    assert least_of_auroc(0.8, 5, 30) == least_of_auprc(0.8, 5) == 0


@pytest.mark.parametrize("auroc", [0.7, 0.9, 0.98])
@pytest.mark.parametrize("sizes", [((6, 40),), ((40, 60),), ((14, 25), (10, 15), (20, 30))])
def test_intervals_of_the_mean_auroc_cover_it(
    auroc: float, sizes: tuple[tuple[int, int], ...]
) -> None:
    """95 of 100 intervals; at least 91 with few records. A silo's scores come from two normals."""
    random, apart, hits = np.random.default_rng(5), stats.norm.ppf(auroc) * 2**0.5, 0
    for _ in range(400):
        sums = np.zeros(2)
        for m, n in sizes:
            true = np.repeat([1.0, 0.0], [m, n])
            said = random.normal(true * apart, 1.0)
            found = roc_auc_score(true, said)
            variance = max((on_auroc(true, said) ** 2).sum(), least_of_auroc(found, m, n))
            sums += found, variance
        fewest = sum(min(pair) for pair in sizes)
        many = len(sizes)
        low, high = of_ranking(sums[0] / many, sums[1] / many**2, fewest, many)
        hits += low <= auroc <= high
    assert hits / 400 >= 0.91


def test_intervals_of_r2_cover_it() -> None:
    """R2 is 0.5: half of the labels' variance is the model's."""
    random, hits = np.random.default_rng(6), 0
    for _ in range(400):
        said = random.normal(size=40)
        true = random.normal(said, 1.0)
        low, high = of_r2(r2_score(true, said), (on_r2(true, said) ** 2).sum())
        hits += low <= 0.5 <= high
    assert hits / 400 >= 0.91


@pytest.mark.parametrize("deviation", [0.0, 0.05])
def test_intervals_of_the_accuracy_cover_it_with_the_noise_on_the_counts(deviation: float) -> None:
    """This fails if the noise's part is left out."""
    random = np.random.default_rng(7)
    found = random.binomial(187, 0.78, 1000) / 187 + random.normal(0, deviation, 1000)
    intervals = [of_share(float(np.clip(a, 0, 1)), 187, deviation) for a in found]
    assert np.mean([low <= 0.78 <= high for low, high in intervals]) >= 0.93


def silo(random: np.random.Generator, records: int, tasks: Tasks, alike: bool) -> SiloData:
    """A silo whose tasks have the same labels and outputs (`alike`), or independent ones."""
    many = len(tasks)
    true = random.random((records, 1 if alike else many)) < 0.3
    said = random.normal(true * 1.0, 1.0)
    labels = np.zeros((records, 2, many), np.float32)
    labels[:, 0] = true
    outputs = np.broadcast_to(said, (records, many)).astype(np.float32)
    return SiloData(fold := Fold(outputs, labels), fold, "", 0)


def test_summed_counts_have_the_variance_of_the_mean_with_correlated_tasks() -> None:
    """Four copies of one task say no more than one; four independent ones do."""
    random, four = np.random.default_rng(8), {f"t{i}": Task() for i in range(4)}
    for alike in (True, False):
        silos = [TaskCounting(four, silo(random, n, four, alike)) for n in (200, 300)]
        total = np.sum([one.counts(nn.Identity()) for one in silos], axis=0)
        found = silos[0].figures(total, 2)
        assert silos[0].possible(total, 2) and found.binary_tasks == 8
        of_tasks = np.array(
            [
                [
                    (
                        on_auroc(one._data.test.labels[:, 0, i], one._data.test.stored[:, i]) ** 2
                    ).sum()
                    for i in range(4)
                ]
                for one in silos
            ]
        )
        # Var(mean of 8) = sum over silos of Var(sum of 4) / 64.
        expected = (16 * of_tasks[:, 0].sum() if alike else of_tasks.sum()) / 64
        rel = 1e-3 if alike else 0.2  # chance correlations
        assert found.auroc_variance == pytest.approx(expected, rel=rel)
        assert found.score.interval == of_ranking(
            found.auroc, found.auroc_variance, min(found.positives, found.negatives), 8
        )
        assert str(found.score.interval) in found.line()
        ends = {"auroc_low", "auroc_high", "auprc_low", "auprc_high", "positives", "negatives"}
        assert ends <= {*found.as_dict()} & {*found.tracked()} and "auroc_variance" not in (
            found.as_dict()
        )


def test_impossible_counts_of_intervals_are_noticed() -> None:
    one = TaskCounting({"hit": Task()}, silo(np.random.default_rng(9), 100, {"hit": Task()}, True))
    counts = one.counts(nn.Identity())
    assert one.possible(counts, 1)
    for name, value in (
        ("positives", 4),
        ("negatives", 101),
        ("auroc_variance", -1),
        ("auprc_variance", 2**37),
        ("binary_diverged", 2),
        ("regression_diverged", 1),
    ):
        wrong = counts.copy()
        wrong[TASK_COUNTS.index(name)] = value
        assert not one.possible(wrong, 1), name
    assert counts[TASK_COUNTS.index("auroc_variance")] * VARIANCE_UNIT < 0.01


def test_there_is_one_form_for_every_figure() -> None:
    assert with_interval(0.781, Interval(0.70, 0.84)) == "0.781 (95 %: 0.70 to 0.84)"
    assert with_interval(0.781, Interval(0.76, 0.80)) == "0.781 (95 %: 0.760 to 0.800)"
    assert with_interval(0.781, None) == "0.781"
    held_out = HeldOut(records=187, accuracy=0.781, loss=0.6, largest_class=0.5, dropped=0)
    assert held_out.line().startswith("accuracy 0.781 (95 %: 0.72 to 0.83) on 187 held-out records")
    assert held_out.as_dict()["accuracy_low"] == held_out.tracked()["accuracy_low"]
    noised = HeldOut(**{**vars(held_out), "deviation": 0.05})
    assert "(95 %: 0.66 to 0.89, with the noise on the counts) on about 187" in noised.line()
    rare = TaskFigures(
        **dict.fromkeys(TaskFigures.__dataclass_fields__, 0)
        | {
            "records": 2900,
            "binary_tasks": 3,
            "auroc": 0.91,
            "auprc": 0.31,
            "positives": 58,
            "negatives": 2842,
            "auroc_variance": 1e-4,
            "auprc_variance": 9e-4,
            "groups": {},
        }
    )
    assert "mean AUPRC 0.310 (95 %: 0.25 to 0.37, guessing: 0.020)" in rare.line()
    assert "over 3 silo-task pairs with 58 positives and 2842 negatives" in rare.line()
    often = TaskFigures(**{**vars(rare), "positives": 1000})
    assert "AUPRC" not in often.line() and often.rare is None


def test_nothing_to_score_is_known_before_the_run() -> None:
    tasks: Tasks = {"hit": Task(), "other": Task()}
    labels = np.zeros((40, 2, 2), np.float32)
    labels[:4, 0, 0], labels[:, 0, 1] = 1.0, np.nan
    few = TaskLabels.of(labels)
    assert nothing_to_score(few, tasks) == (NOTHING_TO_SCORE,), "four positives"
    labels[4, 0, 0] = 1.0
    assert nothing_to_score(TaskLabels.of(labels), tasks) == ()
    assert nothing_to_score(np.zeros(40), {}) == (), "the accuracy of classes always counts"
