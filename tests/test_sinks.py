"""A run writes no part of a record where anyone but its silo can read it.

Canaries are planted in identifiers, structures, labels, a remark, and the names of private tasks.
Then every place to which a run writes is searched for them: MLflow, the run's folder, Ray's session
folder with its logs, events and spilled objects, temporary folders, the terminal, the text of every
error, and the names of all files. SECURITY.md has the table of these places.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import yaml

from blindsum.actors.federation import Federation
from blindsum.actors.messages import SiloSpec
from blindsum.actors.ray_cluster import RayCluster
from blindsum.actors.silo import Silo
from blindsum.actors.silo_actor import as_actor
from blindsum.pipelines.run.output import JsonLines
from blindsum.pipelines.run.train import train
from blindsum.platform.errors import BlindsumError, DataError, Unexpected, guarded
from blindsum.platform.job.file import JobFile, load_job
from tests.conftest import SILOS

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow warns its users; not ours to mend

CANARIES = ("ZQXJK", "zqxjk", "13CH3", "7.319284", "7319284")
"""Stretches of planted values, and of the names that are a silo's own."""

POTENCY = 7.319284


def records(silo: int, count: int = 40) -> dict[str, Any]:
    return {
        "smiles": [f"[13CH3]{'C' * (i + 1)}{'NOSF'[silo]}" for i in range(count)],
        "patient": [f"ZQXJKID{silo}{i:04}" for i in range(count)],
        "toxic": [i % 2 for i in range(count)],
        "potency": [POTENCY + 1e-7 * i for i in range(count)],
        "side": ["="] * count,
        "remark": [f"ZQXJKREMARK{i}" for i in range(count)],
        "zqxjk_assay": [(i // 2) % 2 for i in range(count)],
    }


@pytest.fixture
def planted(tmp_path: Path) -> JobFile:
    content = {
        "name": "sinks",
        "seed": 1,
        "silos": [
            {
                "name": name,
                "data": f"data/{name}.parquet",
                "private_tasks": f"data/{name}.yaml",
                "state": str(tmp_path / "state" / name),
            }
            for name in SILOS
        ],
        "data": {
            "features": {"kind": "ecfp", "bits": 64},
            "tasks": {
                "toxic": {"kind": "binary"},
                "potency": {"kind": "regression", "center": 7.0, "qualifier": "side"},
            },
            "folds": {"kind": "hash", "column": "patient", "salt": "s", "test_fraction": 0.3},
        },
        "model": {"kind": "mlp", "hidden": [8]},
        "training": {
            "rounds": 2,
            "local_steps": 1,
            "sampling_rate": 0.3,
            "expected_batch_size": 10,
            "learning_rate": 0.5,
        },
        "privacy": {"noise": "local", "epsilon": 5, "delta": 1e-4},
    }
    (tmp_path / "data").mkdir()
    for i, name in enumerate(SILOS):
        pq.write_table(pa.table(records(i)), tmp_path / "data" / f"{name}.parquet")
        (tmp_path / "data" / f"{name}.yaml").write_text("zqxjk_assay: {kind: binary}\n")
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_job(path)


def seen_in(text: str | bytes) -> set[str]:
    """Canaries that stand in a text, as UTF-8 or UTF-16."""
    content = text.encode() if isinstance(text, str) else text
    return {c for c in CANARIES if c.encode() in content or c.encode("utf-16-le") in content}


def seen_under(folders: Iterator[Path] | list[Path], without: tuple[Path, ...] = ()) -> set[str]:
    """Canaries in what those folders hold and in the names of all that is in them."""
    found = set[str]()
    for folder in folders:
        for path in [folder, *folder.rglob("*")]:
            if any(path.is_relative_to(own) for own in without):
                continue
            named = seen_in(path.name)
            inside = set[str]()
            if path.is_file() and not path.is_symlink():
                inside = seen_in(path.read_bytes())
            found |= {f"{path.name}: {one}" for one in named | inside}
    return found


def session() -> Path:
    return Path(ray._private.worker._global_node.get_session_dir_path())  # type: ignore[union-attr]


class Faulty(Silo):
    """A silo with a fault: a library's error with a record in its text."""

    @guarded
    def train(self, *_: Any) -> Any:
        raise ValueError(f"no such row: ZQXJKID, {self._own.data.train.labels[0]} ZQXJKREMARK")


@pytest.mark.usefixtures("cluster")
def test_a_run_leaves_nothing_of_a_record_outside_of_its_silo(
    planted: JobFile, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = tuple(tmp_path / name for name in ("state", "data"))
    temporary = Path(tempfile.gettempdir())
    before = set(os.listdir(temporary))
    run = train(planted, None, JsonLines())
    assert run.status == "FINISHED"
    spoilt = records(0) | {"smiles": ["ZQXJK no molecule", *records(0)["smiles"][1:]]}
    pq.write_table(pa.table(spoilt), tmp_path / "data" / "alder.parquet")
    with pytest.raises(DataError, match="molecules that RDKit cannot read") as refused:
        train(planted, None, JsonLines())
    assert refused.value.silo == "alder"
    pq.write_table(pa.table(records(0)), tmp_path / "data" / "alder.parquet")
    said = capfd.readouterr()
    assert seen_in(said.out + said.err + str(refused.value) + repr(refused.value)) == set()
    assert (tmp_path / "mlflow.db").exists() and any(run.folder.iterdir())
    assert seen_under([tmp_path], own) == set()
    assert any((session() / "logs").glob("worker-*"))
    assert seen_under([session()]) == set()
    new = [temporary / name for name in set(os.listdir(temporary)) - before]
    assert seen_under([p for p in new if p.exists() and not tmp_path.is_relative_to(p)]) == set()
    # The search finds what there is: the silo's own folder has the private task's figures.
    assert any("tasks.csv: zqxjk" in one for one in seen_under([tmp_path / "state"]))
    assert seen_under([tmp_path / "data"])


@pytest.mark.usefixtures("cluster")
def test_a_fault_in_a_silo_leaves_nothing_of_a_record_either(
    planted: JobFile, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    federation = Federation(
        planted.job, "faulty", str(planted.folder), RayCluster(as_actor(lambda: Faulty))
    )
    try:
        federation.inspect()
        federation.exchange_keys()
        with pytest.raises(Unexpected) as error:
            federation.run_round(1)
    finally:
        federation.close()
    said = capfd.readouterr()
    assert seen_in(f"{error.value}{error.value!r}{said.out}{said.err}") == set()
    assert seen_under([session()]) == set()


class InItsOwnRay(Silo):
    """A silo with workers, as in a Ray that no other organisation uses."""

    def __init__(self, spec: SiloSpec) -> None:
        super().__init__(spec)
        type(self._admission).by_agent = True  # type: ignore[assignment, method-assign]


@pytest.mark.usefixtures("cluster")
def test_workers_leave_nothing_of_a_record_either(
    planted: JobFile, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = load_job(planted.path, ["silos.alder.workers=2"]).job
    actor = as_actor(lambda: InItsOwnRay)
    before = set(os.listdir(tempfile.gettempdir()))
    errors = []
    for smiles in ("[13CH3]C", "ZQXJK no molecule"):
        spoilt = records(0) | {"smiles": [smiles, *records(0)["smiles"][1:]]}
        pq.write_table(pa.table(spoilt), tmp_path / "data" / "alder.parquet")
        cluster = RayCluster(actor, own=True)
        federation = Federation(job, "workers", str(planted.folder), cluster)
        try:
            federation.inspect()
            federation.exchange_keys()
            assert federation.run_round(1).attempt == 1
        except DataError as error:
            errors.append(f"{error}{error!r}")
        finally:
            federation.close()
    said = capfd.readouterr()
    assert len(errors) == 1 and "molecules that RDKit cannot read" in errors[0]
    assert seen_in(f"{errors}{said.out}{said.err}") == set()
    assert seen_under([session()]) == set()
    new = [Path(tempfile.gettempdir()) / n for n in set(os.listdir(tempfile.gettempdir())) - before]
    assert seen_under([p for p in new if p.exists() and not tmp_path.is_relative_to(p)]) == set()


Change = Callable[[dict[str, Any]], dict[str, Any]]
WRONG: dict[str, Change] = {
    "a label that is text": lambda r: r | {"toxic": ["ZQXJKLABEL"] * len(r["toxic"])},
    "a label out of range": lambda r: r | {"toxic": [POTENCY] * len(r["toxic"])},
    "a number out of range": lambda r: r | {"potency": [7319284.0] * len(r["potency"])},
    "an infinite label": lambda r: r | {"potency": [float("inf"), *r["potency"][1:]]},
    "a qualifier": lambda r: r | {"side": ["ZQXJK", *r["side"][1:]]},
    "a structure": lambda r: r | {"smiles": ["[13CH3](", *r["smiles"][1:]]},
    "identifiers that are numbers": lambda r: r | {"patient": [7319284] * len(r["patient"])},
    "an identifier that is missing": lambda r: r | {"patient": [None, *r["patient"][1:]]},
    "one identifier for all": lambda r: r | {"patient": ["ZQXJKID"] * len(r["patient"])},
    "a private label": lambda r: r | {"zqxjk_assay": [POTENCY] * len(r["zqxjk_assay"])},
    "private labels that are text": lambda r: (
        r | {"zqxjk_assay": ["ZQXJK"] * len(r["zqxjk_assay"])}
    ),
    "no private task's column": lambda r: {k: v for k, v in r.items() if k != "zqxjk_assay"},
    "no column of structures": lambda r: (
        {"ZQXJKSMILES": r["smiles"]} | {k: v for k, v in r.items() if k != "smiles"}
    ),
    "a structure beyond all bounds": lambda r: (
        r | {"smiles": ["[13CH3]" + "C" * 30_000, *r["smiles"][1:]]}
    ),
}


def refusal(job_file: JobFile) -> str:
    """What leaves of alder when its data cannot be used."""
    with pytest.raises(BlindsumError) as refused:
        Silo(
            SiloSpec(job=job_file.job, run="run-1", name="alder", folder=str(job_file.folder))
        ).inspect()
    return f"{refused.value}{refused.value!r}{refused.value.__dict__}{refused.value.__context__}"


@pytest.mark.parametrize("case", WRONG)
def test_no_error_about_a_table_tells_a_value(
    planted: JobFile, tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(pa.table(WRONG[case](records(0))), tmp_path / "data" / "alder.parquet")
    assert seen_in(refusal(planted)) == set()
    said = capfd.readouterr()
    assert seen_in(said.out + said.err) == set()
    assert seen_under([tmp_path], (tmp_path / "state", tmp_path / "data")) == set()


def csv_of(rows: dict[str, Any]) -> str:
    lines = [",".join(rows), *(",".join(map(str, row)) for row in zip(*rows.values(), strict=True))]
    return "\n".join(lines) + "\n"


BROKEN: dict[str, tuple[str, bytes]] = {
    "a CSV without a header": ("csv", csv_of(records(0)).partition("\n")[2].encode()),
    "a CSV in Latin-1": (
        "csv",
        csv_of(records(0) | {"patient": ["ZQXJKé"] * 40}).encode("latin-1"),
    ),
    "a CSV with a column too many": (
        "csv",
        csv_of(records(0)).encode() + b"ZQXJKID,1,2,3,4,5,6,7,8\n",
    ),
    "a cut Parquet": ("parquet", b"PAR1" + b"ZQXJKIDZQXJKREMARK" * 30),
}


@pytest.mark.parametrize("case", BROKEN)
def test_no_error_about_a_broken_file_tells_a_value(
    planted: JobFile, tmp_path: Path, case: str
) -> None:
    ending, content = BROKEN[case]
    (tmp_path / "data" / f"alder.{ending}").write_bytes(content)
    changed = load_job(planted.path, [f"silos.alder.data=data/alder.{ending}"])
    assert seen_in(refusal(changed)) == set()


@pytest.mark.parametrize(
    "content", ["zqxjk_assay: ZQXJK", "ZQXJK: [", "toxic: {kind: binary}\nzqxjk: {}\n", "{}"]
)
def test_no_error_about_private_tasks_names_one(
    planted: JobFile, tmp_path: Path, content: str
) -> None:
    (tmp_path / "data" / "alder.yaml").write_text(content)
    assert seen_in(refusal(planted)) == set()


def test_the_search_finds_canaries(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\0 row ZQXJKID7")
    (tmp_path / "of 7319284.txt").write_text("nothing")
    wide = "remark: zqxjk".encode("utf-16-le")
    (tmp_path / "wide").write_bytes(wide)
    assert seen_under([tmp_path]) == {"log: ZQXJK", "of 7319284.txt: 7319284", "wide: zqxjk"}
    assert repr(np.float64(POTENCY + 1e-7)).count("7.319284")
