"""A bill of materials of the installed packages: CycloneDX 1.6 (ECMA-424), as JSON."""

from __future__ import annotations

import json
import platform as machine
import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any

PACKAGE = "blindsum"
_LICENCE = ("License-Expression", "License")
_NAME = re.compile(r"^[A-Za-z0-9._-]+")


def bill_of_materials() -> bytes:
    """Return the packages that Blindsum needs here, with what they need in turn: names, versions,
    licences as they state them, and package URLs. No path and no host of the machine."""
    found = _needed()
    root = found.pop(PACKAGE, None)
    content = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": _component(root) if root else {"type": "application", "name": PACKAGE},
            "properties": [
                {"name": "python", "value": machine.python_version()},
                {"name": "machine", "value": machine.machine()},
            ],
        },
        "components": [_component(found[name]) for name in sorted(found)],
    }
    return json.dumps(content, indent=1).encode()


def _needed() -> dict[str, Distribution]:
    """Return Blindsum's distribution and all that it needs and that is installed, by name."""
    found, waiting = dict[str, Distribution](), [PACKAGE]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            found[name] = one = distribution(name)
        except PackageNotFoundError:  # of an extra, or of another system
            continue
        for requirement in one.requires or ():
            if "extra ==" not in requirement and (match := _NAME.match(requirement)):
                waiting.append(_canonical(match.group()))
    return found


def _component(one: Distribution) -> dict[str, Any]:
    name = _canonical(one.metadata["Name"])
    found: dict[str, Any] = {
        "type": "application" if name == PACKAGE else "library",
        "name": name,
        "version": one.version,
        "purl": f"pkg:pypi/{name}@{one.version}",
    }
    stated = [one.metadata[key] for key in _LICENCE if key in one.metadata]
    if short := [text for text in stated if text and "\n" not in text and len(text) < 200]:
        found["licenses"] = [{"license": {"name": short[0]}}]
    return found


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
