"""What one check of the doctor found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from blindsum.platform.errors import BlindsumError, without_values

State = Literal["ok", "warn", "bad"]


@dataclass(frozen=True)
class Finding:
    """One finding. `bad`: a run would fail, or would not be safe. `mend` says what to do."""

    name: str
    state: State
    said: str
    mend: str = ""


Check = Callable[[], Iterable[Finding]]


def examined(name: str, check: Check) -> list[Finding]:
    """Return what a check found. A check that fails is itself a bad finding."""
    try:
        return list(check())
    except BlindsumError as error:
        return [Finding(name, "bad", error.what, error.hint)]
    except Exception as error:  # noqa: BLE001 - one broken check must not hide the others
        return [Finding(name, "bad", str(without_values(error)))]
