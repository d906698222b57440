"""Labels as people have them: booleans, {1, 2}, yes and no, -1 for missing; and weights."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from blindsum.pipelines.audit.labelling import labelling
from blindsum.platform.data.labels import class_labels
from blindsum.platform.data.rejected_rows import refuse
from blindsum.platform.data.table import load_data
from blindsum.platform.data.task_labels import task_labels
from blindsum.platform.errors import DataError, JobError
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.labels_section import Target, Task
from blindsum.platform.job.schema import Job
from blindsum.platform.state.approval import job_digest
from blindsum.platform.training.clipping.choice import clipped_sum
from blindsum.platform.training.losses import MultiTask, WeightedClasses, record_loss
from tests.conftest import MakeJob

PATH = Path("silo.parquet")
NAN = float("nan")


def classes_of(values: list[Any], kind: pa.DataType | None = None, **target: Any) -> list[Any]:
    """Return the classes of a column, None where its row is rejected."""
    table = pa.table({"y": pa.array(values, kind)})
    found = class_labels(table, Target(column="y", **target), PATH, drop_unlabelled=True)
    gone = [any(one.rows[i] for one in found.rejected) for i in range(len(values))]
    return [None if g else int(c) for g, c in zip(gone, found.labels, strict=True)]


@pytest.mark.parametrize(
    ("values", "kind", "classes", "expected"),
    [
        ([False, True, None], None, [0, 1], [0, 1, None]),
        ([False, True, None], None, [False, True], [0, 1, None]),
        ([True, False], None, [True, False], [0, 1]),
        ([0, 1, None], pa.int8(), [False, True], [0, 1, None]),
        ([0.0, 1.0, 0.5, NAN, None], None, [0, 1], [0, 1, None, None, None]),
        ([1.0, 2.0, 3.0], pa.float32(), [1, 2], [0, 1, None]),
        ([-1, 1, 0], None, [-1, 1], [0, 1, None]),
        ([1, 2, 2], pa.uint64(), [2, 1], [1, 0, 0]),
        (["yes", "no", "", None, "YES"], None, ["no", "yes"], [1, 0, None, None, None]),
        (["yes", "no"], pa.large_string(), ["no", "yes"], [1, 0]),
        ([2**53 + 1, 2**53], None, [2**53, 2**53 + 1], [1, 0]),
    ],
)
def test_classes_are_told_apart_by_value_not_by_type(
    values: list[Any], kind: Any, classes: list[Any], expected: list[Any]
) -> None:
    assert classes_of(values, kind, classes=classes) == expected


def test_a_value_can_stand_for_no_label() -> None:
    assert classes_of([0, 1, -1], classes=[0, 1], missing=-1) == [0, 1, None]
    assert classes_of(["a", "b", "?"], classes=["a", "b"], missing="?") == [0, 1, None]
    assert classes_of([0, 1], classes=[0, 1], missing=0.5) == [0, 1]
    table = pa.table({"y": [0, 1, -1, 7]})
    target = Target(column="y", classes=[0, 1], missing=-1)
    missing, unknown = class_labels(table, target, PATH, drop_unlabelled=False).rejected
    assert missing.rows.tolist() == [False, False, True, False] and missing.then == "refuse"
    assert unknown.rows.tolist() == [False, False, False, True] and unknown.then == "refuse"


def test_a_class_that_differs_in_case_or_blanks_is_pointed_out_at_the_silo_only() -> None:
    target = Target(column="y", classes=["healthy", "ill"])
    table = pa.table({"y": ["ill", "ill ", "Ill", "sick"]})
    found = class_labels(table, target, PATH, drop_unlabelled=False).rejected
    close, other = [one for one in found if one.rows.any()]
    assert (
        close.rows.tolist() == [False, True, True, False] and "'ill' but for case" in close.reason
    )
    assert other.rows.tolist() == [False, False, False, True]
    with pytest.raises(DataError) as caught:
        refuse(found, PATH.name, Path("list.csv"))
    assert "sick" not in str(caught.value) and "'ill' but for" not in str(caught.value)


MAPPED = {
    "{1, 2}": ([1, 2, None], {"positive": 2, "negative": 1}, [0, 1, NAN]),
    "{-1, 1}": ([-1.0, 1.0, NAN], {"negative": -1}, [0, 1, NAN]),
    "booleans": ([True, False, None], {}, [1, 0, NAN]),
    "text": (["yes", "no", "", None], {"positive": "yes", "negative": "no"}, [1, 0, NAN, NAN]),
    "-1 is missing": ([1, 0, -1], {"missing": -1}, [1, 0, NAN]),
    "text for missing": (
        ["+", "-", "?"],
        {"positive": "+", "negative": "-", "missing": "?"},
        [1, 0, NAN],
    ),
    "reversed": ([0, 1], {"positive": 0, "negative": 1}, [1, 0]),
    "a number": ([3.0, -999.0, None], {"kind": "regression", "missing": -999}, [3, NAN, NAN]),
    "a number of 32 bits": (
        pa.array([3.0, -99.9], pa.float32()),
        {"kind": "regression", "missing": -99.9},
        [3, NAN],
    ),
}


@pytest.mark.parametrize("name", MAPPED)
def test_values_of_a_task_stand_for_what_the_job_says(name: str) -> None:
    values, task, expected = MAPPED[name]
    found = task_labels(pa.table({"hit": values}), {"hit": Task(**task)}, PATH)
    np.testing.assert_array_equal(found.labels[:, 0, 0], np.array(expected, np.float32))
    assert not any(one.rows.any() for one in found.rejected)


KNOWN = st.lists(st.sampled_from([0, 1, None]), min_size=1, max_size=30)


@given(labels=KNOWN, names=st.sampled_from([(0, 1), (1, 2), (-1, 1), ("no", "yes"), (7.5, 1e6)]))
def test_a_mapping_changes_names_alone(labels: list[int | None], names: tuple[Any, Any]) -> None:
    plain = task_labels(pa.table({"hit": pa.array(labels, pa.int64())}), {"hit": Task()}, PATH)
    said = [None if one is None else names[one] for one in labels]
    kind = pa.string() if isinstance(names[0], str) else pa.float64()
    task = Task(negative=names[0], positive=names[1])
    mapped = task_labels(pa.table({"hit": pa.array(said, kind)}), {"hit": task}, PATH)
    np.testing.assert_array_equal(plain.labels, mapped.labels)


def test_what_stands_for_no_label_of_a_task_is_rejected() -> None:
    table = pa.table({"hit": [1, 2, 0, None], "size": [1.0, 1e300, -np.inf, None]})
    tasks = {
        "hit": Task(positive=2, negative=1),
        "size": Task(kind="regression", scale=1e-3),
    }
    hit, size = task_labels(table, tasks, PATH).rejected
    assert hit.rows.tolist() == [False, False, True, False] and hit.column == "hit"
    assert size.rows.tolist() == [True, True, True, False] and size.column == "size"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"column": "y"}, "give classes, or center and scale"),
        ({"column": "y", "classes": [0, 1], "scale": 2}, "belong to a number"),
        ({"column": "y", "classes": [True, 1]}, "all text or all integers"),
        ({"column": "y", "classes": [0, 1], "class_weights": {2: 3.0}}, "names '2'"),
        ({"column": "y", "classes": ["no", "yes"], "class_weights": {True: 3.0}}, "names 'true'"),
        ({"column": "y", "classes": [0, 1], "class_weights": {1: 0}}, "greater than 0"),
        ({"column": "y", "center": 1, "class_weights": {1: 1}}, "belong to classes"),
        ({"column": "y", "classes": [0, 1], "missing": "?"}, "all text or all numbers"),
        ({"column": "y", "classes": [0, 1], "missing": 1}, "stands for two labels"),
    ],
)
def test_targets_that_make_no_sense_are_refused(
    make_job: MakeJob, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(JobError, match=said):
        make_job("data.target=null", f"data.target={settings}")


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"positive": 1, "negative": 1}, "stands for two labels"),
        ({"positive": True, "negative": 1}, "stands for two labels"),
        ({"positive": "yes"}, "all text or all numbers"),
        ({"missing": 0}, "stands for two labels"),
        ({"kind": "regression", "positive": 2}, "belong to binary tasks"),
        ({"kind": "regression", "positive_weight": 2}, "belong to binary tasks"),
        ({"kind": "regression", "missing": "?"}, "all text or all numbers"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(task: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Task.model_validate(task)


def test_a_target_without_classes_is_one_task_everywhere(make_job: MakeJob) -> None:
    target = "data.target={column: logD74, center: 2.2, scale: 1.2, missing: -99}"
    job = make_job("data.target=null", target).job
    task = Task(kind="regression", center=2.2, scale=1.2, missing=-99)
    assert job.data.target is None and job.data.tasks == {"logD74": task} and job.data.outputs == 1
    as_task = "data.tasks={logD74: {kind: regression, center: 2.2, scale: 1.2, missing: -99}}"
    assert job == make_job("data.target=null", as_task).job
    assert Job.model_validate_json(job.model_dump_json()) == job
    with pytest.raises(JobError, match="AUROC or R2"):
        make_job("data.target=null", target, "privacy.metrics_epsilon=1")
    with pytest.raises(JobError, match="target.scale: input should be greater than 0"):
        make_job("data.target=null", "data.target={column: logD74, scale: -1}")


def test_a_csv_and_a_parquet_give_the_same_labels(make_job: MakeJob, tmp_path: Path) -> None:
    """A CSV's 0, 1 and true are read as text if the classes are text."""
    for classes, values in (
        (["0", "1"], ["0", "1"]),
        (["true", "false"], ["true", "false"]),
        ([False, True], [False, True]),
        ([1, 2], [1, 2]),
    ):
        table = pyarrow.parquet.read_table(tmp_path / "alder.parquet")
        labels = pa.array([values[i % 2] for i in range(150)])
        table = table.set_column(table.column_names.index("diagnosis"), "diagnosis", labels)
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
        pyarrow.csv.write_csv(table, tmp_path / "a.csv")
        contract = make_job(f"data.target.classes={classes}").job.data
        one, other = (
            load_data(tmp_path / f"a.{kind}", contract, tmp_path / "rejected")
            for kind in ("parquet", "csv")
        )
        np.testing.assert_array_equal(one.train.labels, other.train.labels)
        assert set(one.train.labels) == {0, 1}


def test_class_weights_multiply_a_records_loss_and_not_what_clipping_allows() -> None:
    target = Target(column="y", classes=["healthy", "ill"], class_weights={"ill": 3.0})
    loss = WeightedClasses(target)
    outputs, labels = torch.tensor([[0.2, -1.0], [0.2, -1.0]]), torch.tensor([0, 1])
    plain = functional.cross_entropy(outputs, labels, reduction="none")
    torch.testing.assert_close(loss(outputs, labels), plain * torch.tensor([1.0, 3.0]))
    model, x = nn.Linear(4, 2), torch.randn(64, 4, generator=torch.manual_seed(0))
    way = clipped_sum(model, 4, loss, torch.tensor([0]))
    huge = WeightedClasses(
        Target(column="y", classes=["healthy", "ill"], class_weights={"ill": 1e12})
    )
    for weighted in (way, clipped_sum(model, 4, huge, torch.tensor([0]))):
        for row in range(4):
            one = weighted(x[row : row + 1], torch.tensor([1]), 0.1).sums
            assert torch.cat([g.flatten() for g in one]).norm() <= 0.1 * (1 + 1e-5)


def test_the_weight_of_positives_multiplies_their_loss_alone() -> None:
    tasks = {"hit": Task(positive_weight=5.0, weight=2.0), "size": Task(kind="regression")}
    plain = {"hit": Task(weight=2.0), "size": Task(kind="regression")}
    outputs = torch.tensor([[0.3, 1.0], [0.3, 1.0], [0.3, 1.0]])
    labels = torch.tensor([[[1.0, NAN], [0, 0]], [[0.0, NAN], [0, 0]], [[NAN, 1.0], [0, 0]]])
    weighted, unweighted = MultiTask(tasks)(outputs, labels), MultiTask(plain)(outputs, labels)
    torch.testing.assert_close(weighted, unweighted * torch.tensor([5.0, 1.0, 1.0]))


@pytest.mark.parametrize("weights", [{}, {0: 0.01}, {1: 30.0, 2: 0.5}])
def test_an_audit_reads_labels_from_a_weighted_gradient(
    weights: dict[int, float], make_job: MakeJob
) -> None:
    """The attacker knows the weights: they are in the job."""
    contract = DataSection.model_validate(
        {
            "features": {"kind": "columns", "columns": {"x": {}}},
            "folds": {"kind": "random", "salt": "s"},
            "target": {"column": "y", "classes": [0, 1, 2], "class_weights": weights},
        }
    )
    job = make_job().job.model_copy(update={"data": contract})
    found, loss = labelling(job), record_loss(job, {})
    for labels in itertools.combinations_with_replacement(range(3), 3):
        bias = torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64, requires_grad=True)
        outputs = bias.expand(3, 3)
        loss(outputs, torch.tensor(labels)).sum().backward()  # type: ignore[no-untyped-call]
        assert bias.grad is not None
        read = found.from_bias(outputs.detach(), bias.grad, 3)
        assert read.tolist() == list(labels)


TASKS = "data.target=null", "data.tasks={hit: {}, size: {kind: regression}}"
TARGET = ("data.target.classes=[malignant, benign]",)
HIT, SIZE = "data.tasks.hit", "data.tasks.size"


@pytest.mark.parametrize(
    ("job", "setting"),
    [
        (TARGET, "data.target.class_weights={benign: 2.0}"),
        (TARGET, "data.target.missing=unknown"),
        (TARGET, "data.unlabelled=drop"),
        (TASKS, "data.qualifiers=drop"),
        (TASKS, f"{HIT}={{positive: 2}}"),
        (TASKS, f"{HIT}={{negative: -1}}"),
        (TASKS, f"{HIT}={{positive_weight: 2.0}}"),
        (TASKS, f"{HIT}={{missing: -1}}"),
        (TASKS, f"{SIZE}={{kind: regression, missing: -1}}"),
    ],
)
def test_an_approval_is_for_every_setting_of_labels(
    make_job: MakeJob, job: tuple[str, ...], setting: str
) -> None:
    """Settings at their default are left out of the digest, so that older approvals hold."""
    plain, changed = make_job(*job).job, make_job(*job, setting).job
    assert job_digest(plain) != job_digest(changed)
    new = ("class_weights", "missing", "unlabelled", "qualifiers", "positive", "negative")
    assert not any(f'"{name}"' in plain.data.model_dump_json() for name in new)
    assert Job.model_validate_json(changed.model_dump_json()) == changed
