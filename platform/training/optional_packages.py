"""Packages that only some models need, imported where they are used."""

from __future__ import annotations

import importlib
import os
from typing import Any

from blindsum.platform.errors import ModelError

_OFFLINE = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")
"""What Hugging Face's packages read once, when they are imported."""


def needed(package: str, setting: str) -> Any:
    """Return a package of the optional extra that has its name.

    Hugging Face's packages are told first that this process has no network: a model comes from
    files with the job's digest, and nobody learns that it is used.

    Args:
        setting: the setting of the job that needs it.

    Raises:
        ModelError: it is not installed.
    """
    for variable in _OFFLINE:
        os.environ[variable] = "1"
    try:
        return importlib.import_module(package)
    except ImportError:
        extra = "lora" if package.startswith("peft") else package
        raise ModelError(
            f"{setting} needs the package {package}, which is not installed",
            f"Install it on this machine: pip install 'blindsum[{extra}]'.",
        ) from None
