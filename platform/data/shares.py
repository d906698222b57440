"""A table of which several processes of one silo each read a share, consecutive rows of it.

Each process keeps the records of its share. The silo's own process gets a report of each share and
puts them together: it knows the table by the same fingerprint, and says of it what it would say if
it had read it alone. A table with a fault, or with records to refuse, is read again by the silo's
own process, which then says what is wrong with it in the same words.

Nothing here leaves the silo.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from operator import add
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from blindsum.platform.data.at_silo import forget_earlier
from blindsum.platform.data.checked import checked_parts, fitting
from blindsum.platform.data.computing import Computing, Told
from blindsum.platform.data.concerns import concerning_columns, concerns
from blindsum.platform.data.enough import nothing_to_score
from blindsum.platform.data.features import features_of
from blindsum.platform.data.fingerprint import (
    SHARES,
    Fingerprint,
    fingerprint_of,
    fingerprints_before,
)
from blindsum.platform.data.outline import Outline, outline_of
from blindsum.platform.data.ragged import TaskLabels
from blindsum.platform.data.reading import count_records
from blindsum.platform.data.record_digests import Digests
from blindsum.platform.data.record_sample import MOST_BYTES, RecordSample
from blindsum.platform.data.records import Fold, StoredLabels, joined
from blindsum.platform.data.rejected_rows import Listed, RejectedRows
from blindsum.platform.data.table import GrowingFold, SiloData, require_records
from blindsum.platform.data.usable import usable_parts, usable_rows
from blindsum.platform.errors import DataError
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.labels_section import Tasks

DIGESTS_AT_ONCE = 2**20
"""About so many records' digests are put together at a time."""


@dataclass(frozen=True, kw_only=True)
class ShareReport:
    """What the silo's own process must know of a share. Private to the silo.

    Attributes:
        names: the table's columns; none if the share has no records.
        refused: whether a record is to be refused.
        sample_sizes: as `RecordSample.sizes`.
        labels: of held-out records.
    """

    names: Sequence[str]
    refused: bool
    dropped: int
    listed: Listed
    outline: Outline
    sample_sizes: Mapping[int, int]
    labels: StoredLabels

    def __repr__(self) -> str:
        return "ShareReport(private)"


@dataclass(frozen=True)
class Share:
    """A share in the process that read it. Private to the silo.

    Attributes:
        digests: those of its records that begin alike, by how they begin.
        sample: of its records.
    """

    train: Fold
    test: Fold
    digests: Sequence[Digests]
    sample: RecordSample
    report: ShareReport

    def __repr__(self) -> str:
        return "Share(private)"

    def without_start(self) -> Share:
        """Return the share without what only the start needs: digests and the sample."""
        return replace(self, digests=(), sample=RecordSample())


class Readers(Protocol):
    """The processes that read the shares."""

    def read(self, shares: Sequence[range], records: int, told: Told) -> list[ShareReport | str]:
        """Let each process read its share; return the reports, or what went wrong.

        Args:
            shares: the rows of each.
            records: the number of records of the table.
            told: called with the share of the work that is done.
        """

    def digests(self, begin: range) -> Iterator[list[Digests]]:
        """Yield the digests that begin in these ways, of each share."""

    def samples(self, most: int) -> Iterator[RecordSample]:
        """Yield a sample of each share, of records whose digests begin with at most that number."""

    def __len__(self) -> int:
        """Return the number of processes."""


def no_records(contract: DataSection, own: Tasks) -> Fold:
    """Return a fold without any records, of the kind that the job's tables give."""
    tasks = len(contract.tasks or {}) + len(own)
    labels = np.zeros(0, np.int64) if contract.target else TaskLabels.none(tasks)
    return Fold(features_of(contract.features).none(), labels)


def read_share(
    path: Path, contract: DataSection, own: Tasks, computing: Computing, rows: range, records: int
) -> Share:
    """Read a share.

    Args:
        rows: of the table.
        records: the number of records of the whole table, as the silo's own process counted them.

    Raises:
        DataError: the table has a fault, or is not the one that the silo's own process sees.
    """
    if count_records(path) != records:
        raise DataError(f"{path} is not the table that the silo's own process reads")
    found, sample, dropped = RejectedRows(), RecordSample(), 0
    train, test = (GrowingFold(computing.scratch) for _ in range(2))
    fingerprint = Fingerprint(computing.scratch)
    # What only the owner may be told of a fault, the silo's own process tells when it meets it.
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "rejected_rows.csv"
        concerning = concerning_columns(contract)
        for part in usable_rows(path, contract, place, own, computing, rows, found):
            train.append(part, ~part.held_out)
            test.append(part, part.held_out)
            fingerprint.add(part.whole.column_names, part.whole_digests)
            sample.add(part.table.select(concerning), part.digests, part.held_out)
            dropped += part.dropped
    is_empty, none = not fingerprint.names, no_records(contract, own)
    folds = (none, none) if is_empty else (train.whole(), test.whole())
    report = ShareReport(
        names=fingerprint.names,
        refused=found.refused,
        dropped=dropped,
        listed=found.listed,
        outline=outline_of(folds[0], len(folds[1]), contract),
        sample_sizes=sample.sizes(),
        labels=folds[1].stored_labels,
    )
    return Share(*folds, [*fingerprint.parts()], sample, report)


def load_in_shares(
    readers: Readers,
    path: Path,
    contract: DataSection,
    rejects: Path,
    own: Tasks,
    computing: Computing,
) -> tuple[SiloData, list[ShareReport]]:
    """Let several processes read a silo's table, as `blindsum.platform.data.table.load_data`.

    Returns:
        what is known of the table, with folds that are empty here; and the report of each share.

    Raises:
        DataError: as `load_data`, or the table is of a kind that cannot be shared, or a process
            cannot read what the silo's own can.
    """
    try:
        records = count_records(path)
    except (OSError, pa.ArrowException, ValueError):
        records = 0  # what is wrong is told below
    ends = [records * i // len(readers) for i in range(len(readers) + 1)]
    shares = [range(start, end) for start, end in pairwise(ends)]
    answers = readers.read(shares, records, computing.told) if records else []
    reports = [one for one in answers if isinstance(one, ShareReport) and not one.refused]
    if not records or len(reports) < len(readers):
        for _ in usable_parts(path, contract, rejects, own, computing):
            pass
        said = [one for one in answers if isinstance(one, str)]
        raise DataError(
            "a worker cannot read its share of the table, which the silo's own process can read"
            + "".join(f": {one}" for one in said[:1]),
            "Every node of the silo's Ray must have the same table at the same path.",
        )
    forget_earlier(rejects)
    _listed(reports).write(rejects)
    return _put_together(readers, reports, path, contract, rejects, own, computing), reports


def _listed(reports: Sequence[ShareReport]) -> Listed:
    """Return the list of the rejected rows of all shares."""
    found = Listed()
    for report in reports:
        found.add(report.listed)
    return found


def _put_together(
    readers: Readers,
    reports: Sequence[ShareReport],
    path: Path,
    contract: DataSection,
    rejects: Path,
    own: Tasks,
    computing: Computing,
) -> SiloData:
    outline = reduce(add, (report.outline for report in reports))
    require_records({"train": outline.train, "test": outline.held_out}, path)
    names = max((report.names for report in reports), key=len)
    with fitting(path):
        fingerprint = fingerprint_of(names, _digests(readers, outline.train + outline.held_out))
        earlier = _earlier(path, contract, rejects, own, computing)
    labels = joined([report.labels for report in reports])
    sample = _sample(readers, [report.sample_sizes for report in reports])
    none = no_records(contract, own)
    return SiloData(
        train=none,
        test=none,
        fingerprint=fingerprint,
        dropped=sum(report.dropped for report in reports),
        earlier=earlier,
        concerns=concerns(sample, contract, outline)
        + nothing_to_score(labels, contract.tasks or {}),
        records=sample.known,
    )


def _sample(readers: Readers, sizes: Sequence[Mapping[int, int]]) -> RecordSample:
    """Return the sample that one process would have of the table."""
    found, most = RecordSample(), min(max(of_share) for of_share in sizes)
    while sum(of_share.get(most, 0) for of_share in sizes) > MOST_BYTES:
        most //= 2
    for sample in readers.samples(most):
        found.join(sample)
    return found


def _digests(readers: Readers, records: int) -> Iterator[Digests]:
    """Yield the digests of all shares that begin alike, by how they begin."""
    step = max(1, SHARES * DIGESTS_AT_ONCE // records)
    for start in range(0, SHARES, step):
        of_shares = [*readers.digests(range(start, min(start + step, SHARES)))]
        for alike in zip(*of_shares, strict=True):
            yield np.concatenate(alike)


def _earlier(
    path: Path, contract: DataSection, rejects: Path, own: Tasks, computing: Computing
) -> tuple[str, ...]:
    """Return the fingerprints that earlier versions gave the table, if it is read in one part."""
    parts = checked_parts(path, contract, rejects, own)
    first, second = next(parts), next(parts, None)
    return () if second else fingerprints_before(first.table, computing)
