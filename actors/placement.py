"""Who runs on which node.

A silo runs on the node that offers the custom resource `silo:<name>`, aggregators on nodes that offer none such
where there are any: an owner's machine then holds its own silo and nothing of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from blindsum.platform.errors import ClusterError

PREFIX = "silo:"
HEAD = "node:__internal_head__"

# No retry below the federation: a task that Ray silently ran again would train and send twice
# for one charge.
ONCE: dict[str, Any] = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0}


def offers_silo(resources: Iterable[str]) -> bool:
    """Whether a node, or a cluster, with those resources has a silo's own machine in it."""
    return any(resource.startswith(PREFIX) for resource in resources)


def silo_options(roster: Iterable[str], offered: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Ray options per silo.

    Where any node offers a `silo:` resource, every silo must have its own: a silo never lands
    on a stranger's node because its own is down. Where none does, this is a simulation and
    Ray places silos anywhere.

    Args:
        offered: the cluster's resources, as `ray.cluster_resources()` gives them.

    Raises:
        ClusterError: names the missing resources, at once rather than after a hang.
    """
    names = list(roster)
    if not offers_silo(offered):
        return {name: dict(ONCE) for name in names}
    missing = [PREFIX + name for name in names if offered.get(PREFIX + name, 0) <= 0]
    if missing:
        raise ClusterError(
            f"no live node offers {', '.join(missing)}",
            f"""Start the silo's node with: ray start --resources '{{"{missing[0]}": 1}}'""",
        )
    # A sliver of the resource: it says where, and does not lock out a second job.
    return {name: ONCE | {"resources": {PREFIX + name: 0.001}} for name in names}


def aggregator_options(
    count: int, nodes: Sequence[Mapping[str, Any]], here: str
) -> list[dict[str, Any]]:
    """Ray options per aggregator: spread over the live nodes without a silo, the driver's first.

    Args:
        nodes: as `ray.nodes()` gives them.
        here: id of the driver's node.
    """
    live = [(str(node["NodeID"]), list(node["Resources"])) for node in nodes if node["Alive"]]
    free = sorted(
        ((id, offers) for id, offers in live if not offers_silo(offers)),
        key=lambda one: (one[0] != here, one[0]),
    )
    # The resource that Ray gives each node under its address. Ray's own soft affinity was seen to put an
    # aggregator elsewhere while nodes were new to each other; a hard one would fail then.
    places = [r for _, offers in free for r in offers if r.startswith("node:") and r != HEAD]
    if not places:
        return [dict(ONCE) for _ in range(count)]
    return [ONCE | {"resources": {places[i % len(places)]: 0.001}} for i in range(count)]


def driver_place(nodes: Sequence[tuple[bool, str, Iterable[str]]]) -> dict[str, float] | None:
    """A resource of the node that a submitted driver is to run on; None for the head, which Ray takes by
    itself: where it has no silo, or all have one.

    Args:
        nodes: of each live node, whether it is the head, its address, and the names of its resources.
    """
    free = [(head, address) for head, address, offers in nodes if not offers_silo(offers)]
    if not free or any(head for head, _ in free):
        return None
    return {f"node:{min(address for _, address in free)}": 0.001}


def pinned(options: Mapping[str, Mapping[str, Any]]) -> bool:
    """True where silos run on nodes of their own."""
    return any("resources" in one for one in options.values())
