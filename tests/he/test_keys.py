"""The key ceremony: one secret and a seed for each pair, bound to the roster and all messages."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from blindsum.he.identity import Identity, fingerprint
from blindsum.he.keys import (
    Agreement,
    Contribution,
    Introduction,
    KeyCeremony,
    Keys,
    copies,
    transcript,
)
from blindsum.he.packing import pack, unpack
from blindsum.he.parameters import Parameters
from blindsum.platform.errors import KeyRefused
from tests.he.parties import exchange

TERMS = "digest of job and parameters"
Cards = tuple[Introduction, ...]


def ceremonies(
    folder: Path, *silos: str, run: str = "run-1", terms: str = TERMS, **pins: str
) -> list[KeyCeremony]:
    return [KeyCeremony(run, terms, s, Identity(folder / s / "identity.pem"), pins) for s in silos]


def introductions(silos: list[KeyCeremony]) -> Cards:
    return tuple(one.introduction for one in silos)


def contributions(silos: list[KeyCeremony]) -> tuple[Contribution, ...]:
    cards = introductions(silos)
    return tuple(one.contribute(cards) for one in silos)


def whole(silos: list[KeyCeremony]) -> list[Keys]:
    said = contributions(silos)
    agreements = tuple(one.agree(said) for one in silos)
    return [one.finish(agreements) for one in silos]


def test_every_silo_ends_with_one_secret_and_masks_that_cancel(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    keys = whole(ceremonies(tmp_path, *names))
    assert len({one.secret.content for one in keys}) == 1
    p = Parameters.derive(3)
    one = exchange(p, 9, roster=names)
    zeros = np.zeros(one.reals, np.int64)
    masked = [each.seeds.open(one).apply(zeros) for each in keys]
    assert all((m != 0).mean() > 0.99 for m in masked)
    assert not unpack(np.asarray(sum(masked)) + pack(np.zeros(9, np.int64), p), 9, p).any()
    drawn = {keys[0].verifier(names, bytes([i])) for i in range(60)}
    assert drawn == set(names)
    assert [k.verifier(names, b"x") for k in keys] == [keys[0].verifier(names, b"x")] * 3
    assert len({one.identifiers for one in keys}) == 1
    assert keys[0].identifiers not in (keys[0].verifiers, keys[0].secret.content)


def test_a_second_ceremony_shares_nothing_with_the_first(tmp_path: Path) -> None:
    first, second = (whole(ceremonies(tmp_path, "a", "b")) for _ in range(2))
    assert first[0].secret.content != second[0].secret.content
    assert first[0].identifiers != second[0].identifiers
    assert first[0].seeds._seeds["b"] != second[0].seeds._seeds["b"]
    assert first[0].seeds._seeds["b"] == first[1].seeds._seeds["a"]


def test_either_silo_of_a_pair_changes_the_seed(tmp_path: Path) -> None:
    """With all else fixed, either contribution changes the seed: neither silo alone chooses it."""
    a, b = ceremonies(tmp_path, "a", "b")
    for one in (a, b):
        one.contribute(introductions([a, b]))
        one._digest = bytes(32)
    for one, other in ((a, "b"), (b, "a")):
        seeds = set()
        for mine in (bytes(32), b"m" * 32):
            one._mine[other] = mine
            seeds |= {one._seed(other, theirs) for theirs in (bytes(32), b"t" * 32)}
        assert len(seeds) == 4


def test_the_same_contributions_give_another_seed_in_another_ceremony(tmp_path: Path) -> None:
    """The seed is salted with the ceremony's digest: replayed contributions give another seed."""
    a, b = ceremonies(tmp_path, "a", "b")
    a.contribute(introductions([a, b]))
    seeds = set()
    for digest in (bytes(32), b"d" * 32):
        a._digest = digest
        seeds.add(a._seed("b", b"t" * 32))
    assert len(seeds) == 2


def test_keys_are_handed_out_only_once(tmp_path: Path) -> None:
    """Each of two copies of the seeds could open the same masks."""
    silos = ceremonies(tmp_path, "a", "b")
    said = contributions(silos)
    agreements = tuple(one.agree(said) for one in silos)
    silos[0].finish(agreements)
    with pytest.raises(KeyRefused, match="already handed out"):
        silos[0].finish(agreements)


def test_one_identity_for_two_silos_is_refused(tmp_path: Path) -> None:
    identity = Identity(tmp_path / "identity.pem")
    silos = [KeyCeremony("job-1", TERMS, name, identity, {}) for name in "ab"]
    with pytest.raises(KeyRefused, match="same identity"):
        silos[0].contribute(introductions(silos))


def test_nothing_public_holds_the_secret_or_a_seed(tmp_path: Path) -> None:
    silos = ceremonies(tmp_path, "a", "b")
    said = contributions(silos)
    agreements = tuple(one.agree(said) for one in silos)
    keys = silos[0].finish(agreements)
    public = repr((introductions(silos), agreements)).encode()
    public += b"".join(text for one in said for text in one.sealed.values())
    for secret in (keys.secret.content, keys.seeds._seeds["b"], silos[0]._mine["b"]):
        windows = {secret[i : i + 16] for i in range(0, len(secret) - 15, 16)}
        assert not any(window in public for window in windows if len(set(window)) > 4)


@pytest.mark.parametrize(
    "swap", ["stale", "other roster", "copied", "other silo", "flipped", "missing", "cut", "empty"]
)
def test_a_contribution_that_was_not_sealed_for_this_silo_is_refused(
    tmp_path: Path, swap: str
) -> None:
    """Even if its sender signed it: the sealed text is bound to sender, receiver and ceremony."""
    silos = ceremonies(tmp_path, "a", "b", "c")
    said = list(contributions(silos))
    stale = contributions(ceremonies(tmp_path, "a", "b", "c"))[0].sealed["b"]
    fewer = silos[0].contribute(introductions(silos[:2])).sealed["b"]  # same keys, other roster
    silos[0].contribute(introductions(silos))
    mine = dict(said[0].sealed)
    swaps: dict[str, Callable[[], object]] = {
        "stale": lambda: mine.update(b=stale),
        "other roster": lambda: mine.update(b=fewer),
        "copied": lambda: mine.update(b=said[2].sealed["b"]),  # from another sender
        "other silo": lambda: mine.update(b=mine["c"]),
        "flipped": lambda: mine.update(b=mine["b"][:-1] + bytes([mine["b"][-1] ^ 1])),
        "missing": lambda: mine.pop("b"),
        "cut": lambda: mine.update(b=mine["b"][:40]),
        "empty": lambda: mine.update(b=b""),
    }
    swaps[swap]()
    unsigned = replace(said[0], sealed=mine)
    said[0] = replace(unsigned, signature=silos[0]._identity.sign(unsigned.signed_content()))
    with pytest.raises(KeyRefused, match="not made for this silo in this ceremony"):
        silos[1].agree(tuple(said))


def test_each_silo_needs_only_its_own_part_of_a_contribution(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    silos = ceremonies(tmp_path, *names)
    each = list(copies(contributions(silos), names))
    assert [set(one.sealed) for one in each[1]] == [{"b"}, set(), {"b"}]
    agreements = tuple(one.agree(own) for one, own in zip(silos, each, strict=True))
    keys = [one.finish(agreements) for one in silos]
    assert len({one.secret.content for one in keys}) == 1


def test_a_part_in_a_copy_cannot_be_replaced_beside_its_true_digest(tmp_path: Path) -> None:
    """Anyone can seal to a silo: without the sender's signature over what arrived, the driver could
    choose the secret of all silos."""
    silos = ceremonies(tmp_path, "a", "b", "c")
    a, b, c = contributions(silos)
    own = silos[0]._seal(silos[1].introduction, b"x" * len(silos[0]._secret.content) + b"y" * 32)
    forged = replace(a, sealed={"b": own}, digests=a.all_digests())
    with pytest.raises(KeyRefused, match="signature of the contribution of 'a'"):
        silos[1].agree((forged, b, c))


def test_altered_or_dropped_contributions_and_other_terms_are_refused(
    tmp_path: Path,
) -> None:
    silos = ceremonies(tmp_path, "a", "b", "c")
    a, b, c = contributions(silos)
    forged = replace(a, sealed=dict(a.sealed) | {"c": b"x"})
    with pytest.raises(KeyRefused, match="signature of the contribution of 'a'"):
        silos[1].agree((forged, b, c))
    for few in ((a, b), (b, a, c), ()):
        with pytest.raises(KeyRefused, match="lacks a silo's contribution"):
            silos[1].agree(few)
    elsewhere = ceremonies(tmp_path, "a", "b", "c", terms="another job")
    other = elsewhere[0].contribute(introductions(elsewhere))
    with pytest.raises(KeyRefused, match="'a' received other introductions or another job"):
        silos[1].agree((other, b, c))


def test_silos_detect_that_they_saw_different_ceremonies(tmp_path: Path) -> None:
    """The digests expose a driver that shows two silos different contributions of a third."""
    silos = ceremonies(tmp_path, "a", "b", "c")
    cards = introductions(silos)
    a, b, c = contributions(silos)
    again = silos[2].contribute(cards)  # c contributes twice, and is quoted differently
    seen_by_a, seen_by_b = silos[0].agree((a, b, c)), silos[1].agree((a, b, again))
    seen_by_c = silos[2].agree((a, b, again))
    with pytest.raises(KeyRefused, match="silos 'b' and 'a' have seen different key"):
        silos[0].finish((seen_by_a, seen_by_b, seen_by_c))
    with pytest.raises(KeyRefused, match="silos 'a' and 'b' have seen different key"):
        silos[1].finish((seen_by_a, seen_by_b, seen_by_c))


def test_forged_and_missing_agreements_and_wrong_proofs_are_refused(tmp_path: Path) -> None:
    silos = ceremonies(tmp_path, "a", "b")
    said = contributions(silos)
    a, b = (one.agree(said) for one in silos)
    with pytest.raises(KeyRefused, match="signature of the agreement of 'b'"):
        silos[0].finish((a, replace(b, proof="00" * 32)))
    with pytest.raises(KeyRefused, match="signature of the agreement of 'b'"):
        silos[0].finish((a, a))
    with pytest.raises(KeyRefused, match="lacks a silo's agreement"):
        silos[0].finish((a,))
    unsigned = Agreement("b", b.transcript, "00" * 32)
    signature = silos[1]._identity.sign(unsigned.signed_content())
    with pytest.raises(KeyRefused, match="'b' does not have the same secret key"):
        silos[0].finish((a, replace(unsigned, signature=signature)))


def test_replaced_or_repeated_introductions_are_refused(tmp_path: Path) -> None:
    silos = ceremonies(tmp_path, "a", "b")
    a, b = introductions(silos)
    (impostor,) = introductions(ceremonies(tmp_path / "x", "b"))
    with pytest.raises(KeyRefused, match="was replaced"):
        silos[1].contribute((a, impostor))
    with pytest.raises(KeyRefused, match="signature"):
        transcript((a, replace(b, silo="c")), TERMS)
    with pytest.raises(KeyRefused, match="same silo"):
        transcript((b, impostor), TERMS)
    (other_run,) = introductions(ceremonies(tmp_path, "c", run="run-2"))
    with pytest.raises(KeyRefused, match="different runs"):
        transcript((a, other_run), TERMS)


def test_a_pinned_identity_stops_impersonation(tmp_path: Path) -> None:
    """Without the pin, nobody detects a driver that introduces itself to a as b."""
    known = fingerprint(Identity(tmp_path / "b" / "identity.pem").public)
    (honest,) = introductions(ceremonies(tmp_path, "b"))
    (impostor,) = introductions(ceremonies(tmp_path / "x", "b"))
    (a,) = ceremonies(tmp_path, "a", b=known)
    a.contribute((a.introduction, honest))
    with pytest.raises(KeyRefused, match="identity of silo 'b' is"):
        a.contribute((a.introduction, impostor))
    (unpinned,) = ceremonies(tmp_path, "a")
    unpinned.contribute((unpinned.introduction, impostor))
