"""Measure the cost of a differentially private training step against plain SGD and Opacus.

    python benchmarks/dp_step.py --json build/dp_step.json

Six models, one thread, all arms in the same run, taking turns step by step. An MLP and a small CNN
at a batch of 256; ResNet-18 with group normalisation at half its width, a transformer of six layers
over 64 tokens, and the same with frozen layers and adapters of rank 8, at a batch of 32; a D-MPNN
with chemprop's defaults on graphs of 10 to 45 atoms, at chemprop's batch of 64.

    sgd            forward, backward, SGD
    blindsum       clipping by book-keeping, noise from AES in counter mode, SGD
    opacus_hooks   Opacus's default: a gradient for every record (not of the largest models)
    opacus_ghost   Opacus's ghost clipping: two backward passes (not of the D-MPNN, which calls one
                   layer twice)

`step_ms` is the median CPU time of a step. `peak_mb` is the peak memory of five steps above the
memory held before the first, measured in a separate process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from dp_models import (
    CLASSES,
    TOKENS,
    VOCABULARY,
    Cnn,
    Lora,
    Transformer,
    messages,
    molecules,
    resnet,
)
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from rich.console import Console
from rich.table import Table
from torch import nn

from blindsum.platform.data.records import Fold
from blindsum.platform.job.training_section import TrainingSection
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.privacy.randomness import cryptographic_generator
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.local_optimizer import LocalOptimizer

RATE = 0.05
ARMS = ("sgd", "blindsum", "opacus_hooks", "opacus_ghost")
BATCHES = {"mlp": 256, "cnn": 256, "resnet": 32, "transformer": 32, "lora": 32, "dmpnn": 64}
HOOKED = ("mlp", "cnn", "dmpnn")
REPEATED = ("dmpnn",)
"""Models that call a layer more than once, which Opacus's ghost clipping does not support."""

Step = Callable[[], object]


def model(kind: str, arm: str) -> nn.Module:
    if kind == "cnn":
        return Cnn()
    if kind == "mlp":
        return nn.Sequential(
            nn.Linear(2048, 512), nn.ReLU(), nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 12)
        )
    if kind == "resnet":
        return resnet()
    if kind == "dmpnn":
        return messages()
    return Lora() if kind == "lora" else Transformer(opacus=arm == "opacus_ghost")


def made_up(kind: str) -> torch.Tensor:
    """Return a batch of records, float32 [batch, features]."""
    size = BATCHES[kind]
    if kind == "mlp":
        return (torch.rand(size, 2048) < 0.03).float()
    if kind in ("cnn", "resnet"):
        return torch.rand(size, 784 if kind == "cnn" else 3 * 32 * 32)
    if kind == "dmpnn":
        return molecules(size)
    return torch.randint(0, VOCABULARY, (size, TOKENS)).float()


def arms(kind: str) -> list[str]:
    without = {"opacus_hooks"} if kind not in HOOKED else set()
    without |= {"opacus_ghost"} if kind in REPEATED else set()
    return [arm for arm in ARMS if arm not in without]


def step(kind: str, arm: str) -> Step:
    """Return a function that takes one training step of an arm on a fixed batch."""
    torch.manual_seed(0)
    net, batch = model(kind, arm), BATCHES[kind]
    x, y = made_up(kind), torch.randint(0, CLASSES, (batch,))
    if arm == "blindsum":
        plan = PrivacyPlan(
            epsilon=1.0,
            delta=1e-5,
            sampling_rate=1.0,
            noise_multiplier=1.0,
            clip_norm=1.0,
            steps_per_round=1,
            rounds=1,
            rounds_within_budget=1,
            epsilon_planned=1.0,
        )
        section = TrainingSection(
            rounds=1,
            local_steps=1,
            sampling_rate=1.0,
            expected_batch_size=batch,
            learning_rate=RATE,
        )
        fold = Fold(x.numpy(), y.numpy())
        trainer = LocalTrainer(net, fold, section, plan, cryptographic_generator())
        net.train()
        own = LocalOptimizer(section, [p for p in net.parameters() if p.requires_grad], RATE)
        return lambda: own.step(trainer._noisy_sum())  # as `train` does in a round
    sgd = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], RATE)
    loss = nn.CrossEntropyLoss()
    if arm == "sgd":
        return lambda: (sgd.zero_grad(), loss(net(x), y).backward(), sgd.step())
    settings = {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "expected_batch_size": batch}
    if arm == "opacus_hooks":
        hooked = GradSampleModule(net)
        optimizer = DPOptimizer(sgd, **settings)
        return lambda: (optimizer.zero_grad(), loss(hooked(x), y).backward(), optimizer.step())
    ghost = GradSampleModuleFastGradientClipping(net, max_grad_norm=1.0)
    fast = DPOptimizerFastGradientClipping(sgd, **settings)
    twice = DPLossFastGradientClipping(ghost, fast, loss)
    return lambda: (fast.zero_grad(), twice(ghost(x), y).backward(), fast.step())


def times(kind: str, steps: int) -> dict[str, float]:
    """Return the median CPU milliseconds of a step for each arm; arms take turns."""
    made = {arm: step(kind, arm) for arm in arms(kind)}
    taken: dict[str, list[float]] = {arm: [] for arm in made}
    for number in range(steps + 3):
        for arm, one in made.items():
            if arm == "opacus_hooks" and number >= 8:
                continue  # slow, and its median is stable by then
            started = time.process_time()
            one()
            taken[arm].append(time.process_time() - started)
    return {arm: 1e3 * statistics.median(one[3:]) for arm, one in taken.items()}


def peak(kind: str, arm: str, into: multiprocessing.Queue) -> None:
    """Put into a queue the peak resident memory of five steps, MB above that before the first."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    one = step(kind, arm)
    process, done, highest = psutil.Process(), threading.Event(), [0]
    before = process.memory_info().rss

    def watch() -> None:
        while not done.is_set():
            highest[0] = max(highest[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(5):
        one()
    done.set()
    watcher.join()
    into.put((highest[0] - before) / 1e6)


def peaks(kind: str) -> dict[str, float]:
    context, found = multiprocessing.get_context("spawn"), {}
    for arm in arms(kind):
        queue = context.Queue()
        process = context.Process(target=peak, args=(kind, arm, queue))
        process.start()
        found[arm] = queue.get()
        process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--steps", type=int, default=40, help="steps to take medians over")
    parser.add_argument("--models", nargs="+", choices=BATCHES, default=list(BATCHES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: dict[str, dict[str, dict[str, float]]] = {arm: {} for arm in ARMS}
    table = Table(title="one step", box=None)
    for heading in ("model", "arm", "ms", "times SGD", "peak MB", "times SGD"):
        table.add_column(heading, justify="right")
    for kind in arguments.models:
        taken, held = times(kind, arguments.steps), peaks(kind)
        for arm in taken:
            found[arm][kind] = {"step_ms": taken[arm], "peak_mb": held[arm]}
            table.add_row(
                kind,
                arm,
                f"{taken[arm]:.1f}",
                f"{taken[arm] / taken['sgd']:.2f}",
                f"{held[arm]:.0f}",
                f"{held[arm] / held['sgd']:.2f}",
            )
    Console().print(table)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"arms": found, "batch": BATCHES}, indent=2))


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
