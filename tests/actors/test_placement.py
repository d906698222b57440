"""Who runs where: decisions, on made-up clusters; tests/infra/test_cluster.py has a real one."""

from typing import Any

from blindsum.actors.placement import ONCE, aggregator_options, driver_place


def node(name: str, *resources: str, alive: bool = True) -> dict[str, Any]:
    offers = {"CPU": 1.0, f"node:{name}": 1.0, **dict.fromkeys(resources, 1.0)}
    return {"NodeID": name, "Alive": alive, "Resources": offers}


def places(options: list[dict[str, Any]]) -> list[str]:
    return [next(iter(one["resources"])) for one in options]


def test_aggregators_go_to_live_nodes_without_a_silo_the_drivers_first() -> None:
    nodes = [
        node("a", "silo:alder"),
        node("b"),
        node("head", "node:__internal_head__"),
        node("c", alive=False),
    ]
    found = aggregator_options(3, nodes, "head")
    assert places(found) == ["node:head", "node:b", "node:head"]
    assert all(one["max_restarts"] == 0 and one["max_task_retries"] == 0 for one in found)
    assert places(aggregator_options(1, nodes, "a")) == ["node:b"]  # not beside the silo
    full = [node("a", "silo:alder"), node("head", "silo:birch")]
    assert aggregator_options(2, full, "head") == [ONCE, ONCE]


def test_a_submitted_driver_leaves_a_head_that_has_a_silo() -> None:
    head, silo, free = (True, "1", ["CPU"]), (False, "2", ["silo:alder"]), (False, "3", ["CPU"])
    assert driver_place([head, silo, free]) is None
    assert driver_place([(True, "1", ["silo:birch"]), silo, free]) == {"node:3": 0.001}
    assert driver_place([(True, "1", ["silo:birch"]), silo]) is None
