"""Run membership inference against one silo: train shadow models, score them, add the findings."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from blindsum.infra.ray_session import ray_session
from blindsum.pipelines.audit.attacks import membership
from blindsum.pipelines.audit.attacks.shadows import SHARD, mislabelled, shadows
from blindsum.pipelines.audit.attacks.stacked import Recipe, stackable
from blindsum.pipelines.audit.evidence import Defence, Evidence, Figure, alike
from blindsum.pipelines.audit.labelling import WHOLE
from blindsum.pipelines.audit.outcome import Audit, Watcher
from blindsum.pipelines.audit.victim import Victim

Bools = npt.NDArray[np.bool_]
FPRS = {"1 %": 0.01, "0.1 %": 0.001, "0": 0.0}
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
    job, models = found.job, found.depth.shadows
    if not stackable(job):
        found.findings.not_tested.append(
            "membership inference: shadow models can be trained only for fully connected models"
        )
        return
    canaries = mislabelled(job, victim.data)[1]
    folds = (victim.data.train, victim.data.test)  # keeps their order, unlike the fingerprint
    content = b"".join(f.features.tobytes() + f.labels.tobytes() for f in folds)
    records = hashlib.sha256(content).hexdigest()
    with ray_session(None):
        for defence, recipe in _recipes(found, victim).items():
            shards = -(-models // SHARD)
            watcher.stage(f"training shadow models, {defence}", shards)
            started = time.perf_counter()
            name = _digest(found, recipe, records)
            seen = shadows(
                job, found.silo, folder, victim.data, state / name, models, recipe, watcher.step
            )
            seconds = time.perf_counter() - started
            _of_records(found, seen.pop(WHOLE), defence, canaries, seconds)
            _by_task(found, seen, defence, canaries)


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
                f"{found.depth.shadows} shadow models, each on half the silo's records",
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
    training, planned, bare = found.job.training, found.plan, victim.without_noise()
    steps = planned.rounds_within_budget * planned.steps_per_round
    without = Recipe(
        steps,
        training.sampling_rate,
        training.expected_batch_size / 2,
        training.learning_rate,
        bare.clip_norm if bare else None,
    )
    private = replace(without, clip_norm=planned.clip_norm, noise=planned.update_noise)
    return {"none": without, "dp": private}


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


def _digest(found: Audit, recipe: Recipe, records: str) -> str:
    """Return the shadow models' folder name: a hash of job, recipe, number, records, versions."""
    versions = [torch.__version__, version("blindsum"), version("rdkit")]
    told = found.job.model_dump_json()
    content = [told, asdict(recipe), found.depth.shadows, records, versions]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
