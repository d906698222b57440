"""Measure one silo's memory and time for each phase of a round with a large model.

    python benchmarks/large_update.py --parameters 10000000 [--privacy none] [--bits 12] --json FILE

Two silos train a dense model of about that size on a few made-up records, each in its own process,
and this process adds their uploads. Memory is read every few milliseconds from outside: `anonymous`
cannot be taken back by the system; `mapped` is the part of files that the process has touched (the
total's frames, which Ray would keep in its object store, and vectors that the silo maps from files
of its own). Both are the increase over the process before it built the model, less the model and
its gradients, in multiples of the float32 vector: the parameters (1), and where there are gradients
the sums (1) and those of one batch (1). Libraries that are loaded meanwhile count.
Seconds of phases are of the silo's processor, and those of a round by the clock.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from blindsum.actors.aggregator import Aggregator
from blindsum.actors.messages import SiloSpec
from blindsum.actors.silo import Silo
from blindsum.he.exchange import Exchange
from blindsum.platform.evaluation.figures import count_values
from blindsum.platform.job.file import JobFile, load_job

ROUNDS = 2
INPUTS = 64
SILOS = ("north", "south")
PHASES = ("idle", "prepare", "train", "send", "decrypt", "apply", "evaluate", "checkpoint")
GRADIENTS = {"none": ("train",), "local": ("train", "prepare"), "shared": ("train", "prepare")}
"""The phases in which there are gradients. Under DP a silo tries how it can clip, in advance."""


def job_in(folder: Path, given: argparse.Namespace) -> JobFile:
    random = np.random.default_rng(1)
    names = [f"p{i}" for i in range(INPUTS)]
    for silo in SILOS:
        values = random.normal(size=(64, INPUTS))
        table = dict(zip(names, values.T, strict=True))
        table |= {"key": np.arange(64), "label": np.where(values[:, 0] > 0, "yes", "no")}
        pq.write_table(pa.table(table), folder / f"{silo}.parquet")
    # INPUTS h + h + h h + h + 2 h + 2 parameters
    width = int((-(INPUTS + 4) + math.sqrt((INPUTS + 4) ** 2 + 4 * given.parameters)) / 2)
    privacy: dict[str, Any] = {
        "none": {"noise": "none"},
        "local": {"noise": "local", "epsilon": 8, "delta": 1e-5},
        "shared": {"noise": "shared", "epsilon": 8, "delta": 1e-5},
    }[given.privacy]
    if given.test_seed is not None and given.privacy != "none":
        privacy["test_seed"] = given.test_seed
    content = {
        "name": "large",
        "silos": [
            {"name": s, "data": f"{s}.parquet", "state": str(folder / "state" / s)} for s in SILOS
        ],
        "data": {
            "features": {
                "kind": "columns",
                "columns": {name: {"center": 0.0, "scale": 1.0} for name in names},
            },
            "target": {"column": "label", "classes": ["no", "yes"]},
            "folds": {
                "kind": "hash",
                "column": "key",
                "key": "integer",
                "salt": "t",
                "test_fraction": 0.25,
            },
        },
        "model": {"kind": "mlp", "hidden": [width, width]},
        "training": {
            "rounds": ROUNDS,
            "local_steps": 1,
            "sampling_rate": 0.2,
            "expected_batch_size": 10,
            "learning_rate": 0.05,
        },
        "server": {"optimizer": given.server},
        "privacy": privacy,
        "encryption": {"bits": given.bits} | given.more,
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_job(path)


class Pipe:
    """A silo's channel to the aggregator in the process at the other end."""

    aggregators = 1

    def __init__(self, end: Any) -> None:
        self._end = end

    def send(self, aggregator: int, frame: pa.Buffer) -> None:
        self._end.send(("frame", None))
        self._end.send_bytes(frame)

    def settle(self) -> None:
        pass


def timed(owner: Any, method: str, phase: str, now: Any, spent: dict[str, float]) -> None:
    """Let a method of an object note its phase and its processor's seconds."""
    inner = getattr(owner, method)

    def noting(*given: Any, **named: Any) -> Any:
        before, now.value, started = now.value, PHASES.index(phase), time.process_time()
        try:
            return inner(*given, **named)
        finally:
            spent[phase] = spent.get(phase, 0.0) + time.process_time() - started
            now.value = before

    object.__setattr__(owner, method, noting)


class PipedSilo(Silo):
    """A silo whose frames go through a pipe."""

    end: Any = None

    def _channel(self, aggregators: Any) -> Any:
        return Pipe(self.end)


def silo_process(spec: SiloSpec, end: Any, now: Any) -> None:
    torch.set_num_threads(1)
    silo, spent = PipedSilo(spec), dict[str, float]()
    silo.end = end
    while True:
        name, given = end.recv()
        if name == "end":
            return
        if name == "spent":
            end.send(("answer", dict(spent)))
            spent.clear()
            continue
        if name == "apply":  # the total's frames lie in a file, as in the store
            path, sizes, *given = given
            buffer = pa.memory_map(path).read_buffer()
            starts = np.cumsum([0, *sizes])
            frames = [buffer.slice(a, n) for a, n in zip(starts, sizes, strict=False)]
            given = (*given, (), frames)
        if name == "inspect":
            now.value = PHASES.index("prepare")
        answer = getattr(silo, name)(*given)
        if name == "inspect":
            now.value = 0
            own = silo._own
            timed(own.trainer, "train", "train", now, spent)
            timed(own.counting, "of_held_out", "evaluate", now, spent)
            timed(own.checkpoints, "write", "checkpoint", now, spent)
            timed(own, "mean_change", "decrypt", now, spent)
            timed(silo, "_move_on", "apply", now, spent)
            answer = answer.parameters, answer.model_digest
        elif name == "finish":
            timed(silo._keys, "send", "send", now, spent)
        elif name == "apply":
            answer = silo._model.digest, silo._own.policy.course
        end.send(("answer", answer))


class Watched(threading.Thread):
    """Reads a process's memory, and keeps the greatest of each phase, in bytes."""

    def __init__(self, pid: int, now: Any) -> None:
        super().__init__(daemon=True)
        self._pid, self._now, self.going = pid, now, True
        self.least = self._read()
        self.greatest: dict[str, list[int]] = {}

    def _read(self) -> list[int]:
        content = Path(f"/proc/{self._pid}/status").read_text()
        return [
            int(content.split(f"{name}:")[1].split()[0]) * 1024 for name in ("RssAnon", "RssFile")
        ]

    def run(self) -> None:
        while self.going:
            phase = PHASES[self._now.value]
            try:
                read = self._read()
            except (OSError, IndexError):
                return
            before = self.greatest.get(phase, [0, 0])
            self.greatest[phase] = [max(a, b) for a, b in zip(read, before, strict=True)]
            time.sleep(0.002)


class Silos:
    """The silos' processes and their one aggregator."""

    def __init__(self, job_file: JobFile, folder: Path) -> None:
        fork = multiprocessing.get_context("fork")
        self.now, self.folder = fork.Value("i", 0), folder
        self.ends, self.processes = {}, []
        for name in SILOS:
            spec = SiloSpec(job=job_file.job, run="r", name=name, folder=str(job_file.folder))
            here, there = fork.Pipe()
            now = self.now if name == SILOS[0] else fork.Value("i", 0)
            self.processes.append(fork.Process(target=silo_process, args=(spec, there, now)))
            self.ends[name] = here
        self.aggregator = Aggregator()
        self.bytes_up = 0

    def start(self) -> None:
        for process in self.processes:
            process.start()

    def ask(self, method: str, *given: Any, only: tuple[str, ...] = SILOS) -> list[Any]:
        for name in only:
            self.ends[name].send((method, given))
        found = {}
        for name in only:
            while name not in found:
                kind, answer = self.ends[name].recv()
                if kind == "frame":
                    frame = self.ends[name].recv_bytes()
                    self.bytes_up += len(frame)
                    self.aggregator.add(pa.py_buffer(frame))
                else:
                    found[name] = answer
        return [found[name] for name in only]

    def total(self, exchange: Exchange) -> tuple[str, list[int]]:
        _, frames = self.aggregator.total(exchange)
        path = self.folder / f"total-{exchange.purpose}"
        path.unlink(missing_ok=True)
        with path.open("wb") as file:
            for frame in frames:
                file.write(frame)
        return str(path), [frame.size for frame in frames]


def measured(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    job_file = job_in(folder, given)
    silos = Silos(job_file, folder)
    silos.start()
    watched = Watched(silos.processes[0].pid or 0, silos.now)
    watched.start()
    prepared = silos.ask("inspect")
    values, model = prepared[0]
    cards = tuple(silos.ask("introduce"))
    contributions = tuple(silos.ask("contribute", cards))
    agreements = tuple(silos.ask("agree", contributions))
    silos.ask("finish", agreements, (None,))
    silos.aggregator.meet({card.silo: card.identity for card in cards})
    from blindsum.he.parameters import Parameters
    from blindsum.platform.privacy.plan import plan, update_range

    job = job_file.job
    parameters = Parameters.derive(len(SILOS), job.encryption.bits)
    range, clipping = update_range(job, plan(job, SILOS[0])), 1.0
    rounds = []
    for number in (1, 2):
        exchange = Exchange(
            run="r",
            round=number,
            attempt=1,
            purpose="update",
            roster=SILOS,
            values=values,
            counts=count_values(job),
            range=range,
            parameters=parameters,
            model=model,
            clipping=clipping,
        )
        started, silos.bytes_up = time.perf_counter(), 0
        silos.aggregator.open(exchange)
        silos.ask("train", exchange)
        up = silos.bytes_up / len(SILOS)
        path, sizes = silos.total(exchange)
        answers = silos.ask("apply", path, sizes, exchange)
        (model, course), *_ = answers
        assert len({one[0] for one in answers}) == 1, "the silos' models differ"
        range, clipping = course.range, course.clipping
        (spent,) = silos.ask("spent", only=SILOS[:1])
        rounds.append({"seconds": time.perf_counter() - started, "up_bytes": up, "phases": spent})
    watched.going = False
    for end in silos.ends.values():
        end.send(("end", ()))
    for process in silos.processes:
        process.join()
    memory = {
        phase: {
            kind: (peak - least) / (4 * values)
            - (kind == "anonymous") * (3 if phase in GRADIENTS[given.privacy] else 1)
            for kind, peak, least in zip(("anonymous", "mapped"), found, watched.least, strict=True)
        }
        for phase, found in watched.greatest.items()
    }
    return {
        "parameters": values,
        "down_bytes": sum(sizes),
        "memory": memory,
        "rounds": rounds,
        "digest": model,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--privacy", choices=("none", "local", "shared"), default="none")
    parser.add_argument("--server", choices=("sgd", "momentum", "adam"), default="sgd")
    parser.add_argument("--test-seed", type=int, help="makes two measured runs comparable")
    parser.add_argument("--bits", type=int, default=12)
    parser.add_argument("--more", type=json.loads, default={}, help="other keys of encryption")
    parser.add_argument("--folder", help="where the silos' state lies; it must not be in memory")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        os.environ["BLINDSUM_HOME"] = folder
        found = measured(given, Path(folder))
    print(json.dumps(found, indent=1))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
