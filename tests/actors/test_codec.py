"""Control messages are bytes, decoded by type; no process accepts another process's objects."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blindsum.actors.codec import decoded, decoded_models, encoded, encoded_models
from blindsum.actors.messages import ApplyReport, SiloSpec, TrainReport
from blindsum.actors.shell import shell
from blindsum.actors.silo import Silo
from blindsum.actors.silo_actor import CALLS as OF_SILOS
from blindsum.actors.silo_messages import Inspection, Progress
from blindsum.he.exchange import Exchange, SiloName
from blindsum.he.identity import Identity
from blindsum.he.keys import Agreement, Contribution, KeyCeremony
from blindsum.he.parameters import Parameters
from blindsum.platform.errors import FederationError
from blindsum.platform.evaluation.figures import HeldOut, Metrics, TaskFigures
from blindsum.platform.evaluation.pair_figures import PairFigures
from blindsum.platform.privacy.plan import plan
from blindsum.platform.state.ledger_entries import Lifetime
from tests.conftest import MakeJob
from tests.fuzz.mutation import mutants, said_of
from tests.he.parties import exchange


def messages(make_job: MakeJob, tmp_path: Path) -> list[Any]:
    job = make_job().job
    introduction = KeyCeremony(
        "run", "terms", "alder", Identity(tmp_path / "identity.pem"), {}
    ).introduction
    nan = math.nan
    names = TaskFigures.__dataclass_fields__
    whole = {name: 1 for name, field in names.items() if field.type == "int"}
    of_group = {name: nan for name in PairFigures.__dataclass_fields__}
    groups = {"admet": PairFigures(**{name: whole.get(name, nan) for name in of_group})}
    figures = TaskFigures(**dict.fromkeys(names, nan) | whole | {"groups": groups})
    return [
        SiloSpec(job=job, run="run-1", name="alder", folder=str(tmp_path), threads=2, resumed=True),
        exchange(Parameters.derive(3), 9, clipping=0.1 + 0.2),
        introduction,
        Contribution("alder", "a" * 64, {"birch": b"\xff\0sealed"}, b"signed"),
        Agreement("alder", "a" * 64, "b" * 64, b"\x80"),
        Inspection(
            silo="alder",
            plan=plan(job, "alder"),
            parameters=10,
            model_digest="c" * 64,
            ledger="/l",
            lifetime=Lifetime(1, 2.0, 1e-5),
            kept={3: "d"},
            charged=(4, 1),
            clipping="gradients are clipped by book-keeping",
        ),
        Progress(percent=45, at_work=True),
        TrainReport(
            silo="alder",
            epsilon=1.5,
            upload_bytes=9,
            charge_s=0.1,
            train_s=0.2,
            send_s=0.3,
            ledger="7 abc",
            metrics_epsilon=None,
        ),
        ApplyReport(
            silo="alder",
            state_digest="e" * 64,
            model_digest="c" * 64,
            metrics=Metrics(saturated=0.1, large=0.2, unclipped=0.3, held_out=figures),
            decrypt_s=0.1,
            apply_s=0.2,
        ),
        Metrics(
            saturated=0.1,
            large=0.2,
            unclipped=None,
            held_out=HeldOut(records=9, accuracy=0.5, loss=0.1, largest_class=0.4, dropped=0),
        ),
        Metrics(saturated=0.1, large=0.2, unclipped=0.3, held_out=None),
        Metrics(saturated=0.1, large=0.2, unclipped=None, held_out=figures),
    ]


def test_every_message_comes_back_as_it_was(make_job: MakeJob, tmp_path: Path) -> None:
    for message in messages(make_job, tmp_path):
        again = decoded(encoded(message), type(message))
        assert repr(again) == repr(message) and type(again) is type(message)
    spec = messages(make_job, tmp_path)[0]
    read = decoded(encoded(spec), SiloSpec)
    assert read.job.model_dump_json() == spec.job.model_dump_json(), "the ceremony's terms"
    several = (messages(make_job, tmp_path)[2],) * 2
    assert decoded(encoded(several), tuple[type(several[0]), ...]) == several  # type: ignore[misc]
    identities = {"alder": b"\0\xff" * 9}
    assert decoded(encoded(identities), dict[SiloName, bytes]) == identities
    assert decoded(encoded(7), int) == 7 and decoded(encoded(None), Exchange | None) is None  # type: ignore[arg-type]
    one = np.arange(5, dtype=np.float32)
    round, models = decoded_models(encoded_models(3, one, one + 1))
    assert round == 3 and models.tolist() == [[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]]
    whole = encoded_models(3, one, one)
    for bad in (None, b"1234567", whole + b"x", whole[:-4], bytes(8), b"\xff" * 40, "text"):
        with pytest.raises(FederationError, match="the bytes of models"):
            decoded_models(bad)


def test_what_is_no_such_message_is_refused(make_job: MakeJob, tmp_path: Path) -> None:
    one = exchange(Parameters.derive(3), 9)
    right = json.loads(encoded(one))
    for field, value in (
        ("run", "../up"),
        ("round", 0),
        ("round", 1.0),
        ("round", True),
        ("roster", ["Alder"]),
        ("clipping", math.nan),
        ("range", math.inf),
        ("model", "x"),
        ("more", 1),
        ("purpose", "else"),
    ):
        with pytest.raises(FederationError, match="received a malformed Exchange"):
            decoded(json.dumps(right | {field: value}).encode(), Exchange)
    for nothing in (
        one,
        pickle.dumps(one),
        None,
        "text",
        bytearray(b"{}"),
        b"",
        b"[" * 100_000,
        b"x" * 2**25,
    ):
        with pytest.raises(FederationError):
            decoded(nothing, Exchange)  # type: ignore[arg-type]


def test_of_many_faults_none_is_listed() -> None:
    """A list of a million faults takes gigabytes, and a minute."""
    right = json.loads(encoded(exchange(Parameters.derive(3), 9)))
    with pytest.raises(FederationError, match="received a malformed Exchange: run"):
        decoded(json.dumps(right | {"run": "../up"}).encode(), Exchange)
    many = right | {"run": "../up", **{f"more{i}": i for i in range(200)}}
    with pytest.raises(FederationError) as refused:
        decoded(json.dumps(many).encode(), Exchange)
    assert refused.value.what == "received a malformed Exchange"


def test_altered_messages(make_job: MakeJob, tmp_path: Path) -> None:
    """One of our errors, or a message that meets its types."""
    for message in messages(make_job, tmp_path):
        for mutant in mutants(encoded(message)):
            found: list[Any] = []
            if said_of(lambda: found.append(decoded(mutant, type(message)))) is None:  # noqa: B023
                assert repr(decoded(encoded(found[0]), type(message))) == repr(found[0])


def test_an_actor_takes_bytes_and_nothing_else(make_job: MakeJob, tmp_path: Path) -> None:
    """As Ray hands it what another process sent."""
    job_file = make_job()
    spec = SiloSpec(job=job_file.job, run="run-1", name="alder", folder=str(job_file.folder))
    made = shell(Silo, OF_SILOS, (SiloSpec,))
    with pytest.raises(FederationError, match="expected a message of kind SiloSpec"):
        made(spec)
    silo = made(encoded(spec))
    decoded(silo.inspect(), Inspection)
    own = silo.introduce()
    for sent in ((own,), [own], pickle.dumps((own,)), b"[]{}"):
        with pytest.raises(FederationError):
            silo.contribute(sent)
    with pytest.raises(FederationError, match="expected a message of kind Exchange"):
        silo.train(exchange(Parameters.derive(3), 9))
