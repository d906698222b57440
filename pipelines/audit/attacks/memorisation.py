"""Test whether a language model reveals its training molecules, letter by letter.

Carlini, Liu, Erlingsson, Kos and Song, "The secret sharer", USENIX Security 2019. Texts that nobody
would guess, the canaries, are inserted into the training data once each, and their exposure is
measured (`blindsum.pipelines.audit.attacks.exposure`). For extraction, texts are sampled from the
model, and those that are training records are counted.

The model is the audit's own: a small causal convolution over SMILES letters. The silos' training
step trains it on half of this silo's molecules, in a federation of as many silos as the job has.
The floor is the share of the other half that is sampled, at the upper end of its interval: these
molecules come from common chemistry, not from memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from rdkit import Chem, rdBase
from torch import Tensor, nn
from torch.nn import functional

from blindsum.pipelines.audit.attacks.exposure import exposures, median_exposure
from blindsum.pipelines.audit.evidence import Figure, proportion
from blindsum.platform.data.records import Fold
from blindsum.platform.job.schema import Job
from blindsum.platform.job.training_section import ServerSection, TrainingSection
from blindsum.platform.privacy.accounting import calibrate
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.privacy.randomness import cryptographic_generator
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.simulation import Simulation

# RDKit writes the SMILES that it cannot read to stderr.
rdBase.DisableLog("rdApp.*")

LETTERS = "#%()+-./0123456789:=@ABCDEFGHIKLMNOPRSTUVWXYZ[\\]abcdefghiklmnoprstuvy"
"""All letters of SMILES. They are public and not derived from the data. Letter i is token i + 1,
and token 0 ends a text."""

LENGTH = 64
"""The number of tokens of a text. Longer molecules are omitted."""

PAST = -100
"""The label after a text's end, which adds no loss."""

CANARIES, KIND, CANARY_LENGTH = 16, 1024, 12
RATE, STEP = 0.2, 3e-3
SIZES = (400, 200, 100, 50)
"""Possible numbers of molecules in each half; the largest possible is used. With the silo's true
number, the figures' intervals would reveal it."""

TEMPERATURES = (1.0, 0.6)
"""Half of the texts are sampled at each temperature. The lower one yields the texts of which a
model is most certain."""


@dataclass(frozen=True)
class Memory:
    """The figures, and the share of sampled texts that are valid molecules."""

    figures: dict[str, Figure]
    readable: float


@dataclass(frozen=True)
class Reading:
    """The effort of the memorisation attack: training steps and sampled texts."""

    steps: int = 500
    samples: int = 4000


class LanguageModel(nn.Module):
    """A model of every token's logits from the tokens before it: [B, LENGTH] tokens to [B, tokens,
    LENGTH]."""

    def __init__(self, width: int = 64, kernel: int = 5) -> None:
        super().__init__()
        self.tokens, self.kernel = len(LETTERS) + 1, kernel
        self.layers = nn.ModuleList(
            nn.Conv1d(self.tokens if i == 0 else width, width, kernel, dilation=2**i)
            for i in range(3)
        )
        self.last = nn.Conv1d(width, self.tokens, 1)

    @property
    def sight(self) -> int:
        """The number of preceding tokens that influence the next one."""
        steps: int = 2 ** len(self.layers) - 1
        return 1 + (self.kernel - 1) * steps

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of every token."""
        one_hot = functional.one_hot(tokens.long().clamp(0, self.tokens - 1), self.tokens)
        x = one_hot.to(self.last.weight.dtype).transpose(1, 2)
        x = functional.pad(x, (1, 0))[..., :-1]  # the token itself is not among those before it
        for i, layer in enumerate(self.layers):
            made = torch.relu(layer(functional.pad(x, ((self.kernel - 1) * 2**i, 0))))
            x = made if i == 0 else x + made
        logits: Tensor = self.last(x)
        return logits


def of_text(outputs: Tensor, tokens: Tensor) -> Tensor:
    """Return the negative log-likelihood of each text in nats, [B]."""
    losses = functional.cross_entropy(outputs, tokens, ignore_index=PAST, reduction="none")
    return losses.sum(1)


def encoded(texts: Sequence[str]) -> Fold:
    """Return texts as tokens float32 [N, LENGTH], and as labels int64 with PAST after the end."""
    labels = np.full((len(texts), LENGTH), PAST, np.int64)
    for row, text in enumerate(texts):
        labels[row, : len(text) + 1] = [*(LETTERS.index(letter) + 1 for letter in text), 0]
    return Fold(np.where(labels < 0, 0, labels).astype(np.float32), labels)


def memorised(
    molecules: Sequence[str], job: Job, plan: PrivacyPlan | None, reading: Reading
) -> Memory | None:
    """Return what a model trained on half of the molecules reveals about them; None if there are
    too few molecules.

    Args:
        plan: the silo's plan, whose epsilon, delta and clip norm also apply to this model's
            training; None trains without privacy.
    """
    # One spelling of each molecule, so that the other half does not contain the same molecule.
    spelt = {Chem.MolToSmiles(Chem.MolFromSmiles(text)): text for text in molecules}
    usable = [t for t in spelt.values() if len(t) < LENGTH and set(t) <= set(LETTERS)]
    random = np.random.default_rng(13)
    random.shuffle(usable)
    half = next((size for size in SIZES if 2 * size <= len(usable)), 0)
    if not half:
        return None
    inside, outside = usable[:half], usable[half : 2 * half]
    kind = ["".join(random.choice(list(LETTERS), CANARY_LENGTH)) for _ in range(KIND)]
    model = _trained([*inside, *kind[:CANARIES]], job, plan, reading.steps)
    texts = [t for heat in TEMPERATURES for t in _drawn(model, reading.samples // 2, heat)]
    drawn = set(texts)
    came = [sum(text in drawn for text in one) for one in (inside, outside)]
    figures = {
        # The floor is an estimate too, so the upper end of its interval is used.
        "training molecules drawn": proportion(came[0], half, proportion(came[1], half).high),
        "exposure (bits)": _exposure(model, kind),
    }
    readable = [bool(text) and Chem.MolFromSmiles(text) is not None for text in texts]
    return Memory(figures, float(np.mean(readable)))


def _trained(texts: Sequence[str], job: Job, plan: PrivacyPlan | None, steps: int) -> LanguageModel:
    """Train a model with the texts divided among the job's number of silos, one step a round, and
    adam at the server."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        model = LanguageModel()
    silos = len(job.silos)
    training = TrainingSection(
        rounds=steps,
        local_steps=1,
        sampling_rate=RATE,
        learning_rate=1.0,
        expected_batch_size=RATE * len(texts) / silos,
    )
    own = None if plan is None else _own_plan(plan, steps, silos)
    trainers = [
        LocalTrainer(
            model, encoded(texts[i::silos]), training, own, cryptographic_generator(), of_text
        )
        for i in range(silos)
    ]
    server = ServerSection(optimizer="adam", learning_rate=STEP)
    Simulation(model, trainers, server).run(steps)
    return model


def _own_plan(plan: PrivacyPlan, steps: int, silos: int) -> PrivacyPlan:
    """Return one silo's plan with the same epsilon and delta for this model's steps."""
    whole = replace(
        plan,
        sampling_rate=RATE,
        noise_multiplier=calibrate(plan.epsilon, plan.delta, RATE, steps),
        steps_per_round=1,
        rounds=steps,
        rounds_within_budget=steps,
    )
    return whole.of_the_sum(silos)


def _exposure(model: LanguageModel, kind: Sequence[str]) -> Figure:
    """Return the median canary's exposure, with an interval from order statistics."""
    found = encoded(kind)
    with torch.no_grad():
        losses = of_text(model(torch.from_numpy(found.features)), torch.from_numpy(found.labels))
    known = losses.double().numpy()
    return median_exposure(exposures(known[:CANARIES], known[CANARIES:]))


@torch.no_grad()
def _drawn(model: LanguageModel, samples: int, temperature: float) -> list[str]:
    """Sample texts from the model, letter by letter."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.zeros(samples, LENGTH)
    open_ = torch.arange(samples)
    for position in range(LENGTH):
        seen = tokens[open_, max(position - model.sight, 0) : position + 1]
        likely = torch.softmax(model(seen)[..., -1] / temperature, 1)
        following = torch.multinomial(likely, 1, generator=generator)[:, 0]
        tokens[open_, position] = following.float()
        open_ = open_[following != 0]
        if not len(open_):
            break
    return [_text(row) for row in tokens.long().numpy()]


def _text(tokens: npt.NDArray[np.int64]) -> str:
    ends = np.flatnonzero(tokens == 0)
    return "".join(LETTERS[t - 1] for t in tokens[: ends[0] if len(ends) else None])
