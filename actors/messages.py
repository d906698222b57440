"""The messages that silos and aggregators send to the federation. Public by construction.

No field may depend on one silo's records, except through differential privacy or an encrypted
sum over all silos. Anyone on the network sees the sizes of ciphertexts and the seconds anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

from blindsum.he.exchange import STRICT, Digest, RunName, SiloName
from blindsum.platform.evaluation.figures import Metrics
from blindsum.platform.job.schema import Job

Bytes = Annotated[int, Field(ge=0, le=2**60)]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Epsilon = Annotated[float, Field(ge=0)] | None


@checked_dataclass(frozen=True, config=STRICT, kw_only=True)
class SiloSpec:
    """A silo's specification, which it receives when it starts.

    `run` is this run's unique name, `folder` the job file's folder on the silo's node,
    `threads` the number of cores it may use (None: all), `resumed` whether the run was interrupted.
    """

    job: Job
    run: RunName
    name: SiloName
    folder: Annotated[str, Field(max_length=4096)]
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    resumed: bool = False


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The driver's state of a run between two rounds. Silos keep theirs themselves. Public.

    `model` is the digest of the state from which the next round starts: of the newest model and the
    average, or of the initial weights; `range` and `clipping`
    apply to the next round. `model` and `range` are None before the silos are inspected. `retries`
    counts attempts beyond each round's first, and `lost` has the round in which each dropped silo
    was lost.
    """

    round: int = 0
    model: str | None = None
    range: float | None = None
    clipping: float = 1.0
    metrics_epsilon: float | None = None
    retries: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)


@checked_dataclass(frozen=True, config=STRICT, kw_only=True)
class TrainReport:
    """A silo charged its ledger, evaluated the model, trained and sent. `epsilon` is the run's
    spend so far, `metrics_epsilon` its spend on held-out records, `ledger` the ledger's head
    (number and hash of its newest entry), `train_s` the time to evaluate and train, `send_s` the
    time to mask, encrypt, sign and send, including the aggregators' additions. If it only
    evaluated, `epsilon` is None."""

    silo: SiloName
    epsilon: Epsilon
    upload_bytes: Bytes
    charge_s: Seconds
    train_s: Seconds
    send_s: Seconds
    ledger: Annotated[str, Field(max_length=128)] = ""
    metrics_epsilon: Epsilon = None


@checked_dataclass(frozen=True, config=STRICT, kw_only=True)
class AddReport:
    """An aggregator accepted one part of an upload."""

    silo: SiloName
    upload_bytes: Bytes
    add_s: Seconds


@checked_dataclass(frozen=True, config=STRICT, kw_only=True)
class TotalReport:
    """An aggregator closed a sum over exactly `roster`. `add_s` is its time for all uploads."""

    roster: Annotated[tuple[SiloName, ...], Field(max_length=64)]
    total_bytes: Bytes
    add_s: Seconds
    total_s: Seconds


@checked_dataclass(frozen=True, config=STRICT, kw_only=True)
class ApplyReport:
    """A silo decrypted the total and moved to the next model. `model_digest` is that of the model
    that it would release, `state_digest` that of the newest model and its average together.
    `metrics` are what it decrypted: of the round's update, and of the model before it."""

    silo: SiloName
    state_digest: Digest
    model_digest: Digest
    metrics: Metrics
    decrypt_s: Seconds
    apply_s: Seconds
