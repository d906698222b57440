"""Many columns at once: names with `*`, matched against an agreed list.

The list lies in the job file, or in a file beside it whose SHA-256 the job file states. It is read
where the job file is read, never at a silo.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic_core import PydanticCustomError

from blindsum.platform.errors import JobError

T = TypeVar("T")

MOST_BYTES = 64 * 2**20
"""The longest file of names."""


def expanded(columns: Mapping[str, T], names: Sequence[str] | None) -> dict[str, T]:
    """Return the columns with every pattern replaced by the names that match it, in their order.

    Raises:
        PydanticCustomError: a pattern matches nothing, a column is named twice, or there are
            patterns without names or the reverse. Its context has the column at fault as `key`.
    """
    patterns = [name for name in columns if "*" in name]
    if names is None:
        if patterns:
            raise _fault(
                patterns[0],
                "a pattern needs the agreed names of the columns: give data.features.names, a list "
                "or {file: names.txt, sha256: ...}",
            )
        return dict(columns)
    _check_names(names, patterns)
    found: dict[str, T] = {}
    of: dict[str, str] = {}
    for key, column in columns.items():
        matches = _matches(key, names) if "*" in key else [key]
        if not matches:
            raise _fault(key, "the pattern matches none of data.features.names: correct either")
        for name in matches:
            if name in found:
                raise _fault(
                    key,
                    f"column {name!r} is also meant by {of[name]!r}: narrow one of them, so that "
                    "each column is meant once",
                )
            found[name], of[name] = column, key
    return found


def _check_names(names: Sequence[str], patterns: Sequence[str]) -> None:
    if not patterns:
        raise PydanticCustomError(
            "pattern", "names are of no use without a column with *: leave names out"
        )
    twice, times = max(Counter(names).items(), key=lambda one: one[1], default=("", 0))
    if times > 1:
        raise PydanticCustomError("pattern", f"names has {twice!r} twice: keep one")
    if odd := [name for name in names if "*" in name]:
        raise PydanticCustomError("pattern", f"names has {odd[0]!r}: a name cannot contain *")


def _matches(pattern: str, names: Sequence[str]) -> list[str]:
    first, *middle, last = map(re.escape, pattern.split("*"))
    # Each text is taken where it comes first, for good: with plain .* for every *, a pattern of
    # many in a proposed job could keep a silo busy for hours.
    firmly = "".join(f"(?>.*?{text})" for text in middle)
    wanted = re.compile(f"{first}{firmly}.*{last}", re.DOTALL)
    return [name for name in names if wanted.fullmatch(name)]


def _fault(key: str, text: str) -> PydanticCustomError:
    return PydanticCustomError("pattern", "{text}", {"key": key, "text": text})


def with_names(content: dict[str, Any], folder: Path, place: str) -> bool:
    """Replace a job's reference to a file of names by the names. Return whether there was one.

    Args:
        content: the job file's content, which is changed.
        folder: the job file's.
        place: where the reference stands, to begin messages with.

    Raises:
        JobError: the file cannot be read, or is not the agreed one.
    """
    data = content.get("data")
    features = data.get("features") if isinstance(data, dict) else None
    if not isinstance(features, dict) or not isinstance(features.get("names"), dict):
        return False
    said = features["names"]
    here = f"{place}data.features.names"
    file, digest = said.get("file"), said.get("sha256")
    if set(said) != {"file", "sha256"} or not isinstance(file, str) or not isinstance(digest, str):
        raise JobError(
            f"{here} is neither a list of names nor {{file: ..., sha256: ...}}",
            "Write both keys; sha256sum FILE prints the digest. Put it in quotes.",
        )
    try:
        path = folder / Path(file).expanduser()
        with path.open("rb") as opened:
            text = opened.read(MOST_BYTES + 1)
    except (OSError, RuntimeError, ValueError):
        raise JobError(
            f"{here}: the file {file!r} cannot be read", "Relative paths start at the job file."
        ) from None
    if len(text) > MOST_BYTES:
        raise JobError(f"{here}: {file} is longer than 64 MiB", "List one name on each line.")
    if (found := hashlib.sha256(text).hexdigest()) != digest.lower():
        raise JobError(
            f"{here}: {file} is not the agreed list: its SHA-256 is {found}",
            "Get the agreed file; or agree on this one, and write its digest.",
        )
    try:
        lines = text.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise JobError(f"{here}: {file} is not text in UTF-8", "Save it as UTF-8.") from None
    features["names"] = [line for line in lines if line]
    return True
