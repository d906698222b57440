"""`blindsum predict` as a chemist meets it: a released model, and a file of molecules."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from blindsum.pipelines.cli.app import app
from blindsum.pipelines.prediction import predict as prediction
from blindsum.platform.errors import BlindsumError, DataError, JobError, ModelError
from blindsum.platform.job.schema import Job
from tests.conftest import COLUMNS, MakeJob, job_content
from tests.platform.test_prediction import molecules, written

ECFP = {"kind": "ecfp", "smiles": "structure", "bits": 64}
LIST = "id,structure,note\n007,CCO,first\n8,nonsense,\n9,c1ccccc1O,last\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with a released model of molecules."""
    folder = tmp_path / "runs" / "trial-1"
    folder.mkdir(parents=True)
    written(molecules(ECFP, {"toxic": {}}, tmp_path), folder)
    (tmp_path / "list.csv").write_text(LIST)
    return folder


def predicted(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def test_each_record_keeps_its_row_and_its_columns(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "predictions.parquet"
    said = predicted(run, tmp_path / "list.csv", "--out", out)
    assert said.exit_code == 0, said.output
    assert "2 of 3 records predicted" in said.stderr and said.stdout == ""
    assert "1 without a prediction: RDKit cannot read" in said.stderr
    found = pq.read_table(out)
    assert found.column_names == ["id", "structure", "note", "probability_toxic", "reason"]
    assert found.column("structure").to_pylist() == ["CCO", "nonsense", "c1ccccc1O"]
    assert found.column("id").to_pylist() == ["007", "8", "9"]
    chances = found.column("probability_toxic").to_pylist()
    assert [chance is None for chance in chances] == [False, True, False]


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".feather"])
def test_every_kind_of_output_holds_the_same(ending: str, run: Path, tmp_path: Path) -> None:
    out = tmp_path / f"out{ending}"
    assert predicted(run, tmp_path / "list.csv", "--out", out).exit_code == 0
    read = {".parquet": pd.read_parquet, ".csv": pd.read_csv, ".feather": pd.read_feather}[ending]
    alone = pd.read_csv(io.StringIO(predicted(run, tmp_path / "list.csv").stdout))
    found = read(out).astype({"id": int})
    texts = {"note": "", "reason": ""}
    pd.testing.assert_frame_equal(found.fillna(texts), alone.fillna(texts), check_dtype=False)


def test_the_newest_model_predicts_too(run: Path, tmp_path: Path) -> None:
    refused = predicted(run, tmp_path / "list.csv", "--newest")
    assert refused.exit_code != 0 and isinstance(refused.exception, JobError)
    assert "has no model-newest.blindsum" in str(refused.exception)
    (tmp_path / "other").mkdir()
    other = written(molecules(ECFP | {"radius": 1}, {"toxic": {}}, tmp_path), tmp_path / "other")
    other.rename(run / "model-newest.blindsum")
    newest, average = (
        predicted(run, tmp_path / "list.csv", *more).stdout for more in (("--newest",), ())
    )
    assert newest != average
    assert newest == predicted(run / "model-newest.blindsum", tmp_path / "list.csv").stdout


def test_json_tells_what_was_written(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    said = predicted(run / "model.blindsum", tmp_path / "list.csv", "--out", out, "--json")
    found = json.loads(said.stdout)
    assert (found["rows"], found["out"], found["outside_domain"]) == (3, str(out), None)
    assert sum(found["unpredicted"].values()) == 1


def test_columns_that_are_features_are_not_repeated(make_job: MakeJob, tmp_path: Path) -> None:
    path = written(make_job().job, tmp_path)
    table = pa.table({"patient": [1, 2], **{name: [14.0, 15.0] for name in COLUMNS}})
    pq.write_table(table, tmp_path / "in.parquet")
    found = prediction.predict(path, tmp_path / "in.parquet", quiet=True)
    assert found.table.column_names[:2] == ["patient", "predicted_diagnosis"]
    assert found.outside == 2  # 14 is far from the centers of most of these columns


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_a_table_without_numbers_is_read_once(
    ending: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are read again, with their identifiers as text, if their file has no types."""
    table = pa.table({"id": [7, 8], "structure": ["CCO", "CCC"]})
    if ending == ".csv":
        table = table.set_column(0, "id", pa.array(["a7", "a8"]))
    {".parquet": pq.write_table, ".csv": pyarrow.csv.write_csv}[ending](
        table, tmp_path / f"in{ending}"
    )
    reads: list[Path] = []
    read = prediction.read_table
    monkeypatch.setattr(
        prediction, "read_table", lambda path, *rest: reads.append(path) or read(path, *rest)
    )
    found = prediction.predict(run, tmp_path / f"in{ending}", quiet=True).table
    assert len(reads) == 1 and found.column("id").to_pylist() == table.column("id").to_pylist()


def test_a_model_whose_tasks_are_all_private_is_the_silos(tmp_path: Path) -> None:
    content = job_content(tmp_path)
    content["silos"] = [silo | {"private_tasks": "own.yaml"} for silo in content["silos"]]
    del content["data"]["target"]
    content["model"] = {"kind": "mlp", "hidden": [4]}
    path = written(Job.model_validate(content), tmp_path)
    with pytest.raises(JobError, match="trial-1 has no shared task: its model predicts nothing"):
        prediction.predict(path, tmp_path / "list.csv", quiet=True)


def test_large_tables_are_predicted_in_parts(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prediction.predict(run, tmp_path / "list.csv", quiet=True)
    monkeypatch.setattr(prediction, "ROWS", 2)
    parts = prediction.predict(run, tmp_path / "list.csv", quiet=True)
    for name in whole.table.column_names:
        a, b = (one.table.column(name).to_pylist() for one in (whole, parts))
        assert a == pytest.approx(b, rel=1e-5) if name.startswith("prob") else a == b
    assert parts.unpredicted == whole.unpredicted


def test_every_fault_has_one_message(run: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "list.csv", tmp_path / "out.csv"
    out.write_text("precious")
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("smiles\nCCO\n")
    clash = tmp_path / "clash.csv"
    clash.write_text("structure,reason\nCCO,x\n")
    cases: list[tuple[tuple[str | Path, ...], type[BlindsumError], str]] = [
        ((run, table, "--out", out), DataError, "already exists"),
        ((run, table, "--out", tmp_path / "out.xlsx"), DataError, ".parquet, .csv, .feather"),
        ((run, table, "--out", tmp_path / "no" / "out.csv"), DataError, "cannot be written"),
        ((run, wrong), DataError, "column 'structure' is missing"),
        ((run, clash), DataError, "'reason' has the name of a prediction"),
        ((run, tmp_path / "none.csv"), DataError, "there is no data file"),
        ((run.parent, table), JobError, "has no model.blindsum"),
        ((table, table), ModelError, "is not a released model"),
        ((tmp_path / "none", table), ModelError, "there is no model"),
    ]
    for arguments, kind, text in cases:
        said = predicted(*arguments)
        assert isinstance(said.exception, kind) and text in str(said.exception), said.exception
    assert out.read_text() == "precious"
    assert not list(tmp_path.glob("*.partial"))


# Calibration.


def of_sizes(count: int, seed: int = 0) -> pd.DataFrame:
    """Chains of carbon, and whether they are toxic: by chance, the more the longer."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 30, count)
    toxic = (random.random(count) < sizes / 40).astype(int)
    return pd.DataFrame({"structure": ["C" * n + "O" for n in sizes], "toxic": toxic})


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".feather"])
def test_calibrated_probabilities_say_so(ending: str, run: Path, tmp_path: Path) -> None:
    of_sizes(200).to_csv(tmp_path / "labelled.csv", index=False)
    out, raw = tmp_path / f"out{ending}", tmp_path / "raw.parquet"
    table = tmp_path / "list.csv"
    said = predicted(run, table, "--out", out, "--calibrate", tmp_path / "labelled.csv")
    assert said.exit_code == 0, said.output
    assert said.stdout == "" and "calibrated to labelled.csv, by cross-validation" in said.stderr
    assert "toxic, before" in said.stderr and "toxic, after" in said.stderr
    read = {".parquet": pd.read_parquet, ".csv": pd.read_csv, ".feather": pd.read_feather}[ending]
    found = read(out)
    assert "probability_toxic" not in found.columns
    chances = found["calibrated_probability_toxic"]
    assert chances.isna().tolist() == [False, True, False] and chances.dropna().between(0, 1).all()
    assert predicted(run, table, "--out", raw).exit_code == 0
    assert (chances == pd.read_parquet(raw)["probability_toxic"]).sum() == 0
    if ending != ".csv":
        reader = {".parquet": pq.read_schema, ".feather": feather_schema}[ending]
        scaling = json.loads(reader(out).metadata[b"blindsum.calibration"])["toxic"]
        # Nothing but the scaling: other figures of the labels stay with whoever has them.
        assert set(scaling) == {"method", "slope", "offset"}


def feather_schema(path: Path) -> pa.Schema:
    return pyarrow.feather.read_table(path).schema


def test_json_tells_what_calibration_changes(run: Path, tmp_path: Path) -> None:
    of_sizes(200).to_parquet(tmp_path / "labelled.parquet")
    out = tmp_path / "out.csv"
    labelled = tmp_path / "labelled.parquet"
    said = predicted(run, tmp_path / "list.csv", "--out", out, "--calibrate", labelled, "--json")
    found = json.loads(said.stdout)
    figures = found["calibrated"]["toxic"]
    assert figures["labels"] == 200 and figures["method"] == "Platt scaling"
    for name in ("log_loss_before", "log_loss_after", "calibration_error_after"):
        assert figures[f"{name}_low"] <= figures[name] <= figures[f"{name}_high"]
    assert found["not_calibrated"] == {}


def test_a_table_that_calibrates_nothing_writes_nothing(run: Path, tmp_path: Path) -> None:
    of_sizes(40).to_csv(tmp_path / "few.csv", index=False)
    out = tmp_path / "out.csv"
    said = predicted(run, tmp_path / "list.csv", "--out", out, "--calibrate", tmp_path / "few.csv")
    assert "toxic has 40 usable labels, fewer than 50" in str(said.exception)
    assert not out.exists()


def test_labels_are_read_as_the_job_says_and_not_as_a_csv_looks(
    make_job: MakeJob, tmp_path: Path
) -> None:
    """Numbers stand for classes, as text."""
    content = job_content(tmp_path)
    content["data"]["target"]["classes"] = ["0", "1"]
    path = written(Job.model_validate(content), tmp_path)
    random = np.random.default_rng(0)
    values = {name: random.normal(14, 5, 60) for name in COLUMNS}
    frame = pd.DataFrame({**values, "diagnosis": [0, 1] * 30})
    frame.to_csv(tmp_path / "labelled.csv", index=False)
    found = prediction.predict(
        path, tmp_path / "labelled.csv", quiet=True, labelled=tmp_path / "labelled.csv"
    )
    assert found.calibrated and found.calibrated.of["diagnosis"].labels == 60
    names = ["predicted_diagnosis", "calibrated_probability_0", "calibrated_probability_1"]
    assert found.table.column_names[1:4] == names
