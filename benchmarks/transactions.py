"""A made-up table of card transactions for benchmarks/trees.py: 30 columns, about 2 % frauds.

Two kinds of fraud are conjunctions of columns, as a tree finds them and a linear model does not:
large amounts abroad at night, and many tries from a young account at a new merchant. Numbers are in
units of public constants: the job's centers are 0 and its scales 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

NAMED = ("amount", "hour", "abroad", "tries", "account_age", "new_merchant", "balance", "distance")
COLUMNS = (*NAMED, *(f"habit_{i:02d}" for i in range(22)))
FRAUDS = 0.02


def transactions(
    count: int, random: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return columns, float32 [count, 30], and which are frauds, int64 [count]."""
    x = random.normal(size=(count, len(COLUMNS))).astype(np.float32)
    for column, share in ((2, 0.1), (5, 0.2)):  # abroad, new_merchant
        x[:, column] = random.random(count) < share
    x[:, 3] = random.poisson(0.6, count)
    amount, hour, abroad, tries, age, new = x[:, :6].T
    first = (amount > 0.6) * (1 + 2 * abroad) * (np.abs(hour) > 1.0)
    second = (tries > 1) * (age < 0) * (1 + new)
    score = 2.2 * first + 2.0 * second + 0.4 * x[:, 6] * x[:, 7] + 0.2 * x[:, 8:14].sum(1)
    score += random.logistic(0, 1, count)
    return x, (score > np.quantile(score, 1 - FRAUDS)).astype(np.int64)


def write_silos(folder: Path, silos: Sequence[str], train: int, held_out: int) -> None:
    """Write a table for each silo, with so many records of each fold."""
    random = np.random.default_rng(0)
    for silo in silos:
        x, y = transactions(train + held_out, random)
        columns = {name: x[:, i] for i, name in enumerate(COLUMNS)}
        folds = pa.array(["train", "test"]).take(pa.array(np.arange(len(y)) >= train).cast("int8"))
        table = pa.table(columns | {"fraud": y, "fold": folds})
        pq.write_table(table, folder / f"{silo}.parquet")
