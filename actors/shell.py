"""What an actor's process does beside its class."""

from __future__ import annotations

import resource
from typing import Any

from blindsum.platform import structured_log


def shell(inner: type) -> type:
    """The class, in a process that writes its events into a file of its node's logs, and leaves no
    core dump: a silo's memory holds records and keys."""

    class Shell(inner):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            structured_log.start()
            super().__init__(*arguments, **named)

    Shell.__name__ = Shell.__qualname__ = inner.__name__
    return Shell
