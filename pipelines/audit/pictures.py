"""Pictures as an audit sees them: the range of their pixels, and pictures that the audit draws.

A report that may be shared shows no record of a silo. Its pictures are drawn here: shapes at random
places, which no silo has, in the size of the job's pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blindsum.platform.job.images_section import Images
from blindsum.platform.job.schema import Job

Reals = npt.NDArray[np.float64]
KINDS = ("disc", "ring", "cross", "bar", "square")


@dataclass(frozen=True)
class Pictures:
    """The pictures of a job: features are scaled pixels, channel by channel."""

    section: Images

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.section.shape

    @property
    def low(self) -> float:
        """The least value of a feature."""
        return float(self._scaled(np.zeros((1, *self.shape))).min())

    @property
    def high(self) -> float:
        """The greatest value of a feature."""
        return float(self._scaled(np.ones((1, *self.shape))).max())

    def pixels(self, records: Reals) -> Reals:
        """Return pixels from 0 to 1, [N, channels, height, width], of features [N, width]."""
        center, scale = self._constants()
        return np.clip(records.reshape(-1, *self.shape) * scale + center, 0.0, 1.0)

    def drawn(self, count: int, seed: int = 0) -> npt.NDArray[np.float32]:
        """Return the features, float32 [count, width], of pictures with one shape each."""
        random = np.random.default_rng(seed)
        channels, height, width = self.shape
        y, x = np.mgrid[:height, :width] / max(height, width)
        found = np.empty((count, channels, height, width))
        for i in range(count):
            slope, ground = random.uniform(-0.2, 0.2, 2), random.uniform(0.15, 0.4)
            left, top = random.uniform(0.3, 0.7, 2) * (width, height) / max(height, width)
            here = _inside(KINDS[i % len(KINDS)], x - left, y - top, random.uniform(0.15, 0.28))
            tint = random.uniform(0.6, 1.0, (channels, 1, 1)) if channels > 1 else 1.0
            shade = ground + slope[0] * x + slope[1] * y + random.uniform(0.35, 0.5) * here
            found[i] = np.clip(shade * tint, 0.0, 1.0)
        return self._scaled(found).reshape(count, -1).astype(np.float32)

    def _scaled(self, pixels: Reals) -> Reals:
        center, scale = self._constants()
        found: Reals = (pixels - center) / scale
        return found

    def _constants(self) -> tuple[Reals, Reals]:
        center, scale = (
            np.array(self.section.of_channels(one))[:, None, None]
            for one in (self.section.center, self.section.scale)
        )
        return center, scale


def pictures_of(job: Job) -> Pictures | None:
    """Return the job's pictures; None if its records are something else."""
    section = job.data.features
    return Pictures(section) if isinstance(section, Images) else None


def _inside(kind: str, x: Reals, y: Reals, size: float) -> npt.NDArray[np.bool_]:
    """Return which places lie inside a shape around 0."""
    away, thin = np.hypot(x, y), size / 3
    inside = {
        "disc": away < size,
        "ring": (away < size) & (away > size - thin),
        "cross": np.minimum(abs(x), abs(y)) + (np.maximum(abs(x), abs(y)) > size) < thin,
        "bar": (abs(x + y) < thin) & (abs(x - y) < 2 * size),
        "square": np.maximum(abs(x), abs(y)) < size,
    }
    return inside[kind]
