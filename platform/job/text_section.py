"""Texts as the records of a job."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from blindsum.platform.job.features_section import FeatureSection
from blindsum.platform.job.section import Section, unless

VOCABULARY = 257
"""Every byte, and 0 for the place after a text's end."""


class TokenizerFile(Section):
    """A public `tokenizer.json`, as the library `tokenizers` saves it."""

    file: str = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.json$",
        description="Its name; it lies where a file of model.weights may lie.",
    )
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Text(FeatureSection):
    """A column of text, byte by byte in UTF-8 or in the tokens of a public tokenizer: no vocabulary
    is ever made from the silos' texts."""

    kind: Literal["text"]
    column: str = "text"
    length: int = Field(
        ge=1, le=8192, description="Bytes or tokens of a text that count; the rest is cut."
    )
    tokenizer: TokenizerFile | None = Field(
        None, exclude_if=unless(None), description="Default: a text is its bytes."
    )

    @property
    def inputs(self) -> set[str]:
        """The column of text."""
        return {self.column}
