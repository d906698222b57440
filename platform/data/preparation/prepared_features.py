"""The kinds of features that a preparation writes: permuted fingerprints, descriptors, projections.

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
from blindsum.platform.data.preparation.recipe import (
    FINGERPRINT,
    PermutedEcfp,
    PermutedMaccs,
    PlainDescriptors,
    PlainKernel,
    PlainProjection,
    PreparedSection,
)
from blindsum.platform.data.preparation.secret import Secret
from blindsum.platform.data.preparation.stages import (
    DescriptorValues,
    DimensionValues,
    Fingerprints,
    Stage,
)
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


class PreparedBits(PreparedFeatures):
    """A column of the positions of bits that are 1, permuted by the secret, ascending."""

    section: PermutedEcfp | PermutedMaccs

    @property
    def stage(self) -> Stage:
        """The stage that computes the bits, not yet permuted."""
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
class PreparedFingerprints(PreparedBits):
    """Fingerprints."""

    section: PermutedEcfp


@dataclass(frozen=True, kw_only=True)
class PreparedMaccs(PreparedBits):
    """MACCS keys."""

    section: PermutedMaccs


class PreparedValues(PreparedFeatures):
    """A column for each value. The secret has no part in it."""

    def columns(self, features: pa.Table, secret: Secret) -> dict[str, pa.Array]:
        """Return a column for each value."""
        return {n: features[n].combine_chunks() for n in features.column_names if n != "text"}

    def comparable(self, features: pa.Table, secret: Secret) -> list[Any]:
        """Return each row's values by name, as text of nine digits."""
        rows = features.drop_columns("text").to_pylist()
        # To nine digits: the last ones differ between processors.
        return [{name: f"{value:.9g}" for name, value in row.items()} for row in rows]


@dataclass(frozen=True, kw_only=True)
class PreparedDescriptors(PreparedValues):
    """A float64 column for each descriptor, unscaled: the job scales it by public constants."""

    section: PlainDescriptors

    @property
    def stage(self) -> Stage:
        """The stage that computes descriptors."""
        return DescriptorValues(self.section)

    def job_section(self) -> dict[str, Any]:
        """Return a section of kind `columns`, scaled as the recipe says."""
        scalings = descriptor_scaling(self.section)
        columns = {name: scaling.model_dump() for name, scaling in scalings.items()}
        return {"kind": "columns", "columns": columns}


class PreparedDimensions(PreparedValues):
    """A float64 column for each dimension, scaled."""

    section: PlainProjection | PlainKernel

    @property
    def stage(self) -> Stage:
        """The stage that computes them."""
        return DimensionValues(self.section)

    def job_section(self) -> dict[str, Any]:
        """Return a section of kind `columns`, which leaves the values as they are."""
        return {"kind": "columns", "columns": {name: {} for name in self.section.own_columns}}


@dataclass(frozen=True, kw_only=True)
class PreparedProjection(PreparedDimensions):
    """A random projection."""

    section: PlainProjection


@dataclass(frozen=True, kw_only=True)
class PreparedKernel(PreparedDimensions):
    """Kernel principal components."""

    section: PlainKernel


def prepared_features_of(section: PreparedSection) -> PreparedFeatures:
    """Return the kind of features that a recipe asks for."""
    match section:
        case PermutedEcfp():
            return PreparedFingerprints(section=section)
        case PermutedMaccs():
            return PreparedMaccs(section=section)
        case PlainDescriptors():
            return PreparedDescriptors(section=section)
        case PlainKernel():
            return PreparedKernel(section=section)
        case PlainProjection():
            return PreparedProjection(section=section)
        case _:
            assert_never(section)
