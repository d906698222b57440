"""What crosses between silos, aggregators and the driver, changed on its way."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from blindsum.actors.door import checked, checked_all, checked_round, checked_spec
from blindsum.actors.messages import SiloSpec
from blindsum.he.cipher import body_bytes
from blindsum.he.exchange import Exchange
from blindsum.he.identity import Identity, verify
from blindsum.he.keys import Agreement, Contribution, Introduction, KeyCeremony
from blindsum.he.parameters import Parameters
from blindsum.he.wire import read_total, read_upload, write_total, write_upload
from tests.conftest import MakeJob
from tests.fuzz.mutation import COUNT, mutants, said_of
from tests.he.parties import exchange

P = Parameters.derive(2)
ANYTHING: tuple[Any, ...] = (
    None,
    "",
    "..",
    "a/b",
    "x" * 10_000,
    "a\0b",
    b"",
    b"\0" * 70_000,
    -1,
    0,
    2**70,
    1.5,
    float("nan"),
    float("inf"),
    True,
    [],
    {},
    (),
    ("a",),
    ("a", "a"),
    ("a", "b") * 40,
    {"a": 1},
    object(),
    Path("/"),
    np.float64(1),
    lambda: None,
)


def test_frames(tmp_path: Path) -> None:
    """An altered frame is refused, or is the very one that was signed."""
    one = exchange(P, 9)
    identity = Identity(tmp_path / "identity.pem")
    public = {name: identity.public for name in one.roster}
    draw = np.random.default_rng(1)
    bodies = [draw.integers(0, 256, n).astype(np.uint8) for n in body_bytes(P, one.reals)]
    upload = write_upload(one, one.parts[0], one.roster[0], bodies[0], identity)
    for mutant in mutants(upload.to_pybytes()):
        found: list[Any] = []
        frame = pa.py_buffer(mutant)
        if said_of(lambda: found.append(read_upload(frame, one, public))) is None:  # noqa: B023
            np.testing.assert_array_equal(found[0].body, bodies[0])
    total = write_total(one, one.parts[0], bodies[1])
    for mutant in mutants(total.to_pybytes()):
        frame = pa.py_buffer(mutant)
        said_of(lambda: read_total(frame, one, one.parts[0]))  # noqa: B023


def altered(message: Any, draw: random.Random) -> Any:
    """The message as pickle would build it: any field may be anything."""
    twin = object.__new__(type(message))
    for one in fields(message):
        object.__setattr__(twin, one.name, getattr(message, one.name))
    for one in draw.sample(fields(message), draw.choice((1, 1, 2))):
        object.__setattr__(twin, one.name, draw.choice(ANYTHING))
    return twin


def test_messages_at_a_silos_door(make_job: MakeJob, tmp_path: Path) -> None:
    job_file = make_job()
    identity = Identity(tmp_path / "identity.pem")
    ceremony = KeyCeremony("run", "terms", "alder", identity, {})
    messages = (
        exchange(P, 9),
        ceremony.introduction,
        Contribution("alder", "a" * 64, {"birch": b"x"}),
        Agreement("alder", "a" * 64, "b" * 64),
    )
    draw = random.Random(1)
    for _ in range(COUNT):
        for message in messages:
            mutant, kind = altered(message, draw), type(message)
            found: list[Any] = []
            if said_of(lambda: found.append(checked(mutant, kind))) is None:  # noqa: B023
                assert found[0] == kind(**{f.name: getattr(found[0], f.name) for f in fields(kind)})
        spec = SiloSpec(job=job_file.job, run="run", name="alder", folder=str(tmp_path), threads=1)
        mutant = altered(spec, draw)
        said_of(lambda: checked_spec(mutant))  # noqa: B023
        anything = draw.choice(ANYTHING)
        said_of(lambda: checked_all(anything, Introduction))  # noqa: B023
        said_of(lambda: checked_round(anything))  # noqa: B023


def test_signatures_and_key_messages(tmp_path: Path) -> None:
    """Nothing that a silo did not sign passes for its word."""
    parties = {
        name: KeyCeremony("run", "terms", name, Identity(tmp_path / f"{name}.pem"), {})
        for name in ("alder", "birch")
    }
    introductions = tuple(one.introduction for one in parties.values())
    for name in ("identity", "mlkem", "x25519", "signature"):
        for mutant in mutants(getattr(introductions[1], name), COUNT // 4):
            told = introductions[0], replace(introductions[1], **{name: mutant[:65_536]})
            if mutant != getattr(introductions[1], name):
                assert said_of(lambda: parties["alder"].contribute(told))  # noqa: B023
    contributions = tuple(one.contribute(introductions) for one in parties.values())
    sealed = contributions[1].sealed["alder"]
    for mutant in mutants(sealed, COUNT // 4):
        changed = replace(contributions[1], sealed={"alder": mutant[:65_536]})
        said = said_of(lambda: parties["alder"].agree((contributions[0], changed)))  # noqa: B023
        assert said or mutant == sealed
    public = introductions[0].identity
    signature = Identity(tmp_path / "alder.pem").sign(b"content")
    for mutant in mutants(signature, COUNT // 4):
        said = said_of(lambda: verify(public, mutant, b"content", "content"))  # noqa: B023
        assert (said is None) == (mutant == signature)
    assert isinstance(exchange(P, 9), Exchange)
