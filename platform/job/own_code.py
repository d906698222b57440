"""The functions of its own that a job names as `module:function`.

They run wherever the job does. A silo's owner approves their code by its digest, that of all of
them together (`blindsum.platform.state.approved_code`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

from blindsum.platform.errors import ModelError
from blindsum.platform.job.model_section import Factory
from blindsum.platform.job.schema import Job

FACTORY, LOSS = "model.factory", "training.loss"
"""Settings that may name a function."""

WHAT_FOR = {
    FACTORY: "makes the model",
    LOSS: "computes the loss of each record in training",
}
"""What a setting's function does, in words that go on after its name."""


def own_functions(job: Job) -> dict[str, str]:
    """Return the functions that a job names, `module:function`, by their settings."""
    found: dict[str, str | None] = {
        FACTORY: job.model.factory if isinstance(job.model, Factory) else None,
        LOSS: job.training.loss,
    }
    return {setting: named for setting, named in found.items() if named}


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
            "It must be installed or in the working directory on every silo's node.",
        ) from None
    return found
