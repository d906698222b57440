"""Infer from a model's outputs which records it was trained on, with the help of shadow models.

LiRA (Carlini, Chien, Nasr, Song, Terzis and Tramer, "Membership inference attacks from first
principles", IEEE S&P 2022): a record's logit-scaled confidence log(p / (1 - p)) is Gaussian over
models that were trained with it, and over models that were not; the score is the ratio of the two
densities. For a numeric task the signed error is close to Gaussian; for many tasks it is the log
odds of p = exp(-mean loss). With more than 64 models each record has its own variances, otherwise
all records share one. RMIA (Zarifzadeh, Liu and Shokri, ICML 2024, equations 1 to 4) compares a
record's gain with the gain of records from the population, with p = exp(-loss); it is strong with
few shadow models. The weak attack is the loss itself (Yeom et al., CSF 2018). Each model is the
target once, with all others as its shadows.

Legend: K models, N records, Z population records.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm
from scipy.stats import t as student

from blindsum.pipelines.audit.evidence import Figure

Reals = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
BY_RECORD = 64
"""With more models than this, variances are estimated for each record."""
MANY = 32
"""Targets from which on the bootstrap's own quantiles are used."""

LEAST = 1e-2
TINY = 1e-300


@dataclass(frozen=True)
class Shadows:
    """The outputs of K trained models on N records and on Z records of the population.

    `statistics` float64 [K, N], close to Gaussian over models; `losses` float64 [K, N], nats;
    `members` bool [K, N]; `population` float64 [K, Z], losses of the population's records.
    """

    statistics: Reals
    losses: Reals
    members: Bools
    population: Reals


def scores(shadows: Shadows, by_record: bool | None = None) -> dict[str, Reals]:
    """Return each attack's scores, float64 [K, N]: a higher score says member."""
    models = len(shadows.losses)
    by_record = models > BY_RECORD if by_record is None else by_record
    found: dict[str, list[Reals]] = {"lira": [], "rmia": [], "confidence": []}
    plain, population = np.exp(-shadows.losses), np.exp(-shadows.population)
    for target in range(models):
        others = np.arange(models) != target
        found["lira"].append(_ratio(shadows, target, others, by_record))
        gain = plain[target] / np.maximum(plain[others].mean(0), TINY)
        of_others = population[target] / np.maximum(population[others].mean(0), TINY)
        rank = np.searchsorted(np.sort(of_others), gain, side="right") / len(of_others)
        found["rmia"].append(rank + 1e-9 * gain)  # ties by the gain itself
        found["confidence"].append(-shadows.losses[target])
    return {name: np.stack(one) for name, one in found.items()}


def _ratio(shadows: Shadows, target: int, others: Bools, by_record: bool) -> Reals:
    statistics, members = shadows.statistics[others], shadows.members[others]
    log_densities = []
    for chosen in (members, ~members):
        count = np.maximum(chosen.sum(0), 1)
        mean = np.where(chosen, statistics, 0).sum(0) / count
        squared = np.where(chosen, (statistics - mean) ** 2, 0)
        if by_record:
            deviation = np.sqrt(squared.sum(0) / np.maximum(count - 1, 1))
        else:
            deviation = np.full(mean.shape, np.sqrt(squared.sum() / max(chosen.sum(), 1)))
        log_densities.append(
            norm.logpdf(shadows.statistics[target], mean, np.maximum(deviation, LEAST))
        )
    ratio: Reals = log_densities[0] - log_densities[1]
    return ratio


def tpr_at(scores: Reals, members: Bools, fpr: float) -> float:
    """Return the share of members above a threshold that at most `fpr` of non-members exceed."""
    others = np.sort(scores[~members])[::-1]
    allowed = int(np.floor(fpr * len(others) + 1e-9))
    threshold = others[allowed] if allowed < len(others) else -np.inf
    return float((scores[members] > threshold).mean())


def rates(
    scores: Reals,
    members: Bools,
    fpr: float,
    *,
    resamples: int = 100,
    seed: int = 0,
    among: int = 1,
) -> Figure:
    """Return the TPR at an FPR over all targets together, with a bootstrap interval over targets.

    Few targets do not show the tails of their distribution. With fewer than MANY, and for several
    rates at once, the interval is Student's, from the bootstrap's standard deviation.

    Args:
        among: number of rates whose worst is reported: the interval holds for all of them at once
            (Bonferroni).
    """
    random = np.random.default_rng(seed)
    drawn = [
        tpr_at(scores[rows].ravel(), members[rows].ravel(), fpr)
        for rows in random.integers(0, len(scores), (resamples, len(scores)))
    ]
    value = tpr_at(scores.ravel(), members.ravel(), fpr)
    if among == 1 and len(scores) >= MANY:
        low, high = np.quantile(drawn, (0.025, 0.975))
    else:
        freedom = max(len(scores) - 1, 1)
        reach = student.isf(0.025 / among, freedom) * np.std(drawn, ddof=1)
        low, high = max(value - reach, 0.0), min(value + reach, 1.0)
    return Figure(value, float(low), float(high), floor=fpr)


def precision(found: Figure, fpr: float) -> Figure:
    """Return the precision that a TPR at an FPR has under a balanced prior; the floor is 0.5."""

    def of(tpr: float | None) -> float:
        return (tpr or 0.0) / ((tpr or 0.0) + fpr) if tpr or fpr else 0.5

    return Figure(of(found.value), of(found.low), of(found.high), floor=0.5)


def curve(scores: Reals, members: Bools, points: int = 81) -> list[tuple[float, float]]:
    """Return (FPR, TPR) pairs at FPRs that do not reveal the number of records."""
    flat, inside = scores.ravel(), members.ravel()
    return [
        (float(f), round(tpr_at(flat, inside, float(f)), 4))
        for f in np.geomspace(1e-4, 1.0, points)
    ]


def exposure(scores: Reals, members: Bools) -> Reals:
    """Return each record's risk, float64 [N], which is private to the silo.

    The risk is the chance that a model trained with the record scores it above one trained without.
    """
    risk = np.full(scores.shape[1], 0.5)
    for record in range(scores.shape[1]):
        inside, outside = scores[members[:, record], record], scores[~members[:, record], record]
        if len(inside) and len(outside):
            risk[record] = float((inside[:, None] > outside[None]).mean())
    return risk
