"""`blindsum describe`: its run, what it shows and writes, and the constants that it proposes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from blindsum.actors.thread_cluster import ThreadCluster
from blindsum.pipelines.cli.app import app
from blindsum.pipelines.consortium.review import _traffic as of_a_round
from blindsum.pipelines.description.command import bounds_of
from blindsum.pipelines.description.propose import proposed
from blindsum.pipelines.interface.job import Job
from blindsum.pipelines.interface.run import Run as Opened
from blindsum.pipelines.interface.training import finished
from blindsum.pipelines.run.job_picture import planned_picture
from blindsum.pipelines.run.output import Quiet
from blindsum.pipelines.run.run import Run
from blindsum.pipelines.run.traffic import parameter_count
from blindsum.pipelines.run.train import train
from blindsum.pipelines.statistics.derived import derived
from blindsum.pipelines.statistics.table import count, number, share, tables
from blindsum.platform.errors import BlindsumError
from blindsum.platform.job.file import load_job
from blindsum.platform.privacy.statement import privacy_statement
from blindsum.platform.training.models import model_of
from blindsum.platform.training.sent import sent_counts
from blindsum.platform.training.statistics.interval import Figure
from tests.conftest import MakeJob

FOR_TREES = ("training.sampling_rate=1.0", "training.expected_batch_size=100")
SHARED = ("privacy={noise: shared, epsilon: 3, delta: 1.0e-4}", "training.local_steps=1")


def run(job_file: Any) -> Run:
    return train(job_file, None, Quiet(), cluster=ThreadCluster())


def test_a_run_of_statistics_writes_figures_a_page_and_no_model(make_job: MakeJob) -> None:
    done = run(derived(make_job(*SHARED), 6.0))
    assert done.status == "FINISHED" and done.statistics is not None
    written = json.loads((done.folder / "statistics.json").read_text())
    records = written["records"]  # 2.5 times its half width: the noise is real
    assert abs(records["value"] - 450) < 1.25 * (records["high"] - records["low"])
    assert [one["name"] for one in written["numbers"]][:2] == ["mean_radius", "mean_texture"]
    assert "epsilon at most" in written["privacy"] and "held" not in written["privacy"]
    page = (done.folder / "statistics.html").read_text()
    assert "What the silos hold together" in page and "mean_radius" in page
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    assert not (done.folder / "model.blindsum").exists()
    assert json.loads((done.folder / "summary.json").read_text())["statistics"]["records"]
    assert max(done.epsilon().values()) <= 6.0


def test_proposed_constants_make_a_job_that_is_valid_and_fits(make_job: MakeJob) -> None:
    job_file = make_job("privacy={noise: none}")
    done = run(derived(job_file))
    assert done.statistics is not None
    path = job_file.folder / "proposed.yaml"
    path.write_text(proposed(job_file, done.statistics, done.name))
    found = load_job(path)
    columns: Any = found.job.data.features.columns  # type: ignore[union-attr]
    for one in done.statistics.numbers:
        assert columns[one.name].center == pytest.approx(one.mean.value, rel=0.02, abs=1e-3)
        assert columns[one.name].scale == pytest.approx(one.deviation.value, rel=0.01)
    training = found.job.training
    expected = training.expected_batch_size / training.sampling_rate
    assert expected == pytest.approx(450 / 3 * 0.75, rel=0.05)
    assert "# Constants proposed by `blindsum describe` from run" in path.read_text()


def test_gaps_and_rare_categories_are_proposed_for(make_job: MakeJob, tmp_path: Path) -> None:
    import pandas as pd

    for i, silo in enumerate(("alder", "birch", "cedar")):
        table = pd.read_parquet(tmp_path / f"{silo}.parquet")
        table["site"] = (["a", "b", "z"] + ["a", "b"] * len(table))[: len(table)]
        table.loc[table.index[::7], "mean_texture"] = None
        table["since"] = pd.date_range("2020-01-01", periods=len(table)).strftime("%Y-%m-%d")
        table.loc[table.index[i::9], "since"] = None
        table.to_parquet(tmp_path / f"{silo}.parquet")
    more = (
        "data.features.columns.site={categories: [a, b, z]}",
        "data.features.columns.since={date: {since: 2019-01-01}}",
    )
    job_file = make_job("privacy={noise: none}", *more)
    with pytest.raises(BlindsumError):
        run(job_file)  # its gaps are refused
    done = run(derived(job_file))
    assert done.statistics is not None
    path = job_file.folder / "proposed.yaml"
    path.write_text(proposed(job_file, done.statistics, done.name))
    columns: Any = load_job(path).job.data.features.columns  # type: ignore[union-attr]
    assert columns["site"].categories == ["a", "b"] and columns["site"].other
    texture = next(one for one in done.statistics.numbers if one.name == "mean_texture")
    assert columns["mean_texture"].missing.value == pytest.approx(
        texture.quantiles[0.5].value, rel=0.01
    )
    assert columns["since"].missing.value.startswith("2020-03")
    assert run(load_job(path, ("training.rounds=1",))).status == "FINISHED"
    trees = (
        "model={kind: trees, trees: 2}",
        "training={rounds: 2, local_steps: 1, learning_rate: 0.3, expected_batch_size: 100, "
        + "sampling_rate: 1}",
        "data.features.columns.mean_texture.missing={keep: true}",
    )
    job_file = make_job("privacy={noise: none}", *more, *trees)
    assert derived(job_file).job.model.kind == "statistics"
    path.write_text(proposed(job_file, done.statistics, done.name))
    columns = load_job(path).job.data.features.columns  # type: ignore[union-attr]
    assert columns["mean_texture"].missing.keep and columns["mean_texture"].scale > 1


def test_what_is_said_of_the_job_holds(make_job: MakeJob) -> None:
    """An owner who approves it must know that held-out records are counted too."""
    job_file = derived(make_job(*SHARED), 1.0)
    picture = planned_picture(job_file).as_text()
    assert "never train" not in picture and "held-out fold too" in picture
    assert "count what they hold together" in picture
    statement = json.dumps(privacy_statement(job_file.job, {}))
    assert "sums of what records contribute" in statement
    assert "exact sums over all silos' held-out" not in json.dumps(
        privacy_statement(job_file.job, {})["What is not covered"]
    )


def test_the_command_writes_the_job_of_statistics(make_job: MakeJob, tmp_path: Path) -> None:
    path, out = make_job(*SHARED).path, tmp_path / "statistics.yaml"
    options = ["--set", "privacy.noise=shared", "--set", "training.local_steps=1"]
    told = CliRunner().invoke(
        app,
        ["describe", str(path), *options, "--epsilon", "2", "--write", str(out)]
        + ["--bounds", "mean_radius=0:50"],
    )
    assert told.exit_code == 0, told.output
    job = load_job(out).job
    assert job.model.kind == "statistics" and job.name == "trial-statistics"
    assert job.model.bounds["mean_radius"].high == 50.0 and job.tracking.experiment == "trial"


def test_names_of_any_length_stay_names(make_job: MakeJob) -> None:
    long = "a" * 40
    found = derived(make_job("privacy={noise: none}", f"name={long}"))
    assert len(found.job.name) <= 40 and found.job.name.endswith("-statistics")


@pytest.mark.parametrize("text", ["age", "age=1", "age=a:b", "=0:1", ""])
def test_bounds_that_are_none_are_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(BlindsumError, match="Write COLUMN=LOW:HIGH"):
        bounds_of([text])


@given(st.text(max_size=30))
def test_any_bounds_are_read_or_refused(text: str) -> None:
    try:
        found = bounds_of([text])
    except BlindsumError:
        return
    assert len(found) == 1


def test_figures_are_shown_with_the_digits_that_their_interval_leaves() -> None:
    assert number(Figure(12.3456, 11.9, 12.8)) == "12.3 (11.9 to 12.8)"
    assert number(Figure(1.0, 1.0, 1.0)) == "1"
    assert number(Figure(float("nan"), 0.0, 1.0)) == "hidden by the noise"
    assert count(Figure(907.6, 893.2, 922.9)) == "908 (893 to 923)"
    assert share(Figure(0.081, 0.034, 0.13)) == "8.1 % (3.4 to 13)"


def test_tables_name_what_they_leave_out(make_job: MakeJob) -> None:
    from rich.console import Console

    done = run(derived(make_job("privacy={noise: none}")))
    assert done.statistics is not None
    page = Console(width=200)
    with page.capture() as shown:
        for one in tables(done.statistics):
            page.print(one)
    text = shown.get()
    assert "exact, without differential privacy" in text and "mean_radius" in text
    assert "diagnosis (label)" in text and "malignant" in text


def test_statistics_from_python(make_job: MakeJob) -> None:
    job = Job.read(make_job(*SHARED).path, SHARED)
    found = finished(job.statistics(5.0).job_file, None, Quiet(), cluster=ThreadCluster())
    assert found.status == "FINISHED" and found.statistics["exact"] is False
    assert Opened.open(found.folder or "").statistics == found.statistics
    with pytest.raises(BlindsumError, match="released no model"):
        _ = found.model
    other = finished(make_job("training.rounds=1"), None, Quiet(), cluster=ThreadCluster())
    with pytest.raises(BlindsumError, match="has no statistics"):
        _ = other.statistics


def test_what_needs_a_model_says_that_statistics_are_none(
    make_job: MakeJob, tmp_path: Path
) -> None:
    path, out = make_job(*SHARED).path, str(tmp_path / "st.yaml")
    options = ["--set", "privacy.noise=shared", "--set", "training.local_steps=1"]
    CliRunner().invoke(app, ["describe", str(path), *options, "--epsilon", "2", "--write", out])
    for command in (
        ["baseline", "pooled", out],
        ["audit", out],
        ["sweep", out, "--epsilon", "1"],
    ):
        told = CliRunner().invoke(app, command)
        assert told.exit_code and "trains no model" in str(told.exception), command


def test_an_owner_reads_what_statistics_would_send(make_job: MakeJob) -> None:
    job = derived(make_job(*SHARED), 1.0).job
    whole = sum(one.numel() for one in model_of(job).parameters())
    assert parameter_count(job) == whole
    sent = max(sent_counts(job, whole))
    assert sent < whole
    traffic = of_a_round(job, whole)
    assert traffic is not None and traffic == of_a_round(job, whole * 100)
    trees = make_job(*SHARED, "model={kind: trees, trees: 3}", "training.rounds=3", *FOR_TREES).job
    assert of_a_round(trees, 100_000) == of_a_round(trees, 100)
