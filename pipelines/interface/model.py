"""A released model as a Python object."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blindsum.pipelines.prediction.predict import model_file
from blindsum.pipelines.run.save import write_whole
from blindsum.platform.errors import DataError
from blindsum.platform.job.paths import import_from
from blindsum.platform.prediction.frames import predict_frame, predict_records
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
        import pandas as pd
        import pyarrow as pa

        if isinstance(data, pa.Table):
            return predict_records(self._predictor, data)
        if not isinstance(data, pd.DataFrame):
            raise DataError(
                f"a {type(data).__name__} is not a table", "Give a DataFrame or an Arrow table."
            )
        return predict_frame(self._predictor, data)

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
            DataError: the file exists or cannot be written.
        """
        path = Path(path).expanduser()
        if path.exists():
            raise DataError(f"{path} already exists", "Name another file.")
        try:
            return write_whole(path, self._content)
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error.strerror}") from None

    def __repr__(self) -> str:
        terms = self._released.terms
        return f"<Model of {terms.run}, round {terms.round}: {', '.join(self.outputs)}>"
