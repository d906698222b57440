"""The silo under attack: its records, the job's model, and the updates that it would send.

An attacked update sums the gradients of the attacked records over the job's local steps, with the
product's own training code. Every step uses all of these records, and at most MOST_LOCAL_STEPS
steps are taken. Depending on the defence, the attacker has:

    none        the plain sum of gradients
    dp          the sum of clipped gradients with the noise of the silo's plan
    encrypted   an aggregator's view, together with the key that all silos share: the masked
                integers, read as if they were not masked
    both        the masked integers of the noised sum

Under shared noise the sum carries the plan's whole noise S, the least that an outsider ever faces.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from blindsum.he.cipher import CkksAdder, CkksCipher, generate_secret_key
from blindsum.he.exchange import Exchange
from blindsum.he.masks import PairSeeds
from blindsum.he.packing import Integers, pack, quantise
from blindsum.he.parameters import RING_DEGREE, Parameters
from blindsum.pipelines.audit.attacks.forests import forest_section, grown
from blindsum.pipelines.audit.attacks.gradient_matching import Local
from blindsum.pipelines.audit.evidence import Defence
from blindsum.pipelines.audit.labelling import labelling
from blindsum.pipelines.audit.pictures import Pictures, pictures_of
from blindsum.pipelines.audit.scores import is_binary
from blindsum.platform.data.features import features_of
from blindsum.platform.data.scaling import CLIP
from blindsum.platform.data.table import SiloData
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.accounting import calibrate
from blindsum.platform.privacy.gaussian_noise import add_gaussian
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.privacy.randomness import cryptographic_generator, seeded_generator
from blindsum.platform.training.clipping.choice import clipped_sum
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.losses import RecordLoss, classification
from blindsum.platform.training.models import build_model, set_parameters
from blindsum.platform.training.simulation import Simulation

TRAINED_STEPS = 300
MOST_LOCAL_STEPS = 20


@dataclass(frozen=True)
class SeenUpdate:
    """The attacker's view of an update: the mean over local steps of the gradients' sums."""

    gradients: list[Tensor]

    def of(self, parameter: Tensor, model: nn.Module) -> Tensor:
        """Return the gradient of one of the model's parameters that are trained."""
        trained = [id(p) for p in model.parameters() if p.requires_grad]
        return self.gradients[trained.index(id(parameter))]


class Victim:
    """One silo under attack.

    Args:
        plan: the silo's plan, or an assumed plan for a job without differential privacy.
    """

    def __init__(self, job: Job, silo: str, data: SiloData, plan: PrivacyPlan) -> None:
        self.job, self.silo, self.data, self.plan = job, silo, data, plan
        self.features = features_of(job.data.features).shape
        self.outputs, self.labelling = job.data.outputs, labelling(job)
        self._models: dict[str, nn.Module] = {}
        self._reference: list[PrivacyPlan | None] = []

    def model(self, checkpoint: str) -> nn.Module:
        """Return the job's model: "fresh", or "trained" on the silo's records without privacy."""
        if checkpoint not in self._models:
            self._models[checkpoint] = (
                self._trained(self.without_noise()) if checkpoint == "trained" else self._fresh()
            )
        return self._models[checkpoint]

    def without_noise(self) -> PrivacyPlan | None:
        """Return the plan of the arms without privacy: no noise, and no clipping where that works.

        None does not clip either. A private job's learning rate is meant for clipped gradients, and
        training without clipping may diverge at it. So of both, the one counts whose model fits the
        training records better. Jobs with regression tasks keep their clip norm in any case: errors
        of numbers are unbounded. Jobs of trees sum exactly then.
        """
        if not self._reference:
            self._reference.append(self._clipped_or_not())
        return self._reference[0]

    @property
    def reference(self) -> str:
        """What "without privacy" means for this job, in one sentence for the report."""
        if forest_section(self.job):
            return "forests grown from exact sums, without noise and without clipping"
        if self.without_noise() is None:
            return "models trained at the job's learning rate without noise and without clipping"
        why = (
            "they fit the training records worse without it at the job's learning rate, which is "
            "meant for clipped gradients"
            if self.labelling.bounded
            else "the errors of numeric tasks are unbounded"
        )
        return f"models trained without noise but with the job's clip norm, because {why}"

    def _clipped_or_not(self) -> PrivacyPlan | None:
        if not self.job.private or forest_section(self.job):
            return None
        clipped = self.plan.alone().without_noise()
        if not self.labelling.bounded:
            return clipped
        models = {plan: self._trained(plan) for plan in (None, clipped)}
        better = min(models, key=lambda plan: self._loss(models[plan]))
        self._models["trained"] = models[better]
        return better

    def _loss(self, model: nn.Module) -> float:
        """Return the mean loss on the training records; infinite if it is not a number."""
        losses = [
            self.labelling.loss(outputs, labels).double()
            for outputs, labels in self.data.train.evaluated(model)
        ]
        model.train()
        return float(torch.cat(losses).mean().nan_to_num(torch.inf))

    def _fresh(self) -> nn.Module:
        return build_model(
            self.job.model, self.features, self.outputs, seed=self.job.seed, private=False
        )

    def _trained(self, plan: PrivacyPlan | None) -> nn.Module:
        """Return a model trained on the silo's records, for some of the job's rounds."""
        model, training = self._fresh(), self.job.training
        if section := forest_section(self.job):
            random = seeded_generator(self.job.seed, "audit")
            return grown(self.job, section, self.data.train, plan, training.rounds, random)
        trainer = LocalTrainer(
            model,
            self.data.train,
            training,
            plan,
            seeded_generator(self.job.seed, "audit"),
            self.labelling.loss,
        )
        federation = Simulation(model, [trainer], self.job.server)
        for _ in range(min(training.rounds, max(1, TRAINED_STEPS // training.local_steps))):
            before = federation.vector
            federation.round()
            if not np.isfinite(federation.vector).all():
                set_parameters(model, before)
                break
        return model

    @cached_property
    def pictures(self) -> Pictures | None:
        """The job's pictures; None if its records are something else."""
        return pictures_of(self.job)

    @cached_property
    def binary(self) -> bool:
        """Whether features are bits."""
        return is_binary(self.data.train.features[:200])

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest value of a feature."""
        if self.pictures:
            return self.pictures.low, self.pictures.high
        return (0.0, 1.0) if self.binary else (-CLIP, CLIP)

    def plant(self, model: nn.Module) -> None:
        """Set a malicious server's model as the "planted" checkpoint."""
        self._models["planted"] = model

    def alone(self) -> PrivacyPlan:
        """Return the plan of this silo with all the noise of the plan in its own sum: the guarantee
        of one record in it is the plan's, and no other silo's record hides it."""
        return replace(self.plan.alone(), noise_multiplier=self.plan.update_noise)

    def in_the_mean(self, fraction: float = 1.0, epsilon: float | None = None) -> PrivacyPlan:
        """Return the plan of one silo that stands for all (`PrivacyPlan.in_the_mean`).

        Args:
            fraction: the fraction of the silo's records on which it trains; the divisor scales
                with it.
            epsilon: another epsilon, spent in the same steps; by default the plan's.

        Raises:
            PrivacyError: that epsilon is not possible.
        """
        plan = self.plan.in_the_mean(len(self.job.silos), fraction)
        if epsilon is None or epsilon == plan.epsilon:
            return plan
        steps = plan.rounds_within_budget * plan.steps_per_round
        other = calibrate(epsilon, plan.delta, plan.sampling_rate, steps)
        sigma = plan.noise_multiplier * other / self.plan.noise_multiplier
        return replace(plan, noise_multiplier=sigma)

    def local(self, records: int) -> Local:
        """Return the job's local steps over that many records."""
        training = self.job.training
        return Local(
            min(training.local_steps, MOST_LOCAL_STEPS),
            rate=training.learning_rate * records / training.expected_batch_size,
        )

    def records(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return features and labels of some of the silo's training records."""
        chosen = np.asarray(rows)
        return (
            torch.from_numpy(self.data.train.features[chosen]),
            torch.from_numpy(self.data.train.labels[chosen]),
        )

    def update(self, rows: Sequence[int], checkpoint: str, defence: Defence) -> SeenUpdate:
        """Return what the attacker sees of a step over those records."""
        features, labels = self.records(rows)
        return update_of(
            self.model(checkpoint),
            features,
            labels,
            self.plan,
            defence,
            len(self.job.silos),
            self.job.encryption.bits,
            self.local(len(labels)),
            self.labelling.loss,
        )


def update_of(
    model: nn.Module,
    features: Tensor,
    labels: Tensor,
    plan: PrivacyPlan,
    defence: Defence,
    silos: int,
    bits: int | None = None,
    local: Local | None = None,
    record_loss: RecordLoss = classification,
) -> SeenUpdate:
    """Return the attacker's view of the mean over local steps of the gradients' sum over records.

    Args:
        silos, bits: the consortium's number of silos and bits a value, for the encoding under
            encryption.
        local: the local steps; by default one.
    """
    local = local or Local()
    trained = copy.deepcopy(model) if local.steps > 1 else model
    trained.train()
    parameters = [p for p in trained.parameters() if p.requires_grad]
    clipped = None
    if defence in ("dp", "both"):
        clipped = clipped_sum(trained, features.shape[1], record_loss, labels)
    sums = [torch.zeros_like(p) for p in parameters]
    for _ in range(local.steps):
        if clipped is not None:
            step = list(clipped(features, labels, plan.clip_norm).sums)
            for one in step:
                add_gaussian(one, plan.update_noise * plan.clip_norm, cryptographic_generator())
        else:
            loss = record_loss(trained(features), labels).sum()
            step = list(torch.autograd.grad(loss, parameters))
        with torch.no_grad():
            for whole, p, one in zip(sums, parameters, step, strict=True):
                whole += one / local.steps
                if local.steps > 1:
                    p.sub_(one, alpha=local.rate / max(len(labels), 1))
    sums = [one.nan_to_num(0.0) for one in sums]  # steps that ended in NaN
    if defence in ("encrypted", "both"):
        sums = _as_masked(sums, silos, bits)
    return SeenUpdate([one.detach() for one in sums])


def _as_masked(sums: list[Tensor], silos: int, bits: int | None) -> list[Tensor]:
    """Return the sums after encoding, masking, encryption, and decryption with the leaked key."""
    parameters = Parameters.derive(silos, bits)
    integers, unit = encoded(sums, parameters)
    roster = tuple(f"silo{i:02}" for i in range(silos))
    exchange = Exchange(
        run="audit",
        round=1,
        attempt=1,
        purpose="update",
        roster=roster,
        values=integers.size,
        range=None,
        parameters=parameters,
    )
    random = cryptographic_generator()
    seeds = PairSeeds(roster[0], {name: random.bytes(32) for name in roster[1:]})
    cipher, adder = CkksCipher(parameters, generate_secret_key()), CkksAdder(parameters)
    adder.add(0, cipher.encrypt(pack(integers, parameters), seeds.open(exchange)), exchange.reals)
    opened = cipher.decrypt(adder.total(0, exchange.reals), exchange.reals)
    return decoded(digits(opened, parameters)[: integers.size], unit, sums)


def encoded(sums: list[Tensor], parameters: Parameters) -> tuple[Integers, float]:
    """Return the job's integers of those sums, at the smallest range for them, and their unit."""
    flat = torch.cat([one.flatten() for one in sums]).numpy().astype(np.float64)
    bound = float(np.abs(flat).max()) or 1.0
    quantised = quantise(flat, bound, parameters, np.random.default_rng(0))
    return quantised.integers, bound / parameters.limit


def decoded(integers: Integers, unit: float, like: list[Tensor]) -> list[Tensor]:
    """Return tensors with those shapes from integers."""
    flat = torch.from_numpy((integers * unit).astype(np.float32))
    parts = torch.split(flat, [one.numel() for one in like])
    return [part.view_as(one) for part, one in zip(parts, like, strict=True)]


def digits(packed: Integers, parameters: Parameters) -> Integers:
    """Return the digits of any packed reals, as `he.packing.unpack` does but without its checks."""
    k, found = parameters.summed_bits, []
    for start in range(0, packed.size, RING_DEGREE):
        rest = packed[start : start + RING_DEGREE].copy()
        for _ in range(parameters.digits):
            low = (rest << (64 - k)) >> (64 - k)
            found.append(low)
            rest = (rest - low) >> k
    return np.concatenate(found)
