"""How well probabilities match what is true: log loss and calibration error, with 95 % intervals.

    log loss             the mean of -log(probability of the true class), in nats
    calibration error    expected calibration error: the mean distance between probability and
                         frequency over bins of equal mass, weighted by records (Guo, Pleiss, Sun
                         and Weinberger, ICML 2017; bins of equal mass: Nguyen and O'Connor, EMNLP
                         2015). Of two classes, the second's probability; of more, the likeliest's

Noise alone makes a distance: probabilities that match perfectly show a calibration error above 0,
the more so the fewer records there are. `Reliability.of_perfect` says how much. A bootstrap adds
that noise again, so that its percentiles never reach 0. The interval here starts at 0 if perfect
probabilities would show so much in more than 2.5 % of cases (consistency resampling: Broecker and
Smith, Weather and Forecasting 2007), and takes the noise's mean from both ends.

With the logits of records as they are given, all of this is a function of them: the bins' noise is
drawn from a fixed seed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from blindsum.platform.evaluation.intervals import CONFIDENCE, DEVIATIONS, Interval

Reals = npt.NDArray[np.float64]
Classes = npt.NDArray[np.int64]

_LEAST_IN_BIN = 10
_BINS = 10
_DRAWS = 4000


class Reliability(NamedTuple):
    """How well probabilities match labels.

    `of_perfect` is the calibration error that perfect probabilities would show with as many labels.
    """

    log_loss: float
    log_loss_interval: Interval
    error: float
    error_interval: Interval
    of_perfect: float


def reliability(logits: Reals, true: Classes) -> Reliability:
    """Return how well the softmax of logits, float64 [records, classes], matches the true classes,
    int64 [records]. At least two records."""
    losses = log_losses(logits, true)
    chances = np.exp(_log_softmax(logits))
    if logits.shape[1] == 2:
        said, came = chances[:, 1], true == 1
    else:
        said, came = chances.max(1), chances.argmax(1) == true
    error, interval, of_perfect = _calibration_error(said, came.astype(np.float64))
    return Reliability(float(losses.mean()), mean_interval(losses), error, interval, of_perfect)


def log_losses(logits: Reals, true: Classes) -> Reals:
    """Return each record's log loss, float64 [records]."""
    losses: Reals = -np.take_along_axis(_log_softmax(logits), true[:, None], 1)[:, 0]
    return losses


def mean_interval(values: Reals) -> Interval:
    """Return the interval of the mean of independent values."""
    half = DEVIATIONS * float(values.std(ddof=1)) / len(values) ** 0.5
    return Interval(float(values.mean()) - half, float(values.mean()) + half)


def _log_softmax(logits: Reals) -> Reals:
    below = logits - logits.max(1, keepdims=True)
    found: Reals = below - np.log(np.exp(below).sum(1, keepdims=True))
    return found


def _calibration_error(said: Reals, came: Reals) -> tuple[float, Interval, float]:
    """Return the error, its interval, and the error that perfect probabilities would show."""
    which = _equal_mass(said)
    counts = np.bincount(which).astype(np.float64)
    gaps, records = said - came, len(said)
    of_bins = np.bincount(which, gaps) / records
    spread = np.bincount(which, gaps**2) / records**2 - of_bins**2 / np.maximum(counts, 1)
    unbiased = counts / np.maximum(counts - 1, 1)
    deviations = np.sqrt(np.maximum(spread, 0) * unbiased)
    of_chance = np.sqrt(np.bincount(which, said * (1 - said))) / records
    noise = np.random.default_rng(0).standard_normal((_DRAWS, len(counts)))
    again = np.abs(of_bins + noise * deviations).sum(1)
    perfect = np.abs(noise * of_chance).sum(1)
    error, tail = float(np.abs(of_bins).sum()), (1 - CONFIDENCE) / 2
    most, most_of_perfect = (float(np.quantile(one, 1 - tail)) for one in (again, perfect))
    low = 0.0 if error <= most_of_perfect else max(0.0, 2 * error - most)
    high = most - max(float(again.mean()) - error, 0.0)
    return error, Interval(low, max(high, low)), float(perfect.mean())


def _equal_mass(said: Reals) -> npt.NDArray[Any]:
    """Return the bin of each probability, int64 [records]. Equal ones share a bin, so that the
    order of records does not matter."""
    most = max(_BINS, round(len(said) ** (1 / 3)))
    bins = max(1, min(most, len(said) // _LEAST_IN_BIN))
    edges = np.quantile(said, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(edges, said, side="right")
