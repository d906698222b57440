"""A share's report as a parcel."""

from __future__ import annotations

from typing import Any

import numpy as np

from blindsum.actors.workers.parcels import Array, Parcel
from blindsum.platform.data.outline import Outline
from blindsum.platform.data.ragged import TaskLabels
from blindsum.platform.data.record_sample import RecordSample
from blindsum.platform.data.records import StoredLabels
from blindsum.platform.data.rejected_rows import Listed
from blindsum.platform.data.shares import ShareReport
from blindsum.platform.data.worker_process import table_frame, table_of

_LABELS = "label"


def parcel_of(report: ShareReport) -> Parcel:
    """Return a report as a parcel."""
    outline, sample, labels = report.outline, report.sample, report.labels
    values: dict[str, Any] = {
        "names": list(report.names),
        "refused": report.refused,
        "dropped": report.dropped,
        "listed": [report.listed.count, report.listed.rows],
        "records": [outline.train, outline.held_out],
        "tasks": labels.width if isinstance(labels, TaskLabels) else None,
    }
    stored = labels.arrays if isinstance(labels, TaskLabels) else [labels]
    arrays: dict[str, Array] = {f"{_LABELS}{i}": one for i, one in enumerate(stored)}
    arrays |= {"outline labels": outline.labels, "outline features": outline.features}
    if not sample.is_empty:
        values["most"] = sample.known.most
        arrays["sample"] = np.frombuffer(table_frame(sample.table), np.uint8)
        arrays |= {"sample digests": sample.known.digests, "sample held out": sample.held_out}
    return Parcel(values, arrays)


def report_of(parcel: Parcel) -> ShareReport:
    """Return the report that `parcel_of` made a parcel of."""
    values, arrays = parcel.values, parcel.arrays
    count, rows = values["listed"]
    train, held_out = values["records"]
    sample = RecordSample()
    if "sample" in arrays:
        table, digests = table_of(arrays["sample"].tobytes()), arrays["sample digests"]
        sample = RecordSample.of(table, digests, arrays["sample held out"], values["most"])
    return ShareReport(
        names=values["names"],
        refused=values["refused"],
        dropped=values["dropped"],
        listed=Listed([(row, column, why, value) for row, column, why, value in rows], count),
        outline=Outline(
            train=train,
            held_out=held_out,
            labels=arrays["outline labels"],
            features=arrays["outline features"],
        ),
        sample=sample,
        labels=_labels(parcel),
    )


def _labels(parcel: Parcel) -> StoredLabels:
    tasks = parcel.values["tasks"]
    stored = [one for name, one in parcel.arrays.items() if name.startswith(_LABELS)]
    return stored[0] if tasks is None else TaskLabels(stored[0], stored[1:], tasks)
