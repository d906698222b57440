"""A silo's door: every message is checked against its type before the silo uses it.

An actor's shell decodes messages from bytes (`blindsum.actors.codec`). A caller without a shell
could pass an object that no constructor built, so each message is built again here: every name must
match its pattern, and every number must lie in its range. `SiloSpec` comes from the driver;
`Exchange` and the messages of the key ceremony come from the driver or through it.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from pydantic import ValidationError

from blindsum.actors.messages import SiloSpec
from blindsum.platform.errors import FederationError, JobError
from blindsum.platform.job.schema import Job

T = TypeVar("T")
MAX_ROUND = 10_000_000


def checked(message: Any, kind: type[T]) -> T:
    """Return the message, built again.

    Raises:
        FederationError: the message has another kind, or a field has a wrong type or is out of
            range.
    """
    if type(message) is not kind:
        raise FederationError(
            f"expected a message of kind {kind.__name__}, and received something else"
        )
    try:
        names = [one.name for one in fields(kind)]  # type: ignore[arg-type]
        values = {name: _rebuilt(getattr(message, name)) for name in names}
        return kind(**values)
    except (ValidationError, AttributeError, TypeError) as error:
        where = error.errors()[0]["loc"][:1] if isinstance(error, ValidationError) else ()
        field = f": {where[0]}" if where and where[0] in values else ""
        raise FederationError(
            f"received a malformed {kind.__name__}{field}",
            "A name, a number or a digest in it does not have the form that this silo accepts.",
        ) from None


def _rebuilt(value: Any) -> Any:
    """Return a dataclass made of its fields alone: what it has computed before, such as its digest,
    came from its sender too."""
    return replace(value) if is_dataclass(value) and not isinstance(value, type) else value


def checked_all(messages: Any, kind: type[T]) -> tuple[T, ...]:
    """Return every message of a tuple of at most 64, built again. Raises as `checked`."""
    if type(messages) is not tuple or len(messages) > 64:
        raise FederationError(
            f"expected a tuple of at most 64 messages of kind {kind.__name__}, and received "
            "something else"
        )
    return tuple(checked(one, kind) for one in messages)


def checked_round(round: Any) -> int:
    """Return the number of a round, 0 to MAX_ROUND. Raises FederationError if it is not that."""
    if type(round) is not int or not 0 <= round <= MAX_ROUND:
        raise FederationError(f"the number of a round is not a whole number from 0 to {MAX_ROUND}")
    return round


def checked_spec(spec: Any) -> SiloSpec:
    """Return a silo's specification, built again, with its job validated again.

    Raises:
        FederationError, JobError: it is malformed, or the job has no silo of that name.
    """
    found = checked(spec, SiloSpec)
    try:
        job = Job.model_validate(found.job.model_dump())
    except ValidationError:
        raise JobError("the job that the driver sent is not valid") from None
    if found.name not in job.roster:
        raise JobError(f"the job has no silo '{found.name}'")
    return SiloSpec(
        job=job,
        run=found.run,
        name=found.name,
        folder=found.folder,
        threads=found.threads,
        resumed=found.resumed,
    )
