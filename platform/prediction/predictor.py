"""Predictions of a released model from raw columns, as a job's contract names them.

A record that cannot be predicted has gaps in its row and a reason: rows never shift.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from blindsum.platform.data.columns import GAPS, Column, require
from blindsum.platform.data.computing import ALONE, Computing
from blindsum.platform.data.feature_kind import Featurised
from blindsum.platform.data.features import ColumnFeatures, features_of
from blindsum.platform.data.files.arrow_types import plain
from blindsum.platform.data.own_features import DatasetFeatures
from blindsum.platform.data.records import batch_size, dense
from blindsum.platform.data.scaling import CLIP
from blindsum.platform.job.features_section import (
    Columns,
    Descriptors,
    FeatureColumn,
    Kernel,
    Projection,
)
from blindsum.platform.job.images_section import Images
from blindsum.platform.job.labels_section import as_written
from blindsum.platform.job.own_features_section import OwnFeatures
from blindsum.platform.job.text_section import Text
from blindsum.platform.prediction.calibration import Calibration
from blindsum.platform.prediction.released import Released

REASON, LEVERAGE, OUTSIDE = "reason", "leverage", "outside_domain"

MOST_LEVERAGE = 3.0
"""Records with more lie outside the domain: the usual warning limit of a Williams plot, three times
the mean leverage."""

PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a4944415478"
    "9c636800000082008177cd72b60000000049454e44ae426082"
)
"""A PNG of one grey pixel."""

_OF_KIND = {"number": 0.0, "integer": 0, "text": "a text", "bytes": PICTURE, "numbers": [0.0]}
"""Made-up values of the columns of `OwnFeatures`."""

CALIBRATED = "calibrated_"
"""Begins the names of columns with calibrated probabilities."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class _Applied:
    """What the model makes of a table: `outputs` and `features` belong to the rows `usable`, and
    `reasons` says of every other row why it has none."""

    outputs: npt.NDArray[np.float32]
    features: Any
    usable: npt.NDArray[np.int64]
    reasons: npt.NDArray[np.object_]


class Predictor:
    """A released model, its featurisation and its units.

    Args:
        calibrations: of the target or of tasks, by name. The others have the model's own
            probabilities.
    """

    def __init__(
        self, released: Released, calibrations: Mapping[str, Calibration] | None = None
    ) -> None:
        self._terms, self._model = released.terms, released.model
        self._features = features_of(self._terms.features)
        self._calibrations = calibrations or {}

    @property
    def input_columns(self) -> list[Column]:
        """The columns that a prediction needs, with their types."""
        return self._features.columns()

    @property
    def inputs(self) -> list[str]:
        """The names of these columns."""
        return [column.name for column in self.input_columns]

    @property
    def numbers(self) -> set[str]:
        """The inputs that a CSV does not hold as text."""
        if not isinstance(self._features, ColumnFeatures | DatasetFeatures):
            return set()
        return {one.name for one in self.input_columns if not one.type.text_in_csv}

    @property
    def outputs(self) -> list[str]:
        """The columns of a prediction."""
        nothing = np.zeros((0, self.model_outputs), np.float32)
        return [
            *self._predictions(nothing),
            *self._domain(np.zeros((0, self._features.width))),
            REASON,
        ]

    def example(self) -> dict[str, Any]:
        """Return a made-up record, in the job's terms."""
        section = self._terms.features
        if isinstance(section, Columns):
            return {name: _example(one) for name, one in section.columns.items()}
        if isinstance(section, OwnFeatures):
            return {name: _OF_KIND[kind] for name, kind in section.columns.items()}
        (name,) = self.inputs
        if isinstance(section, Images | Text):
            return {name: PICTURE if isinstance(section, Images) else "a text"}
        return {name: "CCO" if self._features.smiles_column else [0]}

    def predicted_example(self) -> pa.Table:
        """Return two predictions such as `predict` returns them, for their names and types. What a
        function of the job's own makes of a made-up record is not known: it is not called."""
        example = pa.table({name: [one, one] for name, one in self.example().items()})
        if not isinstance(self._features, DatasetFeatures):
            return self.predict(example)
        made = Featurised(
            features=np.zeros((2, self._features.width), np.float32), usable=np.ones(2, np.bool_)
        )
        columns = self._predictions(self._outputs_of(made))
        return pa.table({**columns, REASON: pa.nulls(2, pa.string())})

    def predict(
        self, table: pa.Table, path: Path = Path("the table"), computing: Computing = ALONE
    ) -> pa.Table:
        """Return a row of predictions for each record, in the table's order.

        For classes: `predicted_TARGET`, and `probability_CLASS` for each class. For each task:
        `probability_TASK` of the positive label, or `predicted_TASK` in its unit. For scaled
        numbers, dates and descriptors: `leverage`, the mean square of the scaled features, about 1
        for records like those that the public constants describe; and `outside_domain`, whether it
        is above 3 or a feature was cut at 5 scales from its center. `reason` says why a row has no
        prediction. Columns that are not inputs are ignored. Calibrated probabilities stand in
        `calibrated_probability_...`, and decide which class is the likeliest.

        Args:
            path: the table's file, which errors name.
            computing: the means to compute molecules' features with.

        Raises:
            DataError: a column is missing, there more than once, or has another type.
        """
        applied = self._applied(table, path, computing)
        columns = self._predictions(applied.outputs) | self._domain(applied.features)
        rows, count = applied.usable, table.num_rows
        placed = {name: _placed(found, rows, count) for name, found in columns.items()}
        return pa.table({**placed, REASON: pa.array(applied.reasons.tolist(), pa.string())})

    def outputs_of(
        self, table: pa.Table, path: Path = Path("the table"), computing: Computing = ALONE
    ) -> npt.NDArray[np.float64]:
        """Return the model's outputs, float64 [records, outputs], NaN for a record that cannot be
        predicted. Arguments and errors as `predict`."""
        applied = self._applied(table, path, computing)
        found = np.full((table.num_rows, self.model_outputs), np.nan)
        found[applied.usable] = applied.outputs
        return found

    def _applied(self, table: pa.Table, path: Path, computing: Computing) -> _Applied:
        needed = self.input_columns
        table = plain(table, {column.name: column.type.expected for column in needed}, path)
        require(table, needed, path)
        table = self._features.uniform(table.select(self.inputs).combine_chunks(), path.parent)
        reasons = self._reasons(table)
        whole = np.array([reason is None for reason in reasons], np.bool_)
        allowed = self._features.uniform(table.filter(pa.array(whole)), path.parent)
        made = self._features.compute(allowed, computing)
        for row, reason in made.reasons.items():
            reasons[np.flatnonzero(whole)[row]] = reason
        usable = np.flatnonzero(whole)[made.usable]
        return _Applied(
            outputs=self._outputs_of(made), features=made.features, usable=usable, reasons=reasons
        )

    @property
    def model_outputs(self) -> int:
        """The number of tasks or classes that it predicts; 0 if all tasks are private."""
        return self._terms.outputs + len(self._terms.own_tasks or ())

    def _outputs_of(self, made: Featurised) -> npt.NDArray[np.float32]:
        """Return the model's outputs, float32 [usable records, outputs]."""
        records = int(made.usable.sum())
        size = batch_size(made.features)
        parts = [np.zeros((0, self.model_outputs), np.float32)]
        with torch.no_grad():
            for start in range(0, records, size):
                batch = torch.from_numpy(dense(made.features[start : start + size]))
                # Without any task of its own, a model ends at its trunk.
                parts.append(self._model(batch).numpy()[:, : self.model_outputs])
        return np.concatenate(parts)

    def _predictions(self, outputs: npt.NDArray[np.float32]) -> dict[str, pa.Array]:
        values, terms = outputs.astype(np.float64), self._terms
        found: dict[str, pa.Array] = {}
        if terms.target:
            classes, target = terms.target.classes, terms.target.column
            logits, probability = self._calibrated(target, values)
            best = logits.argmax(1).tolist() if len(logits) else []
            kind = pa.array(classes).type
            found[f"predicted_{target}"] = pa.array([classes[i] for i in best], kind)
            chances = torch.softmax(torch.from_numpy(logits), 1).numpy()
            for i, one in enumerate(classes):
                found[f"{probability}_{as_written(one)}"] = pa.array(chances[:, i])
        tasks = {**(terms.tasks or {}), **(terms.own_tasks or {})}
        for i, (name, task) in enumerate(tasks.items()):
            if task.kind == "binary":
                logit, probability = self._calibrated(name, values[:, i])
                chance = torch.sigmoid(torch.from_numpy(logit)).numpy()
                found[f"{probability}_{name}"] = pa.array(chance)
            else:
                found[f"predicted_{name}"] = pa.array(values[:, i] * task.scale + task.center)
        return found

    def _calibrated(
        self, name: str, logits: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], str]:
        """Return the logits of a target or task, calibrated if they can be, and the beginning of
        the name of their column."""
        calibration = self._calibrations.get(name)
        if calibration is None:
            return logits, "probability"
        return calibration.scaling(logits), f"{CALIBRATED}probability"

    def _domain(self, features: Any) -> dict[str, pa.Array]:
        if not isinstance(self._terms.features, Columns | Descriptors | Kernel | Projection):
            return {}
        if isinstance(self._features, ColumnFeatures):  # 0 and 1 have no center and no scale
            features = features[:, self._features.is_scaled]
            if not features.shape[1]:
                return {}
            features = np.nan_to_num(features)  # a gap is no reason to lie outside
        leverage = np.mean(np.square(features, dtype=np.float64), axis=1)
        cut = (np.abs(features) >= CLIP).any(axis=1)
        outside = cut | (leverage > MOST_LEVERAGE)
        return {LEVERAGE: pa.array(leverage), OUTSIDE: pa.array(outside)}

    def _reasons(self, table: pa.Table) -> npt.NDArray[np.object_]:
        """Return why records cannot be predicted, None for those that can."""
        reasons = np.full(table.num_rows, None, object)
        for one in reversed(self._features.rejected(table)):
            said = f"{one.column}: {one.reason or one.fault}"
            reasons[one.rows] = f"no {one.column}" if one.fault == GAPS else said
        return reasons


def _example(column: FeatureColumn) -> float | str | bool | int:
    """Return a made-up value of a column."""
    if column.date:
        return column.date.since
    if not column.categories:
        return float(column.center)
    first = column.categories[0]
    # A pandas column of numbers with gaps is one of floats, and MLflow checks types.
    return float(first) if column.missing and type(first) is int else first


def _placed(found: pa.Array, rows: npt.NDArray[np.int64], count: int) -> pa.Array:
    """Return values at their rows, with gaps elsewhere."""
    places = np.full(count, -1)
    places[rows] = np.arange(len(rows))
    return found.take(pa.array(places, pa.int64(), mask=places < 0))
