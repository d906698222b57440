"""Attack pictures that the audit drew, so that a report which may be shared can show the result.

The model, the protections and the attacks are those of the job. Only the pictures are the audit's:
they show shapes, and no record of any silo.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from blindsum.pipelines.audit.attacks.reconstruction import Reconstruction
from blindsum.pipelines.audit.evidence import Defence, Figure
from blindsum.pipelines.audit.scores import Records
from blindsum.pipelines.audit.victim import Victim
from blindsum.platform.data.records import Fold
from blindsum.platform.data.table import SiloData

BATCH, PUBLIC = 16, 200


@dataclass(frozen=True)
class Drawn:
    """Drawn pictures, and what one attack recovers of them under each defence.

    Pixels from 0 to 1, float64 [pictures, channels, height, width].
    """

    attack: str
    true: Records
    recovered: dict[Defence, Records]
    figures: dict[Defence, Figure | None]


def attack_drawn(victim: Victim, iterations: int) -> list[Drawn]:
    """Return the results of matching, one picture at a time, and of imprint, BATCH at a time.

    The list is empty if the job's records are no pictures.

    Args:
        iterations: of gradient matching.
    """
    if victim.pictures is None:
        return []
    labels = np.concatenate([_labels(victim, c, BATCH // 2) for c in (0, 1)])
    attacked = Fold(victim.pictures.drawn(BATCH, seed=1), labels)
    public = np.concatenate([_labels(victim, c, PUBLIC // 2) for c in (0, 1)])
    others = Fold(victim.pictures.drawn(PUBLIC, seed=2), public)
    stands_in = Victim(victim.job, victim.silo, SiloData(attacked, others, "", 0), victim.plan)
    tried = Reconstruction(stands_in, 2, 1.0, iterations, checkpoints=("fresh",))
    tried.server((), (1,), (BATCH,))
    found: dict[str, Drawn] = {}
    for one in tried.examples:
        pixels = victim.pictures.pixels
        drawn = found.setdefault(one.attack, Drawn(one.attack, pixels(one.true), {}, {}))
        drawn.recovered[one.defence] = pixels(one.recovered)
        drawn.figures[one.defence] = one.figure
    return list(found.values())


def _labels(victim: Victim, wanted: int, count: int) -> np.ndarray:
    made: torch.Tensor = victim.labelling.of_class(wanted, count)
    return made.numpy()
