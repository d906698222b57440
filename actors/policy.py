"""A silo's own policy: it takes part only in what its job file says, whoever announces it."""

from __future__ import annotations

from blindsum.he.exchange import Exchange
from blindsum.he.packing import is_adapted
from blindsum.he.parameters import Parameters
from blindsum.platform.adaptive_clipping import is_adapted as is_adapted_clipping
from blindsum.platform.errors import FederationError
from blindsum.platform.job import Job


class Policy:
    """What one silo of one run expects of exchanges.

    Args:
        silo: whose policy it is.
        range: of the first round's exchange.
    """

    def __init__(self, job: Job, run: str, silo: str, parameters: Parameters, range: float) -> None:
        self._job, self._run, self._silo = job, run, silo
        self._parameters, self._range = parameters, range

    def require(self, exchange: Exchange, purpose: str, values: int, model: str) -> None:
        """Raises FederationError if the exchange is none that this silo expects now.

        Args:
            model: digest of the model that this silo starts from.
        """
        expected = (
            self._run, True, self._parameters, purpose, values, True, True, model,
        )  # fmt: skip
        got = (
            exchange.job, self.allows_roster(exchange.roster), exchange.parameters, exchange.purpose,
            exchange.values, self._allows_clipping(exchange.clipping), self._allows(exchange),
            exchange.model,
        )  # fmt: skip
        if got != expected:
            names = ("run", "roster", "parameters", "purpose", "size", "clipping", "range", "model")
            wrong = next(n for n, a, b in zip(names, got, expected, strict=True) if a != b)
            raise FederationError(f"the announced {wrong} is not the one of this silo's job")

    def allows_roster(self, roster: tuple[str, ...]) -> bool:
        """All of the job's silos, or at least its quorum of them with this one, in the job's order."""
        ordered = tuple(name for name in self._job.roster if name in roster)
        return roster == ordered and self._silo in roster and len(roster) >= self._job.least_silos

    def _allows_clipping(self, clipping: float) -> bool:
        """The job's clip norm, or where it adapts, one not too far from it."""
        adapts = self._job.privacy.noise != "none" and self._job.privacy.clip_quantile is not None
        return is_adapted_clipping(clipping) if adapts else clipping == 1.0

    def _allows(self, exchange: Exchange) -> bool:
        """The job's range, which under shared noise goes with the clip norm; or where it adapts,
        that range doubled or halved a few times."""
        if exchange.range is None or not self._job.adapts_range:
            scaled = exchange.clipping if self._job.privacy.noise == "shared" else 1.0
            return exchange.range == self._range * scaled
        return is_adapted(exchange.range, self._range)


def metrics_exchange(update: Exchange, values: int) -> Exchange:
    """The metrics exchange that follows an update's."""
    return Exchange(
        update.job, update.round, update.attempt, "metrics", update.roster, values, None,
        update.parameters.of_counts, update.model,
    )  # fmt: skip
