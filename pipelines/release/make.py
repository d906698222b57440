"""`blindsum release create` and `sign`: the bundle, and what a silo confirms of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from blindsum import __version__
from blindsum.actors.books import AUDIT_LOG, LEDGER
from blindsum.actors.vault import open_identity
from blindsum.pipelines.release.bundle import (
    AUDIT,
    CARD,
    JOB,
    MODEL,
    SBOM,
    SILOS,
    STATEMENT,
    SUMMARY,
    Bundle,
    Charge,
    Confirmed,
    Release,
    envelope_of,
    manifest_of,
    read_bundle,
)
from blindsum.pipelines.release.card import model_card
from blindsum.pipelines.release.rules import wrong_card, wrong_charges
from blindsum.pipelines.release.sbom import bill_of_materials
from blindsum.platform.errors import BlindsumError, JobError, LedgerError, ModelError
from blindsum.platform.job.file import load_job
from blindsum.platform.job.paths import state_folder
from blindsum.platform.job.schema import Job
from blindsum.platform.prediction.released import Terms, read_released
from blindsum.platform.state.approval import job_digest
from blindsum.platform.state.audit_log import AuditLog, Event
from blindsum.platform.state.ledger import Ledger
from blindsum.platform.training.models import get_parameters
from blindsum.platform.training.vector import digest

_KEPT = (
    "run", "status", "ended", "rounds", "rounds_planned", "metrics", "retries", "lost", "epsilon",
    "delta", "metrics_epsilon", "model_round", "model_digest", "model_average",
)  # fmt: skip
"""Of a run's summary. The rest are seconds, bytes, and paths of the machine."""


def make_release(folder: Path, to: Path, audit: Path | None) -> Bundle:
    """Write the bundle of a completed run, which no silo has signed yet.

    Args:
        folder: the run's.
        audit: the JSON report of an audit of the job.

    Raises:
        JobError, ModelError: the run has no model, did not complete, or its files do not fit.
    """
    if to.exists():
        raise JobError(f"{to} already exists", "Name another file.")
    files = {name: _read(folder / name) for name in (MODEL, JOB, STATEMENT)}
    whole = _as_json(_read(folder / SUMMARY), SUMMARY)
    summary = {name: value for name, value in whole.items() if name in _KEPT}
    if summary.get("status") != "FINISHED":
        raise JobError(
            f"the run {folder.name} did not complete ({summary.get('status', 'unknown')})",
            "Release a run whose rounds are all completed.",
        )
    released = read_released(folder / MODEL)
    files |= {SUMMARY: json.dumps(summary, indent=1).encode(), SBOM: bill_of_materials()}
    job, terms = job_of(files[JOB]), released.terms
    if job.model.lora:
        raise JobError(
            "adapters were added to the weights of this model, so no silo computed its digest",
            "Runs with model.lora cannot be released yet.",
        )
    if lost := summary.get("lost"):
        raise JobError(
            f"the run lost {', '.join(lost)}, who cannot confirm the model",
            "Only runs that all silos completed can be released.",
        )
    statement = _as_json(files[STATEMENT], STATEMENT)
    files[CARD] = model_card(job, terms, summary, statement).encode()
    if audit is not None:
        files[AUDIT] = _read(audit)
        _as_json(files[AUDIT], audit.name)
    release = Release(
        run=terms.run, round=terms.round, blindsum=__version__, silos=list(job.roster)
    )
    made = Bundle(files, manifest_of(files, release), {})
    _write(made, to)
    return made


def sign_release(path: Path, job_path: Path, silo: str) -> Confirmed:
    """Add a silo's signature to a bundle, on its own machine, if its own books confirm it.

    Args:
        job_path: the job file, which says where the silo's state is.

    Raises:
        ModelError: the bundle was altered, or does not fit what the silo's books say.
        LedgerError: the silo's books cannot be used, or say nothing of this run.
    """
    bundle = read_bundle(path)
    said = bundle.require_whole().predicate
    state = state_folder(load_job(job_path, []).silo(silo))
    for name in (LEDGER, AUDIT_LOG):
        if not (state / name).exists():
            raise LedgerError(
                f"silo '{silo}' has no {name} in {state}", "Sign on the silo's own machine."
            )
    identity = open_identity(state)
    audit_log = AuditLog(state / AUDIT_LOG, silo, identity)
    confirmed = _confirmed(bundle, said, silo, Ledger(state / LEDGER, silo, identity), audit_log)
    envelope = envelope_of(confirmed, bundle.manifest, identity)
    envelopes = bundle.envelopes | {f"{SILOS}{silo}.json": envelope}
    _write(Bundle(bundle.files, bundle.manifest, dict(sorted(envelopes.items()))), path)
    return confirmed


def job_of(content: bytes) -> Job:
    """Return the job of a bundle.

    Raises:
        ModelError: it cannot be read.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / JOB
        path.write_bytes(content)
        try:
            return load_job(path, []).job
        except BlindsumError as error:
            raise ModelError(f"{JOB} of the release cannot be read: {error.what}") from None


def model_of_release(bundle: Bundle) -> tuple[Terms, str]:
    """Return the terms of a bundle's model, and the digest of its parameters."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / MODEL
        path.write_bytes(bundle.files[MODEL])
        released = read_released(path)
    return released.terms, digest(get_parameters(released.model))


def _confirmed(
    bundle: Bundle, said: Release, silo: str, ledger: Ledger, audit_log: AuditLog
) -> Confirmed:
    """Return what the silo's books confirm.

    Raises:
        LedgerError: they say nothing of the run.
        ModelError: the bundle says something else.
    """
    events, entries = audit_log.of_run(said.run), ledger.entries(said.run)
    joined, ended = _newest(events, "joined"), _newest(events, "ended")
    reserved = next((e for e in entries if e.kind in ("reserve", "unprotected")), None)
    if joined is None or ended is None or reserved is None:
        raise LedgerError(
            f"silo '{silo}' has not completed the run {said.run}, says its own audit log",
            "Only silos that took part to the end can confirm a release.",
        )
    epsilon = reserved.epsilon if reserved.kind == "reserve" else None
    kind = "charge" if epsilon is not None else "attempt"
    charges = [Charge(round=e.round, attempt=e.attempt, epsilon=e.epsilon)
               for e in entries if e.kind == kind]  # fmt: skip
    _require(bundle, said, silo, joined, ended, charges)
    return Confirmed(
        silo=silo,
        run=said.run,
        job=joined.detail["job_digest"],
        model=ended.detail["model"],
        round=ended.round,
        epsilon=epsilon,
        delta=reserved.delta if epsilon is not None else None,
        charges=charges,
        identities=joined.detail["identities"],
        ledger=ledger.chain.head(),
        audit_log=audit_log.chain.head(),
        approved=any(e.kind == "begun" for e in entries),
    )


def _require(
    bundle: Bundle, said: Release, silo: str, joined: Event, ended: Event, charges: list[Charge]
) -> None:
    """Check a bundle against a silo's books; names everything that differs."""
    (terms, model), job = model_of_release(bundle), job_of(bundle.files[JOB])
    wrong = wrong_charges(bundle, said, silo, charges) + wrong_card(bundle, job, terms)
    if job_digest(job) != joined.detail["job_digest"]:
        wrong.append("the job is not the one that this silo joined")
    own = (said.run, ended.round, ended.detail["model"])
    if (terms.run, terms.round, model) != own or said.round != ended.round:
        wrong.append("the model is not the one that this silo computed")
    if sorted(said.silos) != sorted(joined.detail["roster"]):
        wrong.append("the silos are not those of the run")
    if wrong:
        raise ModelError(
            f"silo '{silo}' does not confirm this release: {'; '.join(wrong)}",
            "Do not sign it. Ask whoever made the bundle for the run's own files.",
        )


def _newest(events: list[Event], kind: str) -> Event | None:
    return next((one for one in reversed(events) if one.kind == kind), None)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise JobError(
            f"{path} cannot be read: {error.strerror}", "Name the folder of a completed run."
        ) from None


def _as_json(content: bytes, name: str) -> Mapping[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise JobError(f"{name} is not an object in JSON", "Name the file that Blindsum wrote.")
    return found


def _write(bundle: Bundle, path: Path) -> None:
    try:
        bundle.write(path)
    except OSError as error:
        raise JobError(f"{path} cannot be written: {error.strerror}") from None
