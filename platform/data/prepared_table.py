"""The digests that `blindsum prepare` leaves in the metadata of the tables it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from blindsum.platform.errors import DataError
from blindsum.platform.job.data_section import Prepared

PREPARED = b"blindsum.prepared"
"""The key of a table's metadata whose value holds the digests of its preparation."""


def require_prepared(table: pa.Table, prepared: Prepared | None, path: Path) -> None:
    """Raise DataError if a table's metadata is not that of the job's preparation."""
    if prepared is None:
        return
    found = preparation_of(table)
    if not found:
        raise DataError(
            f"{path.name} was not written by blindsum prepare, and the job has data.prepared",
            "Prepare it, or leave data.prepared out.",
        )
    differ = [name for name, value in prepared if found.get(name) != value]
    if "secret" in differ:
        differ = ["secret"]  # folds and features follow from it
    if differ:
        raise DataError(
            f"{path.name} was not prepared as data.prepared says: different {', '.join(differ)}",
            "Compare the silos' manifest.json with: blindsum prepare ... --against MANIFEST.",
        )


def preparation_of(table: pa.Table) -> dict[str, str]:
    """Return the digests in a table's metadata, empty if `blindsum prepare` did not write it."""
    try:
        found = json.loads((table.schema.metadata or {}).get(PREPARED, b"{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
