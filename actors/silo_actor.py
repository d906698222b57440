"""A silo as a Ray actor."""

from __future__ import annotations

from typing import Any

import ray

from blindsum.actors.messages import SiloSpec
from blindsum.actors.shell import Call, shell
from blindsum.actors.silo import Silo
from blindsum.he.exchange import Exchange
from blindsum.he.keys import Agreement, Contribution, Introduction

CALLS = {
    "inspect": Call(),
    "restore": Call((int,)),
    "introduce": Call(),
    "contribute": Call((tuple[Introduction, ...],)),
    "agree": Call((tuple[Contribution, ...],)),
    "finish": Call((tuple[Agreement, ...],), answers=False),
    "train": Call((Exchange,)),
    "apply": Call((Exchange, Exchange)),
    "read_metrics": Call((Exchange,)),
    "release": Call((int,), answers=False),
}


def as_actor(silo: type[Silo]) -> Any:
    """Return the Ray actor class of a silo class.

    `release` has its own thread and may overtake other calls: it must answer while the silo trains,
    and while earlier calls wait for a total that never arrives. The other methods run one at a
    time, each as soon as its inputs have arrived.
    """
    options: dict[str, Any] = {
        "concurrency_groups": {"release": 1},
        "allow_out_of_order_execution": True,
    }
    return ray.remote(**options)(shell(silo, CALLS, (SiloSpec,)))


SiloActor = as_actor(Silo)
