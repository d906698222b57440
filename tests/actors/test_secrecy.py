"""What driver and aggregator receive holds no key, no record and no single silo's update.

Silos write their secrets to files; everything that reaches the driver (each answer `ray.get`
gives it) and the aggregator (each argument) is scanned for any stretch of them.
"""

import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray

from blindsum.actors.aggregator import CALLS as OF_AGGREGATORS
from blindsum.actors.aggregator import Aggregator, as_aggregator
from blindsum.actors.federation import Federation
from blindsum.actors.ray_cluster import RayCluster
from blindsum.actors.silo import Silo
from blindsum.actors.silo_actor import CALLS as OF_SILOS
from blindsum.actors.silo_actor import as_actor
from blindsum.he.exchange import Exchange
from blindsum.he.packing import pack
from blindsum.platform.events import PUBLIC
from tests.actors.test_silo import Consortium, PostedSilo
from tests.conftest import MakeJob

WINDOW = 32


class TellingSilo(Silo):
    """A silo that leaves its secrets in its own folder, for the test to look for."""

    def finish(self, agreements: Any, aggregators: Any) -> None:
        super().finish(agreements, aggregators)
        vault = self._vault
        assert vault is not None and vault._keys is not None
        # SEAL's header and the parameters' public digest come first, in ciphertexts too.
        self._tell("key", vault._keys.secret.content[160:])
        self._tell("identity", (self._own.state / "identity.pem").read_bytes())
        for seed in vault._keys.seeds._seeds.values():
            self._tell("seed", seed)
        for fold in (self._own.data.train, self._own.data.test):
            self._tell("record", fold.features.tobytes())
            self._tell("record", fold.features.astype(np.float64).tobytes())
        train = self._own.trainer.train

        def trained(*given: Any) -> Any:
            update = train(*given)
            self._tell("update", update.values.tobytes())
            return update

        self._own.trainer.train = trained  # type: ignore[method-assign]
        send = vault.send

        def telling(exchange: Exchange, digits: Any, counts: Any) -> int:
            def told(where: slice) -> Any:
                integers = digits(where)
                self._tell("update", integers.tobytes())
                self._tell("update", pack(integers, self._own.parameters).tobytes())
                return integers

            def counted() -> Any:
                found = counts()
                self._tell("metrics", found.tobytes())
                return found

            return send(exchange, told, counted)

        vault.send = telling  # type: ignore[method-assign]

    def _tell(self, kind: str, content: bytes) -> None:
        folder = Path(self._spec.folder) / "secrets" / kind
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}-{len(list(folder.iterdir()))}").write_bytes(content)


class ListeningAggregator(Aggregator):
    """An aggregator that keeps whatever it is given."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.heard: list[bytes] = []

    def meet(self, identities: Any) -> None:
        self.heard.append(pickle.dumps(identities))
        super().meet(identities)

    def open(self, exchange: Exchange) -> None:
        self.heard.append(pickle.dumps(exchange))
        super().open(exchange)

    def add(self, frame: pa.Buffer) -> Any:
        self.heard.append(frame.to_pybytes())
        return super().add(frame)

    @ray.method(num_returns=2)
    def total(self, *arguments: Any) -> Any:
        self.heard.append(pickle.dumps(arguments))
        return super().total(*arguments)

    def tell(self) -> list[bytes]:
        kept = [self._receipts, self._identities, self._before and self._before.exchange]
        return [*self.heard, *(pickle.dumps(one) for one in kept)]


def _typed(value: Any) -> bool:
    """Return whether it is bytes, nothing, or what Ray and Arrow make themselves."""
    if isinstance(value, (list, tuple)):
        return all(_typed(one) for one in value)
    plain = (bytes, type(None), pa.Buffer, ray.ObjectRef, ray.actor.ActorHandle)
    return isinstance(value, plain)


@dataclass
class Heard:
    """What crossed between processes in a whole run.

    `strange` names arguments and answers of the driver's calls that are neither bytes, frames nor
    references; `called` has the methods that it called.
    """

    to_driver: bytes = b""
    to_aggregator: bytes = b""
    strange: list[str] = field(default_factory=list)
    called: set[str] = field(default_factory=set)


def run_and_listen(job_file: Any, monkeypatch: pytest.MonkeyPatch) -> Heard:
    heard, to_driver = Heard(), list[bytes]()
    get, real_call = ray.get, ray.actor.ActorMethod._remote

    def listen(ref: Any, **kwargs: Any) -> Any:
        answer = get(ref, **kwargs)
        heard.strange.extend([] if _typed(answer) else [f"answer {type(answer)}"])
        to_driver.append(pickle.dumps(answer))
        return answer

    def call(self: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        heard.called.add(self._method_name)
        strange = [f"{self._method_name} {type(a)}" for a in args or () if not _typed(a)]
        heard.strange.extend(strange)
        return real_call(self, args, kwargs, **options)

    monkeypatch.setattr(ray, "get", listen)
    monkeypatch.setattr(ray.actor.ActorMethod, "_remote", call)
    one = Federation(
        job_file.job,
        "run",
        str(job_file.folder),
        RayCluster(as_actor(lambda: TellingSilo), as_aggregator(ListeningAggregator)),
    )
    try:
        one.inspect()
        one.exchange_keys()
        reports = [one.run_round(number) for number in (1, 2)]
        assert one.evaluate()
        assert one.release(2, reports[-1].state_digest).round == 2
        one.forget()
        heard.to_aggregator = b"".join(get(one._aggregators[0].peer.tell.remote()))
    finally:
        one.close()
    heard.to_driver = b"".join(to_driver)
    return heard


def found(folder: Path, heard: bytes) -> set[str]:
    """Kinds of secrets of which some telling stretch was heard."""
    stretches = {heard[i : i + WINDOW] for i in range(len(heard) - WINDOW)}
    kinds = set()
    for path in (folder / "secrets").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            last = len(content) - WINDOW + 1
            windows = (content[i : i + WINDOW] for i in range(0, last, WINDOW))
            # Runs of padding and headers tell nothing: a stretch must be varied to count.
            if any(w in stretches for w in windows if len(set(w)) > 8):
                kinds.add(path.parent.name)
    return kinds


@pytest.mark.usefixtures("cluster")
def test_driver_and_aggregator_receive_no_secret_and_only_bytes_frames_and_references(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = run_and_listen(make_job("model={kind: mlp, hidden: [40]}"), monkeypatch)
    assert heard.strange == []
    of_returns = {"restore", "request_state", "seal_state", "take_state"}
    assert heard.called >= {*OF_SILOS, *OF_AGGREGATORS} - of_returns - {"ping", "add"}
    to_driver, to_aggregator = heard.to_driver, heard.to_aggregator
    assert len(to_driver) > 40_000 and len(to_aggregator) > 40_000
    assert {p.name for p in (tmp_path / "secrets").iterdir()} == {
        "key",
        "identity",
        "seed",
        "record",
        "update",
        "metrics",
    }
    assert found(tmp_path, to_driver) == set()
    assert found(tmp_path, to_aggregator) == set()
    said = logs_of_nodes()
    assert {line["silo"] for line in said if line["event"] == "charged"} >= {
        "alder",
        "birch",
        "cedar",
    }
    assert all(line.keys() <= PUBLIC for line in said)
    assert recorded(tmp_path, json.dumps(said)) == set()
    assert found(tmp_path, json.dumps(said).encode()) == set()
    for secret in (tmp_path / "secrets").rglob("*"):
        if secret.is_file() and secret.parent.name in ("key", "seed", "identity"):
            assert secret.read_bytes()[:WINDOW].hex() not in json.dumps(said)
    one = max(values_of_records(tmp_path), key=len)
    assert recorded(tmp_path, f"a row: {one}") == {one}


def logs_of_nodes() -> list[dict[str, Any]]:
    """All lines that actors of this session wrote for machines, from Ray's own files."""
    session = Path(ray._private.worker._global_node.get_session_dir_path())  # type: ignore[union-attr]
    text = "".join(p.read_text() for p in (session / "logs").glob("worker-*.err"))
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def values_of_records(folder: Path) -> set[str]:
    """As text, those that are long enough to be told from other numbers."""
    values: set[str] = set()
    for path in (folder / "secrets" / "record").iterdir():
        content = path.read_bytes()
        for kind in (np.float32, np.float64):
            numbers = np.frombuffer(content[: len(content) // 8 * 8], kind)
            values |= {repr(float(n)) for n in numbers}
    return {value for value in values if len(value) > 8}


def recorded(folder: Path, text: str) -> set[str]:
    """Values of records that stand in a text."""
    return {value for value in values_of_records(folder) if value in text}


def test_the_scan_finds_updates_where_nothing_is_encrypted(
    make_job: MakeJob, tmp_path: Path
) -> None:
    """The same scan with the protection removed: the aggregator holds every update."""
    job_file = make_job("model={kind: mlp, hidden: [40]}", "encryption.scheme=none")

    class Telling(TellingSilo, PostedSilo):
        pass

    consortium = Consortium(job_file, silo=Telling)
    exchange = consortium.exchange()
    listener = ListeningAggregator()
    listener.meet(consortium.aggregator._identities)
    listener.open(exchange)
    for upload in consortium.train(exchange):
        listener.add(upload)
    assert "update" in found(tmp_path, b"".join(listener.tell()))
