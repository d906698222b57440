"""Train shadow models on the machine's cores with Ray; keep their outputs in the silo's folder.

Workers read the silo's table themselves and write their models' outputs on its records to files of
mode 0600: neither passes through Ray's object store. Existing shards are not trained again, so an
interrupted audit resumes where it stopped.
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

from blindsum.pipelines.audit.attacks.membership import Shadows
from blindsum.pipelines.audit.attacks.stacked import Recipe, Stack
from blindsum.pipelines.audit.audited import load_audited
from blindsum.pipelines.audit.labelling import labelling
from blindsum.platform.data.records import Fold, Labels
from blindsum.platform.data.table import SiloData
from blindsum.platform.errors import BlindsumError
from blindsum.platform.job.paths import import_from, silo_places
from blindsum.platform.job.schema import Job

SHARD = 16
FAR = 1e4
"""Outputs are clipped to this size."""

CANARIES = 0.05
"""Share of the records that get a wrong label: they show how the attack does on outliers."""


@dataclass(frozen=True)
class Shard:
    """Up to SHARD models, from number `first` on, of `models` in all."""

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
    import_from(shard.folder)
    section = shard.job.silo(shard.silo)
    data = load_audited(shard.job, shard.silo, silo_places(section, shard.folder)).data
    count = min(SHARD, shard.models - shard.first)
    members = memberships(len(data.train), shard.models)[shard.first : shard.first + count]
    read, labels = labelling(shard.job), mislabelled(shard.job, data)[0]
    features = torch.from_numpy(data.train.features)
    stack = Stack(shard.job, features.shape[1], count, read.loss)
    # Seeding is safe: these models belong to an attacker, and nothing of them is released.
    generator = torch.Generator().manual_seed(shard.first + 1)
    stack.train(
        features, torch.from_numpy(labels), torch.from_numpy(members), shard.recipe, generator
    )
    views = read.views(data.train.labels)
    said = read.observe(_said(stack, data.train), labels, views)
    of_others = read.observe(_said(stack, data.test), data.test.labels, views)
    partial = Path(f"{shard.path}.partial")
    opened = os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with open(opened, "wb") as file:
        np.savez(file, statistics=said.statistics, losses=said.losses, population=of_others.losses)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(shard.path)


def _said(stack: Stack, fold: Fold) -> npt.NDArray[np.float64]:
    """Return the models' outputs on a fold, made finite: a NaN becomes 0, which knows nothing."""
    outputs = stack.logits(torch.from_numpy(fold.features)).double()
    return outputs.nan_to_num(0.0, FAR, -FAR).clamp(-FAR, FAR).numpy()


def _readable(path: str) -> bool:
    try:
        with np.load(path) as content:
            return {"statistics", "losses", "population"} <= set(content.files)
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def memberships(records: int, models: int) -> npt.NDArray[np.bool_]:
    """Return which records each model is trained on, bool [K, N]: each record by half of them."""
    random = np.random.default_rng(7)
    chosen = np.zeros((models, records), bool)
    order = random.random((records, models)).argsort(axis=1)[:, : models // 2]
    chosen[order.T, np.arange(records)] = True
    return chosen


def mislabelled(job: Job, data: SiloData) -> tuple[Labels, npt.NDArray[np.bool_]]:
    """Return the training labels with wrong ones for canaries, and which records are canaries."""
    random = np.random.default_rng(11)
    labels = data.train.labels.copy()
    canaries = np.zeros(len(labels), bool)
    canaries[random.permutation(len(labels))[: max(int(CANARIES * len(labels)), 1)]] = True
    labels[canaries] = labelling(job).spoilt(labels[canaries], random)
    return labels, canaries


def shadows(
    job: Job,
    silo: str,
    folder: str,
    data: SiloData,
    into: Path,
    models: int,
    recipe: Recipe,
    trained: Callable[[], None],
) -> dict[str, Shadows]:
    """Train the missing shards, then return the outputs of all models, by view of a record.

    Views: `blindsum.pipelines.audit.labelling.Labelling.views`. Records without a label in a view
    are NaN.

    Args:
        into: folder of this recipe's shards, in the silo's state folder.
        trained: called for each shard that exists or has been trained.

    Raises:
        BlindsumError: a worker failed.
    """
    for made in (into.parent.parent, into.parent, into):  # mkdir does not set the mode of parents
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
            "Run the audit again: it trains only the missing shadow models.",
        ) from None
    except RayError as error:
        raise BlindsumError(
            f"a worker that trained shadow models was lost ({type(error).__name__})",
            "Check that enough memory is free, then run the audit again: it trains only the "
            "missing shadow models.",
        ) from None
    statistics, losses, population = _read(shards)
    members = memberships(len(data.train), models)
    views = labelling(job).views(data.train.labels)
    return {
        view: Shadows(statistics[v], losses[v], members, population[v])
        for v, view in enumerate(views)
    }


def _read(shards: list[Shard]) -> list[npt.NDArray[np.float64]]:
    """Read all shards: statistics and losses, [V, K, N], and population losses, [V, K, Z]."""
    read = [np.load(one.path) for one in shards]
    names = ("statistics", "losses", "population")
    return [np.concatenate([one[name] for one in read], axis=1) for name in names]
