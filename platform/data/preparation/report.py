"""What a preparation kept and dropped, in counts, and the rows that it dropped, with reasons."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from pandas.api.types import union_categoricals

from blindsum.platform.data.preparation.conversion import OTHER_UNIT
from blindsum.platform.data.preparation.tables import Dropped


@dataclass
class Report:
    """The numbers of kept and of dropped items, with the reasons. Private to the silo."""

    compounds: int = 0
    merged_compounds: int = 0
    measurements: int = 0
    records: int = 0
    labels: int = 0
    shared_tasks: int = 0
    private_tasks: int = 0
    dropped_compounds: Dropped = field(default_factory=Counter)
    dropped_measurements: Dropped = field(default_factory=Counter)
    dropped_tasks: Dropped = field(default_factory=Counter)
    dropped_units: Dropped = field(default_factory=Counter)
    """The number of measurements in each unit that cannot be converted."""
    rejected: list[pd.DataFrame] = field(default_factory=list, repr=False)
    """Dropped measurements: columns row, assay, reason. Not in `as_dict`."""
    rejected_compounds: list[pd.DataFrame] = field(default_factory=list, repr=False)
    """Dropped compounds: columns row, reason. Not in `as_dict`."""

    def as_dict(self) -> dict[str, Any]:
        """Return the counts by name, without reasons for which nothing was dropped."""
        return {
            name: {k: v for k, v in value.items() if v} if isinstance(value, Counter) else value
            for name, value in vars(self).items()
            if not name.startswith("rejected")
        }

    def reject(self, measured: pd.DataFrame, reason: str) -> None:
        """Count measurements as dropped, and record their rows."""
        self.dropped_measurements[reason] += len(measured)
        if reason == OTHER_UNIT:
            self.dropped_units.update(measured["unit"].tolist())
        self.list_rows(measured, reason)

    def list_rows(self, measured: pd.DataFrame, reason: str) -> None:
        """Record the rows of dropped measurements, without counting them."""
        if len(measured):
            self.rejected.append(_listed(measured[["row", "assay"]].assign(reason=reason)))

    def reject_compounds(self, compounds: pd.DataFrame, reason: str | pd.Series) -> None:
        """Count compounds as dropped, and record their rows."""
        found = compounds[["row"]].assign(reason=reason)
        self.dropped_compounds.update(found["reason"].tolist())
        if len(found):
            self.rejected_compounds.append(_listed(found))

    def rejected_rows(self) -> pd.DataFrame:
        """Return each row of a rejected measurement once with each reason, in the file's order."""
        return _once(self.rejected, ["row", "assay"])

    def rejected_structures(self) -> pd.DataFrame:
        """Return each row of a rejected compound once with each reason, in the file's order."""
        return _once(self.rejected_compounds, ["row"])


def _listed(found: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with their texts as categories: a text for each of ten million rows would
    need a gigabyte."""
    return found.astype({name: "category" for name in found.columns if name != "row"})


def _once(found: list[pd.DataFrame], by: list[str]) -> pd.DataFrame:
    if not found:
        return pd.DataFrame(columns=[*by, "reason"])
    joined = pd.DataFrame({"row": pd.concat([one["row"] for one in found], ignore_index=True)})
    for name in (*by[1:], "reason"):
        joined[name] = union_categoricals(
            [one[name].astype("category") for one in found], sort_categories=True
        )
    return joined.drop_duplicates().sort_values(by, kind="stable")
