"""Encoding of control messages as bytes, and their decoding: JSON, checked against their types.

Calls between driver, silos and aggregators carry bytes, references and frames of ciphertext
(`blindsum.he.wire`), and never an object of another process. Every field is checked while it is
read. Bytes are written in base64, and NaN and Infinity as Python's `json` writes them.
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
"""The longest message. The longest of a key ceremony of 64 silos have about 0.7 MB."""

MOST_VALUES = 2**19
"""The most values of a message, counted by `[`, `{` and `,`. An object of two bytes takes a
thousand in memory: 16 MB of them took 12 GB and a minute and a half before they were refused."""

_MOST_MODELS = 2

_MOST_FAULTS = 100
"""Of a message with more faults none is named: to list a million takes gigabytes."""

_BASE64 = ConfigDict(val_json_bytes="base64")


def encoded(message: Any) -> bytes:
    """Encode a message: a dataclass, or tuples, mappings, text and numbers."""
    plain = to_jsonable_python(message, bytes_mode="base64", inf_nan_mode="constants")
    return json.dumps(plain, separators=(",", ":")).encode()


def decoded(content: Any, kind: type[T], most_values: int = MOST_VALUES) -> T:
    """Decode a message of that kind.

    Raises:
        FederationError: the content is not bytes, is longer than MOST_BYTES, has more than
            `most_values`, or is not such a message.
    """
    name = getattr(kind, "__name__", str(kind))
    if type(content) is not bytes or len(content) > MOST_BYTES:
        raise FederationError(
            f"expected a message of kind {name} and at most {MOST_BYTES} bytes, and received "
            "something else"
        )
    if sum(map(content.count, (b"[", b"{", b","))) > most_values:
        raise FederationError(f"received a {name} with more than {most_values} values")
    try:
        return cast(T, _adapter(cast(Any, kind)).validate_json(content))
    except (ValidationError, ValueError, RecursionError, TypeError) as error:
        field = f": {where}" if (where := _first_fault(error)) in _fields(kind) else ""
        raise FederationError(
            f"received a malformed {name}{field}",
            "All parties must run the same version of blindsum.",
        ) from None


def encoded_models(round: int, *models: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
    """Encode models of one size and their round: the round in four bytes, the number of models in
    four, then float32, all little-endian."""
    begin = round.to_bytes(4, "little") + len(models).to_bytes(4, "little")
    return b"".join([begin, *(np.ascontiguousarray(one, "<f4").data for one in models)])


def decoded_models(content: Any) -> tuple[int, np.ndarray[Any, np.dtype[np.float32]]]:
    """Decode what `encoded_models` wrote, float32 [models, parameters]. Raises FederationError if
    the content is not that."""
    if type(content) is bytes and len(content) >= 8:
        round, count = (int.from_bytes(content[i : i + 4], "little") for i in (0, 4))
        if 0 < count <= _MOST_MODELS and (len(content) - 8) % (4 * count) == 0:
            values = np.frombuffer(content, "<f4", offset=8).astype(np.float32)
            return round, values.reshape(count, -1)
    raise FederationError("expected the bytes of models, and received something else")


def _first_fault(error: Exception) -> str:
    """Return the field of a message's first fault, or nothing if there is none."""
    if not isinstance(error, ValidationError) or error.error_count() > _MOST_FAULTS:
        return ""
    where = error.errors(include_url=False, include_context=False, include_input=False)[0]["loc"]
    return str(where[0]) if where else ""


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    own = is_dataclass(kind) or hasattr(kind, "model_fields")
    return TypeAdapter(kind) if own else TypeAdapter(kind, config=_BASE64)


def _fields(kind: Any) -> set[str]:
    return set(getattr(kind, "__dataclass_fields__", ()))
