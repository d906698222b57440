"""A consortium that trains a D-MPNN: tasks with gaps, private heads, molecules without features."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blindsum.platform.evaluation.figures import TaskFigures
from blindsum.platform.job.file import JobFile
from blindsum.platform.prediction.predictor import Predictor
from blindsum.platform.prediction.released import read_released
from tests.actors.test_silo import Consortium
from tests.conftest import SILOS, MakeJob


@pytest.fixture
def consortium(make_job: MakeJob, tmp_path: Path) -> JobFile:
    """Molecules with and without rings, and a silo with a task of its own."""
    random = np.random.default_rng(0)
    for silo in SILOS:
        rings = random.random(60) < 0.5
        tails = ["O" * (i % 2) + "C" * (1 + i // 3) for i in range(60)]
        smiles = [("c1ccccc1" if r else "C") + tail for r, tail in zip(rings, tails, strict=True)]
        smiles += ["no molecule", "C" * 80, "[Na+].[Cl-]", "C"]
        flat = np.concatenate([rings, [False] * 4])
        gaps = random.random(64) < 0.3
        table = {
            "smiles": smiles,
            "flat": pa.array(np.where(gaps, np.nan, flat), from_pandas=True),
            "length": np.array([float(len(one)) for one in smiles]),
            "secret": pa.array(np.where(~gaps, np.nan, flat), from_pandas=True),
        }
        pq.write_table(pa.table(table), tmp_path / f"{silo}.parquet")
    (tmp_path / "birch.yaml").write_text("secret: {}\n")
    return make_job(
        "data.features={kind: graphs, max_atoms: 40}",
        "data.target=null",
        "data.tasks={flat: {}, length: {kind: regression, center: 12, scale: 8}}",
        "data.folds={kind: random, salt: a, test_fraction: 0.3}",
        "data.unparsable=drop",
        "model={kind: dmpnn, hidden: 8, ffn: [8]}",
        "silos.birch.private_tasks=birch.yaml",
        "privacy={noise: shared, epsilon: 30, delta: 0.001}",
        "training={rounds: 2, local_steps: 1, sampling_rate: 0.5, expected_batch_size: 21, "
        "learning_rate: 1.0}",
    )


def test_a_trunk_of_messages_is_shared(consortium: JobFile, tmp_path: Path) -> None:
    made = Consortium(consortium)
    assert len({i.parameters for i in made.inspections.values()}) == 1
    assert "book-keeping, at nearly" in str(made.inspections["alder"])
    for number in (1, 2):
        held_out = made.round(number).held_out
    assert isinstance(held_out, TaskFigures)
    assert held_out.dropped == 3 * 2, "what RDKit cannot read, and what is too large"
    assert held_out.binary_tasks > 0 and held_out.regression_tasks == 3
    path = tmp_path / "state" / "birch" / "runs" / "run-1" / "model.blindsum"
    predictor = Predictor(read_released(path))
    found = predictor.predict(pa.table({"smiles": ["c1ccccc1CC", "CCCC", "C"]}))
    assert {"probability_flat", "predicted_length", "probability_secret"} <= set(found.column_names)
    assert found["reason"].null_count == 3
