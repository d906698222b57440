"""Log a released model to MLflow, with its signature and an example in the job's own terms."""

from __future__ import annotations

import shutil
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from blindsum.platform.errors import ModelError
from blindsum.platform.job.own_code import modules_of
from blindsum.platform.job.paths import MODEL
from blindsum.platform.prediction.predictor import Predictor
from blindsum.platform.prediction.released import Terms, read_released, tokenizer_of

NEEDED = ("torch", "numpy", "pandas", "pyarrow", "pydantic", "safetensors", "scipy")
"""The packages that a prediction needs, beside this package's own code and MLflow."""

MORE = {
    **dict.fromkeys(("descriptors", "ecfp", "graphs", "kernel", "maccs", "projection"), ("rdkit",)),
    "images": ("pillow",),
}
"""The packages that some kinds of features need too."""

OF_MODELS = {"huggingface": ("transformers",)}
"""Those that some kinds of models need. Adapters need none: they are part of the weights."""


def log_released(content: bytes, uri: str, run_id: str, round: int) -> None:
    """Log the file of a released model as a pyfunc of that run.

    Raises:
        ModelError: it is not the file of a released model.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / MODEL
        path.write_bytes(content)
        _log(path, uri, run_id, round)


def _log(path: Path, uri: str, run_id: str, round: int) -> None:
    import mlflow
    import mlflow.pyfunc
    from mlflow.models import infer_signature

    released = read_released(path)
    predictor = Predictor(released)
    # Two records: with one alone, MLflow would take a list's length for fixed.
    example = pa.table({k: [v, v] for k, v in predictor.example().items()})
    given = example.to_pandas()
    predicted = predictor.predicted_example().to_pandas().assign(reason="")  # a text, not a gap
    with warnings.catch_warnings():
        # The contract says which columns may have gaps; those are floats in the example.
        warnings.filterwarnings("ignore", "Hint: Inferred schema contains integer", UserWarning)
        signature = infer_signature(given, predicted)
    terms = released.terms
    needed = [*NEEDED, *MORE.get(terms.features.kind, ()), *OF_MODELS.get(terms.model.kind, ())]
    needed += ["tokenizers"] if tokenizer_of(terms.features) else []
    mlflow.set_tracking_uri(uri)
    with mlflow.start_run(run_id=run_id, log_system_metrics=False):
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={"released": str(path)},
            code_paths=[_own_code(path.parent), *_of_own(released.terms)],
            step=round,
            metadata={"blindsum.average": released.terms.average},
            input_example=given,
            signature=signature,
            pip_requirements=[_pinned(name) for name in needed],
        )


def _pinned(name: str) -> str:
    return f"{name}=={version(name).partition('+')[0]}"


def _own_code(folder: Path) -> str:
    """Copy the part of this package that predicts into a folder; returns the copy."""
    package = Path(_source("blindsum"))
    copy = folder / package.name
    copy.mkdir()
    shutil.copy(package / "__init__.py", copy)
    unneeded = shutil.ignore_patterns("__pycache__", "state", "preparation")
    shutil.copytree(package / "platform", copy / "platform", ignore=unneeded)
    return str(copy)


def _source(module: str) -> str:
    """Return the folder of a package, or the file of a module."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModelError(f"the module {module!r} has no file")
    path = Path(spec.origin)
    return str(path.parent if path.name == "__init__.py" else path)


def _of_own(terms: Terms) -> list[str]:
    """Return the job's own code that a prediction needs, unless it is installed where packages
    are."""
    tops = [module.partition(".")[0] for module in modules_of(terms.own_functions.values())]
    found = [_source(top) for top in dict.fromkeys(tops)]
    return [one for one in found if "site-packages" not in Path(one).parts]
