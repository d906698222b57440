"""The driver's side of a key ceremony: it passes messages between the silos, and sees no key."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from blindsum.actors.codec import encoded
from blindsum.actors.handles import AggregatorHandle, SiloHandle
from blindsum.actors.waiting import Waiting
from blindsum.he.keys import copies


def hold_ceremony(
    waiting: Waiting,
    silos: Iterable[SiloHandle],
    aggregators: Sequence[AggregatorHandle],
    within_s: float,
) -> None:
    """Hold a key ceremony (`blindsum.he.keys`) of those silos. It replaces all earlier keys.

    Args:
        within_s: the deadline of each step in seconds.

    Raises:
        SiloLost, AggregatorLost: a process died, or missed the deadline.
        KeyRefused: a silo received other messages than the others sent.
    """
    silos, gather = list(silos), waiting.gather
    introduced = gather([s.introduce() for s in silos], "introduce themselves", within_s)
    met = {one.silo: one.identity for one in introduced.values()}
    gather([one.meet(met) for one in aggregators], "meet the silos", within_s)
    cards = encoded(tuple(introduced.values()))  # once, for all silos
    contributed = gather([s.contribute(cards) for s in silos], "contribute to the keys", within_s)
    each = copies(tuple(contributed.values()), list(contributed))
    agreeing = [s.agree(encoded(own)) for s, own in zip(silos, each, strict=True)]
    agreed = gather(agreeing, "agree on the keys", within_s)
    agreements = encoded(tuple(agreed.values()))
    finishing = [s.finish(agreements, aggregators) for s in silos]
    gather(finishing, "take up the keys", within_s)
