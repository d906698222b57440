"""`blindsum describe`: overlaps, survival, and jobs whose features are no columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from blindsum.actors.thread_cluster import ThreadCluster
from blindsum.pipelines.cli.app import app
from blindsum.pipelines.description.command import survival_of
from blindsum.pipelines.run.job_words import model_line
from blindsum.pipelines.run.output import Quiet
from blindsum.pipelines.run.run import Run
from blindsum.pipelines.run.train import train
from blindsum.pipelines.statistics.derived import derived
from blindsum.pipelines.statistics.table import median, overlaps, tables
from blindsum.platform.errors import BlindsumError
from blindsum.platform.job.file import load_job
from blindsum.platform.training.statistics.interval import Figure
from blindsum.platform.training.statistics.overlap_figures import Overlap
from tests.conftest import SILOS, MakeJob

SHARED = ("privacy={noise: shared, epsilon: 3, delta: 1.0e-4}", "training.local_steps=1")
SURVIVAL = {"time": "mean_radius", "event": "diagnosis", "edges": [10.0, 12.5, 15.0, 20.0]}


def run(job_file: Any) -> Run:
    return train(job_file, None, Quiet(), cluster=ThreadCluster())


def shown(done: Run) -> str:
    assert done.statistics is not None
    page = Console(width=200)
    with page.capture() as captured:
        for one in tables(done.statistics):
            page.print(one)
    return captured.get()


def test_overlaps_and_survival_stand_in_the_output_the_page_and_the_file(
    make_job: MakeJob,
) -> None:
    more = {"overlap": {}, "survival": SURVIVAL}
    done = run(derived(make_job(*SHARED), 20.0, more=more))
    text, page = shown(done), (done.folder / "statistics.html").read_text()
    assert "in common: " in text and "fold keys, such as patients" in text
    assert "survival: mean_radius to diagnosis = benign" in text and "S(12.5)" in text
    assert "a time counts at the end of its bin" in text
    assert "<h2>Survival</h2>" in page and "<h2>What silos have in common</h2>" in page
    written = json.loads((done.folder / "statistics.json").read_text())
    (curve,) = written["survival"]["curves"]
    ends = zip(curve["low"], curve["survival"], curve["high"], strict=True)
    assert [low <= one <= high for low, one, high in ends] == [True] * 4
    assert written["survival"]["log_rank"] is None
    assert written["overlap"]["by"] == "key"
    assert "sketch" not in json.dumps(written)


def test_the_command_takes_overlaps_and_survival(make_job: MakeJob, tmp_path: Path) -> None:
    path, out = make_job(*SHARED).path, tmp_path / "statistics.yaml"
    options = ["--set", "privacy.noise=shared", "--set", "training.local_steps=1"]
    options += ["--epsilon", "2", "--write", str(out)]
    options += ["--overlap", "--survival", "mean_radius:diagnosis=10,20"]
    told = CliRunner().invoke(app, ["describe", str(path), *options])
    assert told.exit_code == 0, told.output
    model = load_job(out).job.model
    assert model.kind == "statistics" and model.overlap is not None and model.overlap.by is None
    assert model.survival is not None and model.survival.edges == [10.0, 20.0]
    assert "sketch of what records are known by" in model_line(load_job(out).job, 1)


@given(st.text(max_size=30))
def test_any_survival_is_read_or_refused_in_one_sentence(text: str) -> None:
    try:
        found = survival_of(text)
    except BlindsumError as error:
        assert "Write TIME:EVENT=END,END" in error.hint
    else:
        assert {"time", "event", "edges"} <= set(found)


def test_survival_is_written_with_groups_or_without() -> None:
    assert survival_of("a:b=1,2") == {"time": "a", "event": "b", "edges": [1.0, 2.0]}
    assert survival_of("a:b:c=1")["groups"] == "c"


def test_an_overlap_that_is_sure_is_said_with_what_it_means() -> None:
    sure = Overlap("molecule", Figure(900, 880, 920), Figure(90, 50, 130))
    said = " ".join(overlaps(sure))
    assert "90 (50 to 130) pairs of silos share one of their molecules" in said
    assert "at least k times" in said and "scaffold" in said
    hidden = Overlap("molecule", Figure(900, 880, 920), Figure(30, 0, 130))
    assert "protected less" not in " ".join(overlaps(hidden))
    assert median(Figure(6.0, 5.0, float("inf"))) == "6 (5 to beyond)"


def near(figure: Figure, truth: float) -> bool:
    """Whether a figure is as near as three times its interval: the noise of a run has no seed."""
    width = max(figure.high - figure.value, figure.value - figure.low)
    return abs(figure.value - truth) <= 3 * width


def _molecules(tmp_path: Path) -> None:
    chains = ["C" * i + end for i in range(1, 30) for end in ("O", "N", "Cl", "c1ccccc1")]
    for i, silo in enumerate(SILOS):
        smiles = chains[i * 20 : i * 20 + 60]  # two neighbours share forty
        path = tmp_path / f"{silo}.parquet"
        pq.write_table(pa.table({"smiles": smiles, "active": [0, 1] * 30}), path)


@pytest.mark.parametrize("kind", ["{kind: ecfp, bits: 64}", "{kind: graphs}"])
def test_fingerprints_and_graphs_have_records_labels_and_overlaps(
    make_job: MakeJob, tmp_path: Path, kind: str
) -> None:
    _molecules(tmp_path)
    data = "data={target: {column: active, classes: [0, 1]}, folds: {kind: scaffold, salt: t}, "
    graphs = ("model={kind: dmpnn}",) if "graphs" in kind else ()
    job_file = make_job(*SHARED, data + f"features: {kind}}}", *graphs)
    done = run(derived(job_file, 20.0, more={"overlap": {}}))
    found = done.statistics
    assert found is not None and found.numbers == () and near(found.records, 180)
    assert [one.name for one in found.categories] == ["active"]
    assert found.overlap is not None and found.overlap.by == "molecule"
    assert near(found.overlap.pairs, 100)  # 40, 40 and 20
    assert "have no columns to describe" in shown(done)
