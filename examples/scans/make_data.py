"""Make the files in data/: python examples/scans/make_data.py

SYNTHETIC: no picture shows a person. Draws small X-ray-like pictures: a grey ground with ribs, and
in half of them a round shadow, which the model is to find. Each clinic's machine has a brightness
of its own.

    python examples/scans/make_data.py --data pneumoniamnist.npz --out FOLDER

writes the real chest X-rays of children of PneumoniaMNIST (MedMNIST v2), which you have to get
yourself, and a job for them: three clinics with a third of the training and validation pictures
each, and the official test pictures as those that are held out.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HERE = Path(__file__).parent
CLINICS = {"harbour": 90, "hill": 110, "lake": 130}
"""The brightness of each clinic's machine."""

RECORDS, SIZE, KINDS = 500, 28, ("images", "labels")


def picture(random: np.random.Generator, brightness: int, has_shadow: bool) -> bytes:
    """Return a PNG of 28 by 28 pixels in shades of grey."""
    y, x = np.mgrid[:SIZE, :SIZE]
    ribs = 18 * np.sin((y + random.uniform(0, 9)) * random.uniform(0.8, 1.1) + x * 0.1)
    values = brightness + ribs + random.normal(0, 12, (SIZE, SIZE))
    if has_shadow:
        left, top, radius = random.uniform(7, 21), random.uniform(7, 21), random.uniform(2.5, 4.5)
        values += random.uniform(45, 75) * np.exp(
            -((((x - left) ** 2 + (y - top) ** 2) / radius**2) ** 2)
        )
    return encoded(values.clip(0, 255).astype(np.uint8))


def encoded(values: np.ndarray) -> bytes:
    """Return a PNG of uint8 [height, width]."""
    content = io.BytesIO()
    Image.fromarray(values).save(content, "PNG")
    return content.getvalue()


def real(data: Path, out: Path) -> None:
    """Write three clinics' real pictures and their job."""
    (out / "data").mkdir(parents=True)
    with np.load(data) as found:
        parts = {
            "train": [np.concatenate([found[f"{p}_{k}"] for p in ("train", "val")]) for k in KINDS],
            "test": [found[f"test_{kind}"] for kind in KINDS],
        }
    for number, clinic in enumerate(CLINICS):
        rows = []
        for fold, (images, labels) in parts.items():
            for i in range(number, len(images), len(CLINICS)):
                ill = "pneumonia" if labels[i].item() else "normal"
                rows.append({"image": encoded(images[i]), "finding": ill, "fold": fold})
        pq.write_table(pa.Table.from_pylist(rows), out / "data" / f"{clinic}.parquet")
    shutil.copy(HERE / "pneumonia.yaml", out / "job.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the real pictures, an .npz file of MedMNIST")
    parser.add_argument("--out", type=Path, help="where to write them and their job")
    given = parser.parse_args()
    if given.data and given.out:
        real(given.data, given.out)
        return
    random = np.random.default_rng(0)
    for number, (clinic, brightness) in enumerate(CLINICS.items()):
        shadows = random.random(RECORDS) < 0.5
        table = pa.table(
            {
                "patient": np.arange(RECORDS) + RECORDS * number,
                "image": [picture(random, brightness, bool(one)) for one in shadows],
                "finding": np.where(shadows, "shadow", "clear"),
            }
        )
        pq.write_table(table, HERE / "data" / f"{clinic}.parquet")


if __name__ == "__main__":
    main()
