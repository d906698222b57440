"""A silo's door: what comes from outside is checked by its type before anything else is done with it.

An actor's shell reads messages from bytes (`blindsum.actors.codec`). Whoever calls a silo without one
could hand it an object that no constructor built, so it is built again here: every name by its
pattern, every number by its range. `SiloSpec` is the driver's, `Exchange` and the
messages of the key ceremony are the driver's or come through it.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

from pydantic import ValidationError

from blindsum.actors.messages import SiloSpec
from blindsum.platform.errors import FederationError, JobError
from blindsum.platform.job.schema import Job

T = TypeVar("T")
MAX_ROUND = 10_000_000


def checked(message: Any, kind: type[T]) -> T:
    """The message, built again.

    Raises:
        FederationError: it is of another kind, or a field is of a wrong type or out of range.
    """
    if type(message) is not kind:
        raise FederationError(f"something that is no {kind.__name__} came in place of one")
    try:
        values = {one.name: getattr(message, one.name) for one in fields(kind)}  # type: ignore[arg-type]
        return kind(**values)
    except (ValidationError, AttributeError, TypeError) as error:
        where = error.errors()[0]["loc"][:1] if isinstance(error, ValidationError) else ()
        field = f": {where[0]}" if where and where[0] in values else ""
        raise FederationError(
            f"a malformed {kind.__name__} came{field}",
            "A name, a number or a digest in it is not of the form that this silo takes.",
        ) from None


def checked_all(messages: Any, kind: type[T]) -> tuple[T, ...]:
    """Every message of a tuple of at most 64. Raises as `checked`."""
    if type(messages) is not tuple or len(messages) > 64:
        raise FederationError(f"no tuple of at most 64 messages of kind {kind.__name__} came")
    return tuple(checked(one, kind) for one in messages)


def checked_round(round: Any) -> int:
    """The number of a round, from 0. Raises FederationError if it is none."""
    if type(round) is not int or not 0 <= round <= MAX_ROUND:
        raise FederationError("the number of a round is not a whole number from 0")
    return round


def checked_spec(spec: Any) -> SiloSpec:
    """What a silo is told when it starts, with the job validated again.

    Raises:
        FederationError, JobError: it is malformed, or the job has no silo of that name.
    """
    found = checked(spec, SiloSpec)
    try:
        job = Job.model_validate(found.job.model_dump())
    except ValidationError:
        raise JobError("the job that the driver tells is not a valid one") from None
    if found.name not in job.roster:
        raise JobError(f"the job has no silo '{found.name}'")
    return SiloSpec(job, found.run, found.name, found.folder, found.threads, found.resumed)
