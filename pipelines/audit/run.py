"""`blindsum audit`: one silo's owner attacks the job's own model, data and protocol.

It runs on the silo's machine, by its owner, like the ledger's commands: records, and figures by
record, stay in the silo's state folder. The report has figures over many records, which depend on
private data and are not differentially private: whether to show it is the owner's decision.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from blindsum.he.parameters import Parameters
from blindsum.infra.ray_session import ray_session
from blindsum.pipelines.audit import key_recovery, membership, protocol
from blindsum.pipelines.audit.canaries import Bound
from blindsum.pipelines.audit.canaries import audit as audit_canaries
from blindsum.pipelines.audit.candidates import identify
from blindsum.pipelines.audit.evidence import Defence, Evidence, Figure, Findings
from blindsum.pipelines.audit.reconstruction import Example, Reconstruction
from blindsum.pipelines.audit.shadows import mislabelled, shadows
from blindsum.pipelines.audit.stacked import Recipe, stackable
from blindsum.pipelines.audit.victim import Victim
from blindsum.platform.approval import require_approved
from blindsum.platform.data import load_data
from blindsum.platform.errors import JobError
from blindsum.platform.job import Job, LocalNoise
from blindsum.platform.job_file import JobFile
from blindsum.platform.paths import import_from, require_usable, resolve, state_folder
from blindsum.platform.privacy import PrivacyPlan, plan

ASSUMED = LocalNoise(noise="local", epsilon=8.0, delta=1e-5)
"""What "with differential privacy" means for a job that has none."""

FPRS = {"1 %": 0.01, "0.1 %": 0.001, "0": 0.0}


@dataclass(frozen=True)
class Depth:
    """How hard the attacker tries."""

    name: str
    victims: int
    seconds: float
    iterations: int
    batches: tuple[int, ...]
    matched: tuple[int, ...]
    imprinted: tuple[int, ...]
    shadows: int
    canaries: int


QUICK = Depth("quick", 2, 1.0, 200, (1, 4), (1,), (16,), 32, 600)
FULL = Depth("full", 6, 6.0, 1000, (1, 4, 8, 16), (1, 4), (16, 64, 256), 128, 2000)


class Watcher(Protocol):
    """Is told what the audit does."""

    def stage(self, text: str, total: int | None = None) -> None:
        """Something begins, of that many steps."""

    def step(self) -> None:
        """One step of it is done."""


@dataclass
class Audit:
    """What was found about one silo. `examples` and `risks` are the silo's own."""

    job: Job
    silo: str
    depth: Depth
    plan: PrivacyPlan
    findings: Findings = field(default_factory=Findings)
    bounds: dict[str, dict[str, Bound]] = field(default_factory=dict)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    exposures: dict[str, list[float]] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    planted: str = ""
    examples: list[Example] = field(default_factory=list)
    risks: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0))
    seconds: float = 0.0

    @property
    def own(self) -> Defence:
        """Which defence the job itself has."""
        private, encrypted = self.job.private, self.job.encryption.scheme == "ckks"
        return "both" if private and encrypted else "dp" if private else (
            "encrypted" if encrypted else "none"
        )  # fmt: skip

    def gate(self) -> dict[str, float]:
        """The figures that `--fail-on` compares: what the attacks reach against this very job."""
        found: dict[str, float] = {}
        for one in self.findings.evidence:
            if one.defence != self.own:
                continue
            for name, figure in one.figures.items():
                key = f"{one.adversary}.{one.attack}.{name}".lower().replace(" %", "pct")
                key = re.sub(r"[^a-z0-9.]+", "_", key).strip("_")
                value = np.inf if np.isnan(figure.value) else figure.value
                found[key] = max(found.get(key, -np.inf), value)
        for view, bound in self.bounds.get("as planned", {}).items():
            key = f"implementation.canaries.epsilon_{view}".replace(" ", "_")
            found |= {key: bound.epsilon, f"{key}_if_gaussian": bound.gaussian}
        found["server.planted_weights_accepted"] = float(not self.planted)
        found["protocol.accepted_forgeries"] = float(sum(not r for r in self.refusals.values()))
        return found

    def as_dict(self) -> dict[str, Any]:
        """Everything that may leave the silo, if its owner wants it to."""
        return {
            "job": self.job.name, "silo": self.silo, "depth": asdict(self.depth),
            "defence_of_the_job": self.own, "plan": asdict(self.plan),
            "evidence": [one.as_dict() for one in self.findings.evidence],
            "bounds": {k: {v: asdict(b) for v, b in d.items()} for k, d in self.bounds.items()},
            "curves": self.curves, "refusals": self.refusals, "planted_weights": self.planted,
            "not_tested": self.findings.not_tested, "gate": self.gate(),
            "seconds": round(self.seconds, 1),
        }  # fmt: skip


def audit(job_file: JobFile, silo: str, depth: Depth, watcher: Watcher) -> Audit:
    """Run every attack on one silo of this machine.

    Raises:
        BlindsumError: the silo's data, model or plan cannot be used, or a worker failed.
    """
    started, job = time.monotonic(), job_file.job
    section = job_file.silo(silo)
    state = state_folder(section)
    require_usable(state)
    require_approved(state, job)
    import_from(str(job_file.folder))
    watcher.stage("reading the silo's data")
    data = load_data(
        resolve(section.data, str(job_file.folder)), job.data, state / "rejected_rows.txt"
    )
    planned = plan(job, silo) or plan(job.model_copy(update={"privacy": ASSUMED}), silo)
    if planned is None:
        raise JobError("the audit needs a privacy plan")
    found = Audit(job, silo, depth, planned)
    if job.privacy.noise == "none":
        found.findings.not_tested.append(
            f"this job's own privacy: it has none; arms with it assume epsilon {ASSUMED.epsilon:g} "
            f"at delta {ASSUMED.delta:g}"
        )
    victim = Victim(job, silo, data, planned)
    _implementation(found, watcher)
    _cryptography(found, watcher)
    found.planted = _planted_is_refused(state, job)
    _reconstruction(found, victim, watcher)
    _candidates(found, victim, watcher)
    _membership(found, victim, str(job_file.folder), state / "audit", watcher)
    found.findings.not_tested += NOT_TESTED
    found.seconds = time.monotonic() - started
    return found


NOT_TESTED = [
    "a participant that trains a generator against the global model (GAN attack)",
    "memorisation by language models",
    "attackers with several records of one person, or with other silos' data",
    "noise on the counts of privacy.clip_quantile and privacy.metrics_epsilon (by tests alone)",
]


def _implementation(found: Audit, watcher: Watcher) -> None:
    watcher.stage("does the training keep its epsilon?", 2)
    # Fixed before: with a seed the noise could be taken off.
    for name, noise in (("without noise", False), ("as planned", True)):
        found.bounds[name] = audit_canaries(
            found.job, found.plan, found.depth.canaries, noise=noise
        )
        watcher.step()


def _cryptography(found: Audit, watcher: Watcher) -> None:
    watcher.stage("attacking the cryptography", 3)
    job = found.job
    parameters = Parameters.derive(len(job.silos), job.encryption.bits)
    started = time.perf_counter()
    for recovered, defences, note in (
        (key_recovery.usual(len(job.silos)), ("none", "dp"), "plain TenSEAL vectors, float64 sums returned"),
        (key_recovery.exact(len(job.silos)), ("encrypted", "both"), "this job's sums, rounded before anyone sees them"),
    ):  # fmt: skip
        found.findings.evidence += [
            Evidence(
                "key recovery", "aggregator", defence, "",  # type: ignore[arg-type]
                {"share of the key": Figure(recovered.share, floor=0.0)}, note, recovered.seconds,
            )
            for defence in defences
        ]  # fmt: skip
    watcher.step()
    bare, masked = protocol.opened_with_shared_key(parameters)
    for share, defences, note in (
        (bare, ("none", "dp"), "one key for all silos, leaked to the aggregator; no masks"),
        (masked, ("encrypted", "both"), f"the same key leaked; masks inside. Uniform: p = {protocol.uniformity(parameters):.2g}"),
    ):  # fmt: skip
        found.findings.evidence += [
            Evidence(
                "upload opened", "aggregator", defence, "",  # type: ignore[arg-type]
                {"values read": Figure(share, floor=1 / (2 * parameters.limit + 1))},
                note, time.perf_counter() - started,
            )
            for defence in defences
        ]  # fmt: skip
    watcher.step()
    found.refusals = protocol.refusals(parameters)
    watcher.step()


def _planted_is_refused(state: Path, job: Job) -> str:
    """What this very silo says when the job's model comes with other weights; empty: nothing."""
    try:
        require_approved(state, job, "0" * 64)
    except JobError as error:
        return error.what
    return ""


def _reconstruction(found: Audit, victim: Victim, watcher: Watcher) -> None:
    watcher.stage("reading records out of updates")
    depth = found.depth
    tried = Reconstruction(victim, depth.victims, depth.seconds, depth.iterations)
    evidence = tried.server(depth.batches, depth.matched, depth.imprinted)
    participant = tried.participant(1)
    found.findings.evidence += evidence + participant
    found.examples = tried.examples
    found.findings.not_tested += tried.skipped


def _candidates(found: Audit, victim: Victim, watcher: Watcher) -> None:
    watcher.stage("picking the record out of candidates", 2)
    started = time.perf_counter()
    for defence, noise in (("none", False), ("dp", True)):
        figure = identify(victim.model("fresh"), victim.data.train, found.plan, noise=noise)
        for same in (defence, "encrypted" if defence == "none" else "both"):
            found.findings.evidence.append(
                Evidence(
                    "candidates", "outsider", same, "all updates",  # type: ignore[arg-type]
                    {"right candidate": figure},
                    f"of {round(1 / (figure.floor or 1))}; whoever sees the models, encrypted or not",
                    time.perf_counter() - started,
                )
            )  # fmt: skip
        watcher.step()


def _membership(found: Audit, victim: Victim, folder: str, state: Path, watcher: Watcher) -> None:
    job, models = found.job, found.depth.shadows
    if not stackable(job):
        found.findings.not_tested.append(
            "membership inference: shadow models are made of fully connected models alone"
        )
        return
    canaries = mislabelled(job, victim.data)[1]
    folds = (victim.data.train, victim.data.test)  # in their order, unlike the fingerprint
    content = b"".join(f.features.tobytes() + f.labels.tobytes() for f in folds)
    records = hashlib.sha256(content).hexdigest()
    with ray_session(None):
        for defence, recipe in _recipes(found).items():
            shards = -(-models // 16)
            watcher.stage(f"training shadow models, {defence}", shards)
            started = time.perf_counter()
            name = _digest(found, recipe, records)
            seen = shadows(
                job, found.silo, folder, victim.data, state / name, models, recipe, watcher.step
            )
            scored = membership.scores(seen)
            found.curves[defence] = membership.curve(
                scored["lira"][:, ~canaries], seen.members[:, ~canaries]
            )
            risk = membership.exposure(scored["lira"], seen.members)
            counts = np.histogram(risk[~canaries], 20, (0, 1))[0]
            found.exposures[defence] = [round(float(c), 3) for c in counts / counts.sum()]
            if defence == ("dp" if job.private else "none"):
                found.risks = np.where(canaries, np.nan, risk)  # those the audit spoilt itself
            for attack, values in scored.items():
                figures = _rates(values, seen.members, canaries)
                for same in (defence, "encrypted" if defence == "none" else "both"):
                    found.findings.evidence.append(
                        Evidence(
                            attack, "outsider", same, "trained", figures,  # type: ignore[arg-type]
                            f"{models} shadow models, each on half the silo's records",
                            time.perf_counter() - started,
                        )
                    )  # fmt: skip


def _recipes(found: Audit) -> dict[str, Recipe]:
    training, planned = found.job.training, found.plan
    steps = planned.rounds_within_budget * planned.steps_per_round
    bare = Recipe(
        steps, training.sampling_rate, training.expected_batch_size / 2, training.learning_rate
    )
    private = Recipe(
        bare.steps, bare.sampling_rate, bare.divisor, bare.learning_rate,
        planned.clip_norm, planned.update_noise,
    )  # fmt: skip
    return {"none": bare, "dp": private}


def _rates(scores: Any, members: Any, canaries: np.ndarray[Any, Any]) -> dict[str, Figure]:
    own, inside = scores[:, ~canaries], members[:, ~canaries]
    figures = {f"TPR at {n} FPR": membership.rates(own, inside, f) for n, f in FPRS.items()}
    figures["precision at 0.1 % FPR"] = membership.precision(figures["TPR at 0.1 % FPR"], 0.001)
    figures["canaries' TPR at 1 % FPR"] = membership.rates(
        scores[:, canaries], members[:, canaries], 0.01
    )
    return figures


def _digest(found: Audit, recipe: Recipe, records: str) -> str:
    """A folder for shadow models: other data, settings or numbers of models get another."""
    versions = [torch.__version__, version("blindsum"), version("rdkit")]
    told = found.job.model_dump_json()
    content = [told, asdict(recipe), found.depth.shadows, records, versions]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def keep_private(found: Audit, folder: Path) -> Path:
    """Write the most exposed records into the silo's own folder; returns the file's path."""
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
    """Which of the gate's figures pass their limit.

    Raises:
        JobError: there is no such figure.
    """
    gate = found.gate()
    unknown = [key for key in limits if key not in gate]
    if unknown:
        raise JobError(
            f"--fail-on names {unknown[0]!r}, which this audit has no figure for",
            f"There are: {', '.join(sorted(gate))}.",
        )
    return [
        f"{key} is {gate[key]:.4g}, above {limit:g}"
        for key, limit in limits.items()
        if gate[key] > limit
    ]
