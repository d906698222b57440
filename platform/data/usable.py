"""The records of a silo's table that are trained on and held out, part by part.

Nothing here leaves the silo. Rows at fault are listed in a file in the silo's own state folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from blindsum.platform.data.checked import checked_parts, fitting, fold_columns, key_columns
from blindsum.platform.data.columns import gaps
from blindsum.platform.data.computing import Computing, Told
from blindsum.platform.data.feature_kind import FeatureKind, Featurised
from blindsum.platform.data.features import features_of
from blindsum.platform.data.files.parts import EVERY
from blindsum.platform.data.labels import Labelled, class_labels
from blindsum.platform.data.ragged import TaskLabels
from blindsum.platform.data.record_digests import Digests, record_digests
from blindsum.platform.data.records import Stored, StoredLabels
from blindsum.platform.data.rejected_rows import (
    Rejected,
    RejectedRows,
    dropped_rows,
    without_names,
)
from blindsum.platform.data.split import folds_of
from blindsum.platform.data.task_labels import task_labels, unlabelled
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.labels_section import Tasks


@dataclass(frozen=True, kw_only=True)
class Usable:
    """Consecutive records of a table. Private to the silo.

    Attributes:
        whole: all of them, before any were dropped.
        whole_digests: one for each of these.
        table: those that are trained on or held out; what follows is of these.
        features: [records, features].
        labels: classes, or labels of tasks, those of private tasks last.
        held_out: bool [records].
        digests: without the keys of folds.
        dropped: the number of records that were dropped, and of labels that were left out.
    """

    whole: pa.Table
    whole_digests: Digests
    table: pa.Table
    features: Stored
    labels: StoredLabels
    held_out: npt.NDArray[np.bool_]
    digests: Digests
    dropped: int

    def __repr__(self) -> str:
        return "Usable(private)"


def usable_parts(
    path: Path, contract: DataSection, rejects: Path, own: Tasks, computing: Computing
) -> Iterator[Usable]:
    """Yield the usable records of a table, until a record breaks a rule of the job. All records are
    checked nevertheless.

    Raises:
        DataError: as `blindsum.platform.data.checked.checked_parts`, or, after the last part,
            records broke a rule. They are listed in `rejects`.
    """
    found = RejectedRows()
    yield from usable_rows(path, contract, rejects, own, computing, EVERY, found)
    found.finish(path.name, rejects)


def usable_rows(
    path: Path,
    contract: DataSection,
    rejects: Path,
    own: Tasks,
    computing: Computing,
    rows: range,
    found: RejectedRows,
) -> Iterator[Usable]:
    """Yield the usable records among some of a table's rows, as `usable_parts`.

    Args:
        found: takes the rejected rows, and refuses nothing yet.

    Raises:
        DataError: as `blindsum.platform.data.checked.checked_parts`.
    """
    features, before, teller = features_of(contract.features), 0.0, _Teller(computing.told)
    teller.at_work()
    for table, share, first in checked_parts(path, contract, rejects, own, rows):
        teller.at_work()
        with fitting(path):
            labelled, of_own = _labelled(table, contract, own, path, rejects)
        shared = [*not_allowed(table, contract), *labelled.rejected]
        found.begin(table, first)
        found.add(shared)
        found.add(of_own, own=True)
        if found.refused:
            continue
        with fitting(path):
            digests = record_digests(table, key_columns(contract))
            means = replace(computing, told=teller.within(before, share))
            made = features.compute(table, means, contract.folds.molecule_key)
        without = _without_features(made, features, contract)
        found.add(without)
        if not found.refused:
            dropped = dropped_rows([*shared, *of_own, *without], table.num_rows)
            yield _kept(table, made, labelled, digests, ~dropped, contract)
        before = share


class _Teller:
    """Tells how the work on a table in parts goes on.

    A part has a known number of records, so that its share of the table would tell how many there
    are. Only work that tells its own share, which grows evenly, moves the share that is told.
    """

    def __init__(self, told: Told) -> None:
        self._told, self._share = told, 0.0

    def at_work(self) -> None:
        """Tell that the work goes on, and nothing of the parts."""
        self._told(self._share)

    def within(self, before: float, after: float) -> Told:
        """Return how the work on a part tells the share of the whole that is done."""

        def tell(share: float) -> None:
            self._share = before + share * (after - before)
            self._told(self._share)

        return tell


def _kept(
    whole: pa.Table,
    made: Featurised,
    labelled: Labelled,
    digests: tuple[Digests, Digests],
    kept: npt.NDArray[np.bool_],
    contract: DataSection,
) -> Usable:
    """Return the records of a part that are not dropped.

    Args:
        digests: of all values, and without the keys of folds.
        kept: bool [records].
    """
    left, table = kept[made.usable], whole
    if not kept.all():
        table = whole.filter(pa.array(kept))
    keys = list(compress(made.keys, left)) if made.keys else made.keys
    labels = labelled.labels if kept.all() else labelled.labels[kept]
    return Usable(
        whole=whole,
        whole_digests=digests[0],
        table=table,
        features=made.features if left.all() else made.features[left],
        labels=labels if contract.target else TaskLabels.of(labels),
        held_out=folds_of(contract.folds).held_out(table, features_of(contract.features), keys),
        digests=digests[1][kept],
        dropped=int((~kept).sum() + labelled.left_out[kept].sum()),
    )


def _without_features(
    made: Featurised, features: FeatureKind, contract: DataSection
) -> list[Rejected]:
    """Return the records without features, those with the same reason together."""
    rows: dict[str, list[int]] = {}
    for row, reason in made.reasons.items():
        rows.setdefault(reason, []).append(row)
    return [
        Rejected(
            rows=np.isin(np.arange(len(made.usable)), at),
            column=next(iter(features.columns())).name,
            fault=features.unusable(reason),
            mend="Correct or remove them, or set data.unparsable: drop to train without them.",
            reason=reason,
            then=contract.unparsable,
        )
        for reason, at in rows.items()
    ]


def _labelled(
    table: pa.Table, contract: DataSection, own: Tasks, path: Path, rejects: Path
) -> tuple[Labelled, list[Rejected]]:
    """Return the labels, those of private tasks last; and the rows that private tasks reject.

    Labels that private tasks leave out are not counted: nothing about them leaves the silo.
    """
    drop = contract.unlabelled == "drop"
    if contract.target:
        return class_labels(table, contract.target, path, drop), []
    known = contract.qualifiers == "drop"
    shared = task_labels(table, contract.tasks or {}, path, known)
    with without_names(rejects):
        of_own = task_labels(table, own, path, known)
    labels = np.concatenate([shared.labels, of_own.labels], axis=2)
    rejected = [*shared.rejected]
    wrong = (one.rows.any() for one in [*rejected, *of_own.rejected] if one.then == "refuse")
    if not any(wrong):  # a wrong label would count as a missing one
        rejected.append(unlabelled(labels, drop))
    return Labelled(labels, rejected, shared.left_out), of_own.rejected


def not_allowed(table: pa.Table, contract: DataSection) -> list[Rejected]:
    """Return the rows whose features or fold keys have gaps or values that the job does not
    allow."""
    found = features_of(contract.features).rejected(table)
    told = {one.column for one in found}
    keys = [name for name in fold_columns(contract) if name not in told]
    of_folds = [one for one in folds_of(contract.folds).rejected(table) if one.column not in told]
    return [*found, *of_folds, *gaps(table.select(keys))]
