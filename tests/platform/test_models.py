"""Models are the same everywhere, become flat vectors, and refusals name the layer."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from blindsum.platform.errors import ModelError
from blindsum.platform.job.model_section import Factory, Linear, Mlp
from blindsum.platform.training.models import (
    build_model,
    get_parameters,
    initial_digest,
    set_parameters,
)
from blindsum.platform.training.vector import digest

MODULE = """
import torch
from torch import nn
def good(features, outputs):
    return nn.Sequential(nn.Linear(features, 5), nn.LayerNorm(5), nn.Linear(5, outputs))
def batchnorm(features, outputs):
    return nn.Sequential(nn.Linear(features, 5), nn.BatchNorm1d(5), nn.Linear(5, outputs))
def stateless(features, outputs):
    norm = nn.BatchNorm1d(features, track_running_stats=False)
    return nn.Sequential(norm, nn.Linear(features, outputs))
def shape(features, outputs): return nn.Linear(features, outputs + 1)
def nothing(features, outputs): return None
def fails(features, outputs): raise ValueError("no such thing")
def frozen(features, outputs): return nn.Linear(features, outputs).requires_grad_(False)
class Mix(nn.Module):
    def __init__(self, a, b): super().__init__(); self.l = nn.Linear(a, b)
    def forward(self, x): return self.l(x - x.mean(0) if len(x) else x)
class Whole(Mix):
    def forward(self, x): return self.l(x).round().long()
def mixing(features, outputs): return Mix(features, outputs)
def whole(features, outputs): return Whole(features, outputs)
def leaves(features, outputs): raise SystemExit(3)
def broken(features, outputs):
    layer = nn.Linear(features, outputs)
    nn.init.constant_(layer.weight, float("nan"))
    return layer
class Late(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.l, self.last = nn.Linear(a, 4), nn.Linear(4, b)
        nn.init.zeros_(self.last.weight)
    def forward(self, x):
        hidden = self.l(x)
        return self.last(hidden - hidden.mean(0) if len(x) else hidden)
def late(features, outputs): return Late(features, outputs)
def double(features, outputs): return nn.Linear(features, outputs).double()
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"factories_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


def factory(module: str, function: str, private: bool = True) -> nn.Module:
    section = Factory(kind="factory", factory=f"{module}:{function}")
    return build_model(section, 4, 3, seed=0, private=private)


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    section = Mlp(kind="mlp", hidden=[7, 5], activation="tanh")
    a, b, c = (
        get_parameters(build_model(section, 4, 3, seed=seed, private=True)) for seed in (1, 1, 2)
    )
    assert digest(a) == digest(b) != digest(c)
    assert a.dtype == np.float32 and a.size == 4 * 7 + 7 + 7 * 5 + 5 + 5 * 3 + 3


def test_vectors_go_in_and_out_unchanged() -> None:
    model = build_model(Linear(kind="linear"), 4, 3, seed=1, private=True)
    vector = np.arange(15, dtype=np.float32)
    vector.flags.writeable = False  # as it comes out of Ray's object store
    set_parameters(model, vector)
    np.testing.assert_array_equal(get_parameters(model), vector)


def test_building_does_not_change_the_global_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build_model(Linear(kind="linear"), 4, 3, seed=1, private=True)
    assert torch.rand(1) == expected


def test_a_factory_beside_the_job(factories: str) -> None:
    assert get_parameters(factory(factories, "good")).size == 4 * 5 + 5 + 10 + 15 + 3


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("batchnorm", "layer '1' (BatchNorm1d) keeps running state"),
        ("stateless", "BatchNorm"),
        ("shape", "returns shape (3, 4), expected (3, 3)"),
        ("nothing", "returned NoneType"),
        ("fails", "failed with ValueError"),
        ("absent", "cannot be imported (AttributeError"),
        ("frozen", "no trainable parameters"),
        ("double", "is torch.float64"),
        ("mixing", "mixes the records of a batch"),
        ("whole", "of float32"),
        ("late", "mixes the records of a batch"),
        ("leaves", "failed with SystemExit"),
        ("broken", "starts with NaN"),
    ],
)
def test_models_that_cannot_take_part(factories: str, function: str, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        factory(factories, function)
    assert said in str(caught.value)


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(ModelError, match="cannot be imported"):
        factory("no_such_module_anywhere", "build")


def test_frozen_parameters_are_compared_before_the_first_round() -> None:
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    b.load_state_dict(a.state_dict())
    for model in (a, b):
        model.bias.requires_grad_(False)
    assert initial_digest(a) == initial_digest(b)
    with torch.no_grad():
        b.bias += 1
    assert digest(get_parameters(a)) == digest(get_parameters(b))
    assert initial_digest(a) != initial_digest(b)
