"""Was this record trained on? Likelihood ratios from shadow models, whoever queries the model.

LiRA (Carlini, Chien, Nasr, Song, Terzis and Tramer, "Membership inference attacks from first
principles", IEEE S&P 2022): a record's logit-scaled confidence log(p / (1 - p)) is Gaussian over
models that were trained with it, and over models that were not; the score is the ratio of the two
densities. Variances by record from 64 shadow models on, one for all records below. RMIA (Zarifzadeh,
Liu and Shokri, ICML 2024, equations 1 to 4) compares a record's gain with that of records from the
population: strong with few shadow models. The weak arm is the confidence itself (Yeom et al., CSF
2018). Every model is the target once, the others its shadows.

Legend: K models, N records, Z population records.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp
from scipy.stats import norm

from blindsum.pipelines.audit.evidence import Figure

Reals = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
BY_RECORD = 64
"""Shadow models from which variances are estimated record by record."""
LEAST = 1e-2


@dataclass(frozen=True)
class Shadows:
    """What K trained models say of N records and Z of the population.

    `scaled` float64 [K, N] logit-scaled confidences, `members` bool [K, N], `population`
    float64 [K, Z] confidences in the true label.
    """

    scaled: Reals
    members: Bools
    population: Reals


def confidences(logits: Reals, labels: npt.NDArray[np.int64]) -> tuple[Reals, Reals]:
    """Logit-scaled and plain confidence in the label, [K, N] each, of logits [K, N, classes]."""
    index = np.broadcast_to(labels[None, :, None], (*logits.shape[:2], 1))
    true = np.take_along_axis(logits, index, 2)[..., 0]
    others = logits.copy()
    np.put_along_axis(others, index, -np.inf, 2)
    scaled = true - logsumexp(others, axis=2)
    return scaled, 1 / (1 + np.exp(-scaled))


def scores(shadows: Shadows, by_record: bool | None = None) -> dict[str, Reals]:
    """Every attack's scores, float64 [K, N]: higher says member."""
    models = len(shadows.scaled)
    by_record = models > BY_RECORD if by_record is None else by_record
    found: dict[str, list[Reals]] = {"lira": [], "rmia": [], "confidence": []}
    plain = 1 / (1 + np.exp(-shadows.scaled))
    for target in range(models):
        others = np.arange(models) != target
        found["lira"].append(_ratio(shadows, target, others, by_record))
        mean = plain[others].mean(0)
        population = shadows.population[target] / shadows.population[others].mean(0)
        gain = plain[target] / mean
        rank = np.searchsorted(np.sort(population), gain, side="right") / len(population)
        found["rmia"].append(rank + 1e-9 * gain)  # ties by the gain itself
        found["confidence"].append(shadows.scaled[target])
    return {name: np.stack(one) for name, one in found.items()}


def _ratio(shadows: Shadows, target: int, others: Bools, by_record: bool) -> Reals:
    scaled, members = shadows.scaled[others], shadows.members[others]
    log_densities = []
    for chosen in (members, ~members):
        count = np.maximum(chosen.sum(0), 1)
        mean = np.where(chosen, scaled, 0).sum(0) / count
        squared = np.where(chosen, (scaled - mean) ** 2, 0)
        if by_record:
            deviation = np.sqrt(squared.sum(0) / np.maximum(count - 1, 1))
        else:
            deviation = np.full(mean.shape, np.sqrt(squared.sum() / max(chosen.sum(), 1)))
        log_densities.append(
            norm.logpdf(shadows.scaled[target], mean, np.maximum(deviation, LEAST))
        )
    ratio: Reals = log_densities[0] - log_densities[1]
    return ratio


def tpr_at(scores: Reals, members: Bools, fpr: float) -> float:
    """The share of members found by the threshold that at most that share of others passes."""
    others = np.sort(scores[~members])[::-1]
    allowed = int(np.floor(fpr * len(others) + 1e-9))
    threshold = others[allowed] if allowed < len(others) else -np.inf
    return float((scores[members] > threshold).mean())


def rates(
    scores: Reals, members: Bools, fpr: float, *, resamples: int = 100, seed: int = 0
) -> Figure:
    """TPR at that FPR over all targets together, with a bootstrap interval over the targets."""
    random = np.random.default_rng(seed)
    drawn = [
        tpr_at(scores[rows].ravel(), members[rows].ravel(), fpr)
        for rows in random.integers(0, len(scores), (resamples, len(scores)))
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    value = tpr_at(scores.ravel(), members.ravel(), fpr)
    return Figure(value, float(low), float(high), floor=fpr)


def precision(found: Figure, fpr: float) -> Figure:
    """Precision at a balanced prior of what a TPR at that FPR flags; its floor is a half."""

    def of(tpr: float | None) -> float:
        return (tpr or 0.0) / ((tpr or 0.0) + fpr) if tpr or fpr else 0.5

    return Figure(of(found.value), of(found.low), of(found.high), floor=0.5)


def curve(scores: Reals, members: Bools, points: int = 81) -> list[tuple[float, float]]:
    """(FPR, TPR) pairs, at FPRs that do not tell how many records there are."""
    flat, inside = scores.ravel(), members.ravel()
    return [
        (float(f), round(tpr_at(flat, inside, float(f)), 4))
        for f in np.geomspace(1e-4, 1.0, points)
    ]


def exposure(scores: Reals, members: Bools) -> Reals:
    """Each record's risk, float64 [N]: the chance that a model trained with it scores it above
    one trained without. Private to the silo."""
    risk = np.full(scores.shape[1], 0.5)
    for record in range(scores.shape[1]):
        inside, outside = scores[members[:, record], record], scores[~members[:, record], record]
        if len(inside) and len(outside):
            risk[record] = float((inside[:, None] > outside[None]).mean())
    return risk
