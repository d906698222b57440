"""Measure how many simulated silos one machine copes with, several of them in one process.

    python benchmarks/many_silos.py --json FILE [--silos 64] [--per-process 8] [--reference 8]

Two federations run here, one after the other, on scikit-learn's digits (a model of 1,960
parameters, differential privacy with shared noise, encryption): the reference of `--reference`
silos with a process each, then one of `--silos` silos, `--per-process` of them in each process.

JSON, for each arm: `start_s` (from the start of Ray to the first round) and its `phases_s`;
`ceremony_s` has the steps of the key ceremony; `round_s` (median) and the phases of a round;
`processor_s`, what the silos' processes used until the first round, on all cores, and
`round_processor_s`, what a round takes of everyone's; `memory_mb` of the silos' processes together
(PSS: a page that several share counts once); `load` of the machine before the arm began.
Ratios compare the two arms by silo: `start_ratio` and `processor_ratio`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from soak import digits_in

from blindsum.actors.federation import Federation
from blindsum.actors.handles import Reply
from blindsum.infra.ray_session import ray_session
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import compute_ahead

HIDDEN = [26]
WARM = 2
_ARMS = ("reference", "many")
console = Console(highlight=False)


class Phases:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def job_of(folder: Path, silos: int, per_process: int | None, rounds: int) -> Job:
    content = digits_in(folder, silos, rounds).job.model_dump()
    content["model"]["hidden"] = HIDDEN
    if per_process:
        content["simulation"] = {"silos_per_process": per_process}
    return Job.model_validate(content)


def processes(kind: str = "Silo") -> list[psutil.Process]:
    """Return this run's processes of silos, or of aggregators."""
    found = []
    for process in psutil.Process().children(recursive=True):  # others may run Ray here too
        with suppress(psutil.NoSuchProcess):
            if process.cmdline() and process.cmdline()[0].startswith("ray::"):
                found += [process] if kind in process.cmdline()[0] else []
    return found


def processor_s() -> dict[str, float]:
    """Return the processor seconds so far of silos, aggregator, driver and Ray."""
    here = psutil.Process()
    ray = [one for one in here.children() if one.name() in ("raylet", "gcs_server")]
    of = {"silos": processes(), "aggregator": processes("Aggregator"), "driver": [here], "ray": ray}
    return {
        name: sum(one.cpu_times().user + one.cpu_times().system for one in those)
        for name, those in of.items()
    }


def arm(silos: int, per_process: int | None, rounds: int) -> dict[str, Any]:
    phases, ceremony = Phases(), Phases()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        job = job_of(Path(folder), silos, per_process, rounds + WARM)
        os.environ["BLINDSUM_HOME"] = folder
        with phases.of("starting Ray"):
            session = ray_session()
            session.__enter__()
        try:
            with phases.of("plan"):
                compute_ahead(job)
            with phases.of("silos read their data"):
                one = Federation(job, f"many-{silos}", folder)
                one.warm_up()
                parameters = next(iter(one.inspect().values())).parameters
            with timed(one, ceremony), phases.of("key ceremony"):
                one.exchange_keys()
            used, running = processor_s(), len(processes())
            memory = sum(process.memory_full_info().pss for process in processes()) / 2**20
            for number in range(WARM):
                one.run_round(number + 1)
            before = processor_s()
            reports = [one.run_round(WARM + number + 1) for number in range(rounds)]
            after = processor_s()
            one.close()
        finally:
            session.__exit__(None, None, None)
    return {
        "silos": silos,
        "per_process": per_process or 1,
        "processes": running,
        "parameters": parameters,
        "load": load,
        "start_s": sum(phases.seconds.values()),
        "phases_s": phases.seconds,
        "ceremony_s": ceremony.seconds,
        "processor_s": used["silos"],
        "memory_mb": memory,
        "round_s": statistics.median(one.seconds for one in reports),
        "round_phases_s": {
            name: statistics.median(one.phases[name] for one in reports)
            for name in reports[0].phases
        },
        "round_processor_s": {name: (after[name] - before[name]) / rounds for name in after},
        "rounds": rounds,
    }


@contextmanager
def timed(one: Federation, ceremony: Phases) -> Iterator[None]:
    """Note the seconds of each step of the ceremony, until its last answer."""
    gather, last = one._waiting.gather, time.perf_counter()

    def noted(replies: Sequence[Reply[Any]], doing: str, deadline_s: float) -> dict[str, Any]:
        nonlocal last
        answers = gather(replies, doing, deadline_s)
        before, last = last, time.perf_counter()
        ceremony.seconds[doing] = last - before
        return answers

    one._waiting.gather = noted  # type: ignore[method-assign]
    yield
    one._waiting.gather = gather  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--silos", type=int, default=64)
    parser.add_argument("--per-process", type=int, default=8, help="0: a process each")
    parser.add_argument("--reference", type=int, default=8, help="silos with a process each; or 0")
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    result: dict[str, Any] = {"cores": os.cpu_count()}
    if given.reference:
        result["reference"] = arm(given.reference, None, given.rounds)
        console.print(result["reference"])
    result["many"] = many = arm(given.silos, given.per_process or None, given.rounds)
    console.print(many)
    if given.reference:
        for name in ("start", "processor"):
            one, each = (result[of][f"{name}_s"] / result[of]["silos"] for of in _ARMS)
            result[f"{name}_ratio"] = each / one
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
