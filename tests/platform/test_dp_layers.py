"""Messages about layers that differential privacy cannot train, and whether their advice works."""

import sys
import types

import opacus.layers
import pytest
import torch
from torch import nn

from blindsum.platform.errors import ModelError
from blindsum.platform.job.model_section import Factory
from blindsum.platform.training.clipping import clipped_sum
from blindsum.platform.training.models import build_model

FEATURES, OUTPUTS = 6, 2


class Recurrent(nn.Module):
    """A model that reads a record's features one after the other."""

    def __init__(self, layer: type[nn.Module]) -> None:
        super().__init__()
        self.reads, self.last = layer(1, 4, batch_first=True), nn.Linear(4, OUTPUTS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(self.reads(x.unsqueeze(-1))[0][:, -1])
        return found


class Attentive(nn.Module):
    """A Transformer layer over a record's features; its attention may be replaced."""

    def __init__(self, attention: nn.Module | None = None) -> None:
        super().__init__()
        self.each, self.last = nn.Linear(1, 4), nn.Linear(4, OUTPUTS)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)
        if attention is not None:
            self.layer.self_attn = attention

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not len(x):
            return x.new_zeros(0, OUTPUTS)
        found: torch.Tensor = self.last(self.layer(self.each(x.unsqueeze(-1))).mean(1))
        return found


def with_norm(**settings: bool) -> nn.Module:
    return nn.Sequential(
        nn.Linear(FEATURES, 4), nn.BatchNorm1d(4, **settings), nn.Linear(4, OUTPUTS)
    )


def built(model: nn.Module, monkeypatch: pytest.MonkeyPatch, private: bool = True) -> nn.Module:
    module = types.ModuleType("made_up_models")
    module.model = lambda features, outputs: model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "made_up_models", module)
    section = Factory(kind="factory", factory="made_up_models:model")
    found = build_model(section, FEATURES, OUTPUTS, seed=1, private=private)
    if private:
        clipped_sum(found, FEATURES)
    return found


@pytest.mark.parametrize(
    ("model", "where", "instead"),
    [
        (Recurrent(nn.LSTM), "layer 'reads' (LSTM)", "opacus.layers.DPLSTM"),
        (Recurrent(nn.GRU), "layer 'reads' (GRU)", "opacus.layers.DPGRU"),
        (Recurrent(nn.RNN), "layer 'reads' (RNN)", "opacus.layers.DPRNN"),
        (
            Attentive(),
            "layer 'layer.self_attn' (MultiheadAttention)",
            "opacus.layers.DPMultiheadAttention. Inside torch.nn's Transformer layers",
        ),
        (
            nn.Sequential(with_norm(track_running_stats=False), nn.RNNCell(OUTPUTS, OUTPUTS)),
            "layer '0.1' (BatchNorm1d)",
            "torch.nn.GroupNorm or LayerNorm",
        ),
    ],
)
def test_the_layer_and_its_replacement_are_named_in_our_words(
    model: nn.Module, where: str, instead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError) as refused:
        built(model, monkeypatch)
    said = str(refused.value)
    assert where in said and instead in said
    assert not any(word in said.split() for word in ("We", "we", "I", "our"))


def test_every_layer_at_fault_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(Recurrent(nn.LSTM), Recurrent(nn.GRU))
    with pytest.raises(ModelError, match=r"layers '0.reads' \(LSTM\), '1.reads' \(GRU\)"):
        built(model, monkeypatch)


@pytest.mark.parametrize(
    "model",
    [
        Recurrent(opacus.layers.DPLSTM),
        Recurrent(opacus.layers.DPGRU),
        Recurrent(opacus.layers.DPRNN),
        Attentive(opacus.layers.DPMultiheadAttention(4, 2, batch_first=True)),
        nn.Sequential(nn.Linear(FEATURES, 4), nn.GroupNorm(2, 4), nn.Linear(4, OUTPUTS)),
    ],
)
def test_the_advice_works(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built, and clipped like automatic differentiation, record by record."""
    found = built(model, monkeypatch)
    torch.manual_seed(1)
    x, labels = torch.randn(5, FEATURES), torch.tensor([0, 1, 1, 0, 1])
    parameters = [p for p in found.parameters() if p.requires_grad]
    each = []
    for i in range(len(x)):
        loss = nn.functional.cross_entropy(found(x[i : i + 1]), labels[i : i + 1])
        each.append(torch.autograd.grad(loss, parameters))
    norms = [float(torch.cat([g.flatten() for g in gradients]).norm()) for gradients in each]
    clip = sum(norms) / len(norms)  # some records are clipped, and some are not
    clipped = clipped_sum(found, FEATURES)(x, labels, clip)
    for mine, *of_records in zip(clipped.sums, *each, strict=True):
        expected = [min(1.0, clip / n) * g for n, g in zip(norms, of_records, strict=True)]
        torch.testing.assert_close(mine, sum(expected), rtol=1e-3, atol=1e-5)
    assert clipped.within == sum(norm < clip for norm in norms)


class Bilinear(nn.Module):
    """A layer of two inputs, for which Opacus has no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Bilinear(FEATURES, FEATURES, OUTPUTS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.both(x, x)
        return found


class Single(nn.Module):
    """A model that is tied to single precision."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.LayerNorm(FEATURES), nn.Linear(FEATURES, OUTPUTS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(self.norm(x).float())
        return found


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Bilinear(), r"cannot train layer 'both' \(Bilinear\): Opacus has no rule"),
        (Single(), "cannot be clipped in double precision"),
    ],
)
def test_why_a_model_cannot_be_clipped(
    model: nn.Module, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=said):
        built(model, monkeypatch)


class FirstOfTheBatch(nn.Linear):
    """A model that fails on an empty batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 0 * x[0, 0]


def test_a_model_that_fails_on_an_empty_sample_hears_how_to_return_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ModelError, match=r"if not len\(x\): return x.new_zeros\(0, 2\)"):
        built(FirstOfTheBatch(FEATURES, OUTPUTS), monkeypatch)
