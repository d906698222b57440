"""A silo's own policy: it takes part only in what its job file says, whoever announces it.

What changes between rounds is checked against the silo's own state: the roster only shrinks, at most
once a round, and range and clip norm follow from the metrics' totals that the silo opened itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from blindsum.he.exchange import Exchange
from blindsum.he.packing import adapted_range
from blindsum.he.parameters import Parameters
from blindsum.platform.errors import FederationError
from blindsum.platform.evaluation.round_counts import Metrics
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.adaptive_clipping import next_clipping


@dataclass(frozen=True)
class Course:
    """What a silo expects of the next round: the `range` of update values, the `clipping` in units of
    the job's clip norm, the `roster` of the newest attempt, and the last round in which it shrank."""

    range: float
    clipping: float = 1.0
    roster: tuple[str, ...] = ()
    shrank_in: int = 0


class Policy:
    """What one silo of one run expects of exchanges.

    Args:
        silo: whose policy it is.
        range: of the first round's exchange.
    """

    def __init__(self, job: Job, run: str, silo: str, parameters: Parameters, range: float) -> None:
        self._job, self._run, self._silo = job, run, silo
        self._parameters, self._first_range = parameters, range
        self.course = Course(range, roster=job.roster)

    def require(self, exchange: Exchange, purpose: str, values: int, model: str) -> None:
        """Raises FederationError if the exchange is none that this silo expects now.

        Args:
            model: digest of the model that this silo starts from.
        """
        expected = (self._run, True, self._parameters, purpose, values, True, True, model)
        got = (
            exchange.run,
            self.allows_roster(exchange.roster),
            exchange.parameters,
            exchange.purpose,
            exchange.values,
            _same(exchange.clipping, self.course.clipping),
            exchange.range is not None and _same(exchange.range, self.course.range),
            exchange.model,
        )
        if got != expected:
            names = ("run", "roster", "parameters", "purpose", "size", "clipping", "range", "model")
            wrong = next(n for n, a, b in zip(names, got, expected, strict=True) if a != b)
            raise FederationError(f"the announced {wrong} is not the one of this silo's job")
        if exchange.roster != self.course.roster and self.course.shrank_in == exchange.round:
            raise FederationError(
                f"the roster was to shrink twice in round {exchange.round}",
                "The difference of two rosters' sums belongs to the silos that are left out.",
            )

    def allows_roster(self, roster: tuple[str, ...]) -> bool:
        """The newest roster or part of it, in the job's order, with this silo and the job's quorum."""
        ordered = tuple(name for name in self.course.roster if name in roster)
        return roster == ordered and self._silo in roster and len(roster) >= self._job.least_silos

    def takes(self, exchange: Exchange) -> None:
        """An attempt that was allowed begins."""
        if exchange.roster != self.course.roster:
            self.course = replace(self.course, roster=exchange.roster, shrank_in=exchange.round)

    def goes_on(self, round: int, roster: tuple[str, ...]) -> None:
        """An interrupted run is gone on with, after an attempt of that round with that roster."""
        if roster and roster != self.course.roster:
            self.course = replace(self.course, roster=roster, shrank_in=round)

    def follow(self, metrics: Metrics) -> None:
        """Range and clip norm of the next round, from metrics that this silo opened."""
        self.course = next_course(self.course, self._job, self._first_range, metrics)


def next_course(course: Course, job: Job, first_range: float, metrics: Metrics) -> Course:
    """What every silo and the driver compute from one round's public figures.

    Args:
        first_range: of the first round.
    """
    range, clipping, privacy = course.range, course.clipping, job.privacy
    if privacy.noise != "none" and privacy.clip_quantile and metrics.unclipped is not None:
        clipping = next_clipping(clipping, metrics.unclipped, privacy.clip_quantile)
        if privacy.noise == "shared":
            range = first_range * clipping
    if job.adapts_range:
        range = adapted_range(range, first_range, metrics.saturated, metrics.large)
    return replace(course, range=range, clipping=clipping)


def metrics_exchange(update: Exchange, values: int) -> Exchange:
    """The metrics exchange that follows an update's."""
    return Exchange(
        update.run,
        update.round,
        update.attempt,
        "metrics",
        update.roster,
        values,
        None,
        update.parameters.of_counts,
        update.model,
    )


def _same(announced: float, computed: float) -> bool:
    """To the last bits, in which two machines' exponential functions may differ."""
    return math.isclose(announced, computed, rel_tol=1e-9)
