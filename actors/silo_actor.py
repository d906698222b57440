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
    """The Ray actor class of a silo class.

    `release` has a thread of its own and may overtake: it must answer while the silo trains,
    and while calls before it wait for a total that never comes. The others run one at a time,
    each started by the arrival of what it needs.
    """
    options: dict[str, Any] = {
        "concurrency_groups": {"release": 1},
        "allow_out_of_order_execution": True,
    }
    return ray.remote(**options)(shell(silo, CALLS, (SiloSpec,)))


SiloActor = as_actor(Silo)
