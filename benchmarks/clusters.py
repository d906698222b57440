"""Measure a round across separate clusters against the same round in one cluster.

    python benchmarks/clusters.py --json build/clusters.json

Both arms run the same federation on this machine, and their rounds alternate:

    one_cluster   three silo actors and an aggregator in one Ray
    separate      three agents, each with a Ray of its own, and a coordinator with a fourth, over
                  mutual TLS on 127.0.0.1

`round_s` is the median of rounds with real training on 30 records, `up_bytes` the size of all
uploads of a round. `latency` repeats the separate arm behind relays that hold every byte back for
half of the named round trip. `detect_s` is the time until the federation knows that a silo is gone,
with deadlines.silent_s at 5 s: after SIGKILL of its agent, and after its link is cut without a
sound. `reconnect_s` is the time until that agent is heard again after the link is whole.
`many` connects 32 agents at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from clusters_setup import SILOS, VERSION, Consortium, Relay, until
from rich.console import Console
from rich.table import Table

from blindsum.actors.cluster import Died
from blindsum.actors.federation import Federation
from blindsum.actors.ray_cluster import RayCluster
from blindsum.actors.separate.client import client_context
from blindsum.actors.separate.cluster import SeparateCluster
from blindsum.actors.separate.link import Link, LinkSettings
from blindsum.actors.separate.messages import Next, Poll
from blindsum.actors.vault import open_identity
from blindsum.infra.certificates import (
    CA_CERTIFICATE,
    NODE_CERTIFICATE,
    NODE_KEY,
    keep_certificate,
    make_request,
    sign_request,
)
from blindsum.infra.ray_session import ray_session
from blindsum.pipelines.consortium.invitation import Token
from blindsum.platform.job.schema import Job

HIDDEN = {2_000: [285], 262_144: [505, 511]}  # 1,997 and 262,115 parameters
ROUNDS = {2_000: 40, 262_144: 20}
WARM = 3


def tables(folder: Path) -> None:
    """Write forty made-up records for each silo."""
    random = np.random.default_rng(1)
    for silo in SILOS:
        columns = {f"x{i}": random.normal(size=40) for i in range(4)}
        table = {**columns, "y": np.arange(40) % 2, "fold": ["train"] * 30 + ["test"] * 10}
        pyarrow.parquet.write_table(pa.table(table), folder / f"{silo}.parquet")


def job(folder: Path, parameters: int, rounds: int, data: str | None = None, **more: Any) -> Job:
    """Return a job with about that many parameters."""
    return Job.model_validate(
        {
            "name": f"rounds-{parameters}",
            "silos": [
                {"name": s, "data": data}
                if data
                else {
                    "name": s,
                    "data": str(folder / f"{s}.parquet"),
                    "state": str(folder / "one" / s),
                }
                for s in SILOS
            ],
            "data": {
                "features": {"kind": "columns", "columns": {f"x{i}": {} for i in range(4)}},
                "target": {"column": "y", "classes": [0, 1]},
                "folds": {"kind": "column"},
            },
            "model": {"kind": "mlp", "hidden": HIDDEN[parameters]},
            "training": {
                "rounds": rounds,
                "local_steps": 1,
                "sampling_rate": 0.1,
                "expected_batch_size": 3,
                "learning_rate": 0.1,
            },
            "privacy": {"noise": "local", "epsilon": 3, "delta": 1e-4},
            **more,
        }
    )


@contextmanager
def federation(made: Job, run: str, cluster: Any) -> Iterator[Federation]:
    """A federation whose keys are agreed on."""
    one = Federation(made, run, "", cluster)
    try:
        one.warm_up()
        one.inspect()
        one.exchange_keys()
        yield one
    finally:
        one.close()


def separate(consortium: Consortium, made: Job) -> SeparateCluster:
    """Return a cluster over the consortium's agents."""
    digest = consortium.approved(made)
    boxes = {name: consortium.gate.mailbox(name) for name in SILOS}
    return SeparateCluster(RayCluster(), boxes, digest, made.deadlines.silent_s)


def compare(consortium: Consortium, parameters: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Run both arms, their rounds in turn."""
    folder, count = consortium.folder, rounds + WARM
    mine, theirs = job(folder, parameters, count), job(folder, parameters, count, "made_up")
    with (
        federation(mine, f"one-{parameters}", RayCluster()) as one,
        federation(theirs, f"separate-{parameters}", separate(consortium, theirs)) as other,
    ):
        reports: dict[str, list[Any]] = {"one_cluster": [], "separate": []}
        seconds = []
        for number in range(1, count + 1):
            reports["one_cluster"].append(one.run_round(number))
            before = resource.getrusage(resource.RUSAGE_SELF)
            reports["separate"].append(other.run_round(number))
            after = resource.getrusage(resource.RUSAGE_SELF)
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            seconds.append(used)
    found = {
        arm: {
            "round_s": statistics.median(r.seconds for r in of[WARM:]),
            "p90_s": float(np.quantile([r.seconds for r in of[WARM:]], 0.9)),
            "up_bytes": of[-1].up_bytes,
            "rounds": rounds,
        }
        for arm, of in reports.items()
    }
    found["separate"]["coordinator_cpu_s"] = statistics.median(seconds[WARM:])
    return found


def behind(consortium: Consortium, round_trip_s: float) -> dict[str, float]:
    """Return round_s of both sizes with that much more latency."""
    relays = [Relay(consortium.port, round_trip_s / 2) for _ in SILOS]
    ports = iter([relay.port for relay in relays])
    consortium.connect(lambda: next(ports))
    found = {}
    for parameters in HIDDEN:
        name = f"late-{parameters}-{round_trip_s:g}"
        made = job(consortium.folder, parameters, 8, "made_up", seed=int(1e4 * round_trip_s))
        with federation(made, name, separate(consortium, made)) as one:
            reports = [one.run_round(number + 1) for number in range(8)][2:]
        found[str(parameters)] = statistics.median(r.seconds for r in reports)
    return found


def detect(consortium: Consortium) -> dict[str, Any]:
    """Return how long it takes to know that a silo is gone, and that it is back."""
    relay = Relay(consortium.port)
    ports = iter([relay.port, consortium.port, consortium.port])
    consortium.connect(lambda: next(ports))
    found: dict[str, Any] = {"silent_s": 5.0}
    for how in ("cut", "sigkill"):
        made = job(
            consortium.folder, 2_000, 5, "made_up", seed=len(how), deadlines={"silent_s": 5.0}
        )
        with federation(made, f"detect-{how}", separate(consortium, made)) as one:
            one.run_round(1)
            lost = "alder" if how == "cut" else "birch"
            silo = one._silos[lost]
            started = time.monotonic()
            if how == "cut":
                relay.flows.clear()
            else:
                consortium.stop(lost, signal.SIGKILL)

            def gone(silo: Any = silo) -> bool:
                (handle,) = silo.cluster.call(silo.peer, "ping")
                outcome = silo.cluster.wait([handle], 1, 0.0).get(handle)
                return isinstance(outcome, Died)

            until(gone)
            found[how] = time.monotonic() - started
            if how == "cut":
                started, box = time.monotonic(), consortium.gate.mailbox(lost)
                heard = box.heard
                relay.flows.set()
                until(lambda box=box, heard=heard: box.heard != heard)
                found["reconnect_s"] = time.monotonic() - started
    return found


def many(consortium: Consortium, count: int) -> dict[str, Any]:
    """Connect that many agents at once, in one process, and ask each for a sign of life."""

    identities = {}
    for index in range(count):
        name = f"silo-{index:02}"
        identities[name] = open_identity(consortium.folder / "many" / name)
        secret = consortium.registry.invite(name, 1)
        consortium.registry.enrol(name, identities[name].public, secret)
    public = consortium.home.identity.public
    token = Token("join", consortium._url(), public, b"", "")
    tls = consortium.folder / "many-tls"

    def context(name: str) -> Any:
        request = make_request(tls / name, f"{name}.silo")
        signed = sign_request(consortium.home.folder, request, f"{name}.silo", 30)
        keep_certificate(tls / name, *signed)
        return client_context(
            tls / name / CA_CERTIFICATE, tls / name / NODE_CERTIFICATE, tls / name / NODE_KEY
        )

    contexts = {name: context(name) for name in identities}

    async def connect(name: str) -> float:
        settings = LinkSettings(
            url=consortium._url(),
            coordinator=public,
            fingerprint=token.fingerprint,
            tls=lambda: contexts[name],
        )
        link = Link(settings, name, identities[name], VERSION, os.urandom(16).hex())
        await link.begin()
        started = time.monotonic()
        for _ in range(20):
            await link.ask("/v1/poll", Poll(after=0, park=False), [], Next)
        took = (time.monotonic() - started) / 20
        await link.close()
        return took

    async def everyone() -> list[float]:
        return list(await asyncio.gather(*(connect(name) for name in identities)))

    started = time.monotonic()
    polls = asyncio.run(everyone())
    return {
        "agents": count,
        "seconds": time.monotonic() - started,
        "poll_s": statistics.median(polls),
    }


def main() -> None:
    """Run the benchmark and write its figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rounds", type=int, help="Rounds for each size; default 40 and 20.")
    parser.add_argument("--quick", action="store_true", help="Only the two arms.")
    options = parser.parse_args()
    console = Console(stderr=True)
    found: dict[str, Any] = {"arms": {"one_cluster": {}, "separate": {}}}
    with tempfile.TemporaryDirectory(prefix="bs-", dir="/tmp") as name, ray_session():
        folder = Path(name)
        tables(folder)
        consortium = Consortium(folder)
        try:
            console.print("starting three agents with a Ray each")
            consortium.connect()
            for parameters in HIDDEN:
                console.print(f"rounds with {parameters} parameters")
                both = compare(consortium, parameters, options.rounds or ROUNDS[parameters])
                for arm, figures in both.items():
                    found["arms"][arm][str(parameters)] = figures
            if not options.quick:
                console.print("silos that vanish")
                found["detect_s"] = detect(consortium)
                found["reconnect_s"] = found["detect_s"].pop("reconnect_s")
                console.print("32 agents at once")
                found["many"] = many(consortium, 32)
                found["latency"] = {}
                for milliseconds in (20, 100):
                    console.print(f"{milliseconds} ms of latency")
                    found["latency"][f"{milliseconds}_ms"] = behind(consortium, milliseconds / 1e3)
        finally:
            consortium.close()
    arms = found["arms"]
    found["ratio"] = {
        size: arms["separate"][size]["round_s"] / arms["one_cluster"][size]["round_s"]
        for size in arms["separate"]
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(found, indent=2))
    table = Table("parameters", "one cluster", "separate", "ratio")
    for size, ratio in found["ratio"].items():
        both = (arms["one_cluster"][size]["round_s"], arms["separate"][size]["round_s"])
        table.add_row(size, *(f"{1e3 * one:.0f} ms" for one in both), f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
