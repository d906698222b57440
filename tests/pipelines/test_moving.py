"""A run that ended while its figures still moved says so."""

import pytest

from blindsum.pipelines.run.moving import still_moving
from blindsum.platform.evaluation.figures import HeldOut


def figures(*accuracies: float, deviation: float = 0.0) -> list[HeldOut]:
    """Of 400 records: a standard error of 0.025 at an accuracy of a half."""
    return [
        HeldOut(
            records=400, accuracy=a, loss=1.0, largest_class=0.5, dropped=0, deviation=deviation
        )
        for a in accuracies
    ]


@pytest.mark.parametrize(
    ("accuracies", "moving"),
    [
        ((0.5, 0.5, 0.5), False),
        ((0.5, 0.54, 0.5), False),
        ((0.5, 0.56, 0.5), True),
        ((0.56, 0.5, 0.5), True),
        ((0.3, 0.5, 0.5, 0.5), False),
        ((0.5, 0.3), False),
        ((*[0.3] * 10, *[0.4 + k / 100 for k in range(10)]), False),  # a fifth of it: 4 rounds
        ((*[0.3] * 10, *[0.3 + k / 50 for k in range(10)]), True),
    ],
)
def test_the_last_figures_disagree(accuracies: tuple[float, ...], moving: bool) -> None:
    assert still_moving(figures(*accuracies)) == moving


def test_the_noise_on_counts_is_not_movement() -> None:
    assert still_moving(figures(0.5, 0.6, 0.5))
    assert not still_moving(figures(0.5, 0.6, 0.5, deviation=0.05))
