"""Test whether the job's model gives away texts that it was trained on, by planted canaries.

Carlini, Liu, Erlingsson, Kos and Song, "The secret sharer", USENIX Security 2019. Canaries are
random signs, as keys and passwords are. They join a copy of the silo's training records in memory,
each with a random label, so that no sign tells the label: only a model that remembers a canary
knows it. The adversary has the released model and no more. It ranks the canary's loss among those
of other random signs with the same label (`blindsum.pipelines.audit.attacks.exposure`).

A classifier tells less about its texts than a language model does: of a canary it only knows which
label it goes with.

Half of the canaries are planted once, the others REPEATED times: texts that a silo has several
times are remembered sooner, and an epsilon of single records protects them less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from blindsum.pipelines.audit.attacks.exposure import Reals, exposures, median_exposure
from blindsum.pipelines.audit.attacks.shadow_training import Recipe, seconds_of_one, trained
from blindsum.pipelines.audit.evidence import Figure
from blindsum.pipelines.audit.victim import Victim
from blindsum.platform.data.ragged import Bytes
from blindsum.platform.data.records import Fold, Stored, stacked
from blindsum.platform.job.text_section import Text

ONCE, OFTEN, REPEATED = 16, 16, 8
ALTERNATIVES = 1000
"""Texts among which a canary is ranked: exposures reach 10 bits."""

SIGNS = "".join(map(chr, range(33, 127)))
LONGEST, SHORTEST = 64, 6
"""Bytes of a canary, and of the shortest texts in which canaries are many enough."""


@dataclass(frozen=True)
class Canaries:
    """Canaries, then ALTERNATIVES more texts of the same kind, and the canaries' classes."""

    texts: Stored
    classes: np.ndarray

    @property
    def count(self) -> int:
        """The number of canaries."""
        return len(self.classes)


@dataclass(frozen=True)
class Exposed:
    """The exposure of canaries planted once and of those planted REPEATED times, over `models`."""

    figures: dict[str, Figure]
    models: int


def exposed(
    victim: Victim,
    recipe: Recipe,
    models: int,
    limit_s: float,
    done: Callable[[], None] = lambda: None,
) -> Exposed | None:
    """Return the canaries' exposure by models that the recipe trains.

    The result is None if the job's texts are shorter than SHORTEST bytes.

    Args:
        models: the most models, each with canaries of its own; fewer where they would take more
            than `limit_s` seconds.
        done: called after each model.
    """
    section = victim.job.data.features
    if not isinstance(section, Text) or section.length < SHORTEST:
        return None
    each = seconds_of_one(victim.job, victim.data.train, recipe, victim.labelling.loss)
    models = max(int(min(models, limit_s / each)), 1)
    once, often = [], []
    for number in range(models):
        random = np.random.default_rng([17, number])
        canaries = made_up(section.length, random)
        planted = with_canaries(victim, canaries)
        model = trained(victim.job, planted, recipe, victim.labelling.loss, random)
        found = _exposures(model, victim, canaries)
        once.append(found[:ONCE])
        often.append(found[ONCE:])
        done()
    return Exposed(
        {
            "exposure (bits)": median_exposure(np.concatenate(once)),
            f"exposure, {REPEATED} times (bits)": median_exposure(np.concatenate(often)),
        },
        models,
    )


def made_up(length: int, random: np.random.Generator) -> Canaries:
    """Return canaries of `length` bytes, at most LONGEST, with random classes 0 and 1."""
    count = ONCE + OFTEN
    drawn = random.choice(list(SIGNS), (count + ALTERNATIVES, min(LONGEST, length)))
    texts = ["".join(row).encode() for row in drawn]
    return Canaries(Bytes.of(texts, length), random.integers(0, 2, count))


def with_canaries(victim: Victim, canaries: Canaries) -> Fold:
    """Return a copy of the silo's training records with the canaries among them."""
    train, repeats = victim.data.train, np.repeat([1, REPEATED], [ONCE, OFTEN])
    rows = np.repeat(np.arange(canaries.count), repeats)
    labels = [victim.labelling.of_class(int(c), 1).numpy() for c in canaries.classes[rows]]
    return Fold(
        stacked([train.stored, canaries.texts[rows]]), np.concatenate([train.labels, *labels])
    )


def _exposures(model: nn.Module, victim: Victim, canaries: Canaries) -> Reals:
    """Return the exposure of each canary among alternatives with its label."""
    found = np.empty(canaries.count)
    for wanted in (0, 1):
        labels = victim.labelling.of_class(wanted, len(canaries.texts))
        fold = Fold(canaries.texts, labels.numpy())
        losses = torch.cat([victim.labelling.loss(*one) for one in fold.evaluated(model)])
        known = losses.double().nan_to_num(torch.inf).numpy()
        own = np.flatnonzero(canaries.classes == wanted)
        found[own] = exposures(known[own], known[canaries.count :])
    return found
