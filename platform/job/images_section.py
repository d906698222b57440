"""Pictures as the records of a job."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from blindsum.platform.job.features_section import FeatureSection
from blindsum.platform.job.section import Positive, Section, unless

MAX_VALUES = 2**20
"""Of one image: 1,024 by 1,024 in shades of grey."""


class Augment(Section):
    """Random changes of the pictures in training. A record is trained on the mean over its copies,
    which are clipped as one record (De et al., 2022, "Unlocking high-accuracy differentially
    private image classification through scale")."""

    multiplicity: int = Field(4, ge=1, le=64, description="Copies of a picture in each step.")
    flip: Literal["none", "horizontal"] = Field(
        "none", description="Mirror every second picture, at random, left to right."
    )
    shift: int = Field(
        0, ge=0, le=512, description="Most pixels by which a picture moves along each axis."
    )

    @model_validator(mode="after")
    def _changes_something(self) -> Augment:
        if self.flip == "none" and not self.shift:
            raise ValueError("copies would all be alike: give flip: horizontal, or shift")
        return self


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
    augment: Augment | None = Field(
        None, exclude_if=unless(None), description="Random changes of pictures in training."
    )

    @model_validator(mode="after")
    def _constants_of_each_channel(self) -> Images:
        for name in ("center", "scale"):
            if len(getattr(self, name)) not in (1, self.channels):
                raise ValueError(f"{name} needs one number, or {self.channels}: one a channel")
        if self.height * self.width * self.channels > MAX_VALUES:
            raise ValueError(f"an image has more than {MAX_VALUES:,} values: make it smaller")
        if self.augment and self.augment.shift >= min(self.height, self.width):
            raise ValueError("augment.shift must be below the picture's height and width")
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
