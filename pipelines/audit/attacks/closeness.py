"""Scores of how close generated records come to a class, against records nobody trained on.

Frechet         distance between Gaussians fitted to generated and real records (Heusel et al.,
                NeurIPS 2017), in the first principal components of the real ones; less is closer.
                Records that are all alike are far away, because their spread counts
precision       share of generated records within the manifold of real ones (Kynkaanniemi et al.,
                NeurIPS 2019: in the ball from a real record to its third neighbour). Of little use
                for sparse bits: the empty record lies in every ball
nearer          share of generated records nearer to the records trained on than to as many others
                of the class; one half if the class is learnt but no record
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg
from scipy.spatial.distance import cdist

from blindsum.pipelines.audit.evidence import Figure, average
from blindsum.pipelines.audit.scores import Records

NEIGHBOURS, COMPONENTS = 3, 8


@dataclass(frozen=True)
class Closeness:
    """Scores of generated records."""

    frechet: float
    precision: float
    nearer: float


def closeness(records: Records, trained: Records, twin: Records, held_out: Records) -> Closeness:
    """Score records generated for one class, [*, features]; the worst score if any is not finite.

    Args:
        trained: records of the class that were trained on.
        twin: as many others of the class, which were not trained on.
        held_out: further records of the class, which represent what it looks like.
    """
    if not np.isfinite(records).all():
        return Closeness(np.inf, 0.0, 0.5)
    to_trained, to_twin = (cdist(records, one).min(1) for one in (trained, twin))
    nearer = (to_trained < to_twin).mean() + 0.5 * (to_trained == to_twin).mean()
    return Closeness(frechet(records, held_out), precision(records, held_out), float(nearer))


def precision(records: Records, real: Records) -> float:
    """Return the share of records in the ball from a real record to its NEIGHBOURS-th neighbour."""
    reach = np.sort(cdist(real, real), axis=1)[:, min(NEIGHBOURS, len(real) - 1)]
    return float((cdist(records, real) <= reach).any(1).mean())


def frechet(records: Records, real: Records) -> float:
    """Return the Frechet distance in the real records' first COMPONENTS principal components."""
    centre = real.mean(0)
    axes = linalg.svd(real - centre, full_matrices=False)[2][: min(COMPONENTS, len(real) // 4)]
    a, b = (records - centre) @ axes.T, (real - centre) @ axes.T
    first, second = (np.atleast_2d(np.cov(one.T)) for one in (a, b))
    mixed = np.sqrt(np.maximum(linalg.eigvals(first @ second).real, 0.0)).sum()
    apart = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return float(apart + np.trace(first) + np.trace(second) - 2 * mixed)


def class_mean(
    records: Records, count: int, low: float, high: float, binary: bool, seed: int = 0
) -> Records:
    """Draw `count` records from a class's mean and spread, feature by feature."""
    random = np.random.default_rng(seed)
    shape = (count, records.shape[1])
    if binary:
        bits: Records = (random.random(shape) < records.mean(0)).astype(float)
        return bits
    clipped: Records = np.clip(random.normal(records.mean(0), records.std(0), shape), low, high)
    return clipped


def summary(
    runs: npt.NDArray[np.object_], prior: list[Closeness], most: float
) -> dict[str, Figure]:
    """Return means over federations.

    Intervals are Student's intervals of the difference between each federation and its prior.

    Args:
        runs: Closeness, [federations, 2]: in the second of each pair, trained and twin records
            change places, which cancels chance differences between the two sets.
        prior: the floor: scores of what the participant has anyway, for each federation.
        most: upper limit of the Frechet distance.
    """

    def figure(name: str, most: float, less: bool = False) -> Figure:
        values = [np.mean([min(getattr(one, name), most) for one in pair]) for pair in runs]
        floors = [min(getattr(one, name), most) for one in prior]
        floor = float(np.mean(floors))
        apart = average(
            [float(v - f) for v, f in zip(values, floors, strict=True)], least=-most, most=most
        )
        low, high = (floor + (0.0 if end is None else end) for end in (apart.low, apart.high))
        return Figure(float(np.mean(values)), max(low, 0.0), min(high, most), floor, less)

    return {
        "Frechet distance": figure("frechet", most, less=True),
        "precision": figure("precision", 1.0),
        "nearer to training records": average(
            [float(np.mean([one.nearer for one in pair])) for pair in runs], 0.5
        ),
    }
