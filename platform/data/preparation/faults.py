"""What is wrong with a configuration, all of it in one message."""

from __future__ import annotations

from collections.abc import Sequence

from blindsum.platform.errors import DataError

MOST_SHOWN = 20
"""How many faults a message lists."""


class Faults:
    """Faults that were found so far."""

    def __init__(self) -> None:
        self._found = list[str]()

    def add(self, fault: str) -> None:
        """Note a fault."""
        self._found.append(fault)

    def rows(self, path: str, rows: Sequence[int], what: str) -> None:
        """Note what is wrong in those rows of a table, numbered from 1; nothing if there are
        none."""
        if len(rows):
            shown = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
            self.add(f"{path}, row{'s' * (len(rows) > 1)} {shown}: {what}")

    def require_none(self, what: str, hint: str) -> None:
        """Raise DataError with all faults, if there are any.

        Args:
            what: cannot be done because of them.
        """
        if self._found:
            more = len(self._found) - MOST_SHOWN
            lines = self._found[:MOST_SHOWN] + ([f"and {more} more"] if more > 0 else [])
            raise DataError("\n  ".join([f"{what}:", *lines]), hint)
