"""Errors of a silo as they cross to the coordinator: a kind from a fixed table, what, and hint."""

from __future__ import annotations

from blindsum.actors.separate.messages import Failure
from blindsum.platform import errors
from blindsum.platform.errors import BlindsumError, Unexpected

_KINDS: dict[str, type[BlindsumError]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, BlindsumError)
}
_MOST = 4000


def failure_of(error: BaseException) -> Failure:
    """Return an error in the form in which it crosses. Of a foreign error only its type remains."""
    if not isinstance(error, BlindsumError) or type(error).__name__ not in _KINDS:
        error = Unexpected(f"unexpected {type(error).__name__}; its message is withheld")
    return Failure(
        kind=type(error).__name__,
        what=error.what[:_MOST],
        hint=error.hint[:_MOST],
        silo=error.silo,
        round=error.round,
    )


def error_of(failure: Failure, silo: str) -> BlindsumError:
    """Return the error that a failure stands for.

    Args:
        silo: the silo that sent it: no silo can speak of another.
    """
    kind = _KINDS.get(failure.kind, Unexpected)
    return kind(printable(failure.what), printable(failure.hint), silo=silo, round=failure.round)


def printable(text: str) -> str:
    """Return a text without control characters, with which it could forge a terminal's lines."""
    return "".join(c if c.isprintable() else " " for c in text)
