"""Files changed by a disk, an editor or a stranger give one message, no value, and lose nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest

from blindsum.actors.messages import Standing
from blindsum.actors.round_report import RoundReport
from blindsum.he.identity import Identity
from blindsum.pipelines.prediction.predict import predict
from blindsum.pipelines.run.run_log import RunLog, read_log
from blindsum.platform.data.preparation.recipe import load_recipe, load_sources
from blindsum.platform.data.reading import read_table
from blindsum.platform.data.table import load_data
from blindsum.platform.evaluation.figures import Metrics
from blindsum.platform.job.file import load_job
from blindsum.platform.job.owner import OwnerFile
from blindsum.platform.job.private_tasks import read_private_tasks
from blindsum.platform.job.yaml_reader import read_section
from blindsum.platform.privacy.lifetime_limit import Limit
from blindsum.platform.state.audit_log import AuditLog
from blindsum.platform.state.checkpoint import Checkpoint, Checkpoints
from blindsum.platform.state.ledger import Ledger
from blindsum.platform.training.average import Averaged
from tests.conftest import MakeJob
from tests.fuzz.mutation import COUNT, mutants, said_of
from tests.platform.test_prediction import molecules, written
from tests.platform.test_reading import SDF


@pytest.mark.parametrize(
    "kind", ["parquet", "csv", "csv.gz", "csv.bz2", "tsv.zst", "feather", "arrows"]
)
def test_tables(kind: str, make_job: MakeJob, tmp_path: Path) -> None:
    contract = make_job().job.data
    table = pyarrow.parquet.read_table(tmp_path / "alder.parquet").slice(0, 60)
    # values that would be known again in a message
    radius = pa.array(np.linspace(7.123456, 8.654321, table.num_rows))
    table = table.set_column(table.column_names.index("mean_radius"), "mean_radius", radius)
    path, rejects = tmp_path / f"mutant.{kind}", tmp_path / "rejected_rows.csv"
    written = pa.BufferOutputStream()
    if kind == "parquet":
        pyarrow.parquet.write_table(table, written)
    elif kind == "arrows":
        with pa.ipc.new_stream(written, table.schema) as writer:
            writer.write_table(table)
    elif kind == "feather":
        pyarrow.feather.write_feather(table, written)
    else:
        options = pyarrow.csv.WriteOptions(delimiter="\t" if "tsv" in kind else ",")
        pyarrow.csv.write_csv(table, written, options)
    codec = {"gz": "gzip", "bz2": "bz2", "zst": "zstd"}.get(kind.rpartition(".")[2])
    with pa.output_stream(str(path), compression=codec) as file:
        file.write(written.getvalue())
    content, read = path.read_bytes(), 0
    known = {repr(value) for value in radius.to_pylist()}
    for mutant in mutants(content):
        path.write_bytes(mutant)
        said = said_of(lambda: load_data(path, contract, rejects))
        read += said is None
        assert said is None or not any(value in said for value in known), said
        assert path.read_bytes() == mutant
    # bzip2 notices every change by its checksums
    assert read or kind == "csv.bz2", "some changes do no harm"


def test_labelled_tables(tmp_path: Path) -> None:
    """To which probabilities are calibrated."""
    features = {"kind": "ecfp", "smiles": "structure", "bits": 64}
    tasks = {"sick": {"positive": "ill", "negative": "well"}, "soluble": {}}
    model = written(molecules(features, tasks, tmp_path), tmp_path)
    path = tmp_path / "labelled.csv"
    rows = [f"{'C' * (1 + i % 9)}O,{('ill', 'well')[i % 2]},{i % 2}" for i in range(60)]
    good, read = "\n".join(["structure,sick,soluble", *rows]).encode(), 0
    (tmp_path / "table.csv").write_text("structure\nCCO\n")
    for mutant in mutants(good, COUNT // 4):  # each is a whole prediction
        path.write_bytes(mutant)
        said = said_of(lambda: predict(model, tmp_path / "table.csv", True, path))
        read += said is None
        assert said is None or not any(value in said for value in ("CCCO", "well,"))
    assert read


def test_molecules(tmp_path: Path) -> None:
    content, path = SDF.encode(), tmp_path / "mutant.sdf"
    answers = set()
    for mutant in mutants(content):
        path.write_bytes(mutant)
        said = said_of(lambda: read_table(path, ["code"]))
        answers.add(said is None)
        assert said is None or not any(value in said for value in ("CCO", "0.31", "mol-1"))
    assert True in answers, "some changes do no harm"


def test_folders_of_tables(make_job: MakeJob, tmp_path: Path) -> None:
    contract, folder = make_job().job.data, tmp_path / "folder"
    folder.mkdir()
    table = pyarrow.parquet.read_table(tmp_path / "alder.parquet")
    # values that would be known again in a message
    radius = pa.array(np.linspace(7.123456, 8.654321, table.num_rows))
    table = table.set_column(table.column_names.index("mean_radius"), "mean_radius", radius)
    for i in range(2):
        pyarrow.parquet.write_table(table.slice(60 * i, 60), folder / f"part-{i}.parquet")
    path, rejects = folder / "part-1.parquet", tmp_path / "rejected_rows.csv"
    whole, known = (folder / "part-0.parquet").read_bytes(), {repr(x) for x in radius.to_pylist()}
    answers = set()
    for mutant in mutants(path.read_bytes(), COUNT // 2):
        path.write_bytes(mutant)
        said = said_of(lambda: load_data(folder, contract, rejects))
        answers.add(said is None)
        assert said is None or not any(value in said for value in known), said
        assert path.read_bytes() == mutant and (folder / "part-0.parquet").read_bytes() == whole
    assert answers == {True, False}, "some changes do no harm, and others are named"


def test_jobs(make_job: MakeJob, tmp_path: Path) -> None:
    content = make_job().path.read_bytes()
    path, answers = tmp_path / "mutant.yaml", set()
    for mutant in mutants(content):
        path.write_bytes(mutant)
        answers.add(said_of(lambda: load_job(path)) is None)
        assert path.read_bytes() == mutant
    assert answers == {True, False}, "some changes do no harm, and others are named"


OWNER = b"""names: [alder]
state: /srv/blindsum/alder
datasets:
  solubility: {path: /data/solubility.parquet, private_tasks: /data/own.yaml}
approved_jobs_only: true
"""


def test_owners_files(tmp_path: Path) -> None:
    path, answers = tmp_path / "silo.yaml", set()
    for mutant in mutants(OWNER):
        path.write_bytes(mutant)
        answers.add(said_of(lambda: read_section(path, OwnerFile, "owner's file", "")) is None)
    assert answers == {True, False}, "some changes do no harm, and others are named"


TASKS = b"""assay_a: {kind: binary}
assay_b: {kind: regression, center: 5.0, scale: 1.5}
"""


def test_private_tasks(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    for mutant in mutants(TASKS):
        path.write_bytes(mutant)
        said = said_of(lambda: read_private_tasks(path, {"known"}))
        assert said is None or "assay" not in said


PREPARE = Path(__file__).parents[2] / "examples/assays/prepare"


def test_recipes_and_sources(tmp_path: Path) -> None:
    path, answers = tmp_path / "mutant.yaml", set()
    for example, read in (("recipe.yaml", load_recipe), ("alder.yaml", load_sources)):
        for mutant in mutants((PREPARE / example).read_bytes(), COUNT // 2):
            path.write_bytes(mutant)
            answers.add(said_of(lambda read=read: read(path)) is None)  # type: ignore[misc]
    assert answers == {True, False}


def test_run_logs(make_job: MakeJob, tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run", "run", make_job())
    log.open("mlflow-run")
    metrics = Metrics(saturated=0.0, large=0.01, unclipped=None, held_out=None)
    log.round(
        report := RoundReport(
            round=1,
            attempt=1,
            range=0.5,
            metrics=metrics,
            model_digest="d" * 64,
            state_digest="e" * 64,
            epsilon={"alder": 1.0},
            up_bytes=10,
            down_bytes=10,
            seconds=0.1,
            phases={"train": 0.1},
            roster=("alder", "birch", "cedar"),
        ),
        Standing(round=1, model="d" * 64, range=0.5),
    )
    log.figures(report, {"accuracy": 0.9})
    log.close()
    (path,), answers = (tmp_path / "run").glob("*.jsonl"), set()
    for mutant in mutants(path.read_bytes()):
        path.write_bytes(mutant)
        answers.add(said_of(lambda: read_log(path.parent)) is None)
        assert path.read_bytes() == mutant
    assert answers == {True, False}, "some changes do no harm, and others are named"


def test_checkpoints(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "run")
    kept.write(
        Checkpoint(
            round=3,
            model=np.ones(8, np.float32),
            average=Averaged(shared=np.ones(8, np.float32), head=(np.ones(2, np.float32),)),
            optimizer=(np.ones(8),),
            head=(),
            random=None,
            range=1.0,
            clipping=1.0,
        )
    )
    path = tmp_path / "run" / "round-3.state"
    content = path.read_bytes()
    for mutant in mutants(content):
        path.write_bytes(mutant)
        if mutant != content:
            assert kept.rounds() == {}
            assert said_of(lambda: kept.read(3))


@pytest.mark.parametrize("kind", ["ledger", "audit"])
def test_chains(kind: str, tmp_path: Path) -> None:
    """What opens has every entry that it had, or a beginning of them: never other ones."""
    identity = Identity(tmp_path / "identity.pem")
    path = tmp_path / f"{kind}.sqlite"

    def entries(number: int = 0) -> list[Any]:
        """All entries, after so many more."""
        found: list[Any]
        if kind == "ledger":
            ledger = Ledger(path, "alder", identity)
            for i in range(number):
                ledger.set_limit(Limit(9.0 + i, 1e-4))
            found = ledger.entries()
            ledger.close()
            return found
        log = AuditLog(path, "alder", identity)
        for i in range(number):
            log.note("inspected", f"run-{i}", digest="d" * 64)
        found = log.events()
        log.close()
        return found

    expected = entries(4)
    content = path.read_bytes()
    for mutant in mutants(content):
        for beside in tmp_path.glob(f"{kind}.sqlite-*"):
            beside.unlink()
        path.write_bytes(mutant)
        found: list[Any] = []
        if said_of(lambda found=found: found.extend(entries())) is None:  # type: ignore[misc]
            assert found == expected[: len(found)]
