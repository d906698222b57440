"""Predictions from rows with gaps, categories and dates, as the job's contract says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from mlflow.models import infer_signature
from typer.testing import CliRunner

from blindsum.pipelines.cli.app import app
from blindsum.platform.data.features import features_of
from blindsum.platform.job.schema import Job
from blindsum.platform.prediction.predictor import Predictor
from blindsum.platform.tracking.run_facts import dataset_of, run_note
from blindsum.platform.tracking.served_model import ServedModel
from tests.conftest import job_content
from tests.platform.test_gaps_and_categories import MIXED, records
from tests.platform.test_prediction import predictor, random_model, written


def job_of(columns: dict[str, Any], folder: Path) -> Job:
    content = job_content(folder)
    content["data"] |= {
        "features": {"kind": "columns", "columns": columns},
        "target": {"column": "diagnosis", "classes": ["healthy", "ill"]},
        "folds": {"kind": "random", "salt": "s"},
    }
    return Job.model_validate(content)


def test_rows_with_gaps_are_predicted_from_the_features_of_training(tmp_path: Path) -> None:
    job = job_of(MIXED, tmp_path)
    table = records().drop_columns("diagnosis")
    found = predictor(job, tmp_path).predict(table)
    assert found.column("reason").null_count == 60
    kind = features_of(job.data.features)
    features = kind.compute(kind.uniform(table)).features
    assert isinstance(features, np.ndarray)
    with torch.no_grad():
        chances = torch.softmax(random_model(job)(torch.from_numpy(features)), 1)
    ill = found.column("probability_ill").to_numpy()
    assert ill == pytest.approx(chances[:, 1].numpy(), abs=1e-6)
    scaled = features[:, [0, -1]].astype(float)  # age and seen: 0 and 1 have no scale
    assert found.column("leverage").to_numpy() == pytest.approx((scaled**2).mean(1))


def test_a_row_that_the_job_does_not_allow_has_a_reason_and_shifts_nothing(tmp_path: Path) -> None:
    bare = {n: {k: v for k, v in one.items() if k != "missing"} for n, one in MIXED.items()}
    one = predictor(job_of(bare, tmp_path), tmp_path)
    table = pa.table(
        {
            "age": [40.0, None, 42.0, 43.0, 44.0],
            "sex": ["m", "f", "x", "", "f"],
            "stage": [1, 2, 3, 4, 5],
            "smoker": [True, False, True, False, True],
            "seen": ["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-04", "soon"],
        }
    )
    found = one.predict(table)
    assert found.column("reason").to_pylist() == [
        None,
        "no age",
        "sex: not one of its categories",
        "no sex",
        "seen: text that is not a date",
    ]
    assert found.column("probability_ill").is_valid().to_pylist() == [True] + [False] * 4
    assert found.slice(0, 1).equals(one.predict(table.slice(0, 1)))


def test_categories_alone_have_no_leverage(tmp_path: Path) -> None:
    one = predictor(job_of({"sex": MIXED["sex"], "stage": MIXED["stage"]}, tmp_path), tmp_path)
    found = one.predict(pa.table({"sex": ["m", None], "stage": [1, None]}))
    assert found.column_names == one.outputs and "leverage" not in one.outputs
    assert found.column("reason").null_count == 2


def test_the_command_reads_gaps_and_categories_from_a_csv(tmp_path: Path) -> None:
    columns = MIXED | {"sex": {"categories": ["1", "2"], "missing": {"indicator": True}}}
    written(job_of(columns, tmp_path), tmp_path)
    lines = ["id,age,sex,stage,smoker,seen", "007,,1,9,true,2020-03-01", "8,-9,,,,"]
    (tmp_path / "t.csv").write_text("\n".join([*lines, "9,40,2,1,false,", ""]))
    out = tmp_path / "out.parquet"
    arguments = ["predict", tmp_path / "model.blindsum", tmp_path / "t.csv", "--out", out]
    said = CliRunner().invoke(app, list(map(str, arguments)))
    assert said.exit_code == 0, said.output
    found = pd.read_parquet(out)
    assert found["id"].tolist() == ["007", "8", "9"] and found["reason"].isna().all()


def test_the_example_of_a_model_fits_and_its_schema_allows_gaps(tmp_path: Path) -> None:
    path = written(job_of(MIXED, tmp_path), tmp_path)
    one = predictor(job_of(MIXED, tmp_path), tmp_path)
    example = pd.DataFrame({k: [v, v] for k, v in one.example().items()})
    types = [str(c.type.name) for c in infer_signature(example).inputs]
    assert types == ["double", "string", "double", "boolean", "string"]
    assert one.predict(pa.Table.from_pandas(example)).column("reason").null_count == 2

    class Context:  # as MLflow has it
        def __init__(self) -> None:
            self.artifacts = {"released": str(path)}

    served = ServedModel()
    served.load_context(Context())
    gaps = pd.DataFrame({name: [value, None] for name, value in one.example().items()})
    found = served.predict(None, gaps)
    assert found["reason"].isna().all() and len(found) == 2
    assert isinstance(one, Predictor)


def test_the_dataset_in_mlflow_has_each_columns_type(tmp_path: Path) -> None:
    job = job_of(MIXED | {"grade": {"categories": [1, 2]}}, tmp_path)
    columns = json.loads(dataset_of(job).dataset.schema)["mlflow_colspec"]
    assert {one["name"]: one["type"] for one in columns} == {
        "age": "double",
        "grade": "long",
        "seen": "datetime",
        "sex": "string",
        "smoker": "boolean",
        "stage": "long",
    }
    assert "6 columns, 14 features" in run_note(job)
