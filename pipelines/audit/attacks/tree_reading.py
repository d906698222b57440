"""Read other silos' records out of the sums of a job of trees, and score what was read.

    histograms    `split: best`: bins of all features, and labels (`histograms`)
    leaves        public splits: labels, and intervals of bins (`leaves`)

The attacked records are the silo's own training records, which stand for those of the other silos;
the participant has held-out records. Of a record of which it reads nothing, it guesses the most
frequent bins (`tree_guesses`). The guess from public knowledge, for which the held-out records
stand, is the floor. It is told the label, which favours it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blindsum.pipelines.audit.attacks.forests import job_of
from blindsum.pipelines.audit.attacks.histograms import read_records
from blindsum.pipelines.audit.attacks.leaves import Group, follow_records
from blindsum.pipelines.audit.attacks.reconstruction import SHOWN, Example
from blindsum.pipelines.audit.attacks.single_records import Found, true_records
from blindsum.pipelines.audit.attacks.tree_guesses import (
    Guesses,
    label_of,
    usual,
    usual_with_noise,
)
from blindsum.pipelines.audit.attacks.tree_sums import Seen, noise_of_others, watch
from blindsum.pipelines.audit.evidence import Defence, Evidence, Figure, alike, average, proportion
from blindsum.pipelines.audit.victim import Victim
from blindsum.platform.data.records import Fold
from blindsum.platform.job.trees_section import Boosted
from blindsum.platform.privacy.plan import PrivacyPlan

MOST_TREES = 20
FEW, MOST = 16, 64
"""Records of each silo, if they are few and if they are many."""

PILOT = 1_000_000
"""The seed of a draw that does not count."""

CELLS = 4
"""Numbers of silos times numbers of records. The report shows the worst."""

NEAR = 1e-3
"""How near a number has to be to count as read."""

Bins = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Read:
    """The others' records, what was read or guessed of each, and the guess from public knowledge:
    bins, int64 [records, features]. `alone` are the records that were told apart from all others,
    with their label, bool [records]."""

    true: Bins
    recovered: Bins
    guessed: Bins
    alone: npt.NDArray[np.bool_]

    @classmethod
    def joined(cls, parts: Sequence[Read]) -> Read:
        """Return several as one."""
        names = ("true", "recovered", "guessed", "alone")
        return cls(*(np.concatenate([getattr(one, name) for one in parts]) for name in names))

    def figures(self) -> dict[str, Figure]:
        """Return the scores. The intervals of shares of records hold for all settings at once."""
        right, by_chance = ((one == self.true).mean(1) for one in (self.recovered, self.guessed))
        exact, count = self.alone & (right == 1), len(self.true)
        floor = float((by_chance == 1).mean())
        return {
            "exact records": proportion(int(exact.sum()), count, floor, CELLS),
            "told apart": proportion(int(self.alone.sum()), count, 0.0, CELLS),
            "right bins": average(right.tolist(), float(by_chance.mean())),
        }

    def example(self, title: str) -> Example:
        """Return some records beside what was read of them, which is private to the silo."""
        rows = np.argsort(~self.alone, kind="stable")[:SHOWN]
        true, recovered, guessed = (
            one[rows].astype(np.float64) for one in (self.true, self.recovered, self.guessed)
        )
        return Example(f"{title}: bins", true, recovered, guessed, rows=([], [], []))


def settings(victim: Victim) -> list[tuple[int, int]]:
    """Return the numbers of silos, and of records of each, that are tried. They are powers of two:
    the report must not tell how many records the silo has."""
    found = []
    for silos in (2, max(3, len(victim.job.silos))):
        fit = max(len(victim.data.train) // (silos - 1), 1)
        most = 1 << (fit.bit_length() - 1)
        found += [(silos, size) for size in sorted({min(most, FEW), min(most, MOST)})]
    return found


def reading(
    victim: Victim,
    section: Boosted,
    draws: int,
    limit_s: float = math.inf,
    done: Callable[[], None] = lambda: None,
) -> tuple[list[Evidence], list[Example]]:
    """Return the evidence under each defence, with two silos and with more; and examples, which
    are private to the silo.

    Args:
        draws: of the others' records, for each setting; more if they are few, and fewer where all
            would take more than `limit_s` seconds under a defence.
    """
    evidence, examples = list[Evidence](), list[Example]()
    attack = "histograms" if section.split == "best" else "leaves"
    plans: tuple[tuple[Defence, PrivacyPlan | None], ...] = (("none", None), ("dp", victim.plan))
    each_s = limit_s / len(settings(victim))
    for defence, plan in plans:
        for silos, size in settings(victim):
            started = time.perf_counter()
            read = _read(victim, section, plan, silos, size, draws, each_s)
            setting = f"{silos} silos of {size} records, {_trees(section)} trees"
            seconds, figures = time.perf_counter() - started, read.figures()
            evidence += [
                Evidence(attack, "participant", same, "running", figures, setting, seconds)
                for same in alike(defence)
            ]
            examples.append(read.example(f"{attack}, {setting}, {defence}"))
            done()
    return evidence, examples


def _read(
    victim: Victim,
    section: Boosted,
    plan: PrivacyPlan | None,
    silos: int,
    size: int,
    draws: int,
    limit_s: float,
) -> Read:
    """Return what is read in several draws.

    Draws in which more is read take longer. To end when the time is over would leave them out or
    favour them. So one that does not count is timed, and says how many there will be.
    """
    started = time.perf_counter()
    read_once(victim, section, plan, silos, size, PILOT)
    fit = limit_s / (time.perf_counter() - started)
    wanted = max(draws, -(-MOST * draws // ((silos - 1) * size)))
    seeds = range(int(max(1, min(wanted, fit))))
    return Read.joined([read_once(victim, section, plan, silos, size, seed) for seed in seeds])


def _trees(section: Boosted) -> int:
    return min(section.trees, MOST_TREES)


def read_once(
    victim: Victim, section: Boosted, plan: PrivacyPlan | None, silos: int, size: int, seed: int
) -> Read:
    """Run the first trees of a job on some of the silo's records; return what a participant reads.

    Args:
        size: records of each of the other silos, and of the participant.
    """
    random, data = np.random.default_rng([seed, silos, size]), victim.data
    others, own = _some(data.train, (silos - 1) * size, random), _some(data.test, size, random)
    rounds = _trees(section) * section.exchanges
    seen = watch(job_of(victim.job, plan), section, others, own, plan, rounds, silos)
    true, known = true_records(seen, others), true_records(seen, data.test)
    public = guess = usual(seen, known)
    if section.split != "best":
        groups = follow_records(seen)
    else:
        groups = [Group(b, b, k, y, n) for (b, k, y), n in read_records(seen).items()]
        if plan:
            noise = noise_of_others(plan, silos)
            guess = usual_with_noise(seen, known, true_records(seen, own), noise, len(true))
    return _scored(seen, true, groups, guess, public)


def _some(fold: Fold, count: int, random: np.random.Generator) -> Fold:
    rows = random.permutation(len(fold))[:count]
    return Fold(fold.stored[rows], fold.stored_labels[rows])


def _scored(
    seen: Seen, true: Sequence[Found], groups: Sequence[Group], guess: Guesses, public: Guesses
) -> Read:
    """Compare the others' records with the groups that were read."""
    left, recovered, guessed, alone = [one.count for one in groups], [], [], []
    for record in true:
        bins, output, label = record
        floor = public.get(label_of(seen, record), np.zeros(len(bins), np.int64))
        best, only = guess.get(label_of(seen, record), floor), False
        for i, group in enumerate(groups):
            near = group.output == output and abs(group.label - label) <= NEAR
            if left[i] and near and group.has(bins):
                left[i] -= 1
                best, only = best.clip(group.low, group.high), group.count == 1
                break
        recovered.append(best)
        guessed.append(floor)
        alone.append(only)
    return Read(
        np.array([bins for bins, _, _ in true]), *map(np.array, (recovered, guessed, alone))
    )
