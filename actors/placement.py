"""Which node a silo runs on: the one that offers the custom resource `silo:<name>`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from blindsum.platform.errors import ClusterError

PREFIX = "silo:"

# No retry below the federation: a task that Ray silently ran again would train and send twice
# for one charge.
ONCE: dict[str, Any] = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0}


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
    if not any(resource.startswith(PREFIX) for resource in offered):
        return {name: dict(ONCE) for name in names}
    missing = [PREFIX + name for name in names if offered.get(PREFIX + name, 0) <= 0]
    if missing:
        raise ClusterError(
            f"no live node offers {', '.join(missing)}",
            f"""Start the silo's node with: ray start --resources '{{"{missing[0]}": 1}}'""",
        )
    # A sliver of the resource: it says where, and does not lock out a second job.
    return {name: ONCE | {"resources": {PREFIX + name: 0.001}} for name in names}


def pinned(options: Mapping[str, Mapping[str, Any]]) -> bool:
    """True where silos run on nodes of their own."""
    return any("resources" in one for one in options.values())
