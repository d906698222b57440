"""What models may do behind a layer's back: it is clipped right, by a slower way, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from blindsum.platform.errors import ModelError
from blindsum.platform.training.clipping.book import NotCovered
from blindsum.platform.training.clipping.book_keeping import BookKeeping
from blindsum.platform.training.clipping.by_record import OneByOne, Vectorised
from blindsum.platform.training.clipping.choice import Chosen, clipped_sum
from tests.platform.test_clipping_families import clipped, record_by_record, shaken

FEATURES, CLASSES = 12, 3


class Model(nn.Module):
    """Two layers; `way` says what happens in between."""

    def __init__(self, way: Callable[[Model, Tensor], Tensor], zero: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, CLASSES)
        self.way = way
        if zero:
            nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.way(self, x)))


class Unseen(torch.autograd.Function):
    """A linear layer in a way that torch's operations do not show."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return d @ weight, d.T @ x


def past_its_layer(model: Model, x: Tensor) -> Tensor:
    return model.first(x) + 3 * functional.linear(x, model.first.weight)


def twice(model: Model, x: Tensor) -> Tensor:
    return model.first(torch.relu_(model.first(x)))


def unseen(model: Model, x: Tensor) -> Tensor:
    return model.first(x) + Unseen.apply(x, model.first.weight)


def reordered(model: Model, x: Tensor) -> Tensor:
    return model.first(x.flip(0)).flip(0)


def flattened(model: Model, x: Tensor) -> Tensor:
    """Two rows for each record, and all first rows before all second ones."""
    return sum(model.first(torch.cat([x, 2 * x])).split(len(x)))  # type: ignore[return-value]


def cut(model: Model, x: Tensor) -> Tensor:
    """Two rows for each record, one after the other."""
    pieces = torch.stack([x, -2 * x], 1).reshape(-1, FEATURES)
    return torch.tanh(model.first(pieces)).view(len(x), 2, FEATURES).sum(1)


def halves(model: Model, x: Tensor) -> Tensor:
    """The weight in one piece, and in pieces that overlap."""
    above, below = model.first.weight.split([5, 7])
    h = torch.cat([functional.linear(x, above), functional.linear(x, below)], 1)
    thirds = [functional.linear(x, part) for part in model.first.weight.chunk(3)]
    return h * torch.cat(thirds, 1)


def pieces(model: Model, x: Tensor) -> Tensor:
    """The weight in pieces alone, of which one is used twice."""
    above, below = model.first.weight.split([5, 7])
    twice = functional.linear(torch.tanh(x), below) + functional.linear(x, below)
    return torch.cat([functional.linear(x, above), twice], 1)


def in_place(model: Model, x: Tensor) -> Tensor:
    h = model.first(x)
    h += x
    return h.mul_(2)


def checkpointed(model: Model, x: Tensor) -> Tensor:
    found = torch.utils.checkpoint.checkpoint(model.first, x, use_reentrant=False)
    return found  # type: ignore[no-any-return]


def dropped(model: Model, x: Tensor) -> Tensor:
    return functional.dropout(model.first(x), 0.5, model.training)


def sloped(model: Model, x: Tensor) -> Tensor:
    """The gradient by the input of what a layer computes, as forces are of an energy."""
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        energy = torch.tanh(model.first(at)).square().sum()
        (slope,) = torch.autograd.grad(energy, at, create_graph=True)
    return slope


WAYS = {
    past_its_layer: "book-keeping",
    twice: "book-keeping",
    in_place: "book-keeping",
    pieces: "book-keeping",
    checkpointed: "book-keeping",
    unseen: "one by one",
    sloped: "one by one",
    reordered: "vectorised",
    flattened: "vectorised",
    cut: "vectorised",
    halves: "vectorised",
}


def batch(records: int = 9) -> tuple[Tensor, Tensor]:
    return torch.randn(records, FEATURES), torch.randint(0, CLASSES, (records,))


def assert_right(way: Chosen, model: nn.Module) -> None:
    features, labels = batch()
    gradients, norms = record_by_record(model, features, labels)
    clip = float(norms.median())
    found = way(features, labels, clip)
    for mine, expected in zip(found.sums, clipped(gradients, norms, clip), strict=True):
        torch.testing.assert_close(mine.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_weight_may_be_used_in_any_way(way: Callable[..., Tensor], zero: bool) -> None:
    """Also if the last layer starts at zero, which hides the others until it has learned."""
    torch.manual_seed(2)
    model = Model(way, zero)
    chosen = clipped_sum(model, FEATURES)
    assert chosen.method == WAYS[way], chosen.says
    shaken(model)
    assert_right(chosen, model)


@pytest.mark.parametrize("hidden", [past_its_layer, unseen, flattened, cut, halves, sloped])
def test_a_path_that_the_trial_did_not_take_is_clipped_right(hidden: Callable[..., Tensor]) -> None:
    """Large records alone take it, and made-up ones are not large."""

    def way(model: Model, x: Tensor) -> Tensor:
        return hidden(model, 0.02 * x) if float(x.abs().max()) > 50 else model.first(x)

    model = Model(way)
    chosen = clipped_sum(model, FEATURES)
    assert chosen.method == "book-keeping"
    features, labels = batch()
    features *= 100
    gradients, norms = record_by_record(model, features, labels)
    clip = float(norms.median())
    found = chosen(features, labels, clip)
    for mine, expected in zip(found.sums, clipped(gradients, norms, clip), strict=True):
        torch.testing.assert_close(mine.double(), expected, rtol=1e-4, atol=1e-5)


def test_an_input_that_is_changed_after_its_use_is_noticed() -> None:
    """Torch would refuse it too, if it had to compute the weight's gradient."""

    def changed(model: Model, x: Tensor) -> Tensor:
        h = x * 2
        found = model.first(h)
        h.zero_()
        return found

    features, labels = batch()
    with pytest.raises(NotCovered, match="changed after its use"):
        BookKeeping(Model(changed))(features, labels, 1.0)


def test_frozen_and_unused_parameters_are_right() -> None:
    model = nn.ModuleDict(
        {"frozen": nn.Linear(FEATURES, 8), "used": nn.Linear(8, CLASSES), "unused": nn.Linear(2, 2)}
    )
    model["frozen"].weight.requires_grad_(False)
    model.forward = lambda x: model["used"](model["frozen"](x))  # type: ignore[method-assign]
    chosen = clipped_sum(model, FEATURES)
    found = chosen(*batch(), 1.0)
    assert chosen.method == "book-keeping"
    assert [s.shape for s in found.sums] == [p.shape for p in model.parameters() if p.requires_grad]
    assert not any(s.any() for s in found.sums[-2:])
    assert_right(chosen, model)


@pytest.mark.parametrize("kind", [BookKeeping, Vectorised, OneByOne])
def test_a_loss_without_parameters_sums_to_zero(kind: Any) -> None:
    model = Model(twice)
    model.forward = lambda x: x[:, :CLASSES]  # type: ignore[method-assign]
    found = kind(model)(*batch(), 1.0)
    assert not any(s.any() for s in found.sums) and found.within == 9


def test_every_record_is_dropped_out_anew_where_they_are_computed_together() -> None:
    """With one mask for all, the same record twice would have one pattern of zeros."""

    def way(model: Model, x: Tensor) -> Tensor:
        return dropped(model, x @ model.first.weight)

    torch.manual_seed(0)
    model = Model(way)
    chosen = clipped_sum(model, FEATURES)
    assert chosen.method == "vectorised", chosen.says
    features, labels = torch.ones(64, FEATURES), torch.zeros(64, dtype=torch.long)
    sums = chosen(features, labels, 1e6).sums
    # Half of the 12 columns would be zero with one mask; with 64 masks no column is.
    assert bool((sums[2].abs().sum(0) > 0).all())


@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_memory_is_bounded_by_records_at_a_time(chunk: int) -> None:
    model = Model(twice)
    features, labels = batch()
    way = Vectorised(model)
    whole = way(features, labels, 0.1)
    way._chunk = chunk
    held: list[int] = []
    handle = model.first.register_forward_hook(lambda layer, x, y: held.append(x[0].dim()))
    found = way(features, labels, 0.1)
    handle.remove()
    assert len(held) == 2 * -(-9 // chunk)
    for a, b in zip(found.sums, whole.sums, strict=True):
        torch.testing.assert_close(a, b)


def test_large_models_are_computed_for_fewer_records_at_a_time() -> None:
    with torch.device("meta"):
        large = nn.Linear(2**12, 2**11, bias=False)
    assert Vectorised(large)._chunk == 2 and Vectorised(Model(twice))._chunk == 64


def test_a_model_that_fails_on_one_record_is_refused() -> None:
    def fussy(model: Model, x: Tensor) -> Tensor:
        if len(x) == 1:
            raise ValueError("more than one, please")
        return model.first(x)

    with pytest.raises(ModelError, match="ValueError: more than one"):
        clipped_sum(Model(fussy), FEATURES)


def test_the_sentence_names_the_layer_and_holds_nothing_that_forges_a_line() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("la\x1b[2Jst\n", nn.Bilinear(FEATURES, FEATURES, CLASSES))

        def forward(self, x: Tensor) -> Tensor:
            (both,) = self.children()
            return both(x, x)

    chosen = clipped_sum(Odd(), FEATURES)
    assert chosen.says == (
        "book-keeping does not cover layer 'la?[2Jst?' (Bilinear), whose weight is used by torch's "
        "bilinear: gradients are clipped by torch.func, which is slower"
    )
    said = clipped_sum(nn.Linear(FEATURES, CLASSES), FEATURES).says
    assert said == "gradients are clipped by book-keeping, at nearly the cost of a plain step"
