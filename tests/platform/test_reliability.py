"""Log loss, calibration error, and what their intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss

from blindsum.platform.evaluation.reliability import Classes, Reals, log_losses, reliability


def drawn(records: int, seed: int, slope: float = 1.0, shift: float = 0.0) -> tuple[Reals, Classes]:
    """Binary logits that are wrong by that slope and shift, and labels."""
    random = np.random.default_rng(seed)
    right = random.normal(0, 1.5, records)
    true = (random.random(records) < 1 / (1 + np.exp(-right))).astype(np.int64)
    said = slope * right + shift
    return np.stack([np.zeros(records), said], 1), true


def error_by_hand(said: Reals, came: Reals, bins: int) -> float:
    """The mean distance over bins of as many records each."""
    order = np.argsort(said)
    parts = np.array_split(order, bins)
    return sum(abs(said[p].mean() - came[p].mean()) * len(p) for p in parts) / len(said)


def test_the_log_loss_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    logits, true = random.normal(0, 3, (200, 4)), random.integers(0, 4, 200)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = reliability(logits, true)
    assert found.log_loss == pytest.approx(log_loss(true, chances), abs=1e-12)
    assert log_losses(logits, true).mean() == pytest.approx(found.log_loss)
    huge = log_losses(np.array([[1e6, 0.0]]), np.array([1]))
    assert huge.tolist() == [1e6]


@pytest.mark.parametrize(("records", "bins"), [(60, 6), (200, 10), (8000, 20)])
def test_the_calibration_error_is_that_of_bins_of_equal_mass(records: int, bins: int) -> None:
    logits, true = drawn(records, 1, slope=2.0)
    said = 1 / (1 + np.exp(-logits[:, 1]))
    by_hand = error_by_hand(said, true.astype(np.float64), bins)
    assert reliability(logits, true).error == pytest.approx(by_hand, abs=1e-12)


def test_of_more_classes_the_likeliest_counts() -> None:
    random = np.random.default_rng(2)
    logits, true = random.normal(0, 2, (300, 3)), random.integers(0, 3, 300)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    came = (chances.argmax(1) == true).astype(np.float64)
    found = reliability(logits, true).error
    assert found == pytest.approx(error_by_hand(chances.max(1), came, 10), abs=1e-12)


def test_the_order_of_records_does_not_matter() -> None:
    logits, true = drawn(137, 3)
    logits = np.round(logits)  # many records share a probability
    order = np.random.default_rng(4).permutation(137)
    found, again = reliability(logits, true), reliability(logits[order], true[order])
    for a, b in zip(found, again, strict=True):
        assert a == pytest.approx(b, abs=1e-12)


@pytest.mark.parametrize("records", [60, 400, 3000])
@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (1.2, 0.0), (2.0, 0.0), (1.0, 1.0)])
def test_the_intervals_cover_the_truth(records: int, slope: float, shift: float) -> None:
    """The percentiles of a bootstrap never reach the 0 of perfect probabilities."""
    logits, _ = drawn(200_000, 0, slope, shift)
    right = 1 / (1 + np.exp(-(logits[:, 1] - shift) / slope))
    error = np.abs(1 / (1 + np.exp(-logits[:, 1])) - right).mean()
    losses = np.stack([np.logaddexp(0, s * logits[:, 1]) for s in (1, -1)])
    loss = (losses[0] * (1 - right) + losses[1] * right).mean()
    runs = 200
    found = [reliability(*drawn(records, 1 + i, slope, shift)) for i in range(runs)]
    of_error = sum(f.error_interval.low <= error <= f.error_interval.high for f in found) / runs
    of_loss = sum(f.log_loss_interval.low <= loss <= f.log_loss_interval.high for f in found) / runs
    assert of_error >= 0.9 and of_loss >= 0.9
    if slope == 1 and not shift:
        mean = np.mean([f.error for f in found])
        assert mean == pytest.approx(np.mean([f.of_perfect for f in found]), rel=0.1)
