"""A forest in XGBoost's own format, for XGBoost, SHAP and all that reads it.

https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html: JSON, one object for each tree
with the nodes in arrays. Margins are the same, up to the rounding of sums in float32.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from blindsum.platform.errors import ModelError
from blindsum.platform.job.labels_section import Target, Task
from blindsum.platform.job.schema import Job
from blindsum.platform.job.trees_section import Boosted
from blindsum.platform.training.trees.boosting import Boosting
from blindsum.platform.training.trees.forest import NO_SPLIT, OneTree, Trees
from blindsum.platform.training.trees.units import units_of
from blindsum.platform.training.vector import Vector

_ROOT = 2**31 - 1
_VERSION = [3, 2, 0]
_LEAST_COVER = 1e-6

Raw = Callable[[int, float], float]
"""A function from a feature's number and a threshold to that threshold in the column's unit."""


@dataclass
class _Node:
    """A node of XGBoost's tree: which of ours it is, and what its arrays say of it."""

    node: int
    parent: int
    left: int = -1
    feature: int = 0
    condition: float = 0.0
    value: float = 0.0
    cover: float = 0.0
    default_left: int = 0


def as_xgboost(
    trees: Trees,
    names: Sequence[str],
    target: Target | None,
    tasks: Mapping[str, Task],
    raw: Raw = lambda feature, threshold: threshold,
    gains: npt.NDArray[np.float64] | None = None,
) -> dict[str, Any]:
    """Return the content of XGBoost's JSON file.

    Args:
        names: of the features.
        target, tasks: what the outputs are.
        raw: lets the model take columns in their own units.
        gains: of the splits, [T, K, I]; by default 0.

    Raises:
        ModelError: tasks of two kinds, for which XGBoost has no common objective.
    """
    objective, outputs, factor = _objective(target, tasks)
    found, groups, ends = list[dict[str, Any]](), list[int](), [0]
    for tree in range(len(trees.value)):
        for group, output in enumerate(outputs):
            one = trees.one(tree, output)
            found.append(_tree(one, len(found), len(names), factor, raw))
            if gains is not None:
                found[-1]["loss_changes"] = _by_node(one, gains[tree, output])
            groups.append(group)
        ends.append(len(found))
    classes = len(outputs) if target and len(outputs) > 1 else 0
    start = "5E-1" if objective == "binary:logistic" else "0E0"  # a margin of zero
    return {
        "learner": {
            "attributes": {},
            "feature_names": list(names),
            "feature_types": ["float"] * len(names),
            "gradient_booster": {
                "model": {
                    "cats": {"enc": [], "feature_segments": [], "sorted_idx": []},
                    "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(len(found))},
                    "iteration_indptr": ends,
                    "tree_info": groups,
                    "trees": found,
                },
                "name": "gbtree",
            },
            "learner_model_param": {
                "base_score": f"[{','.join([start] * len(outputs))}]",
                "boost_from_average": "0",
                "num_class": str(classes),
                "num_feature": str(len(names)),
                "num_target": str(1 if classes else len(outputs)),
            },
            "objective": _parameters_of(objective, classes),
        },
        "version": _VERSION,
    }


def of_job(job: Job, section: Boosted, forest: Vector) -> bytes:
    """Return XGBoost's JSON file of a job's forest. Columns of numbers are in their own units, as
    the silos' tables have them; dates, descriptors, categories and bits are as features have them.
    XGBoost forbids brackets and `<` in names, which become underscores.

    Raises:
        ModelError: as `as_xgboost`.
    """
    units = units_of(job.data.features)

    def raw(feature: int, threshold: float) -> float:
        return threshold if units[feature].since else units[feature](threshold)

    boosting = Boosting(job, section)
    trees = boosting.trees(forest)
    names = [re.sub(r"[\[\]<]", "_", one.name) for one in units]
    gains = np.zeros(trees.feature.shape)
    if not section.reg_alpha:
        of_grown = len(trees.value), len(boosting.grown), -1
        gains[:, list(boosting.grown)] = boosting.leaf_sums(trees).gains.reshape(of_grown)
    found = as_xgboost(trees, names, job.data.target, job.data.tasks or {}, raw, gains)
    return json.dumps(found).encode()


def _objective(target: Target | None, tasks: Mapping[str, Task]) -> tuple[str, list[int], float]:
    """Return XGBoost's objective, the outputs that have trees there, and a factor of values."""
    if target is not None:
        classes = len(target.classes)
        if classes == 2:
            return "binary:logistic", [1], 2.0  # the margin is the difference of two outputs
        return "multi:softprob", list(range(classes)), 1.0
    kinds = {task.kind for task in tasks.values()}
    if len(kinds) != 1:
        raise ModelError(
            "the job has binary and regression tasks, and XGBoost has no objective for both",
            "Predict with Blindsum, or train a job for each kind.",
        )
    name = "binary:logistic" if kinds == {"binary"} else "reg:squarederror"
    return name, list(range(len(tasks))), 1.0


def _parameters_of(objective: str, classes: int) -> dict[str, Any]:
    if classes:
        return {"name": objective, "softmax_multiclass_param": {"num_class": str(classes)}}
    return {"name": objective, "reg_loss_param": {"scale_pos_weight": "1"}}


def _by_node(one: OneTree, gains: npt.NDArray[np.float64]) -> list[float]:
    """Return the gains of a tree's nodes in XGBoost's order, 0 for leaves."""
    found, nodes = list[float](), [0]
    for node in nodes:  # grows, as in `_tree`
        splits = node < len(one.feature) and one.feature[node] != NO_SPLIT
        found.append(float(gains[node]) if splits else 0.0)
        nodes += [2 * node + 1, 2 * node + 2] if splits else []
    return found


def _tree(one: OneTree, number: int, features: int, factor: float, raw: Raw) -> dict[str, Any]:
    """Return one tree; nodes that are not split become leaves."""
    inner = len(one.feature)
    nodes = [_Node(0, _ROOT)]
    for own, at in enumerate(nodes):  # grows: level by level, with siblings side by side
        if at.node < inner and one.feature[at.node] != NO_SPLIT:
            at.feature = int(one.feature[at.node])
            at.condition = raw(at.feature, float(one.threshold[at.node]))
            if one.default_left.size:
                at.default_left = int(one.default_left[at.node])
            at.left = len(nodes)
            nodes += [_Node(2 * at.node + 1, own), _Node(2 * at.node + 2, own)]
            continue
        while at.node < inner:
            at.node = 2 * at.node + 1
        at.value = at.condition = factor * float(one.value[at.node - inner])
        # Explanations divide by it, and noise may have made it zero.
        at.cover = max(float(one.cover[at.node - inner]), _LEAST_COVER)
    for at in reversed(nodes):
        if at.left > 0:
            below = nodes[at.left : at.left + 2]
            at.cover = sum(child.cover for child in below)
            at.value = sum(child.cover * child.value for child in below) / at.cover
    count = len(nodes)
    return {
        "base_weights": [at.value for at in nodes],
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
        "default_left": [at.default_left for at in nodes],
        "id": number,
        "left_children": [at.left for at in nodes],
        "loss_changes": [0.0] * count,
        "parents": [at.parent for at in nodes],
        "right_children": [at.left + 1 if at.left > 0 else -1 for at in nodes],
        "split_conditions": [float(np.float32(at.condition)) for at in nodes],
        "split_indices": [at.feature for at in nodes],
        "split_type": [0] * count,
        "sum_hessian": [at.cover for at in nodes],
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(features),
            "num_nodes": str(count),
            "size_leaf_vector": "1",
        },
    }
