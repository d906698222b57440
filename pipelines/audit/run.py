"""`blindsum audit`: one silo's owner attacks the job's own model, data and protocol.

The owner runs it on the silo's machine, like the ledger's commands. Records and figures about
single records stay in the silo's state folder. The report has figures over many records; they
depend on private data and are not differentially private, so the owner decides whether to share it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from blindsum.actors.admission import asks_for_approval
from blindsum.actors.books import Books
from blindsum.he.parameters import Parameters
from blindsum.pipelines.audit import forest_attacks, membership_attack, memorisation_attack
from blindsum.pipelines.audit.attacks import generator, key_recovery, protocol
from blindsum.pipelines.audit.attacks.canaries import audit as audit_canaries
from blindsum.pipelines.audit.attacks.candidates import identify
from blindsum.pipelines.audit.attacks.drawn import attack_drawn
from blindsum.pipelines.audit.attacks.reconstruction import TEXTS, Reconstruction
from blindsum.pipelines.audit.attacks.tradeoff import MOST_STEPS, tradeoff
from blindsum.pipelines.audit.audited import load_audited
from blindsum.pipelines.audit.evidence import Defence, Evidence, Figure, alike
from blindsum.pipelines.audit.outcome import Audit, Depth, Watcher
from blindsum.pipelines.audit.victim import Victim
from blindsum.platform.errors import ConsentError, JobError
from blindsum.platform.job.file import JobFile, require_scored
from blindsum.platform.job.owner import find_owner
from blindsum.platform.job.paths import import_from, require_usable, silo_places
from blindsum.platform.job.privacy_section import LocalNoise
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import plan
from blindsum.platform.state.approval import require_weights
from blindsum.platform.training.models import model_of

ASSUMED = LocalNoise(noise="local", epsilon=8.0, delta=1e-5)
"""The privacy section that the audit assumes for a job without differential privacy."""

SMALL = 1_000_000
"""Parameters below which a model is small."""

OPEN: tuple[Defence, ...] = ("none", "dp")
SEALED: tuple[Defence, ...] = ("encrypted", "both")


def audit(job_file: JobFile, silo: str, depth: Depth, watcher: Watcher) -> Audit:
    """Run every attack on one silo of this machine.

    Raises:
        BlindsumError: the silo's data, model or plan cannot be used, or a worker failed.
    """
    require_scored(job_file.job, "an audit")
    if job_file.job.model.kind == "regression":
        raise JobError(
            "the audit attacks gradients and sums of trees, not yet regressions",
            "What their sums reveal stands in docs/privacy.md.",
        )
    started = time.monotonic()
    import_from(str(job_file.folder))
    with few_threads(job_file.job):
        found = _attacked(job_file, silo, depth, watcher)
    found.findings.not_tested += NOT_TESTED
    found.seconds = time.monotonic() - started
    return found


def _attacked(job_file: JobFile, silo: str, depth: Depth, watcher: Watcher) -> Audit:
    job = job_file.job
    section = job_file.silo(silo)
    places = silo_places(section, str(job_file.folder))
    state = places.state
    require_usable(state)
    watcher.stage("reading the silo's data")
    audited = load_audited(job, silo, places, watcher.share)
    molecules = audited.molecules
    watcher.stage("planning the noise")
    planned = plan(job, silo) or plan(job.model_copy(update={"privacy": ASSUMED}), silo)
    if planned is None:
        raise JobError("the audit needs a privacy plan")
    found = Audit(job, silo, depth, planned)
    if job.privacy.noise == "none":
        found.findings.not_tested.append(
            f"this job's own privacy plan: it has none; the figures with privacy assume epsilon "
            f"{ASSUMED.epsilon:g} at delta {ASSUMED.delta:g}"
        )
    victim = Victim(job, silo, audited.data, planned)
    _about(found, victim, audited.left_out, watcher)
    found.molecules = molecules[0] if molecules else []
    _implementation(found, watcher)
    _cryptography(found, watcher)
    found.planted = _planted_is_refused(state, job, silo)
    if not forest_attacks.run(found, victim, watcher):
        _reconstruction(found, victim, watcher)
        _candidates(found, victim, watcher)
        _generator(found, victim, watcher)
    memorisation_attack.run(
        found, victim, [*molecules[0], *molecules[1]] if molecules else None, watcher
    )
    _tradeoff(found, victim, watcher)
    membership_attack.run(found, victim, str(job_file.folder), state / "audit", watcher)
    return found


@contextmanager
def few_threads(job: Job) -> Iterator[None]:
    """Use one thread for the steps of a small model: more would wait for each other, and on a busy
    machine they take many times as long."""
    before = torch.get_num_threads()
    model = model_of(job, private=False)
    if sum(p.numel() for p in model.parameters()) < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _about(found: Audit, victim: Victim, of_records: tuple[str, ...], watcher: Watcher) -> None:
    """Note what is left out, the score, and what stands for training without privacy."""
    watcher.stage("training the model that stands for no privacy")
    found.findings.not_tested += of_records
    found.score, found.reference = victim.labelling.score_name, victim.reference


NOT_TESTED = [
    "attackers who have several records of one person, or other silos' data",
    "noise on the counts of privacy.clip_quantile and privacy.metrics_epsilon (only unit tests do)",
]


def _implementation(found: Audit, watcher: Watcher) -> None:
    watcher.stage("checking that training stays within its epsilon", 2)
    # The noise is not seeded: noise from a known seed could be subtracted.
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
        (
            key_recovery.usual(len(job.silos)),
            OPEN,
            "plain TenSEAL vectors; the sums are returned as float64",
        ),
        (
            key_recovery.exact(len(job.silos)),
            SEALED,
            "this job's sums, rounded before anyone sees them",
        ),
    ):
        found.findings.evidence += [
            Evidence(
                "key recovery",
                "aggregator",
                defence,
                "",
                {"share of the key": Figure(recovered.share, floor=0.0)},
                note,
                recovered.seconds,
            )
            for defence in defences
        ]
    watcher.step()
    bare, masked = protocol.opened_with_shared_key(parameters)
    for share, defences, note in (
        (bare, OPEN, "the key that all silos share, leaked to the aggregator; no masks"),
        (
            masked,
            SEALED,
            f"same leaked key, masked upload; uniformity p = {protocol.uniformity(parameters):.2g}",
        ),
    ):
        found.findings.evidence += [
            Evidence(
                "upload opened",
                "aggregator",
                defence,
                "",
                {"values read": Figure(share, floor=1 / (2 * parameters.limit + 1))},
                note,
                time.perf_counter() - started,
            )
            for defence in defences
        ]
    watcher.step()
    found.refusals = protocol.refusals(parameters)
    watcher.step()


def _planted_is_refused(state: Path, job: Job, silo: str) -> str:
    """Return this silo's refusal of other weights for the job's model, "" if it accepts them."""
    owner = find_owner()
    if owner is None or not asks_for_approval(owner, job):
        return ""
    books = Books(job, "audit", silo, state, False)
    try:
        require_weights(books.approved(), "0" * 64)
    except ConsentError as error:
        return error.what
    return ""


def _reconstruction(found: Audit, victim: Victim, watcher: Watcher) -> None:
    watcher.stage("reconstructing records from updates")
    depth = found.depth
    tried = Reconstruction(victim, depth.victims, depth.seconds, depth.iterations)
    evidence = tried.server(depth.batches, depth.matched, depth.imprinted)
    participant = tried.participant(1)
    found.findings.evidence += evidence + participant
    found.examples = tried.examples
    found.drawn = attack_drawn(victim, depth.iterations)
    found.findings.not_tested += tried.skipped


def _candidates(found: Audit, victim: Victim, watcher: Watcher) -> None:
    watcher.stage("identifying the record among candidates", 2)
    started = time.perf_counter()
    for defence in OPEN:
        figure = identify(
            victim.model("fresh"),
            victim.data.train,
            found.plan,
            noise=defence == "dp",
            loss=victim.labelling.loss,
        )
        found.findings.evidence += [
            Evidence(
                "candidates",
                "outsider",
                same,
                "all updates",
                {"right candidate": figure},
                f"one of {round(1 / (figure.floor or 1))} candidates; by anyone who sees the "
                "models, with or without encryption",
                time.perf_counter() - started,
            )
            for same in alike(defence)
        ]
        watcher.step()


def _generator(found: Audit, victim: Victim, watcher: Watcher) -> None:
    depth = found.depth
    if not isinstance(victim.features, tuple):
        found.findings.not_tested.append(f"a participant's generator: {TEXTS}")
        return
    if not victim.labelling.has_classes:
        found.findings.not_tested.append(
            "a participant's generator: this job has only numeric tasks, so there is no class to "
            "imitate"
        )
        return
    watcher.stage("training a generator as a participant", 2)
    for defence in OPEN:
        started = time.perf_counter()
        try:
            tried = generator.attack(
                victim,
                depth.federations,
                depth.rounds,
                noise=defence == "dp",
                limit_s=depth.limit_s,
            )
        except RuntimeError as error:  # a factory's model without gradients in its inputs
            found.findings.not_tested.append(
                "a participant's generator: this model does not support it "
                f"({type(error).__name__})"
            )
            return
        watcher.step()
        if tried is None:
            found.findings.not_tested.append(
                "a participant's generator: too few records of the silo's most common class, or "
                "of the other classes"
            )
            return
        found.findings.evidence += [
            Evidence(
                "generator",
                "participant",
                same,
                "running",
                tried.figures,
                f"{depth.federations} pairs of federations, {tried.rounds} of the plan's "
                f"{found.plan.rounds_within_budget} rounds. Real records: Frechet "
                f"{tried.real.frechet:.2f}, precision {tried.real.precision:.2f}; records drawn "
                f"from the class's mean and spread: {tried.mean.frechet:.2f}, "
                f"{tried.mean.precision:.2f}. The model assigns {tried.taken:.0%} of generated "
                f"and {tried.random:.0%} of random records to the class",
                time.perf_counter() - started,
            )
            for same in alike(defence)
        ]


def _tradeoff(found: Audit, victim: Victim, watcher: Watcher) -> None:
    watcher.stage("measuring the cost of privacy")
    points = tradeoff(victim, found.depth.models, found.depth.limit_s)
    if points is None:
        found.findings.not_tested.append(
            f"{found.score} against epsilon: training a model takes more than {MOST_STEPS} steps"
        )
        return
    if not points:
        found.findings.not_tested.append(
            f"{found.score} against epsilon: too few of this silo's held-out records are labelled"
        )
    found.tradeoff = points
