"""Texts as the records of a job."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from blindsum.platform.job.features_section import FeatureSection

VOCABULARY = 257
"""Every byte, and 0 for the place after a text's end."""


class Text(FeatureSection):
    """A column of text, byte by byte in UTF-8: no vocabulary is ever made from the silos' texts."""

    kind: Literal["text"]
    column: str = "text"
    length: int = Field(ge=1, le=8192, description="Bytes of a text that count; the rest is cut.")

    @property
    def inputs(self) -> set[str]:
        """The column of text."""
        return {self.column}
