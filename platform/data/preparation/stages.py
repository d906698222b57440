"""The two slow stages, molecule by molecule: standardise, then compute features.

A stage maps texts to rows of a table. It depends only on its settings and RDKit's version, so its
results may be cached. Neither stage uses the consortium's secret.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
from rdkit import Chem, rdBase
from rdkit.Chem.MolStandardize import rdMolStandardize
from rdkit.Chem.Scaffolds import MurckoScaffold

from blindsum.platform.data.descriptors import descriptors
from blindsum.platform.data.kernel import components
from blindsum.platform.data.molecules import ecfp, maccs, read_molecule, write_molecule
from blindsum.platform.data.preparation.recipe import (
    PermutedEcfp,
    PermutedMaccs,
    PlainDescriptors,
    PlainKernel,
    PlainProjection,
    Structures,
)
from blindsum.platform.data.projection import projected
from blindsum.platform.data.reasons import MAX_SMILES
from blindsum.platform.job.features_section import Kernel

rdBase.DisableLog("rdApp.*")

RDKIT = rdBase.rdkitVersion

STEPS = 2
"""Increased with every change in a stage's result for the same text; cached results then expire."""

UNPARSABLE, TOO_LARGE, FAILED = "unparsable", "too large", "RDKit failed"
UNREADABLE_STEREO = "enhanced stereo that RDKit cannot make one of"


MAX_STEREO_GROUPS = 12
"""Most stereo groups for which RDKit finds a canonical form (in 0.2 s). Beyond, it keeps the form
of the input."""


class Stage(Protocol):
    """A stage of preparation: it returns one row for each text, in order, and stores none."""

    @property
    def key(self) -> str:
        """The cache key of results: equal for equal settings and RDKit versions."""
        ...

    def compute(self, texts: Sequence[str]) -> pa.Table:
        """Return a row for each text, with the text in column `text`."""
        ...

    def failed(self, text: str) -> pa.Table:
        """Return the row of a text on which RDKit crashed or did not finish."""
        ...


def _key(name: str, settings: str) -> str:
    content = json.dumps([name, settings, RDKIT, STEPS])
    return f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


class Standardise:
    """Standardises SMILES. The columns of its table, beside `text`, are:

    structure   canonical SMILES; canonical CXSMILES for racemates and other enhanced stereo; null
                if the text was dropped
    dropped     the reason for dropping the text, or null
    scaffold    Bemis-Murcko scaffold, without stereochemistry, so that stereoisomers are one
                series; for an acyclic molecule, the molecule itself without stereochemistry
    """

    SCHEMA = pa.schema(
        [
            ("text", pa.string()),
            ("structure", pa.string()),
            ("dropped", pa.string()),
            ("scaffold", pa.string()),
        ]
    )

    def __init__(self, settings: Structures) -> None:
        self._settings = settings

    @property
    def key(self) -> str:
        return _key("structures", self._settings.model_dump_json())

    def compute(self, texts: Sequence[str]) -> pa.Table:
        rows = [(text, *self._one(text)) for text in texts]
        columns = [[row[i] for row in rows] for i in range(len(self.SCHEMA))]
        return pa.table(columns, schema=self.SCHEMA)

    def failed(self, text: str) -> pa.Table:
        return pa.table([[text], [None], [FAILED], [None]], schema=self.SCHEMA)

    def _one(self, text: str) -> tuple[str | None, str | None, str | None]:
        said = self._settings
        if len(text) > MAX_SMILES:
            return None, TOO_LARGE, None
        molecule = read_molecule(text)
        if molecule is None or molecule.GetNumAtoms() == 0:
            return None, UNPARSABLE, None
        try:
            molecule = rdMolStandardize.FragmentParent(molecule)
            if molecule.GetNumHeavyAtoms() > said.max_heavy_atoms:
                return None, TOO_LARGE, None
            if said.neutralise:
                molecule = rdMolStandardize.Uncharger().uncharge(molecule)
            if not said.isotopes:
                for atom in molecule.GetAtoms():
                    atom.SetIsotope(0)
                molecule = Chem.RemoveHs(molecule)
            if said.tautomer:
                molecule = rdMolStandardize.TautomerEnumerator().Canonicalize(molecule)
            if not said.stereo:
                Chem.RemoveStereochemistry(molecule)
            if said.stereo and _unreadable_stereo(molecule, text):
                return None, UNREADABLE_STEREO, None
            structure = write_molecule(molecule)
            again = Chem.MolFromSmiles(structure)
            if again is None or again.GetNumAtoms() == 0:
                return None, FAILED, None
            structure = write_molecule(again)
            Chem.RemoveStereochemistry(again)
            for atom in again.GetAtoms():
                atom.SetIsotope(0)
            flat = Chem.MolToSmiles(again)
            core = MurckoScaffold.GetScaffoldForMol(again)  # type: ignore[no-untyped-call]
            scaffold = Chem.MolToSmiles(core)
        except (ValueError, RuntimeError):  # raised by RDKit if it cannot sanitise the molecule
            return None, FAILED, None
        return structure, None, scaffold or flat


_LABELS, _RACEMIC = re.compile(r"\$.*?\$"), re.compile(r"[|,]r[,|:]")


def _unreadable_stereo(molecule: Chem.Mol, text: str) -> bool:
    """Return whether RDKit would misread a text's stereochemistry: it ignores the racemic flag of
    CXSMILES (`|r|`), and does not canonicalise more than MAX_STEREO_GROUPS groups."""
    if len(molecule.GetStereoGroups()) > MAX_STEREO_GROUPS:
        return True
    extension = "".join(text.split(maxsplit=1)[1:])
    flagged = extension.startswith("|") and _RACEMIC.search(_LABELS.sub("", extension))
    return bool(flagged and "@" in text)


class Fingerprints:
    """Computes `fingerprint` from structures: the positions of bits that are 1, ascending, not yet
    permuted."""

    SCHEMA = pa.schema([("text", pa.string()), ("fingerprint", pa.list_(pa.int32()))])

    def __init__(self, settings: PermutedEcfp | PermutedMaccs) -> None:
        self._settings = settings

    @property
    def key(self) -> str:
        return _key("features", self._settings.model_dump_json())

    def compute(self, texts: Sequence[str]) -> pa.Table:
        one = ecfp(self._settings) if isinstance(self._settings, PermutedEcfp) else maccs
        found = [one(Chem.MolFromSmiles(text)).tolist() for text in texts]
        return pa.table([list(texts), found], schema=self.SCHEMA)

    def failed(self, text: str) -> pa.Table:
        return pa.table([[text], [None]], schema=self.SCHEMA)


class DescriptorValues:
    """Computes a float64 column for each descriptor from structures, unscaled; NaN where RDKit
    returns no finite value."""

    def __init__(self, settings: PlainDescriptors) -> None:
        self._settings = settings
        self.names = list(settings.descriptors)
        self._schema = pa.schema(
            [("text", pa.string()), *((name, pa.float64()) for name in self.names)]
        )

    @property
    def key(self) -> str:
        return _key("features", json.dumps(self.names))  # the scaling is applied later

    def compute(self, texts: Sequence[str]) -> pa.Table:
        one = descriptors(self.names)
        found = np.array([one(Chem.MolFromSmiles(text)) for text in texts], np.float64)
        found = np.where(np.isfinite(found), found, np.nan).reshape(len(texts), len(self.names))
        return pa.table([list(texts), *found.T], schema=self._schema)

    def failed(self, text: str) -> pa.Table:
        return pa.table([[text], *([[float("nan")]] * len(self.names))], schema=self._schema)


class DimensionValues:
    """Computes a float64 column for each dimension of a projection of structures, or for each
    kernel principal component, scaled; NaN where there is none."""

    def __init__(self, settings: PlainProjection | PlainKernel) -> None:
        self._settings = settings
        self._schema = pa.schema(
            [("text", pa.string()), *((name, pa.float64()) for name in settings.own_columns)]
        )

    @property
    def key(self) -> str:
        return _key("features", self._settings.model_dump_json())

    def compute(self, texts: Sequence[str]) -> pa.Table:
        settings = self._settings
        one = components(settings) if isinstance(settings, Kernel) else projected(settings)
        found = [one(Chem.MolFromSmiles(text)).astype(np.float64) for text in texts]
        values = np.array(found).reshape(len(texts), self._settings.dimensions)
        return pa.table([list(texts), *values.T], schema=self._schema)

    def failed(self, text: str) -> pa.Table:
        gaps = [[float("nan")]] * self._settings.dimensions
        return pa.table([[text], *gaps], schema=self._schema)
