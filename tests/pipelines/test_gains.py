"""Gains by task inside silos, and leaderboards of the consortium."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from blindsum.pipelines.comparison.boards_page import board_rows, boards_section
from blindsum.pipelines.comparison.compare import Comparison, Trial
from blindsum.pipelines.comparison.estimates import Estimate, median
from blindsum.pipelines.comparison.gains_page import (
    MOST_ROWS,
    as_csv,
    gains_section,
    medians,
    middle_rows,
)
from blindsum.pipelines.comparison.leaderboards import ALL, leaderboards
from blindsum.pipelines.comparison.own_gains import TaskGain, gains_by_task, middle
from tests.conftest import MakeJob

FEDERATED = "federated, no privacy"


def trial(arm: str, seed: int, **figures: float) -> Trial:
    return Trial(f"{arm}-{seed}", arm, None, True, str(seed), "auroc", figures, ())


def comparison(*trials: Trial) -> Comparison:
    return Comparison("trial", "auroc", list(trials), [], [], [], [])


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=60))
def test_the_interval_of_a_median_is_that_of_the_sign_test(values: list[int]) -> None:
    found = median([float(value) for value in values])
    assert found.mean == np.median(values) and found.count == len(values)
    theirs = stats.quantile_test(np.array(values), p=0.5).confidence_interval(0.95)
    if len(values) < 6:
        assert found.interval is None
    else:
        assert found.interval == (theirs.low, theirs.high)


def kept(folder: Path, run: str, rows: list[str]) -> None:
    (folder / run).mkdir(parents=True)
    head = (
        "round,task,auroc,auroc_low,auroc_high,conformal_efficiency,calibration_error,"
        "enrichment_5_percent\n"
    )
    (folder / run / "tasks.csv").write_text(head + "\n".join(rows) + "\n")


def test_gains_are_paired_by_seed_task_by_task_in_every_silo(
    make_job: MakeJob, tmp_path: Path
) -> None:
    """What a seed gives both runs cancels; a smaller calibration error is a gain."""
    (tmp_path / "own.yaml").write_text("SECRET: {group: kinases}\n")
    job = make_job(
        "data.target=null",
        "data.tasks={hit: {group: admet}, a: {group: admet}, b: {group: admet}}",
        "privacy={noise: none}",
        "silos.birch.private_tasks=own.yaml",
        "model={kind: mlp, hidden: [6]}",
    )
    trials = []
    for seed in (1, 2, 3):
        for arm, more in (("local", 0.0), ("federated", 0.02)):
            trials.append(trial(arm, seed, auroc=0.7))
            value = 0.6 + 0.1 * seed + more
            row = f"{value},{value - 0.01},{value + 0.01},{value},{0.3 - more},{4 + 50 * more}"
            for silo, tasks in (("alder", ["hit"]), ("birch", ["hit", "SECRET"])):
                folder = tmp_path / "state" / silo / "runs"
                kept(folder, f"{arm}-{seed}", [f"9,{task},{row}" for task in tasks])
    gains = gains_by_task(job, ["alder", "birch"], comparison(*trials))
    assert list(gains) == [FEDERATED]
    known = {(one.silo, one.task): one for one in gains[FEDERATED]}
    assert list(known) == [("alder", "hit"), ("birch", "hit"), ("birch", "SECRET")]
    assert known["alder", "hit"].group == "admet" and known["birch", "SECRET"].group == "kinases"
    one = known["birch", "SECRET"].gains
    assert one["auroc"].mean == pytest.approx(0.02) and one["auroc"].count == 3
    # Student's part is 0, as all seeds agree; the records' is 0.01 of both, squared and added.
    assert one["auroc"].interval == pytest.approx((0.02 - 0.01 * 2**0.5, 0.02 + 0.01 * 2**0.5))
    assert one["calibration_error"].mean == pytest.approx(0.02)
    assert one["enrichment_5_percent"].mean == pytest.approx(1.0)
    assert "auprc" not in one and "r2" not in one
    found = middle(gains[FEDERATED], "auroc")
    assert found and (found.better, found.worse) == (3, 0) and found.median.interval is None


def many(tasks: int, shift: float = 0.0) -> list[TaskGain]:
    random = np.random.default_rng(0)
    return [
        TaskGain(
            "alder",
            f"assay<{i}>",
            ("admet", "kinases", "")[i % 3],
            {
                name: Estimate(value, value - 0.05, value + 0.05, 2)
                for name, value in zip(
                    ("auroc", "conformal_efficiency"), random.normal(shift, 0.1, 2), strict=True
                )
            },
        )
        for i in range(tasks)
    ]


def test_the_page_has_medians_pictures_groups_and_the_largest_gains() -> None:
    gains = {"federated, epsilon 8": many(250), "federated, epsilon 1": many(250, -0.1)}
    page = "\n".join(gains_section(gains, "gains.csv"))
    assert page.count("<img") == 2 and "gains.csv" in page and "Private" in page
    assert "50 tasks with smaller gains are left out" in page and MOST_ROWS == 200
    assert "assay<" not in page and "assay&lt;" in page, "names are text"
    for group in ("admet", "kinases", "no group"):
        assert f"<td>{group}</td>" in page
    head, rows = middle_rows(gains)
    assert head[2] == "median gain" and len(rows) == 4
    assert rows[0][:2] == ["federated, epsilon 8", "AUROC"] and "(95 %:" in rows[0][2]
    values = [one.gains["auroc"].mean for one in gains["federated, epsilon 8"]]
    assert rows[0][2].startswith(f"{np.median(values):+.3f}")
    assert medians(gains)[0]["median"]["count"] == 250  # type: ignore[index]
    written = list(csv.DictReader(io.StringIO(as_csv(gains))))
    assert len(written) == 500 and float(written[0]["auroc"]) == pytest.approx(values[0], rel=1e-5)
    assert written[0]["r2"] == "" and written[0]["seeds"] == "2"
    plain = [TaskGain("alder", "hit", "", {"auprc": Estimate(0.1, None, None, 1)})]
    assert "<img" not in "\n".join(gains_section({"x": plain}, "gains.csv"))


def test_leaderboards_are_ordered_by_group_with_paired_gains() -> None:
    """Federated is ahead in one group, and behind in the other."""

    def figures(admet: float, kinases: float) -> dict[str, float]:
        found: dict[str, float] = {"auroc": (admet + kinases) / 2}
        for group, value in (("admet", admet), ("kinases", kinases)):
            found |= {f"auroc.{group}": value, f"conformal_efficiency.{group}": value - 0.1}
            found |= {f"auroc_low.{group}": value - 0.02, f"auroc_high.{group}": value + 0.02}
        return found

    trials = [
        trial(arm, seed, **figures(a + 0.05 * seed, k + 0.05 * seed))
        for seed in (1, 2)
        for arm, a, k in (("local", 0.6, 0.7), ("federated", 0.65, 0.66))
    ]
    boards = leaderboards(comparison(*trials))
    assert list(boards) == [ALL, "admet", "kinases"]
    firsts = {group: places[0].key[0] for group, places in boards.items()}
    assert firsts == {ALL: "federated", "admet": "federated", "kinases": "local"}
    gain = boards["admet"][0].gains["auroc"]
    assert gain.mean == pytest.approx(0.05) and gain.count == 2
    assert gain.interval == pytest.approx((0.05 - 0.02 * 2**0.5, 0.05 + 0.02 * 2**0.5))
    assert boards["kinases"][1].gains["conformal_efficiency"].mean == pytest.approx(-0.04)
    assert boards["kinases"][0].gains == {}, "the base has no gain over itself"
    head, rows = board_rows(boards["admet"])
    assert head == ["", "runs", "mean AUROC", "gain", "conformal efficiency", "gain"]
    assert rows[0][0] == "1" and rows[0][3].startswith("+0.050 (95 %")
    page = "\n".join(boards_section(comparison(*trials)))
    assert "group kinases" in page and "all tasks" in page


def test_runs_without_tasks_have_no_leaderboard() -> None:
    one = Trial("run", "federated", None, True, "1", "accuracy", {"accuracy": 0.7}, ())
    found = Comparison("trial", "accuracy", [one], [], [], [], [])
    assert leaderboards(found) == {} and boards_section(found) == []
