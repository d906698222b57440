"""What silos alone say, of types that no aggregator imports. Public, as `blindsum.actors.messages`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.state.ledger_entries import Lifetime
from blindsum.platform.training.models import Vector


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
class Release:
    """A released model, float32 [parameters], and the round it is from."""

    round: int
    vector: Vector = field(repr=False)
