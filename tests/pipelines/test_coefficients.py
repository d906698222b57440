"""The table of a regression's coefficients, and its files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from rich.console import Console

from blindsum.pipelines.run.coefficients import about, files_of, table_of
from blindsum.platform.training.regression.inference import Inference
from tests.platform.test_regression import NUMBER, fitted, job


def shown(found: Inference) -> str:
    console = Console(width=200)
    with console.capture() as text:
        console.print(table_of(found), about(found))
    return text.get()


def test_a_number_has_t_and_names_show_what_they_hold(tmp_path: Path) -> None:
    columns = {"a\x1b[2J": {"center": 10, "scale": 2}, "sex": {"categories": ["f", "m"]}}
    random = np.random.default_rng(0)
    x = random.normal(size=(50, 3))
    x[:, 1:] = np.eye(2)[random.integers(0, 2, 50)]
    y = (x[:, 0] + random.normal(size=50)).astype(np.float32)
    label = {"target": {"column": "y", "center": 100, "scale": 4}}
    _, found = fitted(job(tmp_path, label, 1, columns=columns, level=0.9), x, y)
    text = shown(found)
    assert " t " in text and " z " not in text and "90 % interval" in text
    assert "odds ratio" not in text and "\x1b[2J" not in text and "\\x1b[2J" in text
    assert "sex=f: the reference of its column's categories" in text
    assert "linear of 50 records" in text
    first = found.rows[1]
    assert first.estimate and first.scaled
    assert np.isclose(first.estimate.coefficient, 4 * first.scaled.coefficient / 2)
    files = dict(files_of(found))
    assert json.loads(files["coefficients.json"]) == found.as_dict()
    assert files["coefficients.csv"].decode().count("\n") == 5


def test_what_has_no_errors_says_why(tmp_path: Path) -> None:
    x = np.arange(4.0).reshape(2, 2)
    _, found = fitted(job(tmp_path, NUMBER, 1), x, np.array([1, 2], np.float32))
    text = shown(found)
    assert "no standard errors: 2 records are too few for 2 coefficients" in text
    assert "f1: a combination of the columns before it" in text
    assert "nan" not in text and "inf" not in text.replace("intercept", "").replace("interval", "")
