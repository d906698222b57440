"""Measure clipped sums with layers in bfloat16 beside float32.

    python benchmarks/precision.py --json build/precision.json

Random records and labels, one thread, the least CPU time of seven; the two take turns. The method
of clipping is the one that training would choose. JSON: {model}.{method,float32_ms,bfloat16_ms}.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from blindsum.platform.job.model_section import Cnn, Input, Mlp, Model, Tokens, Transformer
from blindsum.platform.training.clipping.choice import clipped_sum
from blindsum.platform.training.models import build_model

REPEATS = 7
MODELS: dict[str, tuple[Model, Input, int, int, int]] = {
    # model, what a record is, its values, outputs, records
    "mlp, 32 hidden": (Mlp(kind="mlp", hidden=[32]), (30,), 30, 2, 256),
    "mlp, 2,000 hidden, 617 outputs": (Mlp(kind="mlp", hidden=[2000]), (2048,), 2048, 617, 256),
    "cnn 16, 32 of 28 by 28": (Cnn(kind="cnn", channels=[16, 32]), (1, 28, 28), 784, 2, 256),
    "cnn 32, 64, 128 of 64 by 64": (
        Cnn(kind="cnn", channels=[32, 64, 128]),
        (3, 64, 64),
        3 * 64 * 64,
        2,
        32,
    ),
    "transformer, 4 layers of 128": (
        Transformer(kind="transformer", width=128, heads=4, layers=4, hidden=256),
        Tokens(length=128, vocabulary=257),
        128,
        2,
        32,
    ),
}


def milliseconds(
    model: nn.Module, features: torch.Tensor, labels: torch.Tensor
) -> tuple[list[float], str]:
    """Return the least CPU time of a clipped sum in float32 and in bfloat16, and the method."""
    width = features.shape[1]
    ways = [clipped_sum(model, width, labels=labels[:0], bfloat16=one) for one in (False, True)]
    taken: list[list[float]] = [[], []]
    for _ in range(REPEATS + 1):
        for way, times in zip(ways, taken, strict=True):
            started = time.process_time()
            way(features, labels, 1.0)
            times.append(time.process_time() - started)
    return [1e3 * min(times[1:]) for times in taken], ways[0].method


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found: dict[str, dict[str, Any]] = {}
    for name, (section, record, width, outputs, records) in MODELS.items():
        model = build_model(section, record, outputs, seed=0, private=True)
        texts = isinstance(record, Tokens)
        features = torch.randn(records, width)
        if texts:
            features = torch.randint(1, 257, (records, width)).float()
        labels = torch.randint(0, outputs, (records,))
        (whole, lower), method = milliseconds(model, features, labels)
        found[name] = {
            "method": method,
            "float32_ms": round(whole, 2),
            "bfloat16_ms": round(lower, 2),
        }
        print(f"{name:35} {whole:8.1f} ms, bfloat16 {lower:8.1f} ms ({lower / whole:.2f} times)")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
