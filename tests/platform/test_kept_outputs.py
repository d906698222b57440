"""Held-out outputs of forests: kept where trees are unchanged, and the same as computed anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from blindsum.platform.data.records import Fold
from blindsum.platform.evaluation.kept_outputs import KeptOutputs
from blindsum.platform.training.models import get_parameters, model_of, set_parameters
from blindsum.platform.training.sums import SumsOptimizer
from blindsum.platform.training.trees.boosting import Boosting, TreeTrainer
from blindsum.platform.training.trees.forest import Forest
from blindsum.platform.training.vector import Vector
from tests.platform.test_trees import classes, job, records


def forests(split: str, tmp_path: Path) -> tuple[list[Vector], Forest]:
    """The forests after each round, from none on, and a model of that shape."""
    one = job(tmp_path, {"split": split, "trees": 7}, classes(3))
    boosting = Boosting(one, one.model)  # type: ignore[arg-type]
    model = model_of(one)
    assert isinstance(model, Forest)
    trainer = TreeTrainer(boosting, one, Fold(*records(200, 3)), None, np.random.default_rng(0))
    found = [get_parameters(model)]
    for round in range(1, one.training.rounds + 1):
        update = trainer.train(found[-1], 1.0, round)
        change = update.values * update.unit
        found.append(SumsOptimizer(boosting, one).apply(found[-1], change, round, 1))
    return found, model


def outputs(kept: KeptOutputs, model: nn.Module) -> np.ndarray:
    return torch.cat([outputs for outputs, _ in kept.evaluated(model)]).numpy()


@pytest.mark.parametrize("split", ["best", "random", "cyclic"])
def test_kept_outputs_are_those_of_the_whole_forest(
    split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown, model = forests(split, tmp_path)
    fold = Fold(*records(90, 3, seed=4))
    monkeypatch.setattr("blindsum.platform.data.records.MAX_BATCH_BYTES", 2000)
    kept, looked = KeptOutputs(fold), [0]
    of_trees = Forest.of_trees

    def count(self: Forest, x: torch.Tensor, first: int, last: int) -> torch.Tensor:
        looked[0] += (last - first) * len(x)
        return of_trees(self, x, first, last)

    for vector in grown:
        set_parameters(model, vector)
        with monkeypatch.context() as patched:
            patched.setattr(Forest, "of_trees", count)
            found = outputs(kept, model)
        np.testing.assert_array_equal(found, fold.outputs(model).numpy())
    assert looked[0] <= 2 * len(grown) * len(fold)
    assert np.abs(found).max() > 0.1


def test_trees_that_changed_are_evaluated_anew(tmp_path: Path) -> None:
    grown, model = forests("best", tmp_path)
    fold = Fold(*records(90, 3, seed=4))
    kept = KeptOutputs(fold)
    other = grown[-1].copy()
    other[: other.size // 40] = 0.0  # the first trees ask of another feature
    for vector in (grown[-1], grown[5], grown[-1], other, grown[0], grown[-1]):
        set_parameters(model, vector)
        np.testing.assert_array_equal(outputs(kept, model), fold.outputs(model).numpy())


def test_an_evaluation_that_breaks_off_leaves_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown, model = forests("random", tmp_path)
    monkeypatch.setattr("blindsum.platform.data.records.MAX_BATCH_BYTES", 2000)
    fold = Fold(*records(90, 3, seed=4))
    kept = KeptOutputs(fold)
    for vector in grown[:4]:
        set_parameters(model, vector)
        outputs(kept, model)
    set_parameters(model, grown[-1])
    next(iter(kept.evaluated(model)))
    np.testing.assert_array_equal(outputs(kept, model), fold.outputs(model).numpy())


def test_other_models_are_evaluated_as_ever() -> None:
    fold = Fold(*records(20, 2))
    linear: Any = nn.Linear(6, 2)
    np.testing.assert_array_equal(outputs(KeptOutputs(fold), linear), fold.outputs(linear).numpy())
