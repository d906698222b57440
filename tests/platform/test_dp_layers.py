"""Layers that differential privacy cannot train, and layers that it can."""

import sys
import types

import opacus.layers
import pytest
import torch
from torch import nn

from blindsum.platform.errors import ModelError
from blindsum.platform.job.model_section import Factory
from blindsum.platform.training.clipping.choice import clipped_sum
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


def test_layers_that_mix_records_and_their_replacement_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frozen = nn.BatchNorm1d(OUTPUTS, affine=False, track_running_stats=False)
    model = nn.Sequential(with_norm(track_running_stats=False), frozen)
    with pytest.raises(ModelError) as refused:
        built(model, monkeypatch)
    said = str(refused.value)
    assert "layers '0.1' (BatchNorm1d), '1' (BatchNorm1d)" in said
    assert "torch.nn.GroupNorm or LayerNorm" in said
    assert not any(word in said.split() for word in ("We", "we", "I", "our"))


class Standardised(nn.Module):
    """A normalisation over the records, through which no gradient goes."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(FEATURES, OUTPUTS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.last(x)
        return h / (1e-3 + h.detach().square().mean(0).sqrt())


@pytest.mark.parametrize("model", [Standardised(), with_norm(track_running_stats=False)])
def test_a_model_that_mixes_records_is_not_clipped(model: nn.Module) -> None:
    """Each record's own gradient is found, and depends on the others."""
    with pytest.raises(ModelError, match="mixes the records of a batch.*LayerNorm, GroupNorm"):
        clipped_sum(model, FEATURES)


@pytest.mark.parametrize(
    "model",
    [
        Recurrent(nn.LSTM),
        Recurrent(nn.GRU),
        Recurrent(nn.RNN),
        Attentive(),
        Recurrent(opacus.layers.DPLSTM),
        Recurrent(opacus.layers.DPGRU),
        Recurrent(opacus.layers.DPRNN),
        Attentive(opacus.layers.DPMultiheadAttention(4, 2, batch_first=True)),
        nn.Sequential(nn.Linear(FEATURES, 4), nn.GroupNorm(2, 4), nn.Linear(4, OUTPUTS)),
    ],
)
def test_layers_that_work_on_one_record_can_be_trained(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
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


class FirstOfTheBatch(nn.Linear):
    """A model that fails on an empty batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 0 * x[0, 0]


def test_a_model_that_fails_on_an_empty_sample_hears_how_to_return_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ModelError, match=r"if not len\(x\): return x.new_zeros\(0, 2\)"):
        built(FirstOfTheBatch(FEATURES, OUTPUTS), monkeypatch)
