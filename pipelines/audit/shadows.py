"""Shadow models, trained on the machine's cores by Ray and kept in the silo's own folder.

Workers read the silo's table themselves and write what their models say of its records to files of
mode 0600: neither passes through Ray's object store. A shard that is there already is not trained
again, so an audit that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import ray
import torch
from ray.exceptions import RayError, RayTaskError

from blindsum.pipelines.audit.membership import Shadows, confidences
from blindsum.pipelines.audit.stacked import Recipe, Stack
from blindsum.platform.data import SiloData, load_data
from blindsum.platform.errors import BlindsumError
from blindsum.platform.job import Job
from blindsum.platform.paths import silo_places

SHARD = 16
CANARIES = 0.05
"""Share of the records that get a wrong label: they show what the attack finds of odd ones."""


@dataclass(frozen=True)
class Shard:
    """SHARD of the models: `first` and on, of `models` in all."""

    job: Job
    silo: str
    folder: str
    path: str
    first: int
    models: int
    recipe: Recipe


def train_shard(shard: Shard) -> None:
    """Train and write one shard, in a worker."""
    torch.set_num_threads(1)
    section = shard.job.silo(shard.silo)
    places = silo_places(section, shard.folder)
    data = load_data(places.table, shard.job.data, places.of_run("audit") / "rejected_rows.txt")
    count = min(SHARD, shard.models - shard.first)
    members = memberships(len(data.train), shard.models)[shard.first : shard.first + count]
    labels = torch.from_numpy(mislabelled(shard.job, data)[0])
    features = torch.from_numpy(data.train.features)
    stack = Stack(shard.job, features.shape[1], count)
    # Seeded: these models are an attacker's, and nothing of theirs is released.
    generator = torch.Generator().manual_seed(shard.first + 1)
    stack.train(features, labels, torch.from_numpy(members), shard.recipe, generator)
    said = stack.logits(features).double().numpy()
    of_others = stack.logits(torch.from_numpy(data.test.features)).double().numpy()
    partial = Path(f"{shard.path}.partial")
    opened = os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with open(opened, "wb") as file:
        np.savez(
            file, scaled=confidences(said, labels.numpy())[0],
            population=confidences(of_others, data.test.labels)[1],
        )  # fmt: skip
        file.flush()
        os.fsync(file.fileno())
    partial.rename(shard.path)


def _readable(path: str) -> bool:
    try:
        with np.load(path) as content:
            return {"scaled", "population"} <= set(content.files)
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def memberships(records: int, models: int) -> npt.NDArray[np.bool_]:
    """Which records each model is trained on, bool [K, N]: every record for half of them."""
    random = np.random.default_rng(7)
    chosen = np.zeros((models, records), bool)
    order = random.random((records, models)).argsort(axis=1)[:, : models // 2]
    chosen[order.T, np.arange(records)] = True
    return chosen


def mislabelled(job: Job, data: SiloData) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The training labels with the canaries' wrong, and which records are canaries."""
    random = np.random.default_rng(11)
    classes, labels = job.data.outputs, data.train.labels.copy()
    canaries = np.zeros(len(labels), bool)
    canaries[random.permutation(len(labels))[: max(int(CANARIES * len(labels)), 1)]] = True
    wrong = (labels + random.integers(1, classes, len(labels))) % classes
    return np.where(canaries, wrong, labels), canaries


def shadows(
    job: Job, silo: str, folder: str, data: SiloData, into: Path, models: int, recipe: Recipe,
    trained: Callable[[], None],
) -> Shadows:  # fmt: skip
    """Train what is missing, and read all shards.

    Args:
        into: folder of this recipe's shards, in the silo's state folder.
        trained: called for each model that is there.

    Raises:
        BlindsumError: a worker failed.
    """
    for made in (into.parent.parent, into.parent, into):  # of parents, mkdir sets no mode
        made.mkdir(parents=True, exist_ok=True, mode=0o700)
    shards = [
        Shard(job, silo, folder, str(into / f"{first:04}.npz"), first, models, recipe)
        for first in range(0, models, SHARD)
    ]
    missing = [one for one in shards if not _readable(one.path)]
    for one in shards:
        if one not in missing:
            trained()
    worker = ray.remote(num_cpus=1, max_retries=0)(train_shard)
    waiting = [worker.remote(one) for one in missing]
    try:
        while waiting:
            done, waiting = ray.wait(waiting)
            ray.get(done)
            trained()
    except RayTaskError as error:
        if isinstance(error.cause, BlindsumError):
            raise error.cause from None
        raise BlindsumError(
            f"a shadow model could not be trained ({type(error.cause).__name__})",
            "Run the audit again: it goes on with what is missing.",
        ) from None
    except RayError as error:
        raise BlindsumError(
            f"a worker that trained shadow models was lost ({type(error).__name__})",
            "Look at free memory, then run the audit again: it goes on with what is missing.",
        ) from None
    read = [np.load(one.path) for one in shards]
    return Shadows(
        np.concatenate([one["scaled"] for one in read]),
        memberships(len(data.train), models),
        np.concatenate([one["population"] for one in read]),
    )
