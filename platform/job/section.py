"""What all sections of a job have in common: no unknown keys, no silent conversions."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _usable(value: float) -> float:
    """Limit a number to a range far wider than any use, in which the product of two is finite."""
    if not 1e-12 <= value <= 1e12:
        raise ValueError("write a number from 1e-12 to 1e12")
    return value


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(_usable)]


Digest = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]


def _named_function(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text):
        raise ValueError("write it as module:function")
    return text


FunctionName = Annotated[str, AfterValidator(_named_function)]
"""A function of the job's own, as `module:function`."""

_NAME = r"^[a-z0-9][a-z0-9_-]{0,39}$"
Name = Annotated[str, Field(pattern=_NAME)]
"""The name of a job, a silo or a dataset. It may appear in messages, tags and file names."""


def is_name(text: str) -> bool:
    """Return whether this text can name a dataset in an owner's file."""
    return re.fullmatch(_NAME, text) is not None


def date_as_text(value: Any) -> Any:
    """Return a date, which YAML makes of 2020-01-01, as that text again, which JSON can hold."""
    return value.isoformat() if type(value) is date else value


def require_date(value: Any) -> str:
    """Return a date as YYYY-MM-DD. Raises ValueError if it is none."""
    try:
        return date.fromisoformat(value).isoformat()
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is not a date: write YYYY-MM-DD") from None


PublicDate = Annotated[str, BeforeValidator(date_as_text), AfterValidator(require_date)]
"""A date of the job, as YYYY-MM-DD."""


def unless(default: Any) -> Callable[[Any], bool]:
    """Return a field's `exclude_if`, for settings that are newer than the job's digest.

    A job that does not use them keeps its digest, and with it the approvals that owners gave.
    """
    return lambda value: bool(value == default)


class Section(BaseModel):
    """The base of all sections: no unknown keys, no silent conversions, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
