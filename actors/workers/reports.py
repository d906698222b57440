"""A share's report and its sample as parcels."""

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
    outline, labels = report.outline, report.labels
    values: dict[str, Any] = {
        "names": list(report.names),
        "refused": report.refused,
        "dropped": report.dropped,
        "listed": [report.listed.count, report.listed.rows],
        "records": [outline.train, outline.held_out],
        "sample sizes": [*report.sample_sizes.items()],
        "tasks": labels.width if isinstance(labels, TaskLabels) else None,
    }
    stored = labels.arrays if isinstance(labels, TaskLabels) else [labels]
    arrays: dict[str, Array] = {f"{_LABELS}{i}": one for i, one in enumerate(stored)}
    arrays |= {"outline labels": outline.labels, "outline features": outline.features}
    return Parcel(values, arrays)


def parcel_of_sample(sample: RecordSample) -> Parcel:
    """Return a sample as a parcel."""
    if sample.is_empty:
        return Parcel()
    known = sample.known
    table = np.frombuffer(table_frame(sample.table), np.uint8)
    arrays = {"table": table, "digests": known.digests, "held out": sample.held_out}
    return Parcel({"most": known.most}, arrays)


def sample_of(parcel: Parcel) -> RecordSample:
    """Return the sample that `parcel_of_sample` made a parcel of."""
    values, arrays = parcel.values, parcel.arrays
    if "table" not in arrays:
        return RecordSample()
    table = table_of(arrays["table"].tobytes())
    return RecordSample.of(table, arrays["digests"], arrays["held out"], values["most"])


def report_of(parcel: Parcel) -> ShareReport:
    """Return the report that `parcel_of` made a parcel of."""
    values, arrays = parcel.values, parcel.arrays
    count, rows = values["listed"]
    train, held_out = values["records"]
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
        sample_sizes=dict(values["sample sizes"]),
        labels=_labels(parcel),
    )


def _labels(parcel: Parcel) -> StoredLabels:
    tasks = parcel.values["tasks"]
    stored = [one for name, one in parcel.arrays.items() if name.startswith(_LABELS)]
    return stored[0] if tasks is None else TaskLabels(stored[0], stored[1:], tasks)
