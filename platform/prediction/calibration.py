"""Calibration of a released model's probabilities to labels that its user has.

Everything is computed where the labels are, and only the predictions depend on them.

    two outcomes     Platt scaling: logit' = slope * logit + offset (Platt, Advances in Large Margin
                     Classifiers 1999). A binary task, or a target of two classes
    more classes     temperature scaling: logits' = logits / temperature (Guo, Pleiss, Sun and
                     Weinberger, ICML 2017)

Two outcomes get an offset because the user's records rarely have the silos' share of positives, and
weights in the loss shift every logit (`positive_weight`, `class_weights`). Both act as a constant
added to the logit, which a temperature alone cannot take away. Of more classes, each would need an
offset of its own, and enough labels of every class; the temperature needs no more than one number.

The slope is positive, so that the order of records never changes, nor that of more than two classes
within a record. Both scalings minimise a convex loss: the mean cross-entropy with Platt's targets.
A label of a class that has n, of k classes, counts as (n + 1) / (n + k) for it and as 1 / (n + k)
for each of the others, not as 1 and 0. So labels that the model separates without an error still
give a finite slope.

What calibration changes is estimated by cross-validation: each record's probability comes from a
scaling that was fitted without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from blindsum.platform.data.enough import LEAST
from blindsum.platform.evaluation.conformal import dealt
from blindsum.platform.evaluation.intervals import Interval, with_interval
from blindsum.platform.evaluation.reliability import (
    Classes,
    Reals,
    Reliability,
    log_losses,
    mean_interval,
    reliability,
)

LEAST_LABELS = 50
"""Fewer labels are refused: the interval of what calibration changes would say nothing."""

FOLDS = 10
"""Of the cross-validation."""

_LEAST_SLOPE = 1e-3
"""In units of one standard deviation of the logits: the probabilities are then almost constant."""

_SAME = 1e-6
"""A smaller standard deviation of the logits is that of rounding."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Makes logits into calibrated ones. `offset` is added to the last class."""

    slope: float
    offset: float = 0.0

    def __call__(self, logits: Reals) -> Reals:
        """Return calibrated logits, float64 [records, classes], or [records] of a binary task."""
        found = self.slope * logits
        if found.ndim == 1:
            return found + self.offset
        found[:, -1] += self.offset
        return found


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The calibration of one task or target, and what it changes. Private to whoever has the
    labels.

    Attributes:
        labels: the number of labels.
        before: the model's own probabilities.
        after: the calibrated ones, by cross-validation.
        gain: by how much the log loss falls, by cross-validation; its interval is one of pairs.
        against: whether the labels run against the model's order. The calibrated probabilities are
            then almost the same for all records.
    """

    scaling: Scaling
    method: str
    labels: int
    before: Reliability
    after: Reliability
    gain: float
    gain_interval: Interval
    against: bool

    @property
    def helps(self) -> bool:
        """Whether the labels show that calibration lowers the log loss."""
        return self.gain_interval.low > 0

    @property
    def concern(self) -> str:
        """What its user must not overlook; empty if there is nothing."""
        if self.against:
            return (
                "the labels run against the model's order, so that all calibrated probabilities "
                "are almost the same. Check the labels, or do not use this model here"
            )
        if not self.helps:
            change = Interval(-self.gain_interval.high, -self.gain_interval.low)
            return (
                "these labels do not show that calibration helps: it changes the log loss by "
                f"{with_interval(-self.gain, change)}"
            )
        return ""

    def figures(self) -> dict[str, Any]:
        """Return scaling and figures by name."""
        found = {**self.parameters(), "labels": self.labels}
        for when, one in (("before", self.before), ("after", self.after)):
            for name, value, interval in (
                ("log_loss", one.log_loss, one.log_loss_interval),
                ("calibration_error", one.error, one.error_interval),
            ):
                key = f"{name}_{when}"
                found |= {key: value, f"{key}_low": interval.low, f"{key}_high": interval.high}
            found[f"calibration_error_{when}_if_perfect"] = one.of_perfect
        low, high = self.gain_interval
        return found | {"gain": self.gain, "gain_low": low, "gain_high": high}

    def parameters(self) -> dict[str, Any]:
        """Return the scaling by name. Whoever has calibrated and raw probabilities can compute
        it."""
        slope, offset = self.scaling.slope, self.scaling.offset
        if self.method == TEMPERATURE:
            return {"method": self.method, "temperature": 1 / slope}
        return {"method": self.method, "slope": slope, "offset": offset}


PLATT, TEMPERATURE = "Platt scaling", "temperature scaling"


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """Calibrations by task or target, and why the others stay as they are."""

    of: Mapping[str, Calibration]
    left: Mapping[str, str]


def why_not(logits: Reals, true: Classes) -> str:
    """Return why those labels calibrate nothing, with the target or task as the subject; empty if
    they do. Arguments as `calibrate`."""
    counts = np.sort(np.bincount(true, minlength=2))[::-1]
    if len(true) < LEAST_LABELS:
        return f"has {len(true)} usable labels, fewer than {LEAST_LABELS}"
    if counts[1] == 0:
        return "has labels of one class only"
    if counts[1] < LEAST:
        return f"has {counts[1]} labels of its second largest class, fewer than {LEAST}"
    if _spread(logits) < _SAME:
        return "has the same output for every labelled record"
    return ""


def calibrate(logits: Reals, true: Classes) -> Calibration:
    """Fit a calibration, and estimate what it changes.

    Args:
        logits: the model's, float64 [records, classes], finite.
        true: the labels' classes, int64 [records]. `why_not` has no objection to them.
    """
    scaling, against = fitted(logits, true)
    held_out = np.empty_like(logits)
    folds = dealt(true, FOLDS)
    for fold in range(FOLDS):
        test = folds == fold
        held_out[test] = fitted(logits[~test], true[~test])[0](logits[test])
    gains = log_losses(logits, true) - log_losses(held_out, true)
    return Calibration(
        scaling=scaling,
        method=PLATT if logits.shape[1] == 2 else TEMPERATURE,
        labels=len(true),
        before=reliability(logits, true),
        after=reliability(held_out, true),
        gain=float(gains.mean()),
        gain_interval=mean_interval(gains),
        against=against,
    )


def fitted(logits: Reals, true: Classes) -> tuple[Scaling, bool]:
    """Return the scaling that minimises the loss, and whether its slope ended at the least one.

    Arguments as `calibrate`. Two classes depend on the difference of their logits alone.
    """
    from scipy.optimize import minimize  # 0.1 s, which other predictions need not wait for

    classes = logits.shape[1]
    counts = np.bincount(true, minlength=classes)[:, None]
    targets = ((np.eye(classes) * counts + 1) / (counts + classes))[true]
    shifts = classes == 2
    # Logits of any size are as easy to fit when they have mean 0 and deviation 1.
    spread = max(_spread(logits), _SAME)
    around = logits - logits.mean(1, keepdims=True)
    middle = float((around[:, 1] - around[:, 0]).mean()) if shifts else 0.0
    scaled = around / spread
    scaled[:, -1] -= middle / spread

    def loss(parameters: Reals) -> tuple[float, Reals]:
        said = parameters[0] * scaled
        said[:, -1] += parameters[1]
        below = said - said.max(1, keepdims=True)
        logs = below - np.log(np.exp(below).sum(1, keepdims=True))
        slopes = np.exp(logs) - targets
        gradient = np.array([(slopes * scaled).sum(), slopes[:, -1].sum() if shifts else 0.0])
        return -float((targets * logs).sum()) / len(true), gradient / len(true)

    found = minimize(
        loss,
        np.array([1.0, 0.0]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(_LEAST_SLOPE, None), (None, None)],
        options={"ftol": 1e-14, "gtol": 1e-9, "maxiter": 1000},
    )
    slope, offset = (float(one) for one in found.x)
    offset -= slope * middle / spread
    return Scaling(slope=slope / spread, offset=offset if shifts else 0.0), slope <= _LEAST_SLOPE


def _spread(logits: Reals) -> float:
    """Return the standard deviation of logits between records, apart from what softmax ignores."""
    around = logits - logits.mean(1, keepdims=True)
    return float((around - around.mean(0)).std())
