"""Random changes of pictures, drawn anew in every training step and never in evaluation.

Under differential privacy they are drawn from the silo's cryptographic generator, as its samples
are. They cost no budget: a record's copies are made from that record alone, and the mean of their
gradients is clipped like any record's gradient (De et al., 2022, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from blindsum.platform.job.data_section import Features
from blindsum.platform.job.images_section import Augment, Images


@dataclass(frozen=True)
class Augmentation:
    """The random changes of a job's pictures.

    Attributes:
        shape: channels, height and width.
    """

    section: Augment
    shape: tuple[int, int, int]

    @property
    def copies(self) -> int:
        """K: the copies of a record that are trained on at a time."""
        return self.section.multiplicity

    def __call__(self, features: Tensor, random: np.random.Generator) -> Tensor:
        """Return changed copies of pictures, float32 [B, K, features], or [B, features] if K is 1.

        Args:
            features: [B, features], as `Images` lays them out.
            random: draws the changes of each copy, independently of all others.
        """
        channels, height, width = self.shape
        count = len(features) * self.copies
        rows = self._moved(height, count, random)
        columns = self._moved(width, count, random)
        if self.section.flip == "horizontal":
            mirrored = random.random(count) < 0.5
            columns[mirrored] = columns[mirrored, ::-1]
        pictures = features.view(-1, channels, height, width)
        owners = torch.arange(len(features)).repeat_interleave(self.copies)
        found = pictures[
            owners[:, None, None, None],
            torch.arange(channels)[None, :, None, None],
            torch.from_numpy(rows)[:, None, :, None],
            torch.from_numpy(columns)[:, None, None, :],
        ]
        if self.copies == 1:
            return found.flatten(1)
        return found.reshape(len(features), self.copies, features.shape[1])

    def _moved(self, size: int, count: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
        """Return the pixel of the picture that each pixel of each copy shows, [count, size]. Beyond
        its edges a picture is mirrored."""
        shift = self.section.shift
        moves = random.integers(-shift, shift, count, endpoint=True)
        where: npt.NDArray[np.int64] = np.abs(np.arange(size) + moves[:, None])
        return size - 1 - np.abs(size - 1 - where)


def augmentation_of(features: Features) -> Augmentation | None:
    """Return the random changes that a job asks for; None if its records stay as they are."""
    if not isinstance(features, Images) or features.augment is None:
        return None
    return Augmentation(features.augment, features.shape)
