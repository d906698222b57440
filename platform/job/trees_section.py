"""Gradient-boosted trees in a job. Names are XGBoost's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from blindsum.platform.job.begun_section import Begun
from blindsum.platform.job.summed import gradient_settings

if TYPE_CHECKING:
    from blindsum.platform.job.schema import Job

MOST_BINS = 256
_FEATURES = ("columns", "descriptors", "ecfp", "fingerprint", "kernel", "maccs", "projection")


class Boosted(Begun):
    """Histogram gradient boosting: every silo grows the same trees from the same sums."""

    kind: Literal["trees"]
    trees: int = Field(100, ge=1, le=10_000, description="Of each output.")
    split: Literal["best", "random", "cyclic"] = Field(
        "random",
        description="best: by gain, from histograms of every level. random: features and "
        "thresholds drawn from the job's seed; only leaves are summed. cyclic: random thresholds "
        "of one feature a tree, so that the model is a sum of functions of single features.",
    )
    max_depth: int = Field(4, ge=1, le=10)
    max_bin: int = Field(32, ge=2, le=256, description="Public bins of each feature.")
    reg_lambda: float | None = Field(
        None, ge=0, le=1e9, description="Default: 1, or twice the deviation of the sums' noise."
    )
    reg_alpha: float = Field(0.0, ge=0, le=1e9)
    gamma: float = Field(0.0, ge=0, le=1e9, description="Least gain of a split.")
    min_child_weight: float = Field(1.0, ge=0, le=1e9)
    colsample_bytree: float = Field(1.0, gt=0, le=1)
    edges: dict[str, Annotated[list[float], Field(min_length=1, max_length=255)]] = Field(
        {}, description="Public edges of bins by column, in its unit; default: normal quantiles."
    )

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> Boosted:
        if self.weights or self.freeze or self.lora:
            raise ValueError("weights, freeze and lora do not belong to trees")
        chosen = (self.gamma, self.min_child_weight) != (0.0, 1.0)
        if self.split != "best" and chosen:
            raise ValueError("gamma and min_child_weight choose splits: they need split: best")
        return self

    @property
    def is_summed(self) -> bool:
        """True: of derivatives."""
        return True

    @property
    def exchanges(self) -> int:
        """The rounds that a tree takes."""
        return self.max_depth if self.split == "best" else 1


def _too_many_bins(section: Boosted, job: Job) -> bool:
    """Return whether the bin of gaps would be one more than a byte can tell apart."""
    features = job.data.features
    if features.kind != "columns" or not features.keeps_gaps:
        return False
    return section.max_bin > MOST_BINS - 1 or any(
        len(edges) > MOST_BINS - 2 for edges in section.edges.values()
    )


def require_fit(section: Boosted, job: Job) -> None:
    """Raise ValueError if a job of trees has settings that are not for trees, naming all."""
    focal = [job.data.target.focal] if job.data.target else []
    focal += [task.focal for task in (job.data.tasks or {}).values()]
    rounds, each = section.trees * section.exchanges, f": {section.exchanges} for each tree"
    faults = gradient_settings(job, rounds, each)
    faults |= {
        f"data.features.kind must be one of {', '.join(_FEATURES)}": (
            job.data.features.kind not in _FEATURES
        ),
        "columns that keep their gaps take a bin for them: max_bin at most 255, and at most 254 "
        "edges": _too_many_bins(section, job),
        "focal is for gradients": any(focal),
    }
    if found := [fault for fault, there in faults.items() if there]:
        raise ValueError(f"model.kind trees: {'; '.join(found)}")
