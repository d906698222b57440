"""Control messages as bytes, and how they are read: JSON, by the message's own types.

Calls between driver, silos and aggregators carry bytes, references and frames of ciphertext
(`blindsum.he.wire`); no object of another process stands in them. Every field is checked while it is
read. Bytes stand in base64; NaN and Infinity as Python's `json` writes them.
"""

from __future__ import annotations

import json
from dataclasses import is_dataclass
from functools import cache
from typing import Any, TypeVar, cast

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from blindsum.platform.errors import FederationError

T = TypeVar("T")

MOST_BYTES = 2**24
"""A key ceremony of 64 silos takes some 0.5 MB."""

_BASE64 = ConfigDict(val_json_bytes="base64")


def encoded(message: Any) -> bytes:
    """The message's bytes. Of any dataclass, and of tuples, mappings, text and numbers."""
    plain = to_jsonable_python(message, bytes_mode="base64", inf_nan_mode="constants")
    return json.dumps(plain, separators=(",", ":")).encode()


def decoded(content: Any, kind: type[T]) -> T:
    """The message of that kind.

    Raises:
        FederationError: it is no bytes, longer than MOST_BYTES, or no such message.
    """
    name = getattr(kind, "__name__", str(kind))
    if type(content) is not bytes or len(content) > MOST_BYTES:
        raise FederationError(f"something that is no {name} came in place of one")
    try:
        return cast(T, _adapter(cast(Any, kind)).validate_json(content))
    except (ValidationError, ValueError, RecursionError, TypeError) as error:
        where = error.errors()[0]["loc"][:1] if isinstance(error, ValidationError) else ()
        field = f": {where[0]}" if where and where[0] in _fields(kind) else ""
        raise FederationError(
            f"a malformed {name} came{field}",
            "All parties must run the same version of blindsum.",
        ) from None


def encoded_vector(round: int, vector: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
    """A model and its round: eight bytes and float32, both little-endian."""
    return round.to_bytes(8, "little") + np.ascontiguousarray(vector, "<f4").tobytes()


def decoded_vector(content: Any) -> tuple[int, np.ndarray[Any, np.dtype[np.float32]]]:
    """What `encoded_vector` wrote. Raises FederationError if it is none."""
    if type(content) is not bytes or len(content) < 8 or len(content) % 4:
        raise FederationError("something that is no model came in place of one")
    vector = np.frombuffer(content, "<f4", offset=8).astype(np.float32)
    return int.from_bytes(content[:8], "little"), vector


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    own = is_dataclass(kind) or hasattr(kind, "model_fields")
    return TypeAdapter(kind) if own else TypeAdapter(kind, config=_BASE64)


def _fields(kind: Any) -> set[str]:
    return set(getattr(kind, "__dataclass_fields__", ()))
