"""What a preparation drops is named to its owner: every row with its reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from blindsum.pipelines.preparation.prepare import show_report
from blindsum.platform.data.preparation.assemble import labels_of
from blindsum.platform.data.preparation.recipe import AssayTask, Quorum
from blindsum.platform.data.preparation.relations import sides
from blindsum.platform.data.preparation.report import Report
from blindsum.platform.data.preparation.tables import Tables
from blindsum.platform.errors import DataError


def test_each_dropped_measurement_is_listed_with_its_reason() -> None:
    rows = [
        ("a", "x", 7.0, 0.0),
        ("a", "x", 2.0, 0.0),  # contradicts the first
        ("b", "x", 5.0, 1.0),  # above 5: on either side of 6
        ("c", "none", 7.0, 0.0),
        ("d", "x", np.nan, 0.0),
        ("unknown", "x", 7.0, 0.0),
        ("e", "y", 9.0, 0.0),  # its task has no threshold
        ("f", "z", 900.0, 0.0),
        ("p", "x", 9.0, 0.0),
        ("n", "x", 1.0, 0.0),
        ("p", "w", 1.0, 0.0),  # one label is too few
        ("p", "y", 1.0, 0.0),
        ("n", "y", 0.0, 0.0),
    ]
    measured = pd.DataFrame(rows, columns=["compound", "assay", "value", "side"])
    measured = measured.assign(inclusive=False, unit="", row=range(1, len(rows) + 1))
    names = ["a", "b", "c", "d", "e", "f", "n", "p"]
    compounds = pd.DataFrame({"compound": names, "structure": names, "name": names})
    tasks = {
        "x": AssayTask(threshold=6.0),
        "y": AssayTask(),
        "z": AssayTask(kind="regression", high=100.0),
        "w": AssayTask(),
    }
    report = Report()
    tables = Tables(compounds, measured, tasks, {name: [name] for name in tasks})
    labels_of(tables, compounds, {}, Quorum(classes=1, values=1, uncensored=1), report)
    found = {row: reason for row, _, reason in report.rejected_rows().itertuples(index=False)}
    assert found == {
        1: "contradicted by another",
        2: "contradicted by another",
        3: "on both sides of the threshold",
        4: "of no task",
        5: "no number",
        6: "of no usable compound",
        7: "neither 0 nor 1",
        8: "out of the credible range",
        11: "of a task below its quorum",
    }
    assert sum(report.dropped_measurements.values()) == len(found)
    assert not any(name.startswith("rejected") for name in report.as_dict())


def test_the_owner_is_told_where_the_rows_are(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    show_report(report)
    assert "rows and reasons" not in "".join(capsys.readouterr())
    report.reject_compounds(pd.DataFrame({"row": [4]}), "unparsable")
    show_report(report)
    assert "rejected_rows.csv and rejected_compounds.csv" in " ".join(
        "".join(capsys.readouterr()).split()
    )


def test_unknown_relations_are_named_by_row() -> None:
    column = pd.Series(["=", "approx", None, "ca."], name="q")
    with pytest.raises(DataError, match=r"rows 2, 4\)") as caught:
        sides(column, 4, Path("t.csv"))
    assert "approx" not in str(caught.value)
