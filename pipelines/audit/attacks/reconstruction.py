"""Reconstruct records from updates, as the server or as a participant, under each defence.

    closed form       one record, from the first layer's gradient
    sparse recovery   a batch, from the first layer with ReLU
    matching          a batch, from the whole gradient, by optimisation
    imprint           a large batch, by a server that plants a layer: the model's first one, or one
                      in front of the model
    subtraction       a participant subtracts its own part from the total, then does the same

The attacker knows the model and the batch size, and for matching it estimates the labels from the
last bias's gradient. For records that it cannot recover it guesses the mean of the label's class in
the held-out fold, which stands for public knowledge. That guess is the floor of every score.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from blindsum.he.parameters import Parameters
from blindsum.pipelines.audit import scores
from blindsum.pipelines.audit.attacks.closed_form import one_record
from blindsum.pipelines.audit.attacks.gradient_matching import Effort, labels_from_bias, match
from blindsum.pipelines.audit.attacks.imprint import InFront, planted, recovered
from blindsum.pipelines.audit.attacks.layers import Layers, impossible
from blindsum.pipelines.audit.attacks.sparse_recovery import recover
from blindsum.pipelines.audit.evidence import DEFENCES, Defence, Evidence, Figure, proportion
from blindsum.pipelines.audit.scores import Records
from blindsum.pipelines.audit.victim import SeenUpdate, Victim, decoded, encoded

SHOWN = 4
CELLS = 8
"""Checkpoints times batch sizes. The report shows the worst; a single lucky hit must not count."""
CHECKPOINTS = ("fresh", "trained")
SMOOTH, SMOOTHER = 0.02, 0.3
"""Weights of pictures' total variation: an attacker who expects noise relies on it more."""

BINS = 8
"""Bins of a layer in front of the model, for each record of the largest batch."""

MOST_WEIGHTS = 2**25
TEXTS = "texts and graphs are whole numbers, which no gradient leads to and no layer copies"


@dataclass(frozen=True)
class Example:
    """True, recovered and guessed records, float64 [B, features]; private to the silo.

    `rows` are positions among the training records: of the true records, and of the nearest to the
    recovered and to the guessed ones. `figure` tells how close the recovered ones came.
    """

    title: str
    true: Records
    recovered: Records
    guessed: Records
    rows: tuple[list[int], list[int], list[int]]
    attack: str = ""
    defence: Defence = "none"
    figure: Figure | None = None


class Reconstruction:
    """All reconstruction attacks on one victim. Scores may leave the silo, examples must not.

    Args:
        victims: number of batches that each attack is tried on.
        seconds: time limit of the search for one batch.
        iterations: of gradient matching.
        checkpoints: of the model that the updates are made with.
    """

    def __init__(
        self,
        victim: Victim,
        victims: int,
        seconds: float,
        iterations: int,
        checkpoints: Sequence[str] = CHECKPOINTS,
    ) -> None:
        self._victim, self._victims, self._seconds = victim, victims, seconds
        self._train, self._classes = victim.data.train, victim.labelling.classes
        self._checkpoints = checkpoints
        self._binary = victim.binary
        low, high = victim.range
        self._effort = Effort(
            iterations=iterations,
            restarts=2,
            low=low,
            high=high,
            shape=victim.pictures.shape if victim.pictures else None,
        )
        self._span = self._effort.high - self._effort.low
        self._pool = self._train.features.astype(np.float64)
        local = victim.local(1).steps
        self._steps = "" if local == 1 else f", {local} local steps"
        self.examples: list[Example] = []
        self.skipped: list[str] = []

    def server(
        self, batches: Sequence[int], matched: Sequence[int], imprinted: Sequence[int]
    ) -> list[Evidence]:
        """Run every attack that the model allows, for each checkpoint, batch size and defence."""
        found = []
        for checkpoint in self._checkpoints:
            layers = Layers.of(self._victim.model(checkpoint))
            for defence in DEFENCES:
                for batch in batches:
                    attack = "closed form" if batch == 1 else "sparse recovery"
                    if reason := impossible(layers, batch):
                        self._skip(f"{attack}, batch of {batch}: {reason}")
                        continue
                    found.append(self._tried(attack, checkpoint, batch, defence, layers))
                for batch in matched:
                    if not isinstance(self._victim.features, tuple):
                        self._skip(f"matching: {TEXTS}")
                        continue
                    if layers.last is None:
                        self._skip(
                            "matching: the last layer is not a trained linear one with a bias"
                        )
                        continue
                    try:
                        found.append(self._tried("matching", checkpoint, batch, defence, layers))
                    except RuntimeError as error:  # a factory's model that torch cannot batch
                        self._skip(
                            f"matching: torch cannot batch this model ({type(error).__name__})"
                        )
        return found + self._imprint(imprinted)

    def _imprint(self, batches: Sequence[int]) -> list[Evidence]:
        fresh, width = self._victim.model("fresh"), self._train.width
        layers = Layers.of(fresh)
        public = torch.from_numpy(self._victim.data.test.features)
        if layers.first is not None and not impossible(layers, 2):
            self._victim.plant(planted(fresh, layers.first, public))
            where = "planted in the model's first layer"
        elif not isinstance(self._victim.features, tuple):
            self._skip(f"imprint: {TEXTS}")
            return []
        else:
            bins = max(min(BINS * max(batches, default=0), MOST_WEIGHTS // width), 2)
            self._victim.plant(InFront(fresh, bins, public))
            where = f"{bins} bins in a layer in front of the model"
        layers = Layers.of(self._victim.model("planted"))
        return [
            self._tried("imprint", "planted", batch, defence, layers, where)
            for batch in batches
            if batch <= len(self._train)
            for defence in DEFENCES
        ]

    def participant(self, batch: int) -> list[Evidence]:
        """Attack as a silo that subtracts its own update from the total, for each defence.

        Encryption makes no difference here: the participant is meant to read the total.
        """
        layers = Layers.of(self._victim.model("fresh"))
        others = len(self._victim.job.silos) - 1
        if reason := impossible(layers, batch * others):
            self._skip(f"subtraction, {others} others: {reason}")
            return []
        return [
            self._tried("subtraction", "fresh", batch * others, defence, layers)
            for defence in DEFENCES
        ]

    def _skip(self, why: str) -> None:
        if why not in self.skipped:
            self.skipped.append(why)

    def _tried(
        self,
        attack: str,
        checkpoint: str,
        batch: int,
        defence: Defence,
        layers: Layers,
        where: str = "",
    ) -> Evidence:
        started = time.perf_counter()
        random = np.random.default_rng([batch, len(attack)])
        many = self._victims * (8 if attack == "closed form" else 1)
        many = max(min(many, len(self._train) // batch), 1)
        chosen = random.permutation(len(self._train))[: many * batch].reshape(many, batch)
        true, guess, got, by_chance = [], [], [], []
        for rows in chosen:
            one = self._pool[rows]
            guessed = self._guess(self._classes(self._train.labels[rows]))
            found = self._attack(attack, checkpoint, rows.tolist(), defence, layers)
            true.append(one)
            guess.append(guessed)
            got.append(guessed if found is None else scores.paired(found, one, guessed))
            if found is not None:
                by_chance.append(self._identified_by_chance(found, rows, random))
        truth, guessed, obtained = (np.concatenate(part) for part in (true, guess, got))
        chance = float(np.mean(by_chance)) if by_chance else 0.0
        figures = self._figures(truth, obtained, guessed, chance)
        self.examples.append(
            Example(
                f"{attack}, {checkpoint} model, batch of {batch}, {defence}",
                truth[:SHOWN],
                obtained[:SHOWN],
                guessed[:SHOWN],
                self._nearby(chosen.ravel()[:SHOWN], obtained, guessed),
                attack,
                defence,
                figures["PSNR (dB)"],
            )
        )
        return Evidence(
            attack,
            "participant" if attack == "subtraction" else "server",
            defence,
            checkpoint,
            figures,
            f"batch of {batch}{self._steps}" + (f", {where}" if where else ""),
            time.perf_counter() - started,
        )

    def _attack(
        self, attack: str, checkpoint: str, rows: list[int], defence: Defence, layers: Layers
    ) -> Records | None:
        model = self._victim.model(checkpoint)
        seen: Defence = defence
        if attack == "subtraction":  # every participant decrypts the total
            seen = "dp" if defence in ("dp", "both") else "none"
        update = self._victim.update(rows, checkpoint, seen)
        if attack == "subtraction":
            update = self._rounded(update)
        if attack == "matching":
            return self._matched(model, update, len(rows), layers, seen)
        if layers.first is None:
            return None
        weight, bias = (update.of(p, model) for p in (layers.first.weight, layers.first.bias))
        if attack == "imprint":
            record: Tensor | None = recovered(weight, bias)
        elif len(rows) == 1:
            record = one_record(weight, bias)[None]
        else:
            output = layers.last if layers.adjoining else None
            record = None
            # The total holds rounded integers, whose precision the attacker has to guess.
            tolerances = (1e-4,) if attack != "subtraction" else (1e-4, 1e-3, 1e-2)
            for tolerance in tolerances:
                found = recover(
                    weight,
                    bias,
                    len(rows),
                    layers.first,
                    output,
                    tolerance=tolerance,
                    seconds=self._seconds / len(tolerances),
                )
                record = record if found.records is None else found.records
        if record is None:
            return None
        got: Records = np.nan_to_num(record.numpy())
        return got.clip(self._effort.low, self._effort.high)

    def _matched(
        self, model: nn.Module, update: SeenUpdate, batch: int, layers: Layers, seen: Defence
    ) -> Records | None:
        if layers.last is None:
            return None
        features = self._train.width
        bias: Tensor = update.of(layers.last.bias, model)
        local = self._victim.local(batch)
        labelling = self._victim.labelling
        labels = labels_from_bias(model, bias, batch, features, self._effort, labelling)
        # Every iteration runs all local steps forward and backward.
        iterations = max(self._effort.iterations // local.steps, min(300, self._effort.iterations))
        variation = SMOOTH if seen == "none" else SMOOTHER
        effort = replace(self._effort, iterations=iterations, variation=variation)
        found, _ = match(
            model, update.gradients, labels, features, effort, local, loss=labelling.loss
        )
        return found.numpy().astype(np.float64)

    def _rounded(self, update: SeenUpdate) -> SeenUpdate:
        """Round an update to the job's integers, as in the total."""
        job = self._victim.job
        parameters = Parameters.derive(len(job.silos), job.encryption.bits)
        integers, unit = encoded(update.gradients, parameters)
        return SeenUpdate(decoded(integers, unit, update.gradients))

    def _guess(self, classes: np.ndarray) -> Records:
        """Return each class's mean over the held-out records."""
        held = self._victim.data.test
        of_held = self._classes(held.labels)
        means = []
        for one in classes:
            of_class = held.features[of_held == one]
            means.append((of_class if len(of_class) else held.features).mean(0))
        return np.stack(means).astype(np.float64)

    def _identified_by_chance(
        self, found: Records, rows: np.ndarray, random: np.random.Generator
    ) -> float:
        """Return the share of as many other records that would count as identified.

        Each record is scored by the recovered one that fits it best. Where an attack returns many,
        some fit records that were not in the update.
        """
        others = np.setdiff1d(np.arange(len(self._pool)), rows)
        others = random.permutation(others)[: len(rows)]
        if not len(others):
            return 0.0
        true = self._pool[others]
        got = scores.paired(found, true, self._guess(self._classes(self._train.labels[others])))
        return scores.identified(got, true, self._pool) / len(others)

    def _figures(
        self, true: Records, got: Records, guess: Records, chance: float
    ) -> dict[str, Figure]:
        exact = scores.exact(got, true, self._span)
        named = scores.identified(got, true, self._pool)
        count, guessed = len(true), scores.identified(guess, true, self._pool)
        figures = {
            "exact records": proportion(
                exact, count, scores.exact(guess, true, self._span) / count
            ),
            # A guess that knows nothing of the record hits it once in as many times as there are
            # records.
            "identified": proportion(
                named, count, max(guessed / count, 1 / len(self._pool), chance), among=CELLS
            ),
            "PSNR (dB)": Figure(
                scores.psnr(got, true, self._span),
                floor=scores.psnr(guess, true, self._span),
                unit="dB",
            ),
        }
        if self._binary:
            figures["Tanimoto"] = Figure(
                scores.tanimoto(got, true), floor=scores.tanimoto(guess, true)
            )
        return figures

    def _nearby(
        self, rows: np.ndarray, got: Records, guess: Records
    ) -> tuple[list[int], list[int], list[int]]:
        recovered, guessed = (self._nearest(one[:SHOWN], rows) for one in (got, guess))
        return rows.tolist(), recovered, guessed

    def _nearest(self, records: Records, true: np.ndarray) -> list[int]:
        """Return the positions of the nearest records; the true record wins ties."""
        distances = cdist(records, self._pool)
        found = distances.argmin(1)
        own = distances[np.arange(len(true)), true]
        same = own <= distances.min(1) * (1 + 1e-6) + 1e-6
        return [int(row) for row in np.where(same, true, found)]
