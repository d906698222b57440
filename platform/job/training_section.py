"""How silos train, and how a total becomes the next model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from blindsum.platform.job.average_section import DEFAULT, Average
from blindsum.platform.job.schedule_section import CONSTANT, Schedule
from blindsum.platform.job.section import FunctionName, Positive, Section, unless

MAX_STEPS = 1_000_000


class StopSection(Section):
    """When a run ends early."""

    patience: int = Field(ge=1, le=100_000, description="Evaluated rounds without an improvement.")
    least: float = Field(
        0.0, ge=0, le=1, description="The least improvement of the held-out score that counts."
    )


class TrainingSection(Section):
    """Local training. One step takes a Poisson sample: it includes each record independently with
    probability `sampling_rate`."""

    rounds: int = Field(ge=1, le=100_000)
    local_steps: int = Field(10, ge=1, le=100_000)
    sampling_rate: float = Field(gt=0, le=1)
    expected_batch_size: Positive = Field(
        description="Public divisor of the clipped sum; about sampling_rate times the number of a "
        "silo's records. It is a constant, so that the size of a silo's data stays protected too."
    )
    learning_rate: Positive
    average: Average = Field(
        DEFAULT, description="Which average of the rounds' models is evaluated and released."
    )
    schedule: Schedule = Field(
        CONSTANT, exclude_if=unless(CONSTANT), description="The learning rate from round to round."
    )
    optimizer: Literal["sgd", "momentum", "adam"] = Field(
        "sgd",
        exclude_if=unless("sgd"),
        description="The optimizer of the local steps; its state begins anew in every round.",
    )
    momentum: float = Field(
        0.9, ge=0, lt=1, exclude_if=unless(0.9), description="As of server.momentum."
    )
    proximal: float = Field(
        0.0,
        ge=0,
        le=1e6,
        exclude_if=unless(0.0),
        description="Pull of local steps towards the round's first model (FedProx's mu).",
    )
    loss: FunctionName | None = Field(
        None,
        exclude_if=unless(None),
        description="A loss of your own: module:function from outputs and labels to one loss for "
        "each record.",
    )
    control_variates: bool = Field(
        False,
        exclude_if=unless(False),
        description="Correct each silo's steps by how they differ from the mean (SCAFFOLD).",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        exclude_if=unless("float32"),
        description="In which layers compute; weights, norms, sums and noise stay float32.",
    )
    chunk: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        exclude_if=unless(None),
        description="Most records of a sample that are computed at a time; changes no result.",
    )
    subset: float = Field(
        1.0,
        gt=0,
        le=1,
        exclude_if=unless(1.0),
        description="Share of the parameters that train and travel in a round: a public random "
        "choice, another in every round.",
    )
    stop: StopSection | None = Field(
        None,
        exclude_if=unless(None),
        description="End the run early when the held-out figures no longer improve.",
    )

    @model_validator(mode="after")
    def _can_be_accounted(self) -> TrainingSection:
        if self.rounds * self.local_steps > MAX_STEPS:
            raise ValueError(f"rounds times local_steps is above {MAX_STEPS:,}")
        return self

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> TrainingSection:
        if self.local_steps == 1 and (self.optimizer, self.proximal) != ("sgd", 0.0):
            raise ValueError(
                "training.optimizer and training.proximal begin anew in every round, and with one "
                "local step they do nothing: leave them out, and use server.optimizer"
            )
        if self.control_variates and self.local_steps == 1:
            raise ValueError(
                "training.control_variates needs more than one local step: with one they cancel in "
                "the mean of the silos. So privacy.noise shared, which takes one, has no use for "
                "them"
            )
        if self.control_variates and (self.optimizer, self.proximal) != ("sgd", 0.0):
            raise ValueError(
                "training.control_variates belongs to training.optimizer sgd without proximal: a "
                "silo takes the mean of its gradients from the change that it sends"
            )
        if self.proximal * self.learning_rate > 1:
            raise ValueError(
                f"training.proximal {self.proximal:g} times learning_rate {self.learning_rate:g} "
                "is above 1: steps would overshoot the round's first model"
            )
        if self.optimizer == "sgd" and self.momentum != 0.9:
            raise ValueError("training.momentum belongs to training.optimizer momentum or adam")
        if self.optimizer == "adam" and self.momentum > 0.99:
            raise ValueError("training.momentum of adam is at most 0.99")
        return self

    def rate(self, round: int) -> float:
        """Return the learning rate of a round's local steps."""
        return self.learning_rate * self.schedule.of_round(round, self.rounds)


class ServerSection(Section):
    """The server optimizer, with which every silo turns the mean update into the next model. All
    silos compute the same model."""

    optimizer: Literal["sgd", "momentum", "adam"] = "sgd"
    learning_rate: Positive = 1.0
    momentum: float = Field(
        0.9, ge=0, lt=1, description="Momentum of momentum; first beta of adam."
    )
    weight_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        exclude_if=unless(0.0),
        description="Share of every parameter that a round takes away, times learning_rate.",
    )

    @model_validator(mode="after")
    def _does_not_change_signs(self) -> ServerSection:
        if self.weight_decay * self.learning_rate >= 1:
            raise ValueError("server.weight_decay times server.learning_rate must be below 1")
        return self
