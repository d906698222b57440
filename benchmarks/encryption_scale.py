"""Stream a sum of 100 million values through real processes; measure cost by silos and size.

Three silo processes and one aggregator process are connected by pipes. A silo makes its update,
sends it part by part and receives the total part by part; the aggregator holds one sum. Peak memory
is each process's own (VmHWM), including interpreter and libraries.
"""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import os
import tempfile
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from randomgen import AESCounter
from rich.console import Console

from blindsum.he.cipher import CkksAdder, CkksCipher, body_bytes, generate_secret_key
from blindsum.he.exchange import Exchange
from blindsum.he.identity import Identity
from blindsum.he.keys import KeyCeremony, Keys
from blindsum.he.masks import PairSeeds, hash_of
from blindsum.he.packing import quantise
from blindsum.he.parameters import Parameters
from blindsum.he.upload import Sum, decrypt_parts, encrypt_parts
from blindsum.he.wire import read_upload

VALUES = 100_000_000
BOUND = 0.1
PASSES = 5
CHECKED = 50_000  # values whose digits every silo reports, to be summed in the clear
console = Console(highlight=False, width=110)


def scale(plot: Path | None) -> dict[str, Any]:
    """Measure all figures of `--scale`."""
    result = {"streamed": streamed(VALUES), "linear": linear()}
    for name, figures in result["streamed"].items():
        console.print(
            f"{name}: {figures:,.2f}" if isinstance(figures, float) else f"{name}: {figures}"
        )
    for name, line in result["linear"].items():
        console.print(f"{name}: R2 of a straight line {line['r2']:.4f}")
    if plot:
        draw(result["linear"], plot)
    return result


# -- memory --------------------------------------------------------------------------------


def streamed(values: int) -> dict[str, Any]:
    """Run one exchange of three silos.

    Returns:
        Peak memory, also relative to one encrypted total and to the float32 vector.
    """
    roster = ("alder", "birch", "cedar")
    parameters = Parameters.derive(3, 12)
    exchange = Exchange(
        run="scale",
        round=1,
        attempt=1,
        purpose="update",
        roster=roster,
        values=values,
        range=BOUND,
        parameters=parameters,
    )
    fork = multiprocessing.get_context("fork")  # keys reach the silos without being pickled
    with tempfile.TemporaryDirectory() as folder:
        own = {name: Identity(Path(folder) / name) for name in roster}
        keys = dict(zip(roster, agree(list(own.items())), strict=True))
        public = {name: one.public for name, one in own.items()}
        gc.collect()
        started = time.perf_counter()
        uplinks = {name: fork.Pipe() for name in roster}
        reports = {name: fork.Pipe(duplex=False) for name in (*roster, "aggregator")}
        processes = [
            fork.Process(
                target=silo,
                args=(i, exchange, name, keys[name], own[name], uplinks[name][0], reports[name][1]),
            )
            for i, name in enumerate(roster)
        ]
        ends = [end for _, end in uplinks.values()]
        processes.append(
            fork.Process(target=aggregator, args=(exchange, public, ends, reports["aggregator"][1]))
        )
        for process in processes:
            process.start()
        told = {name: report.recv() for name, (report, _) in reports.items()}
        for process in processes:
            process.join()
        seconds = time.perf_counter() - started
    silos = [told[name] for name in roster]
    total = np.sum([one["digits"] for one in silos], axis=0)
    unit = BOUND / parameters.limit / 3
    exact = (
        all(np.array_equal(one["mean"], (total * unit).astype(np.float32)) for one in silos)
        and len({one["digest"] for one in silos}) == 1
    )
    if not exact:
        raise SystemExit("the streamed sum differs from the sum of the integers")
    encrypted = body_bytes(parameters, exchange.reals)[1] / 2**20
    vector = 4 * values / 2**20
    peak = max(one["peak_mb"] for one in silos)
    return {
        "values": values,
        "seconds": seconds,
        "encrypted_total_mb": encrypted,
        "float32_mb": vector,
        "aggregator_peak_mb": told["aggregator"]["peak_mb"],
        "aggregator_ratio": told["aggregator"]["peak_mb"] / encrypted,
        "silo_peak_mb": peak,
        "silo_ratio": peak / vector,
    }


def agree(own: list[tuple[str, Identity]]) -> list[Keys]:
    """Run a key ceremony in one process."""
    parties = [KeyCeremony("scale", "terms", name, identity, {}) for name, identity in own]
    cards = tuple(party.introduction for party in parties)
    contributions = tuple(party.contribute(cards) for party in parties)
    agreements = tuple(party.agree(contributions) for party in parties)
    return [party.finish(agreements) for party in parties]


def silo(
    seed: int,
    exchange: Exchange,
    name: str,
    keys: Keys,
    identity: Identity,
    up: Connection,
    report: Connection,
) -> None:
    """Run one silo's process: send its update, receive the mean."""
    parameters = exchange.parameters
    update = np.random.default_rng(seed).standard_normal(exchange.values, np.float32)
    update *= 0.02
    random = np.random.Generator(AESCounter())
    shown = np.empty(CHECKED, np.int64)

    def digits(where: slice) -> np.ndarray[Any, Any]:
        integers = quantise(update[where], BOUND, parameters, random).integers
        if where.start == 0:
            shown[:] = integers[:CHECKED]
        return integers

    cipher = CkksCipher(parameters, keys.secret)
    masks = keys.seeds.open(exchange, keys.hashing)
    for frame in encrypt_parts(exchange, name, digits, no_counts, cipher, masks, identity):
        up.send_bytes(frame)
    frames = (pa.py_buffer(up.recv_bytes()) for _ in exchange.parts)
    mean = np.empty(exchange.values, np.float32)
    unit = BOUND / parameters.limit / len(exchange.roster)
    hashing = hash_of(exchange, keys.hashing)
    for where, summed in decrypt_parts(exchange, frames, cipher, hashing, no_counts()):
        np.multiply(summed, unit, out=mean[where], casting="unsafe")
    digest = hashlib.sha256(mean).hexdigest()
    report.send({"digits": shown, "mean": mean[:CHECKED], "digest": digest, "peak_mb": peak()})


def aggregator(
    exchange: Exchange, public: dict[str, bytes], ends: list[Connection], report: Connection
) -> None:
    """Run the aggregator's process: add all uploads and send every silo the same total."""
    total = Sum(exchange)
    missing = len(ends) * len(exchange.parts)
    while missing:
        for end in wait(ends):
            total.add(read_upload(pa.py_buffer(end.recv_bytes()), exchange, public))
            missing -= 1
    for part in exchange.parts:
        frame = total.frame(part)
        for end in ends:
            end.send_bytes(frame)
    report.send({"peak_mb": peak()})


def no_counts() -> np.ndarray[Any, Any]:
    return np.zeros(0, np.int64)


def peak() -> float:
    """Return this process's peak resident memory, MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


# -- cost against silos and size -----------------------------------------------------------


def linear() -> dict[str, Any]:
    """Measure CPU seconds against the number of silos (two digits per real throughout) and size.

    Each figure is the minimum of PASSES interleaved passes, which other load disturbs least.
    """
    counts = (3, 8, 16, 24, 32, 48, 64)
    sizes = (262_144, 1_048_576, 2_097_152, 3_145_728, 4_194_304, 8_388_608)
    with tempfile.TemporaryDirectory() as folder:
        identity = Identity(Path(folder) / "identity.pem")
        by_silos = [[cost(262_144, n, identity) for n in counts] for _ in range(PASSES)]
        by_size = [[cost(values, 3, identity) for values in sizes] for _ in range(PASSES)]
    lines: dict[str, Any] = {}
    for who in ("silo", "aggregator"):
        for against, x, passes in (("silos", counts, by_silos), ("values", sizes, by_size)):
            least = [min(one[who] for one in point) for point in zip(*passes, strict=True)]
            lines[f"{who}_against_{against}"] = line(x, least)
    return lines


def cost(values: int, silos: int, identity: Identity) -> dict[str, float]:
    """Return CPU seconds of one silo (upload and total) and of the aggregator (all uploads).

    The aggregator adds one silo's upload once per silo, which costs the same as different uploads.
    The silo decrypts a total of only its own upload, which costs the same as a real total.
    """
    parameters = Parameters.derive(silos, 12, digits=2)
    roster = tuple(f"silo{i:02}" for i in range(silos))
    exchange = Exchange(
        run="linear",
        round=1,
        attempt=1,
        purpose="update",
        roster=roster,
        values=values,
        range=BOUND,
        parameters=parameters,
    )
    update = np.random.default_rng(0).normal(0, 0.02, values).astype(np.float32)
    random = np.random.Generator(AESCounter())
    cipher = CkksCipher(parameters, generate_secret_key())
    own = PairSeeds(roster[0], {name: os.urandom(32) for name in roster[1:]})
    started = time.process_time()
    masks = own.open(exchange)
    frames = list(
        encrypt_parts(
            exchange,
            roster[0],
            lambda where: quantise(update[where], BOUND, parameters, random).integers,
            no_counts,
            cipher,
            masks,
            identity,
        )
    )
    sent = time.process_time() - started
    public = {roster[0]: identity.public}
    adder = CkksAdder(parameters)
    started = time.process_time()
    for _ in range(silos):
        add(frames, exchange, public, adder)
    added = time.process_time() - started
    adder = CkksAdder(parameters)
    add(frames, exchange, public, adder)
    sums = [(adder.total(part.first, part.reals), part.reals) for part in exchange.parts]
    started = time.process_time()
    for body, reals in sums:
        cipher.decrypt(body, reals)
    return {"silo": sent + time.process_time() - started, "aggregator": added}


def add(
    frames: list[pa.Buffer], exchange: Exchange, public: dict[str, bytes], adder: CkksAdder
) -> None:
    for frame in frames:
        upload = read_upload(frame, exchange, public)
        adder.add(upload.part.first, upload.body, upload.part.reals)


def line(x: tuple[int, ...], y: list[float]) -> dict[str, Any]:
    """Fit a straight line to the points; return it with its R2."""
    slope, offset = np.polyfit(x, y, 1)
    rest = np.asarray(y) - (slope * np.asarray(x) + offset)
    return {
        "x": list(x),
        "cpu_s": y,
        "slope_s": float(slope),
        "offset_s": float(offset),
        "r2": float(1 - (rest**2).sum() / ((y - np.mean(y)) ** 2).sum()),
    }


def draw(lines: dict[str, Any], path: Path) -> None:
    """Draw the points and their straight lines in two panels."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    labels = {"silos": "silos (262,144 values)", "values": "million values (3 silos)"}
    for axis, against in zip(axes, labels, strict=True):
        unit = 1e6 if against == "values" else 1
        for who, colour in (("silo", "#1b6ca8"), ("aggregator", "#c0392b")):
            one = lines[f"{who}_against_{against}"]
            x = np.asarray(one["x"])
            axis.plot(x / unit, one["cpu_s"], "o", color=colour, label=f"{who}, R² {one['r2']:.4f}")
            axis.plot(x / unit, one["slope_s"] * x + one["offset_s"], "-", color=colour, lw=1)
        axis.set_xlabel(labels[against])
        axis.set_ylabel("CPU seconds")
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle("cost of one encrypted sum, 12 bits, two digits per real", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
