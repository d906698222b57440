"""When a run ends early."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from blindsum.pipelines.run.stopping import stopped_early
from blindsum.platform.job.training_section import TrainingSection


def reports(*scores: float | None) -> Any:
    """None is a round that was not evaluated. The last round's figure is not there yet."""
    return [
        SimpleNamespace(
            round=number,
            metrics=SimpleNamespace(
                held_out=None
                if score is None
                else SimpleNamespace(score=SimpleNamespace(value=score))
            ),
        )
        for number, score in enumerate((*scores, None), 1)
    ]


def training(**stop: float) -> TrainingSection:
    return TrainingSection.model_validate(
        {
            "rounds": 20,
            "sampling_rate": 0.5,
            "expected_batch_size": 9.0,
            "learning_rate": 0.1,
            "stop": stop or None,
        }
    )


@pytest.mark.parametrize(
    ("scores", "ends"),
    [
        ((0.5, 0.6, 0.6, 0.59), True),
        ((0.5, 0.6, 0.61, 0.59), False),
        ((0.6, 0.6, 0.59), True),
        ((0.6, 0.6), False),
        ((0.6, None, 0.59, None), False),
        ((0.6, None, 0.59, None, 0.58), True),
        ((math.nan, 0.5, 0.5), False),
        ((0.5, math.nan, math.nan), True),
    ],
)
def test_a_run_ends_when_nothing_improves(scores: tuple[float | None, ...], ends: bool) -> None:
    assert bool(stopped_early(training(patience=2), reports(*scores))) is ends
    assert not stopped_early(training(), reports(*scores)), "only where the job says so"


def test_small_improvements_do_not_count_and_the_last_round_is_no_early_end() -> None:
    rising = reports(0.5, 0.504, 0.508)
    assert stopped_early(training(patience=2, least=0.01), rising)
    assert not stopped_early(training(patience=2, least=0.001), rising)
    assert not stopped_early(training(patience=2), reports(*[0.5] * 20))
