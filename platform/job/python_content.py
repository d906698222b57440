"""The content of a job that was made in Python, in the few types that a YAML file has."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from os import PathLike, fspath
from typing import Any

from pydantic import BaseModel

from blindsum.platform.errors import JobError


def plain_content(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy in which every value is a dict, a list, text, a number, a truth value or None.

    Paths become text, tuples become lists, NumPy's numbers become Python's, and sections become
    what was set in them. Any other value is left for validation to refuse.

    Raises:
        JobError: a key is not text, or the content contains itself.
    """
    try:
        return _mapping(content)
    except RecursionError:
        raise JobError("the job contains itself", "Write its sections as separate dicts.") from None


def _mapping(content: Mapping[Any, Any]) -> dict[str, Any]:
    for key in content:
        if not isinstance(key, str):
            raise JobError(f"the key {key!r} is not text", "Put quotes around it.")
    return {str(key): _plain(value) for key, value in content.items()}


def _plain(value: Any) -> Any:
    match value:
        case None | bool():
            return value
        case BaseModel():
            return _mapping(value.model_dump(exclude_unset=True))
        case Mapping():
            return _mapping(value)
        case list() | tuple():
            return [_plain(one) for one in value]
        case str():
            return str(value)
        case Integral():
            return int(value)
        case Real():
            return float(value)
        case PathLike():
            return fspath(value)
        case _:
            return value
