"""The generator attack: a participant trains a generator of records of a class that it lacks.

Hitaj, Ateniese and Perez-Cruz, "Deep models under the GAN: information leakage from collaborative
deep learning", CCS 2017. Each round the generator learns to produce records that the global model
assigns to the class. The participant trains on these records under a wrong label, so that the other
participants' training sharpens the class.

`closeness` scores the generated records. The classifier's confidence does not, because records that
resemble no real record can reach a high confidence. The floor is the score of the participant's own
records of other classes. The results also show real records, and records drawn from the class's
mean and spread.

Differential privacy protects records. It is not meant to hide what a class looks like.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from blindsum.pipelines.audit.attacks.closeness import Closeness, class_mean, closeness, summary
from blindsum.pipelines.audit.evidence import Figure
from blindsum.pipelines.audit.labelling import Labelling
from blindsum.pipelines.audit.scores import Records
from blindsum.pipelines.audit.victim import Victim
from blindsum.platform.data.records import Fold
from blindsum.platform.job.training_section import ServerSection
from blindsum.platform.privacy.randomness import cryptographic_generator
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import build_model, get_parameters, set_parameters
from blindsum.platform.training.simulation import Simulation
from blindsum.platform.training.update import Protection, Update
from blindsum.platform.training.vector import Vector

MADE = 256
LEAST = 12
"""The fewest records of the class in each part. With fewer, scores mean nothing."""

LEAST_ROUNDS, PILOT = 20, 4
"""The fewest rounds of a federation, and those run to see how long one takes."""

SHARES = (0.3, 0.6, 0.8)
"""The points at which a silo's records are divided: two sets for training, one for the participant,
one for scoring."""

MOST = 1e6
"""The greatest Frechet distance. Larger distances are cut."""


@dataclass(frozen=True)
class Participant:
    """The attacker's data and settings. Features range from `low` to `high`; `binary` features are
    bits."""

    own: Fold
    labelling: Labelling
    wanted: int
    low: float
    high: float
    binary: bool = False
    rounds: int = 100
    steps: int = 10
    fakes: int = 128
    passes: int = 2
    rate: float = 0.05
    blur: float = 0.1


@dataclass(frozen=True)
class Attempt:
    """The results over all federations.

    Attributes:
        figures: scores of the generated records.
        real: mean score of real records.
        mean: mean score of records drawn from the class's mean and spread.
        taken: share of generated records that the last model assigns to the class.
        random: the same share of random records.
    """

    figures: dict[str, Figure]
    real: Closeness
    mean: Closeness
    taken: float
    random: float
    rounds: int


def attack(
    victim: Victim, federations: int, rounds: int, *, noise: bool, limit_s: float = math.inf
) -> Attempt | None:
    """Run federations of an attacker with this silo, for the silo's most frequent class.

    Each federation runs twice: the silo trains on one set of records, then on another. The result
    is None if there are too few records.

    Args:
        rounds: rounds of each federation; at most those that the plan covers are run.
        limit_s: seconds for all federations; where they would take more, they have fewer rounds,
            but at least LEAST_ROUNDS.
        noise: whether the silo trains with privacy. The ratio of noise to signal is then that of
            the job's mean update (`Victim.in_the_mean`).
    """
    folds = (victim.data.train, victim.data.test)
    x = np.concatenate([fold.features for fold in folds])
    labels = np.concatenate([fold.labels for fold in folds])
    y = victim.labelling.classes(labels)
    wanted = int(np.bincount(y[y >= 0]).argmax()) if (y >= 0).any() else 0
    rounds = min(rounds, victim.plan.rounds_within_budget)
    binary, (low, high) = victim.binary, victim.range
    runs, prior, real, mean, taken = [], [], [], [], []
    for seed in range(federations):
        order = np.random.default_rng(seed).permutation(len(y))
        *sets, known, scored = np.split(order, [int(share * len(y)) for share in SHARES])
        others = known[(y[known] != wanted) & (y[known] >= 0)]
        a, b, public, held_out = (
            x[part][y[part] == wanted].astype(np.float64) for part in (*sets, known, scored)
        )
        if min(map(len, (a, b, public, held_out))) < LEAST or len(others) < 2:
            return None
        participant = Participant(
            Fold(x[others], labels[others]),
            victim.labelling,
            wanted,
            low,
            high,
            binary,
            rounds=rounds,
        )
        if not seed and math.isfinite(limit_s):
            model, trainer = _silo(victim, Fold(x[sets[0]], labels[sets[0]]), seed, noise)
            each = _seconds_of_a_round(model, trainer, participant, victim.job.server)
            fit = max(int(limit_s / (2 * federations * each)), LEAST_ROUNDS)
            rounds = min(rounds, fit)
            participant = replace(participant, rounds=rounds)
        pair = []
        for part, own, twin in zip(sets, (a, b), (b, a), strict=True):
            model, trainer = _silo(victim, Fold(x[part], labels[part]), seed, noise)
            records = made(model, trainer, participant, victim.job.server, seed)
            pair.append(closeness(records, own, twin, held_out))
            anything = np.random.default_rng(seed).uniform(low, high, records.shape)
            anything = anything.round() if binary else anything
            taken.append([_taken(model, one, participant) for one in (records, anything)])
        runs.append(pair)
        prior.append(closeness(x[others].astype(np.float64), a, b, held_out))
        real.append(closeness(public, a, b, held_out))
        drawn = class_mean(public, MADE, low, high, binary, seed)
        mean.append(closeness(drawn, a, b, held_out))
    figures = summary(np.array(runs, dtype=object), prior, MOST)
    of_made, of_random = np.mean(taken, axis=0)
    return Attempt(figures, _mean(real), _mean(mean), float(of_made), float(of_random), rounds)


def _silo(victim: Victim, fold: Fold, seed: int, noise: bool) -> tuple[nn.Module, LocalTrainer]:
    """Return the job's model, and the silo's trainer of it on those records."""
    job = victim.job
    model = build_model(
        job.model, victim.features, victim.outputs, seed=job.seed + seed, private=False
    )
    batch = max(job.training.sampling_rate * len(fold), 1.0)
    training = job.training.model_copy(update={"expected_batch_size": batch})
    share = batch / job.training.expected_batch_size
    plan = victim.in_the_mean(share) if noise else victim.without_noise()
    random, loss = cryptographic_generator(), victim.labelling.loss
    return model, LocalTrainer(model, fold, training, plan, random, loss)


@torch.no_grad()
def _taken(model: nn.Module, records: Records, participant: Participant) -> float:
    said = model(torch.from_numpy(records.astype(np.float32)))
    return float((participant.labelling.taken(said) == participant.wanted).float().mean())


def _mean(scores: list[Closeness]) -> Closeness:
    found = np.mean([(one.frechet, one.precision, one.nearer) for one in scores], axis=0)
    return Closeness(*(float(value) for value in found))


def _seconds_of_a_round(
    model: nn.Module, victim: LocalTrainer, participant: Participant, section: ServerSection
) -> float:
    """Return how long a round takes in which the generator learns, without the first ones."""
    tried = Poisoner(model, replace(participant, rounds=PILOT), seed=0)
    federation, taken = Simulation(model, [victim, tried], section), 0.0
    for _ in range(PILOT):
        started = time.perf_counter()
        federation.round()
        taken = time.perf_counter() - started
    return taken


def made(
    model: nn.Module,
    victim: LocalTrainer,
    participant: Participant,
    section: ServerSection,
    seed: int = 0,
) -> Records:
    """Run a federation of victim and participant; return the records that the generator produces.

    Args:
        model: the initial model; it ends as the last global model.
        section: the settings of the server's optimizer.

    Returns:
        Records of the wanted class, float64 [MADE, features].
    """
    poisoner = Poisoner(model, participant, seed)
    federation = Simulation(model, [victim, poisoner], section)
    for _ in range(participant.rounds):
        federation.round()
        if not np.isfinite(federation.vector).all():  # the learning rate diverges here
            break
    return poisoner.records()


class Poisoner:
    """The attacking participant. It trains a generator against each global model that it receives,
    and sends updates that teach the model a wrong label for the generated records."""

    def __init__(self, model: nn.Module, participant: Participant, seed: int) -> None:
        self._model, self._participant = model, participant
        self._random = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._maker = nn.Sequential(
                nn.Linear(32, 128),
                nn.BatchNorm1d(128),
                nn.ReLU(),
                nn.Linear(128, 128),
                nn.BatchNorm1d(128),
                nn.ReLU(),
                nn.Linear(128, participant.own.width),
                nn.Sigmoid(),
            )
        self._optimizer = torch.optim.Adam(self._maker.parameters(), lr=1e-3, betas=(0.5, 0.9))
        self._pool = torch.empty(0, participant.own.width)
        self._round = 0

    def train(self, start: Vector, clipping: float = 1.0, round: int = 1) -> Update:
        """Improve the generator against the global model, then train on poisoned records."""
        participant = self._participant
        set_parameters(self._model, start)
        if (
            self._round >= participant.rounds // 12
        ):  # the model must first learn something about the class
            self._improve_generator()
            fakes = self._draw(participant.fakes).detach()
            self._pool = torch.cat([self._pool, fakes])[-4 * participant.fakes :]
        self._round += 1
        self._train_on_poison()
        change = get_parameters(self._model) - start
        return Update(values=change, unit=1.0, protected_by=Protection.NOTHING)

    @torch.no_grad()
    def records(self) -> Records:
        """Return records from the generator in its present state, float64 [MADE, features]."""
        records: Records = self._draw(MADE).numpy().astype(np.float64)
        return (records > 0.5).astype(np.float64) if self._participant.binary else records

    def _improve_generator(self) -> None:
        labelling, wanted = self._participant.labelling, self._participant.wanted
        target, weights = labelling.of_class(wanted, 64), list(self._maker.parameters())
        for _ in range(self._participant.steps):
            loss = labelling.loss(self._model(self._blurred(self._draw(64))), target).mean()
            gradients = torch.autograd.grad(loss, weights)
            for p, gradient in zip(weights, gradients, strict=True):
                p.grad = gradient
            self._optimizer.step()

    def _draw(self, count: int) -> torch.Tensor:
        low, span = self._participant.low, self._span
        records: torch.Tensor = low + span * self._maker(
            torch.randn(count, 32, generator=self._random)
        )
        return records

    def _blurred(self, records: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(records.shape, generator=self._random)
        return records + self._participant.blur * self._span * noise

    @property
    def _span(self) -> float:
        return self._participant.high - self._participant.low

    def _train_on_poison(self) -> None:
        """Train the model on the participant's records, and on generated ones wrongly labelled."""
        participant, model = self._participant, self._model
        x = torch.from_numpy(participant.own.features)
        y = torch.from_numpy(participant.own.labels)
        if len(self._pool):
            chosen = torch.randperm(len(self._pool), generator=self._random)
            few = self._blurred(self._pool[chosen[: 2 * participant.fakes]])
            classes = participant.labelling.classes(participant.own.labels)
            wrong = participant.labelling.of_class(int(np.bincount(classes).argmax()), len(few))
            x, y = torch.cat([x, few]), torch.cat([y, wrong])
        optimizer = torch.optim.SGD(model.parameters(), lr=participant.rate, momentum=0.9)
        for _ in range(participant.passes):
            for rows in torch.randperm(len(y), generator=self._random).split(32):  # type: ignore[no-untyped-call]
                optimizer.zero_grad()
                participant.labelling.loss(model(x[rows]), y[rows]).mean().backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(model.parameters(), 5.0)  # noise may throw the model far
                optimizer.step()
