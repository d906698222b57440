"""Models of sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blindsum.platform.job.model_section import Tokens, Transformer


class Sequences(nn.Module):
    """A model of sequences that gets their numbers as float32 [records, length], as all features
    come. float32 is exact for them.

    Args:
        model: gets int64 [records, length].
    """

    def __init__(self, model: nn.Module, tokens: Tokens) -> None:
        super().__init__()
        self.model, self._vocabulary = model, tokens.vocabulary

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's outputs. Values that are no such numbers, as made-up records have them
        with which a model is tried, count as any."""
        found: Tensor = self.model(whole_numbers(x, self._vocabulary))
        return found


def whole_numbers(x: Tensor, below: int) -> Tensor:
    """Return whole numbers from 0 to `below` - 1 that are kept as float32, as int64 in the same
    shape. Other values become any of these."""
    x = x.detach()
    allowed = (x == x.round()) & (x >= 0) & (x < below)
    return torch.where(allowed, x, (x * 997).abs() % below).long()


class Encoder(nn.Module):
    """`Transformer`."""

    def __init__(self, section: Transformer, tokens: Tokens, outputs: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            section.width,
            section.heads,
            section.hidden,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        # One more number and place, for a beginning that every text has, the empty one too.
        self._beginning = tokens.vocabulary
        self.tokens = nn.Embedding(tokens.vocabulary + 1, section.width)
        self.places = nn.Parameter(torch.randn(tokens.length + 1, section.width) * 0.02)
        self.encoder = nn.TransformerEncoder(layer, section.layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(section.width)
        self.last = nn.Linear(section.width, outputs)

    def forward(self, ids: Tensor) -> Tensor:
        """Return outputs [records, outputs] of int64 [records, length]."""
        if not len(ids):  # a sample can be empty, and torch's attention fails on it
            return self.last(self.places.new_zeros(0, self.places.shape[1]))  # type: ignore[no-any-return]
        begun = torch.cat([torch.full_like(ids[:, :1], self._beginning), ids], 1)
        there = begun != 0
        h = self.encoder(self.tokens(begun) + self.places, src_key_padding_mask=~there)
        weights = there.to(h.dtype).unsqueeze(2)
        found: Tensor = self.last(self.norm((h * weights).sum(1) / weights.sum(1)))
        return found
