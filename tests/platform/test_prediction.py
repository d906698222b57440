"""A released model predicts from raw columns, in the units of its job, and never shifts a row."""

from __future__ import annotations

import hashlib
import io
import json
import math
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsum.platform.data.features import features_of
from blindsum.platform.data.split import folds_of
from blindsum.platform.data.table import load_data
from blindsum.platform.errors import DataError, ModelError
from blindsum.platform.job.labels_section import Task
from blindsum.platform.job.schema import Job
from blindsum.platform.prediction.predictor import Predictor
from blindsum.platform.prediction.released import Released, read_released, released
from blindsum.platform.training.models import model_of
from tests.conftest import COLUMNS, MakeJob, job_content

STATEMENT = {"Privacy parameters": {"epsilon": 3.0}}
SMILES = ["CCO", "not a molecule", "c1ccccc1O", None, "CC(=O)Oc1ccccc1C(=O)O", "C" * 2000, ""]


def random_model(job: Job, own: int = 0) -> torch.nn.Module:
    model = model_of(job, private=False, own=own)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return model


def written(job: Job, folder: Path, own: dict[str, Task] | None = None) -> Path:
    path = folder / "model.blindsum"
    model = random_model(job, len(own or {}))
    path.write_bytes(released(job, "trial-1", 3, model, STATEMENT, own))
    return path


def predictor(job: Job, folder: Path, own: dict[str, Task] | None = None) -> Predictor:
    return Predictor(read_released(written(job, folder, own)))


def molecules(features: dict[str, Any], tasks: dict[str, Any], tmp_path: Path) -> Job:
    content = job_content(tmp_path)
    content["data"] |= {
        "features": features,
        "tasks": tasks,
        "folds": {"kind": "scaffold", "salt": "s"},
    }
    del content["data"]["target"]
    return Job.model_validate(content)


def test_what_is_written_is_read(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job().job
    found = read_released(written(job, tmp_path))
    assert found.terms.target == job.data.target
    assert (found.terms.run, found.terms.round, found.statement) == ("trial-1", 3, STATEMENT)
    same = random_model(job).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in found.model.state_dict().items())
    assert written(job, tmp_path).read_bytes() == written(job, tmp_path).read_bytes()


def test_predictions_are_those_of_the_silos_own_features(
    make_job: MakeJob, tables: dict[str, Path], tmp_path: Path
) -> None:
    job = make_job().job
    table = pq.read_table(tables["alder"])
    found = predictor(job, tmp_path).predict(table.select([*reversed(COLUMNS), "patient"]))
    data = load_data(tables["alder"], job.data, tmp_path / "rejects")
    with torch.no_grad():
        chances = torch.softmax(random_model(job)(torch.from_numpy(data.test.features)), 1)
    benign = np.array(found.column("probability_benign"))
    held_out = folds_of(job.data.folds).held_out(table, features_of(job.data.features))
    assert benign[held_out] == pytest.approx(chances[:, 1].numpy(), abs=1e-6)
    named = np.where(benign > 0.5, "benign", "malignant")
    assert found.column("predicted_diagnosis").to_pylist() == named.tolist()
    assert found.column("reason").null_count == table.num_rows


def test_a_gap_has_a_reason_and_shifts_nothing(make_job: MakeJob, tmp_path: Path) -> None:
    one = predictor(make_job().job, tmp_path)
    values = {name: [14.0, 15.0, 16.0, 17.0] for name in COLUMNS}
    whole = one.predict(pa.table(values))
    gaps = values | {
        "mean_radius": [14.0, None, math.nan, 17.0],
        "mean_texture": [14.0] * 3 + [math.inf],
    }
    found = one.predict(pa.table(gaps))
    assert found.num_rows == 4
    assert [r is None for r in found.column("reason").to_pylist()] == [True, False, False, False]
    assert found.column("predicted_diagnosis").null_count == 3
    changed = values | {"mean_texture": [14.0] * 4}
    assert found.slice(0, 1).equals(one.predict(pa.table(changed)).slice(0, 1))
    assert whole.column("reason").null_count == 4


@pytest.mark.parametrize(
    "features",
    [
        {"kind": "ecfp", "smiles": "structure", "bits": 64},
        {"kind": "descriptors", "smiles": "structure", "descriptors": ["MolWt", "TPSA"]},
        {"kind": "maccs", "smiles": "structure"},
        {"kind": "projection", "smiles": "structure", "dimensions": 32},
        {"kind": "kernel", "smiles": "structure", "dimensions": 8},
    ],
)
def test_a_molecule_that_cannot_be_read_keeps_its_row(
    features: dict[str, Any], tmp_path: Path
) -> None:
    tasks = {"toxic": {}, "logd": {"kind": "regression", "center": 2.0, "scale": 3.0}}
    job = molecules(features, tasks, tmp_path)
    found = predictor(job, tmp_path).predict(pa.table({"structure": pa.array(SMILES)}))
    predicted = [reason is None for reason in found.column("reason").to_pylist()]
    assert predicted == [True, False, True, False, True, False, False]
    assert found.column("reason")[3].as_py() == "no structure"
    for row in (0, 2, 4):
        alone = predictor(job, tmp_path).predict(pa.table({"structure": [SMILES[row]]}))
        for name in found.column_names:
            value = alone.column(name)[0].as_py()
            assert found.column(name)[row].as_py() == pytest.approx(value, rel=1e-5)
    made = features_of(job.data.features).compute(pa.table({"structure": ["CCO"]}))
    x = made.features if isinstance(made.features, np.ndarray) else made.features.dense()
    with torch.no_grad():
        toxic, logd = random_model(job)(torch.from_numpy(x))[0].tolist()
    assert found.column("probability_toxic")[0].as_py() == pytest.approx(1 / (1 + math.exp(-toxic)))
    assert found.column("predicted_logd")[0].as_py() == pytest.approx(2.0 + 3.0 * logd)
    scaled = features["kind"] in ("descriptors", "kernel", "projection")
    assert ("leverage" in found.column_names) == scaled


def test_a_silos_own_model_predicts_its_private_tasks(tmp_path: Path) -> None:
    content = job_content(tmp_path)
    content["silos"] = [s | {"private_tasks": "own.yaml"} for s in content["silos"]]
    content["data"]["tasks"] = {"shared": {}}
    del content["data"]["target"]
    content["model"] = {"kind": "mlp", "hidden": [4]}
    job = Job.model_validate(content)
    own = {"mine": Task(kind="regression", center=5.0), "other": Task()}
    table = pa.table({name: [14.0] for name in COLUMNS})
    found = predictor(job, tmp_path, own).predict(table)
    assert found.column_names[:3] == ["probability_shared", "predicted_mine", "probability_other"]
    (tmp_path / "public").mkdir()
    public = predictor(job, tmp_path / "public").predict(table)
    assert public.column_names[:2] == ["probability_shared", "leverage"]


def test_a_record_far_from_the_public_constants_lies_outside(
    make_job: MakeJob, tmp_path: Path
) -> None:
    one = predictor(make_job().job, tmp_path)
    centers = {name: [COLUMNS[name]["center"]] * 3 for name in COLUMNS}
    centers["mean_radius"] = [14.0, 14.0 + 3.5 * 4, 14.0 + 3.5 * 6]
    found = one.predict(pa.table(centers))
    assert found.column("leverage").to_pylist() == pytest.approx([0.0, 4.0, 25 / 4])
    assert found.column("outside_domain").to_pylist() == [False, True, True]


def test_a_table_without_records_gives_none(make_job: MakeJob, tmp_path: Path) -> None:
    one = predictor(make_job().job, tmp_path)
    found = one.predict(pa.table({name: pa.array([], pa.float64()) for name in COLUMNS}))
    assert found.num_rows == 0
    assert found.column_names == one.outputs
    assert one.predict(pa.table({k: [v] for k, v in one.example().items()})).num_rows == 1


def test_a_missing_column_is_named(make_job: MakeJob, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="list.csv: column 'mean_radius' is missing"):
        predictor(make_job().job, tmp_path).predict(
            pa.table({n: [1.0] for n in COLUMNS if n != "mean_radius"}), Path("list.csv")
        )


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(
    content: dict[str, bytes],
    compressed: int = zipfile.ZIP_STORED,
    again: dict[str, bytes] | None = None,
) -> bytes:
    made = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w", compressed) as archive:
        warnings.simplefilter("ignore", UserWarning)  # of a name that is there twice
        for name, member in (*content.items(), *(again or {}).items()):
            archive.writestr(name, member)
    return made.getvalue()


def test_nothing_in_the_file_is_pickled(make_job: MakeJob, tmp_path: Path) -> None:
    content = members(written(make_job().job, tmp_path))
    assert sorted(content) == ["model.json", "statement.json", "weights.safetensors"]
    assert json.loads(content["model.json"])["format"] == 1
    assert int.from_bytes(content["weights.safetensors"][:8], "little") < 1000  # its header


@pytest.mark.parametrize("name", ["weights.safetensors", "statement.json"])
def test_an_altered_member_is_refused(name: str, make_job: MakeJob, tmp_path: Path) -> None:
    path = written(make_job().job, tmp_path)
    content = members(path)
    at = content[name].rindex(b"3") if name.endswith("json") else -1
    changed = bytearray(content[name])
    changed[at] ^= 1
    path.write_bytes(packed(content | {name: bytes(changed)}))
    with pytest.raises(ModelError, match=f"{name} is not the one that was released"):
        read_released(path)


def test_what_is_no_released_model_is_refused_in_one_line(
    make_job: MakeJob, tmp_path: Path
) -> None:
    path = written(make_job().job, tmp_path)
    content = members(path)
    terms = json.loads(content["model.json"])
    wider = terms | {"model": {"kind": "mlp", "hidden": [3]}}
    for wrong in (
        b"",
        b"PK\x03\x04",
        packed(content, zipfile.ZIP_DEFLATED),
        packed(content | {"../evil": b""}),
        packed(content, again=content),
        packed(content, again={"weights.safetensors": b""}),
        packed({k: v for k, v in content.items() if k != "statement.json"}),
        packed(content | {"model.json": b"{}"}),
        packed(content | {"model.json": json.dumps(terms | {"format": 2}).encode()}),
        packed(content | {"model.json": json.dumps(terms | {"more": 1}).encode()}),
        packed(content | {"model.json": json.dumps(wider).encode()}),
    ):
        path.write_bytes(wrong)
        with pytest.raises(ModelError):
            read_released(path)
    with pytest.raises(ModelError, match="there is no model"):
        read_released(tmp_path / "none.blindsum")
    with pytest.raises(ModelError):
        read_released(tmp_path)


def altered(path: Path, weights: bytes | None = None, **changes: Any) -> Path:
    """Write the file of another author, whose digests are right."""
    content = members(path)
    weights = content["weights.safetensors"] if weights is None else weights
    terms = json.loads(content["model.json"]) | changes
    terms["weights"] = hashlib.sha256(weights).hexdigest()
    content |= {"weights.safetensors": weights, "model.json": json.dumps(terms).encode()}
    path.write_bytes(packed(content))
    return path


class Unpickled:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_nothing_is_unpickled(form: str, make_job: MakeJob, tmp_path: Path) -> None:
    mark, content = tmp_path / "mark", io.BytesIO()
    if form == "torch":
        torch.save({"weight": Unpickled(mark)}, content)
    else:
        pickle.dump(Unpickled(mark), content)
    path = altered(written(make_job().job, tmp_path), content.getvalue())
    with pytest.raises(ModelError, match="weights that are not those of its model"):
        read_released(path)
    assert not mark.exists()
    pickle.loads(content.getvalue()) if form == "pickle" else torch.load(
        io.BytesIO(content.getvalue()), weights_only=False
    )
    assert mark.exists(), "the file would have run its code"


def test_a_function_of_python_makes_no_features(make_job: MakeJob, tmp_path: Path) -> None:
    features = {"kind": "factory", "columns": {"x": "text"}, "shape": [4]}
    path = altered(written(make_job().job, tmp_path), features=features | {"function": "os:system"})
    with pytest.raises(ModelError, match="data.features.function 'os:system' is a function of Py"):
        read_released(path)


@pytest.mark.parametrize(
    "factory", ["os:kill", "posix:kill", "antigravity:geohash", "os.path:join"]
)
def test_a_function_of_python_is_no_factory(
    factory: str, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be called with two numbers of the author's choice: a process and a signal."""
    called: list[str] = []
    monkeypatch.setattr("importlib.import_module", called.append)
    model = {"kind": "factory", "factory": factory}
    path = altered(written(make_job().job, tmp_path), model=model)
    with pytest.raises(ModelError, match=f"{factory}' is a function of Python itself"):
        read_released(path)
    assert not called


@pytest.mark.parametrize(
    "model",
    [
        {"kind": "mlp", "hidden": [16384] * 8},
        {"kind": "mlp", "hidden": [3]},
        {"kind": "mlp", "hidden": [1]},
    ],
)
def test_a_model_larger_than_its_weights_is_not_made(
    model: dict[str, Any], make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight of the widest layers would take 8 GB, and the file is 2 kB."""
    path = altered(written(make_job().job, tmp_path), model=model)
    made: list[int] = []
    linear = torch.nn.Linear

    def making(a: int, b: int) -> torch.nn.Module:
        if torch.empty(0).device.type != "meta":  # which takes no memory
            made.append(a * b)
        return linear(a, b)

    monkeypatch.setattr("torch.nn.Linear", making)
    with pytest.raises(ModelError, match="weights that are not those of its model"):
        read_released(path)
    assert sum(made) < 100


def test_a_tensor_larger_than_its_file_is_refused(make_job: MakeJob, tmp_path: Path) -> None:
    of = {"dtype": "F32", "shape": [2, 4 * 10**15], "data_offsets": [0, 32 * 10**15]}
    head = json.dumps({"weight": of}).encode()
    path = altered(
        written(make_job().job, tmp_path), len(head).to_bytes(8, "little") + head + bytes(64)
    )
    with pytest.raises(ModelError, match="weights that are not those of its model"):
        read_released(path)


def test_terms_that_no_job_has_are_refused(make_job: MakeJob, tmp_path: Path) -> None:
    path = written(make_job().job, tmp_path)
    content = path.read_bytes()
    mlp = {"kind": "mlp", "hidden": [4]}
    for changes in (
        {"target": None},
        {"tasks": {"a": {}}},
        {"own_tasks": {}},
        {"own_tasks": {"a": {}}, "model": mlp},
        {"target": None, "tasks": {"a": {}}, "own_tasks": {"a": {}}, "model": mlp},
        {"target": None, "tasks": {}},
    ):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="is not a released model"):
            read_released(altered(path, **changes))


def test_a_model_without_a_shared_task_predicts_nothing(tmp_path: Path) -> None:
    """Its shared part ends at the trunk."""
    content = job_content(tmp_path)
    content["silos"] = [s | {"private_tasks": "own.yaml"} for s in content["silos"]]
    del content["data"]["target"]
    content["model"] = {"kind": "mlp", "hidden": [4]}
    one = predictor(Job.model_validate(content), tmp_path)
    found = one.predict(pa.table({name: [14.0] for name in COLUMNS}))
    assert found.column_names == one.outputs == ["leverage", "outside_domain", "reason"]
    assert one.model_outputs == 0


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_is_refused_or_predicts_the_same(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    job = Job.model_validate(job_content(folder))
    path = written(job, folder)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        found: Released = read_released(path)
    except ModelError:
        return
    same = random_model(job).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in found.model.state_dict().items())
