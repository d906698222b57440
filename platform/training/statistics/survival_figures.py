"""Kaplan-Meier curves and the log-rank test, from counts by time bin.

Kaplan and Meier (JASA 1958); Greenwood's variance (1926) on the scale of log(-log S), Kalbfleisch
and Prentice, The Statistical Analysis of Failure Time Data (2002); the median after
Brookmeyer and Crowley (Biometrics 1982); the log-rank test of Mantel (1966) and Peto (1972).

Intervals tell how other such records might come out. Under differential privacy the noise adds to
them: its variance, which further draws of it show, is added to Greenwood's. Noised counts are first
projected to the nearest ones that are not negative and have the same sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from blindsum.platform.training.statistics.interval import DEVIATIONS, Figure
from blindsum.platform.training.statistics.survival import CENSORED, EVENT

Reals = npt.NDArray[np.float64]
DRAWS = 200


@dataclass(frozen=True)
class SurvivalCurve:
    """One group's curve.

    Attributes:
        group: its category; empty if there are no groups.
        records, events: their numbers, events within the bins.
        at_risk: at each bin's end, just before it.
        survival, low, high: after each bin's end, and the interval of LEVEL.
        median: the first end at which survival is at most a half; infinite beyond the last.
        mean: of the time up to the last end (restricted mean).
    """

    group: str
    records: Figure
    events: Figure
    at_risk: tuple[float, ...]
    survival: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    median: Figure
    mean: Figure


@dataclass(frozen=True)
class LogRank:
    """The test of the hypothesis that all groups have the same survival."""

    chi2: float
    degrees: int
    p: float


@dataclass(frozen=True)
class SurvivalFigures:
    """Survival of the consortium's records.

    Attributes:
        event: its column, and the category that it is.
        ends: of the time bins.
        log_rank: None without groups to compare.
    """

    time: str
    event: str
    ends: tuple[float, ...]
    curves: tuple[SurvivalCurve, ...]
    log_rank: LogRank | None


@dataclass(frozen=True)
class _Estimates:
    """What follows from counts, each [..., groups] or [..., groups, bins].

    Attributes:
        at_risk: float64.
        survival: in [0, 1].
        greenwood: the variance of log S.
        mean, mean_variance: the restricted mean, and its variance.
    """

    at_risk: Reals
    survival: Reals
    greenwood: Reals
    mean: Reals
    mean_variance: Reals


def survival_figures(
    counts: Reals,
    deviation: float,
    ends: Reals,
    groups: tuple[str, ...],
    random: np.random.Generator,
    time: str = "",
    event: str = "",
) -> SurvivalFigures:
    """Return curves and test.

    Args:
        counts: float64 [groups, 2, bins], as of `Events`, with their noise.
        deviation: of the noise on each count; 0 without privacy.
        random: draws more of the noise. It is public, so any seed will do.
    """
    z = DEVIATIONS
    draws = counts[None] + random.normal(0, deviation, (DRAWS if deviation else 1, *counts.shape))
    drawn = _estimates(_projected(draws), ends)
    whole = _projected(counts) if deviation else counts
    found = _estimates(whole, ends)
    spread = np.sqrt(
        _log_log_variance(found) + np.var(_log_log(drawn.survival), axis=0)  # both on one scale
    )
    middle = _log_log(found.survival)
    low, high = (np.exp(-np.exp(middle + sign * z * spread)) for sign in (1, -1))
    # Nothing has happened yet, or everybody was hit: there is no log-log scale.
    fixed = ~np.isfinite(spread) | (found.survival >= 1) | (found.survival <= 0)
    if deviation:
        low, high = np.where(fixed, 0.0, low), np.where(fixed, 1.0, high)
    else:
        low, high = np.where(fixed, found.survival, low), np.where(fixed, found.survival, high)
    means = z * np.sqrt(found.mean_variance + np.var(drawn.mean, axis=0))
    noise = z * deviation * math.sqrt(len(ends))
    curves = []
    for i, group in enumerate(groups):
        sums = whole[i].sum(1)
        records, events = float(sums.sum()), float(sums[EVENT])
        curves.append(
            SurvivalCurve(
                group=group,
                records=_counted(records, noise * math.sqrt(2)),
                events=_counted(events, noise),
                at_risk=_plain(found.at_risk[i]),
                survival=_plain(found.survival[i]),
                low=_plain(low[i]),
                high=_plain(high[i]),
                median=Figure(*(_first(one[i], ends) for one in (found.survival, low, high))),
                mean=Figure(
                    float(found.mean[i]),
                    float(max(found.mean[i] - means[i], 0.0)),
                    float(min(found.mean[i] + means[i], ends[-1])),
                ),
            )
        )
    test = _log_rank(whole, _projected(draws) if deviation else None)
    return SurvivalFigures(time, event, _plain(ends), tuple(curves), test)


def _counted(value: float, spread: float) -> Figure:
    return Figure(value, max(value - spread, 0.0), value + spread)


def _plain(values: Reals) -> tuple[float, ...]:
    return tuple(map(float, values))


def _first(survival: Reals, ends: Reals) -> float:
    at = np.flatnonzero(survival <= 0.5)
    return float(ends[at[0]]) if len(at) else math.inf


def _projected(counts: Reals) -> Reals:
    """Return the nearest counts that are not negative, with the same sum over the bins, [..., bins]
    (Duchi, Shalev-Shwartz, Singer and Chandra, ICML 2008, figure 1). Clipping each would add
    records where there are few."""
    wanted = np.maximum(counts.sum(-1, keepdims=True), 0.0)
    ordered = -np.sort(-counts, axis=-1)
    ranks = np.arange(1, counts.shape[-1] + 1)
    excess = (np.cumsum(ordered, -1) - wanted) / ranks
    last = np.maximum((ordered > excess).sum(-1, keepdims=True) - 1, 0)
    found: Reals = np.maximum(counts - np.take_along_axis(excess, last, -1), 0.0)
    return found


def _estimates(counts: Reals, ends: Reals) -> _Estimates:
    events = counts[..., EVENT, :]
    at_risk = _at_risk(counts)
    survive = 1 - events / np.maximum(at_risk, 1e-9)
    survival: Reals = np.cumprod(np.clip(survive, 0.0, 1.0), axis=-1, dtype=np.float64)
    left = at_risk - events
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(events > 0, events / (at_risk * left), 0.0)
    before = np.concatenate([np.ones_like(survival[..., :1]), survival[..., :-1]], axis=-1)
    areas = before * np.diff(ends, prepend=0.0)
    after = np.flip(np.cumsum(np.flip(areas, -1), -1), -1) - areas
    # Whoever is hit last leaves no area behind.
    of_mean = np.where(np.isfinite(terms), after**2 * np.where(np.isfinite(terms), terms, 0), 0)
    return _Estimates(at_risk, survival, np.cumsum(terms, -1), areas.sum(-1), of_mean.sum(-1))


def _at_risk(counts: Reals) -> Reals:
    """Return how many records are at risk at each end, [..., bins]."""
    leaving = counts[..., EVENT, :] + counts[..., CENSORED, :]
    return np.flip(np.cumsum(np.flip(leaving, -1), -1), -1)


def _log_log(survival: Reals) -> Reals:
    return np.log(-np.log(np.clip(survival, 1e-12, 1 - 1e-12)))


def _log_log_variance(found: _Estimates) -> Reals:
    logs = np.log(np.clip(found.survival, 1e-12, 1 - 1e-12))
    return np.asarray(found.greenwood / logs**2)


def _log_rank(counts: Reals, draws: Reals | None) -> LogRank | None:
    """Return the test; the noise's covariance adds to that of the hypothesis.

    Args:
        counts: [groups, 2, bins].
        draws: counts with more noise, [draws, groups, 2, bins]; None if there is none.
    """
    if len(counts) < 2:
        return None
    apart = _apart(counts)
    groups, events = _at_risk(counts), counts[:, EVENT].sum(0)
    whole = groups.sum(0)
    there = whole > 1
    shares = groups[:, there] / whole[there]
    weights = events[there] * (whole[there] - events[there]) / (whole[there] - 1)
    variance = np.diag((weights * shares).sum(1)) - (weights * shares) @ shares.T
    if draws is not None:
        variance = variance + np.cov(_apart(draws), rowvar=False)
    # Each group's difference follows from the others'; a group without records has none.
    chosen = np.flatnonzero(np.diag(variance) > 1e-9)[:-1]
    if not len(chosen):
        return LogRank(0.0, 0, 1.0)
    chi2 = float(apart[chosen] @ np.linalg.solve(variance[np.ix_(chosen, chosen)], apart[chosen]))
    return LogRank(chi2, len(chosen), float(stats.chi2.sf(chi2, len(chosen))))


def _apart(counts: Reals) -> Reals:
    """Return events above those that the hypothesis expects, [..., groups]."""
    events, groups = counts[..., EVENT, :], _at_risk(counts)
    whole = np.maximum(groups.sum(-2, keepdims=True), 1e-9)
    found: Reals = (events - groups * events.sum(-2, keepdims=True) / whole).sum(-1)
    return found
