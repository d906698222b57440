"""`blindsum verify`: what a bundle proves, from the bundle and the fingerprints alone.

Nothing is run, and no machine of a silo is asked. What is proved is what the silos' identities
signed: that the files are unchanged, that these identities took part in one key ceremony, that each
computed this very model itself, and what each charged for it. That a silo's books are true is not
proved: a silo that rewrote its own software can sign anything about itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blindsum.pipelines.release.bundle import (
    AUDIT,
    JOB,
    SILOS,
    Bundle,
    Release,
    Signed,
    opened,
    read_bundle,
    sha256,
)
from blindsum.pipelines.release.make import job_of, model_of_release
from blindsum.pipelines.release.rules import CLOSE, object_of, wrong_card, wrong_charges
from blindsum.platform.errors import ModelError
from blindsum.platform.state.approval import job_digest


@dataclass(frozen=True)
class Proof:
    """What a bundle proves, in lines for people, and the signatures by silo.

    `warnings` say what it does not prove although a reader may expect it.
    """

    release: Release
    signed: dict[str, Signed]
    lines: tuple[str, ...]
    warnings: tuple[str, ...]


def verify_release(
    path: Path, known: Mapping[str, str], limits: Mapping[str, float], audited: bool
) -> Proof:
    """Check a bundle.

    Args:
        known: fingerprints of silos' identities, from their owners.
        limits: the highest allowed values of figures of the audit's gate.
        audited: whether there has to be an audit.

    Raises:
        ModelError: names everything that does not fit.
    """
    bundle = read_bundle(path)
    release = bundle.require_whole().predicate
    signed = {
        name.removeprefix(SILOS).removesuffix(".json"): opened(name, content)
        for name, content in bundle.envelopes.items()
    }
    wrong = _signatures(bundle, release, signed) + _identities(signed, known)
    wrong += _contents(bundle, release, signed) + _charges(bundle, release, signed)
    gate, of_gate = _gate(bundle, limits, audited)
    if wrong := [*wrong, *of_gate]:
        raise ModelError(
            f"{path.name} does not hold: {'; '.join(dict.fromkeys(wrong))}",
            "Do not rely on it. Get the bundle again, and the missing signatures from their silos.",
        )
    return Proof(release, signed, _lines(bundle, release, signed, gate), _warnings(signed, known))


def _signatures(bundle: Bundle, release: Release, signed: Mapping[str, Signed]) -> list[str]:
    wrong = [f"silo '{name}' has not signed it" for name in release.silos if name not in signed]
    wrong += [f"'{name}' signed it, and is no silo of the run" for name in signed
              if name not in release.silos]  # fmt: skip
    for name, one in signed.items():
        if one.manifest != sha256(bundle.manifest):
            wrong.append(f"silo '{name}' signed another manifest")
        if one.confirmed.silo != name:
            wrong.append(f"the signature in '{name}' is that of silo '{one.confirmed.silo}'")
    return wrong


def _identities(signed: Mapping[str, Signed], known: Mapping[str, str]) -> list[str]:
    wrong = []
    for name, fingerprint in known.items():
        if name in signed and signed[name].by != fingerprint.lower():
            wrong.append(f"silo '{name}' signed with another identity than the given one")
        if name not in signed:
            wrong.append(f"there is no silo '{name}'")
    for name, one in signed.items():
        for other in signed:
            if one.confirmed.identities.get(other) != signed[other].by:
                wrong.append(f"silo '{name}' knows silo '{other}' by another identity")
    return wrong


def _contents(bundle: Bundle, release: Release, signed: Mapping[str, Signed]) -> list[str]:
    job, (terms, model) = job_of(bundle.files[JOB]), model_of_release(bundle)
    wrong, digest = wrong_card(bundle, job, terms), job_digest(job)
    if (terms.run, terms.round) != (release.run, release.round):
        wrong.append("the model is of another run or round")
    for name, one in signed.items():
        said = one.confirmed
        if (said.run, said.round) != (release.run, release.round):
            wrong.append(f"silo '{name}' confirmed another run or round")
        if said.job != digest:
            wrong.append(f"silo '{name}' joined another job")
        if said.model != model:
            wrong.append(f"silo '{name}' computed another model")
    return wrong


def _charges(bundle: Bundle, release: Release, signed: Mapping[str, Signed]) -> list[str]:
    wrong = []
    for name, one in signed.items():
        said = one.confirmed
        wrong += wrong_charges(bundle, release, name, said.charges)
        spent = [charge.epsilon for charge in said.charges if charge.epsilon is not None]
        if said.epsilon is None and spent:
            wrong.append(f"silo '{name}' charged an epsilon, and reserved none")
        elif said.epsilon is not None and (
            len(spent) < len(said.charges) or max(spent, default=0.0) > said.epsilon * (1 + CLOSE)
        ):
            wrong.append(f"silo '{name}' charged more than its budget")
    return wrong


def _gate(
    bundle: Bundle, limits: Mapping[str, float], audited: bool
) -> tuple[dict[str, float] | None, list[str]]:
    if AUDIT not in bundle.files:
        return None, ["it has no audit"] if audited or limits else []
    gate = object_of(bundle, AUDIT).get("gate")
    if not isinstance(gate, dict) or not all(_is_figure(one) for one in gate.values()):
        return None, [f"{AUDIT} has no gate"]
    wrong = [
        f"the audit's {name} is {gate[name]:g}, above {limit:g}"
        if name in gate
        else f"the audit has no figure {name}"
        for name, limit in limits.items()
        if name not in gate or not gate[name] <= limit
    ]
    if gate.get("protocol.accepted_forgeries", 0) or gate.get("server.planted_weights_accepted", 0):
        wrong.append("the audit found that the protocol accepts forgeries")
    return gate, wrong


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _lines(
    bundle: Bundle, release: Release, signed: Mapping[str, Signed], gate: object
) -> tuple[str, ...]:
    each = [one.confirmed for one in signed.values()]
    budgets = {(one.epsilon, one.delta) for one in each}
    if None in {epsilon for epsilon, _ in budgets}:
        privacy = "WITHOUT differential privacy: the silos reserved no budget"
    else:
        privacy = ", ".join(f"epsilon {e:g} at delta {d:g}" for e, d in sorted(budgets, key=str))
    attempts = [len(one.charges) for one in each]
    approved = sum(one.approved for one in each)
    return (
        f"the {len(bundle.files)} files are those that were signed",
        f"run {release.run}, round {release.round}, Blindsum {release.blindsum}",
        f"signed by all {len(signed)} silos, each with an Ed25519 and an ML-DSA-65 key",
        "they took part in one key ceremony, and know each other by these identities",
        "each joined this job, and computed this model itself, bit by bit",
        f"each reserved its budget before the first round: {privacy}",
        f"each charged every round before it trained ({min(attempts)} to {max(attempts)} attempts)",
        "the stated epsilon of each silo is what it charged",
        f"{approved} of {len(each)} silos ran it under an approval of their owner",
        "an audit is part of it, and holds" if gate is not None else "no audit is part of it",
    )


def _warnings(signed: Mapping[str, Signed], known: Mapping[str, str]) -> tuple[str, ...]:
    found = []
    if unknown := [name for name in signed if name not in known]:
        found.append(
            "compare these fingerprints with their owners; nothing here says whose they are: "
            + ", ".join(f"{name} {signed[name].by}" for name in unknown)
        )
    if any(not one.confirmed.approved for one in signed.values()):
        found.append("silos without an owner's approval are simulated ones, or nobody was asked")
    return tuple(found)


def figures_of(texts: Sequence[str]) -> dict[str, float]:
    """Return limits from FIGURE=NUMBER.

    Raises:
        ModelError: one is not of that form.
    """
    found = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            found[name] = float(number)
        except ValueError:
            raise ModelError(f"{text!r} is no limit", "Write FIGURE=NUMBER.") from None
        if not math.isfinite(found[name]):
            raise ModelError(f"{text!r} is no limit", "Write FIGURE=NUMBER.")
    return found
