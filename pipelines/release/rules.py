"""What a bundle's files have to agree on with a silo's charges: the same for who signs and who
verifies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from blindsum.pipelines.release.bundle import CARD, JOB, STATEMENT, SUMMARY, Bundle, Charge, Release
from blindsum.pipelines.release.card import model_card, part_of
from blindsum.platform.errors import ModelError
from blindsum.platform.job.schema import Job
from blindsum.platform.prediction.released import Terms

CLOSE = 1e-4
"""Relative difference of a stated epsilon and a charged one that rounding may make."""

PARAMETERS, SPENT = "Privacy parameters", "epsilon spent"


def object_of(bundle: Bundle, name: str) -> Mapping[str, Any]:
    """Return a JSON file of a bundle.

    Raises:
        ModelError: it is not an object in JSON.
    """
    try:
        found = json.loads(bundle.files[name])
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ModelError(f"{name} of the release is not an object in JSON", _AGAIN)
    return found


_AGAIN = "Get the bundle again from a silo that you trust."


def wrong_charges(
    bundle: Bundle, release: Release, silo: str, charges: Sequence[Charge]
) -> list[str]:
    """Return what of the files a silo's charges do not bear out."""
    wrong, charged = [], {one.round for one in charges}
    if missing := sorted(set(range(1, release.round + 1)) - charged):
        wrong.append(f"silo '{silo}' has not charged round {missing[0]}")
    spent = max((one.epsilon for one in charges if one.epsilon is not None), default=None)
    summary, statement = object_of(bundle, SUMMARY), object_of(bundle, STATEMENT)
    stated = {
        SUMMARY: part_of(summary, "epsilon").get(silo),
        STATEMENT: part_of(statement, PARAMETERS, silo).get(SPENT),
    }
    for name, epsilon in stated.items():
        if not _same(epsilon, spent):
            wrong.append(f"the epsilon of silo '{silo}' in {name} is not what it charged")
    return wrong


def wrong_card(bundle: Bundle, job: Job, terms: Terms) -> list[str]:
    """Return whether the model card says something else than the other files."""
    card = model_card(job, terms, object_of(bundle, SUMMARY), object_of(bundle, STATEMENT))
    same = card.encode() == bundle.files[CARD]
    return [] if same else [f"{CARD} is not what {JOB}, {SUMMARY} and {STATEMENT} say"]


def _same(stated: object, charged: float | None) -> bool:
    if charged is None or stated is None:
        return charged is None and stated is None
    return isinstance(stated, int | float) and abs(stated - charged) <= CLOSE * charged
