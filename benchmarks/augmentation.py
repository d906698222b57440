"""Measure what random copies of pictures change at the same epsilon.

    python examples/scans/make_data.py --data pneumoniamnist.npz --out pneumonia
    python benchmarks/augmentation.py pneumonia/job.yaml --json build/augmentation.json

The job's own settings, with copies that are moved by up to two pixels: none (the pictures as they
are), 1 and 4 by default. Trainer, plan, integers and noise are the product's own; nothing is
encrypted or charged. Figures are exact, over all silos' held-out records, of the average after the
last round. JSON: {copies}.[{seed,figure,seconds}].
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from averaging import figures
from utility import NoisedSums

from blindsum.pipelines.comparison.baseline import member_of
from blindsum.platform.job.file import load_job
from blindsum.platform.job.images_section import Augment, Images
from blindsum.platform.privacy.plan import plan
from blindsum.platform.privacy.randomness import cryptographic_generator
from blindsum.platform.training.augmentation import Augmentation
from blindsum.platform.training.average import load
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.losses import record_loss
from blindsum.platform.training.models import model_of
from blindsum.platform.training.simulation import Combine, Simulation, mean_update


def run(path: Path, overrides: tuple[str, ...], copies: int, seed: int) -> dict[str, Any]:
    """Train once; return the figures and the seconds of training."""
    job_file = load_job(path, overrides)
    job = job_file.job.model_copy(update={"seed": seed})
    features = job.data.features
    if not isinstance(features, Images):
        raise SystemExit("the job's records are no pictures")
    change = Augmentation(Augment(multiplicity=copies, shift=2), features.shape) if copies else None
    owners = [member_of(job_file, name) for name in job.roster]
    random = cryptographic_generator()
    plans = [plan(job, one.name) for one in owners]
    trainers = [
        LocalTrainer(
            model_of(job),
            one.data.train,
            job.training,
            own,
            random,
            record_loss(job, one.own),
            augmentation=change,
        )
        for one, own in zip(owners, plans, strict=True)
    ]
    combine: Combine = mean_update
    if plans[0] and plans[0].share is not None:
        combine = NoisedSums(plans[0], job.training.expected_batch_size, len(owners), random)
    whole = model_of(job)
    federation = Simulation(whole, trainers, job.server, combine, job.training.average)
    started = time.perf_counter()
    for _ in range(job.training.rounds):
        federation.round()
    seconds = time.perf_counter() - started
    load(whole, federation.average)
    return {"seed": seed, **figures(job, whole, owners), "seconds": round(seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("job", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--set", action="append", default=[], help="a setting, as for a run")
    parser.add_argument("--copies", nargs="+", type=int, default=[0, 1, 4], help="0: no change")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in range(1, given.seeds + 1):
        for copies in given.copies:
            one = run(given.job, tuple(given.set), copies, seed)
            print(f"{copies} copies: {one}", flush=True)
            found.setdefault(str(copies), []).append(one)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
