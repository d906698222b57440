"""The rehearsal of a job's training on public records: one training, as the silos would train.

Model, loss, trainer, privacy plan and server step are those of a run, in one process. Records are
dealt to the silos at random. If the public records are fewer than those of the job, the noise is
what it would be beside the job's (`blindsum.pipelines.selection.trial`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from pydantic import ValidationError

from blindsum.pipelines.selection.trial import noise_of
from blindsum.platform.data.computing import computing_in
from blindsum.platform.data.records import Fold
from blindsum.platform.data.table import SiloData, load_data
from blindsum.platform.errors import JobError, PrivacyError
from blindsum.platform.evaluation.round_counts import Counting, Tally
from blindsum.platform.job.file import JobFile, require_scored
from blindsum.platform.job.paths import import_from
from blindsum.platform.job.privacy_section import NoNoise
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.randomness import cryptographic_generator, seeded_generator
from blindsum.platform.training.augmentation import augmentation_of
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.losses import record_loss
from blindsum.platform.training.models import model_of
from blindsum.platform.training.simulation import Simulation
from blindsum.platform.training.summed_models import summed_of


@dataclass(frozen=True)
class Candidate:
    """Settings that the rehearsal may change."""

    sampling_rate: float
    rounds: int
    learning_rate: float
    clip_norm: float

    @property
    def name(self) -> str:
        """The settings in words."""
        return (
            f"rate {self.sampling_rate:g}, learning rate {self.learning_rate:g}, clip norm "
            f"{self.clip_norm:g}"
        )


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """The job that is rehearsed.

    Attributes:
        silos, records: their number, and the training records of each.
        epsilon: the budget of every silo; None without privacy.
        divisions: the public table, divided into folds in as many ways as are needed.
    """

    job: Job
    silos: int
    records: int | None
    epsilon: float | None
    divisions: tuple[SiloData, ...]

    @property
    def own(self) -> Candidate:
        """The job's own settings."""
        section, privacy = self.job.training, self.job.privacy
        clip = 1.0 if isinstance(privacy, NoNoise) else privacy.clip_norm
        return Candidate(section.sampling_rate, section.rounds, section.learning_rate, clip)

    def each(self, division: int) -> float:
        """Return the training records of one silo here."""
        here = len(self.divisions[division].train) / self.silos
        return min(here, self.records or here)

    def sections(self, candidate: Candidate, records: float) -> dict[str, Any]:
        """Return the job's sections `training` and `privacy` with a candidate's settings.

        Args:
            records: training records of one silo.
        """
        changed = {
            "rounds": candidate.rounds,
            "sampling_rate": candidate.sampling_rate,
            "expected_batch_size": max(1, round(candidate.sampling_rate * records)),
            "learning_rate": candidate.learning_rate,
        }
        training = self.job.training.model_dump(mode="json", exclude_defaults=True) | changed
        if self.epsilon is None:
            return {"training": training, "privacy": {"noise": "none"}}
        privacy = self.job.privacy.model_dump(mode="json", exclude_defaults=True)
        privacy = privacy if privacy["noise"] != "none" else {"noise": "shared", "delta": 1e-5}
        budget = {"epsilon": self.epsilon, "clip_norm": candidate.clip_norm}
        return {"training": training, "privacy": privacy | budget}

    def score(self, candidate: Candidate, division: int) -> float:
        """Train once, and return the held-out score: mean AUROC, mean R2 or accuracy; NaN if the
        model diverged, or no noise gives these settings the budget."""
        data, each = self.divisions[division], self.each(division)
        here = self.planned(candidate, each)
        planned = self.planned(candidate, self.records or each)
        random = np.random.default_rng(division)
        rows = random.permutation(len(data.train))
        model, loss, trainers = model_of(here, private=False), record_loss(here, {}), []
        for number, silo in enumerate(here.silos):
            try:
                own = noise_of(planned, silo.name, each, self.records)
            except PrivacyError:
                return float("nan")
            chosen = np.zeros(len(data.train), np.bool_)
            chosen[rows[number :: self.silos][: math.ceil(each)]] = True
            fold = Fold(data.train.stored[chosen], data.train.stored_labels[chosen])
            sampling = cryptographic_generator() if own else seeded_generator(division, silo.name)
            trainers.append(
                LocalTrainer(
                    model,
                    fold,
                    here.training,
                    own,
                    sampling,
                    loss,
                    augmentation=augmentation_of(here.data.features),
                )
            )
        averaged = Simulation(model, trainers, here.server, average=here.training.average)
        return _score(here, data, averaged.run(candidate.rounds))

    def planned(self, candidate: Candidate, records: float) -> Job:
        """Return the job with a candidate's settings, over silos without tables.

        Raises:
            JobError: its sections do not go together.
        """
        silos = [{"name": f"silo-{i}", "data": f"public-{i}"} for i in range(self.silos)]
        content = self.job.model_dump(mode="json") | {"silos": silos, "quorum": None}
        try:
            return Job.model_validate(content | self.sections(candidate, records))
        except ValidationError as error:
            said = error.errors(include_url=False, include_input=False)[0]["msg"]
            raise JobError(
                f"the planned job is not valid: {said.removeprefix('Value error, ')}",
                "Change the job, or set it with --set.",
            ) from None


def _score(job: Job, data: SiloData, model: Any) -> float:
    exact = job.model_copy(update={"privacy": NoNoise(noise="none")})
    counting = Counting(exact, None, data, np.random.default_rng())
    counts = counting.counts(Tally(), counting.of_held_out(model))
    found = counting.summarise(counts, 0, 1, evaluated=True).held_out
    return float("nan") if found is None else found.score.value


def require_rehearsable(job: Job) -> None:
    """Raise JobError if the job's model does not come from training steps."""
    require_scored(job, "a plan")
    if summed_of(job) is not None:
        raise JobError(
            f"a model of kind {job.model.kind} has no training steps to plan",
            "Its settings are those of its own section.",
        )


def rehearsal_of(
    job_file: JobFile,
    path: Path,
    silos: int | None,
    records: int | None,
    epsilon: float | None,
    divisions: int,
    told: Callable[[float], None] = lambda share: None,
) -> Rehearsal:
    """Read the public table by the job's own contract, once for each division.

    Args:
        silos, epsilon: None for those of the job.

    Raises:
        DataError: the table does not meet the contract.
        JobError: the job is not trained in steps.
    """
    job = job_file.job
    require_rehearsable(job)
    import_from(str(job_file.folder))
    found = []
    with TemporaryDirectory() as folder:
        means = replace(computing_in(Path(folder)), told=told)
        for division in range(divisions):
            contract = job.data
            if salt := getattr(contract.folds, "salt", None):
                folds = contract.folds.model_copy(update={"salt": f"{salt} {division}"})
                contract = contract.model_copy(update={"folds": folds})
            found.append(load_data(path, contract, Path(folder) / "rejected", None, means))
    if epsilon is None and not isinstance(job.privacy, NoNoise):
        epsilon = job.privacy.epsilon
    return Rehearsal(
        job=job,
        silos=silos or len(job.roster),
        records=records,
        epsilon=epsilon,
        divisions=tuple(found),
    )
