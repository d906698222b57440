"""What a run sends, known before it starts: the frames of every round's sum, and of the counts that
evaluate the last model.

A frame's size follows from its format (`blindsum.he.wire`): ciphertexts, header, signature and
padding. The same functions of that module give the size that a run then counts, for a silo counts
the frames that it sends. Neither has the key ceremony at the start, repeated attempts, and what a
connection adds (HTTP, TLS).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blindsum.he.exchange import Exchange
from blindsum.he.parameters import Parameters
from blindsum.he.wire import total_bytes, upload_bytes
from blindsum.pipelines.run.folders import run_name
from blindsum.platform.data.features import features_of
from blindsum.platform.evaluation.figures import count_values, evaluates
from blindsum.platform.job.schema import Job
from blindsum.platform.job.statistics_section import Statistics
from blindsum.platform.training.sent import sent_counts

if TYPE_CHECKING:
    from blindsum.platform.training.models import Counted

_SHORTEST, _LONGEST = 1.0, 1.2345678901234567e-29
"""Factors with as few and as many characters as one in a header can have."""


@dataclass(frozen=True)
class Traffic:
    """The bytes of the largest of the last rounds and of a whole run, over all silos.

    If `at_most`, range or clip norm adapt, and the headers' size depends on their number of digits.
    Heads are padded, so a frame may then be 64 bytes smaller.
    """

    up_a_round: int
    down_a_round: int
    up: int
    down: int
    at_most: bool


def parameter_count(job: Job) -> int | None:
    """Return the number of parameters that the silos train together; None for a `model.factory`,
    which only its code knows. The model is not built: a proposal may name a huge one.

    Raises:
        ModelError: the model needs a package or a folder that is not here, or names nothing of it.
    """
    return None if job.model.kind == "factory" else _counted(job).trained


def frozen_count(job: Job) -> int:
    """Return the number of parameters that stay as they begin; 0 for a `model.factory`. Raises as
    `parameter_count`."""
    if job.model.kind == "factory" or not (job.model.freeze or job.model.lora):
        return 0
    found = _counted(job)
    return found.every - found.trained


def _counted(job: Job) -> Counted:
    from blindsum.platform.training.models import Counted, counted  # imports torch

    if isinstance(job.model, Statistics):
        from blindsum.platform.training.statistics.describing import Describing

        sums = 2 * Describing(job, job.model).size  # each is a pair of parameters
        return Counted(sums, sums)
    shape, own = features_of(job.data.features).shape, 0 if job.has_private_tasks else None
    return counted(job.model, shape, job.data.outputs, own)


def traffic(
    job: Job, parameters: Parameters, values: int, first_range: float, rounds: int
) -> Traffic:
    """Return the bytes of a run in which all silos take part.

    Args:
        values: the number of the model's parameters that are trained.
        first_range: the range of the first round.
        rounds: the number of rounds within the budget.
    """
    name = run_name(job)
    clips = job.privacy.noise != "none" and job.privacy.clip_quantile is not None

    sent = sent_counts(job, values)

    def round_bytes(number: int, size: int, adapted: float) -> tuple[int, int]:
        range = adapted if job.moves_range else first_range
        one = Exchange(
            run=name,
            round=number,
            attempt=1,
            purpose="update" if size else "metrics",
            roster=job.roster,
            values=size,
            counts=count_values(job),
            range=range if size else None,
            parameters=parameters,
            model="0" * 64,
            clipping=adapted if clips and size else 1.0,
        )
        return _up(one), _down(one)

    up = down = 0
    at_most, last = False, (0, 0)
    # Headers name the round, so that all rounds with as many digits have frames of the same size.
    for digits in range(1, len(str(rounds)) + 1):
        first, end = 10 ** (digits - 1), min(10**digits - 1, rounds) + 1
        for i, size in enumerate(sent):
            count = len(range(first + (i + 1 - first) % len(sent), end, len(sent)))
            longest = round_bytes(first, size, _LONGEST)
            at_most = at_most or longest != round_bytes(first, size, _SHORTEST)
            up, down = up + count * longest[0], down + count * longest[1]
            last = max(last, longest)
    if evaluates(job, rounds, job.roster):
        counted = round_bytes(rounds + 1, 0, 1.0)
        up, down = up + counted[0], down + counted[1]
    return Traffic(*last, up, down, at_most)


def _up(exchange: Exchange) -> int:
    return sum(upload_bytes(exchange, p, silo) for silo in exchange.roster for p in exchange.parts)


def _down(exchange: Exchange) -> int:
    return len(exchange.roster) * sum(total_bytes(exchange, part) for part in exchange.parts)
