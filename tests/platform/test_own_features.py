"""Features from a job's own dataset: declared, checked record by record, and each its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from blindsum.platform.data.computing import ALONE
from blindsum.platform.data.own_features import DatasetFeatures
from blindsum.platform.data.records import Fold
from blindsum.platform.data.table import load_data
from blindsum.platform.errors import BlindsumError, DataError, JobError, ModelError
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.model_section import Factory
from blindsum.platform.job.own_features_section import OwnFeatures
from blindsum.platform.job.tensors import Tensors, TensorSection
from blindsum.platform.job.training_section import TrainingSection
from blindsum.platform.privacy.randomness import seeded_generator
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import build_model, get_parameters, set_parameters
from blindsum.platform.training.named_tensors import NamedTensors
from tests.conftest import MakeJob
from tests.plans import plan_by_hand

BEGIN = """
import torch
from torch.utils.data import Dataset


class Rows(Dataset):
    def __init__(self, table):
        self.rows = table.to_pylist()

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return item(self.rows[i])


def made(table):
    return Rows(table)


"""
PLAIN = "def item(row):\n    return torch.tensor([row['x'], 2 * row['x'], 1.0])\n"
BY_NAME = """
def item(row):
    ids = [ord(c) % 50 for c in row["word"]]
    return {"one": torch.tensor([row["x"]]), "ids": torch.tensor(ids, dtype=torch.int64)}
"""
NAMED = {
    "one": {"shape": [1]},
    "ids": {"shape": [6], "dtype": "int64", "below": 50, "ragged": [0]},
}
TABLE = pa.table({"x": [float(i) for i in range(40)], "word": ["ab" * (i % 4) for i in range(40)]})
Write = Callable[..., DatasetFeatures]


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Return the features of a function whose module has that code."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(code: str, shape: Any, begin: str = BEGIN, **columns: str) -> DatasetFeatures:
        sys.modules.pop("owndata", None)
        (tmp_path / "owndata.py").write_text(begin + code)
        section = {"kind": "factory", "function": "owndata:made", "shape": shape}
        columns = columns or {"x": "number", "word": "text"}
        return DatasetFeatures(section=OwnFeatures.model_validate(section | {"columns": columns}))

    yield write
    sys.modules.pop("owndata", None)


def test_a_record_is_the_tensor_that_the_function_makes_of_it(dataset: Write) -> None:
    kind = dataset(PLAIN, [3])
    made = kind.compute(kind.uniform(TABLE), ALONE)
    assert kind.shape == (3,) and kind.width == 3 and made.usable.all()
    x = np.arange(40, dtype=np.float32)
    np.testing.assert_array_equal(made.features, np.stack([x, 2 * x, np.ones(40)], 1))
    assert isinstance(made.features, np.ndarray) and made.features.dtype == np.float32
    nothing = kind.compute(kind.uniform(TABLE.slice(0, 0)))
    assert nothing.features.shape == (0, 3)


def test_the_function_gets_the_job_s_columns_in_the_job_s_types(dataset: Write) -> None:
    code = """
def made(table):
    types = [str(one) for one in table.schema.types]
    assert types == ["double", "int64", "string", "large_binary", "list<item: double>"]
    return Rows(table)


def item(row):
    return torch.tensor([row["a"] + sum(row["e"])])
"""
    columns = {"a": "number", "b": "integer", "c": "text", "d": "bytes", "e": "numbers"}
    kind = dataset(code, [1], **columns)
    table = pa.table(
        {
            "label": pa.array([1, 0]),
            "a": pa.array([1.5, 2.5], pa.float32()),
            "b": pa.array([1, 2], pa.int8()),
            "c": pa.array(["u", "v"], pa.large_string()),
            "d": pa.array([b"\0", b"x"], pa.binary()),
            "e": pa.array([[1, 2], []], pa.list_(pa.int32())),
        }
    )
    kind.check(table, Path("a.parquet"))
    made = kind.compute(kind.uniform(table))
    assert made.features.tolist() == [[4.5], [2.5]]  # type: ignore[union-attr]
    with pytest.raises(DataError, match="'d' is string, expected bytes"):
        kind.check(table.set_column(4, "d", pa.array(["a", "b"])), Path("a.parquet"))


def test_tensors_by_name_reach_the_model_as_they_were(dataset: Write) -> None:
    kind = dataset(BY_NAME, NAMED)
    made, tensors = kind.compute(kind.uniform(TABLE)), kind.shape
    assert isinstance(tensors, Tensors) and kind.width == 1 + 6 + 1
    seen: dict[str, torch.Tensor] = {}

    class Model(nn.Module):
        def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
            seen.update(x)
            return x["one"]

    NamedTensors(Model(), tensors)(torch.from_numpy(made.features))
    assert list(seen) == ["one", "ids_mask", "ids"]
    assert seen["ids"].dtype == torch.int64 and seen["ids_mask"].dtype == torch.bool
    for i, word in enumerate(TABLE["word"].to_pylist()):
        ids = [ord(c) % 50 for c in word]
        assert seen["ids"][i].tolist() == ids + [0] * (6 - len(ids))
        assert seen["ids_mask"][i].tolist() == [k < len(ids) for k in range(6)]
        assert seen["one"][i].item() == i


def test_a_record_s_tensors_are_where_its_row_is() -> None:
    tensors = Tensors({name: TensorSection.model_validate(one) for name, one in NAMED.items()})
    seen: dict[str, torch.Tensor] = {}

    class Model(nn.Module):
        def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
            seen.update(x)
            return x["one"]

    NamedTensors(Model(), tensors)(torch.zeros(2, tensors.values, device="meta"))
    assert {one.device.type for one in seen.values()} == {"meta"}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=5))
def test_ragged_dimensions_have_a_mask_of_where_values_are(sizes: list[tuple[int, int]]) -> None:
    section = TensorSection.model_validate({"shape": [3, 2, 4], "ragged": [0, 2]})
    tensors, rows = Tensors({"x": section}), np.zeros((len(sizes), 26), np.float32)
    rows[:, :24] = 1.0
    rows[:, 24:] = sizes
    seen: list[dict[str, torch.Tensor]] = []

    class Model(nn.Module):
        def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
            seen.append(x)
            return x["x"]

    NamedTensors(Model(), tensors)(torch.from_numpy(rows))
    for i, (a, b) in enumerate(sizes):
        expected = torch.zeros(3, 4)
        expected[:a, :b] = 1
        assert seen[0]["x_mask"][i].equal(expected.bool())
        assert seen[0]["x"][i].equal(expected[:, None].expand(3, 2, 4))


def returns(text: str) -> str:
    return f"def item(row):\n    return {text}\n"


def by_name(old: str, new: str) -> str:
    assert old in BY_NAME
    return BY_NAME.replace(old, new)


@pytest.mark.parametrize(
    ("code", "shape", "said"),
    [
        (returns("[1.0]"), [1], "is no torch.Tensor"),
        (returns("torch.ones(1).double()"), [1], "is not float32"),
        (returns("torch.ones(2)"), [1], "has not the declared shape"),
        (returns("torch.ones(1, 1)"), [1], "has not 1 dimensions"),
        (returns("torch.tensor([torch.inf])"), [1], "has values that are not finite"),
        ("def item(row):\n    raise KeyError(row['word'])", [1], "fails with KeyError"),
        ("def item(row):\n    raise SystemExit", [1], "fails with SystemExit"),
        (returns("{'two': torch.ones(1)}"), NAMED, "not a dict of the declared"),
        (returns("torch.ones(1)"), NAMED, "not a dict of the declared"),
        (by_name("% 50", ""), NAMED, "'ids' has values outside 0 to 49"),
        (by_name("[ord", "[-1] + [ord"), NAMED, "'ids' has values outside 0 to 49"),
        (by_name('row["word"]]', "9 * row['word']]"), NAMED, "'ids' has not the declared shape"),
        (by_name("torch.int64", "torch.float32"), NAMED, "'ids' is not int64"),
    ],
)
def test_what_does_not_fit_its_declaration_is_said_without_its_values(
    dataset: Write, code: str, shape: Any, said: str
) -> None:
    kind = dataset(code, shape)
    made = kind.compute(kind.uniform(TABLE))
    assert made.reasons and said in made.reasons[38]
    assert len(made.features) == made.usable.sum() == 40 - len(made.reasons)
    assert not any("abab" in reason for reason in made.reasons.values())


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ValueError(table['word'][1].as_py())", "failed with ValueError"),
        ("return table.to_pylist()", "returned list"),
        ("return None", "failed with TypeError"),
        ("return Rows(table.slice(1))", "returned a dataset with another number"),
    ],
)
def test_a_function_that_makes_no_dataset_is_refused(dataset: Write, code: str, said: str) -> None:
    kind = dataset(f"{PLAIN}def made(table):\n    {code}\n", [3])
    with pytest.raises(DataError, match=f"data.features.function 'owndata:made' {said}") as caught:
        kind.compute(kind.uniform(TABLE))
    assert "ab" not in str(caught.value).replace("table", "")


CHANCE = "def item(row):\n    return torch.randn(1)"
OF_THE_TABLE = """
def made(table):
    mean = sum(table["x"].to_pylist()) / max(len(table), 1)
    rows = Rows(table)
    rows.rows = [{"x": row["x"] - mean} for row in rows.rows]
    return rows


def item(row):
    return torch.tensor([row["x"]])
"""
LEFT_FOR_THE_NEXT = """
last = [0.0]


def item(row):
    last[0] += row["x"]
    return torch.tensor([last[0]])
"""
LACKING_BECAUSE_OF_ANOTHER = """
def made(table):
    rows = Rows(table)
    for row in rows.rows:
        row["all"] = max(table["x"].to_pylist()) > 38
    return rows


def item(row):
    return torch.zeros(2 if row["all"] else 1)
"""


@pytest.mark.parametrize(
    "code", [CHANCE, OF_THE_TABLE, LEFT_FOR_THE_NEXT, LACKING_BECAUSE_OF_ANOTHER]
)
def test_a_record_that_is_not_its_own_is_refused(dataset: Write, code: str) -> None:
    kind = dataset(code, [1])
    with pytest.raises(DataError, match="other tensors of the same records a second time"):
        kind.compute(kind.uniform(TABLE))


def test_records_of_a_small_table_are_made_again_without_some_of_the_others(
    dataset: Write,
) -> None:
    kind = dataset(OF_THE_TABLE, [1])
    for records in (2, 3, 7):
        table = pa.table({"x": [float(i**3) for i in range(records)], "word": ["a"] * records})
        with pytest.raises(DataError, match="other tensors of the same records"):
            kind.compute(kind.uniform(table))


def test_a_function_that_is_absent_is_named(dataset: Write) -> None:
    kind = dataset(PLAIN, [3])
    other = kind.section.model_copy(update={"function": "owndata:nothing"})
    with pytest.raises(ModelError, match="data.features.function 'owndata:nothing' cannot be im"):
        DatasetFeatures(section=other).compute(kind.uniform(TABLE))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"function": "owndata"}, "write it as module:function"),
        ({"columns": {}}, "at least 1 item"),
        ({"columns": {"x": "float"}}, "'number', 'integer', 'text', 'bytes' or 'numbers'"),
        ({"shape": [2**11, 2**10]}, "more than 1,048,576 values"),
        ({"shape": [0]}, "greater than or equal to 1"),
        ({"shape": {"a": {"shape": [1], "dtype": "int64"}}}, "below goes with dtype int64"),
        ({"shape": {"a": {"shape": [1], "below": 3}}}, "below goes with dtype int64"),
        ({"shape": {"a": {"shape": [1], "ragged": [1]}}}, "ragged names a dimension beyond 0"),
        ({"shape": {"a": {"shape": [1, 2], "ragged": [1, 0]}}}, "in ascending order"),
        (
            {"shape": {"a": {"shape": [1], "ragged": [0]}, "a_mask": {"shape": [1]}}},
            "'a_mask' is the name of a mask",
        ),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(changes: Any, said: str) -> None:
    section = {"kind": "factory", "function": "a:b", "columns": {"x": "number"}, "shape": [1]}
    with pytest.raises(ValidationError, match=said):
        OwnFeatures.model_validate(section | changes)


@pytest.mark.parametrize(
    ("shape", "model", "said"),
    [
        ("{a: {shape: [2]}}", "linear", "tensors by name need model.kind factory"),
        ("[2, 3]", "cnn", "needs a shape of channels, height and width"),
        ("[2]", "transformer", "needs data.features.kind text"),
        ("[1, 8, 8]", "cnn", None),
        ("[4]", "mlp", None),
    ],
)
def test_models_fit_the_tensors(
    make_job: MakeJob, shape: str, model: str, said: str | None
) -> None:
    features = f"{{kind: factory, function: a:b, columns: {{x: number}}, shape: {shape}}}"
    changes = (f"data.features={features}", f"model={{kind: {model}}}")
    if said is None:
        assert make_job(*changes).job.model.kind == model
        return
    with pytest.raises(JobError, match=said):
        make_job(*changes)


MODEL = """
from torch import nn


class Net(nn.Module):
    def __init__(self, tensors, outputs):
        super().__init__()
        assert tensors["ids"].below == 50 and tensors["one"].shape == [1]
        self.table = nn.Embedding(50, 4)
        self.last = nn.Linear(5, outputs)

    def forward(self, x):
        mask = x["ids_mask"].unsqueeze(2).float()
        mean = (self.table(x["ids"]) * mask).sum(1) / mask.sum(1).clamp(min=1)
        return self.last(torch.cat([mean, x["one"]], 1))


import torch
"""


def test_a_private_step_on_tensors_by_name_is_the_clipped_sum_of_each_record_s_gradient(
    dataset: Write, tmp_path: Path
) -> None:
    (tmp_path / "ownmodel.py").write_text(MODEL)
    kind = dataset(BY_NAME, NAMED)
    features = kind.compute(kind.uniform(TABLE.slice(0, 9))).features
    assert isinstance(features, np.ndarray)
    section = Factory(kind="factory", factory="ownmodel:Net")

    def built() -> nn.Module:
        return build_model(section, kind.shape, 2, seed=0, private=True)

    model, labels = built(), np.arange(9) % 2
    start = get_parameters(model)
    own = plan_by_hand(noise_multiplier=0.0, sampling_rate=1.0, clip_norm=0.05)
    training = {"rounds": 1, "local_steps": 1, "sampling_rate": 1.0, "expected_batch_size": 1.0}
    said = TrainingSection.model_validate(training | {"learning_rate": 1.0})
    trainer = LocalTrainer(model, Fold(features, labels), said, own, seeded_generator(0))
    assert "book-keeping, at nearly the cost of a plain step" in trainer.says
    found = trainer.train(start).values
    expected, plain = np.zeros_like(found), built()
    set_parameters(plain, start)
    for record, label in zip(torch.from_numpy(features), torch.from_numpy(labels), strict=True):
        loss = nn.functional.cross_entropy(plain(record[None]), label[None])
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, plain.parameters())])
        expected -= (gradient * 0.05 / gradient.norm()).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    sys.modules.pop("ownmodel", None)


def test_rows_that_give_no_tensors_are_listed_at_the_silo_and_dropped_if_the_job_says_so(
    dataset: Write, tmp_path: Path
) -> None:
    code = "def item(row):\n    return torch.ones(3 if row['x'] != 17 else 2)\n"
    kind = dataset(code, [3])
    table = TABLE.append_column("ill", pa.array([i % 2 for i in range(40)]))
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    content = {
        "features": kind.section.model_dump(),
        "target": {"column": "ill", "classes": [0, 1]},
        "folds": {"kind": "random", "salt": "s", "test_fraction": 0.3},
    }
    with pytest.raises(BlindsumError, match="cannot be used: its tensor has not the declared"):
        load_data(tmp_path / "a.parquet", DataSection.model_validate(content), tmp_path / "r.csv")
    assert "18,x,its tensor has not the declared shape,17.0" in (tmp_path / "r.csv").read_text()
    content["unparsable"] = "drop"
    found = load_data(tmp_path / "a.parquet", DataSection.model_validate(content), tmp_path / "r")
    assert found.dropped == 1 and len(found.train) + len(found.test) == 39
