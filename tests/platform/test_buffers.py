"""Tensors of a model besides its parameters: constants are allowed, running state is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from blindsum.platform.data.records import Fold
from blindsum.platform.errors import ModelError
from blindsum.platform.job.model_section import Factory
from blindsum.platform.privacy.randomness import seeded_generator
from blindsum.platform.training.buffers import refuse_running_state
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import build_model, initial_digest
from tests.conftest import MakeJob


class Buffered(nn.Module):
    """A linear model with a buffer that `change` may change when it is called."""

    def __init__(self, change: Callable[[nn.Module], None], persistent: bool = True) -> None:
        super().__init__()
        self.inner, self._change = nn.Linear(4, 2), change
        self.inner.register_buffer("own", torch.tensor([0.0, np.nan, -np.inf]), persistent)

    def forward(self, x: Tensor) -> Tensor:
        self._change(self)
        found: Tensor = self.inner(x)
        return found


def add_one(model: nn.Module) -> None:
    model.inner.own.add_(1)  # type: ignore[union-attr, operator]


def only_in_training(model: nn.Module) -> None:
    if model.training:
        add_one(model)


def only_to_predict(model: nn.Module) -> None:
    if not model.training:
        add_one(model)


def put_another(model: nn.Module) -> None:
    model.inner.own = torch.zeros(1)  # type: ignore[assignment]


def add_a_buffer(model: nn.Module) -> None:
    model.inner.register_buffer("seen", torch.zeros(1))  # type: ignore[operator]


def made_up(records: int) -> Tensor:
    return torch.randn(records, 4)


def test_constants_are_allowed_whatever_their_values() -> None:
    for persistent in (True, False):
        refuse_running_state(Buffered(lambda _: None, persistent), made_up)


@pytest.mark.parametrize(
    "change", [add_one, only_in_training, only_to_predict, put_another, add_a_buffer]
)
@pytest.mark.parametrize("persistent", [True, False])
def test_buffers_that_change_are_refused(
    change: Callable[[nn.Module], None], persistent: bool
) -> None:
    """A counter, for example. It fails if buffers are not compared."""
    with pytest.raises(ModelError, match=r"layer 'inner' \(Linear\) keeps running state"):
        refuse_running_state(Buffered(change, persistent), made_up)


def test_a_buffer_that_changes_only_later_ends_the_training(make_job: MakeJob) -> None:
    """This fails if a round does not compare them again."""
    calls = []

    def after_a_while(model: nn.Module) -> None:
        calls.append(1)
        if len(calls) > 10:
            add_one(model)

    model = Buffered(after_a_while)
    data = Fold(np.ones((30, 4), np.float32), np.zeros(30, np.int64))
    trainer = LocalTrainer(model, data, make_job().job.training, None, seeded_generator(0))
    start = np.zeros(10, np.float32)
    with pytest.raises(ModelError, match="keeps running state"):
        for _ in range(11):
            trainer.train(start)


def test_silos_compare_constants_too() -> None:
    """The digest that silos compare before round 1 covers them."""
    digests = set()
    for value in (1.0, 2.0, 2.0):
        model = nn.Linear(4, 2)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        model.register_buffer("scale", torch.tensor(value))
        digests.add(initial_digest(model))
    assert len(digests) == 2


def test_a_model_with_constants_is_built_from_a_factory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "constant.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Waves(nn.Module):\n"
        "    def __init__(self, features, outputs):\n"
        "        super().__init__()\n"
        "        self.register_buffer('waves', torch.randn(features, 8))\n"
        "        self.last = nn.Linear(8, outputs)\n"
        "    def forward(self, x):\n"
        "        return self.last(torch.sin(x @ self.waves))\n"
    )
    section = Factory(kind="factory", factory="constant:Waves")
    a, b = (build_model(section, 4, 2, seed=0, private=True) for _ in range(2))
    assert initial_digest(a) == initial_digest(b)
