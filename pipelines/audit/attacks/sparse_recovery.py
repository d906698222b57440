"""Recover records from the gradient of a first layer with ReLU; exact for small batches.

Dimitrov, Baader, Mueller and Vechev, "SPEAR: exact gradient inversion of batches in federated
learning", NeurIPS 2024. Legend: m neurons, n features, B records.

A linear layer's weight has the gradient G = D X and its bias d = D 1, where D [m, B] holds the
gradients of the layer's outputs and X [B, n] the records. G has rank B, so any factorisation
G = L R has D = L Q for some invertible Q [B, B]. ReLU sets about half of D's entries to zero: a
column of Q is orthogonal to all rows of L whose neuron its record left inactive, and B - 1 of those
rows determine it. Rows are drawn at random; a direction that is orthogonal to many more neurons
than were drawn is a column. Scales follow from d (section 4).

Sums over local steps keep this form: every step's gradient has the records as its row space, and a
neuron that no step activated for a record stays zero in its column.

If the output layer V follows directly, the active entries of a column are V^T e for some e. That
excludes differences of two records, which for two classes have more zeros than the records.

The server knows the layer, so it can check the result: recovered records must activate exactly the
neurons for which their columns of D are not zero.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

AT_ONCE = 1e-3
"""The search ends once the share of disagreeing neurons is below this."""

APART = 0.7
"""Largest distance of a column from V^T e, which local steps and flipped neurons distort."""


@dataclass(frozen=True)
class Recovery:
    """The result of one search.

    `records` float64 [B, n], or None if none were found; `disagreeing` is the share of neurons that
    disagree with them; `tried` is the number of directions, `seconds` the time taken.
    """

    records: Tensor | None
    disagreeing: float
    tried: int
    seconds: float


def recover(
    weight: Tensor,
    bias: Tensor,
    records: int,
    layer: nn.Linear,
    output: nn.Linear | None = None,
    *,
    tolerance: float = 1e-4,
    disagreeing: float = 0.1,
    seconds: float = 30.0,
    seed: int = 0,
) -> Recovery:
    """Recover the records behind a first layer's gradient.

    Args:
        weight: gradient of the weight, [m, n]: of a sum or mean of losses, or of local steps.
        bias: gradient of the bias, [m].
        records: B, which the rank of `weight` reveals.
        layer: the layer as it was when the gradient was taken, or before the local steps.
        output: the next layer, if that is the last one.
        tolerance: a direction with a smaller cosine counts as orthogonal to a neuron.
        disagreeing: the largest share of neurons that may contradict the result.
        seconds: time limit of the search.
    """
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    g, d = weight.double(), bias.double()
    if not 1 <= records <= min(g.shape):
        return Recovery(None, 1.0, 0, 0.0)
    u, s, _ = torch.linalg.svd(g, full_matrices=False)
    left = u[:, :records] * s[:records].sqrt()
    norms = left.norm(dim=1)
    alive = norms > 1e-9 * norms.max()
    rows = left[alive] / norms[alive, None]
    found, tried = torch.empty(0, records, dtype=torch.float64), 0
    merits = torch.empty(0, dtype=torch.float64)
    draws, best, enough = min(4000, 64 << records), Recovery(None, 1.0, 0, 0.0), 0
    if records == 1:
        found = torch.ones(1, 1, dtype=torch.float64)
    # Two similar records may be mixed up at first: if a few neurons disagree, search on a while.
    while time.perf_counter() - started < seconds:
        if records > 1:
            directions = _orthogonal(rows, draws, generator)
            tried += len(directions)
            orthogonal = ((directions @ rows.T).abs() < tolerance).sum(1)
            # A random direction is orthogonal only to the B - 1 neurons it was made from.
            likely = orthogonal >= records + max(2, int(0.1 * len(rows)))
            directions, merit = directions[likely], orthogonal[likely].double()
            if output is not None:
                active = (directions @ rows.T).abs() >= tolerance
                apart = _apart(directions @ left[alive].T, active, output.weight[:, alive])
                directions, merit = directions[apart < APART], -apart[apart < APART]
            found, merits = _distinct(torch.cat([found, directions]), torch.cat([merits, merit]))
        chosen = _independent(found, records)
        if chosen is not None:
            recovered = _scaled(left @ chosen.T, g, d)
            if recovered is not None:
                wrong = _disagreement(recovered, left @ chosen.T, layer, tolerance)
                if wrong < min(disagreeing, best.disagreeing):
                    best, enough = Recovery(recovered, wrong, tried, 0.0), max(enough, 4 * tried)
        if records == 1 or best.disagreeing < AT_ONCE or (enough and tried > enough):
            break
    return replace(best, tried=tried, seconds=time.perf_counter() - started)


def _orthogonal(rows: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """Return unit directions [draws, B], each orthogonal to B - 1 neurons drawn at random."""
    size = rows.shape[1]
    picked = rows[torch.rand(draws, len(rows), generator=generator).topk(size - 1, dim=1).indices]
    # One more random equation picks a vector of the null space, by elimination.
    extra = torch.randn(draws, 1, size, generator=generator, dtype=torch.float64)
    system = torch.cat([picked, extra], dim=1)
    right = torch.zeros(draws, size, 1, dtype=torch.float64)
    right[:, -1] = 1.0
    solved, failed = torch.linalg.solve_ex(system, right)
    directions = solved[..., 0][(failed == 0) & torch.isfinite(solved[..., 0]).all(1)]
    unit: Tensor = directions / directions.norm(dim=1, keepdim=True)
    return unit


def _distinct(directions: Tensor, merits: Tensor) -> tuple[Tensor, Tensor]:
    """Drop repeated directions (up to sign) and keep the best few times B, by merit.

    A mixture of two records' columns ranks lower: it is orthogonal only to neurons inactive in
    both.
    """
    order = merits.argsort(descending=True, stable=True)
    directions, merits, kept = directions[order], merits[order], list[int]()
    left = torch.ones(len(directions), dtype=torch.bool)
    while left.any() and len(kept) < 6 * directions.shape[1]:
        first = int(left.int().argmax())
        kept.append(first)
        left &= (directions @ directions[first]).abs() < 1 - 1e-6
    return directions[kept], merits[kept]


def _independent(directions: Tensor, records: int) -> Tensor | None:
    """Return the first B linearly independent directions, or None if there are fewer."""
    basis, chosen = torch.empty(0, records, dtype=torch.float64), list[int]()
    for i, direction in enumerate(directions):
        rest = direction - basis.T @ (basis @ direction)
        if float(rest.norm()) < 1e-4:
            continue
        basis = torch.cat([basis, (rest / rest.norm())[None]])
        chosen.append(i)
        if len(chosen) == records:
            return directions[chosen]
    return None


def _apart(columns: Tensor, active: Tensor, output: Tensor) -> Tensor:
    """Return columns' distances, 0 to 1, from V^T e on active entries, for the best e.

    Columns are [r, m].
    """
    v, mask = output.detach().double(), active.double()
    normal = torch.einsum("rm,cm,dm->rcd", mask, v, v)
    e = torch.linalg.lstsq(
        normal, torch.einsum("rm,cm->rc", mask * columns, v)[..., None], driver="gelsd"
    )
    rest = (columns - e.solution[..., 0] @ v) * mask
    share: Tensor = rest.norm(dim=1) / (columns * mask).norm(dim=1).clamp_min(1e-300)
    return share


def _disagreement(records: Tensor, columns: Tensor, layer: nn.Linear, tolerance: float) -> float:
    """Return the share of neuron-record pairs on which the layer and the columns disagree."""
    with torch.no_grad():
        active = records @ layer.weight.double().T + layer.bias.double() > 0
    used = columns.abs() > tolerance * columns.abs().max(dim=0).values
    alive = used.any(1)
    return float((active.T != used)[alive].double().mean())


def _scaled(columns: Tensor, g: Tensor, d: Tensor) -> Tensor | None:
    """Return the records if these are D's columns up to scale, else None."""
    scales = torch.linalg.lstsq(columns, d[:, None]).solution[:, 0]
    if float((columns @ scales - d).norm()) > 1e-2 * float(d.norm()):
        return None
    if float(scales.abs().min()) < 1e-12 * float(scales.abs().max()):
        return None
    solved: Tensor = torch.linalg.lstsq(columns * scales, g).solution
    return solved
