"""Gradient-boosted trees in a job. Names are XGBoost's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from blindsum.platform.job.section import Section


class Boosted(Section):
    """Histogram gradient boosting: every silo grows the same trees from the same sums."""

    kind: Literal["trees"]
    trees: int = Field(100, ge=1, le=10_000, description="Of each output.")
    split: Literal["best", "random", "cyclic"] = Field(
        "random",
        description="best: by gain, from histograms of every level. random: features and thresholds "
        "drawn from the job's seed, and only the leaves are summed. cyclic: random thresholds of "
        "one feature a tree, so that the model is a sum of functions of single features.",
    )
    max_depth: int = Field(4, ge=1, le=10)
    max_bin: int = Field(32, ge=2, le=256, description="Public bins of each feature.")
    reg_lambda: float = Field(1.0, ge=0, le=1e9)
    reg_alpha: float = Field(0.0, ge=0, le=1e9)
    gamma: float = Field(0.0, ge=0, le=1e9, description="Least gain of a split.")
    min_child_weight: float = Field(1.0, ge=0, le=1e9)
    colsample_bytree: float = Field(1.0, gt=0, le=1)
    edges: dict[str, Annotated[list[float], Field(min_length=1, max_length=255)]] = Field(
        {}, description="Public edges of bins by column, in its unit; default: normal quantiles."
    )

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> Boosted:
        chosen = (self.gamma, self.min_child_weight) != (0.0, 1.0)
        if self.split != "best" and chosen:
            raise ValueError("gamma and min_child_weight choose splits: they need split: best")
        return self

    @property
    def exchanges(self) -> int:
        """The rounds that a tree takes."""
        return self.max_depth if self.split == "best" else 1
