"""Every error a user can meet, as one tree.

    BlindsumError
    ├── JobError              the job file or an override is not valid
    ├── DataError             a silo's data breaks the contract of the job
    ├── ModelError            the model cannot be built, or not trained under DP
    ├── PrivacyError          the privacy plan is impossible
    │   └── BudgetExceeded    a charge would pass the silo's budget
    ├── LedgerError           the ledger cannot be read, written or trusted
    ├── ConsentError          a silo's owner has not agreed to this job, run, name or table
    ├── CannotTakePart        a silo takes no part; only its owner is told why
    ├── EncryptionError       parameters, encoding or decryption
    │   ├── KeyRefused        a wrong, missing, stale or swapped key or identity
    │   ├── UploadRefused     a malformed, forged, foreign or replayed upload
    │   └── TotalRefused      a total that is no sum of the roster's uploads
    ├── FederationError       a round cannot be completed
    │   ├── SiloLost          one or more silos died or missed their deadline
    │   ├── SiloRefused       a silo's upload was refused by an aggregator
    │   ├── AggregatorLost    an aggregator died
    │   └── ModelsDiffer      silos disagree about the model after a round
    ├── ClusterError          Ray cannot be started, joined, or has no place for a silo
    ├── TrackingError         MLflow cannot be reached or written
    └── Unexpected            a fault of ours, reported without any of its values

A message says what happened and how to mend it; `silo` and `round` say where. Messages
never hold records, plaintext or keys: they are printed, logged and sent to MLflow.
"""

from __future__ import annotations

import functools
import pickle
import traceback
from collections.abc import Callable
from typing import Any, TypeVar, cast


class BlindsumError(Exception):
    """A fault with one clear message. Survives pickling, so it crosses Ray unchanged.

    Args:
        what: what happened, with the offending setting and its value.
        mend: what the user can do about it.
        silo: name of the silo where it happened, if at one.
        round: number of the round in which it happened, from 1, if in one.
    """

    def __init__(
        self, what: str, mend: str = "", *, silo: str | None = None, round: int | None = None
    ) -> None:
        super().__init__(what)
        self.what, self.mend, self.silo, self.round = what, mend, silo, round

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
        return f"{text.rstrip('.')}. {self.mend}".rstrip() if self.mend else text

    def __reduce__(self) -> tuple[Callable[..., BlindsumError], tuple[Any, ...]]:
        return _rebuild, (type(self), self.what, self.mend, self.silo, self.round)

    def located(self, *, silo: str | None = None, round: int | None = None) -> BlindsumError:
        """The same error with its place filled in where it was still unknown."""
        self.silo = self.silo or silo
        self.round = self.round or round
        return self


def _rebuild(
    kind: type[BlindsumError], what: str, mend: str, silo: str | None, round: int | None
) -> BlindsumError:
    return kind(what, mend, silo=silo, round=round)


class JobError(BlindsumError):
    """The job file or an override is not valid."""


class DataError(BlindsumError):
    """A silo's data breaks the contract of the job."""


class ModelError(BlindsumError):
    """The model cannot be built, or cannot be trained with differential privacy."""


class PrivacyError(BlindsumError):
    """The privacy plan is impossible."""


class BudgetExceeded(PrivacyError):
    """A charge would pass the silo's budget. Nothing was trained or sent for it."""


class LedgerError(BlindsumError):
    """The ledger cannot be read, written or trusted."""


class ConsentError(BlindsumError):
    """A silo's owner has not agreed: to this job, this run, this name or this table."""


class CannotTakePart(BlindsumError):
    """A silo takes no part. The reason stands in the silo's own audit log and nowhere else: an
    answer that differs with the records would answer questions about them."""


class EncryptionError(BlindsumError):
    """Parameters, encoding or decryption of an encrypted sum."""


class KeyRefused(EncryptionError):
    """A wrong, missing, stale or swapped key or identity."""


class UploadRefused(EncryptionError):
    """A malformed, forged, foreign or replayed upload, or a total that is not the uploads' sum."""


class TotalRefused(EncryptionError):
    """A total that is malformed, or decrypts to no sum of one upload of each silo."""


class FederationError(BlindsumError):
    """A round cannot be completed."""


class SiloLost(FederationError):
    """One or more silos, named in `silo` with commas, died or missed their deadline."""


class SiloRefused(FederationError):
    """A silo's upload was refused by an aggregator; the sum is unharmed."""


class AggregatorLost(FederationError):
    """An aggregator died: a sum was lost with it, and no secret."""


class ModelsDiffer(FederationError):
    """Silos disagree about the model after a round."""


class ClusterError(BlindsumError):
    """Ray cannot be started or joined, or has no place for a silo."""


class TrackingError(BlindsumError):
    """MLflow cannot be reached or written."""


class Unexpected(BlindsumError):
    """A fault of ours, or of a library, reported without any of its values."""


F = TypeVar("F")


def without_values(error: BaseException) -> Unexpected:
    """Describe an unforeseen error by its type and place in the code alone.

    Library messages quote what they choked on ("could not convert 'CC(=O)O' ..."), and
    what a silo's code chokes on is its data or its keys.
    """
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "blindsum" in frame.filename] or list(frames)
    place = f" at {ours[-1].name}, line {ours[-1].lineno}" if ours else ""
    return Unexpected(
        f"unexpected {type(error).__module__}.{type(error).__qualname__}{place}; "
        "its message is withheld, since it may quote private values",
        "This is a fault in Blindsum: please report it with the place named here.",
    )


def guarded(method: F) -> F:
    """Let only our own, value-free errors leave a silo's method.

    Stops private values from travelling inside the messages or the chained context of
    library errors, which Ray would pickle, print and log. The method's object gives the
    silo's name, if it has a `name`. If it has `note_refusal`, that is told of the error, and what
    it returns in its place is raised.
    """
    inner = cast(Callable[..., Any], method)

    @functools.wraps(inner)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        failure: BlindsumError
        try:
            return inner(self, *args, **kwargs)
        except BlindsumError as error:
            failure = pickle.loads(pickle.dumps(error))  # leaves traceback and context behind
        except Exception as error:  # noqa: BLE001 - whatever it is, its values stay here
            failure = without_values(error)
        failure.located(silo=getattr(self, "name", None))
        if note := getattr(self, "note_refusal", None):
            failure = note(failure) or failure
        raise failure

    return cast(F, call)
