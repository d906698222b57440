"""A silo as a Ray actor. Its process imports the silo; the driver, which only names the actor's
methods, need not import torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import ray

from blindsum.actors.messages import SiloSpec
from blindsum.actors.shell import Call, shell
from blindsum.he.exchange import Exchange
from blindsum.he.handover import StateRequest
from blindsum.he.keys import Agreement, Contribution, Introduction

if TYPE_CHECKING:
    from blindsum.actors.silo import Silo

CALLS = {
    "inspect": Call(),
    "restore": Call((int,)),
    "request_state": Call(),
    "seal_state": Call((StateRequest,), answers=False),
    "take_state": Call(),
    "forget": Call(answers=False),
    "introduce": Call(),
    "contribute": Call((tuple[Introduction, ...],)),
    "agree": Call((tuple[Contribution, ...],)),
    "finish": Call((tuple[Agreement, ...],), answers=False),
    "train": Call((Exchange,)),
    "apply": Call((Exchange,)),
    "evaluate": Call((Exchange,)),
    "read_metrics": Call((Exchange,)),
    "release": Call((int,), answers=False),
    "progress": Call(),
    "ping": Call(answers=False),
}
"""All methods that other processes can call."""

ASIDE = ("release", "progress", "ping")
"""Methods with their own thread, which may overtake other calls: they must answer while the silo
reads its data or trains, and while earlier calls wait for a total that never arrives. The other
methods run one at a time, each as soon as its inputs have arrived."""


def silo_class() -> type[Silo]:
    """Return `Silo`, in the process that calls this."""
    from blindsum.actors.silo import Silo

    return Silo


def as_actor(load: Callable[[], type[Silo]] = silo_class, *more: str) -> Any:
    """Return the Ray actor class of a silo class.

    Args:
        load: returns the silo class, in the actor's process.
        more: names of further methods, for tests that look inside.
    """

    return thin_actor(lambda: shell(load(), CALLS, (SiloSpec,)), (*CALLS, *more))


def thin_actor(load: Callable[[], type], names: Sequence[str], outgoing: int = 0) -> Any:
    """Return a Ray actor class whose methods call those of a silo in the actor's process.

    Args:
        load: returns the silo's class, as it is called with bytes, in the actor's process.
        names: the methods' names.
        outgoing: the number of threads for a method of that name.
    """

    def start(self: Any, *arguments: Any) -> None:
        self._silo = load()(*arguments)

    groups = {"aside": 1} | ({"outgoing": outgoing} if outgoing else {})
    methods = {name: _passed_on(name) for name in names}
    options: dict[str, Any] = {"concurrency_groups": groups, "allow_out_of_order_execution": True}
    return ray.remote(**options)(type("Silo", (), {"__init__": start, **methods}))


def _passed_on(name: str) -> Callable[..., Any]:
    def call(self: Any, *arguments: Any) -> Any:
        return getattr(self._silo, name)(*arguments)

    call.__name__ = call.__qualname__ = name
    group = "aside" if name in ASIDE else "outgoing" if name == "outgoing" else None
    return ray.method(concurrency_group=group)(call) if group else call


SiloActor = as_actor()
