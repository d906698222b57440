"""Measure the cost of an encrypted sum: Blindsum's `he` against TenSEAL's own encrypted vectors.

    python benchmarks/encryption.py --json build/encryption.json
    python benchmarks/encryption.py --scale --json build/scale.json --plot build/scale.svg

Arms, each in a separate process on one core, in CPU time per value:

    blindsum_b12, blindsum_b19   masked, exact, signed uploads of 12 and 19 bits per value (16 bits
                                 where 19 do not fit), as a silo makes and an aggregator reads them
    ckks_vector                  `ts.ckks_vector`, N = 8192, primes of 60, 40 and 40 bits, scale
                                 2^40, secret-key encryption: neither masked nor signed

`encrypt_ns` covers everything from quantising to a serialised, signed frame with masks; `load_ns`
checking a frame and loading its ciphertexts; `add_ns` adding them; `decrypt_ns` everything from
loading the total to floats. `verify_ns` is the part of `encrypt_ns` that hashes the upload,
`verify_total_ns` the part of `decrypt_ns` that hashes the total, and `verify_share` is `verify_ns`
/ `encrypt_ns`; an aggregator adds two words per upload.

Every sum is compared with the sum of the integers, bit for bit. A run's figures are medians over
its silos' uploads and over three totals, without the first of each; each arm runs three times,
taking turns with the others, and the median of the runs counts (64 silos of 4,194,304 values run
once). `stages` splits the figures further; `ceremony_ms` is one silo's side of the key ceremony.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import numpy as np
import tenseal as ts
from randomgen import AESCounter
from rich.console import Console
from rich.table import Table

from blindsum.he.cipher import CkksCipher, generate_secret_key
from blindsum.he.exchange import Exchange
from blindsum.he.identity import Identity
from blindsum.he.keys import KeyCeremony
from blindsum.he.linear_hash import HashKey
from blindsum.he.masks import PairSeeds, hash_of
from blindsum.he.packing import Integers, quantise
from blindsum.he.parameters import Parameters
from blindsum.he.upload import Sum, decrypt_parts, encrypt_parts
from blindsum.he.wire import read_upload

SIZES = (262_144, 4_194_304)
SILOS = (3, 8, 64)
BOUND = 0.1
REPEATS = 3
RUNS = 3
LARGE = 50_000_000  # with more values than this in all uploads together, an arm runs once


class Clock:
    """CPU seconds by stage."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.process_time()
        yield
        self.spent[stage] = self.spent.get(stage, 0.0) + time.process_time() - started

    def take(self) -> dict[str, float]:
        spent, self.spent = self.spent, {}
        return spent


class Timed:
    """Times one method of an object and passes everything else through."""

    def __init__(self, inner: Any, method: str, clock: Clock, stage: str) -> None:
        self._inner, self._method = inner, method
        timed = getattr(inner, method)

        def call(*arguments: Any) -> Any:
            with clock(stage):
                return timed(*arguments)

        setattr(self, method, call)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def no_counts() -> Integers:
    return np.zeros(0, np.int64)


def seeds(roster: tuple[str, ...]) -> list[PairSeeds]:
    """Return all silos' mask seeds, as a key ceremony would make them."""
    pairs = {frozenset((a, b)): os.urandom(32) for a in roster for b in roster if a < b}
    return [
        PairSeeds(name, {o: pairs[frozenset((name, o))] for o in roster if o != name})
        for name in roster
    ]


def blindsum(values: int, silos: int, bits: int, identity: Identity) -> dict[str, Any]:
    """Measure one whole exchange with every silo's upload."""
    parameters = Parameters.derive(silos, bits)
    roster = tuple(f"silo{i:02}" for i in range(silos))
    exchange = Exchange(
        run="bench",
        round=1,
        attempt=1,
        purpose="update",
        roster=roster,
        values=values,
        range=BOUND,
        parameters=parameters,
    )
    cipher, total = CkksCipher(parameters, generate_secret_key()), Sum(exchange)
    clock, uploads, expected = Clock(), [], np.zeros(values, np.int64)
    adder: Any = total.adder
    adder._evaluator = Timed(adder._evaluator, "add_inplace", clock, "add")
    key = HashKey(os.urandom(32))  # normally from the key ceremony
    public = {name: identity.public for name in roster}
    up_bytes = 0
    for index, (name, own) in enumerate(zip(roster, seeds(roster), strict=True)):
        update = np.random.default_rng(index).normal(0, 0.02, values).astype(np.float32)
        random = np.random.Generator(AESCounter())

        def digits(where: slice, update: Any = update, random: Any = random) -> Integers:
            with clock("quantise"):
                integers = quantise(update[where], BOUND, parameters, random).integers
            with clock("aside"):
                expected[where] += integers
            return integers

        started = time.process_time()
        opened: Any = own.open(exchange, key)
        with clock("aside"), clock("opening"):  # what hashing adds to opening
            hash_of(exchange, key)
        opened._hashing = Timed(opened._hashing, "add", clock, "verify")
        masks: Any = Timed(opened, "apply", clock, "mask")
        sealing: Any = Timed(cipher, "encrypt", clock, "encrypt")
        up_bytes = 0
        frames = encrypt_parts(exchange, name, digits, no_counts, sealing, masks, identity)
        for frame in frames:
            up_bytes += frame.size
            with clock("aside"), clock("load"):
                total.add(read_upload(frame, exchange, public))
        whole = time.process_time() - started
        spent = clock.take()
        spent["encrypt"] -= spent["mask"]  # masking happens inside, and includes hashing
        spent["mask"] -= spent["verify"]
        spent["verify"] += spent.pop("opening")
        spent["load"] -= spent.get("add", 0.0)
        spent["whole"] = whole - spent.pop("aside")
        spent["pack, sign"] = spent["whole"] - sum(
            spent[s] for s in ("quantise", "mask", "encrypt", "verify")
        )
        uploads.append(spent)
    return _totals(exchange, cipher, total, key, clock, uploads, expected) | {
        "up_bytes": up_bytes / values,
        "bits": bits,
        "digits": parameters.digits,
    }


def _totals(
    exchange: Exchange,
    cipher: CkksCipher,
    total: Sum,
    key: HashKey,
    clock: Clock,
    uploads: list[dict[str, float]],
    expected: Integers,
) -> dict[str, Any]:
    values, parameters = exchange.values, exchange.parameters
    with clock("total"):
        frames = [total.frame(part) for part in exchange.parts]
    made = clock.take()
    decrypted, opening = [], Timed(cipher, "decrypt", clock, "decrypt")
    unit = BOUND / parameters.limit / len(exchange.roster)
    for _ in range(REPEATS + 1):
        result = np.empty(values, np.float32)
        started = time.process_time()
        with clock("verify"):
            hashing: Any = Timed(hash_of(exchange, key), "add", clock, "verify")
        for where, digits in decrypt_parts(exchange, frames, opening, hashing, no_counts()):
            np.multiply(digits, unit, out=result[where], casting="unsafe")
            with clock("aside"):
                if (digits != expected[where]).any():
                    raise SystemExit("a decoded sum differs from the sum of the integers")
        spent = clock.take()
        spent["whole"] = time.process_time() - started - spent.pop("aside")
        spent["unpack"] = spent["whole"] - spent["decrypt"] - spent["verify"]
        decrypted.append(spent)
    uploads, decrypted = uploads[1:], decrypted[1:]  # the first of each warms the process up
    per_value = 1e9 / values

    def median(runs: list[dict[str, float]], stage: str) -> float:
        return statistics.median(one[stage] for one in runs) * per_value

    stages = {
        s: median(uploads, s) for s in ("quantise", "mask", "encrypt", "verify", "pack, sign")
    }
    stages |= {"total": made["total"] * per_value}
    stages |= {stage: median(decrypted, stage) for stage in ("decrypt", "unpack")}
    return {
        "encrypt_ns": median(uploads, "whole"),
        "load_ns": median(uploads, "load"),
        "add_ns": median(uploads, "add"),
        "decrypt_ns": median(decrypted, "whole"),
        "verify_ns": median(uploads, "verify"),
        "verify_total_ns": median(decrypted, "verify"),
        "verify_share": median(uploads, "verify") / median(uploads, "whole"),
        "down_bytes": sum(frame.size for frame in frames) / values,
        "stages": stages,
    }


def ckks_vector(values: int) -> dict[str, Any]:
    """Measure the reference: TenSEAL's own vectors, as other platforms use them."""
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        8192,
        -1,
        [60, 40, 40],
        encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC,
        n_threads=1,
    )
    context.global_scale = 2**40
    clock, runs, total, content = Clock(), [], None, b""
    for index in range(REPEATS + 1):
        update = np.random.default_rng(index).normal(0, 0.02, values)
        with clock("encrypt"):
            content = ts.ckks_vector(context, update).serialize()
        with clock("load"):
            loaded = ts.ckks_vector_from(context, content)
        if total is not None:
            with clock("add"):
                total += loaded
        total = loaded if total is None else total
        runs.append(clock.take())
    down = total.serialize()
    for one in runs[1:]:
        with clock("decrypt"):
            np.array(ts.ckks_vector_from(context, down).decrypt(), np.float32)
        one |= clock.take()
    figures = {
        f"{stage}_ns": statistics.median(one[stage] for one in runs[1:]) / values * 1e9
        for stage in ("encrypt", "load", "add", "decrypt")
    }
    return figures | {"up_bytes": len(content) / values, "down_bytes": len(down) / values}


def apart(arm: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Return an arm's figures and its peak memory, measured in a separate process.

    The peak covers silos and aggregator together, without interpreter and libraries.
    """
    fork = multiprocessing.get_context("fork")
    receiving, sending = fork.Pipe(duplex=False)

    def run() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # TenSEAL's C++ code warns of long vectors
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = memory("VmRSS")
        sending.send(arm(*arguments) | {"peak_mb": memory("VmHWM") - before})

    process = fork.Process(target=run)
    process.start()
    sending.close()
    try:
        figures: dict[str, Any] = receiving.recv()
    except EOFError:
        raise SystemExit("an arm ended without figures") from None
    process.join()
    return figures


def memory(field: str) -> float:
    """Return this process's memory in MB: VmRSS is current, VmHWM is the peak."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median over runs, figure by figure."""
    return {
        key: medians([run[key] for run in runs])
        if isinstance(value, dict)
        else statistics.median(run[key] for run in runs)
        for key, value in runs[0].items()
    }


def ceremony(silos: int, folder: Path) -> float:
    """Return the CPU milliseconds of one silo's side of a key ceremony."""
    roster = [f"silo{i:02}" for i in range(silos)]
    own = {name: Identity(folder / name) for name in roster}
    started = time.process_time()
    parties = [KeyCeremony("bench", "terms", name, own[name], {}) for name in roster]
    cards = tuple(party.introduction for party in parties)
    contributions = tuple(party.contribute(cards) for party in parties)
    agreements = tuple(party.agree(contributions) for party in parties)
    for party in parties:
        party.finish(agreements)
    return (time.process_time() - started) / silos * 1e3


def measure(sizes: tuple[int, ...], rosters: tuple[int, ...]) -> dict[str, Any]:
    """Measure all arms at all sizes and compare them."""
    result: dict[str, Any] = {"sizes": {}, "ceremony_ms": {}}
    with tempfile.TemporaryDirectory() as folder:
        identity = Identity(Path(folder) / "identity.pem")
        for silos in rosters:
            result["ceremony_ms"][str(silos)] = ceremony(silos, Path(folder))
        for values in sizes:
            cells = result["sizes"][str(values)] = {}
            for silos in rosters:
                fine = 16 if silos > 32 else 19
                repeats = RUNS if values * silos <= LARGE else 1
                arms = {
                    "blindsum_b12": (blindsum, values, silos, 12, identity),
                    "blindsum_b19": (blindsum, values, silos, fine, identity),
                    "ckks_vector": (ckks_vector, values),
                }
                runs = [{name: apart(*arm) for name, arm in arms.items()} for _ in range(repeats)]
                cell = medians(runs)
                compare(cell)
                cells[str(silos)] = cell
                show(values, silos, cell)
    return result


def compare(cell: dict[str, Any]) -> None:
    """Add how many times cheaper than the reference an arm is, for a silo and an aggregator."""
    reference = cell["ckks_vector"]
    for arm in ("blindsum_b12", "blindsum_b19"):
        for who, paths in (("silo", ("encrypt", "decrypt")), ("aggregator", ("load", "add"))):
            ours, theirs = (sum(f[f"{p}_ns"] for p in paths) for f in (cell[arm], reference))
            cell[arm][f"{who}_times_cheaper"] = theirs / ours


def show(values: int, silos: int, cell: dict[str, Any]) -> None:
    """Print one cell stage by stage, to show where time can be saved."""
    console = Console(highlight=False, width=110)
    table = Table(box=None, title=f"{values:,} values, {silos} silos", title_justify="left")
    columns = (
        "arm",
        "encrypt",
        "decrypt",
        "load",
        "add",
        "up B",
        "down B",
        "peak MB",
        "silo x",
        "aggregator x",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for arm, figures in cell.items():
        table.add_row(
            arm,
            *(f"{figures[f'{stage}_ns']:.1f}" for stage in ("encrypt", "decrypt", "load", "add")),
            f"{figures['up_bytes']:.2f}",
            f"{figures['down_bytes']:.2f}",
            f"{figures.get('peak_mb', 0):.0f}",
            *(f"{figures.get(f'{who}_times_cheaper', 1):.1f}" for who in ("silo", "aggregator")),
        )
    console.print(table)
    for arm in ("blindsum_b12", "blindsum_b19"):
        stages = "  ".join(f"{k} {v:.1f}" for k, v in cell[arm]["stages"].items())
        console.print(f"  {arm}: hashing takes {cell[arm]['verify_share']:.1%} of encrypting")
        console.print(f"  {arm} ({cell[arm]['bits']} bits, {cell[arm]['digits']} digits): {stages}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument(
        "--scale",
        action="store_true",
        help="measure memory at 100 million values, and cost against silos and size",
    )
    parser.add_argument("--plot", type=Path, help="with --scale: picture to write")
    parser.add_argument("--values", type=int, nargs="*", default=SIZES, help="sizes to measure")
    parser.add_argument("--silos", type=int, nargs="*", default=SILOS, help="rosters to measure")
    options = parser.parse_args()
    if options.scale:
        from encryption_scale import scale

        result = scale(options.plot)
    else:
        result = measure(tuple(options.values), tuple(options.silos))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
