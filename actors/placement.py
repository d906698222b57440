"""Placement of silos and aggregators on nodes.

A silo runs on the node that offers the custom resource `silo:<name>`. Aggregators run on nodes
without such a resource, if there are any, so that an owner's machine runs only its own silo.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from blindsum.platform.errors import ClusterError

PREFIX = "silo:"
HEAD = "node:__internal_head__"

# Ray must not retry: a task that it silently ran again would train and send twice for one charge.
ONCE: dict[str, Any] = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0}


def offers_silo(resources: Iterable[str]) -> bool:
    """Return whether a node or a cluster with those resources includes a silo's own machine."""
    return any(resource.startswith(PREFIX) for resource in resources)


def require_no_others(offered: Iterable[str]) -> None:
    """Raise ClusterError if other organisations' silos run on a Ray with those resources: a silo's
    workers cannot. Whoever runs code on one of its nodes can call the actors on all of them."""
    if offers_silo(offered):
        raise ClusterError(
            "silos.NAME.workers is above 1, and this Ray also runs other organisations' silos",
            "Leave silos.NAME.workers out, or give each organisation its own Ray: separate "
            "clusters (docs/consortium.md).",
        )


def require_gpus(wanted: float, offered: Mapping[str, float]) -> None:
    """Raise ClusterError if a Ray has fewer GPUs: it would wait for more of them for ever.

    Args:
        wanted: how many the processes that start take together.
        offered: the cluster's resources, as `ray.cluster_resources()` returns them.
    """
    there = offered.get("GPU", 0.0)
    if wanted > there + 1e-6:
        raise ClusterError(
            f"silos.NAME.resources asks for {wanted:g} GPUs in all, and this Ray has {there:g}",
            "Let silos share one, as with resources: {gpus: 0.33}; leave resources out; or start "
            "the nodes with their GPUs (ray start --num-gpus).",
        )


def silo_options(
    gpus: Mapping[str, float], offered: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Return the Ray options of each silo.

    If any node offers a `silo:` resource, every silo needs its own node: a silo must never start on
    another owner's node because its own is down. Otherwise this is a simulation, and Ray places
    silos anywhere.

    Args:
        gpus: by silo, the share of a GPU that its own process takes.
        offered: as of `require_gpus`.

    Raises:
        ClusterError: resources are missing, which it names at once instead of waiting for them.
    """
    require_gpus(sum(gpus.values()), offered)
    if not offers_silo(offered):
        return {name: ONCE | {"num_gpus": share} for name, share in gpus.items()}
    missing = [PREFIX + name for name in gpus if offered.get(PREFIX + name, 0) <= 0]
    if missing:
        raise ClusterError(
            f"no live node offers {', '.join(missing)}",
            f"""Start the silo's node with: ray start --resources '{{"{missing[0]}": 1}}'""",
        )
    # A small part of the resource fixes the place and leaves room for a second job.
    return {
        name: ONCE | {"num_gpus": share, "resources": {PREFIX + name: 0.001}}
        for name, share in gpus.items()
    }


def shared_options(
    groups: Sequence[Sequence[str]], gpus: Mapping[str, float], offered: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return the Ray options of each process with several simulated silos.

    Args:
        groups: the silos of each process.
        gpus: as of `silo_options`. A process computes on one GPU, which its silos share.
        offered: likewise.

    Raises:
        ClusterError: silos have machines of their own here; or GPUs are missing.
    """
    if offers_silo(offered):
        pinned_ones = sorted(name.removeprefix(PREFIX) for name in offered if offers_silo([name]))
        raise ClusterError(
            "simulation.silos_per_process lets one process have the records and keys of several "
            f"silos, and this Ray has machines of silos: {', '.join(pinned_ones)}",
            "Leave the job's section simulation out: each silo then has a process of its own on "
            "its own machine. It is for silos that one party simulates.",
        )
    shares = [min(1.0, sum(gpus[name] for name in group)) for group in groups]
    require_gpus(sum(shares), offered)
    return [ONCE | {"num_gpus": share} for share in shares]


def aggregator_options(
    count: int, nodes: Sequence[Mapping[str, Any]], here: str
) -> list[dict[str, Any]]:
    """Return the Ray options of each aggregator. They are spread over the live nodes without a
    silo, and the driver's node comes first.

    Args:
        nodes: the nodes, as `ray.nodes()` returns them.
        here: id of the driver's node.
    """
    live = [(str(node["NodeID"]), list(node["Resources"])) for node in nodes if node["Alive"]]
    free = sorted(
        ((id, offers) for id, offers in live if not offers_silo(offers)),
        key=lambda one: (one[0] != here, one[0]),
    )
    # Ray gives each node a resource named after its address. Ray's soft node affinity was seen to
    # place an aggregator elsewhere while nodes had just met; hard affinity would fail then.
    places = [r for _, offers in free for r in offers if r.startswith("node:") and r != HEAD]
    if not places:
        return [dict(ONCE) for _ in range(count)]
    return [ONCE | {"resources": {places[i % len(places)]: 0.001}} for i in range(count)]


def driver_place(nodes: Sequence[tuple[bool, str, Iterable[str]]]) -> dict[str, float] | None:
    """Return a resource of the node on which a submitted driver should run.

    None means the head node, which Ray chooses by default: the head has no silo, or all nodes have
    one.

    Args:
        nodes: for each live node, whether it is the head, its address, and its resources' names.
    """
    free = [(head, address) for head, address, offers in nodes if not offers_silo(offers)]
    if not free or any(head for head, _ in free):
        return None
    return {f"node:{min(address for _, address in free)}": 0.001}


def pinned(options: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether silos run on nodes of their own."""
    return any("resources" in one for one in options.values())
