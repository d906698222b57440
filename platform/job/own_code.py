"""The functions of its own that a job names as `module:function`.

They run wherever the job does. A silo's owner approves their code by its digest, that of all of
them together (`blindsum.platform.state.approved_code`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

from blindsum.platform.errors import ModelError
from blindsum.platform.job.data_section import Features
from blindsum.platform.job.model_section import Factory, Model
from blindsum.platform.job.own_features_section import OwnFeatures
from blindsum.platform.job.schema import Job

FACTORY, LOSS, FEATURES = "model.factory", "training.loss", "data.features.function"
"""Settings that may name a function."""

WHAT_FOR = {
    FACTORY: "makes the model",
    LOSS: "computes the loss of each record in training",
    FEATURES: "makes the tensors of each record: it reads the columns of the table as they are",
}
"""What a setting's function does, in words that go on after its name."""


def own_functions(job: Job) -> dict[str, str]:
    """Return the functions that a job names, `module:function`, by their settings."""
    found = functions_named(job.data.features, job.model)
    return found | ({LOSS: job.training.loss} if job.training.loss else {})


def functions_named(features: Features, model: Model) -> dict[str, str]:
    """Return the functions without which nothing can be predicted, by their settings."""
    found = {FACTORY: model.factory} if isinstance(model, Factory) else {}
    return found | ({FEATURES: features.function} if isinstance(features, OwnFeatures) else {})


def modules_of(functions: Iterable[str]) -> list[str]:
    """Return the modules of functions, each once."""
    return list(dict.fromkeys(one.partition(":")[0] for one in functions))


def own_function(setting: str, named: str) -> Callable[..., Any]:
    """Import a function.

    Raises:
        ModelError: there is no such module or function, or importing it fails.
    """
    module, _, function = named.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code may raise anything
        raise ModelError(
            f"{setting} {named!r} cannot be imported ({type(error).__name__}: {error})",
            "It must be installed, or lie in the working directory, on every machine that uses it.",
        ) from None
    return found
