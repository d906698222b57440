"""How the silos' CSV files are written, where they differ from commas, points and UTF-8."""

from __future__ import annotations

import codecs
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from blindsum.platform.job.section import Section


def _one_mark(text: str) -> str:
    if len(text) != 1 or not text.isascii() or text.isalnum() or text in '"\r\n.':
        raise ValueError('write one character, such as ";" or "\\t" (a tab)')
    return text


def _encoding_of_text(name: str) -> str:
    """Check an encoding's name, and return Python's spelling of it."""
    try:
        found = codecs.lookup(name)
        "".encode(name)  # a LookupError for codecs that are not of text, such as zip
    except (LookupError, ValueError):
        raise ValueError("is no known encoding: write one such as cp1252 or utf-16") from None
    return found.name


class CsvSection(Section):
    """The settings that a silo's CSV files are read with."""

    delimiter: Annotated[str, AfterValidator(_one_mark)] | None = Field(
        None,
        description='Between cells. Default: a tab in .tsv files; elsewhere ",", or ";" if the '
        'decimal mark is ",". A first line such as sep=; is obeyed.',
    )
    decimal: Literal[".", ","] = Field(".", description="Decimal mark of numbers.")
    encoding: Annotated[str, AfterValidator(_encoding_of_text)] = Field(
        "utf-8", description="For example cp1252, which Excel writes in Western Europe."
    )
    null_values: list[str] | None = Field(
        None,
        max_length=1000,
        description="Cells that are missing, in columns of numbers and of text, besides empty "
        "ones. Default: empty, NA, NaN, null and the like, in columns of numbers only.",
    )

    @model_validator(mode="after")
    def _marks_differ(self) -> CsvSection:
        if self.delimiter == self.decimal:
            raise ValueError(f"delimiter and decimal are both {self.decimal!r}")
        return self
