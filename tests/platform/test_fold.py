"""Sparse folds equal dense ones in less memory; batches are bounded and change no result."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from blindsum.platform.data import records as module
from blindsum.platform.data.ragged import Bits
from blindsum.platform.data.records import MAX_BATCH_BYTES, Fold, dense, stacked
from blindsum.platform.job.training_section import TrainingSection
from blindsum.platform.privacy.randomness import seeded_generator
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import get_parameters
from tests.plans import plan_by_hand

TRAINING = TrainingSection(
    rounds=1, local_steps=3, sampling_rate=0.5, expected_batch_size=20, learning_rate=0.5
)


def positions(records: int, width: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [np.sort(random.choice(width, 5, replace=False)) for _ in range(records)]


@given(st.lists(st.sets(st.integers(0, 99)), max_size=20))
@settings(deadline=None)
def test_bits_are_where_they_were_put(records: list[set[int]]) -> None:
    found = dense(Bits.at([np.array(sorted(r), np.int64) for r in records], 100))
    assert found.shape == (len(records), 100) and found.dtype == np.float32
    assert [set(np.flatnonzero(row)) for row in found] == records
    assert set(np.unique(found)) <= {0.0, 1.0}


def test_batches_are_bounded_at_32_000_bits_and_hold_every_record_in_order() -> None:
    fold = Fold(Bits.at(positions(1200, 32_000), 32_000), np.arange(1200))
    sizes, labels = [], []
    for features, of in fold.batches():
        sizes.append(features.numel() * 4)
        labels += of.tolist()
    assert len(sizes) == 3 and max(sizes) <= MAX_BATCH_BYTES
    assert labels == list(range(1200))
    assert [len(f) for f, _ in fold.batches(np.zeros(0, np.int64))] == [0]
    both = stacked([fold.stored, fold.stored])
    assert both.shape == (2400, 32_000) and dense(both).sum() == 2 * 5 * 1200


def update(fold: Fold, private: bool) -> np.ndarray:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 2))
    plan = (
        plan_by_hand(
            epsilon=1e6, sampling_rate=0.5, noise_multiplier=0.0, clip_norm=0.1, steps_per_round=3
        )
        if private
        else None
    )
    trainer = LocalTrainer(model, fold, TRAINING, plan, seeded_generator(0, "a"))
    return trainer.train(get_parameters(model)).values


@pytest.mark.parametrize("private", [False, True])
def test_training_and_outputs_do_not_depend_on_how_records_are_stored_and_batched(
    private: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sparse = Fold(Bits.at(positions(60, 64), 64), np.arange(60) % 2)
    whole = Fold(sparse.features, sparse.labels)
    expected = update(whole, private)
    assert np.abs(expected).max() > 0
    np.testing.assert_array_equal(update(sparse, private), expected)
    model = nn.Linear(64, 2)
    outputs = sparse.outputs(model)
    monkeypatch.setattr(module, "MAX_BATCH_BYTES", 7 * 64 * 4)
    assert max(len(f) for f, _ in sparse.batches()) == 7
    np.testing.assert_allclose(update(sparse, private), expected, atol=1e-6)
    torch.testing.assert_close(sparse.outputs(model), outputs)
