"""What privacy costs: held-out accuracy of the job's model against epsilon.

Trained here on this silo's records alone, which stand for those of all silos (`Victim.in_the_mean`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from blindsum.pipelines.audit.evidence import Figure, average
from blindsum.pipelines.audit.victim import Victim
from blindsum.platform.errors import PrivacyError
from blindsum.platform.models import build_model, get_parameters, set_parameters
from blindsum.platform.privacy import PrivacyPlan
from blindsum.platform.random_source import cryptographic_generator
from blindsum.platform.server_optimizer import ServerOptimizer
from blindsum.platform.training import LocalTrainer

EPSILONS = (1.0, 3.0, 8.0)
MOST_STEPS = 2000


@dataclass(frozen=True)
class Point:
    """Mean held-out accuracy at an epsilon (None: without privacy), with Student's interval."""

    epsilon: float | None
    accuracy: Figure


def tradeoff(
    victim: Victim, repeats: int, done: Callable[[], None] = lambda: None
) -> list[Point] | None:
    """Accuracy without privacy, at EPSILONS and at the plan's epsilon; None where a model takes more
    than MOST_STEPS."""
    plan = victim.plan
    if plan.rounds_within_budget * plan.steps_per_round > MOST_STEPS:
        return None
    points = []
    for epsilon, own in _plans(victim):
        shares = [_accuracy(victim, own, seed) for seed in range(repeats)]
        points.append(Point(epsilon, average(shares)))
        done()
    return points


def _plans(victim: Victim) -> Iterator[tuple[float | None, PrivacyPlan | None]]:
    yield None, None
    for epsilon in sorted({*EPSILONS, victim.plan.epsilon}):
        try:
            yield epsilon, victim.in_the_mean(epsilon=epsilon)
        except PrivacyError:  # too strict for so many steps
            continue


def _accuracy(victim: Victim, plan: PrivacyPlan | None, seed: int) -> float:
    job = victim.job
    model = build_model(
        job.model, victim.features, victim.classes, seed=job.seed + seed, private=False
    )
    trainer = LocalTrainer(model, victim.data.train, job.training, plan, cryptographic_generator())
    vector = get_parameters(model)
    server = ServerOptimizer(job.server, vector.size)
    for _ in range(victim.plan.rounds_within_budget):
        vector = server.apply(vector, trainer.train(vector).astype(np.float64))
    set_parameters(model, vector)
    held_out = victim.data.test
    said = held_out.outputs(model).argmax(1).numpy()
    return float((said == held_out.labels).mean())
