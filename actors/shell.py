"""The shell of an actor: it decodes arguments, encodes answers and sets up the process."""

from __future__ import annotations

import functools
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from blindsum.actors.codec import decoded, encoded
from blindsum.platform import events
from blindsum.platform.errors import guarded


@dataclass(frozen=True)
class Call:
    """The way in which another process calls a method.

    Attributes:
        takes: the kinds of the messages that come first among its arguments, as bytes. Any further
            arguments are Ray's own references.
        answers: whether the answer is a message, returned as bytes.
        frames: whether the method returns a message and frames.
    """

    takes: tuple[Any, ...] = ()
    answers: bool = True
    frames: bool = False


def set_up_process() -> None:
    """Let this process write its events to a file in its node's logs, and leave no core dump,
    because a silo's memory holds records and keys."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    events.start()


def shell(
    inner: type,
    calls: Mapping[str, Call],
    takes: tuple[Any, ...] = (),
    own_process: bool = True,
) -> type:
    """Wrap a class so that it is called with bytes.

    Args:
        calls: the calls by method; other methods stay unchanged.
        takes: kinds of the messages that the constructor takes.
        own_process: the object has a process to itself, which it sets up.
    """

    class Shell(inner):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            if own_process:
                set_up_process()
            super().__init__(*_read(arguments, takes), **named)

        @guarded
        def _taken(self, arguments: tuple[Any, ...], kinds: tuple[Any, ...]) -> tuple[Any, ...]:
            return _read(arguments, kinds)

    for name, call in calls.items():
        setattr(Shell, name, _by_bytes(getattr(inner, name), call))
    Shell.__name__ = Shell.__qualname__ = inner.__name__
    return Shell


def _read(arguments: tuple[Any, ...], kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    messages = [decoded(*pair) for pair in zip(arguments, kinds, strict=False)]
    return (*messages, *arguments[len(kinds) :])


def _by_bytes(method: Callable[..., Any], call: Call) -> Callable[..., Any]:
    @functools.wraps(method)  # keeps the attributes that Ray set on it
    def called(self: Any, *arguments: Any) -> Any:
        answer = method(self, *self._taken(arguments, call.takes))
        if call.frames:
            report, frames = answer
            return encoded(report), frames
        return encoded(answer) if call.answers else answer

    return called
