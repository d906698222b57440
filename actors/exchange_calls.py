"""The driver's calls of one exchange: aggregators open it, silos send to it, and take its total."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from blindsum.actors.handles import AggregatorHandle, Reply, SiloHandle, Total, close_sum
from blindsum.actors.messages import TotalReport, TrainReport
from blindsum.actors.waiting import Waiting
from blindsum.he.exchange import Exchange
from blindsum.platform.job.schema import DeadlineSection

T = TypeVar("T")
Send = Callable[[SiloHandle, Exchange, Sequence[Reply[None]]], Reply[TrainReport]]
Take = Callable[[SiloHandle, Exchange, Total], Reply[T]]


@dataclass(frozen=True)
class ExchangeCalls(Generic[T]):
    """Calls that were submitted at once. Each starts as soon as its inputs have arrived."""

    opened: list[Reply[None]]
    sent: list[Reply[TrainReport]]
    closed: list[Reply[TotalReport]]
    taken: list[Reply[T]]

    @classmethod
    def submit(
        cls,
        exchange: Exchange,
        silos: Collection[SiloHandle],
        aggregators: Sequence[AggregatorHandle],
        send: Send,
        take: Take[T],
        keeps: bool,
    ) -> ExchangeCalls[T]:
        """Submit all calls of an exchange.

        Args:
            send: the silos' method that sends.
            take: the silos' method that takes the total.
            keeps: whether the aggregators keep the uploads.
        """
        opened = [one.open(exchange) for one in aggregators]
        sent = [send(silo, exchange, opened) for silo in silos]
        total = close_sum(aggregators, exchange, sent, keeps)
        return cls(opened, sent, total.reports, [take(silo, exchange, total) for silo in silos])

    @property
    def all(self) -> list[Reply[Any]]:
        """All of them."""
        return [*self.opened, *self.sent, *self.closed, *self.taken]

    def answers(
        self, waiting: Waiting, deadlines: DeadlineSection, sending: str, taking: str
    ) -> tuple[list[TrainReport], list[TotalReport], list[T]]:
        """Wait for the answers, in the order in which failures can occur.

        Args:
            sending: what the silos were asked to do first, for errors.
            taking: what they were asked to do with the total.

        Raises:
            SiloLost, AggregatorLost, BlindsumError: as `Waiting.gather`.
        """
        gather, within = waiting.gather, deadlines.round_s
        gather(self.opened, "expect uploads", deadlines.start_s)
        return (
            [*gather(self.sent, sending, within).values()],
            [*gather(self.closed, "add", within).values()],
            [*gather(self.taken, taking, within).values()],
        )
