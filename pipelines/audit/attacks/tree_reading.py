"""Read other silos' records out of the sums of a job of trees, and score what was read.

    histograms    `split: best`: bins of all features, and labels (`histograms`)
    leaves        public splits: labels, and intervals of bins (`leaves`)

The attacked records are the silo's own training records, which stand for those of the other silos;
the participant has held-out records. Where the attack reads nothing of a record, it guesses the most
frequent bins of the record's label: among the held-out records, which stand for public knowledge,
and, from noised histograms, what these add to it. The guess from public knowledge is the floor. It
is told the label, which favours it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from blindsum.pipelines.audit.attacks.forests import job_of
from blindsum.pipelines.audit.attacks.histograms import read_records
from blindsum.pipelines.audit.attacks.leaves import Group, follow_records
from blindsum.pipelines.audit.attacks.reconstruction import SHOWN, Example
from blindsum.pipelines.audit.attacks.single_records import Found, Singles, true_records
from blindsum.pipelines.audit.attacks.tree_sums import Seen, watch
from blindsum.pipelines.audit.evidence import Defence, Evidence, Figure, alike, average, proportion
from blindsum.pipelines.audit.victim import Victim
from blindsum.platform.data.records import Fold
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.training.trees.boosting import UNIT

MOST_TREES = 20
FEW, MOST = 16, 64
"""Records of each silo: of few records and of many."""

CELLS = 4
"""Numbers of silos times numbers of records. The report shows the worst."""

NEAR = 1e-3
"""How near a number has to be to count as read."""

Bins = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Read:
    """The others' records, what was read or guessed of each, and the guess from public knowledge:
    bins, [records, features]. `alone`: which were told apart from all others."""

    true: Bins
    recovered: Bins
    guessed: Bins
    alone: npt.NDArray[np.bool_]


def reading(
    victim: Victim, draws: int, done: Callable[[], None] = lambda: None
) -> tuple[list[Evidence], list[Example]]:
    """Return the evidence under each defence, with two silos and with more, and examples, which
    are private to the silo.

    Args:
        draws: of others' records, for each setting.
    """
    evidence, examples = list[Evidence](), list[Example]()
    plans: tuple[tuple[Defence, PrivacyPlan | None], ...] = (("none", None), ("dp", victim.plan))
    for defence, plan in plans:
        for silos, size in settings(victim):
            started = time.perf_counter()
            reads = [read_once(victim, plan, silos, size, seed) for seed in range(draws)]
            whole = Read(
                *(
                    np.concatenate([getattr(one, name) for one in reads])
                    for name in ("true", "recovered", "guessed", "alone")
                )
            )
            attack, trees, seconds = attack_on(victim), _trees(victim), time.perf_counter() - started
            setting = f"{silos} silos of {size} records, {trees} trees"
            figures = figures_of(whole)
            evidence += [
                Evidence(attack, "participant", same, "running", figures, setting, seconds)
                for same in alike(defence)
            ]
            examples.append(_example(f"{attack}, {setting}, {defence}", whole))
            done()
    return evidence, examples


def attack_on(victim: Victim) -> str:
    """Return the name of the attack that the job's splits allow."""
    section: Any = victim.job.model
    return "histograms" if section.split == "best" else "leaves"


def settings(victim: Victim) -> list[tuple[int, int]]:
    """Return the numbers of silos, and of records of each, that are tried. Powers of two: the
    report must not tell how many records the silo has."""
    silos = max(3, len(victim.job.silos))
    most = len(victim.data.train) // (silos - 1)
    sizes = sorted({min(2 ** int(np.log2(max(most, 1))), size) for size in (FEW, MOST)})
    return [(count, size) for size in sizes for count in (2, silos)]


def _trees(victim: Victim) -> int:
    section: Any = victim.job.model
    return min(int(section.trees), MOST_TREES)


def read_once(
    victim: Victim, plan: PrivacyPlan | None, silos: int, size: int, seed: int
) -> Read:
    """Run the first trees of a job on some of the silo's records; return what a participant reads.

    Args:
        size: records of each of the other silos, and of the participant.
    """
    random = np.random.default_rng([seed, silos, size])
    section: Any = victim.job.model
    others = _some(victim.data.train, (silos - 1) * size, random)
    own = _some(victim.data.test, size, random)
    seen = watch(
        job_of(victim.job, plan), others, own, plan, _trees(victim) * section.exchanges, silos
    )
    true, public = true_records(seen, others), _usual(seen, true_records(seen, victim.data.test))
    guess = public
    if section.split == "best":
        groups = [Group(b, b, k, y, n) for (b, k, y), n in read_records(seen).items()]
        if plan:
            guess = _from_noise(seen, true_records(seen, own), victim, silos, len(true))
    else:
        groups = follow_records(seen)
    return _scored(seen, true, groups, guess, public)


def _some(fold: Fold, count: int, random: np.random.Generator) -> Fold:
    rows = random.permutation(len(fold))[:count]
    return Fold(fold.stored[rows], fold.stored_labels[rows])


Usual = dict[tuple[int, float], Bins]
"""By output and label, the most frequent bin of each feature; numbers have one label."""


def _kind(seen: Seen, record: tuple[int, float]) -> tuple[int, float]:
    """Return a record's output, and its label or 0 for a number."""
    tasks = list((seen.job.data.tasks or {}).values())
    numeric = bool(tasks) and tasks[record[0]].kind != "binary"
    return record[0], 0.0 if numeric else record[1]


def _frequencies(seen: Seen, records: Sequence[Found]) -> dict[tuple[int, float], Any]:
    """Return how often each bin of each feature is, by output and label, [F, B]."""
    shape = len(seen.boosting.bins), seen.boosting.bins.most
    found: dict[tuple[int, float], Any] = defaultdict(lambda: np.zeros(shape))
    for bins, output, label in records:
        found[_kind(seen, (output, label))][np.arange(shape[0]), list(bins)] += 1
    return found


def _usual(seen: Seen, records: Sequence[Found]) -> Usual:
    return {kind: one.argmax(1) for kind, one in _frequencies(seen, records).items()}


def _from_noise(
    seen: Seen, own: Sequence[Found], victim: Victim, silos: int, count: int
) -> Usual:
    """Return the most frequent bins of each label that noised histograms make likely.

    The histograms of all trees' roots are, but for noise, the number of records of each label times
    what such a record adds; that is known from the participant's own records. The least squares'
    solution for each bin is weighed against public knowledge by both variances.
    """
    assert seen.plan is not None
    public = _frequencies(seen, true_records(seen, victim.data.test))
    times = 1.0 if seen.plan.share is not None else np.sqrt(silos - 1)
    noise = seen.plan.update_noise * seen.plan.clip_norm * times / UNIT
    roots = range(1, len(seen.sums) + 1, seen.boosting.section.exchanges)
    usual = _usual(seen, true_records(seen, victim.data.test))
    for place, output in enumerate(seen.boosting.grown):
        singles, kinds, adds = Singles(seen, place), list[tuple[int, float]](), []
        for kind in sorted(kind for kind in public if kind[0] == output):
            of_kind = [one for one in own if _kind(seen, one[1:]) == kind]
            if of_kind:
                sums = seen.replayed(singles.fold(of_kind), roots)
                adds.append(np.stack([one[place][0, 0].sum(0) for one in sums]) / len(of_kind))
                kinds.append(kind)
        if not kinds:
            continue
        design = np.stack(adds, -1).reshape(-1, len(kinds))  # [roots x 2, kinds]
        got = np.stack([seen.sums[round - 1][place][0] for round in roots])  # [roots, F, B, 2]
        inverse = np.linalg.pinv(design.T @ design)
        counts = np.einsum("ki,if->kf", inverse @ design.T, _flat(got))
        counts = counts.reshape(len(kinds), *got.shape[1:3])
        whole = sum(one[0].sum() for one in public.values())
        for i, kind in enumerate(kinds):
            expected = (public[kind] + 0.5) / whole * count
            known, read = 1 / (expected + 1), 1 / (noise**2 * max(inverse[i, i], 1e-300))
            usual[kind] = ((expected * known + counts[i] * read) / (known + read)).argmax(1)
    return usual


def _flat(got: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return [roots x 2, F x B] of [roots, F, B, 2]."""
    return np.moveaxis(got, -1, 1).reshape(2 * len(got), -1)


def _scored(
    seen: Seen, true: Sequence[Found], groups: Sequence[Group], guess: Usual, public: Usual
) -> Read:
    """Return what was read of each of the others' records."""
    left, recovered, guessed, alone = [one.count for one in groups], [], [], []
    low, high = (np.array([getattr(g, name) for g in groups]) for name in ("low", "high"))
    labels = np.array([(g.output, g.label) for g in groups])
    for bins, output, label in true:
        kind = _kind(seen, (output, label))
        floor = public.get(kind, np.zeros(len(bins), np.int64))
        inside = [
            i
            for i in (np.flatnonzero(((low <= bins) & (bins <= high)).all(1)) if groups else ())
            if left[i] and labels[i, 0] == output and abs(labels[i, 1] - label) <= NEAR
        ]
        best = guess.get(kind, floor)
        if inside:
            left[inside[0]] -= 1
            best = best.clip(low[inside[0]], high[inside[0]])
        recovered.append(best)
        guessed.append(floor)
        alone.append(bool(inside) and groups[inside[0]].count == 1)
    return Read(
        np.array([bins for bins, _, _ in true]),
        np.array(recovered),
        np.array(guessed),
        np.array(alone),
    )


def figures_of(read: Read) -> dict[str, Figure]:
    """Return the scores, with intervals that hold for all settings at once."""
    same, by_chance = (
        (one == read.true).mean(1) for one in (read.recovered, read.guessed)
    )
    count = len(read.true)
    return {
        "exact records": proportion(
            int((read.alone & (same == 1)).sum()), count, float((by_chance == 1).mean()), CELLS
        ),
        "told apart": proportion(int(read.alone.sum()), count, 0.0, CELLS),
        "right bins": average(same.tolist(), float(by_chance.mean())),
    }


def _example(title: str, read: Read) -> Example:
    order = np.argsort(~read.alone, kind="stable")[:SHOWN]
    shown = (one[order].astype(np.float64) for one in (read.true, read.recovered, read.guessed))
    return Example(f"{title}: bins of all features", *shown, rows=([], [], []))
