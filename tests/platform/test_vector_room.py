"""Vectors in files without names: the same values, no memory in proportion to the model."""

import hashlib
import io
import json
import os
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from blindsum.platform.errors import DataError
from blindsum.platform.job.average_section import Polynomial
from blindsum.platform.job.training_section import ServerSection
from blindsum.platform.state.checkpoint import Checkpoint, Checkpoints, from_bytes
from blindsum.platform.training.average import Averaged, averaged, of_model, showing
from blindsum.platform.training.models import get_parameters, set_parameters
from blindsum.platform.training.server_optimizer import ServerOptimizer
from blindsum.platform.training.vector import digest, put_away
from blindsum.platform.training.vector_room import BLOCK, IN_MEMORY, VectorRoom
from tests.actors.test_silo import Consortium
from tests.conftest import MakeJob

in_files = partial(VectorRoom, in_memory=0)
RULE = Polynomial(kind="polynomial", eta=3.0)


def test_a_long_vector_lies_in_a_file_without_a_name(tmp_path: Path) -> None:
    room = VectorRoom(tmp_path / "state", in_memory=100)
    assert not isinstance(room.zeros(25), np.memmap) and not (tmp_path / "state").exists()
    vector = room.zeros(26)
    assert isinstance(vector, np.memmap) and not vector.any() and vector.dtype == np.float32
    assert list((tmp_path / "state").iterdir()) == []
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    vector[:] = np.arange(26)
    put_away(vector, np.zeros(3))
    np.testing.assert_array_equal(vector, np.arange(26))
    copy = room.copy(vector)
    copy[0] = 9
    assert isinstance(copy, np.memmap) and vector[0] == 0


def test_a_full_disk_ends_nothing_but_this_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with holes would be made, and the process would end at the first page without room."""

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match="a vector of 4,000 bytes cannot be kept in .*No space"):
        in_files(tmp_path).zeros(1000)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_a_model_moves_on_to_the_same_bits_wherever_it_lies(tmp_path: Path, optimizer: str) -> None:
    section = ServerSection.model_validate({"optimizer": optimizer, "weight_decay": 0.01})
    found = []
    for room in (IN_MEMORY, in_files(tmp_path)):
        torch.manual_seed(1)
        model, random = nn.Linear(2 * BLOCK, 1), np.random.default_rng(1)
        server = ServerOptimizer(section, 2 * BLOCK + 1, room)
        vector, average = get_parameters(model, room), of_model(model, room)
        for round in (1, 2, 3):
            vector = server.apply(vector, random.normal(size=vector.size))
            set_parameters(model, vector)
            average = averaged(RULE, average, model, round, room)
            with showing(model, average, room):
                assert digest(get_parameters(model)) == digest(average.shared)
        found.append((digest(vector, average.shared), [one.tobytes() for one in server.state]))
    assert found[0] == found[1]


def _peak(do: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        do()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_no_step_takes_memory_in_proportion_to_the_model(tmp_path: Path) -> None:
    """One temporary of the model's length, and this fails."""
    values, room = 64 * BLOCK, in_files(tmp_path)
    section = ServerSection(optimizer="adam")
    server, model = ServerOptimizer(section, values, room), room.zeros(values)
    mean, layer = room.zeros(values, np.float64), nn.Linear(values - 1, 1)
    average = of_model(layer, room)
    kept = Checkpoints(tmp_path / "run", room)
    checkpoint = Checkpoint(
        round=1, model=model, average=average, optimizer=server.state, head=(), random=None
    )
    for do in (
        lambda: server.apply(model, mean),
        lambda: averaged(RULE, average, layer, 2, room),
        lambda: set_parameters(layer, model),
        lambda: digest(model, average.shared),
        lambda: kept.write(checkpoint),
        lambda: kept.read(1),
    ):
        assert _peak(do) < values * 4 / 2


def test_rounds_with_vectors_in_files_have_the_same_models(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = []
    for run, room in enumerate((VectorRoom, in_files)):
        monkeypatch.setattr("blindsum.actors.prepared.VectorRoom", room)
        job_file = make_job("privacy={noise: none}", "server={optimizer: momentum}")
        consortium = Consortium(job_file, run=f"run-{run}")
        for number in (1, 2):
            consortium.round(number)
        silo = consortium.silos["alder"]
        assert isinstance(silo._model.vector, np.memmap) == (room is in_files)
        read = silo._own.checkpoints.read(2)
        assert digest(read.model, read.average.shared) == silo._model.digest
        assert read.optimizer[0].tobytes() == silo._model.optimizer[0].tobytes()
        models.append(silo._model.digest)
    assert models[0] == models[1]


def test_checkpoints_of_earlier_versions_are_read() -> None:
    """They had the archive made apart, so that its offsets do not count the digest before it."""
    model, content = np.arange(3, dtype=np.float32), io.BytesIO()
    said = {"round": 2, "optimizer": 1, "head": 0, "head_average": 0, "random": None}
    said |= {"range": 0.5, "clipping": 1.0}
    content_of = {"model": model, "average": model + 1, "optimizer_0": np.ones(3)}
    np.savez(content, said=np.frombuffer(json.dumps(said).encode(), np.uint8), **content_of)
    whole = hashlib.sha256(content.getvalue()).digest() + content.getvalue()
    read = from_bytes(whole)
    assert read is not None and read.round == 2 and read.range == 0.5
    np.testing.assert_array_equal(read.model, model)
    assert isinstance(read.average, Averaged) and read.average.shared[0] == 1
    np.testing.assert_array_equal(read.optimizer[0], np.ones(3))
