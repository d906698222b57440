"""Waiting for `concurrent.futures`, as the clusters do whose answers they are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, TypeVar

T = TypeVar("T")


def after(inputs: Iterable[Future[Any]], begin: Callable[[], object]) -> None:
    """Call `begin` once all inputs have ended, in the thread that ends the last one, or now."""
    inputs = list(inputs)
    left, lock = [len(inputs) + 1], threading.Lock()

    def one_less(_: object = None) -> None:
        with lock:
            left[0] -= 1
            if left[0]:
                return
        begin()

    for one in inputs:
        one.add_done_callback(one_less)
    one_less()


def ended(handles: Iterable[Future[T]], count: int, timeout_s: float) -> list[Future[T]]:
    """Wait until `count` of the handles have ended, or time is up; return those that have, in the
    order of `handles`."""
    handles = list(handles)
    end, waiting, done = time.monotonic() + timeout_s, set(handles), set[Future[T]]()
    while waiting and len(done) < count:
        left = max(0.0, end - time.monotonic())
        now, waiting = wait(waiting, timeout=left, return_when=FIRST_COMPLETED)
        done |= now
        if not now:
            break
    return [one for one in handles if one in done]
