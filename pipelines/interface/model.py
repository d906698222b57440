"""A released model as a Python object."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blindsum.pipelines.prediction.predict import model_file
from blindsum.pipelines.run.files import write_whole
from blindsum.platform.errors import DataError
from blindsum.platform.job.paths import import_from
from blindsum.platform.prediction.calibration import Calibrated
from blindsum.platform.prediction.frames import as_table, predict_frame, predict_records
from blindsum.platform.prediction.labelled import calibrated, label_columns, labels_of
from blindsum.platform.prediction.predictor import Predictor
from blindsum.platform.prediction.released import read_released

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from torch import nn


class Model:
    """A released model: it predicts from the job's own columns. `Model.open` reads its file."""

    def __init__(self, path: Path) -> None:
        import_from(str(Path.cwd()))  # where the code of a model.factory may lie
        self._released, self._content = read_released(path), path.read_bytes()
        self._predictor = Predictor(self._released)
        self._calibrated: Calibrated | None = None

    @classmethod
    def open(cls, path: str | Path) -> Model:
        """Read a model from its file, `model.blindsum`, or from its run's folder.

        Raises:
            JobError, ModelError: there is none, or it is damaged.
        """
        return cls(model_file(Path(path).expanduser()))

    def predict(self, data: pd.DataFrame | pa.Table) -> pd.DataFrame:
        """Return a row of predictions for each record, in the data's order and with its index.

        For classes: `predicted_TARGET`, and `probability_CLASS` for each class. For tasks:
        `probability_TASK`, or `predicted_TASK` in the task's own unit. `reason` says why a row has
        no prediction; else it is None. docs/predictions.md explains every column. Columns that the
        model does not need are ignored.

        Raises:
            DataError: a column is missing or has a type that does not fit.
        """
        import pyarrow as pa

        if isinstance(data, pa.Table):
            return predict_records(self._predictor, data)
        return predict_frame(self._predictor, _frame(data))

    def calibrate(self, labelled: pd.DataFrame | pa.Table) -> Model:
        """Return a model whose probabilities are calibrated to those labels.

        `labelled` has the model's inputs and the job's column of classes, or columns of its binary
        tasks, empty where a record has no label. Its records must not have trained the model. They
        stay in this process, but calibrated probabilities depend on them. docs/predictions.md says
        how they are calibrated; `calibration` has what it changes.

        Raises:
            JobError: the model predicts numbers only.
            DataError: a column is missing or has a type or values that do not fit, or no task has
                enough labels.
        """
        import pyarrow as pa

        terms, path = self._released.terms, Path("the labelled table")
        names = [*self.inputs, *(column.name for column in label_columns(terms))]
        is_table = isinstance(labelled, pa.Table)
        table = labelled if is_table else as_table(_frame(labelled), names)
        labels = labels_of(table, terms, path)
        found = calibrated(self._predictor.outputs_of(table, path), labels, terms)
        made = copy.copy(self)
        made._calibrated, made._predictor = found, Predictor(self._released, found.of)
        return made

    @property
    def calibration(self) -> pd.DataFrame | None:
        """What calibration changes, a row for the target or each task; None without it.

        The scaling; log loss and calibration error before and after, by cross-validation, each with
        the ends of its 95 % interval; `gain`, by how much the log loss falls. `reason` says why a
        task stays as it is; else it is None.
        """
        import pandas as pd

        if self._calibrated is None:
            return None
        of = self._calibrated.of
        rows = {name: {**one.figures(), "reason": None} for name, one in of.items()}
        left = {name: {"reason": reason} for name, reason in self._calibrated.left.items()}
        return pd.DataFrame.from_dict({**rows, **left}, orient="index")

    @property
    def inputs(self) -> list[str]:
        """The columns that it needs."""
        return self._predictor.inputs

    @property
    def outputs(self) -> list[str]:
        """The columns of a prediction."""
        return self._predictor.outputs

    @property
    def module(self) -> nn.Module:
        """The model in PyTorch. Its inputs are scaled features, not the job's columns."""
        return self._released.model

    @property
    def round(self) -> int:
        """The round after which it was released."""
        return self._released.terms.round

    @property
    def statement(self) -> Mapping[str, Any]:
        """The privacy statement of the run that released it."""
        return self._released.statement

    def save(self, path: str | Path) -> Path:
        """Write the model's file, which `blindsum predict` takes; returns its path.

        Raises:
            DataError: the file exists or cannot be written, or the model is calibrated.
        """
        if self._calibrated:
            raise DataError(
                "the file of a released model has no calibration",
                "Save the model that this one was calibrated from, and keep the labelled table.",
            )
        path = Path(path).expanduser()
        if path.exists():
            raise DataError(f"{path} already exists", "Name another file.")
        try:
            return write_whole(path, self._content)
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error.strerror}") from None

    def __repr__(self) -> str:
        terms, kind = self._released.terms, "Calibrated model" if self._calibrated else "Model"
        return f"<{kind} of {terms.run}, round {terms.round}: {', '.join(self.outputs)}>"


def _frame(data: object) -> pd.DataFrame:
    """Return the data, if it is a DataFrame.

    Raises:
        DataError: it is not.
    """
    import pandas as pd

    if not isinstance(data, pd.DataFrame):
        raise DataError(
            f"a {type(data).__name__} is not a table", "Give a DataFrame or an Arrow table."
        )
    return data
