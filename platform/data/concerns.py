"""What is odd about a silo's data, and what it does to training, privacy or evaluation.

A run with such data would go through, and spend its whole budget. For the silo's owner alone: the
texts tell counts, and names of columns and classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from blindsum.platform.data.feature_columns import Number
from blindsum.platform.data.feature_kind import FeatureKind
from blindsum.platform.data.features import ColumnFeatures, features_of
from blindsum.platform.data.identifiers import By, Identifiers
from blindsum.platform.data.outline import Outline
from blindsum.platform.data.record_digests import Digests
from blindsum.platform.data.record_sample import RecordSample, SampledDigests
from blindsum.platform.data.scaling import CLIP
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.folds_section import HashFolds

FEW_TRAINING, FEW_HELD_OUT = 50, 20
"""Fewer records than these are few."""

REPEATED, COMMON, CUT, SHARED_KEY = 0.1, 0.01, 0.5, 0.5
"""Shares above which there is a concern: of records that repeat another, of records that two silos
have in common, of a feature's values that its scaling cuts, and of records with one fold key."""

EXACT = 2**53
"""Integers from here on have no exact float64."""

MOST_NAMED = 5


def concerning_columns(contract: DataSection) -> list[str]:
    """Return the columns whose values `concerns` looks at; at least one."""
    features = features_of(contract.features)
    found = [*_numbers(features)] or [next(iter(features.columns())).name]
    if isinstance(contract.folds, HashFolds):
        found.append(contract.folds.column)
    return list(dict.fromkeys(found))


def _numbers(features: FeatureKind) -> list[str]:
    if not isinstance(features, ColumnFeatures):
        return []
    return [one.name for one in features.made_of if isinstance(one, Number)]


def concerns(sample: RecordSample, contract: DataSection, outline: Outline) -> tuple[str, ...]:
    """Return what is odd about a silo's data, a sentence each.

    Args:
        sample: `concerning_columns` of the records in both folds; of all unless they are many.
    """
    found = [*_sizes(outline), *_labels(contract, outline)]
    features = features_of(contract.features)
    if isinstance(features, ColumnFeatures):
        found += _scalings(features, outline)
    of_sample, table = [*_repeats(sample.known.digests, sample.held_out)], sample.table
    of_sample += _integers(table, _numbers(features))
    if isinstance(contract.folds, HashFolds):
        of_sample += _keys(table.column(contract.folds.column), contract.folds.column)
    said = "" if sample.is_whole else f"in a sample of {table.num_rows} records, "
    return (*found, *(said + text for text in of_sample))


def shared_records(silos: Mapping[str, SampledDigests], protection: str = "") -> dict[str, str]:
    """Return a sentence for each two silos that have more records in common than chance would give,
    by both names.

    Args:
        silos: digests of each silo's records.
        protection: how what stands in both is protected, in words.
    """
    most = min((one.most for one in silos.values()), default=0)
    records = {name: one.at_most(most) for name, one in silos.items()}
    protected = f"{protection}; and " if protection else ""
    return {
        f"{a} and {b}": f"{a} and {b} have {_counted(both)} in common: {protected}records that one "
        "silo trains on while the other holds them out make held-out figures too good. Leave them "
        "out of one of the tables, or let data.folds.kind random keep equal records in one fold"
        for a, b in combinations(silos, 2)
        if (both := len(records[a] & records[b])) > COMMON * min(len(records[a]), len(records[b]))
    }


def shared_identifiers(
    silos: Mapping[str, Identifiers], by: By, protection: str = ""
) -> dict[str, str]:
    """Return a sentence for each two silos that have more molecules or fold keys in common than
    chance would give, by both names; arguments as of `shared_records`."""
    known = {name: (set(one.digests.tolist()), one) for name, one in silos.items()}
    what = {"molecule": "molecule", "key": "fold key", "record": "record"}[by]
    found = {}
    for (a, (in_a, of_a)), (b, (in_b, of_b)) in combinations(known.items(), 2):
        both = in_a & in_b
        if len(both) <= COMMON * min(len(in_a), len(in_b)):
            continue
        text = f"{a} and {b} have {len(both)} {what}{'' if len(both) == 1 else 's'} in common"
        text += f": {protection}" if protection else ""
        apart = len(_trained(of_a) & _held_out(of_b) | _held_out(of_a) & _trained(of_b))
        if apart:
            text += (
                f"; {apart} of them one silo trains on while the other holds them out, which makes "
                "held-out figures too good: data.folds.kind "
                + ("scaffold, cluster or random" if by == "molecule" else "hash")
                + f" keeps a {what} in one fold at every silo"
            )
        found[f"{a} and {b}"] = text
    return found


def _trained(one: Identifiers) -> set[bytes]:
    return set(one.digests[~one.held_out].tolist())


def _held_out(one: Identifiers) -> set[bytes]:
    return set(one.digests[one.held_out].tolist())


def _sizes(outline: Outline) -> Iterator[str]:
    if outline.train < FEW_TRAINING:
        yield (
            f"only {_counted(outline.train)} to train on: with differential privacy this silo adds "
            "more noise than signal, and spends its budget for it"
        )
    if outline.held_out < FEW_HELD_OUT:
        yield (
            f"only {_counted(outline.held_out)} held out: figures from these say little about this "
            "silo"
        )


def _labels(contract: DataSection, outline: Outline) -> Iterator[str]:
    counts, least, greatest = outline.labels
    if contract.target:
        present = np.flatnonzero(counts)
        if len(present) == 1:
            yield (
                f"all training records are of one class ({contract.target.classes[present[0]]}): "
                "this silo can only pull the model towards that class"
            )
        return
    one_sided = [
        name
        for i, (name, task) in enumerate((contract.tasks or {}).items())
        if task.kind == "binary" and counts[i] and least[i] == greatest[i]
    ]
    if one_sided:
        yield (
            f"training labels of one kind only in {_named(one_sided)}: this silo can only pull "
            "the model towards that label"
        )


def _repeats(every: Digests, held_out: npt.NDArray[np.bool_]) -> Iterator[str]:
    _, counts = np.unique(every, return_counts=True)
    repeated = len(every) - len(counts)
    if repeated > REPEATED * len(every):
        yield (
            f"{_counted(repeated)} of {len(every)} repeat another one, which is there up to "
            f"{counts.max()} times: differential privacy protects one record, so what stands "
            f"{counts.max()} times is protected by {counts.max()} times the epsilon"
        )
    trained = set(every[~held_out].tolist())
    both = sum(one in trained for one in every[held_out].tolist())
    if both > REPEATED * held_out.sum():
        yield (
            f"{_counted(both)} of {held_out.sum()} held out are also trained on: held-out figures "
            "will be too good. Choose folds by a key that the copies share"
        )


def _scalings(kind: ColumnFeatures, outline: Outline) -> Iterator[str]:
    """Yield the features that scaling leaves without information."""
    names, (at_end, least, most) = kind.names, outline.features
    cut = at_end > CUT * outline.train
    constant = (most == least) & ~cut
    # A category that no record of a silo has, or no gap in a column, is nothing odd.
    constant &= kind.is_scaled | (most != 0)
    if cut.any():
        yield (
            f"most values of {_named([n for n, x in zip(names, cut, strict=True) if x])} lie more "
            f"than {CLIP:g} scales from their center and are cut there: the model learns little "
            "from them. Set their center and scale in the job (public constants)"
        )
    if constant.any():
        yield (
            f"{_named([n for n, x in zip(names, constant, strict=True) if x])} have one value "
            "in all training records: the model learns nothing from them here"
        )


def _integers(table: pa.Table, names: Sequence[str]) -> Iterator[str]:
    huge = []
    for name in names:
        column = table.column(name)
        if pa.types.is_integer(column.type) and column.null_count < len(column):
            ends = pc.min_max(column).as_py()
            if max(abs(ends["min"]), abs(ends["max"])) > EXACT:
                huge.append(name)
    if huge:
        yield (
            f"{_named(huge)} have integers beyond 2^53, which look like identifiers: as a feature "
            "they mean nothing, and neighbouring ones become the same number"
        )


def _keys(column: pa.ChunkedArray, name: str) -> Iterator[str]:
    if not len(column):
        return
    counts = column.value_counts().flatten()
    values, times = counts[0].to_pylist(), counts[1].to_numpy(zero_copy_only=False)
    most = int(times.max())
    if most > max(1, SHARED_KEY * len(column)):
        yield (
            f"{most} of {len(column)} records have one and the same fold key in '{name}': they all "
            "lie in one fold"
        )
    empty = sum(int(n) for value, n in zip(values, times, strict=True) if _is_gap(value))
    if empty > 1:
        yield (
            f"{_counted(empty)} have a fold key in '{name}' that stands for none (empty, NA, "
            "null or the like): they count as one person, and all lie in one fold"
        )


def _is_gap(value: object) -> bool:
    gaps = {"", "-", "?", "na", "n/a", "nan", "none", "null", "unknown"}
    return isinstance(value, str) and value.strip().lower() in gaps


def _counted(records: int) -> str:
    return f"{records} record{'' if records == 1 else 's'}"


def _named(names: Sequence[str]) -> str:
    left = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {left} more" if left > 0 else "")
