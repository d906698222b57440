"""Run the attacks on what a model remembers of texts and of molecules, and add the findings."""

from __future__ import annotations

import time

from blindsum.pipelines.audit.attacks.exposure import most_allowed
from blindsum.pipelines.audit.attacks.memorisation import memorised
from blindsum.pipelines.audit.attacks.shadow_training import Recipe
from blindsum.pipelines.audit.attacks.text_canaries import ALTERNATIVES, OFTEN, ONCE, exposed
from blindsum.pipelines.audit.evidence import Defence, Evidence, Figure, alike
from blindsum.pipelines.audit.outcome import Audit, Watcher
from blindsum.pipelines.audit.victim import Victim
from blindsum.platform.errors import PrivacyError
from blindsum.platform.job.text_section import Text

PRIVACY: tuple[Defence, ...] = ("none", "dp")


def run(found: Audit, victim: Victim, molecules: list[str] | None, watcher: Watcher) -> None:
    """Attack texts through the job's model, or molecules through a language model of the audit."""
    if isinstance(found.job.data.features, Text):
        _texts(found, victim, watcher)
    elif molecules is not None:
        _molecules(found, molecules, watcher)
    else:
        found.findings.not_tested.append("memorisation: this job's records are not text")


def _texts(found: Audit, victim: Victim, watcher: Watcher) -> None:
    depth = found.depth
    for defence, recipe in _recipes(found, victim).items():
        started = time.perf_counter()
        watcher.stage(f"planting canaries in a copy of the texts, {defence}", depth.models)
        seen = exposed(victim, recipe, depth.models, depth.limit_s, watcher.step)
        if seen is None:
            found.findings.not_tested.append("memorisation: the job's texts are too short")
            return
        setting = (
            f"{seen.models} models of the job's own kind; each with {ONCE} canaries planted once "
            f"and {OFTEN} several times, ranked among {ALTERNATIVES} other texts"
        )
        if defence == "dp":
            most = most_allowed(found.plan.epsilon, found.plan.delta)
            setting += f". The plan's epsilon allows {most:.1f} bits for a text planted once"
        _add(found, defence, "text canaries", "trained", seen.figures, setting, started)


def _molecules(found: Audit, molecules: list[str], watcher: Watcher) -> None:
    watcher.stage("extracting molecules from a language model", 2)
    reading = found.depth.reading
    for defence in PRIVACY:
        started = time.perf_counter()
        try:
            memory = memorised(
                molecules, found.job, found.plan if defence == "dp" else None, reading
            )
        except PrivacyError:
            found.findings.not_tested.append(
                f"memorisation with privacy: the plan's epsilon does not allow {reading.steps} "
                "steps"
            )
            return
        watcher.step()
        if memory is None:
            found.findings.not_tested.append("memorisation: the silo has too few molecules")
            return
        setting = (
            f"the audit's own language model after {reading.steps} steps; {reading.samples} "
            f"sampled texts, of which {memory.readable:.0%} are molecules"
        )
        figures = memory.figures
        _add(found, defence, "memorisation", "language model", figures, setting, started)


def _add(
    found: Audit,
    defence: Defence,
    attack: str,
    model: str,
    figures: dict[str, Figure],
    setting: str,
    started: float,
) -> None:
    seconds = time.perf_counter() - started
    found.findings.evidence += [
        Evidence(attack, "outsider", same, model, figures, setting, seconds)
        for same in alike(defence)
    ]


def _recipes(found: Audit, victim: Victim) -> dict[Defence, Recipe]:
    """Return how the job trains without and with privacy, as if this silo were alone."""
    job, rounds = found.job, found.plan.rounds_within_budget
    return {
        "none": Recipe(job.training, job.server, rounds, victim.without_noise()),
        "dp": Recipe(job.training, job.server, rounds, victim.alone()),
    }
