"""Exclusive use of torch's global random generator, by one caller at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LENT = threading.RLock()


@contextmanager
def forked_random(seed: int | None = None) -> Iterator[None]:
    """Run a block whose draws from torch leave the generator unchanged, while other threads wait.

    Silos that are threads of one process would otherwise draw each other's initial weights.

    Args:
        seed: the seed at the start of the block; None keeps the generator's state.
    """
    with _LENT, torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # alone: it is what the fork restores
        yield
