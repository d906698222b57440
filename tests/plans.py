"""Plans made by hand, for tests that look at one part of the training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from blindsum.platform.privacy.plan import PrivacyPlan

ONE_STEP = PrivacyPlan(
    epsilon=1.0,
    delta=1e-5,
    sampling_rate=1.0,
    noise_multiplier=1.0,
    clip_norm=1.0,
    steps_per_round=1,
    rounds=1,
    rounds_within_budget=1,
    epsilon_planned=1.0,
)
"""One round of one step over all records, with noise as large as the clip norm."""


def plan_by_hand(**changes: Any) -> PrivacyPlan:
    """Return ONE_STEP with some fields changed. Nothing checks that its epsilon is true."""
    return replace(ONE_STEP, **changes)
