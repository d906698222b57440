"""Run membership inference against one silo: train shadow models, score them, add the findings."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import torch

from blindsum.infra.ray_session import ray_session
from blindsum.pipelines.audit.attacks import membership
from blindsum.pipelines.audit.attacks.shadow_training import Recipe, seconds_of_one
from blindsum.pipelines.audit.attacks.shadows import mislabelled, shadows, shard_size
from blindsum.pipelines.audit.attacks.stacked import stackable
from blindsum.pipelines.audit.evidence import NAMED, Defence, Evidence, Figure, alike
from blindsum.pipelines.audit.labelling import WHOLE
from blindsum.pipelines.audit.outcome import Audit, Depth, Watcher
from blindsum.pipelines.audit.victim import Victim
from blindsum.platform.data.records import Fold

Bools = npt.NDArray[np.bool_]
FPRS = {"1 %": 0.01, "0.1 %": 0.001, "0": 0.0}
NUMBERS = (96, 64, 48, 32, 24, 16, 12, 8)
LEAST_MODELS = NUMBERS[-1]
PATIENCE = 4
"""How many times the limit so few models may take: with fewer, likelihood ratios mean nothing."""

LEAST_LABELLED = 20
"""Fewest labelled records of a task, in training and held out each, for meaningful rates."""


def run(found: Audit, victim: Victim, folder: str, state: Path, watcher: Watcher) -> None:
    """Train shadow models on the silo's records, without and with privacy, and score them.

    Args:
        folder: the job file's folder.
        state: folder for the shadow models' outputs, inside the silo's state folder.

    Raises:
        BlindsumError: a worker failed.
    """
    job = found.job
    canaries = mislabelled(job, victim.data)[1]
    folds = (victim.data.train, victim.data.test)  # keeps their order, unlike the fingerprint
    content = b"".join(f.features.tobytes() + f.labels.tobytes() for f in folds)
    records = hashlib.sha256(content).hexdigest()
    with ray_session(None):
        for defence, recipe in _recipes(found, victim).items():
            started = time.perf_counter()
            watcher.stage(f"timing a shadow model, {defence}")
            names = {k: state / _digest(found, recipe, records, k) for k in _ladder(found.depth)}
            models = _affordable(found, victim, recipe, names)
            if not models:
                found.findings.not_tested.append(
                    f"membership inference, {NAMED[defence]}: {LEAST_MODELS} shadow models would "
                    f"take more than {PATIENCE * found.depth.limit_s:.0f} s"
                )
                continue
            shards = -(-models // shard_size(job))
            watcher.stage(f"training {models} shadow models, {defence}", shards)
            seen = shadows(
                job, found.silo, folder, victim.data, names[models], models, recipe, watcher.step
            )
            seconds = time.perf_counter() - started
            _of_records(found, seen.pop(WHOLE), defence, canaries, seconds)
            _by_task(found, seen, defence, canaries)


def _ladder(depth: Depth) -> list[int]:
    """Return the numbers of shadow models that an audit may train, the largest first.

    They are few, so that an audit which is run again finds the models that it has trained.
    """
    return [depth.shadows, *(k for k in NUMBERS if k < depth.shadows)]


def _affordable(found: Audit, victim: Victim, recipe: Recipe, folders: dict[int, Path]) -> int:
    """Return how many models can be trained within the depth's limit; 0 if not even LEAST_MODELS.

    Models that are trained side by side take little time. Those of an earlier audit count.
    """
    if stackable(found.job):
        return found.depth.shadows
    if begun := [models for models, folder in folders.items() if folder.is_dir()]:
        return begun[0]
    train = victim.data.train
    half = Fold(train.stored[: len(train) // 2], train.labels[: len(train) // 2])
    each = seconds_of_one(found.job, half, recipe, victim.labelling.loss)
    cores = ray.cluster_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
    workers = max(int(cores), 1)
    fit = found.depth.limit_s * workers / each
    if fit * PATIENCE < LEAST_MODELS:
        return 0
    return next((models for models in folders if models <= fit), min(folders))


def _of_records(
    found: Audit, seen: membership.Shadows, defence: Defence, canaries: Bools, seconds: float
) -> None:
    """Add the attacks that use a model's whole output on a record."""
    scored = membership.scores(seen)
    found.curves[defence] = membership.curve(
        scored["lira"][:, ~canaries], seen.members[:, ~canaries]
    )
    risk = membership.exposure(scored["lira"], seen.members)
    counts = np.histogram(risk[~canaries], 20, (0, 1))[0]
    found.exposures[defence] = [round(float(c), 3) for c in counts / counts.sum()]
    if defence == ("dp" if found.job.private else "none"):
        found.risks = np.where(canaries, np.nan, risk)  # their labels are the audit's
    for attack, values in scored.items():
        figures = _rates(values, seen.members, canaries)
        found.findings.evidence += [
            Evidence(
                attack,
                "outsider",
                same,
                "trained",
                figures,
                f"{len(seen.losses)} shadow models, each on half the silo's records",
                seconds,
            )
            for same in alike(defence)
        ]


def _by_task(
    found: Audit, seen: dict[str, membership.Shadows], defence: Defence, canaries: Bools
) -> None:
    """Add the likelihood-ratio attack on one task's label, for each task of a job with several."""
    for task, one in seen.items():
        started = time.perf_counter()
        own, others = ~np.isnan(one.losses).any(0), ~np.isnan(one.population).any(0)
        if min((own & ~canaries).sum(), others.sum()) < LEAST_LABELLED:
            few = f"membership inference by task {task!r}: fewer than {LEAST_LABELLED} labels"
            if few not in found.findings.not_tested:
                found.findings.not_tested.append(few)
            continue
        labelled = membership.Shadows(
            one.statistics[:, own],
            one.losses[:, own],
            one.members[:, own],
            one.population[:, others],
        )
        scored = membership.scores(labelled)["lira"]
        figures = _rates(scored, labelled.members, canaries[own], among=len(seen))
        found.findings.evidence += [
            Evidence(
                "lira by task",
                "outsider",
                same,
                "trained",
                figures,
                f"task {task}",
                time.perf_counter() - started,
            )
            for same in alike(defence)
        ]


def _recipes(found: Audit, victim: Victim) -> dict[Defence, Recipe]:
    """Return the job's training, on half of this silo's records as if it were alone."""
    job, rounds = found.job, found.plan.rounds_within_budget
    half = job.training.expected_batch_size / 2
    training = job.training.model_copy(update={"expected_batch_size": half})
    return {
        "none": Recipe(training, job.server, rounds, victim.without_noise()),
        "dp": Recipe(training, job.server, rounds, victim.alone()),
    }


def _rates(scores: Any, members: Any, canaries: Bools, among: int = 1) -> dict[str, Figure]:
    own, inside = scores[:, ~canaries], members[:, ~canaries]
    figures = {
        f"TPR at {n} FPR": membership.rates(own, inside, f, among=among) for n, f in FPRS.items()
    }
    figures["precision at 0.1 % FPR"] = membership.precision(figures["TPR at 0.1 % FPR"], 0.001)
    if canaries.any():
        figures["canaries' TPR at 1 % FPR"] = membership.rates(
            scores[:, canaries], members[:, canaries], 0.01, among=among
        )
    return figures


def _digest(found: Audit, recipe: Recipe, records: str, models: int) -> str:
    """Return the shadow models' folder name: a hash of job, recipe, number, records, versions."""
    versions = [torch.__version__, version("blindsum"), version("rdkit")]
    told, plan = found.job.model_dump_json(), recipe.plan and asdict(recipe.plan)
    content = [told, recipe.rounds, plan, models, records, versions]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
