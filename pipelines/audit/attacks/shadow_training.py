"""Train shadow models as the job trains its own, one after the other.

Any model can be trained in this way, whatever its layers, its public weights and its frozen
parameters are: the model and the steps are the product's own. `blindsum.pipelines.audit.attacks.
stacked` is much faster, for fully connected models only.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from blindsum.pipelines.audit.attacks.forests import forest_section, grown
from blindsum.platform.data.features import features_of
from blindsum.platform.data.records import Fold
from blindsum.platform.job.schema import Job
from blindsum.platform.job.training_section import ServerSection, TrainingSection
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.losses import RecordLoss
from blindsum.platform.training.models import build_model, set_parameters
from blindsum.platform.training.simulation import Simulation

PILOT = 3
"""Rounds whose time tells how long a model takes."""


@dataclass(frozen=True)
class Recipe:
    """The training of every shadow model: the job's, for `rounds` rounds.

    `plan` None trains without clipping and without noise.
    """

    training: TrainingSection
    server: ServerSection
    rounds: int
    plan: PrivacyPlan | None = None


def trained(
    job: Job, fold: Fold, recipe: Recipe, loss: RecordLoss, random: np.random.Generator
) -> nn.Module:
    """Return the job's model after the recipe's rounds over these records, as if they were all.

    Training that leaves the finite numbers ends there.

    Args:
        random: draws samples and noise. A seeded one will do: nothing of these models is released.
    """
    if section := forest_section(job):
        return grown(
            job, section, fold, recipe.plan, recipe.rounds, random, training=recipe.training
        )
    shape, outputs = features_of(job.data.features).shape, job.data.outputs
    model = build_model(job.model, shape, outputs, seed=job.seed, private=False)
    trainer = LocalTrainer(model, fold, recipe.training, recipe.plan, random, loss)
    federation = Simulation(model, [trainer], recipe.server)
    for _ in range(recipe.rounds):
        federation.round()
        if not np.isfinite(federation.vector).all():
            break
    set_parameters(model, federation.vector)
    return model


def seconds_of_one(job: Job, fold: Fold, recipe: Recipe, loss: RecordLoss) -> float:
    """Return about how many seconds one model of the recipe takes on these records."""
    taken = []
    for rounds in (1, 1, 1 + PILOT):  # the first one also loads what torch loads once
        started = time.perf_counter()
        tried = replace(recipe, rounds=min(rounds, recipe.rounds))
        trained(job, fold, tried, loss, np.random.default_rng(0))
        taken.append(time.perf_counter() - started)
    return taken[1] + max(taken[2] - taken[1], 0.0) / PILOT * (recipe.rounds - 1)
