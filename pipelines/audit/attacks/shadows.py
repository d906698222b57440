"""Train shadow models on the machine's cores with Ray; keep their outputs in the silo's folder.

Fully connected models are trained side by side, all others one after the other.

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
from blindsum.pipelines.audit.attacks.shadow_training import Recipe, trained
from blindsum.pipelines.audit.attacks.stacked import Stack, stackable
from blindsum.pipelines.audit.audited import load_audited
from blindsum.pipelines.audit.labelling import labelling
from blindsum.platform.data.records import Fold, Labels
from blindsum.platform.data.table import SiloData
from blindsum.platform.errors import BlindsumError
from blindsum.platform.job.paths import import_from, silo_places
from blindsum.platform.job.schema import Job

Bools = npt.NDArray[np.bool_]
Outputs = list[tuple[torch.Tensor, torch.Tensor]]
SHARD = 16
SHARD_ALONE = 2
"""Models of a shard that are trained one after the other: progress is shown by shards."""

FAR = 1e4
"""Outputs are clipped to this size."""

CANARIES = 0.05
"""Share of the records that get a wrong label: they show how the attack does on outliers."""


@dataclass(frozen=True)
class Shard:
    """`count` models, from number `first` on, of `models` in all."""

    job: Job
    silo: str
    folder: str
    path: str
    first: int
    count: int
    models: int
    recipe: Recipe


def train_shard(shard: Shard) -> None:
    """Train and write one shard, in a worker."""
    torch.set_num_threads(1)
    import_from(shard.folder)
    section = shard.job.silo(shard.silo)
    data = load_audited(shard.job, shard.silo, silo_places(section, shard.folder)).data
    members = memberships(len(data.train), shard.models)
    members = members[shard.first : shard.first + shard.count]
    read, labels = labelling(shard.job), mislabelled(shard.job, data)[0]
    side_by_side = stackable(shard.job)
    outputs = (_side_by_side if side_by_side else _one_by_one)(shard, data, labels, members)
    views = read.views(data.train.labels)
    said, of_others = (_finite(torch.stack(fold)) for fold in zip(*outputs, strict=True))
    seen = read.observe(said, labels, views)
    population = read.observe(of_others, data.test.labels, views).losses
    partial = Path(f"{shard.path}.partial")
    opened = os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with open(opened, "wb") as file:
        np.savez(file, statistics=seen.statistics, losses=seen.losses, population=population)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(shard.path)


def _side_by_side(shard: Shard, data: SiloData, labels: Labels, members: Bools) -> Outputs:
    """Return each model's outputs on the training and on the held-out records."""
    features = torch.from_numpy(data.train.features)
    loss = labelling(shard.job).loss
    stack = Stack(shard.job, features.shape[1], len(members), loss)
    # Seeding is safe: these models belong to an attacker, and nothing of them is released.
    generator = torch.Generator().manual_seed(shard.first + 1)
    stack.train(
        features, torch.from_numpy(labels), torch.from_numpy(members), shard.recipe, generator
    )
    of_others = stack.logits(torch.from_numpy(data.test.features))
    return list(zip(stack.logits(features), of_others, strict=True))


def _one_by_one(shard: Shard, data: SiloData, labels: Labels, members: Bools) -> Outputs:
    """As `_side_by_side`."""
    loss, outputs = labelling(shard.job).loss, []
    for number, member in enumerate(members, start=shard.first + 1):
        own = Fold(data.train.stored[member], labels[member])
        random = np.random.default_rng(number)
        model = trained(shard.job, own, shard.recipe, loss, random)
        outputs.append((data.train.outputs(model), data.test.outputs(model)))
    return outputs


def _finite(outputs: torch.Tensor) -> npt.NDArray[np.float64]:
    """Return outputs made finite: a NaN becomes 0, which knows nothing."""
    return outputs.double().nan_to_num(0.0, FAR, -FAR).clamp(-FAR, FAR).numpy()


def _readable(path: str) -> bool:
    try:
        with np.load(path) as content:
            return {"statistics", "losses", "population"} <= set(content.files)
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def shard_size(job: Job) -> int:
    """Return how many of a job's shadow models one worker trains at a time."""
    return SHARD if stackable(job) else SHARD_ALONE


def memberships(records: int, models: int) -> Bools:
    """Return which records each model is trained on, bool [K, N]: each record by half of them."""
    random = np.random.default_rng(7)
    chosen = np.zeros((models, records), bool)
    order = random.random((records, models)).argsort(axis=1)[:, : models // 2]
    chosen[order.T, np.arange(records)] = True
    return chosen


def mislabelled(job: Job, data: SiloData) -> tuple[Labels, Bools]:
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
    done: Callable[[], None],
) -> dict[str, Shadows]:
    """Train the missing shards, then return the outputs of all models, by view of a record.

    Views: `blindsum.pipelines.audit.labelling.Labelling.views`. Records without a label in a view
    are NaN.

    Args:
        into: folder of this recipe's shards, in the silo's state folder.
        done: called for each shard that exists or has been trained.

    Raises:
        BlindsumError: a worker failed.
    """
    for made in (into.parent.parent, into.parent, into):  # mkdir does not set the mode of parents
        made.mkdir(parents=True, exist_ok=True, mode=0o700)
    size = shard_size(job)
    shards = [
        Shard(
            job,
            silo,
            folder,
            str(into / f"{first:04}.npz"),
            first,
            min(size, models - first),
            models,
            recipe,
        )
        for first in range(0, models, size)
    ]
    missing = [one for one in shards if not _readable(one.path)]
    for one in shards:
        if one not in missing:
            done()
    worker = ray.remote(num_cpus=1, max_retries=0)(train_shard)
    waiting = [worker.remote(one) for one in missing]
    try:
        while waiting:
            finished, waiting = ray.wait(waiting)
            ray.get(finished)
            done()
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
