"""An owner's desk that ends with its test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipelines.consortium.proposals import Desk


@pytest.fixture
def desk(tmp_path: Path, tables: dict[str, Path]) -> Iterator[Desk]:
    made = Desk(tmp_path / "desk", tables["alder"])
    yield made
    made.close()
