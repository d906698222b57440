"""The cost of privacy: the held-out accuracy, AUROC or R2 of the job's model against epsilon.

The model is trained on this silo's records only, which stand for those of all silos
(`Victim.in_the_mean`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from blindsum.pipelines.audit.attacks.forests import forest_section, grown
from blindsum.pipelines.audit.evidence import Figure, average
from blindsum.pipelines.audit.victim import Victim
from blindsum.platform.errors import PrivacyError
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.privacy.randomness import cryptographic_generator
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import build_model
from blindsum.platform.training.simulation import Simulation

EPSILONS = (1.0, 3.0, 8.0)
MOST_STEPS = 2000
LEAST = 3


@dataclass(frozen=True)
class Point:
    """The mean held-out score of `models` models at an epsilon (None: without privacy), with
    Student's interval."""

    epsilon: float | None
    score: Figure
    models: int = 0


def tradeoff(
    victim: Victim,
    repeats: int,
    limit_s: float = math.inf,
    done: Callable[[], None] = lambda: None,
) -> list[Point] | None:
    """Return the score without privacy, at EPSILONS and at the plan's epsilon.

    The list is empty if too few held-out records are labelled. The result is None if a model needs
    more than MOST_STEPS steps.

    Args:
        repeats: models for each point; fewer, but at least LEAST, where they would take more than
            `limit_s` seconds in all.
    """
    plan = victim.plan
    if plan.rounds_within_budget * plan.steps_per_round > MOST_STEPS:
        return None
    points, plans = [], list(_plans(victim))
    started = time.perf_counter()
    _score(victim, plans[-1][1], 0)
    each = time.perf_counter() - started
    repeats = int(min(repeats, max(LEAST, limit_s / (each * len(plans)))))
    for epsilon, own in plans:
        scores = [_score(victim, own, seed) for seed in range(repeats)]
        known = [score for score in scores if score is not None]
        if len(known) < len(scores):
            return []
        points.append(Point(epsilon, average(known, least=victim.labelling.least), repeats))
        done()
    return points


def _plans(victim: Victim) -> Iterator[tuple[float | None, PrivacyPlan | None]]:
    yield None, victim.without_noise()
    for epsilon in sorted({*EPSILONS, victim.plan.epsilon}):
        try:
            yield epsilon, victim.in_the_mean(epsilon=epsilon)
        except PrivacyError:  # too strict for so many steps
            continue


def _score(victim: Victim, plan: PrivacyPlan | None, seed: int) -> float | None:
    job = victim.job.model_copy(update={"seed": victim.job.seed + seed})
    rounds, held_out = victim.plan.rounds_within_budget, victim.data.test
    if section := forest_section(job):
        random, silos = cryptographic_generator(), len(job.silos)
        forest = grown(job, section, victim.data.train, plan, rounds, random, silos=silos)
        return victim.labelling.score(held_out.outputs(forest), held_out.labels)
    model = build_model(job.model, victim.features, victim.outputs, seed=job.seed, private=False)
    trainer = LocalTrainer(
        model,
        victim.data.train,
        job.training,
        plan,
        cryptographic_generator(),
        victim.labelling.loss,
    )
    federation = Simulation(model, [trainer], job.server, average=job.training.average)
    federation.run(rounds)
    return victim.labelling.score(held_out.outputs(model), held_out.labels)
