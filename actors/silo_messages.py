"""Messages that only silos send, with types that aggregators need not import. Public, as those of
`blindsum.actors.messages`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.state.ledger_entries import Lifetime
from blindsum.platform.training.vector import Vector

LONGEST_SENTENCE = 400
"""In characters."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A silo's report that its data and model meet the job.

    `owned` says that an owner's file is in force at the silo: it asks for consent and enforces
    limits. Without one, `ledger` is the ledger's path and `lifetime` counts the dataset's past
    jobs; with one, the silo reports neither. For an interrupted run, `kept` has the digests of the
    states in its checkpoints, by round, and `charged` is the last round and attempt that it
    charged. `warnings` says what is odd about the silo's data; with an owner's file, only the owner
    learns that. `clipping` says in one sentence how the model's gradients are clipped, which
    depends only on the model; it is empty without privacy. `frozen` is the number of the model's
    parameters that stay as they begin. `sent` has the numbers of values of the first rounds'
    updates; later rounds repeat them in turn.
    """

    silo: str
    plan: PrivacyPlan | None
    parameters: int
    frozen: int = 0
    sent: tuple[Annotated[int, Field(ge=1)], ...] = (1,)
    model_digest: str
    ledger: str
    lifetime: Lifetime | None
    kept: Mapping[int, str] = field(default_factory=dict)
    charged: tuple[int, int] = (0, 0)
    owned: bool = False
    warnings: tuple[str, ...] = ()
    clipping: Annotated[str, Field(max_length=LONGEST_SENTENCE, pattern=r"^[ -~]*$")] = ""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A silo's sign of life while it reads its data. It tells no count.

    `percent` is the share that is done, in steps of 5; `at_work` says that the work went on in the
    last seconds.
    """

    percent: Annotated[int, Field(ge=0, le=100, multiple_of=5)]
    at_work: bool


@dataclass(frozen=True)
class Release:
    """A released model, float32 [parameters]: the average of the models up to this round, and this
    round's own model."""

    round: int
    vector: Vector = field(repr=False)
    newest: Vector = field(repr=False)
