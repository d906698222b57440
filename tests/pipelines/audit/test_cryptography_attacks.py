"""Attacks on the cryptography: the usual way breaks, this one does not, and the audit can tell."""

from typing import Any

import numpy as np
import pytest

from blindsum.he import upload
from blindsum.he.linear_hash import LinearHash
from blindsum.he.parameters import Parameters
from blindsum.pipelines.audit.attacks import key_recovery, protocol
from blindsum.pipelines.audit.victim import digits


def test_two_published_decryptions_give_the_usual_key_and_rounded_sums_nothing() -> None:
    assert key_recovery.usual(silos=2).share == 1.0
    assert key_recovery.exact(silos=2).share < 1e-2


def test_the_shared_key_opens_bare_uploads_and_masked_ones_look_uniform() -> None:
    parameters = Parameters.derive(3)
    assert protocol.opened_with_shared_key(parameters)[0] == 1.0
    assert protocol.opened_with_shared_key(parameters)[1] < 0.01
    assert protocol.uniformity(parameters) > 1e-6


def test_every_forgery_is_refused_and_an_accepted_one_would_be_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Take the hash and the check of the digits away, and the audit reports what was accepted."""
    parameters = Parameters.derive(2)
    found = protocol.refusals(parameters)
    assert len(found) == 9 and all(found.values())

    def lenient(packed: Any, values: int, parameters: Parameters) -> Any:
        return digits(packed, parameters)[:values]

    monkeypatch.setattr(upload, "unpack", lenient)
    assert all(protocol.refusals(parameters).values()), "the hash is enough"
    monkeypatch.setattr(LinearHash, "holds", lambda self, words: True)
    accepted = [name for name, refusal in protocol.refusals(parameters).items() if not refusal]
    assert {"doubled", "dropped", "added to by the aggregator"} <= set(accepted)


def test_digits_are_those_of_the_product() -> None:
    from blindsum.he.packing import pack, unpack

    parameters = Parameters.derive(3, 12)
    integers = np.random.default_rng(0).integers(-2000, 2000, 20_000)
    packed = pack(integers, parameters)
    assert (digits(packed, parameters)[:20_000] == unpack(packed, 20_000, parameters)).all()
