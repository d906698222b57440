"""What follows a failed attempt, decided without a Ray."""

from collections import Counter

import pytest

from blindsum.actors.policy import Policy
from blindsum.actors.recovery import Recovery, recovery
from blindsum.he.parameters import Parameters
from blindsum.platform.errors import (
    AggregatorLost,
    BlindsumError,
    BudgetExceeded,
    DataError,
    FederationError,
    KeyRefused,
    LedgerError,
    ModelsDiffer,
    SiloLost,
    SiloRefused,
    TotalRefused,
    UploadRefused,
)
from tests.conftest import MakeJob

ROSTER = ("alder", "birch", "cedar")


@pytest.mark.parametrize("kind", [SiloLost, SiloRefused, LedgerError, DataError])
@pytest.mark.parametrize(
    ("silos", "quorum", "without"),
    [
        ("birch", 2, ("birch",)),
        ("birch", 3, None),
        ("birch, cedar", 2, None),
        ("birch, cedar", 1, ("birch", "cedar")),
        ("oak", 2, None),
        (None, 2, None),
    ],
)
def test_silos_are_left_out_as_long_as_the_quorum_is_left(
    kind: type[BlindsumError], silos: str | None, quorum: int, without: tuple[str, ...] | None
) -> None:
    found = recovery(kind("x", silo=silos), ROSTER, quorum, Counter())
    assert found == (Recovery(without) if without else None)


@pytest.mark.parametrize(
    "error", [BudgetExceeded, FederationError, KeyRefused, ModelsDiffer, UploadRefused]
)
def test_what_a_silo_refuses_ends_the_run(error: type[BlindsumError]) -> None:
    """The run must not continue without a silo that refuses: it may be the only honest silo."""
    assert recovery(error("x", silo="birch"), ROSTER, 2, Counter()) is None


def test_totals_and_aggregators_have_a_bound_in_each_round() -> None:
    failures: Counter[str] = Counter()
    assert recovery(TotalRefused("x"), ROSTER, 3, failures) == Recovery(keys=True)
    assert recovery(TotalRefused("x"), ROSTER, 3, failures) is None
    lost = AggregatorLost("x", silo="birch")  # birch noticed it
    for _ in range(2):
        assert recovery(lost, ROSTER, 3, failures) == Recovery(keys=True, aggregators=True)
    assert recovery(lost, ROSTER, 3, failures) is None


def test_a_silo_takes_part_in_rosters_of_its_quorum_alone(make_job: MakeJob) -> None:
    def allows(quorum: str, *roster: str) -> bool:
        job = make_job(*([f"quorum={quorum}"] if quorum else [])).job
        return Policy(job, "run", "birch", Parameters.derive(3), 1.0).allows_roster(roster)

    assert allows("", *ROSTER) and allows("2", *ROSTER) and allows("2", "alder", "birch")
    assert not allows("", "alder", "birch")  # the job names no quorum: all of them
    assert not allows("2", "birch") and not allows("3", "alder", "birch")
    assert not allows("2", "alder", "cedar")  # without itself
    assert not allows("2", "birch", "alder") and not allows("2", "birch", "birch")
    assert not allows("2", "alder", "birch", "oak")
