"""Fixtures for tests that play an adversary."""

import sys

import pytest


@pytest.fixture
def own_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test does to imports ends with it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
