"""Sums of counts against scikit-learn; server optimizers against PyTorch."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss

from blindsum.platform.data import Fold
from blindsum.platform.job import Linear, ServerSection
from blindsum.platform.metrics import MAX_LOSS, count, summarise
from blindsum.platform.models import build_model, set_parameters
from blindsum.platform.server_optimizer import ADAM_BETA2, ADAM_TAU, ServerOptimizer


def fold(records: int, seed: int) -> Fold:
    random = np.random.default_rng(seed)
    return Fold(random.normal(size=(records, 4)).astype(np.float32), random.integers(0, 3, records))


def test_summed_counts_are_the_pooled_metrics() -> None:
    model = build_model(Linear(kind="linear"), 4, 3, seed=0, private=True)
    folds = [fold(n, n) for n in (30, 17, 45)]
    counts = [count(model, one, 3, saturated=2, large=4, dropped=1) for one in folds]
    metrics = summarise(np.sum(counts, axis=0), update_values=60)
    features = np.concatenate([one.features for one in folds])
    labels = np.concatenate([one.labels for one in folds])
    with torch.no_grad():
        p = torch.softmax(model(torch.from_numpy(features)).double(), 1).numpy()
    assert metrics.records == 92 and metrics.dropped == 3 and metrics.saturated == 0.1
    assert metrics.accuracy == pytest.approx(accuracy_score(labels, p.argmax(1)))
    assert metrics.loss == pytest.approx(log_loss(labels, p), abs=1e-5)
    assert metrics.largest_class == pytest.approx(np.bincount(labels).max() / 92)


def test_a_model_that_overflowed_counts_as_lost_not_as_an_error() -> None:
    model = build_model(Linear(kind="linear"), 4, 3, seed=0, private=True)
    set_parameters(model, np.full(15, np.nan, np.float32))
    metrics = summarise(count(model, fold(20, 1), 3, 0, 0, 0), 15)
    assert metrics.loss == MAX_LOSS


def run(section: ServerSection, updates: np.ndarray) -> np.ndarray:
    optimizer, model = ServerOptimizer(section, 5), np.ones(5, np.float32)
    for one in updates:
        model = optimizer.apply(model, one)
    return model


@pytest.mark.parametrize(("name", "momentum"), [("sgd", 0.0), ("momentum", 0.8)])
def test_sgd_and_momentum_are_pytorchs(name: str, momentum: float) -> None:
    updates = np.random.default_rng(0).normal(size=(6, 5))
    p = torch.nn.Parameter(torch.ones(5, dtype=torch.float64))
    theirs = torch.optim.SGD([p], lr=0.3, momentum=momentum)
    for one in updates:
        p.grad = -torch.from_numpy(one)
        theirs.step()
    section = ServerSection.model_validate(
        {"optimizer": name, "learning_rate": 0.3, "momentum": momentum}
    )
    np.testing.assert_allclose(run(section, updates), p.detach().numpy(), rtol=1e-5)


def test_adam_is_the_papers() -> None:
    """Reddi et al., ICLR 2021, algorithm 2, written out."""
    updates = np.random.default_rng(0).normal(size=(6, 5))
    m, v, x = np.zeros(5), np.full(5, ADAM_TAU**2), np.ones(5)
    for delta in updates:
        m = 0.9 * m + 0.1 * delta
        v = ADAM_BETA2 * v + (1 - ADAM_BETA2) * delta**2
        x = x + 0.1 * m / (np.sqrt(v) + ADAM_TAU)
    section = ServerSection(optimizer="adam", learning_rate=0.1, momentum=0.9)
    np.testing.assert_allclose(run(section, updates), x, rtol=1e-5)
