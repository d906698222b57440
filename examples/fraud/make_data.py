"""Make the files in data/: python examples/fraud/make_data.py

SYNTHETIC: contains no bank's records. Makes transactions of three banks with 4 % frauds, which look
different at each bank.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BANKS = ("amber", "cobalt", "ochre")
RECORDS = 1000


def main() -> None:
    random = np.random.default_rng(0)
    for number, bank in enumerate(BANKS):
        fraud = random.random(RECORDS) < 0.04
        # There are two kinds of fraud; amber and cobalt have each seen mostly one of them.
        kind = random.random(RECORDS) < (0.85, 0.15, 0.5)[number]
        amount = random.lognormal(3.5, 1.0, RECORDS) * np.where(fraud & kind, 2.5, 1.0)
        hour = np.where(fraud, random.normal(8, 5, RECORDS), random.normal(14, 5, RECORDS)) % 24
        age_days = random.exponential(900, RECORDS) * np.where(fraud & ~kind, 0.3, 1.0)
        abroad = random.random(RECORDS) < np.where(fraud, 0.35, 0.1)
        tries = random.poisson(np.where(fraud & ~kind, 1.5, 0.3))
        columns = {
            "log_amount": np.log(amount).astype(np.float32),
            "hour": hour.astype(np.float32),
            "account_age_days": age_days.astype(np.float32),
            "abroad": abroad.astype(np.int64),
            "failed_tries": tries.astype(np.int64),
            "transaction": np.arange(RECORDS) + number * RECORDS,
            "fraud": fraud.astype(np.int64),
        }
        path = Path(__file__).parent / "data" / f"{bank}.parquet"
        pq.write_table(pa.table(columns), path, compression="zstd")


if __name__ == "__main__":
    main()
