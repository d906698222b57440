"""What silos and the aggregator tell the federation. Public by construction.

No field may depend on one silo's records, except through differential privacy or an encrypted
sum over all silos. Sizes of ciphertext and seconds are what a network sees anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

from blindsum.he.exchange import STRICT, RunName, SiloName
from blindsum.platform.job import Job

if TYPE_CHECKING:  # the aggregator needs these messages, and neither torch nor opacus
    from blindsum.platform.ledger_entries import Lifetime
    from blindsum.platform.models import Vector
    from blindsum.platform.privacy import PrivacyPlan


@checked_dataclass(frozen=True, config=STRICT)
class SiloSpec:
    """What a silo is told when it starts.

    `run` is this run's unique name, `folder` the job file's folder on the silo's node,
    `threads` how many cores it may use (None: all), `resumed` whether the run was interrupted.
    """

    job: Job
    run: RunName
    name: SiloName
    folder: Annotated[str, Field(max_length=4096)]
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    resumed: bool = False


@dataclass(frozen=True)
class Inspection:
    """A silo whose data and model meet the job.

    `owned` says that an owner's file is in force there: consent is asked, and limits bind. Without one
    `ledger` is the ledger's path and `lifetime` counts the dataset's past jobs; with one the silo
    keeps both to itself. Of an interrupted run: digests of the models it has `kept`, by round, and
    the last round and attempt that it `charged`.
    """

    silo: str
    plan: PrivacyPlan | None
    parameters: int
    model_digest: str
    ledger: str
    lifetime: Lifetime | None
    kept: Mapping[int, str] = field(default_factory=dict)
    charged: tuple[int, int] = (0, 0)
    owned: bool = False


@dataclass(frozen=True)
class Standing:
    """Where a run stands after a round, beside what silos keep: public. `range` and `clipping` are of the
    next round; `retries` and `lost` as in the federation."""

    round: int = 0
    model: str = ""
    range: float = 0.0
    clipping: float = 1.0
    metrics_epsilon: float | None = None
    retries: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainReport:
    """A silo charged its ledger, trained and sent. `epsilon` is the job's spend so far,
    `metrics_epsilon` that on held-out records, `ledger` the ledger's head (number and hash of its
    newest entry), `send_s` the time to mask, encrypt, sign and send, with the aggregators' adding
    in it."""

    silo: str
    epsilon: float | None
    upload_bytes: int
    charge_s: float
    train_s: float
    send_s: float
    ledger: str = ""
    metrics_epsilon: float | None = None


@dataclass(frozen=True)
class AddReport:
    """An aggregator accepted one part of an upload."""

    silo: str
    upload_bytes: int
    add_s: float


@dataclass(frozen=True)
class TotalReport:
    """An aggregator closed a sum over exactly `roster`. `add_s` is its time for all uploads."""

    roster: tuple[str, ...]
    total_bytes: int
    add_s: float
    total_s: float


@dataclass(frozen=True)
class ApplyReport:
    """A silo decrypted the total and moved to the next model."""

    silo: str
    model_digest: str
    upload_bytes: int
    decrypt_s: float
    apply_s: float
    send_s: float


@dataclass(frozen=True)
class Release:
    """A released model, float32 [parameters], and the round it is from."""

    round: int
    vector: Vector = field(repr=False)
