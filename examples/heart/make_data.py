"""Make the files in data/: python examples/heart/make_data.py

SYNTHETIC: contains no patient's record. Makes tables of four hospitals with the columns, the codes
and the gaps of the UCI heart disease data.

    python examples/heart/make_data.py --data heart_disease.csv --out FOLDER

writes the real records of those hospitals, which you have to get yourself, and the job beside them.
The table has a column `site`, the 13 columns of the job, and `disease`.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).parent
HOSPITALS = {"north": "cleveland", "east": "hungarian", "south": "switzerland", "west": "va"}
RECORDS = 230

# Shares of gaps by hospital; `chol` has 0 for a gap in the south and in the west.
GAPS = {
    "trestbps": (0, 0, 0.02, 0.28),
    "chol": (0, 0.08, 1, 0.28),
    "fbs": (0, 0.03, 0.6, 0.04),
    "restecg": (0, 0, 0.01, 0),
    "thalach": (0, 0, 0.01, 0.26),
    "exang": (0, 0, 0.01, 0.26),
    "oldpeak": (0, 0, 0.05, 0.28),
    "slope": (0, 0.65, 0.14, 0.51),
    "ca": (0.01, 1, 0.96, 0.99),
    "thal": (0.01, 0.9, 0.42, 0.83),
}
ILL = (0.46, 0.36, 0.85, 0.75)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the real table, a CSV")
    parser.add_argument("--out", type=Path, help="where to write it and the job")
    given = parser.parse_args()
    if given.data and given.out:
        real(given.data, given.out)
        return
    random = np.random.default_rng(0)
    for number, hospital in enumerate(HOSPITALS):
        made_up(random, number).to_csv(HERE / "data" / f"{hospital}.csv", index=False)


def real(table: Path, folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    shutil.copy(HERE / "job.yaml", folder)
    records = pd.read_csv(table)
    for hospital, site in HOSPITALS.items():
        own = records[records["site"] == site].drop(columns=["site", "num"])
        own.assign(patient=own.index).to_csv(folder / "data" / f"{hospital}.csv", index=False)


def made_up(random: np.random.Generator, number: int) -> pd.DataFrame:
    """Return one hospital's records."""
    diseased = random.random(RECORDS) < ILL[number]
    # One in eight has the signs of the other kind: no model can be right about everyone.
    ill = diseased ^ (random.random(RECORDS) < 1 / 8)

    def chosen(codes: list[int], well: list[float], sick: list[float]) -> np.ndarray:
        return np.where(
            ill, random.choice(codes, RECORDS, p=sick), random.choice(codes, RECORDS, p=well)
        )

    found = pd.DataFrame(
        {
            "age": random.normal(50 + 5 * ill, 9).round(),
            "sex": chosen([0, 1], [0.35, 0.65], [0.1, 0.9]),
            "cp": chosen([1, 2, 3, 4], [0.07, 0.36, 0.32, 0.25], [0.04, 0.05, 0.16, 0.75]),
            "trestbps": random.normal(130 + 4 * ill, 18).round(),
            "chol": random.normal(235 + 15 * ill, 50).round(),
            "fbs": chosen([0, 1], [0.89, 0.11], [0.8, 0.2]),
            "restecg": chosen([0, 1, 2], [0.65, 0.15, 0.2], [0.57, 0.23, 0.2]),
            "thalach": random.normal(149 - 20 * ill, 23).round(),
            "exang": chosen([0, 1], [0.87, 0.13], [0.4, 0.6]),
            "oldpeak": np.maximum(0, random.normal(0.4 + 0.9 * ill, 0.9)).round(1),
            "slope": chosen([1, 2, 3], [0.65, 0.3, 0.05], [0.25, 0.65, 0.1]),
            "ca": chosen([0, 1, 2, 3], [0.8, 0.13, 0.04, 0.03], [0.33, 0.32, 0.22, 0.13]),
            "thal": chosen([3, 6, 7], [0.79, 0.04, 0.17], [0.28, 0.1, 0.62]),
        }
    )
    for column, shares in GAPS.items():
        gap = random.random(RECORDS) < shares[number]
        found[column] = found[column].astype(object).where(~gap, 0 if column == "chol" else None)
    patients = np.arange(RECORDS) + number * RECORDS
    return found.assign(disease=diseased.astype(int), patient=patients)


if __name__ == "__main__":
    main()
