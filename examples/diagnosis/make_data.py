"""Make the files in data/ from scikit-learn's table: python examples/diagnosis/make_data.py"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_breast_cancer

HOSPITALS = ("north", "east", "south", "west")


def main() -> None:
    source = load_breast_cancer()
    names = [name.replace(" ", "_") for name in source.feature_names[:10]]
    # Hospitals differ: larger tumours go more often to the first hospital.
    random = np.random.default_rng(0)
    order = np.argsort(-source.data[:, 0] + random.normal(0, 6, len(source.data)))
    for hospital, rows in zip(HOSPITALS, np.array_split(order, 4), strict=True):
        rows = random.permutation(rows)
        columns = {name: source.data[rows, i].astype(np.float32) for i, name in enumerate(names)}
        columns["patient"] = rows
        columns["malignant"] = (source.target[rows] == 0).astype(np.int64)
        path = Path(__file__).parent / "data" / f"{hospital}.parquet"
        pq.write_table(pa.table(columns), path, compression="zstd")


if __name__ == "__main__":
    main()
