"""Checks of the installation: Python, and the packages that Blindsum needs."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import blindsum
from blindsum.pipelines.doctor.finding import Finding

_TESTED = ((3, 11), (3, 12), (3, 13))
_MOST_NAMED = 6


def python() -> Iterator[Finding]:
    """Find whether this Python is one that Blindsum is tested with."""
    said = f"{sys.version.split()[0]} ({sys.executable})"
    known = sys.version_info[:2] in _TESTED
    yield Finding(
        "Python", "ok" if known else "bad", said, "" if known else "Use Python 3.11, 3.12 or 3.13."
    )


def packages(constraints: Path | None = None) -> Iterator[Finding]:
    """Find packages that are missing, outside what Blindsum accepts, or not the tested version.

    Args:
        constraints: the file of tested versions; by default the checkout's, if this is one.
    """
    needed = [Requirement(text) for text in requires("blindsum") or []]
    needed = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong, found = [], dict[str, str]()
    for one in needed:
        try:
            found[canonicalize_name(one.name)] = version(one.name)
        except PackageNotFoundError:
            wrong.append(f"{one.name} is missing")
            continue
        if not one.specifier.contains(version(one.name), prereleases=True):
            wrong.append(f"{one.name} is {version(one.name)}, needed {one.specifier}")
    if wrong:
        mend = "Install again: pip install -c constraints.txt . in a checkout."
        yield Finding("packages", "bad", _few(wrong), mend)
        return
    path = constraints or Path(blindsum.__file__).resolve().parents[2] / "constraints.txt"
    if not path.is_file():
        yield Finding(
            "packages",
            "ok",
            f"{len(found)} direct requirements are met (constraints.txt is not here, so not "
            "compared with the tested versions)",
        )
        return
    tested = tested_versions(path)
    others = [
        f"{name} {found[name]} (tested: {tested[name]})"
        for name in found
        if name in tested and Version(found[name]).public != Version(tested[name]).public
    ]
    yield Finding(
        "packages",
        "warn" if others else "ok",
        _few(others) if others else f"{len(found)} direct requirements, all as tested",
        f"Blindsum is tested with {path}: pip install -c constraints.txt ." if others else "",
    )


def tested_versions(path: Path) -> Mapping[str, str]:
    """Return the versions that a file of constraints pins, by package."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pins = (re.match(r"([A-Za-z0-9._-]+)==([^\s;#]+)", line) for line in lines)
    return {canonicalize_name(pin.group(1)): pin.group(2) for pin in pins if pin}


def _few(texts: list[str]) -> str:
    more = len(texts) - _MOST_NAMED
    return "; ".join(texts[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
