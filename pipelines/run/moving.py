"""Whether a run ended while its figures were still moving."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blindsum.platform.evaluation.figures import HeldOut, TaskFigures

ADVICE = "still moving: more rounds or a smaller learning rate"


def still_moving(evaluated: Sequence[HeldOut | TaskFigures]) -> bool:
    """Return whether the last figure is more than two standard errors from one of the two before
    it, or from the one that is a fifth of the evaluations older.

    All of them are of the same held-out records, so that only the noise on their counts differs.

    Args:
        evaluated: the figures of the released model, in order.
    """
    if len(evaluated) < 3:
        return False
    last = evaluated[-1]
    earlier = (evaluated[-2], evaluated[-3], evaluated[-1 - max(1, len(evaluated) // 5)])
    return any(_apart(one, last) for one in earlier)


def _apart(one: HeldOut | TaskFigures, other: HeldOut | TaskFigures) -> bool:
    a, b = one.score, other.score
    if a.interval is None or b.interval is None:
        return False  # a diverged model is said to be that
    error = max(a.interval.deviation, b.interval.deviation)
    return abs(a.value - b.value) > 2 * math.hypot(error, other.deviation)
