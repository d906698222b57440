"""Errors cross processes unchanged and never quote the value that caused them."""

import pickle
import re

import pytest

from blindsum.platform import errors
from blindsum.platform.errors import BlindsumError, DataError, guarded, without_values

CANARY = "CANARY-7f3a"


def all_kinds(kind: type[BlindsumError] = BlindsumError) -> list[type[BlindsumError]]:
    ours = [k for k in kind.__subclasses__() if k.__module__ == errors.__name__]  # Ray makes more
    return [kind, *(k for child in ours for k in all_kinds(child))]


@pytest.mark.parametrize("kind", all_kinds())
def test_every_error_survives_pickling(kind: type[BlindsumError]) -> None:
    error = kind("it broke.", "Mend it.", silo="birch", round=3)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and str(again) == str(error)
    assert str(error) == "silo 'birch', round 3: it broke. Mend it."


def test_the_tree_in_the_docstring_is_complete() -> None:
    shown = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or "")) | {"BlindsumError"}
    assert shown == {kind.__name__ for kind in all_kinds()}


def test_unforeseen_errors_lose_their_message_and_context() -> None:
    class Thing:
        name = "birch"

        @guarded
        def fail(self) -> None:
            try:
                int(CANARY)
            except ValueError:
                raise KeyError(CANARY)

        @guarded
        def refuse(self) -> None:
            try:
                int(CANARY)
            except ValueError:
                raise DataError("refused")

    for method in (Thing().fail, Thing().refuse):
        with pytest.raises(BlindsumError) as caught:
            method()
        assert caught.value.silo == "birch"
        assert CANARY not in str(caught.value)
        assert caught.value.__context__ is None and caught.value.__cause__ is None


def test_without_values_names_type_and_place() -> None:
    try:
        int(CANARY)
    except ValueError as error:
        text = str(without_values(error))
    assert "ValueError" in text and "line" in text and CANARY not in text
