"""The records of benchmarks/trees.py, with the sections of a job that describe them.

breast_cancer and digits come from scikit-learn, transactions are made up (transactions.py). Tables
that the user gives are of molecules (`smiles`, and columns of 0, 1 and gaps: ECFP with 2,048 bits),
or of patients at several sites (`site`, `disease`, numbers, and categories in a few columns).
Constants that scale features are those of the whole table, and count as public.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas
from rdkit import Chem, rdBase
from rdkit.Chem import rdFingerprintGenerator
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.metrics import roc_auc_score
from transactions import COLUMNS, transactions

from blindsum.platform.data.records import Fold

SILOS = 3
CATEGORIES = ("sex", "cp", "fbs", "restecg", "exang", "slope", "thal")
ZERO_IS_A_GAP = ("chol", "trestbps")
rdBase.DisableLog("rdApp.*")


@dataclass(frozen=True)
class Records:
    """Records with labels.

    Attributes:
        x: float32 [records, features].
        y: classes, int64 [records], or tasks, float32 [records, 2, tasks].
        features, labels: what a job says of them.
        sites: of each record, if silos are given by the data.
    """

    name: str
    x: npt.NDArray[np.float32]
    y: npt.NDArray[Any]
    features: dict[str, Any]
    labels: dict[str, Any]
    sites: npt.NDArray[np.int64] | None = None

    @property
    def silos(self) -> int:
        """The number of silos."""
        return SILOS if self.sites is None else int(self.sites.max()) + 1

    def divided(self, seed: int) -> tuple[list[Fold], Fold]:
        """Return the silos' records and those for scoring, a fifth, in the division of a seed."""
        random = np.random.default_rng(seed)
        held = random.random(len(self.y)) < 0.2
        owner = random.integers(0, SILOS, len(self.y)) if self.sites is None else self.sites
        kept = [(owner == silo) & ~held for silo in range(self.silos)]
        return [Fold(self.x[own], self.y[own]) for own in kept], Fold(self.x[held], self.y[held])

    def auroc(self, outputs: npt.NDArray[Any], labels: npt.NDArray[Any]) -> float:
        """Return the AUROC: of two classes, the mean of each class against the rest, or the mean
        over tasks."""
        if labels.ndim == 1:
            if outputs.shape[1] == 2:
                return float(roc_auc_score(labels, outputs[:, 1] - outputs[:, 0]))
            return float(np.mean([roc_auc_score(labels == k, outputs[:, k]) for k in range(10)]))
        values = labels[:, 0]
        found = []
        for task in range(values.shape[1]):
            known = ~np.isnan(values[:, task])
            if len(np.unique(values[known, task])) == 2:
                found.append(roc_auc_score(values[known, task], outputs[known, task]))
        return float(np.mean(found))


def _columns(count: int) -> dict[str, Any]:
    return {"kind": "columns", "columns": {f"x{i}": {} for i in range(count)}}


def _classes(count: int) -> dict[str, Any]:
    return {"target": {"column": "y", "classes": list(range(count))}}


def breast_cancer() -> Records:
    x, y = load_breast_cancer(return_X_y=True)
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    return Records("breast_cancer", x, y.astype(np.int64), _columns(30), _classes(2))


def digits() -> Records:
    x, y = load_digits(return_X_y=True)
    x = ((x - 5) / 6).astype(np.float32)
    return Records("digits", x, y.astype(np.int64), _columns(64), _classes(10))


def made_up(count: int) -> Records:
    """Return that many transactions for training, and a quarter of it more for scoring."""
    x, y = transactions(round(count / 0.8), np.random.default_rng(0))
    return Records("transactions", x, y, _columns(len(COLUMNS)), _classes(2))


def of_file(path: Path) -> Records:
    """Return the records of a user's table."""
    table = pandas.read_csv(path) if ".csv" in path.suffixes else pandas.read_parquet(path)
    name = path.name.partition(".")[0]
    found = _patients(table) if "site" in table else _molecules(table)
    return replace(found, name=name)


def _molecules(table: pandas.DataFrame) -> Records:
    molecules = [Chem.MolFromSmiles(str(s)) for s in table["smiles"]]
    readable = np.array([one is not None for one in molecules])
    labels = [c for c in table if table[c].dropna().isin([0, 1]).all()]
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    x = np.array([generator.GetFingerprintAsNumPy(one) for one in molecules if one is not None])
    values = table[labels].to_numpy(np.float32)[readable]
    tasks = {f"task_{i}": {} for i in range(len(labels))}
    y = np.stack([values, np.zeros_like(values)], 1)
    return Records("", x.astype(np.float32), y, {"kind": "ecfp", "bits": 2048}, {"tasks": tasks})


def _patients(table: pandas.DataFrame) -> Records:
    features = []
    for name in table:
        values = table[name]
        if name in ("site", "num", "disease"):
            continue
        if name in CATEGORIES:
            one_hot = pandas.get_dummies(values, prefix=name, dummy_na=bool(values.isna().any()))
            features += [one_hot.to_numpy(np.float32)]
            continue
        values = values.where(values != 0) if name in ZERO_IS_A_GAP else values
        scaled = ((values - values.mean()) / values.std()).fillna(0.0)
        features += [scaled.to_numpy(np.float32)[:, None]]
        if values.isna().any():
            features += [values.isna().to_numpy(np.float32)[:, None]]
    x, sites = np.concatenate(features, 1), table["site"].astype("category").cat.codes
    y = table["disease"].to_numpy(np.int64)
    return Records("", x, y, _columns(x.shape[1]), _classes(2), sites.to_numpy(np.int64))
