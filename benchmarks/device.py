"""Measure private training on a GPU: one short script for the day a machine with one is at hand.

    python benchmarks/device.py --json build/device.json

For a CNN, a ResNet, a transformer and the same with adapters (`dp_models`), on the GPU:

    sgd            forward, backward, SGD
    blindsum       clipping by book-keeping, noise from AES in counter mode, SGD
    without noise  the same with a noise multiplier of 0: what is left is the cost of clipping

`step_ms` is the median wall-clock time of a step, with the device's work waited for. `noise_ms`
splits the noise: to draw it on the processor and to move it. `peak_mb` is the device's peak memory.
`integers` compares a round of a silo on the GPU with the same round on the processor: the share of
the integers to send that differ, and by how many units at most. Rounding is at random with the same
draws, so only sums near the edge of two integers may differ, by one unit.

Without a GPU, or with `--device cpu`, both sides run on the processor, at a sixteenth of the batch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dp_models import CLASSES, TOKENS, VOCABULARY, Cnn, Lora, Transformer, resnet
from rich.console import Console
from rich.table import Table
from torch import nn

from blindsum.he.packing import quantise
from blindsum.he.parameters import Parameters
from blindsum.platform.data.device import CPU, device_for
from blindsum.platform.data.records import Fold
from blindsum.platform.job.training_section import TrainingSection
from blindsum.platform.privacy.gaussian_noise import add_gaussian
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.privacy.randomness import cryptographic_generator, seeded_generator
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.local_optimizer import LocalOptimizer
from blindsum.platform.training.models import get_parameters

RATE, RANGE = 0.05, 0.25
MODELS: dict[str, Callable[[], nn.Module]] = {
    "cnn": Cnn,
    "resnet": resnet,
    "transformer": Transformer,
    "lora": Lora,
}
BATCHES = {"cnn": 2048, "resnet": 256, "transformer": 256, "lora": 256}


def records(kind: str, count: int) -> Fold:
    if kind == "cnn":
        features = torch.rand(count, 784)
    elif kind == "resnet":
        features = torch.rand(count, 3 * 32 * 32)
    else:
        features = torch.randint(0, VOCABULARY, (count, TOKENS)).float()
    return Fold(features.numpy(), torch.randint(0, CLASSES, (count,)).numpy())


def trainer(net: nn.Module, fold: Fold, noise: float, random: np.random.Generator) -> LocalTrainer:
    plan = PrivacyPlan(
        epsilon=1.0,
        delta=1e-5,
        sampling_rate=1.0,
        noise_multiplier=noise,
        clip_norm=1.0,
        steps_per_round=1,
        rounds=1,
        rounds_within_budget=1,
        epsilon_planned=1.0,
    )
    return LocalTrainer(net, fold, section(len(fold)), plan, random)


def section(batch: int) -> TrainingSection:
    return TrainingSection(
        rounds=1, local_steps=1, sampling_rate=1.0, expected_batch_size=batch, learning_rate=RATE
    )


def batch(kind: str, device: torch.device) -> int:
    """Return the records of a batch; on a processor fewer."""
    return BATCHES[kind] // (1 if device.type == "cuda" else 16)


def steps(kind: str, device: torch.device) -> dict[str, Callable[[], object]]:
    """Return a step of each arm on a fixed batch."""
    fold = records(kind, batch(kind, device))
    x, y = (one.to(device) for one in next(fold.batches()))
    made: dict[str, Callable[[], object]] = {}
    for arm, noise in (("blindsum", 1.0), ("without noise", 0.0)):
        torch.manual_seed(0)
        net = MODELS[kind]().to(device).train()
        own = LocalOptimizer(section(len(fold)), trainable(net), RATE)
        one = trainer(net, fold, noise, cryptographic_generator())
        made[arm] = lambda own=own, one=one: own.step(one._noisy_sum())  # as `train` in a round
    torch.manual_seed(0)
    plain = MODELS[kind]().to(device).train()
    sgd, loss = torch.optim.SGD(trainable(plain), RATE), nn.CrossEntropyLoss()
    made["sgd"] = lambda: (sgd.zero_grad(), loss(plain(x), y).backward(), sgd.step())
    return made


def trainable(net: nn.Module) -> list[nn.Parameter]:
    return [p for p in net.parameters() if p.requires_grad]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured(kind: str, device: torch.device, count: int) -> dict[str, Any]:
    """Return times and memory of each arm; arms take turns."""
    taken: dict[str, list[float]] = {}
    held: dict[str, float] = {}
    made = steps(kind, device)
    for number in range(count + 3):
        for arm, one in made.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            started = time.perf_counter()
            one()
            wait(device)
            taken.setdefault(arm, []).append(time.perf_counter() - started)
            if device.type == "cuda" and number:
                held[arm] = torch.cuda.max_memory_allocated(device) / 1e6
    times = {arm: 1e3 * statistics.median(one[3:]) for arm, one in taken.items()}
    return {"step_ms": times, "peak_mb": held, "noise_ms": noise(kind, device, count)}


def noise(kind: str, device: torch.device, count: int) -> dict[str, float]:
    size = sum(p.numel() for p in trainable(MODELS[kind]()))
    random, drawn, moved = cryptographic_generator(), [], []
    for _ in range(count):
        values = torch.zeros(size)
        started = time.perf_counter()
        add_gaussian(values, 1.0, random)
        between = time.perf_counter()
        values.to(device)
        wait(device)
        drawn.append(between - started)
        moved.append(time.perf_counter() - between)
    return {"draw": 1e3 * statistics.median(drawn), "move": 1e3 * statistics.median(moved)}


def integers(kind: str, device: torch.device) -> dict[str, float]:
    """Compare what a silo sends from the device with what it sends from the processor."""
    parameters = Parameters.derive(3, None)
    sent = []
    for where in (CPU, device):
        torch.manual_seed(0)
        net = MODELS[kind]()
        fold, start = records(kind, 64), get_parameters(net)
        one = trainer(net.to(where), fold, 1.0, seeded_generator(1, "noise"))
        values = one.train(start).values
        sent.append(quantise(values, RANGE, parameters, seeded_generator(2, "rounding")).integers)
    apart = np.abs(sent[0] - sent[1])
    return {"of": apart.size, "differ": float((apart > 0).mean()), "most": int(apart.max())}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--steps", type=int, default=30, help="steps to take medians over")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--device", choices=("cuda", "cpu"))
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    there = given.device != "cpu" and torch.cuda.is_available()
    device = device_for(1.0 if there else 0.0)
    name = torch.cuda.get_device_name(device) if there else "the processor: there is no GPU"
    table = Table(title=f"one step on {name}", box=None)
    for heading in ("model", "arm", "ms", "times SGD", "peak MB", "integers that differ"):
        table.add_column(heading, justify="right")
    sizes = {kind: batch(kind, device) for kind in given.models}
    found: dict[str, Any] = {"device": name, "batch": sizes, "models": {}}
    for kind in given.models:
        one = measured(kind, device, given.steps) | {"integers": integers(kind, device)}
        found["models"][kind] = one
        times, held, same = one["step_ms"], one["peak_mb"], one["integers"]
        for arm, ms in times.items():
            table.add_row(
                kind,
                arm,
                f"{ms:.2f}",
                f"{ms / times['sgd']:.2f}",
                f"{held[arm]:.0f}" if arm in held else "-",
                f"{same['differ']:.2%}, by at most {same['most']}" if arm == "blindsum" else "",
            )
    Console().print(table)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
