"""What is computed from SMILES, molecule by molecule: features, and the key for folds.

It depends on its settings, the SMILES and RDKit's version alone, so that it can be computed by any
process of the silo and kept (`blindsum.platform.data.computing`). Worker processes import this
module, which therefore must not import torch.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter
from rdkit import Chem, rdBase

from blindsum.platform.data.clusters import cluster_of
from blindsum.platform.data.descriptors import descriptor_scaling, descriptors, too_large
from blindsum.platform.data.kernel import components
from blindsum.platform.data.molecular_graphs import graph_of
from blindsum.platform.data.molecules import (
    ecfp,
    maccs,
    read_molecule,
    scaffold_of,
    write_molecule,
)
from blindsum.platform.data.projection import projected
from blindsum.platform.data.reasons import (
    EMPTY,
    LONG,
    MAX_SMILES,
    TOO_LARGE,
    UNDEFINED,
    UNREADABLE,
    too_large_graph,
)
from blindsum.platform.data.scaling import scaled
from blindsum.platform.job.features_section import Descriptors, Ecfp, Kernel, Maccs, Projection
from blindsum.platform.job.folds_section import MoleculeKey
from blindsum.platform.job.graphs_section import Graphs

WORK = 1
"""Raise it with every change in what is computed from the same SMILES under the same settings:
results that were kept before are then computed again."""

RDKIT = str(rdBase.rdkitVersion)

OfMolecule = Descriptors | Ecfp | Graphs | Kernel | Maccs | Projection
_SECTION: TypeAdapter[OfMolecule] = TypeAdapter(OfMolecule)
_KEY: TypeAdapter[MoleculeKey] = TypeAdapter(MoleculeKey)


class Part(ABC):
    """One thing that is computed from each molecule."""

    @property
    @abstractmethod
    def settings(self) -> str:
        """Everything that its results depend on, apart from SMILES and versions."""

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """The columns of its results, one row for each molecule."""

    def inputs(self, digest: str) -> list[str]:
        """Return everything that its results depend on, given the digest of the texts."""
        return [type(self).__name__, self.settings, RDKIT, str(WORK), digest]

    @abstractmethod
    def function(self) -> Callable[[Chem.Mol], tuple[Any, ...]]:
        """Return the function from a readable molecule to its row.

        Raises:
            JobError: RDKit does not have a descriptor, or no public scaling is known for it.
        """

    @abstractmethod
    def without(self, why: str) -> tuple[Any, ...]:
        """Return the row of a text that gives no molecule."""


class OfSection(Part):
    """What depends on every setting of a section but the column's name."""

    section: OfMolecule

    @property
    def settings(self) -> str:
        """The section's."""
        return self.section.model_dump_json(exclude={"smiles"})


@dataclass(frozen=True)
class Fingerprints(OfSection):
    """Positions of the bits that are 1, ascending; `reason` says why a row has none."""

    section: Ecfp

    @property
    def schema(self) -> pa.Schema:
        """`section.bits` is at most 65,536."""
        return pa.schema([("reason", pa.string()), ("positions", pa.list_(pa.uint16()))])

    def function(self) -> Callable[[Chem.Mol], tuple[Any, ...]]:
        """Every readable molecule has a fingerprint."""
        positions = ecfp(self.section)
        return lambda molecule: (None, positions(molecule).astype(np.uint16))

    def without(self, why: str) -> tuple[Any, ...]:
        """Return no positions."""
        return why, []


@dataclass(frozen=True)
class MaccsKeys(Part):
    """Positions of the keys that a molecule has, ascending; `reason` says why a row has none."""

    section: Maccs

    @property
    def settings(self) -> str:
        """None."""
        return ""

    @property
    def schema(self) -> pa.Schema:
        """Positions from 0 to 165."""
        return pa.schema([("reason", pa.string()), ("positions", pa.list_(pa.uint8()))])

    def function(self) -> Callable[[Chem.Mol], tuple[Any, ...]]:
        """Every readable molecule has keys."""
        return lambda molecule: (None, maccs(molecule).astype(np.uint8))

    def without(self, why: str) -> tuple[Any, ...]:
        """Return no positions."""
        return why, []


class Numbers(OfSection):
    """float32 numbers, `width` of each molecule; `reason` says why a row is of zeros."""

    @property
    @abstractmethod
    def width(self) -> int:
        """The number of numbers."""

    @property
    def schema(self) -> pa.Schema:
        """A list of one length."""
        values = pa.list_(pa.float32(), self.width)
        return pa.schema([("reason", pa.string()), ("values", values)])

    def without(self, why: str) -> tuple[Any, ...]:
        """Return zeros."""
        return why, np.zeros(self.width, np.float32)


@dataclass(frozen=True)
class ProjectedCounts(Numbers):
    """Projected counts of substructures (`blindsum.platform.data.projection`)."""

    section: Projection

    @property
    def width(self) -> int:
        """One number for each dimension."""
        return self.section.dimensions

    def function(self) -> Callable[[Chem.Mol], tuple[Any, ...]]:
        """Every readable molecule has a projection."""
        project = projected(self.section)
        return lambda molecule: (None, project(molecule))


@dataclass(frozen=True)
class KernelComponents(Numbers):
    """Kernel principal components (`blindsum.platform.data.kernel`)."""

    section: Kernel

    @property
    def width(self) -> int:
        """One number for each component."""
        return self.section.dimensions

    def function(self) -> Callable[[Chem.Mol], tuple[Any, ...]]:
        """A molecule that is too large for descriptors has a reason."""
        compute = components(self.section)

        def row(molecule: Chem.Mol) -> tuple[Any, ...]:
            values = compute(molecule)
            return self.without(TOO_LARGE) if np.isnan(values).any() else (None, values)

        return row


@dataclass(frozen=True)
class ScaledDescriptors(Numbers):
    """Scaled descriptors; `reason` names those that are undefined."""

    section: Descriptors

    @property
    def settings(self) -> str:
        """Names and constants, in order: a named set is resolved."""
        return json.dumps([(n, s.center, s.scale) for n, s in self._scalings.items()])

    @property
    def _scalings(self) -> dict[str, Any]:
        return dict(descriptor_scaling(self.section))

    @property
    def width(self) -> int:
        """One number for each descriptor."""
        return len(self.section.descriptors)

    def function(self) -> Callable[[Chem.Mol], tuple[Any, ...]]:
        """A molecule that is too large, or has an undefined descriptor, has a reason."""
        scalings = self._scalings
        unscaled = descriptors(list(scalings))

        def row(molecule: Chem.Mol) -> tuple[Any, ...]:
            if too_large(molecule):
                return self.without(TOO_LARGE)
            found = [
                scaled(np.array(value, np.float64), scaling)
                for value, scaling in zip(unscaled(molecule), scalings.values(), strict=True)
            ]
            values = np.array(found, np.float32)
            missing = [n for n, gap in zip(scalings, np.isnan(values), strict=True) if gap]
            return self.without(UNDEFINED + ", ".join(missing)) if missing else (None, values)

        return row


@dataclass(frozen=True)
class AtomsAndBondsOf(OfSection):
    """Atoms and bonds (`blindsum.platform.data.molecular_graphs`), one after the other; `reason`
    says why a row has none."""

    section: Graphs

    @property
    def schema(self) -> pa.Schema:
        """Codes of atoms and of bonds, a hundredth of each atom's mass."""
        codes = pa.list_(pa.uint8())
        columns = [("atoms", codes), ("masses", pa.list_(pa.float32())), ("bonds", codes)]
        return pa.schema([("reason", pa.string()), *columns])

    def function(self) -> Callable[[Chem.Mol], tuple[Any, ...]]:
        """A molecule with more atoms or bonds than the section allows has a reason."""
        size = self.section.size

        def row(molecule: Chem.Mol) -> tuple[Any, ...]:
            if molecule.GetNumAtoms() > size.atoms or molecule.GetNumBonds() > size.bonds:
                return self.without(too_large_graph(size.atoms, size.bonds))
            return (None, *(one.reshape(-1) for one in graph_of(molecule)))

        return row

    def without(self, why: str) -> tuple[Any, ...]:
        """Return no atoms."""
        return why, [], [], []


@dataclass(frozen=True)
class FoldKeys(Part):
    """What folds know molecules by: scaffolds (`blindsum.platform.data.molecules.scaffold_of`),
    clusters (`blindsum.platform.data.clusters`) or canonical SMILES; null if RDKit makes none."""

    kind: MoleculeKey

    @property
    def settings(self) -> str:
        """The kind of key."""
        return self.kind

    @property
    def schema(self) -> pa.Schema:
        """SMILES."""
        return pa.schema([("key", pa.string())])

    def function(self) -> Callable[[Chem.Mol], tuple[Any, ...]]:
        """A molecule that RDKit cannot cut down to its scaffold, or write, has no key."""
        keys: dict[MoleculeKey, Callable[[Chem.Mol], str]] = {
            "scaffold": scaffold_of,
            "spelling": write_molecule,
            "cluster": cluster_of,
        }
        key = keys[self.kind]

        def row(molecule: Chem.Mol) -> tuple[Any, ...]:
            try:
                return (key(molecule),)
            except (ValueError, RuntimeError):  # RDKit raises these for odd molecules
                return (None,)

        return row

    def without(self, why: str) -> tuple[Any, ...]:
        """Return no key."""
        return (None,)


FeaturesPart = (
    Fingerprints
    | MaccsKeys
    | KernelComponents
    | ProjectedCounts
    | ScaledDescriptors
    | AtomsAndBondsOf
)
MoleculePart = FeaturesPart | FoldKeys


def features_part(section: OfMolecule) -> FeaturesPart:
    """Return the part that computes a section's features."""
    match section:
        case Descriptors():
            return ScaledDescriptors(section)
        case Ecfp():
            return Fingerprints(section)
        case Graphs():
            return AtomsAndBondsOf(section)
        case Kernel():
            return KernelComponents(section)
        case Maccs():
            return MaccsKeys(section)
        case Projection():
            return ProjectedCounts(section)
        case _:
            assert_never(section)


@dataclass(frozen=True)
class MoleculeWork:
    """Parts that are computed together: each text is read once."""

    parts: tuple[MoleculePart, ...]

    @property
    def schema(self) -> pa.Schema:
        """The parts' columns."""
        return pa.schema([field for part in self.parts for field in part.schema])

    def compute(self) -> Callable[[Sequence[str]], pa.Table]:
        """Return the function from texts to a table with the parts' columns, a row for each text.

        Raises:
            JobError: as `Part.function`.
        """
        parts, schema = self.parts, self.schema
        functions = [part.function() for part in parts]

        def row(text: str) -> list[Any]:
            molecule, why = _read(text)
            if molecule is None:
                return [value for part in parts for value in part.without(why)]
            return [value for function in functions for value in function(molecule)]

        def compute(texts: Sequence[str]) -> pa.Table:
            rows = [row(text) for text in texts]
            columns = [[row[i] for row in rows] for i in range(len(schema))]
            return pa.table(
                [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema
            )

        return compute

    def to_json(self) -> bytes:
        """Encode the settings for a worker process."""
        settings = [
            part.kind if isinstance(part, FoldKeys) else part.section.model_dump(mode="json")
            for part in self.parts
        ]
        return json.dumps(settings).encode()

    @classmethod
    def from_json(cls, content: bytes) -> MoleculeWork:
        """Decode what `to_json` encoded."""
        return cls(tuple(_part(one) for one in json.loads(content)))


def _part(said: Any) -> MoleculePart:
    if isinstance(said, str):
        return FoldKeys(_KEY.validate_python(said))
    return features_part(_SECTION.validate_python(said))


def _read(text: str) -> tuple[Chem.Mol | None, str]:
    """Return the molecule, or why there is none. The reason never quotes the text."""
    if len(text) > MAX_SMILES:
        return None, LONG
    molecule = read_molecule(text)
    if molecule is None:
        return None, UNREADABLE
    return (molecule, "") if molecule.GetNumAtoms() else (None, EMPTY)
