"""Show pictures beside what attacks recovered of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture

from blindsum.pipelines.audit.attacks.drawn import Drawn
from blindsum.pipelines.audit.evidence import DEFENCES, NAMED, Figure
from blindsum.pipelines.audit.scores import Records
from blindsum.pipelines.show.page import embedded

SIZE = 1.1
"""Inches of a picture."""


def drawn_part(drawn: Sequence[Drawn]) -> list[str]:
    """Return the report's section with the pictures that the audit drew."""
    parts = [
        "<h2>What the server could see of pictures</h2>",
        (
            "<p class=note>The audit drew these pictures itself: they show no record of any silo. "
            "They went through the job's own model, clipping, noise and masks, and the attacks "
            "tried to recover them. Above each column is the peak signal-to-noise ratio, and that "
            "of a guess which knows only what such pictures look like on average. For the imprint "
            "a server needs a layer that it chose itself, in the model or in front of it.</p>"
        ),
    ]
    for one in drawn:
        columns = [("drawn", one.true)] + [
            (_title(NAMED[d], one.figures[d]), one.recovered[d])
            for d in DEFENCES
            if d in one.recovered
        ]
        parts += [f"<h3>{one.attack}</h3>", grid(columns)]
    return parts


def _title(name: str, figure: Figure | None) -> str:
    if figure is None:
        return name
    value = "exact" if figure.value >= 100 else f"{figure.value:.0f} dB"
    return f"{name}\n{value} (guess: {figure.floor or 0:.0f} dB)"


def grid(columns: Sequence[tuple[str, Records]]) -> str:
    """Return an image: pictures of one column below each other, and beside each other those of one
    row. Pixels are from 0 to 1, [pictures, channels, height, width]."""
    rows = len(columns[0][1])
    picture = Picture(figsize=(1.9 * len(columns), SIZE * rows + 0.5), layout="constrained")
    FigureCanvasAgg(picture)
    cells = picture.subplots(rows, len(columns), squeeze=False)
    for x, (title, pictures) in enumerate(columns):
        cells[0, x].set_title(title, fontsize=8)
        for y, pixels in enumerate(pictures):
            image = np.moveaxis(pixels, 0, -1)
            grey = image.shape[-1] == 1
            cells[y, x].imshow(image[..., 0] if grey else image, cmap="gray", vmin=0, vmax=1)
            cells[y, x].axis("off")
    return embedded(picture)
