"""The manifest of a preparation, by which silos check that they prepared their tables alike.

It has the settings, and digests of public reference molecules. `reference.smi` lists molecules that
everybody has: drugs, salts, tautomers, metals, isotopes, and texts that are not molecules. Each
silo prepares them like its own; equal digests show that its own were prepared in the same way.
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
    """Return the recipe, RDKit's version, and digests of the prepared reference molecules. Public
    in the consortium."""
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
    """Return the digests in the form of the job file."""
    return Prepared.model_validate(manifest["digests"])


def read_manifest(path: Path) -> Manifest:
    """Read another silo's manifest.

    Raises:
        DataError: the file cannot be read, or is not a manifest.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        prepared(found)
        Recipe.model_validate_json(json.dumps(found["recipe"]))
        str(found["rdkit"]), str(found["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(
            f"{path} is not the manifest of a preparation", "Name another silo's manifest.json."
        ) from None
    return dict(found)


def differences(mine: Manifest, other: Manifest) -> list[str]:
    """Return the differences in words; an empty list if the silos' tables are compatible."""
    found = [
        f"{key}: {here!r} here, {there!r} there"
        for key, here, there in _settings(mine["recipe"], other["recipe"], "")
        # Every silo chooses its quorum, and the job the held-out fold.
        if not key.startswith(("quorum", "folds.held_out"))
    ]
    if mine["digests"]["secret"] != other["digests"]["secret"]:
        found.append("the secret: the two silos have different files")
    for stage in ("structures", "features", "folds"):
        settled = any(line.startswith((stage, "structures", "the secret")) for line in found)
        if mine["digests"][stage] != other["digests"][stage] and not settled:
            found.append(
                f"{stage}: the settings are the same, but the reference molecules were prepared "
                f"differently (RDKit {mine['rdkit']} here, {other['rdkit']} there; version of the "
                f"preparation {mine['steps']} here, {other['steps']} there)"
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
