"""Logistic and linear regression with standard errors, in a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from blindsum.platform.job.begun_section import Begun
from blindsum.platform.job.section import Positive
from blindsum.platform.job.summed import gradient_settings

if TYPE_CHECKING:
    from blindsum.platform.job.schema import Job

_FEATURES = ("columns", "descriptors")
_TRAINING: dict[str, Any] = {
    "average": {"kind": "none"},
    "local_steps": 1,
    "sampling_rate": 1.0,
    "learning_rate": 1.0,
}
"""The only settings with which a round is a Newton step on all records."""


class Regression(Begun):
    """Logistic or linear regression by Newton's method on the silos' sums, with standard errors,
    intervals and p-values."""

    kind: Literal["regression"]
    family: Literal["binomial", "gaussian"] | None = Field(
        None, description="binomial: two classes; gaussian: a number. Default: by the label."
    )
    ridge: float = Field(
        0.0, ge=0, le=1e9, description="L2 penalty on coefficients of scaled features."
    )
    level: float = Field(0.95, gt=0, lt=1, description="Of confidence intervals.")
    label_bound: Positive = Field(
        3.0,
        description="Under differential privacy: residuals of a number are cut there, in its "
        "scaled unit.",
    )

    @model_validator(mode="after")
    def _begins_at_zero(self) -> Regression:
        if self.weights or self.freeze or self.lora:
            raise ValueError("weights, freeze and lora do not belong to a regression")
        return self

    @property
    def is_summed(self) -> bool:
        """True: of scores and information."""
        return True


def as_newton_steps(content: Any) -> Any:
    """Return a job's content with the training settings that a regression leaves no choice of."""
    if not isinstance(content, dict):
        return content
    model, training = content.get("model"), content.get("training")
    is_one = isinstance(model, dict) and model.get("kind") == "regression"
    if is_one and isinstance(training, dict):
        return content | {"training": _TRAINING | training}
    return content


def family_of(job: Job) -> Literal["binomial", "gaussian"] | None:
    """Return the family that a job's label has; None if it is not one label of the two kinds."""
    target, tasks = job.data.target, list((job.data.tasks or {}).values())
    if target is not None:
        return "binomial" if len(target.classes) == 2 else None
    if len(tasks) != 1:
        return None
    return "binomial" if tasks[0].kind == "binary" else "gaussian"


def require_regression(section: Regression, job: Job) -> None:
    """Raise ValueError if a job has settings that are not for a regression, naming all."""
    training, family = job.training, family_of(job)
    private = job.privacy.noise != "none"
    at_once = family == "gaussian" and not private
    rounds = 1 if at_once else training.rounds
    faults = gradient_settings(job, rounds, ": without noise one exchange gives the whole fit")
    faults |= {
        "it needs one label: two classes, or a number": family is None,
        f"model.family {section.family} does not fit the label, which is for {family}": (
            None not in (family, section.family) and section.family != family
        ),
        "class_weights, focal and the weights of tasks leave no likelihood": _is_weighted(job),
        "labels with a qualifier have no likelihood here": any(
            task.qualifier for task in (job.data.tasks or {}).values()
        ),
        "model.label_bound is for a number under differential privacy": (
            section.label_bound != 3.0 and not (private and family == "gaussian")
        ),
        "training.sampling_rate and learning_rate must be 1, or left out": (
            (training.sampling_rate, training.learning_rate) != (1, 1)
        ),
        f"data.features.kind must be {' or '.join(_FEATURES)}": (
            job.data.features.kind not in _FEATURES
        ),
        "encryption.bits follows from the sums": job.encryption.bits is not None,
    }
    if found := [fault for fault, there in faults.items() if there]:
        raise ValueError(f"model.kind regression: {'; '.join(found)}")


def _is_weighted(job: Job) -> bool:
    target = job.data.target
    if target is not None and (target.class_weights or target.focal):
        return True
    return any(
        (task.weight, task.positive_weight, task.focal) != (1.0, 1.0, 0.0)
        for task in (job.data.tasks or {}).values()
    )
