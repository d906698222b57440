"""Torch's one random generator, lent to one caller at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LENT = threading.RLock()


@contextmanager
def forked_random(seed: int | None = None) -> Iterator[None]:
    """Run a block whose draws from torch leave no trace, and which no other thread's draws disturb.

    Silos that are threads of one process would otherwise draw each other's initial weights.

    Args:
        seed: to begin with; None leaves the generator as it is.
    """
    with _LENT, torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        yield
