"""Pictures as the records of a job."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from blindsum.platform.job.features_section import FeatureSection
from blindsum.platform.job.section import Positive

MAX_VALUES = 2**20
"""Of one image: 1,024 by 1,024 in shades of grey."""


class Images(FeatureSection):
    """A column of pictures: each is a PNG or JPEG file's content, or the file's name relative to
    the table's folder. They are resized, and scaled by public constants."""

    kind: Literal["images"]
    column: str = "image"
    height: int = Field(ge=1, le=1024)
    width: int = Field(ge=1, le=1024)
    channels: Literal[1, 3] = Field(3, description="1: shades of grey; 3: red, green and blue.")
    center: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        [0.5], description="Of each channel, where 1 is the greatest value; one stands for all."
    )
    scale: list[Positive] = Field([0.25], description="As center.")

    @model_validator(mode="after")
    def _constants_of_each_channel(self) -> Images:
        for name in ("center", "scale"):
            if len(getattr(self, name)) not in (1, self.channels):
                raise ValueError(f"{name} needs one number, or {self.channels}: one a channel")
        if self.height * self.width * self.channels > MAX_VALUES:
            raise ValueError(f"an image has more than {MAX_VALUES:,} values: make it smaller")
        return self

    @property
    def inputs(self) -> set[str]:
        """The column of pictures."""
        return {self.column}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.height, self.width

    def of_channels(self, constants: list[float]) -> list[float]:
        """Return a constant for each channel."""
        return constants * self.channels if len(constants) == 1 else constants
