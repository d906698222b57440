"""A bill of materials of the installed packages: CycloneDX 1.6 (ECMA-424), as JSON."""

from __future__ import annotations

import json
import platform as machine
from importlib.metadata import Distribution, distribution
from typing import Any

from blindsum.infra.wheel import DISTRIBUTION, installed

_LICENCE = ("License-Expression", "License")


def bill_of_materials() -> bytes:
    """Return the packages that Blindsum needs here, with what they need in turn: names, versions,
    licences as they state them, and package URLs. No path and no host of the machine."""
    content = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": _component(DISTRIBUTION, distribution(DISTRIBUTION)),
            "properties": [
                {"name": "python", "value": machine.python_version()},
                {"name": "machine", "value": machine.machine()},
            ],
        },
        "components": [_component(name, one) for name, one in installed().items()],
    }
    return json.dumps(content, indent=1).encode()


def _component(name: str, one: Distribution) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "application" if name == DISTRIBUTION else "library",
        "name": name,
        "version": one.version,
        "purl": f"pkg:pypi/{name}@{one.version}",
    }
    stated = [one.metadata[key] for key in _LICENCE if key in one.metadata]
    if short := [text for text in stated if text and "\n" not in text and len(text) < 200]:
        found["licenses"] = [{"license": {"name": short[0]}}]
    return found
