"""Every error a user can meet, as one tree.

    BlindsumError
    ├── JobError              the job file or an override is not valid
    ├── DataError             a silo's data does not meet the job's requirements
    ├── ModelError            the model cannot be built, or cannot be trained under DP
    ├── PrivacyError          the privacy plan is impossible
    │   └── BudgetExceeded    a charge would exceed the silo's budget
    ├── LedgerError           the ledger cannot be read, written or trusted
    ├── ConsentError          a silo's owner has not agreed to this job, run, name or table
    ├── CannotTakePart        a silo takes no part; only its owner learns why
    ├── EncryptionError       encryption parameters, encoding or decryption failed
    │   ├── KeyRefused        a wrong, missing, stale or swapped key or identity
    │   ├── UploadRefused     a malformed, forged, foreign or replayed upload
    │   └── TotalRefused      a total that is not the sum of the roster's uploads
    ├── FederationError       a round cannot be completed
    │   ├── SiloLost          one or more silos died or missed their deadline
    │   ├── SiloRefused       an aggregator refused a silo's upload
    │   ├── AggregatorLost    an aggregator died
    │   └── ModelsDiffer      silos disagree about the model after a round
    ├── ClusterError          Ray cannot be started or joined, or cannot place a silo
    ├── TrackingError         MLflow cannot be reached or written
    └── Unexpected            a fault in Blindsum or a library, without any of its values

A message says what happened and what to do about it; `silo` and `round` say where. Messages
never contain records, plaintext or keys, because they are printed, logged and sent to MLflow.
"""

from __future__ import annotations

import functools
import pickle
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast


class BlindsumError(Exception):
    """The base of every error. It survives pickling, so it crosses Ray unchanged.

    Args:
        what: what happened, with the offending setting and its value.
        hint: what the user can do about it.
        silo: name of the silo where it happened, if it happened at a silo.
        round: number of the round in which it happened, from 1, if it happened in a round.
    """

    def __init__(
        self, what: str, hint: str = "", *, silo: str | None = None, round: int | None = None
    ) -> None:
        super().__init__(what)
        self.what, self.hint, self.silo, self.round = what, hint, silo, round

    def __str__(self) -> str:
        place = ", ".join(
            part
            for part in (
                f"silo '{self.silo}'" if self.silo else "",
                f"round {self.round}" if self.round else "",
            )
            if part
        )
        text = f"{place}: {self.what}" if place else self.what
        return f"{text.rstrip('.')}. {self.hint}".rstrip() if self.hint else text

    def __reduce__(self) -> tuple[Callable[..., BlindsumError], tuple[Any, ...]]:
        return _rebuild, (type(self), self.what, self.hint, self.silo, self.round)

    def located(self, *, silo: str | None = None, round: int | None = None) -> BlindsumError:
        """Fill in the silo and the round where they are still unknown, and return the error."""
        self.silo = self.silo or silo
        self.round = self.round or round
        return self


def _rebuild(
    kind: type[BlindsumError], what: str, hint: str, silo: str | None, round: int | None
) -> BlindsumError:
    return kind(what, hint, silo=silo, round=round)


class JobError(BlindsumError):
    """The job file or an override is not valid."""


class DataError(BlindsumError):
    """A silo's data does not meet the job's requirements.

    Args:
        at_silo: what only the silo's owner may read, for example values and row numbers. It is no
            part of the message, and it is lost when the error is pickled: it never crosses Ray.
    """

    def __init__(
        self,
        what: str,
        hint: str = "",
        *,
        silo: str | None = None,
        round: int | None = None,
        at_silo: str = "",
    ) -> None:
        super().__init__(what, hint, silo=silo, round=round)
        self.at_silo = at_silo


class ModelError(BlindsumError):
    """The model cannot be built, or cannot be trained with differential privacy."""


class PrivacyError(BlindsumError):
    """The privacy plan is impossible."""


class BudgetExceeded(PrivacyError):
    """A charge would exceed the silo's budget. Nothing was trained or sent for it."""


class LedgerError(BlindsumError):
    """The ledger cannot be read, written or trusted."""


class ConsentError(BlindsumError):
    """A silo's owner has not agreed to this job, this run, this name or this table."""


class CannotTakePart(BlindsumError):
    """A silo takes no part. Only the silo's own audit log records the reason: an answer that
    depended on the records would reveal something about them."""


class EncryptionError(BlindsumError):
    """Parameters, encoding or decryption of an encrypted sum failed."""


class KeyRefused(EncryptionError):
    """A wrong, missing, stale or swapped key or identity."""


class UploadRefused(EncryptionError):
    """A malformed, forged, foreign or replayed upload, or a total that is not the uploads' sum."""


class TotalRefused(EncryptionError):
    """A total that is malformed, or does not decrypt to the sum of one upload from each silo."""


class FederationError(BlindsumError):
    """A round cannot be completed."""


class SiloLost(FederationError):
    """One or more silos, named in `silo` with commas, died or missed their deadline."""


class SiloRefused(FederationError):
    """An aggregator refused a silo's upload; the sum is unharmed."""


class AggregatorLost(FederationError):
    """An aggregator died. Its sum was lost, but no secret was exposed."""


class ModelsDiffer(FederationError):
    """Silos disagree about the model after a round."""


class ClusterError(BlindsumError):
    """Ray cannot be started or joined, or cannot place a silo."""


class TrackingError(BlindsumError):
    """MLflow cannot be reached or written."""


class Unexpected(BlindsumError):
    """A fault in Blindsum or in a library, reported without any of its values."""


def in_one(faults: Sequence[BlindsumError], of_all: bool) -> BlindsumError:
    """Return one error for the faults of several silos, each of which names its silo.

    Args:
        of_all: whether every silo of the job has a fault. If it is the same, it is the job's own:
            it is told once, without a silo.
    """
    if len(faults) == 1:
        return faults[0]
    kinds = {type(fault) for fault in faults}
    kind = kinds.pop() if len(kinds) == 1 else BlindsumError
    if of_all and len({(fault.what, fault.hint) for fault in faults}) == 1:
        return kind(faults[0].what, faults[0].hint)
    return kind("\n".join(map(str, faults)))


F = TypeVar("F")


def without_values(error: BaseException) -> Unexpected:
    """Describe an unforeseen error only by its type and its place in the code.

    Library messages quote the value that caused the error ("could not convert 'CC(=O)O' ..."),
    and at a silo that value is data or a key.
    """
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "blindsum" in frame.filename] or list(frames)
    place = f" at {ours[-1].name}, line {ours[-1].lineno}" if ours else ""
    return Unexpected(
        f"unexpected {type(error).__module__}.{type(error).__qualname__}{place}; "
        "its message is withheld, because it may quote private values",
        "This is a fault in Blindsum: please report it with the place named here.",
    )


def guarded(method: F) -> F:
    """Decorate a silo's method so that only Blindsum's own errors, free of values, leave it.

    This keeps private values in the messages and the chained context of library errors from
    leaving the silo: Ray would pickle, print and log them. The silo's name is taken from the
    object's `name` attribute, if it has one. If the object has a `note_refusal` method, it is
    called with the error; the error that it returns, if any, is raised instead.
    """
    inner = cast(Callable[..., Any], method)

    @functools.wraps(inner)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        failure: BlindsumError
        try:
            return inner(self, *args, **kwargs)
        except BlindsumError as error:
            failure = pickle.loads(pickle.dumps(error))  # drops the traceback and the context
        except Exception as error:  # noqa: BLE001 - the values of any error must stay here
            failure = without_values(error)
        failure.located(silo=getattr(self, "name", None))
        if note := getattr(self, "note_refusal", None):
            failure = note(failure) or failure
        raise failure

    return cast(F, call)
