"""A trunk trained together, and heads that stay where they are."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from blindsum.actors.messages import SiloSpec
from blindsum.platform.errors import DataError
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.privacy_section import SharedNoise
from blindsum.platform.job.private_tasks import load_private_tasks
from blindsum.platform.job.schema import Job
from blindsum.platform.prediction.released import read_released
from tests.actors.test_silo import Consortium, PostedSilo
from tests.conftest import SILOS, MakeJob


@pytest.fixture
def consortium(make_job: MakeJob, tmp_path: Path) -> JobFile:
    """One shared task, and one, three and no tasks of the silos' own."""
    for silo, own in zip(SILOS, (1, 3, 0), strict=True):
        table = pyarrow.parquet.read_table(tmp_path / f"{silo}.parquet")
        benign = np.array(table["diagnosis"].to_pylist()) == "benign"
        gaps = np.random.default_rng(own).random(len(benign)) < 0.3
        labels = pa.array(np.where(gaps, np.nan, benign), from_pandas=True)
        for name in ("hit", *(f"secret-{silo}-{i}" for i in range(own))):
            table = table.append_column(name, pa.array(benign * 1.0) if name == "hit" else labels)
        pyarrow.parquet.write_table(table, tmp_path / f"{silo}.parquet")
        names = "".join(f"secret-{silo}-{i}: {{}}\n" for i in range(own))
        (tmp_path / f"{silo}.yaml").write_text(names)
    return make_job(
        "data.target=null",
        "data.tasks={hit: {}}",
        "model={kind: mlp, hidden: [8]}",
        "silos.alder.private_tasks=alder.yaml",
        "silos.birch.private_tasks=birch.yaml",
        "privacy={noise: none}",
        "training.learning_rate=1.0",
        "training.local_steps=10",
    )


def test_the_trunk_is_shared_and_no_head_leaves(consortium: JobFile, tmp_path: Path) -> None:
    made = Consortium(consortium)
    assert len({i.parameters for i in made.inspections.values()}) == 1
    for number in (1, 2, 3):
        metrics = made.round(number)
    assert metrics.held_out and metrics.held_out.score.name == "mean AUROC"
    assert metrics.held_out.binary_tasks == 3, "of the shared task alone"  # type: ignore[union-attr]
    assert metrics.held_out.score.value > 0.9
    said = f"{made.inspections}{metrics}{consortium.job}"
    assert "secret" not in said
    kept = tmp_path / "state" / "birch" / "runs" / "run-1"
    lines = (kept / "tasks.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in lines[1:]] == [
        "hit",
        *(f"secret-birch-{i}" for i in range(3)),
    ]
    mine = read_released(kept / "model.blindsum")
    assert mine.model.state_dict()["private.weight"].shape == (3, 8)
    assert list(mine.terms.own_tasks or ()) == [f"secret-birch-{i}" for i in range(3)]
    for path in (kept / "tasks.csv", kept / "model.blindsum"):
        assert path.stat().st_mode & 0o777 == 0o600
    other = read_released(tmp_path / "state" / "alder" / "runs" / "run-1" / "model.blindsum")
    shared = [one.model.state_dict()["shared.weight"] for one in (mine, other)]
    assert torch.equal(*shared)


def test_another_attempt_starts_from_the_same_head(consortium: JobFile) -> None:
    """Else a refused total would leave a step in it that no round counts."""
    made = Consortium(consortium)
    made.round(1)
    silo = made.silos["birch"]
    before = silo._own.model.private.weight.detach().clone()  # type: ignore[union-attr]
    silo.train(made.exchange(2, 1))
    once = silo._own.model.private.weight.detach().clone()  # type: ignore[union-attr]
    assert not torch.equal(once, before)
    silo._own.head.at(2)
    assert torch.equal(silo._own.model.private.weight, before)  # type: ignore[union-attr, arg-type]


def test_a_silo_without_any_task_cannot_take_part(consortium: JobFile) -> None:
    job = consortium.job
    only = job.model_copy(update={"data": job.data.model_copy(update={"tasks": None})})
    birch = only.silo("birch")
    assert len(load_private_tasks(birch, only, consortium.folder / str(birch.private_tasks))) == 3
    with pytest.raises(DataError, match="no task at all"):
        load_private_tasks(only.silo("cedar"), only, None)


def test_a_folder_without_room_is_named(consortium: JobFile, tmp_path: Path) -> None:
    made = Consortium(consortium)
    made.round(1)
    place = tmp_path / "state" / "birch" / "runs" / "run-1"
    shutil.rmtree(place)
    place.write_text("in the way")
    with pytest.raises(DataError, match=f"own model and figures cannot be written in {place}"):
        made.round(2)


def test_a_private_head_moves_under_all_of_the_noise(consortium: JobFile, tmp_path: Path) -> None:
    """Its step is seen by what is shared in later rounds. Of an empty sample it is noise alone."""
    shared = {
        "privacy": SharedNoise(noise="shared", epsilon=3, delta=1e-4, clip_norm=1.0),
        "training": consortium.job.training.model_copy(
            update={"local_steps": 1, "learning_rate": 2.0}
        ),
    }
    job = Job.model_validate(consortium.job.model_copy(update=shared).model_dump())
    silo = PostedSilo(
        SiloSpec(job=job, run="run-1", name="birch", folder=str(consortium.folder), threads=1)
    )
    silo.inspect()
    silo._own.trainer._sample = lambda: np.zeros(0, np.int64)  # type: ignore[method-assign]
    steps = []
    for _ in range(40):
        before = [p.detach().clone() for p in silo._own.head._own]
        silo._own.trainer.train(silo._model.vector)
        moved = zip(silo._own.head._own, before, strict=True)
        steps.append(torch.cat([(p - old).detach().ravel() for p, old in moved]))
    drawn, plan = torch.cat(steps), silo._own.plan
    assert plan is not None
    rate = silo._own.trainer._rate / job.training.expected_batch_size
    expected = rate * plan.update_noise * plan.clip_norm
    assert abs(float(drawn.std()) / expected - 1) < 5 / np.sqrt(2 * len(drawn))


def test_a_private_head_trains_whatever_the_round_s_subset(consortium: JobFile) -> None:
    content = consortium.job.model_dump()
    content["training"]["subset"] = 0.2
    made = Consortium(replace(consortium, job=Job.model_validate(content)))
    silo = made.silos["birch"]
    own, before = silo._own, [one.copy() for one in silo._own.head.state]
    subset = own.subset(1)
    assert subset is not None and own.sent_values(1) < own.values
    own.trainer.train(silo._model.vector, 1.0, 1, subset)
    assert all((a != b).all() for a, b in zip(before, own.head.state, strict=True))
