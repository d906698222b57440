"""What `blindsum features` compares: representations of molecules, each with a few settings.

The settings are few on purpose. Every one is a chance to choose what fits the public records by
luck, and with features this small they matter less than the features do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from blindsum.platform.errors import JobError

REPRESENTATIONS: dict[str, dict[str, Any]] = {
    "physchem": {"kind": "descriptors", "descriptors": "physchem"},
    "physchem-esol": {"kind": "descriptors", "descriptors": "physchem", "scaling": "esol-1"},
    "pharmacophore": {"kind": "descriptors", "descriptors": "pharmacophore"},
    "descriptors": {"kind": "descriptors", "descriptors": "all"},
    "kernel-32": {"kind": "kernel", "dimensions": 32},
    "kernel-64": {"kind": "kernel", "dimensions": 64},
    "kernel-128": {"kind": "kernel", "dimensions": 128},
    "maccs": {"kind": "maccs"},
    "projection-64": {"kind": "projection", "dimensions": 64},
    "projection-256": {"kind": "projection", "dimensions": 256},
    "ecfp-2048": {"kind": "ecfp", "bits": 2048},
}
"""Sections `data.features` by name, without the column of SMILES. physchem-esol is scaled as small
molecules are, all other descriptors as drug-like ones."""

HIDDEN, RATES, UNCLIPPED_RATES = 32, (1.0, 4.0), (0.1, 0.3, 1.0)
"""Clipping makes all gradients alike. Without privacy, those of many tasks add up."""

ROUNDS, SAMPLING_RATE = 60, 0.5
"""Few steps on large samples: under one budget they need the least noise for each record."""


@dataclass(frozen=True)
class Setting:
    """A model and a learning rate, in one representation; `rounds` are ROUNDS by default."""

    representation: str
    hidden: int
    learning_rate: float
    rounds: int | None = None

    @property
    def name(self) -> str:
        """The model and the learning rate in words."""
        model = f"mlp {self.hidden}" if self.hidden else "linear"
        rounds = f", {self.rounds} rounds" if self.rounds else ""
        return f"{model}, learning rate {self.learning_rate:g}{rounds}"

    @property
    def model(self) -> dict[str, Any]:
        """The section `model`."""
        if not self.hidden:
            return {"kind": "linear"}
        return {"kind": "mlp", "hidden": [self.hidden], "activation": "tanh"}


def settings_of(names: Sequence[str], epsilon: float | None) -> list[Setting]:
    """Return every setting of these representations, all of one after the other.

    Args:
        names: all, if there are none.
        epsilon: None without privacy.

    Raises:
        JobError: there is no representation of that name.
    """
    if unknown := [name for name in names if name not in REPRESENTATIONS]:
        raise JobError(
            f"unknown features {unknown[0]!r}", f"There are {', '.join(REPRESENTATIONS)}."
        )
    rates = RATES if epsilon else UNCLIPPED_RATES
    return [Setting(*one) for one in product(names or REPRESENTATIONS, (0, HIDDEN), rates)]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The job that is planned: its silos, what each of them trains on, and its budget.

    Attributes:
        records: training records of one silo; None for as many as the public records give.
        epsilon: None compares without privacy.
    """

    silos: int
    records: int | None
    epsilon: float | None
    delta: float
    smiles: str = "smiles"
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)

    def sections(self, setting: Setting, records: float) -> dict[str, Any]:
        """Return the sections of the job that a setting stands for: what to write into the job
        file.

        Args:
            records: training records of one silo.
        """
        features = {**REPRESENTATIONS[setting.representation], "smiles": self.smiles}
        privacy = {"noise": "shared", "epsilon": self.epsilon, "delta": self.delta}
        return {
            "data": {"features": features, "unparsable": "drop"},
            "model": setting.model,
            "training": {
                "rounds": setting.rounds or ROUNDS,
                "local_steps": 1,
                "sampling_rate": SAMPLING_RATE,
                "expected_batch_size": max(1, round(SAMPLING_RATE * records)),
                "learning_rate": setting.learning_rate,
            },
            "server": {"optimizer": "momentum", "learning_rate": 0.3},
            "privacy": privacy if self.epsilon else {"noise": "none"},
        }

    def job(self, setting: Setting, records: float, seed: int) -> dict[str, Any]:
        """Return the whole job, over silos without tables."""
        sections = self.sections(setting, records)
        folds = {"kind": "scaffold", "salt": "public"}
        return {
            **sections,
            "name": "features",
            "seed": seed,
            "silos": [{"name": f"silo-{i}", "data": f"public-{i}"} for i in range(self.silos)],
            "data": sections["data"] | {"tasks": self.tasks, "folds": folds},
        }
