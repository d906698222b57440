"""The released model as MLflow loads and serves it: raw columns in, predictions in their units out.

MLflow runs this file when it loads the model. It needs no job, no Ray and no encryption: only the
file of the released model, which MLflow keeps as an artifact, and this package's code, which it
keeps beside it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.models import set_model

import blindsum
from blindsum.platform.prediction.frames import predict_frame
from blindsum.platform.prediction.predictor import Predictor
from blindsum.platform.prediction.released import read_released

ARTIFACT = "released"
"""The artifact's name: the file of the released model."""


class ServedModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow has no types
    """A released model as a pyfunc. It returns a row for each record, with the same index."""

    def load_context(self, context: Any) -> None:
        """Read the released model."""
        self._predictor = Predictor(read_released(Path(context.artifacts[ARTIFACT])))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return predictions, as `blindsum.platform.prediction.predictor.Predictor.predict`.

        Gaps are None. MLflow's server would write NaN into its answer, which is not JSON: a client
        could then read none of the records.

        Raises:
            DataError: a column is missing or has a type that does not fit.
        """
        found = predict_frame(self._predictor, pd.DataFrame(model_input))
        there = found.notna()
        gaps = [name for name in found.columns if not there[name].all()]
        return found.astype(dict.fromkeys(gaps, object)).where(there, None)


def _let_what_is_installed_go_first() -> None:
    """Move the model's code behind what this process has already imported.

    MLflow puts it first on the path, for this process and for those that it starts. If another
    copy of this package is in use here, they would import one that can only predict.
    """
    code = Path(__file__).with_name("code")
    if Path(blindsum.__file__ or "").parents[1] != code:
        sys.path.sort(key=lambda one: one == str(code))


_let_what_is_installed_go_first()
set_model(ServedModel())
