"""Statistics of the consortium in a job: what it holds, before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from blindsum.platform.job.begun_section import Begun
from blindsum.platform.job.section import Section
from blindsum.platform.job.summed import gradient_settings

if TYPE_CHECKING:
    from blindsum.platform.job.schema import Job

_Share = Annotated[float, Field(gt=0, lt=1)]


class Bounds(Section):
    """Public bounds of a column of numbers, in its unit; of dates in days."""

    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)

    @model_validator(mode="after")
    def _ascends(self) -> Bounds:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        return self


class Statistics(Begun):
    """Counts, means, deviations, quantiles and correlations of all silos' records together."""

    kind: Literal["statistics"]
    quantiles: list[_Share] = Field([0.05, 0.25, 0.5, 0.75, 0.95], min_length=1, max_length=99)
    bins: int | None = Field(
        None,
        ge=8,
        le=4096,
        multiple_of=8,
        description="Bins of a column's histogram; default: 64, without privacy 1024.",
    )
    bounds: dict[str, Bounds] = Field(
        {}, description="Public bounds of columns; the others' are found in a round of their own."
    )
    correlations: bool = True
    differences: bool = Field(
        True, description="Whether to test which columns differ between silos."
    )

    @field_validator("quantiles")
    @classmethod
    def _ascend(cls, quantiles: list[float]) -> list[float]:
        if sorted(set(quantiles)) != quantiles:
            raise ValueError("write each quantile once, in ascending order")
        return quantiles

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> Statistics:
        if self.weights or self.freeze or self.lora:
            raise ValueError("weights, freeze and lora do not belong to statistics")
        return self

    @property
    def is_summed(self) -> bool:
        """True: of records."""
        return True

    @property
    def is_scored(self) -> bool:
        """False: they predict nothing."""
        return False

    @property
    def exchanges(self) -> int:
        """The rounds that they take: ranges, histograms, moments."""
        return 3


def require_fit(section: Statistics, job: Job) -> None:
    """Raise ValueError if a job of statistics has settings that are not for it, naming all."""
    privacy = job.privacy
    faults = gradient_settings(job, section.exchanges)
    faults |= {
        "training.sampling_rate must be 1: all records are counted": (
            job.training.sampling_rate != 1
        ),
        "training.learning_rate must be 1": job.training.learning_rate != 1,
        "quorum must be all silos: rounds of different silos do not fit together": (
            job.least_silos < len(job.silos)
        ),
    }
    if privacy.noise != "none":
        faults |= {
            "privacy.clip_norm must be 1": privacy.clip_norm != 1,
            "privacy.metrics_epsilon belongs to models that predict": (
                privacy.metrics_epsilon is not None
            ),
            "silos.NAME.epsilon must not be below privacy.epsilon: a silo that clips harder than "
            "the others would count less": any(
                silo.epsilon is not None and silo.epsilon < privacy.epsilon for silo in job.silos
            ),
        }
    if unknown := sorted(set(section.bounds) - job.data.inputs - set(job.data.tasks or ())):
        faults[f"bounds names {unknown[0]!r}, which is no column of the job"] = True
    if found := [fault for fault, there in faults.items() if there]:
        raise ValueError(f"model.kind statistics: {'; '.join(found)}")
