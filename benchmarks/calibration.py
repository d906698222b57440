"""Measure what calibration to labels changes in the probabilities of a released model.

    python benchmarks/calibration.py --json build/calibration.json

The diagnosis and the fraud example are trained as they are (`blindsum.simulate`, every seed with
fresh noise), and calibrated to the held-out records of all their silos, by cross-validation, as
`blindsum predict --calibrate` does. "Shifted" are the same records with every third positive only:
a user whose records have another share of positives than the silos'.

    raw            the model's own probabilities
    temperature    a slope alone
    Platt          slope and offset, which the product uses for two outcomes

Log loss in nats and calibration error in bins of equal mass, mean and standard deviation over
seeds; "perfect" is the calibration error that perfect probabilities would show.

JSON: {example}.{records}.{raw,temperature,Platt}.{log_loss,log_loss_sd,error,error_sd,perfect}.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize_scalar

import blindsum
from blindsum.platform.data.features import features_of
from blindsum.platform.data.split import folds_of
from blindsum.platform.evaluation.reliability import (
    Classes,
    Reals,
    Reliability,
    log_losses,
    reliability,
)
from blindsum.platform.prediction.calibration import calibrate
from blindsum.platform.prediction.predictor import Predictor
from blindsum.platform.prediction.released import read_released

EXAMPLES, NAMES = Path(__file__).resolve().parents[1] / "examples", ("diagnosis", "fraud")
FOLDS, KEPT = 10, 3


def held_out(name: str, seed: int) -> tuple[Reals, Classes]:
    """Train an example; return its logits of the held-out records, and their classes."""
    job = blindsum.Job.read(EXAMPLES / name / "job.yaml").override(f"seed={seed}")
    data = {s: pd.read_parquet(EXAMPLES / name / "data" / f"{s}.parquet") for s in job.silos}
    section = job.job_file.job.data
    (label,) = section.tasks or {}
    with tempfile.TemporaryDirectory() as folder:
        run = blindsum.simulate(job, data, progress=False)
        predictor = Predictor(read_released(run.model.save(f"{folder}/model.blindsum")))
    tables = [pa.Table.from_pandas(one, preserve_index=False) for one in data.values()]
    folds, features = folds_of(section.folds), features_of(section.features)
    table = pa.concat_tables(t.filter(pa.array(folds.held_out(t, features))) for t in tables)
    output = predictor.outputs_of(table)[:, 0]
    return np.stack([np.zeros_like(output), output], 1), table[label].to_numpy().astype(np.int64)


def shifted(logits: Reals, true: Classes) -> tuple[Reals, Classes]:
    """Keep every third positive."""
    kept = true == 0
    kept[np.flatnonzero(true == 1)[::KEPT]] = True
    return logits[kept], true[kept]


def by_temperature(logits: Reals, true: Classes) -> Reliability:
    """Return what a slope alone gives, by cross-validation."""
    folds, found = np.random.default_rng(0).permutation(len(true)) % FOLDS, np.empty_like(logits)
    for fold in range(FOLDS):
        test = folds == fold
        least = minimize_scalar(
            lambda log, rest=~test: log_losses(np.exp(log) * logits[rest], true[rest]).mean(),
            bounds=(-5, 5),
            method="bounded",
        )
        found[test] = np.exp(least.x) * logits[test]
    return reliability(found, true)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--json", type=Path)
    options.add_argument("--seeds", type=int, default=5)
    asked = options.parse_args()
    table = Table(
        "example", "records", "positives", "probabilities", "log loss", "error", "perfect"
    )
    content: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for name in NAMES:
        runs = [held_out(name, seed) for seed in range(1, asked.seeds + 1)]
        for records, those in (("held out", runs), ("shifted", [shifted(*one) for one in runs])):
            ways: dict[str, list[Reliability]] = {"raw": [], "temperature": [], "Platt": []}
            for logits, true in those:
                own = calibrate(logits, true)
                ways["raw"].append(own.before)
                ways["temperature"].append(by_temperature(logits, true))
                ways["Platt"].append(own.after)
            true = those[0][1]
            for way, found in ways.items():
                losses, errors = ([getattr(f, a) for f in found] for a in ("log_loss", "error"))
                figures = {
                    "log_loss": float(np.mean(losses)),
                    "log_loss_sd": float(np.std(losses, ddof=1)),
                    "error": float(np.mean(errors)),
                    "error_sd": float(np.std(errors, ddof=1)),
                    "perfect": float(np.mean([f.of_perfect for f in found])),
                }
                content.setdefault(name, {}).setdefault(records, {})[way] = figures
                table.add_row(
                    name,
                    f"{len(true)} {records}",
                    f"{true.mean():.1%}",
                    way,
                    f"{figures['log_loss']:.3f} ± {figures['log_loss_sd']:.3f}",
                    f"{figures['error']:.3f} ± {figures['error_sd']:.3f}",
                    f"{figures['perfect']:.3f}",
                )
    Console(width=100).print(table)
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
