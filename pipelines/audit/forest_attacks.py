"""Run the attacks on jobs of trees, instead of those on gradients, and add the findings."""

from __future__ import annotations

import time

from blindsum.pipelines.audit.attacks.forests import forest_section
from blindsum.pipelines.audit.attacks.tree_candidates import CANDIDATES, identify_in_trees
from blindsum.pipelines.audit.attacks.tree_reading import reading, settings
from blindsum.pipelines.audit.evidence import Defence, Evidence, alike
from blindsum.pipelines.audit.outcome import Audit, Watcher
from blindsum.pipelines.audit.victim import Victim
from blindsum.platform.privacy.plan import PrivacyPlan

SKIPPED = (
    "closed form, sparse recovery, matching, imprint, subtraction and a generator: they need a "
    "gradient, and trees have none. What their sums reveal is tested instead"
)


def run(found: Audit, victim: Victim, watcher: Watcher) -> bool:
    """Attack a job of trees; return False if the job is none."""
    section = forest_section(found.job)
    if section is None:
        return False
    found.findings.not_tested.append(SKIPPED)
    if section.split == "best" and section.colsample_bytree < 1:
        found.findings.not_tested.append(
            "histograms: with colsample_bytree below 1 a tree shows some of the features only"
        )
    else:
        watcher.stage("reading records out of sums", 2 * len(settings(victim)))
        depth = found.depth
        evidence, examples = reading(victim, section, depth.victims, depth.limit_s, watcher.step)
        found.findings.evidence += evidence
        found.examples += examples
    watcher.stage("identifying the record among candidates", 2)
    plans: tuple[tuple[Defence, PrivacyPlan | None], ...] = (("none", None), ("dp", found.plan))
    for defence, plan in plans:
        started = time.perf_counter()
        figure = identify_in_trees(victim, section, plan)
        found.findings.evidence += [
            Evidence(
                "candidates",
                "outsider",
                same,
                "all rounds",
                {"right candidate": figure},
                f"one of at most {CANDIDATES} candidates; by anyone who sees the sums, with or "
                "without encryption",
                time.perf_counter() - started,
            )
            for same in alike(defence)
        ]
        watcher.step()
    return True
