"""TUNER's two JSON files: the parameters, on which the partners agreed, and the run parameters,
which name one partner's files.

Sections that have no counterpart are read past: `evaluation_quorum`, `count_task`, `lsh`,
`regression_evaluation_task_filter` and `censored_downweighting`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blindsum.platform.errors import DataError

Finite = Annotated[float, Field(allow_inf_nan=False)]
P = TypeVar("P", bound="_Part")
Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    """A part of a file; other keys are read past."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Standardization(_Part):
    """Settings of molecules."""

    max_num_tautomers: Count = 0
    max_num_atoms: int = Field(100, ge=1, le=500)
    include_stereoinfo: bool = False


class Fingerprint(_Part):
    """Settings of fingerprints. Counts have no counterpart."""

    radius: int = Field(ge=1, le=4)
    fold_size: int = Field(ge=64, le=65536)
    hashed: Literal[True] = True
    binarized: Literal[True] = True


class ScaffoldFolding(_Part):
    """Settings of folds."""

    nfolds: int = Field(ge=2, le=100)


class Range(_Part):
    """Credible numbers. Of `std`, only the least is given."""

    min: Finite | None = None
    max: Finite | None = None


class OfClasses(_Part):
    """A quorum of classification tasks."""

    num_active_total: Count
    num_inactive_total: Count


class OfNumbers(_Part):
    """A quorum of regression tasks."""

    num_total: Count
    num_uncensored_total: Count


class OfCatalogue(_Part):
    """The quorum of tasks of the catalogue."""

    num_total: Count


class TrainingQuorum(_Part):
    """Quorums by assay type."""

    regression: dict[str, OfNumbers] = {}
    classification: dict[str, OfClasses]
    catalogue: OfCatalogue | None = Field(None, alias="CATALOG-PANEL")


class Parameters(_Part):
    """The parameters of a preparation by TUNER."""

    standardization: Standardization = Standardization()
    fingerprint: Fingerprint
    scaffold_folding: ScaffoldFolding
    credibility_range: dict[str, Range]
    training_quorum: TrainingQuorum
    initial_task_weights: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    global_thresholds: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}


@dataclass(frozen=True)
class RunFiles:
    """The files that a run names. `catalogue` may be None."""

    parameters: Path
    weights: tuple[Path, ...]
    activities: tuple[Path, ...]
    structures: Path
    catalogue: Path | None = None


class _Run(_Part):
    structure_file: str
    activity_files: list[str] = Field(min_length=1)
    weight_tables: list[str] = Field(min_length=1)
    catalog_file: str | None = None
    config_file: str
    folding_method: Literal["scaffold"] = "scaffold"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "it is not JSON"
        raise DataError(f"{path} cannot be read: {reason}", "Name TUNER's JSON file.") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} holds no JSON object", "Name TUNER's JSON file.")
    return found


def is_run(content: dict[str, Any]) -> bool:
    """Return whether a JSON file names a run's files, rather than parameters."""
    return "config_file" in content or "structure_file" in content


def parameters_of(path: Path) -> Parameters:
    """Read the parameters.

    Raises:
        DataError: the file cannot be read, or settings are missing or wrong: all of them in one
            message.
    """
    return _checked(Parameters, read_json(path), path)


def run_files_of(path: Path) -> RunFiles:
    """Read the run parameters. Relative paths start at their folder, else at the working folder, as
    TUNER's do.

    Raises:
        DataError: as `parameters_of`.
    """
    content = dict(read_json(path))
    for one, several in (("activity_file", "activity_files"), ("weight_table", "weight_tables")):
        if one in content:  # the earlier spelling
            content.setdefault(several, [content[one]])
    run = _checked(_Run, content, path)

    def there(name: str) -> Path:
        beside = path.resolve().parent / name
        return beside if beside.exists() else Path(name).resolve()

    return RunFiles(
        parameters=there(run.config_file),
        weights=tuple(map(there, run.weight_tables)),
        activities=tuple(map(there, run.activity_files)),
        structures=there(run.structure_file),
        catalogue=there(run.catalog_file) if run.catalog_file else None,
    )


_MENDS = {
    "hashed": "only hashed fingerprints can be prepared",
    "binarized": "only fingerprints of bits can be prepared, not counts",
    "folding_method": "only folds by scaffold can be prepared; without the lsh method",
}


def _checked(kind: type[P], content: dict[str, Any], path: Path) -> P:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        lines = []
        for fault in error.errors():
            where = ".".join(map(str, fault["loc"]))
            mend = _MENDS.get(str(fault["loc"][-1])) if fault["loc"] else None
            lines.append(f"{where}: {mend or fault['msg'].lower()}")
        raise DataError(
            "\n  ".join([f"{path.name} is not a file of TUNER version 3:", *lines]),
            "Correct these, or name the JSON file that they belong in.",
        ) from None
