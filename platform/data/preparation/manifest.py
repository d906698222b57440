"""Whether two silos prepared their tables alike: settings, and what became of public molecules.

`reference.smi` holds molecules that everybody has: drugs, salts, tautomers, metals, isotopes, texts that are
none. Each silo prepares them as its own; equal digests say that its own went the same way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa

from blindsum.platform.data.preparation.prepared_features import prepared_features_of
from blindsum.platform.data.preparation.recipe import Recipe
from blindsum.platform.data.preparation.secret import Secret
from blindsum.platform.data.preparation.stages import RDKIT, STEPS, Standardise
from blindsum.platform.errors import DataError
from blindsum.platform.job.data_section import Prepared

Manifest = dict[str, Any]


def manifest_of(recipe: Recipe, secret: Secret) -> Manifest:
    """The recipe, RDKit's version, and digests of the prepared reference molecules. Public."""
    text = files("blindsum.platform.data.preparation").joinpath("reference.smi").read_text("utf-8")
    standard = Standardise(recipe.structures).compute(text.splitlines())
    found = standard.filter(pa.compute.is_valid(standard["structure"]))
    structures = found["structure"].to_pylist()
    prepared_features = prepared_features_of(recipe.features)
    features = prepared_features.stage.compute(structures)
    folds = [secret.fold(s, recipe.folds.count) for s in found["scaffold"].to_pylist()]
    agreed = recipe.model_dump(mode="json", exclude={"quorum": True, "folds": {"held_out"}})
    digests = {
        "recipe": _digest(agreed),
        "structures": _digest(standard.drop_columns("scaffold").to_pylist()),
        "features": _digest(prepared_features.comparable(features, secret)),
        "folds": _digest(folds),
        "secret": secret.digest,
    }
    return {
        "rdkit": RDKIT,
        "steps": STEPS,
        "recipe": recipe.model_dump(mode="json"),
        "digests": digests,
    }


def prepared(manifest: Manifest) -> Prepared:
    """The digests, as the job file has them."""
    return Prepared.model_validate(manifest["digests"])


def read_manifest(path: Path) -> Manifest:
    """Another silo's manifest.

    Raises:
        DataError: it cannot be read, or is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        prepared(found)
        Recipe.model_validate_json(json.dumps(found["recipe"]))
        str(found["rdkit"]), str(found["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(
            f"{path} is no manifest of a preparation", "Give another silo's manifest.json."
        ) from None
    return dict(found)


def differences(mine: Manifest, other: Manifest) -> list[str]:
    """What differs, in words; nothing where the silos' tables go together."""
    found = [
        f"{key}: {here!r} here, {there!r} there"
        for key, here, there in _settings(mine["recipe"], other["recipe"], "")
        if not key.startswith(("quorum", "folds.held_out"))  # a silo's own affair; the job's
    ]
    if mine["digests"]["secret"] != other["digests"]["secret"]:
        found.append("the secret: one of the files is not the consortium's")
    for stage in ("structures", "features", "folds"):
        settled = any(line.startswith((stage, "structures", "the secret")) for line in found)
        if mine["digests"][stage] != other["digests"][stage] and not settled:
            found.append(
                f"{stage}: the settings are the same and reference molecules came out otherwise "
                f"(RDKit {mine['rdkit']} here, {other['rdkit']} there; preparation's version "
                f"{mine['steps']} and {other['steps']})"
            )
    return found


def _settings(here: Any, there: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(here, dict) and isinstance(there, dict):
        for name in {**here, **there}:
            below = f"{key}.{name}" if key else str(name)
            yield from _settings(here.get(name), there.get(name), below)
    elif here != there:
        yield key, here, there


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
