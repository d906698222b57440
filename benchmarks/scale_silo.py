"""One process of benchmarks/scale.py: makes a silo's tables, prepares them, or trains on them.
Prints JSON."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import yaml
from long_table import Peak

from blindsum.pipelines.preparation.prepare import prepare
from blindsum.platform.data.computing import computing_in
from blindsum.platform.data.preparation.prepared_features import prepared_features_of
from blindsum.platform.data.preparation.recipe import Recipe, load_recipe
from blindsum.platform.data.preparation.secret import make_secret
from blindsum.platform.data.preparation.stages import Standardise
from blindsum.platform.data.table import load_data
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.model_section import Mlp
from blindsum.platform.job.private_tasks import read_private_tasks
from blindsum.platform.job.training_section import TrainingSection
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.losses import MultiTask
from blindsum.platform.training.models import build_model, get_parameters

AT_ONCE, ONES, LABELS, SERIES = 20_000, 50, 10, 20
"""Compounds that are made at a time; of each the ones of its fingerprint and its measurements; and
the compounds of a scaffold."""


def text_of(number: int) -> str:
    """Return what stands for a molecule: of the length of a SMILES, and never parsed."""
    return f"made-up molecule number {number:012d}"


def make(folder: Path, compounds: int, assays: int, bits: int) -> dict[str, float]:
    """Write a silo's tables, and the results of RDKit that `blindsum prepare` would keep."""
    folder.mkdir()
    recipe = {
        "features": {"kind": "ecfp", "radius": 3, "bits": bits},
        "tasks": {"shared": {"threshold": 6}},
        "quorum": {"classes": 1},
    }
    sources = {
        "compounds": {"file": "compounds.parquet"},
        "activities": {"file": "activities.parquet", "qualifier": "qualifier", "one_unit": "none"},
        "assays": "assays.csv",
    }
    for name, content in (("recipe.yaml", recipe), ("sources.yaml", sources)):
        (folder / name).write_text(yaml.safe_dump(content), encoding="utf-8")
    rows = [f"A{i},,6" if i else "A0,shared," for i in range(assays)]
    (folder / "assays.csv").write_text("\n".join(["assay,task,threshold", *rows]) + "\n")
    make_secret(folder / "secret")
    _write(folder / "compounds.parquet", _compounds(compounds))
    _write(folder / "activities.parquet", _activities(compounds, assays))
    known = load_recipe(folder / "recipe.yaml")
    for key, tables in _results(known, compounds, bits):
        place = folder / "home" / "prepare" / key
        place.mkdir(parents=True)
        _write(place / "part-made.parquet", tables)
    return {}


def _starts(compounds: int) -> Iterator[tuple[int, int]]:
    return ((at, min(AT_ONCE, compounds - at)) for at in range(0, compounds, AT_ONCE))


def _compounds(compounds: int) -> Iterator[pa.Table]:
    for start, count in _starts(compounds):
        numbers = range(start, start + count)
        yield pa.table(
            {
                "compound": [f"CPD-{i:010d}" for i in numbers],
                "smiles": [text_of(i) for i in numbers],
            }
        )


def _activities(compounds: int, assays: int) -> Iterator[pa.Table]:
    random = np.random.default_rng(0)
    for start, count in _starts(compounds):
        of = np.repeat(np.arange(start, start + count), LABELS)
        value = random.normal(6, 1, len(of))
        yield pa.table(
            {
                "compound": [f"CPD-{i:010d}" for i in of],
                "assay": [f"A{i}" for i in random.integers(0, assays, len(of))],
                "value": value,
                "qualifier": np.where(value > 7.5, ">", "="),
            }
        )


def _results(recipe: Recipe, compounds: int, bits: int) -> Iterator[tuple[str, Iterator[pa.Table]]]:
    yield Standardise(recipe.structures).key, _structures(compounds)
    yield prepared_features_of(recipe.features).stage.key, _fingerprints(compounds, bits)


def _structures(compounds: int) -> Iterator[pa.Table]:
    for start, count in _starts(compounds):
        texts = [text_of(i) for i in range(start, start + count)]
        scaffolds = [text_of(i // SERIES) for i in range(start, start + count)]
        rows = [texts, texts, [None] * count, scaffolds]
        yield pa.table(rows, schema=Standardise.SCHEMA)


def _fingerprints(compounds: int, bits: int) -> Iterator[pa.Table]:
    random = np.random.default_rng(1)
    for start, count in _starts(compounds):
        # One position in each of as many stretches, so that they ascend and none repeats.
        stretch = bits // ONES
        positions = random.integers(0, stretch, (count, ONES)) + np.arange(ONES) * stretch
        lists = pa.ListArray.from_arrays(
            pa.array(np.arange(0, count * ONES + 1, ONES), pa.int32()),
            pa.array(positions.ravel(), pa.int32()),
        )
        texts = [text_of(i) for i in range(start, start + count)]
        yield pa.table({"text": texts, "fingerprint": lists})


def _write(path: Path, tables: Iterator[pa.Table]) -> None:
    first = next(tables)
    with pyarrow.parquet.ParquetWriter(path, first.schema, write_page_checksum=True) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def prepared(folder: Path) -> dict[str, float]:
    """Prepare the silo's tables, without RDKit's part of it."""
    os.environ["BLINDSUM_HOME"] = str(folder / "home")
    peak, began, busy = Peak(), time.perf_counter(), time.process_time()
    report = prepare(
        folder / "recipe.yaml",
        folder / "sources.yaml",
        folder / "secret",
        folder / "prepared",
        quiet=True,
    )
    return {
        "s": time.perf_counter() - began,
        "cpu_s": time.process_time() - busy,
        "labels": report.labels,
        "tasks": report.shared_tasks + report.private_tasks,
        **_memory(peak),
    }


def trained(folder: Path, hidden: int, most: int) -> dict[str, float]:
    """Read the prepared table, and train one step on all of its records, or on about `most`."""
    made, state = folder / "prepared", folder / "state"
    section = yaml.safe_load((made / "data.yaml").read_text(encoding="utf-8"))["data"]
    contract = DataSection.model_validate(section)
    peak, began, busy = Peak(), time.perf_counter(), time.process_time()
    own = read_private_tasks(made / "private_tasks.yaml", set(contract.tasks or {}))
    rejects, means = state / "rejected.csv", computing_in(state)
    data = load_data(made / "records.parquet", contract, rejects, own, means)
    found = {"read_s": time.perf_counter() - began, "read_cpu_s": time.process_time() - busy}
    found |= {f"read_{name}": value for name, value in _memory(peak).items()}

    records = min(most, len(data.train))
    training = TrainingSection(
        rounds=1,
        local_steps=1,
        sampling_rate=records / len(data.train),
        expected_batch_size=records,
        learning_rate=0.5,
    )
    shared = len(contract.tasks or {})
    mlp = Mlp(kind="mlp", hidden=[hidden], activation="relu")
    model = build_model(mlp, data.train.width, shared, seed=1, private=False, own=len(own))
    loss = MultiTask({**(contract.tasks or {}), **own})
    trainer = LocalTrainer(model, data.train, training, None, np.random.default_rng(2), loss)
    began, busy = time.perf_counter(), time.process_time()
    trainer.train(get_parameters(model))
    return {
        **found,
        "trained_records": records,
        "step_s": time.perf_counter() - began,
        "step_cpu_s": time.process_time() - busy,
        **_memory(peak),
    }


def _memory(peak: Peak) -> dict[str, float]:
    return {
        "anonymous_mb": peak.most / 1024,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    what, folder, *numbers = sys.argv[1:]
    act = {"make": make, "prepare": prepared, "train": trained}[what]
    print(json.dumps(act(Path(folder), *map(int, numbers))))


if __name__ == "__main__":
    main()
