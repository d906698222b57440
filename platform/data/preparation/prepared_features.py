"""The kinds of features that a preparation writes: permuted fingerprints, or descriptors.

A new kind needs a section in `blindsum.platform.data.preparation.recipe`, a stage in
`blindsum.platform.data.preparation.stages`, a class here, and its line in
`prepared_features_of`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blindsum.platform.data.descriptors import descriptor_scaling
from blindsum.platform.data.preparation.recipe import FINGERPRINT, PermutedEcfp, PlainDescriptors
from blindsum.platform.data.preparation.secret import Secret
from blindsum.platform.data.preparation.stages import DescriptorValues, Fingerprints, Stage
from blindsum.platform.job.features_section import Fingerprint


class PreparedFeatures(ABC):
    """A kind of features that a preparation writes.

    The argument `features` of its methods is a table that its stage computed.
    """

    @property
    @abstractmethod
    def stage(self) -> Stage:
        """The stage that computes the features. It does not know the secret."""

    @abstractmethod
    def columns(self, features: pa.Table, secret: Secret) -> dict[str, pa.Array]:
        """Return the columns of features in the silo's table, by name."""

    @abstractmethod
    def comparable(self, features: pa.Table, secret: Secret) -> list[Any]:
        """Return one JSON value for each row of features; equal in all silos that agree."""

    @abstractmethod
    def job_section(self) -> dict[str, Any]:
        """Return the job file's section `data.features`, which reads the columns.

        Raises:
            JobError: RDKit does not have a descriptor, or no public scaling is known for it.
        """


@dataclass(frozen=True, kw_only=True)
class PreparedFingerprints(PreparedFeatures):
    """A column of the positions of fingerprints' bits, permuted by the secret, ascending."""

    section: PermutedEcfp

    @property
    def stage(self) -> Stage:
        """The stage that computes fingerprints, not yet permuted."""
        return Fingerprints(self.section)

    def columns(self, features: pa.Table, secret: Secret) -> dict[str, pa.Array]:
        """Return one column: the ascending positions of the permuted bits, lists of int32."""
        bits = self.section.bits
        lists = pa.chunked_array(features["fingerprint"]).combine_chunks()
        found = secret.order(bits)[lists.flatten().to_numpy(zero_copy_only=False)]
        counts = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
        # All lists are sorted at once, as numbers that begin with that of the list.
        begins = np.repeat(np.arange(len(counts), dtype=np.int64) * bits, counts)
        ascending = (np.sort(found + begins) - begins).astype(np.int32)
        offsets = pa.array(np.append(0, np.cumsum(counts)), pa.int32())
        return {FINGERPRINT: pa.ListArray.from_arrays(offsets, pa.array(ascending))}

    def comparable(self, features: pa.Table, secret: Secret) -> list[Any]:
        """Return the ascending positions of each row's permuted bits."""
        order = secret.order(self.section.bits)
        return [sorted(order[found].tolist()) for found in features["fingerprint"].to_pylist()]

    def job_section(self) -> dict[str, Any]:
        """Return a section of kind `fingerprint`."""
        section = Fingerprint(kind="fingerprint", bits=self.section.bits)
        return section.model_dump(mode="json")


@dataclass(frozen=True, kw_only=True)
class PreparedDescriptors(PreparedFeatures):
    """A column for each descriptor, unscaled: the job scales it by public constants."""

    section: PlainDescriptors

    @property
    def stage(self) -> Stage:
        """The stage that computes descriptors."""
        return DescriptorValues(self.section)

    def columns(self, features: pa.Table, secret: Secret) -> dict[str, pa.Array]:
        """Return a float64 column for each descriptor."""
        return {n: features[n].combine_chunks() for n in features.column_names if n != "text"}

    def comparable(self, features: pa.Table, secret: Secret) -> list[Any]:
        """Return each row's descriptors by name, as text of nine digits."""
        rows = features.drop_columns("text").to_pylist()
        # To nine digits: the last ones differ between processors.
        return [{name: f"{value:.9g}" for name, value in row.items()} for row in rows]

    def job_section(self) -> dict[str, Any]:
        """Return a section of kind `columns`, scaled as the recipe says."""
        scalings = descriptor_scaling(self.section)
        columns = {name: scaling.model_dump() for name, scaling in scalings.items()}
        return {"kind": "columns", "columns": columns}


def prepared_features_of(section: PermutedEcfp | PlainDescriptors) -> PreparedFeatures:
    """Return the kind of features that a recipe asks for."""
    match section:
        case PermutedEcfp():
            return PreparedFingerprints(section=section)
        case PlainDescriptors():
            return PreparedDescriptors(section=section)
        case _:
            assert_never(section)
