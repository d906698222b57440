"""Server optimizers, compared with PyTorch and their paper."""

import numpy as np
import pytest
import torch

from blindsum.platform.job.training_section import ServerSection
from blindsum.platform.training.server_optimizer import ADAM_BETA2, ADAM_TAU, ServerOptimizer


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
    """Compared with algorithm 2 of Reddi et al., ICLR 2021, written out here."""
    updates = np.random.default_rng(0).normal(size=(6, 5))
    m, v, x = np.zeros(5), np.full(5, ADAM_TAU**2), np.ones(5)
    for delta in updates:
        m = 0.9 * m + 0.1 * delta
        v = ADAM_BETA2 * v + (1 - ADAM_BETA2) * delta**2
        x = x + 0.1 * m / (np.sqrt(v) + ADAM_TAU)
    section = ServerSection(optimizer="adam", learning_rate=0.1, momentum=0.9)
    np.testing.assert_allclose(run(section, updates), x, rtol=1e-5)
