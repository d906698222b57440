"""What silos have in common, from the sums of `blindsum.platform.training.statistics.overlap`."""

from __future__ import annotations

from dataclasses import dataclass

from blindsum.platform.data.identifiers import identified_by
from blindsum.platform.training.statistics.describing import Describing
from blindsum.platform.training.statistics.interval import DEVIATIONS, Figure
from blindsum.platform.training.statistics.parts import Found


@dataclass(frozen=True)
class Overlap:
    """What silos have in common.

    Attributes:
        by: what tells that it is the same: molecule, key or record.
        identifiers: the distinct ones of each silo, summed.
        pairs: pairs of silos that have an identifier in common, over all identifiers: one that k
            silos have counts k (k - 1) / 2 times.
    """

    by: str
    identifiers: Figure
    pairs: Figure


def overlap_figures(of: Describing, found: Found, identifiers: Figure) -> Overlap | None:
    """Return the figures; None if the job does not ask for them.

    Args:
        identifiers: their number, with its interval.
    """
    section = of.section.overlap
    if of.lookup is None or section is None:
        return None
    pairs, deviation, times = of.lookup.pairs(found, len(of.job.silos))
    spread = DEVIATIONS * deviation
    ends = pairs, pairs - spread, (pairs + spread) * times
    return Overlap(
        by=section.by or identified_by(of.job.data),
        identifiers=identifiers,
        pairs=Figure(*(max(one, 0.0) for one in ends)),
    )
