"""One process of benchmarks/tables.py: time and memory of one long table. Prints JSON."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch

from blindsum.platform.data.computing import computing_in
from blindsum.platform.data.table import load_data
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.training_section import TrainingSection
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.privacy.randomness import cryptographic_generator
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import get_parameters

COLUMNS, SAMPLE, STEPS, AT_ONCE = 40, 2_000, 10, 200_000
NAMES = [f"x{i:02d}" for i in range(COLUMNS)]


def write_long(path: Path, records: int) -> None:
    """Write a table of that many records."""
    random, writer = np.random.default_rng(0), None
    for start in range(0, records, AT_ONCE):
        count = min(AT_ONCE, records - start)
        x = random.normal(size=(count, COLUMNS)).astype(np.float32)
        ill = (x[:, 0] + random.normal(size=count) > 0).astype(np.int8)
        columns = {name: x[:, i] for i, name in enumerate(NAMES)}
        table = pa.table(columns | {"patient": np.arange(start, start + count), "ill": ill})
        writer = writer or pyarrow.parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()


class Peak:
    """The greatest anonymous memory of this process since it began to look."""

    def __init__(self) -> None:
        self.base = self.most = self._now()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def mb(self) -> float:
        """Above that at the beginning."""
        return (self.most - self.base) / 1024

    def _now(self) -> int:
        text = Path("/proc/self/status").read_text()
        return int(text.split("RssAnon:")[1].split()[0])

    def _watch(self) -> None:
        while True:
            self.most = max(self.most, self._now())
            time.sleep(0.02)


def contract() -> DataSection:
    """Return the job's data section."""
    return DataSection.model_validate(
        {
            "features": {"kind": "columns", "columns": {name: {"scale": 1.0} for name in NAMES}},
            "target": {"column": "ill", "classes": [0, 1]},
            "folds": {"kind": "hash", "column": "patient", "key": "integer", "salt": "s"},
        }
    )


def measure(path: Path, state: Path) -> dict[str, float]:
    """Return the figures of a table."""
    began = time.perf_counter()
    records = 0
    with pyarrow.parquet.ParquetFile(path, memory_map=True) as file:
        for i in range(file.num_row_groups):
            for batch in file.iter_batches(row_groups=[i]):
                records += batch.num_rows
    arrow_s, peak = time.perf_counter() - began, Peak()

    began = time.perf_counter()
    data = load_data(path, contract(), state / "rejected.csv", computing=computing_in(state))
    read_s = time.perf_counter() - began

    training = TrainingSection(
        rounds=1,
        local_steps=STEPS,
        sampling_rate=SAMPLE / len(data.train),
        expected_batch_size=SAMPLE,
        learning_rate=0.5,
    )
    model = torch.nn.Linear(COLUMNS, 2)
    plan = PrivacyPlan(
        epsilon=1.0,
        delta=1e-9,
        sampling_rate=training.sampling_rate,
        noise_multiplier=1.0,  # its epsilon is not looked at here
        clip_norm=1.0,
        steps_per_round=STEPS,
        rounds=1,
        rounds_within_budget=1,
        epsilon_planned=1.0,
    )
    trainer = LocalTrainer(model, data.train, training, plan, cryptographic_generator())
    began = time.perf_counter()
    trainer.train(get_parameters(model))
    step_s = (time.perf_counter() - began) / STEPS

    began = time.perf_counter()
    evaluated = sum(len(outputs) for outputs, _ in data.test.evaluated(model))
    if evaluated + len(data.train) != records:
        raise SystemExit(f"{records - evaluated - len(data.train)} records are missing")
    return {
        "arrow_s": arrow_s,
        "read_s": read_s,
        "records_per_s": records / read_s,
        "peak_mb": peak.mb,
        "step_s": step_s,
        "evaluation_s": time.perf_counter() - began,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=Path(sys.argv[1]).parent) as state:
        print(json.dumps(measure(Path(sys.argv[1]), Path(state))))
