"""One training on public records, as the planned job would train.

The model, the trainer, the privacy plan and the server step are those of a run. The silos' records
are dealt by scaffold. If the public records are fewer than those of the planned job, the noise is
what it would be beside the planned number of records: the noise on a mean of gradients shrinks with
the records of a silo, so a plan for n records has n' / n of its noise on n' of them. Only the noise
is that of more records then, not what a model learns from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from blindsum.pipelines.selection.candidates import Plan, Setting
from blindsum.pipelines.selection.public_records import PublicRecords, Rows
from blindsum.platform.data.records import Fold
from blindsum.platform.evaluation.scores import by_task
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import PrivacyPlan, plan
from blindsum.platform.privacy.randomness import cryptographic_generator, seeded_generator
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.losses import record_loss
from blindsum.platform.training.models import get_parameters, model_of
from blindsum.platform.training.simulation import Simulation


def dealt(records: PublicRecords, rows: Rows, plan: Plan, seed: int) -> list[Rows]:
    """Return the training records of each silo, bool [records]: all of a scaffold at one silo, and
    at most the planned number."""
    where, chosen = records.parts(f"silo-{seed}", plan.silos), list[Rows]()
    random = np.random.default_rng(seed)
    for silo in range(plan.silos):
        own = np.flatnonzero(rows & (where == silo))
        if plan.records is not None and len(own) > plan.records:
            own = random.choice(own, plan.records, replace=False)
        found = np.zeros(len(records), np.bool_)
        found[own] = True
        chosen.append(found)
    return chosen


def parameters_of(plan: Plan, setting: Setting) -> int:
    """Return the number of the model's parameters."""
    return int(get_parameters(model_of(Job.model_validate(plan.job(setting, 100, 1)))).size)


def trained(
    records: PublicRecords, silos: Sequence[Rows], setting: Setting, plan: Plan, seed: int
) -> nn.Module:
    """Train once as the planned job would; returns the model."""
    each = float(np.mean([rows.sum() for rows in silos]))
    planned = Job.model_validate(plan.job(setting, plan.records or each, seed))
    here = Job.model_validate(plan.job(setting, each, seed))
    model, loss = model_of(here, private=False), record_loss(here, {})
    trainers = []
    for rows, silo in zip(silos, here.silos, strict=True):
        own = noise_of(planned, silo.name, each, plan.records)
        random = cryptographic_generator() if own else seeded_generator(seed, silo.name)
        fold = records.fold(setting.representation, rows)
        trainers.append(LocalTrainer(model, fold, here.training, own, random, loss))
    return Simulation(model, trainers, here.server, average=here.training.average).run(
        here.training.rounds
    )


def noise_of(planned: Job, silo: str, here: float, records: int | None) -> PrivacyPlan | None:
    """Return the plan of a silo whose noise weighs as much on `here` records as the planned job's
    noise weighs on `records`."""
    own = plan(planned, silo)
    if own is None:
        return None
    own = own.in_a_run()
    return replace(own, noise_multiplier=own.noise_multiplier * here / (records or here))


def score(model: nn.Module, held_out: Fold, records: PublicRecords) -> float:
    """Return the mean over tasks of AUROC, or of R2 for numbers; NaN if no task has enough
    labels."""
    with torch.no_grad():
        outputs = held_out.outputs(model).numpy()
    found = by_task(outputs, held_out.labels, records.tasks).values()
    each = [one["auroc"] if "auroc" in one else max(one["r2"], -1.0) for one in found]
    return float(np.mean(each)) if each else float("nan")
