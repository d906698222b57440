"""The key ceremony: one secret, sealed to each silo, bound to who took part."""

from dataclasses import replace
from pathlib import Path

import pytest

from blindsum.he.keys import Identity, Introduction, KeyCeremony, Sealed, confirmation, transcript
from blindsum.platform.errors import KeyRefused

PARAMETERS = "digest of the parameters"


def ceremonies(folder: Path, *silos: str, job: str = "job-1") -> list[KeyCeremony]:
    return [KeyCeremony(job, s, Identity(folder / s / "identity.pem")) for s in silos]


def introductions(all_: list[KeyCeremony]) -> tuple[Introduction, ...]:
    return tuple(one.introduction for one in all_)


def test_every_silo_ends_with_the_same_key(tmp_path: Path) -> None:
    silos = ceremonies(tmp_path, "a", "b", "c")
    cards = introductions(silos)
    secret, sealed = silos[0].make(cards, PARAMETERS)
    assert [one.silo for one in sealed] == ["b", "c"]
    opened = [silos[i].open(cards, PARAMETERS, sealed[i - 1]) for i in (1, 2)]
    assert {key.content for key in opened} == {secret.content}
    digest = transcript(cards, PARAMETERS)
    assert len({confirmation(key, digest) for key in (secret, *opened)}) == 1
    other, _ = silos[0].make(cards, PARAMETERS)
    assert confirmation(other, digest) != confirmation(secret, digest)


def test_nothing_public_holds_the_key(tmp_path: Path) -> None:
    silos = ceremonies(tmp_path, "a", "b")
    cards = introductions(silos)
    secret, sealed = silos[0].make(cards, PARAMETERS)
    public = repr(cards).encode() + sealed[0].content
    windows = {secret.content[i : i + 16] for i in range(0, len(secret.content) - 16, 16)}
    assert not any(window in public for window in windows if len(set(window)) > 4)


def test_a_sealed_key_for_another_silo_ceremony_or_maker_is_refused(tmp_path: Path) -> None:
    silos = ceremonies(tmp_path, "a", "b", "c")
    cards = introductions(silos)
    _, (for_b, for_c) = silos[0].make(cards, PARAMETERS)
    stale = ceremonies(tmp_path, "a", "b", "c")
    _, (old_b, _) = stale[0].make(introductions(stale), PARAMETERS)
    forged = Sealed("c", "b", for_b.content, for_b.signature)
    flipped = replace(for_b, content=for_b.content[:-1] + bytes([for_b.content[-1] ^ 1]))
    for wrong in (for_c, old_b, forged, flipped, replace(for_b, maker="nobody")):
        with pytest.raises(KeyRefused, match="not made for this silo"):
            silos[1].open(cards, PARAMETERS, wrong)
    with pytest.raises(KeyRefused, match="not made for this silo"):
        silos[1].open(cards, "other parameters", for_b)


def test_sealing_is_bound_to_the_transcript_even_if_the_maker_signs_again(tmp_path: Path) -> None:
    silos = ceremonies(tmp_path, "a", "b")
    cards = introductions(silos)
    _, (sealed,) = silos[0].make(cards, PARAMETERS)
    digest = transcript(cards, "other terms")
    identity = Identity(tmp_path / "a" / "identity.pem")
    signature = identity.sign(Sealed.signed_content(digest, "b", sealed.content))
    with pytest.raises(KeyRefused, match="not made for this silo"):
        silos[1].open(cards, "other terms", replace(sealed, signature=signature))


def test_replaced_or_repeated_introductions_are_refused(tmp_path: Path) -> None:
    silos = ceremonies(tmp_path, "a", "b")
    a, b = introductions(silos)
    (impostor,) = introductions(ceremonies(tmp_path / "x", "b"))
    with pytest.raises(KeyRefused, match="was replaced"):
        silos[1].make((a, impostor), PARAMETERS)
    with pytest.raises(KeyRefused, match="signature"):
        transcript((a, replace(b, silo="c")), PARAMETERS)
    with pytest.raises(KeyRefused, match="same silo"):
        transcript((b, impostor), PARAMETERS)
    (other_job,) = introductions(ceremonies(tmp_path, "c", job="job-2"))
    with pytest.raises(KeyRefused, match="different jobs"):
        transcript((a, other_job), PARAMETERS)


def test_an_identity_lasts_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "silo" / "identity.pem"
    first = Identity(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Identity(path).public == first.public
    path.chmod(0o644)
    with pytest.raises(KeyRefused, match="chmod 600"):
        Identity(path)
    path.chmod(0o600)
    path.write_text("not a key")
    with pytest.raises(KeyRefused, match="not an Ed25519 key"):
        Identity(path)
