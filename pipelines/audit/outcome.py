"""The result of auditing one silo: the attacker's effort, the figures, and the gate."""

from __future__ import annotations

import csv
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from blindsum.pipelines.audit.attacks.canaries import Bound
from blindsum.pipelines.audit.attacks.drawn import Drawn
from blindsum.pipelines.audit.attacks.memorisation import Reading
from blindsum.pipelines.audit.attacks.reconstruction import Example
from blindsum.pipelines.audit.attacks.tradeoff import Point
from blindsum.pipelines.audit.evidence import Defence, Findings
from blindsum.platform.errors import JobError
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import PrivacyPlan


class Watcher(Protocol):
    """Receives the audit's progress."""

    def stage(self, text: str, total: int | None = None) -> None:
        """Begin a stage of `total` steps."""

    def step(self) -> None:
        """Complete one step of the stage."""

    def share(self, share: float) -> None:
        """Note how much of the stage is done, 0 to 1."""


@dataclass(frozen=True)
class Depth:
    """The attacker's effort.

    `victims` batches per reconstruction attack, with `seconds` of search for each and `iterations`
    of matching; `batches`, `matched` and `imprinted` are batch sizes. `shadows` shadow models,
    `canaries`, `federations` with a generator and their `rounds`, `reading` for the language model,
    and `models` for each epsilon.

    Where the job's model is slow to train, `limit_s` seconds bound the shadow models, and the
    generator, under each defence, and the models for all epsilons: fewer are trained then.
    """

    name: str
    victims: int
    seconds: float
    iterations: int
    batches: tuple[int, ...]
    matched: tuple[int, ...]
    imprinted: tuple[int, ...]
    shadows: int
    canaries: int
    federations: int
    rounds: int
    reading: Reading
    models: int
    limit_s: float


QUICK = Depth(
    "quick",
    2,
    1.0,
    200,
    (1, 4),
    (1,),
    (16,),
    32,
    600,
    federations=3,
    rounds=100,
    reading=Reading(250, 2000),
    models=5,
    limit_s=30.0,
)
FULL = Depth(
    "full",
    6,
    6.0,
    1000,
    (1, 4, 8, 16),
    (1, 4),
    (16, 64, 256),
    128,
    2000,
    federations=8,
    rounds=300,
    reading=Reading(500, 8000),
    models=10,
    limit_s=600.0,
)


@dataclass
class Audit:
    """The findings about one silo.

    `examples`, `molecules` and `risks` are private to the silo; `score` names the score in
    `tradeoff`; `planted` is the silo's refusal of planted weights, empty if it accepts them;
    `reference` says what stands for training without privacy; `drawn` are the audit's own pictures.
    """

    job: Job
    silo: str
    depth: Depth
    plan: PrivacyPlan
    findings: Findings = field(default_factory=Findings)
    bounds: dict[str, dict[str, Bound]] = field(default_factory=dict)
    curves: dict[Defence, list[tuple[float, float]]] = field(default_factory=dict)
    exposures: dict[Defence, list[float]] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    planted: str = ""
    reference: str = ""
    drawn: list[Drawn] = field(default_factory=list)
    score: str = "accuracy"
    tradeoff: list[Point] = field(default_factory=list)
    molecules: list[str] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    risks: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0))
    seconds: float = 0.0

    @property
    def own(self) -> Defence:
        """Return the defence that the job itself has."""
        private, encrypted = self.job.private, self.job.encryption.scheme == "ckks"
        return (
            "both"
            if private and encrypted
            else "dp"
            if private
            else ("encrypted" if encrypted else "none")
        )

    def gate(self) -> dict[str, float]:
        """Return the figures that `--fail-on` compares: the worst against the job's own defence."""
        found: dict[str, float] = {}
        for one in self.findings.evidence:
            if one.defence != self.own or one.attack in OF_ANOTHER_MODEL:
                continue
            for name, figure in one.figures.items():
                if figure.less:
                    continue
                key = gate_key(f"{one.adversary}.{one.attack}.{name}")
                value = np.inf if np.isnan(figure.value) else figure.value
                found[key] = max(found.get(key, -np.inf), float(value))
        for view, bound in self.bounds.get("as planned", {}).items():
            key = f"implementation.canaries.epsilon_{view}".replace(" ", "_")
            found |= {key: bound.epsilon, f"{key}_if_gaussian": bound.gaussian}
        found["server.planted_weights_accepted"] = float(not self.planted)
        found["protocol.accepted_forgeries"] = float(sum(not r for r in self.refusals.values()))
        return {key: round(value, 3) for key, value in found.items()}

    def as_dict(self) -> dict[str, Any]:
        """Return everything that may leave the silo, if its owner agrees."""
        return {
            "job": self.job.name,
            "silo": self.silo,
            "depth": asdict(self.depth),
            "defence_of_the_job": self.own,
            "plan": asdict(self.plan),
            "evidence": _rounded([one.as_dict() for one in self.findings.evidence]),
            "bounds": {k: {v: asdict(b) for v, b in d.items()} for k, d in self.bounds.items()},
            "score": self.score,
            "score_by_epsilon": _rounded([asdict(point) for point in self.tradeoff], 2),
            "curves": _rounded(self.curves, 4),
            "refusals": self.refusals,
            "planted_weights": self.planted,
            "without_privacy": self.reference,
            "not_tested": self.findings.not_tested,
            "gate": self.gate(),
            "seconds": round(self.seconds, 1),
        }


OF_ANOTHER_MODEL = ("memorisation",)
"""Attacks on a model other than the job's: the gate leaves them out."""


def _rounded(content: Any, digits: int = 3) -> Any:
    """Round all numbers: the exact digits of a share would reveal the number of records."""
    if isinstance(content, dict):
        return {key: _rounded(value, digits) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_rounded(value, digits) for value in content]
    return round(content, digits) if isinstance(content, float) else content


def gate_key(text: str) -> str:
    """Return a figure's key in the gate."""
    return re.sub(r"[^a-z0-9.]+", "_", text.lower().replace(" %", "pct")).strip("_")


def keep_private(found: Audit, folder: Path) -> Path:
    """Write the exposure of all records but the canaries, highest first; return the file's path."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "exposed_records.csv"
    opened = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with open(opened, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["position_among_training_records", "chance_to_tell_that_it_is_in"])
        ranked = np.argsort(-np.nan_to_num(found.risks, nan=-1.0))
        for record in ranked[: int(np.isfinite(found.risks).sum())]:
            writer.writerow([int(record), f"{found.risks[record]:.3f}"])
    return path


def exceeded(found: Audit, limits: dict[str, float]) -> list[str]:
    """Return a message for each of the gate's figures that exceeds its limit.

    Raises:
        JobError: a limit names a figure that this audit does not have.
    """
    gate = found.gate()
    unknown = [key for key in limits if key not in gate]
    if unknown:
        raise JobError(
            f"--fail-on names {unknown[0]!r}, a figure that this audit does not have",
            f"It has: {', '.join(sorted(gate))}.",
        )
    return [
        f"{key} {gate[key]:.4g} > {limit:g}" for key, limit in limits.items() if gate[key] > limit
    ]
