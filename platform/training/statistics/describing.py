"""Statistics as rounds: which parts a round sums, and how the total is kept.

    round 1   powers of two within which each column's values lie; survival; the sketch of overlaps
    round 2   numbers of records, gaps and categories; histograms; the look-up of overlaps
    round 3   means, deviations, correlations, differences between silos

The model is the table of all sums, each as a pair of parameters. What a later round sums depends on
it, so all silos sum the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from blindsum.platform.data.record_digests import SIZE, Digests
from blindsum.platform.data.records import Fold
from blindsum.platform.data.table import SiloData
from blindsum.platform.errors import DataError, FederationError
from blindsum.platform.job.schema import Job
from blindsum.platform.job.statistics_section import Statistics
from blindsum.platform.privacy.plan import PrivacyPlan, noise_of_total
from blindsum.platform.training.statistics.histograms import COARSE, Bins, Powers
from blindsum.platform.training.statistics.moments import (
    Complete,
    Differences,
    Squares,
    Standard,
    Sums,
)
from blindsum.platform.training.statistics.overlap import (
    KEY_BYTES,
    Distinct,
    Hashed,
    Lookup,
    OfIdentifiers,
    Sketch,
)
from blindsum.platform.training.statistics.pairs import as_pairs, of_pairs
from blindsum.platform.training.statistics.parts import Found, Gaps, Levels, Part, Records
from blindsum.platform.training.statistics.survival import Events
from blindsum.platform.training.statistics.variables import Values, variables_of
from blindsum.platform.training.sums import Summed, SumsTrainer
from blindsum.platform.training.vector import Vector

Reals = npt.NDArray[np.float64]
SKETCHED = 1
"""The round of the sketch of overlaps."""


class Table(nn.Module):
    """Sums as parameters. It predicts nothing."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.sums = nn.Parameter(torch.zeros(2 * values))

    def forward(self, x: Tensor) -> Tensor:
        """Raise TypeError: there is nothing to predict with."""
        raise TypeError("statistics predict nothing")


class Describing(Summed):
    """A job's statistics: the parts of each round."""

    def __init__(self, job: Job, section: Statistics) -> None:
        self.job, self.section = job, section
        self.exact = job.privacy.noise == "none"
        self.variables = variables = variables_of(job.data)
        self.powers = Powers(variables, self.exact, section)
        self.fine, self.coarse = (
            Bins(variables, self.exact, section, self.powers, width) for width in (1, COARSE)
        )
        self.standard = standard = Standard(variables, self.fine, self.coarse, self.exact)
        levels = () if self.exact else (self.coarse,)
        counted = (Records(variables, self.exact), Gaps(variables, self.exact))
        categories = Levels(variables, self.exact)
        moments: list[Part] = [Sums(variables, standard), Squares(variables, standard)]
        if section.correlations:
            whats = ("records", "sums", "products")
            moments += [Complete(variables, standard, what) for what in whats]
        if section.differences:
            moments.append(Differences(variables, standard))
        self.survival = (
            Events(variables, self.exact, section.survival) if section.survival else None
        )
        self.lookup: Lookup | None = None
        sketch, lookup = self._overlap() if section.overlap else ((), ())
        self.rounds: tuple[tuple[Part, ...], ...] = (
            (self.powers, *([self.survival] if self.survival else []), *sketch),
            (*counted, categories, self.fine, *levels, *lookup),
            tuple(moments),
        )

    def _overlap(self) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        """Return the parts of overlaps in rounds 1 and 2."""
        most = len(self.job.silos) * self.job.training.expected_batch_size
        sketch = Sketch(self.variables, most, lambda: self.noise / self.weight(sketch, SKETCHED))
        self.lookup = Lookup(self.variables, sketch)
        self.state = (np.zeros(KEY_BYTES),)
        return (sketch,), (Distinct(self.variables, self.exact), self.lookup)

    # -- as sums -----------------------------------------------------------------------------

    @property
    def different_rounds(self) -> int:
        """All."""
        return len(self.rounds)

    def parts(self, round: int) -> tuple[Part, ...]:
        """Return a round's parts; those that sum nothing are left out."""
        return tuple(part for part in self.rounds[round - 1] if not part.is_empty)

    def values(self, round: int) -> int:
        """Return the number of a round's sums, at least one."""
        return max(1, sum(part.size for part in self.parts(round)))

    def weight(self, part: Part, round: int) -> float:
        """Return by what a part's sums are multiplied under differential privacy."""
        whole = sum(one.share for one in self.parts(round))
        return math.sqrt(part.share / whole) / part.norm

    def weights(self, round: int) -> Reals:
        """Return each sum's weight."""
        found = [np.full(one.size, self.weight(one, round)) for one in self.parts(round)]
        return np.concatenate(found) if found else np.ones(1)

    def units(self, model: Vector, round: int) -> Reals:
        """Return each sum's unit, which depends on what earlier rounds found."""
        found = self.found(model, round - 1)
        units = [np.broadcast_to(one.units(found), one.size) for one in self.parts(round)]
        return np.concatenate(units) if units else np.ones(1)

    def trainer(
        self, data: SiloData, plan: PrivacyPlan | None, random: np.random.Generator
    ) -> Describer:
        """Return one silo's part, on all its records.

        Raises:
            DataError: it has more records than the sums allow for.
        """
        most = self.job.training.expected_batch_size
        if not self.exact and len(data.train) + len(data.test) > most:
            raise DataError(
                f"this silo has more records than training.expected_batch_size, {most:,}",
                "Raise it to at least the number of records of the largest silo.",
            )
        return Describer(self, (data.train, data.test), plan, random, data.identifiers)

    def moved_on(self, vector: Vector, sums: Reals, round: int) -> Vector:
        """Return the table with a round's sums."""
        if self.lookup and round == SKETCHED:
            self.state = (_as_numbers(self._key(round)),)
        whole = of_pairs(vector)
        start = sum(self.values(earlier) for earlier in range(1, round))
        whole[start : start + len(sums)] = sums
        return as_pairs(whole)

    def hashed(self, digests: Digests, round: int) -> Hashed:
        """Return identifiers under the key of a round's sums.

        Raises:
            FederationError: the silos have agreed on no key.
        """
        return Hashed.of(digests, self._key(round))

    def _key(self, round: int) -> bytes:
        """Return the newest ceremony's for the sketch, and the sketch's for what comes after it:
        another ceremony may lie between them."""
        key = self.secret if round == SKETCHED else _as_bytes(self.state[0])
        if key is None or not any(key):
            raise FederationError(
                "the silos have no common key for identifiers", "Start the job again."
            )
        return key

    # -- what was found ----------------------------------------------------------------------

    @cached_property
    def noise(self) -> float:
        """The deviation of the noise on each total. The clip norm is 1."""
        return noise_of_total(self.job)

    @property
    def size(self) -> int:
        """The number of sums of all rounds."""
        return sum(self.values(round) for round in range(1, len(self.rounds) + 1))

    def found(self, vector: Vector, rounds: int | None = None) -> Found:
        """Return what rounds found, from the table.

        Args:
            rounds: how many; default: all.
        """
        whole, start = of_pairs(vector), 0
        noise, sums, deviations = self.noise, {}, {}
        for round in range(1, (len(self.rounds) if rounds is None else rounds) + 1):
            at = start
            for part in self.rounds[round - 1]:
                if part.is_empty:
                    sums[part.name], deviations[part.name] = np.zeros(0), 0.0
                    continue
                sums[part.name] = whole[at : at + part.size]
                deviations[part.name] = noise / self.weight(part, round)
                at += part.size
            start += self.values(round)
        return Found(sums, deviations)


class Describer(SumsTrainer):
    """One silo's part of statistics.

    Args:
        folds: all its records.
        identifiers: digests of what they are known by, for overlaps.
    """

    def __init__(
        self,
        describing: Describing,
        folds: Iterable[Fold],
        plan: PrivacyPlan | None,
        random: np.random.Generator,
        identifiers: Digests | None = None,
    ) -> None:
        super().__init__(describing.job, plan, random)
        self._describing, self._folds = describing, tuple(folds)
        self._identifiers = np.zeros(0, f"V{SIZE}") if identifiers is None else identifiers

    def sums(self, start: Vector, clip: float | None, round: int) -> tuple[Reals, float]:
        """Return the silo's sums for one round."""
        describing = self._describing
        found, parts = describing.found(start, round - 1), describing.parts(round)
        collected = [np.zeros(0)] * len(parts)
        for i, values in enumerate(self._values()):
            now = [part.collect(values, found) for part in parts]
            collected = now if i == 0 else [a + b for a, b in zip(collected, now, strict=True)]
        for i, part in enumerate(parts):
            if isinstance(part, OfIdentifiers):
                hashed = describing.hashed(self._identifiers, round)
                collected[i] = part.collect_identifiers(hashed, found)
        sent = [
            part.sent(sums, self._random).reshape(-1)
            for part, sums in zip(parts, collected, strict=True)
        ]
        if not parts:
            return np.zeros(1), 0.0
        if clip is None:
            return np.rint(np.concatenate(sent) / describing.units(start, round)), 0.0
        return np.concatenate(sent) * describing.weights(round) * clip, 0.0

    def _values(self) -> Iterable[Values]:
        variables = self._describing.variables
        for fold in self._folds:
            for features, labels in fold.batches():
                yield variables.values(
                    features.numpy().astype(np.float64), labels.numpy().astype(np.float64)
                )


def _as_numbers(key: bytes) -> Reals:
    """Return bytes as an array of a checkpoint."""
    return np.frombuffer(key, np.uint8).astype(np.float64)


def _as_bytes(numbers: Reals) -> bytes:
    return numbers.astype(np.uint8).tobytes()
