"""Pictures as features: PNG or JPEG, resized and kept as bytes."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL
import pyarrow as pa
from PIL import Image, ImageOps

from blindsum.platform.data.columns import PICTURE, Column
from blindsum.platform.data.compact import Pixels
from blindsum.platform.data.computing import ALONE, Computing
from blindsum.platform.data.feature_kind import FeatureKind, Featurised
from blindsum.platform.data.kept_results import content_digest
from blindsum.platform.job.folds_section import MoleculeKey
from blindsum.platform.job.images_section import Images
from blindsum.platform.job.model_section import Shape

MOST_PIXELS = 2**26
"""Larger pictures are not decoded: a small file can declare one that fills the memory."""

MOST_BYTES = 2**28
"""Larger files are not read."""

AT_A_TIME = 256

WORTH_S = 0.2
"""Pictures that are decoded faster, of so many at a time, are not kept."""

VERSION = "1"
"""Of the way from a picture to its values. A new one makes what was kept unused."""

_Values = npt.NDArray[np.uint8]

NO_FILE = "its file cannot be read, is not in the table's folder, or is larger than 256 MB"
UNREADABLE = "it is no PNG or JPEG, or damaged"
LARGE = f"it has more than {MOST_PIXELS:,} pixels"
WITHOUT = b""
"""Stands for a file that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class ImageFeatures(FeatureKind):
    """Pixels, channel by channel and row by row from the top."""

    section: Images

    @property
    def width(self) -> int:
        """The number of values of a picture."""
        channels, height, width = self.section.shape
        return channels * height * width

    @property
    def shape(self) -> Shape:
        """Channels, height and width."""
        return self.section.shape

    @property
    def most_records(self) -> int:
        """Pictures may be large."""
        return AT_A_TIME

    def columns(self) -> list[Column]:
        """Return the column of pictures."""
        return [Column(name=self.section.column, type=PICTURE)]

    def unusable(self, reason: str) -> str:
        """Return what is wrong with pictures, and nothing about any of them."""
        return f"pictures of which one can say: {reason}"

    def uniform(self, table: pa.Table, folder: Path = Path()) -> pa.Table:
        """Return the table with the pictures' contents in place of the names of their files."""
        at = table.schema.get_field_index(self.section.column)
        column = table.column(at)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            contents = [None if n is None else _content(folder, n) for n in column.to_pylist()]
            found = pa.array(contents, pa.large_binary())
        else:
            found = column.cast(pa.large_binary())
        return table.set_column(at, self.section.column, found)

    def compute(
        self, table: pa.Table, computing: Computing = ALONE, key: MoleculeKey | None = None
    ) -> Featurised:
        """Decode the pictures that can be decoded, unless they were decoded and kept before."""
        contents = table.column(self.section.column)
        found = self._known(contents, computing)
        usable = [one for one in found if not isinstance(one, str)]
        values = np.stack(usable) if usable else np.zeros((0, self.width), np.uint8)
        return Featurised(
            features=self._kept(values),
            usable=np.array([not isinstance(one, str) for one in found], np.bool_),
            reasons={row: one for row, one in enumerate(found) if isinstance(one, str)},
        )

    def _known(self, contents: pa.ChunkedArray, computing: Computing) -> list[_Values | str]:
        """Return each picture's values, or why there are none. Those that took long are kept."""
        schema = pa.schema([("values", pa.binary(self.width)), ("reason", pa.string())])
        inputs = self._inputs(contents) if computing.kept else []
        if kept := computing.known(inputs, schema, len(contents)):
            pairs = zip(kept["values"].to_pylist(), kept["reason"].to_pylist(), strict=True)
            return [why if why else np.frombuffer(values, np.uint8) for values, why in pairs]
        started = time.perf_counter()
        with ThreadPoolExecutor(computing.cores) as pool:
            found = list(pool.map(self._decoded, (one.as_py() for one in contents)))
        if time.perf_counter() - started > WORTH_S:
            values = [None if isinstance(one, str) else one.tobytes() for one in found]
            reasons = [one if isinstance(one, str) else None for one in found]
            computing.keep(inputs, pa.table([values, reasons], schema=schema))
        return found

    def _inputs(self, contents: pa.ChunkedArray) -> list[str]:
        """Return everything that the values depend on, besides their scaling."""
        section = self.section
        shape = f"{section.channels} {section.height} {section.width}"
        digest = content_digest(pa.table({"picture": contents}))
        return ["pictures", VERSION, PIL.__version__, shape, digest]

    def none(self) -> Pixels:
        """Return no pictures."""
        return self._kept(np.zeros((0, self.width), np.uint8))

    def _kept(self, values: _Values) -> Pixels:
        section = self.section
        center, scale = section.of_channels(section.center), section.of_channels(section.scale)
        return Pixels(values, center, scale)

    def _decoded(self, content: bytes) -> _Values | str:
        """Return the values of one picture, uint8 [width], or why there are none."""
        if content == WITHOUT:
            return NO_FILE
        mode = "L" if self.section.channels == 1 else "RGB"
        try:
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    return LARGE
                upright = ImageOps.exif_transpose(_of_8_bits(picture)).convert(mode)
                size = (self.section.width, self.section.height)
                small = upright.resize(size, Image.Resampling.BILINEAR)
        except Exception:  # noqa: BLE001 - Pillow raises many kinds for damaged files
            return UNREADABLE
        values = np.asarray(small, np.uint8).reshape(*size[::-1], self.section.channels)
        return values.transpose(2, 0, 1).reshape(-1)


def _of_8_bits(picture: Image.Image) -> Image.Image:
    """Return a picture whose shades of grey have 16 bits with the upper 8 of them."""
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).clip(0, 255).astype("u1"))


def _content(folder: Path, name: str) -> bytes:
    try:
        path = (folder / name).resolve()
        inside = path.is_relative_to(folder.resolve()) and path.is_file()
        if inside and path.stat().st_size <= MOST_BYTES:
            return path.read_bytes()
    except (OSError, ValueError):
        pass
    return WITHOUT
