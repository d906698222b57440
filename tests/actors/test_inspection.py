"""What all silos have against a job is told at once; jobs with weights, numbers and mapped labels
run."""

from __future__ import annotations

import csv
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from blindsum.actors import waiting
from blindsum.actors.cluster import Cluster
from blindsum.actors.federation import Federation
from blindsum.actors.ray_cluster import RayCluster
from blindsum.actors.silo import Silo
from blindsum.actors.thread_cluster import ThreadCluster
from blindsum.actors.thread_peer import Killed
from blindsum.pipelines.run.check import check
from blindsum.platform.errors import DataError, ModelsDiffer, PrivacyError, SiloLost, in_one
from blindsum.platform.job.file import JobFile
from blindsum.platform.training.models import model_of, set_parameters
from tests.conftest import SILOS, MakeJob

CANARY = "C1CANARY7"


def change(path: Path, column: str, values: list[Any]) -> None:
    """Set a column's first values, or add the column."""
    table = pyarrow.parquet.read_table(path)
    if column not in table.column_names:
        table = table.append_column(column, pa.array(values))
    else:
        old = table.column(column).to_pylist()
        new = pa.array(values + old[len(values) :], table.schema.field(column).type)
        table = table.set_column(table.column_names.index(column), column, new)
    pyarrow.parquet.write_table(table, path)


@pytest.fixture
def federations() -> Iterator[Any]:
    made: list[Federation] = []

    def make(job_file: JobFile, cluster: Cluster | None = None, run: str = "run") -> Federation:
        folder = str(job_file.folder)
        made.append(Federation(job_file.job, run, folder, cluster or ThreadCluster()))
        return made[-1]

    yield make
    for one in made:
        one.close()


def spoil(folder: Path) -> None:
    change(folder / "alder.parquet", "mean_radius", [None])
    change(folder / "alder.parquet", "mean_texture", [float("nan")])
    change(folder / "birch.parquet", "diagnosis", ["benign", CANARY])


def require_all_named(said: str) -> None:
    assert "silo 'alder'" in said and "silo 'birch'" in said and "cedar" not in said
    assert "columns 'mean_radius' and 'mean_texture' have missing" in said
    assert "values that are not in data.target.classes (malignant, benign)" in said
    assert CANARY not in said


def test_the_faults_of_all_silos_are_one_error(
    make_job: MakeJob, federations: Any, tmp_path: Path
) -> None:
    spoil(tmp_path)
    with pytest.raises(DataError) as caught:
        federations(make_job()).inspect()
    require_all_named(str(caught.value))
    listed = tmp_path / "state" / "birch" / "runs" / "run" / "rejected_rows.csv"
    (row,) = csv.DictReader(listed.open())
    assert (row["row"], row["value"]) == ("2", CANARY)
    assert listed.stat().st_mode & 0o777 == 0o600
    with pytest.raises(DataError) as caught:
        check(make_job(), None)
    require_all_named(str(caught.value))


@pytest.mark.usefixtures("cluster")
def test_the_faults_of_all_silos_are_one_error_over_ray(
    make_job: MakeJob, federations: Any, tmp_path: Path
) -> None:
    spoil(tmp_path)
    with pytest.raises(DataError) as caught:
        federations(make_job(), RayCluster()).inspect()
    require_all_named(str(caught.value))


def test_a_fault_is_told_although_another_silo_dies_or_keeps_silent(
    make_job: MakeJob, federations: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd(Silo):
        how = "dies"

        def inspect(self) -> Any:
            if self.name == "cedar" and self.how == "dies":
                raise Killed
            if self.name == "cedar":
                released.wait(30)
            return super().inspect()

    released = threading.Event()
    monkeypatch.setattr(waiting, "OTHER_FAULTS_S", 1.5)
    job_file = make_job()
    with pytest.raises(SiloLost, match="cedar"):
        federations(job_file, ThreadCluster(Odd), "one").inspect()
    spoil(tmp_path)
    Odd.how = "keeps silent"
    with pytest.raises(DataError) as caught:
        federations(job_file, ThreadCluster(Odd), "two").inspect()
    released.set()
    require_all_named(str(caught.value))


def test_silos_say_the_same_size_of_the_model(make_job: MakeJob, federations: Any) -> None:
    """It bounds a silo's later answers, and is what the driver announces."""

    class Boasting(Silo):
        def inspect(self) -> Any:
            said = super().inspect()
            return replace(said, parameters=2**40) if self.name == "birch" else said

    with pytest.raises(ModelsDiffer, match="different numbers of parameters"):
        federations(make_job(), ThreadCluster(Boasting)).inspect()


def test_one_error_for_several() -> None:
    alike = [PrivacyError("too much", "Lower it.", silo=name) for name in SILOS]
    whole = in_one(alike, of_all=True)
    assert type(whole) is PrivacyError and str(whole) == "too much. Lower it."
    assert str(in_one(alike[:2], of_all=False)).count("too much") == 2
    assert in_one(alike[:1], of_all=False) is alike[0]
    mixed = in_one([*alike[:1], DataError("gaps", silo="birch")], of_all=False)
    assert "silo 'alder': too much. Lower it.\nsilo 'birch': gaps" in str(mixed)


NO_NOISE = "privacy={noise: none}", "training.rounds=2", "training.local_steps=10"


def test_a_target_without_classes_is_trained_as_a_number(
    make_job: MakeJob, federations: Any, tmp_path: Path
) -> None:
    for name in SILOS:
        path = tmp_path / f"{name}.parquet"
        radius = np.array(pyarrow.parquet.read_table(path)["mean_radius"])
        change(path, "size", (2.0 * radius).tolist()[:-1] + [-99.0])
    job_file = make_job(
        *NO_NOISE,
        "data.target=null",
        "data.target={column: size, center: 28, scale: 7, missing: -99}",
        "data.unlabelled=drop",
        "data.folds=null",
        "data.folds={kind: random, salt: s, test_fraction: 0.25}",
    )
    one = federations(job_file)
    one.inspect()
    one.exchange_keys()
    for number in (1, 2):
        one.run_round(number)
    found = one.evaluate().held_out
    assert found.regression_tasks == 3 and found.r2 > 0.5 and found.dropped == 3


def test_class_weights_move_the_trained_model(
    make_job: MakeJob, federations: Any, tmp_path: Path, breast_cancer: pa.Table
) -> None:
    """With the weight, it calls more records ill. The labels are booleans."""
    for name in SILOS:
        path = tmp_path / f"{name}.parquet"
        table = pyarrow.parquet.read_table(path)
        ill = np.array(table["diagnosis"]) == "malignant"
        change(path, "ill", ill.tolist())
    shares = []
    x = np.stack([np.array(breast_cancer[name]) for name in job_columns(make_job())], 1)
    for i, weights in enumerate(("{}", "{true: 20}")):
        target = f"data.target={{column: ill, classes: [false, true], class_weights: {weights}}}"
        job_file = make_job(*NO_NOISE, "data.target=null", target)
        one = federations(job_file, None, f"run{i}")
        one.inspect()
        one.exchange_keys()
        report = one.run_round(1)
        vector = one.release(1, report.state_digest).vector
        assert one.evaluate().held_out.records > 60
        shares.append(share_of_ill(job_file, vector, x))
    assert shares[1] > shares[0] + 0.1


def job_columns(job_file: JobFile) -> dict[str, Any]:
    features: Any = job_file.job.data.features
    return dict(features.columns)


def share_of_ill(job_file: JobFile, vector: Any, x: np.ndarray) -> float:
    """Return the share of records that a model calls ill."""
    scalings = job_columns(job_file).values()
    centers = np.array([one.center for one in scalings])
    scales = np.array([one.scale for one in scalings])
    scaled = np.clip((x - centers) / scales, -5, 5).astype(np.float32)
    model = model_of(job_file.job)
    set_parameters(model, vector)
    with torch.no_grad():
        return float((model(torch.from_numpy(scaled)).argmax(1) == 1).float().mean())
