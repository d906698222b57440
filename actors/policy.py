"""A silo's own policy: it takes part only in exchanges that its job file allows.

A silo checks whatever changes between rounds against its own state. The roster may only shrink, at
most once a round, and range and clip norm follow from the metrics totals that the silo itself
decrypted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from blindsum.he.exchange import Exchange
from blindsum.he.packing import adapted_range
from blindsum.he.parameters import Parameters
from blindsum.platform.errors import FederationError
from blindsum.platform.evaluation.figures import Metrics
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.adaptive_clipping import next_clipping


@dataclass(frozen=True)
class Course:
    """What a silo expects of the next round: the `range` of update values, the `clipping` in units
    of the job's clip norm, the `roster` of the newest attempt, and the last round in which it
    shrank."""

    range: float
    clipping: float = 1.0
    roster: tuple[str, ...] = ()
    shrank_in: int = 0


class Policy:
    """The policy by which one silo of one run accepts exchanges.

    Args:
        silo: the silo's name.
        range: the range of the first round's exchange.
    """

    def __init__(self, job: Job, run: str, silo: str, parameters: Parameters, range: float) -> None:
        self._job, self._run, self._silo = job, run, silo
        self._parameters, self._first_range = parameters, range
        self.course = Course(range, roster=job.roster)
        self._in_round = False

    def require(
        self, exchange: Exchange, purpose: str, values: int, counts: int, model: str
    ) -> None:
        """Raise FederationError unless this silo expects that exchange now.

        Args:
            values: how many digits it expects.
            counts: how many counts it expects.
            model: digest of the model from which this silo starts.
        """
        at, own = exchange, self._parameters
        course, least = self.course, self._job.least_silos
        rosters = f"at least {least} of {', '.join(course.roster)} in this order, with itself"
        range, clipping = (course.range, course.clipping) if values else (None, 1.0)
        in_range = at.range == range or (at.range and range and _same(at.range, range))
        # Everything here is public: the driver knows it, or computes it as every silo does.
        for name, allowed, announced, expected in (
            ("run", at.run == self._run, at.run, self._run),
            ("roster", self.allows_roster(at.roster), ", ".join(at.roster), rosters),
            ("parameters", at.parameters == own, at.parameters.digest, own.digest),
            ("purpose", at.purpose == purpose, at.purpose, purpose),
            ("size", at.values == values, at.values, values),
            ("number of counts", at.counts == counts, at.counts, counts),
            ("clipping", _same(at.clipping, clipping), at.clipping, clipping),
            ("range", in_range, at.range, range),
            ("model", at.model == model, at.model, model),
        ):
            if not allowed:
                raise FederationError(
                    f"the announced {name} is {announced}; this silo allows {expected}",
                    round=at.round,
                )
        if exchange.roster != self.course.roster and self.course.shrank_in == exchange.round:
            raise FederationError(
                f"the roster was to shrink twice in round {exchange.round}",
                "The difference of two rosters' sums would reveal that of the silos left out.",
            )

    def allows_roster(self, roster: tuple[str, ...]) -> bool:
        """Return whether a roster is the newest or part of it, in the job's order, with this silo
        and with at least the job's quorum."""
        ordered = tuple(name for name in self.course.roster if name in roster)
        return roster == ordered and self._silo in roster and len(roster) >= self._job.least_silos

    def allows_ceremony(self, roster: tuple[str, ...]) -> bool:
        """Return whether this silo agrees on keys with a roster: one that `allows_roster` allows
        or, between two rounds, one with silos that come back.

        Within a round the roster only shrinks: the difference of two attempts' sums would reveal
        more about a silo that left and came back.
        """
        ordered = tuple(name for name in self._job.roster if name in roster)
        large = len(roster) >= self._job.least_silos and self._silo in roster
        return self.allows_roster(roster) or (not self._in_round and roster == ordered and large)

    def regroups(self, roster: tuple[str, ...]) -> None:
        """Note that keys were agreed on with a roster that `allows_ceremony` allowed."""
        if not set(roster) <= set(self.course.roster):
            self.course = replace(self.course, roster=roster)

    def takes(self, exchange: Exchange) -> None:
        """Note that an allowed attempt begins."""
        self._in_round = True
        if exchange.roster != self.course.roster:
            self.course = replace(self.course, roster=exchange.roster, shrank_in=exchange.round)

    def goes_on(self, round: int, roster: tuple[str, ...]) -> None:
        """Note that an interrupted run resumes after an attempt of that round with that roster."""
        if roster and roster != self.course.roster:
            self.course = replace(self.course, roster=roster, shrank_in=round)

    def follow(self, metrics: Metrics) -> None:
        """Set range and clip norm of the next round from metrics that this silo decrypted."""
        self.course = next_course(self.course, self._job, self._first_range, metrics)
        self._in_round = False


def next_course(course: Course, job: Job, first_range: float, metrics: Metrics) -> Course:
    """Return the next round's course from one round's public figures, as every silo and the driver
    compute it.

    Args:
        first_range: the first round's range.
    """
    range, clipping, privacy = course.range, course.clipping, job.privacy
    if privacy.noise != "none" and privacy.clip_quantile and metrics.unclipped is not None:
        clipping = next_clipping(clipping, metrics.unclipped, privacy.clip_quantile)
        if privacy.noise == "shared":
            range = first_range * clipping
    if job.adapts_range:
        range = adapted_range(range, first_range, metrics.saturated, metrics.large)
    return replace(course, range=range, clipping=clipping)


def _same(announced: float, computed: float) -> bool:
    """Return whether two numbers are equal, up to the last bits, in which the exponential functions
    of two machines may differ."""
    return math.isclose(announced, computed, rel_tol=1e-9)
