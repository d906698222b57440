"""Models of molecular graphs.

Records stay apart: every tensor has one row for each record, padded to the largest of the batch,
and a message goes only to an atom of its own record. That is what lets differential privacy clip
each record's gradient.

Legend: B records, A atoms, E bonds, H numbers of a message.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from blindsum.platform.job.model_section import ATOM_CODES, BOND_CODES, Dmpnn, GraphSize

OF_ATOM = sum(ATOM_CODES[:-1]) - 1 + 2
"""Features of an atom: a 0 or 1 for each value of a code, whether it is aromatic, its mass."""

OF_BOND = (BOND_CODES[0] - 1) + 2 + BOND_CODES[3]
"""Features of a bond. The first says that there is none; a kind beyond the known is all zeros."""

NORM = 100.0
"""What `aggregation: norm` divides by, as in chemprop."""


class MolecularGraphs(NamedTuple):
    """A batch of molecular graphs, padded to their largest.

    Attributes:
        atoms: features, float32 [B, A, OF_ATOM], 0 where there is no atom.
        is_atom: bool [B, A].
        bonds: features, float32 [B, E, OF_BOND], 0 where there is no bond.
        ends: of each bond its two atoms, int64 [B, E, 2]; A where there is no bond.
    """

    atoms: Tensor
    is_atom: Tensor
    bonds: Tensor
    ends: Tensor


class Graphs(nn.Module):
    """Reads float32 [B, values], as all features come, into `MolecularGraphs`."""

    def __init__(self, size: GraphSize) -> None:
        super().__init__()
        self._size = size

    def forward(self, x: Tensor) -> MolecularGraphs:
        """Return the graphs. Values that are no codes, as made-up records have them with which a
        model is tried, count as any."""
        x, most = x.detach(), self._size
        split = most.atoms * (len(ATOM_CODES) + 1)
        atoms = x[:, :split].view(len(x), most.atoms, len(ATOM_CODES) + 1)
        bonds = x[:, split:].view(len(x), most.bonds, 2 + len(BOND_CODES))
        codes, masses = _codes(atoms[..., :-1], ATOM_CODES), atoms[..., -1]
        of_bonds = _codes(bonds, (most.atoms, most.atoms, *BOND_CODES))
        ends = of_bonds[..., :2]
        is_atom = codes[..., 0] > 0
        there = is_atom.gather(1, ends.flatten(1)).view(ends.shape).all(-1)
        is_bond = (of_bonds[..., 2] > 0) & there
        a, e = _needed(is_atom), _needed(is_bond)
        is_atom, is_bond = is_atom[:, :a], is_bond[:, :e]
        return MolecularGraphs(
            _of_atoms(codes[:, :a], masses[:, :a]) * is_atom.unsqueeze(2),
            is_atom,
            _of_bonds(of_bonds[:, :e, 2:]) * is_bond.unsqueeze(2),
            torch.where(is_bond.unsqueeze(2), ends[:, :e], a),
        )


class MessagePassing(nn.Module):
    """Directed message passing (Yang et al., 2019, equations 3 to 7), from `MolecularGraphs` to
    float32 [B, H].

    The first layer, over an atom's features and a bond's, is kept in two: the atom's part is then
    computed once for all bonds that leave the atom.
    """

    def __init__(self, section: Dmpnn) -> None:
        super().__init__()
        hidden = section.hidden
        first = nn.Linear(OF_ATOM + OF_BOND, hidden, bias=False).weight
        self.of_atoms = nn.Linear(OF_ATOM, hidden, bias=False)
        self.of_bonds = nn.Linear(OF_BOND, hidden, bias=False)
        self.of_atoms.weight = nn.Parameter(first[:, :OF_ATOM].detach().clone())
        self.of_bonds.weight = nn.Parameter(first[:, OF_ATOM:].detach().clone())
        self.of_messages = nn.Linear(hidden, hidden, bias=False)
        self.last = nn.Linear(OF_ATOM + hidden, hidden)
        self._steps, self._aggregation = section.depth - 1, section.aggregation
        self._activation = activation(section)

    def forward(self, graphs: MolecularGraphs) -> Tensor:
        """Return what is known of each molecule."""
        bonds = _Bonds(graphs.ends, graphs.atoms.shape[1])
        leaving = functional.pad(self.of_atoms(graphs.atoms), (0, 0, 0, 1))
        first = bonds.leaving(leaving) + self.of_bonds(graphs.bonds).unsqueeze(2)
        messages = self._activation(first)
        for _ in range(self._steps):
            # What arrived at the atom that a bond leaves, but for what came along the bond itself.
            others = bonds.leaving(bonds.arrived(messages)) - messages.flip(2)
            messages = self._activation(first + self.of_messages(others))
        arrived = bonds.arrived(messages)[:, :-1]
        atoms = self._activation(self.last(torch.cat([graphs.atoms, arrived], 2)))
        total: Tensor = (atoms * graphs.is_atom.unsqueeze(2)).sum(1)
        if self._aggregation == "mean":
            return total / graphs.is_atom.sum(1, keepdim=True).clamp(min=1)
        return total / NORM if self._aggregation == "norm" else total


class _Bonds:
    """The bonds of a batch, along which numbers move from atoms and to atoms.

    Each record has one place more than atoms, where bonds that are not there begin and end: what is
    moved there is never read.
    """

    def __init__(self, ends: Tensor, atoms: int) -> None:
        self._places, self._shape = atoms + 1, ends.shape
        # No number of an atom leads out of its record: it is at most `atoms`.
        first = torch.arange(ends.shape[0], device=ends.device).mul(self._places).view(-1, 1, 1)
        self._from = (first + ends).flatten()
        self._to = (first + ends.flip(2)).flatten()

    def leaving(self, atoms: Tensor) -> Tensor:
        """Return for each bond's two directions what the atom has that it leaves, [B, E, 2, H], of
        [B, A + 1, H]."""
        found: Tensor = atoms.flatten(0, 1).index_select(0, self._from)
        return found.view(*self._shape, atoms.shape[2])

    def arrived(self, messages: Tensor) -> Tensor:
        """Return the sum of the messages to each atom, [B, A + 1, H], of [B, E, 2, H]."""
        hidden = messages.shape[-1]
        rows = messages.new_zeros(self._shape[0] * self._places, hidden)
        found = rows.index_add(0, self._to, messages.reshape(-1, hidden))
        return found.view(self._shape[0], self._places, hidden)


def dmpnn(section: Dmpnn, size: GraphSize, outputs: int) -> nn.Module:
    """Return a D-MPNN: its hidden layers, and a linear layer at the end."""
    layers: dict[str, nn.Module] = {"graphs": Graphs(size), "messages": MessagePassing(section)}
    if section.normalise:  # chemprop can normalise over the batch here, which mixes records
        layers["norm"] = nn.LayerNorm(section.hidden)
    before = section.hidden
    for i, units in enumerate(section.ffn):
        layers |= {f"hidden{i}": nn.Linear(before, units), f"activation{i}": activation(section)}
        before = units
    return nn.Sequential(OrderedDict(layers, last=nn.Linear(before, outputs)))


def activation(section: Dmpnn) -> nn.Module:
    """Return the section's activation."""
    return nn.ReLU() if section.activation == "relu" else nn.Tanh()


def _codes(x: Tensor, limits: Sequence[int]) -> Tensor:
    """Return int64 codes below their limits; `x` has a column for each of them."""
    below = torch.tensor(limits, dtype=x.dtype, device="cpu").to(x.device)
    allowed = (x == x.round()) & (x >= 0) & (x < below)
    return torch.where(allowed, x, ((x * 997).abs() % below).floor()).long()


def _needed(there: Tensor) -> int:
    """Return how many of the second dimension's places some record needs, at least 1; bool
    [B, places]."""
    last = torch.arange(1, there.shape[1] + 1, device=there.device) * there
    try:
        return max(1, int(last.max())) if len(there) else 1
    except RuntimeError:  # torch.func shows no record's own numbers: nothing is cut
        return there.shape[1]


def _of_atoms(codes: Tensor, masses: Tensor) -> Tensor:
    """Return features of atoms, [B, A, OF_ATOM], of their codes and masses."""
    *several, aromatic = codes.unbind(-1)
    several[0] = (several[0] - 1).clamp(min=0)
    sizes = (ATOM_CODES[0] - 1, *ATOM_CODES[1:-1])
    ones = _one_hot(several, sizes)
    return torch.cat([ones, torch.stack([aromatic.to(ones.dtype), masses], -1)], -1)


def _of_bonds(codes: Tensor) -> Tensor:
    """Return features of bonds, [B, E, OF_BOND], of their codes."""
    kind, conjugated, ring, stereo = codes.unbind(-1)
    kinds = _one_hot([kind], BOND_CODES[:1])[..., :-1]
    flags = torch.stack([conjugated, ring], -1).to(kinds.dtype)
    return torch.cat([kinds, flags, _one_hot([stereo], BOND_CODES[3:])], -1)


def _one_hot(codes: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Return float32 [..., sum of sizes], 1 at each code's place."""
    starts = accumulate(sizes[:-1], initial=0)
    at = torch.stack([code + start for code, start in zip(codes, starts, strict=True)], -1)
    zeros = torch.zeros(*at.shape[:-1], sum(sizes), device=at.device)
    return zeros.scatter(-1, at, torch.ones_like(at, dtype=zeros.dtype))
