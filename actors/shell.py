"""What an actor's process does beside its class."""

from __future__ import annotations

from typing import Any

from blindsum.platform import structured_log


def shell(inner: type) -> type:
    """The class, in a process that writes its events into a file of its node's logs."""

    class Shell(inner):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            structured_log.start()
            super().__init__(*arguments, **named)

    Shell.__name__ = Shell.__qualname__ = inner.__name__
    return Shell
