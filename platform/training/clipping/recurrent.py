"""Book-keeping for torch's LSTM, GRU and RNN, which torch computes as a whole.

They are computed step by step instead, by linear layers that the book notes. The equations are
those of torch's documentation.

Legend: T steps, B records, L layers times directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from blindsum.platform.training.clipping.book import Book, NotCovered, Rules, Source

_State = tuple[Tensor, ...]
_Step = Callable[[Tensor, Tensor, _State], _State]
"""A function from what the input and the hidden state add to the gates, [B, gates], and the state,
each [B, H], to the next state. The hidden state is the first of its tensors."""


def _lstm(of_input: Tensor, of_hidden: Tensor, state: _State) -> _State:
    i, f, g, o = (of_input + of_hidden).chunk(4, 1)
    cell = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def _gru(of_input: Tensor, of_hidden: Tensor, state: _State) -> _State:
    (r, z, n), (of_r, of_z, of_n) = of_input.chunk(3, 1), of_hidden.chunk(3, 1)
    kept = torch.sigmoid(z + of_z)
    new = torch.tanh(n + torch.sigmoid(r + of_r) * of_n)
    return ((1 - kept) * new + kept * state[0],)


def _tanh(of_input: Tensor, of_hidden: Tensor, state: _State) -> _State:
    return (torch.tanh(of_input + of_hidden),)


def _relu(of_input: Tensor, of_hidden: Tensor, state: _State) -> _State:
    return (torch.relu(of_input + of_hidden),)


def _rule(step: _Step) -> Callable[..., Any]:
    def rule(
        book: Book,
        input: Tensor,
        start: Any,
        weights: Sequence[Tensor],
        has_biases: Any,
        layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool = False,
    ) -> tuple[Tensor, ...]:
        directions = 2 if bidirectional else 1
        each = 4 if has_biases else 2
        if not isinstance(has_biases, bool) or len(weights) != layers * directions * each:
            used = cast(Source, book.used((*weights, *(has_biases or ()))))
            raise NotCovered(used.parameter, "is used on packed sequences or with a projection")
        starts = tuple(start) if isinstance(start, (tuple, list)) else (start,)
        x = input.transpose(0, 1) if batch_first else input  # [T, B, I]
        last: list[_State] = []
        for layer in range(layers):
            found = []
            for direction in range(directions):
                at = layer * directions + direction
                own = weights[at * each : (at + 1) * each]
                state = tuple(one[at] for one in starts)
                outputs, state = _direction(book, step, x, state, own, backwards=direction == 1)
                found.append(outputs)
                last.append(state)
            x = torch.cat(found, 2)
            if dropout and train and layer < layers - 1:
                x = functional.dropout(x, dropout)
        output = x.transpose(0, 1) if batch_first else x
        return output, *(torch.stack(one) for one in zip(*last, strict=True))

    return rule


def _direction(
    book: Book,
    step: _Step,
    x: Tensor,
    state: _State,
    weights: Sequence[Tensor],
    backwards: bool,
) -> tuple[Tensor, _State]:
    """Return one layer's outputs in one direction, [T, B, H], and its last state."""
    of_input, of_hidden, *biases = weights
    bias, hidden_bias = biases or (None, None)
    added = book.ruled(functional.linear, x.transpose(0, 1), of_input, bias)
    outputs = []
    for one in reversed(added.unbind(1)) if backwards else added.unbind(1):
        more = book.ruled(functional.linear, state[0], of_hidden, hidden_bias)
        state = step(one, more, state)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if backwards else outputs), state


RECURRENT_RULES: Rules = {
    torch.lstm: _rule(_lstm),
    torch.gru: _rule(_gru),
    torch.rnn_tanh: _rule(_tanh),
    torch.rnn_relu: _rule(_relu),
}
