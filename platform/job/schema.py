"""The job: all settings of a run, validated when they are read and immutable afterwards.

Unknown keys are refused everywhere. A misspelt `epsilom` therefore cannot silently train without
the intended budget.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.features_section import Columns
from blindsum.platform.job.model_section import WITH_HEADS, Model
from blindsum.platform.job.privacy_section import Privacy
from blindsum.platform.job.regression_section import (
    Regression,
    as_newton_steps,
    require_regression,
)
from blindsum.platform.job.section import Name, Positive, Section, is_name, unless
from blindsum.platform.job.silo_section import SiloSection
from blindsum.platform.job.simulation_section import SimulationSection
from blindsum.platform.job.statistics_section import Statistics
from blindsum.platform.job.statistics_section import require_fit as require_statistics
from blindsum.platform.job.training_section import ServerSection, TrainingSection
from blindsum.platform.job.trees_section import Boosted, require_fit

RESERVED = ("aggregator", "driver", "check")

_SUMMED = ("trees", "statistics")
"""The kinds of models that follow from sums."""

_READS = {"cnn": "images", "transformer": "text", "huggingface": "text", "dmpnn": "graphs"}
"""By kind of model, the only kind of features that it reads."""


class EncryptionSection(Section):
    """The encoding of updates as integers, and their encryption."""

    scheme: Literal["ckks", "none"] = "ckks"
    bits: int | None = Field(None, ge=2, le=24)
    range: Positive | None = Field(
        None,
        description="Greatest magnitude of one value of an update; default 1. Under shared noise "
        "it follows from clipping and noise.",
    )
    error_feedback: bool = Field(
        False,
        exclude_if=unless(False),
        description="Round to nearest, and add what rounding and range took from a silo's update "
        "to its next one; only without differential privacy.",
    )
    adapt_range: bool = Field(
        True,
        description="Double or halve the range between rounds, from public figures alone; no "
        "effect under shared noise.",
    )
    verify: Literal["hash", "keep"] = Field(
        "hash",
        description="hash: every silo verifies every total by its hash. keep: aggregators also "
        "keep the signed uploads, so that a silo can tell who cheated if a check fails.",
    )
    aggregators: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Number of aggregators that divide the sum; default: by the model's size.",
    )


class DeadlineSection(Section):
    """Deadlines in seconds: a silo that has not answered by then counts as lost."""

    start_s: Positive = 120.0
    round_s: Positive = 600.0
    silent_s: Positive = Field(
        60.0,
        description="In separate clusters: a silo whose agent was not heard for so long counts as "
        "lost, even before another deadline.",
    )


class TrackingSection(Section):
    """Tracking with MLflow."""

    uri: str | None = Field(None, description="Default: a SQLite file beside the job file.")
    experiment: str | None = Field(None, description="Default: the job's name.")


class Job(Section):
    """A whole job file."""

    name: Name
    seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="Seed of the initial weights; never of noise in a private run.",
    )
    silos: list[SiloSection] = Field(min_length=2, max_length=64)
    data: DataSection
    model: Model
    training: TrainingSection
    server: ServerSection = ServerSection()
    privacy: Privacy
    encryption: EncryptionSection = EncryptionSection()
    quorum: int | None = Field(
        None,
        ge=2,
        le=64,
        description="Fewest silos with which a round can complete; default: all.",
    )
    deadlines: DeadlineSection = DeadlineSection()
    tracking: TrackingSection = TrackingSection()
    runs: str = Field("runs", description="Folder for results, relative to the job file.")
    simulation: SimulationSection | None = Field(
        None,
        exclude_if=unless(None),
        description="For simulations alone: several silos in one process.",
    )

    @model_validator(mode="after")
    def _silos_are_distinct(self) -> Job:
        for key in ("name", "data", "state"):
            values = [v for s in self.silos if (v := getattr(s, key)) is not None]
            if key == "data":  # two owners may use the same name for their datasets
                values = [v for v in values if not is_name(v)]
            twice = sorted({v for v in values if values.count(v) > 1})
            if twice:
                raise ValueError(f"two silos have the same {key}, {twice[0]!r}")
        if reserved := [name for name in self.roster if name in RESERVED]:
            raise ValueError(f"a silo cannot be named {reserved[0]!r}: the name is reserved")
        if self.privacy.noise == "none" and any(s.epsilon is not None for s in self.silos):
            raise ValueError("a silo has an epsilon but privacy.noise is none")
        return self

    @model_validator(mode="after")
    def _something_is_learnt(self) -> Job:
        if self.data.target is None and self.data.tasks is None and not self.has_private_tasks:
            raise ValueError("give data.target, data.tasks, or silos with private_tasks")
        if self.has_private_tasks:
            if self.data.target is not None:
                raise ValueError(
                    "private_tasks can be combined with data.tasks, not with data.target's classes"
                )
            if self.model.kind not in WITH_HEADS:
                raise ValueError(
                    f"private_tasks need model.kind {' or '.join(WITH_HEADS)}: its hidden layers "
                    "are shared"
                )
        if (
            self.data.target is None
            and self.privacy.noise != "none"
            and self.privacy.metrics_epsilon
        ):
            raise ValueError(
                "privacy.metrics_epsilon covers only the counts of data.target with classes: the "
                "effect of one record on the AUROC or R2 of a task has no known bound"
            )
        return self

    @model_validator(mode="after")
    def _models_fit_the_records(self) -> Job:
        model, features = self.model.kind, self.data.features.kind
        reads = _READS.get(model, features)
        if features == "factory":
            shape = self.data.features.shape  # type: ignore[union-attr]
            if isinstance(shape, dict) and model != "factory":
                raise ValueError("tensors by name need model.kind factory")
            if model == "cnn" and len(shape) != 3:
                raise ValueError("model.kind cnn needs a shape of channels, height and width")
            reads = features if model == "cnn" else reads
        if features != reads:
            raise ValueError(f"model.kind {model} needs data.features.kind {reads}")
        if not self.model.is_scored:
            return self
        if features in ("text", "graphs") and model not in (*_READS, "factory"):
            own = ", ".join(kind for kind, read in _READS.items() if read == features)
            raise ValueError(f"data.features.kind {features} needs model.kind {own} or factory")
        return self

    @model_validator(mode="after")
    def _a_loss_of_its_own_stands_alone(self) -> Job:
        if self.training.loss is None:
            return self
        if self.has_private_tasks:
            raise ValueError(
                "training.loss cannot be combined with private_tasks: each silo would call it with "
                "other tasks"
            )
        target, tasks = self.data.target, (self.data.tasks or {}).values()
        of_tasks = any((t.weight, t.positive_weight, t.focal) != (1.0, 1.0, 0.0) for t in tasks)
        if of_tasks or (target is not None and (target.class_weights or target.focal)):
            raise ValueError(
                "training.loss replaces the usual losses: leave out class_weights, weight, "
                "positive_weight and focal, and weigh records in the function"
            )
        return self

    @model_validator(mode="after")
    def _shared_noise_fits(self) -> Job:
        if self.privacy.noise != "shared":
            return self
        if self.training.local_steps != 1:
            raise ValueError(
                "privacy.noise shared takes one step a round: write training.local_steps: 1"
            )
        if self.privacy.colluders >= self.least_silos:
            raise ValueError(
                f"privacy.colluders is {self.privacy.colluders}, but must be below the quorum of "
                f"{self.least_silos} silos (at most {self.least_silos - 1})"
            )
        if self.encryption.scheme == "none":
            raise ValueError(
                "privacy.noise shared needs encryption.scheme ckks: without masks the aggregator "
                "would see each silo's sum protected only by that silo's own noise share"
            )
        if self.encryption.range is not None:
            raise ValueError(
                "leave encryption.range out: under privacy.noise shared it follows from clipping "
                "and noise"
            )
        return self

    @model_validator(mode="after")
    def _nothing_is_kept_of_a_private_update(self) -> Job:
        if self.encryption.error_feedback and self.privacy.noise != "none":
            raise ValueError(
                "encryption.error_feedback needs privacy.noise none: under differential privacy, "
                "what a silo sends in a round is bounded, noised and charged for that round alone"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _sums_are_not_averaged(cls, content: Any) -> Any:
        """Let a job whose model follows from sums release its newest: a mean of them is none."""
        if not isinstance(content, dict):
            return content
        model, training = content.get("model"), content.get("training")
        if isinstance(model, dict) and model.get("kind") in _SUMMED and isinstance(training, dict):
            return content | {"training": {"average": {"kind": "none"}} | training}
        return as_newton_steps(content)

    @model_validator(mode="before")
    @classmethod
    def _trees_without_noise_have_the_lambda_of_xgboost(cls, content: Any) -> Any:
        """Write XGBoost's default into a job of trees without privacy; with privacy it follows from
        the noise."""
        if not isinstance(content, dict):
            return content
        model, privacy = content.get("model"), content.get("privacy")
        if not isinstance(model, dict) or not isinstance(privacy, dict):
            return content
        if model.get("kind") == "trees" and privacy.get("noise") == "none":
            return content | {"model": {"reg_lambda": 1.0} | model}
        return content

    @model_validator(mode="after")
    def _sums_fit(self) -> Job:
        if isinstance(self.model, Boosted):
            require_fit(self.model, self)
        if isinstance(self.model, Statistics):
            require_statistics(self.model, self)
        if isinstance(self.model, Regression):
            require_regression(self.model, self)
        return self

    @model_validator(mode="after")
    def _gaps_are_kept_for_trees(self) -> Job:
        features = self.data.features
        kept = features.keeps_gaps if isinstance(features, Columns) else []
        if kept and not isinstance(self.model, Boosted):
            raise ValueError(
                f"missing.keep of {', '.join(kept)} is for model.kind trees: other models need a "
                "number for a gap, missing.value"
            )
        return self

    @model_validator(mode="after")
    def _control_variates_know_what_is_sent(self) -> Job:
        fewer = self.training.subset < 1 or self.encryption.error_feedback
        if self.training.control_variates and fewer:
            raise ValueError(
                "training.control_variates cannot be combined with training.subset or "
                "encryption.error_feedback: they follow whole changes of the model"
            )
        return self

    @model_validator(mode="after")
    def _a_subset_is_trained_in_one_process(self) -> Job:
        if self.training.subset < 1 and any(silo.workers > 1 for silo in self.silos):
            raise ValueError(
                "training.subset cannot be combined with silos.workers: the workers do not know "
                "the round's subset"
            )
        return self

    @model_validator(mode="after")
    def _a_shared_process_works_alone(self) -> Job:
        if self.simulation and any(silo.workers > 1 for silo in self.silos):
            raise ValueError(
                "simulation.silos_per_process cannot be combined with silos.workers: several "
                "silos share a process, or several processes a silo"
            )
        return self

    @model_validator(mode="after")
    def _a_quorum_is_of_the_silos(self) -> Job:
        if self.least_silos > len(self.silos):
            raise ValueError(
                f"quorum is {self.quorum}, but the job has only {len(self.silos)} silos"
            )
        return self

    @model_validator(mode="after")
    def _held_out_records_have_no_laxer_budget(self) -> Job:
        if self.privacy.noise == "none" or self.privacy.metrics_epsilon is None:
            return self
        least = min([self.privacy.epsilon, *(s.epsilon for s in self.silos if s.epsilon)])
        if self.privacy.metrics_epsilon > least:
            raise ValueError(
                f"privacy.metrics_epsilon {self.privacy.metrics_epsilon:g} is above the budget of "
                f"a silo's records, {least:g}: lower it"
            )
        return self

    @property
    def least_silos(self) -> int:
        """The fewest silos of a round: the quorum, or by default all. Under shared noise, the
        noise shares of this many silos suffice."""
        return self.quorum or len(self.silos)

    @property
    def private(self) -> bool:
        """Whether a run of this job is differentially private."""
        return self.privacy.noise != "none" and self.privacy.test_seed is None

    @property
    def simulated(self) -> str | None:
        """What everything says of a job whose simulated silos share processes; None of others."""
        return self.simulation.said(len(self.silos)) if self.simulation else None

    @property
    def adapts_range(self) -> bool:
        """Whether the range changes between rounds."""
        return (
            self.encryption.adapt_range and self.privacy.noise != "shared" and not self.sums_exactly
        )

    @property
    def sums_exactly(self) -> bool:
        """Whether rounds sum integers that are not rounded: of sums without privacy."""
        return self.model.is_summed and self.privacy.noise == "none"

    @property
    def moves_range(self) -> bool:
        """Whether the range differs between rounds: it adapts, or follows an adaptive clip norm."""
        section = self.privacy
        follows = section.noise == "shared" and section.clip_quantile is not None
        return self.adapts_range or follows

    @property
    def noises_held_out(self) -> bool:
        """Whether the counts of held-out records carry noise, within a budget of their own."""
        return self.privacy.noise != "none" and self.privacy.metrics_epsilon is not None

    def evaluates(self, round: int) -> bool:
        """Return whether held-out records are evaluated after that round."""
        if not self.model.is_scored or round == 0:
            return False
        return round % self.privacy.metrics_every == 0 or round == self.training.rounds

    @property
    def has_private_tasks(self) -> bool:
        """Whether any silo has private tasks; the model is then a trunk with heads."""
        return any(silo.private_tasks for silo in self.silos)

    @property
    def roster(self) -> tuple[str, ...]:
        """The names of all silos, in the job file's order."""
        return tuple(silo.name for silo in self.silos)

    def silo(self, name: str) -> SiloSection:
        """Return the section of one silo."""
        return next(silo for silo in self.silos if silo.name == name)
