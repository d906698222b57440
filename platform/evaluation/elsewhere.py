"""Held-out records that lie in other processes of the silo."""

from __future__ import annotations

from typing import Protocol

from blindsum.platform.evaluation.influence import Reals
from blindsum.platform.evaluation.scores import Answers
from blindsum.platform.training.vector import Vector


class HeldOutElsewhere(Protocol):
    """The processes that hold a silo's held-out records. What they return is private to the silo.

    `parameters` are all trainable ones of the model that is evaluated, as
    `blindsum.platform.training.models.get_trainable` returns them.

    Raises:
        SiloLost: a process did not answer. There are no figures without its records.
    """

    def class_sums(self, parameters: Vector) -> Reals:
        """Return `blindsum.platform.evaluation.classes.class_sums` of all processes, added."""

    def answers(self, parameters: Vector) -> tuple[Answers, float]:
        """Return `blindsum.platform.evaluation.tasks.answers_of` all processes, in the order of
        the records; losses are added."""
