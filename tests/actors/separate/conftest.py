"""Consortia that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blindsum.actors.separate import local_silo, mailbox, relay
from tests.actors.separate.consortium import Consortium

Make = Callable[..., Consortium]


@pytest.fixture
def consortium(tmp_path: Path, tables: dict[str, Path]) -> Iterator[Make]:
    """Make a coordinator; keywords as those of `organisations.Coordinator`."""
    made: list[Consortium] = []

    def make(**coordinator: Any) -> Consortium:
        made.append(Consortium(tmp_path, tables, **coordinator))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no frame and no answer's value travel with its message."""
    for module in (relay, local_silo, mailbox):
        monkeypatch.setattr(module, "INLINE", 0)
