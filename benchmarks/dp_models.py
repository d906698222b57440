"""Models whose private steps `dp_step.py` and `device.py` measure: CNNs, a transformer, adapters,
messages along bonds.

All take float32 [records, features], as a silo's data are; token numbers are floats of whole
numbers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from blindsum.platform.data.graphs import OF_ATOM, OF_BOND, AtomsAndBonds
from blindsum.platform.job.model_section import ATOM_CODES, BOND_CODES, Dmpnn, GraphSize
from blindsum.platform.training.graphs import dmpnn

CLASSES, TOKENS, VOCABULARY, WIDTH, HEADS = 12, 64, 1000, 128, 4
RANK = 8
SIZE = GraphSize(100, 150)


class Cnn(nn.Module):
    """Two convolutions and two linear layers on images of 28 x 28."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)),
            nn.Conv2d(1, 16, 8, 2, padding=3),
            nn.ReLU(),
            nn.MaxPool2d(2, 1),
            nn.Conv2d(16, 32, 4, 2),
            nn.ReLU(),
            nn.MaxPool2d(2, 1),
            nn.Flatten(),
            nn.Linear(512, 32),
            nn.ReLU(),
            nn.Linear(32, 12),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Residual(nn.Module):
    """A basic block of ResNet-18, with group normalisation."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(into, out, 3, stride, 1, bias=False)
        self.norm = nn.GroupNorm(8, out)
        self.second = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.last_norm = nn.GroupNorm(8, out)
        self.short = (
            nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.GroupNorm(8, out))
            if stride > 1
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.norm(self.first(x)))
        return functional.relu(self.last_norm(self.second(h)) + self.short(x))


def resnet() -> nn.Module:
    """Return ResNet-18 with group normalisation at half its width, for images of 3 x 32 x 32."""
    layers: list[nn.Module] = [
        nn.Unflatten(1, (3, 32, 32)),
        nn.Conv2d(3, 32, 3, 1, 1, bias=False),
        nn.GroupNorm(8, 32),
        nn.ReLU(),
    ]
    for into, out, stride in ((32, 32, 1), (32, 64, 2), (64, 128, 2), (128, 256, 2)):
        layers += [Residual(into, out, stride), Residual(out, out, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, CLASSES))


class Transformer(nn.Module):
    """Six encoder layers of torch over tokens, with learned positions.

    Args:
        opacus: whether attention is Opacus's, the only one that Opacus can clip.
    """

    def __init__(self, opacus: bool = False) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(TOKENS, WIDTH)
        self.layers = nn.Sequential(*(self._layer(opacus) for _ in range(6)))
        self.last = nn.Linear(WIDTH, CLASSES)

    @staticmethod
    def _layer(opacus: bool) -> nn.Module:
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        if opacus:
            from opacus.layers import DPMultiheadAttention  # a machine with a GPU may have none

            layer.self_attn = DPMultiheadAttention(WIDTH, HEADS, batch_first=True)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.long() % VOCABULARY
        places = torch.arange(TOKENS, device=x.device).repeat(len(x), 1)  # Opacus takes no view
        h = self.layers(self.tokens(tokens) + self.positions(places))
        return self.last(h.mean(1))


class Adapted(nn.Module):
    """A frozen linear layer with a trained low-rank change (Hu et al., ICLR 2022, LoRA)."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.whole = nn.Linear(into, out).requires_grad_(False)
        self.down = nn.Linear(into, RANK, bias=False)
        self.up = nn.Linear(RANK, out, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.whole(x) + self.up(self.down(x))


class Block(nn.Module):
    """A transformer layer whose linear layers have adapters."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last_norm = (nn.LayerNorm(WIDTH).requires_grad_(False) for _ in range(2))
        self.project, self.out = Adapted(WIDTH, 3 * WIDTH), Adapted(WIDTH, WIDTH)
        self.wide, self.narrow = Adapted(WIDTH, 4 * WIDTH), Adapted(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        split = self.project(self.norm(x)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        h = functional.scaled_dot_product_attention(*split.unbind(0))
        x = x + self.out(h.transpose(1, 2).flatten(2))
        return x + self.narrow(functional.relu(self.wide(self.last_norm(x))))


class Lora(nn.Module):
    """Six frozen layers with adapters, and a trained last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH).requires_grad_(False)
        self.layers = nn.Sequential(*(Block() for _ in range(6)))
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(self.tokens(x.long() % VOCABULARY)).mean(1))


def messages() -> nn.Module:
    """Return a D-MPNN with chemprop's defaults."""
    return dmpnn(Dmpnn(kind="dmpnn", hidden=300, ffn=[300]), SIZE, CLASSES)


def molecules(records: int) -> Tensor:
    """Return made-up graphs of 10 to 45 atoms with three rings, float32 [records, values]."""
    random = np.random.default_rng(0)
    counts = random.integers(10, 46, records)
    bonds = []
    for count in counts:
        tree = [(i, random.integers(max(0, i - 3), i)) for i in range(1, count)]
        rings = [(i, i - 5) for i in random.choice(np.arange(5, count), 3, replace=False)]
        bonds += tree + rings
    ends, atoms = np.array(bonds), counts.sum()
    of_atoms = random.integers(0, np.array(ATOM_CODES), (atoms, OF_ATOM))
    of_atoms[:, 0] = random.integers(1, ATOM_CODES[0], atoms)
    of_bonds = random.integers(0, np.array(BOND_CODES), (len(bonds), OF_BOND - 2))
    of_bonds[:, 0] = random.integers(1, BOND_CODES[0], len(bonds))
    found = AtomsAndBonds.of(
        (counts, counts + 2),
        of_atoms.astype(np.uint8),
        random.uniform(0, 1, atoms).astype(np.float32),
        np.concatenate([ends, of_bonds], 1).astype(np.uint8),
        SIZE,
    )
    return torch.from_numpy(found.dense())
