"""A silo that lies about its update and its counts, to silos of the shipped code."""

from typing import Any

import numpy as np
import pytest

from blindsum.platform.errors import FederationError
from blindsum.platform.privacy.reach import honest_reach
from tests.actors.test_silo import SHARED, Consortium
from tests.conftest import MakeJob


def round_with_a_liar(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """Cedar sends all that the codec can carry; the model before and after."""
    exchange = consortium.exchange()
    vault: Any = consortium.silos["cedar"]._vault
    send, limit = vault.send, exchange.parameters.limit

    def lie(one: Any, digits: Any, counts: Any) -> int:
        signs = np.where(np.arange(one.values) % 2, 1, -1)
        lies = (2 * limit * signs).astype(np.int64)
        with monkeypatch.context() as patched:
            # A liar's own code looks at no limit.
            patched.setattr("blindsum.he.packing._require_within", lambda *given: None)
            return int(send(one, lambda where: lies[where], counts))

    monkeypatch.setattr(vault, "send", lie)
    before = consortium.models()[0].astype(np.float64)
    consortium.apply(exchange, consortium.sum(exchange, consortium.train(exchange)))
    return before, consortium.models()[0].astype(np.float64)


@pytest.mark.parametrize("noise", [(), SHARED])
def test_one_silo_moves_the_model_no_further_than_honest_ones_reach(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, noise: tuple[str, ...]
) -> None:
    """Leave the total as it came, and this fails."""
    consortium = Consortium(make_job(*noise, "model={kind: mlp, hidden: [64]}"))
    first = consortium.silos["alder"]
    unit = first._own.range / first._own.parameters.limit
    reach = honest_reach(first._job, first._own.plan, 3, consortium.values, unit, 1.0, 1)
    monkeypatch.setattr("blindsum.actors.prepared.honest_reach", lambda *given: reach)
    before, after = round_with_a_liar(consortium, monkeypatch)
    assert np.linalg.norm(after - before) == pytest.approx(reach, rel=1e-3)
    monkeypatch.setattr("blindsum.actors.prepared.honest_reach", lambda *given: float("inf"))
    again = Consortium(make_job(*noise, "model={kind: mlp, hidden: [64]}"), run="run-2")
    before, after = round_with_a_liar(again, monkeypatch)
    assert np.linalg.norm(after - before) > 1.2 * reach


@pytest.mark.parametrize("noise", [(), SHARED, ("server={optimizer: momentum}",)])
def test_honest_rounds_are_never_held_back(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, noise: tuple[str, ...]
) -> None:
    factors: list[float] = []
    from blindsum.platform.privacy import reach

    def watched(norm: float, most: float) -> float:
        factors.append(reach.held_to(norm, most))
        return factors[-1]

    monkeypatch.setattr("blindsum.actors.prepared.held_to", watched)
    consortium = Consortium(make_job(*noise))
    for number in (1, 2, 3):
        consortium.round(number)
    assert factors == [1.0] * 9


@pytest.mark.parametrize(
    ("position", "value"),
    [(0, 10**9), (1, 10**9), (0, -1), (1, -(10**6)), (3, -(10**6)), (3, 10**6), (7, -(10**6))],
)
def test_impossible_counts_are_refused(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, position: int, value: int
) -> None:
    """Believed, one silo's count moved everybody's range to 2^20 or 2^-20 of the job's."""
    consortium = Consortium(make_job())
    vault: Any = consortium.silos["cedar"]._vault
    send = vault.send

    def lie(one: Any, digits: Any, counts: Any) -> int:
        def altered() -> Any:
            found = counts()
            found[position] = value
            return found

        return int(send(one, digits, altered))

    if position > 1:  # of held-out records, of the model before a round
        consortium.round(1)
    monkeypatch.setattr(vault, "send", lie)
    with pytest.raises(FederationError, match="impossible: at least one silo lies"):
        consortium.round(2 if position > 1 else 1)
