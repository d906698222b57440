"""Models of the families that silos train, small, with the kinds of records that they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from blindsum.platform.job.model_section import Dmpnn, GraphSize
from blindsum.platform.training.graphs import dmpnn

CLASSES, TOKENS, VOCABULARY = 3, 6, 11
MOLECULES = GraphSize(9, 12)


def dense(width: int) -> Callable[[int], Tensor]:
    return lambda records: torch.randn(records, width)


def sentences(records: int) -> dict[str, Tensor]:
    """Token numbers, and which of them are padding: never the first."""
    lengths = torch.randint(1, TOKENS + 1, (records, 1))
    return {
        "tokens": torch.randint(0, VOCABULARY, (records, TOKENS)),
        "padding": torch.arange(TOKENS) >= lengths,
    }


def graphs(records: int) -> tuple[Tensor, Tensor, Tensor]:
    """Atoms [B, N, 4], and padded directed bonds [B, M]: where from, and where to."""
    atoms, bonds = 5, 8
    ends = torch.randint(0, atoms, (2, records, bonds))
    return torch.randn(records, atoms, 4), ends[0], ends[1]


class Residual(nn.Module):
    """A residual block with group normalisation."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(into, out, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norm, self.last_norm = nn.GroupNorm(2, out), nn.GroupNorm(2, out)
        self.short = nn.Conv2d(into, out, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.norm(self.first(x)), inplace=True)
        h = self.last_norm(self.second(h))
        h += self.short(x)
        return torch.relu_(h)


def resnet() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (2, 8, 8)),
        nn.Conv2d(2, 4, 3, 1, 1),
        Residual(4, 4, 1),
        Residual(4, 16, 2),
        Residual(16, 32, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (2, 8, 8)),
        nn.Conv2d(2, 6, 3, padding="same"),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 12, (3, 2), groups=3, dilation=(1, 2), bias=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(48, CLASSES),
    )


class Recurrent(nn.Module):
    """A recurrent layer over time, read at its last output and from its last state."""

    def __init__(self, kind: type[nn.RNNBase], **settings: Any) -> None:
        super().__init__()
        self.first = settings.get("batch_first", False)
        self.reads = kind(4, 5, **settings)
        directions = 2 if settings.get("bidirectional") else 1
        self.last = nn.Linear(5 * (directions + 1), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.view(len(x), 8, 4)
        outputs, state = self.reads(steps if self.first else steps.transpose(0, 1))
        hidden = state[0] if isinstance(state, tuple) else state
        at_last = outputs[:, -1] if self.first else outputs[-1]
        return self.last(torch.cat([at_last, hidden[-1]], 1))


class Encoder(nn.Module):
    """A transformer encoder of torch over tokens with learned positions and a class token."""

    def __init__(self, dropout: float = 0.0, norm_first: bool = True) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, 8, padding_idx=0)
        self.positions = nn.Embedding(TOKENS, 8)
        self.start = nn.Parameter(torch.zeros(1, 1, 8))
        layer = nn.TransformerEncoderLayer(
            8, 2, 12, dropout, batch_first=True, norm_first=norm_first
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.last = nn.RMSNorm(8), nn.Linear(8, CLASSES)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        h = self.tokens(x["tokens"])
        h += self.positions(torch.arange(TOKENS))
        h = torch.cat([self.start.expand(len(h), -1, -1), h], 1)
        padding = functional.pad(x["padding"], (1, 0))
        return self.last(self.norm(self.layers(h, src_key_padding_mask=padding))[:, 0])


class Translator(nn.Module):
    """An encoder and a decoder, whose attention has queries of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, 8)
        self.whole = nn.Transformer(8, 2, 1, 1, 12, dropout=0.0, batch_first=True)
        self.mixed = nn.MultiheadAttention(8, 2, kdim=4, vdim=6, batch_first=True)
        self.last = nn.Linear(8, CLASSES)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        h = self.tokens(x["tokens"])
        h = self.whole(h, h[:, :2])
        return self.last(self.mixed(h, h[..., :4], h[..., 2:])[0].mean(1))


class Adapted(nn.Module):
    """A frozen linear layer with a trained low-rank change (Hu et al., ICLR 2022, LoRA)."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.whole = nn.Linear(into, out).requires_grad_(False)
        self.down, self.up = nn.Linear(into, 2, bias=False), nn.Linear(2, out, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.whole(x) + self.up(self.down(x))


def adapters() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (8, 4)),
        Adapted(4, 6),
        nn.GELU(),
        nn.LayerNorm((8, 6)).requires_grad_(False),
        Adapted(6, 6),
        nn.Flatten(),
        nn.Linear(48, CLASSES),
    )


class Messages(nn.Module):
    """Directed message passing over bonds (as Yang et al., 2019), on padded graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.pass_on = nn.Linear(4, 7), nn.Linear(7, 7, bias=False)
        self.read, self.last = nn.Linear(11, 7), nn.Linear(7, CLASSES)

    def forward(self, x: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        atoms, start, end = x
        first = self.enter(atoms.gather(1, start.unsqueeze(2).expand(-1, -1, 4)))
        h = torch.relu(first)
        for _ in range(3):
            at = end.unsqueeze(2).expand(-1, -1, 7)
            arrived = h.new_zeros(len(h), atoms.shape[1], 7).scatter_add_(1, at, h)
            leaving = arrived.gather(1, start.unsqueeze(2).expand(-1, -1, 7))
            h = torch.relu(first + self.pass_on(leaving))
        arrived = h.new_zeros(len(h), atoms.shape[1], 7).scatter_add_(1, at, h)
        return self.last(torch.relu(self.read(torch.cat([atoms, arrived], 2))).sum(1))


class TiedMixture(nn.Module):
    """Experts that are mixed softly between an embedding and the same weights as output."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, 6)
        self.experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.gate = nn.Linear(6, 3)
        self.out = nn.Linear(6, VOCABULARY)
        self.out.weight = self.tokens.weight

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        h = self.tokens(x["tokens"])
        shares = self.gate(h).softmax(-1).unsqueeze(-1)
        mixed = torch.stack([torch.tanh(expert(h)) for expert in self.experts], -2)
        return self.out((shares * mixed).sum(-2)).mean(1)[:, :CLASSES]


class Routed(nn.Module):
    """Experts that see only the records that are sent to them."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(8, CLASSES) for _ in range(2))
        self.gate = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        gates = self.gate(x)
        chosen, out = gates.argmax(1), x.new_zeros(len(x), CLASSES)
        for i, expert in enumerate(self.experts):
            out[chosen == i] = expert(x[chosen == i])
        return out * gates.softmax(1).max(1, keepdim=True).values


class RawWeights(nn.Module):
    """A weight without a layer, a weight that is computed from others, a scale and a shift."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.randn(8, 5) / 3)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(5, CLASSES))
        self.scale, self.warmth = nn.Parameter(torch.ones(5)), nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.normed(torch.tanh(x @ self.raw) * self.scale) / self.warmth


class Scaled(nn.Module):
    """A norm of one's own: positions, scales and a temperature without layers."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.last = nn.Linear(4, 5), nn.Linear(5, CLASSES)
        self.positions = nn.Parameter(torch.zeros(9, 5))
        self.shift = nn.Parameter(torch.zeros(1, 5))
        self.scale, self.warmth = nn.Parameter(torch.ones(5)), nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        h = self.each(x.view(len(x), TOKENS, 4)) + self.positions[:TOKENS] * 0.5
        h = h + self.shift.expand(TOKENS, 5)
        h = h * h.square().mean(-1, keepdim=True).rsqrt() * self.scale
        return self.last(h.amax(1)) / self.warmth


def instances() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (4, 6)),
        nn.Conv1d(4, 5, 3),
        nn.InstanceNorm1d(5, affine=True),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20, CLASSES),
    )


class Bags(nn.Module):
    """Means and sums over the tokens of a sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.sum = nn.EmbeddingBag(VOCABULARY, 5), nn.EmbeddingBag(VOCABULARY, 5)
        self.sum.mode = "sum"
        self.last = nn.Linear(5, CLASSES)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        return self.last(torch.tanh(self.mean(x["tokens"]) * self.sum(x["tokens"])))


FAMILIES: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Any], str]] = {
    "cnn": (cnn, dense(128), "book-keeping"),
    "resnet": (resnet, dense(128), "book-keeping"),
    "lstm": (lambda: Recurrent(nn.LSTM, batch_first=True), dense(32), "book-keeping"),
    "lstm of two layers": (
        lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True),
        dense(32),
        "book-keeping",
    ),
    "gru": (lambda: Recurrent(nn.GRU, bidirectional=True, bias=False), dense(32), "book-keeping"),
    "rnn": (lambda: Recurrent(nn.RNN, nonlinearity="relu"), dense(32), "book-keeping"),
    "encoder": (Encoder, sentences, "book-keeping"),
    "encoder, norm last": (lambda: Encoder(norm_first=False), sentences, "book-keeping"),
    "translator": (Translator, sentences, "book-keeping"),
    "adapters": (adapters, dense(32), "book-keeping"),
    "messages": (Messages, graphs, "book-keeping"),
    "d-mpnn": (
        lambda: dmpnn(Dmpnn(kind="dmpnn", hidden=6, ffn=[5]), MOLECULES, CLASSES),
        dense(MOLECULES.values),  # any numbers stand for some graph
        "book-keeping",
    ),
    "tied mixture": (TiedMixture, sentences, "book-keeping"),
    "scaled": (Scaled, dense(24), "book-keeping"),
    "instance norm": (instances, dense(24), "book-keeping"),
    "bags": (Bags, sentences, "book-keeping"),
    "raw weights": (RawWeights, dense(8), "vectorised"),
    "routed mixture": (Routed, dense(8), "one by one"),
}
"""By name, the model, its records, and the method that is chosen."""
