"""`blindsum import tuner`: what a partner prepared for MELLODDY-TUNER, for `blindsum prepare`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

from blindsum.pipelines.preparation.imported_files import SILOS, job_text, write_files
from blindsum.pipelines.show.console import emit, show_result
from blindsum.pipelines.show.table import Sheet
from blindsum.platform.data.preparation.manifest import manifest_of
from blindsum.platform.data.preparation.output import data_section
from blindsum.platform.data.preparation.recipe import Recipe
from blindsum.platform.data.preparation.secret import read_secret
from blindsum.platform.data.preparation.tuner.imported import Imported, as_frame, imported
from blindsum.platform.data.preparation.tuner.parameters import (
    RunFiles,
    is_run,
    read_json,
    run_files_of,
)
from blindsum.platform.errors import DataError
from blindsum.platform.job.yaml_reader import dump

ASSAYS = "assays.csv"


def import_tuner(
    config: Path,
    weights: Sequence[Path],
    activities: Sequence[Path],
    structures: Path | None,
    catalogue: Path | None,
    silos: Sequence[str],
    secret: Path | None,
    out: Path,
) -> Imported:
    """Read a configuration of TUNER, and write recipe, sources, table of assays and job.

    Args:
        config: the run parameters, which name all files; or the parameters.
        weights, activities, structures, catalogue: T0, T1, T2 and T_cat, in place of those that
            run parameters name.
        secret: the consortium's, for the digests in the job.

    Raises:
        BlindsumError: a file is missing, cannot be read or is wrong, or cannot be written.
    """
    files = _files(config, weights, activities, structures, catalogue)
    made = imported(files, ASSAYS)
    recipe = Recipe.model_validate(made.recipe)
    if secret:
        section = data_section(recipe, manifest_of(recipe, read_secret(secret)))
    else:
        section = data_section(recipe, {"digests": None})
        del section["prepared"]
    private = any("kind" in row or "threshold" in row for row in made.assays)
    write_files(
        out,
        {
            "recipe.yaml": dump(made.recipe),
            "sources.yaml": dump(made.sources),
            ASSAYS: as_frame(made.assays).to_csv(index=False),
            "job.yaml": job_text("from-tuner", silos, section, private),
        },
    )
    return made


def _files(
    config: Path,
    weights: Sequence[Path],
    activities: Sequence[Path],
    structures: Path | None,
    catalogue: Path | None,
) -> RunFiles:
    if is_run(read_json(config)):
        files = run_files_of(config)
        return replace(
            files,
            weights=_absolute(weights) or files.weights,
            activities=_absolute(activities) or files.activities,
            structures=structures.resolve() if structures else files.structures,
            catalogue=catalogue.resolve() if catalogue else files.catalogue,
        )
    if not (weights and activities and structures):
        raise DataError(
            f"{config.name} has TUNER's parameters, but names no files",
            "Also give --weights, --activities and --structures (T0, T1, T2), or name the run "
            "parameters (JSON) instead.",
        )
    return RunFiles(
        parameters=config.resolve(),
        weights=_absolute(weights),
        activities=_absolute(activities),
        structures=structures.resolve(),
        catalogue=catalogue.resolve() if catalogue else None,
    )


def _absolute(paths: Sequence[Path]) -> tuple[Path, ...]:
    return tuple(path.resolve() for path in paths)


def show_imported(made: Imported, as_json: bool = False) -> None:
    """Print how many assays and tasks were found."""
    shared = made.recipe.get("tasks", {})
    own = [row for row in made.assays if "kind" in row or "threshold" in row]
    numbers = sum(row.get("kind") == "regression" for row in own)
    groups = Counter(str(row["group"]) for row in own)
    if as_json:
        emit(
            "imported",
            assays=len({row["assay"] for row in made.assays}),
            shared_tasks=len(shared),
            private_tasks=len(own),
            regression_tasks=numbers,
            groups=dict(groups),
            notes=made.notes,
        )
        return
    table = Sheet("", "", "", text=True)
    table.add("assays", f"{len({row['assay'] for row in made.assays}):,}", "of T0")
    table.add("tasks", f"{len(shared):,}", "shared: of the catalogue")
    table.add("", f"{len(own):,}", f"private to this silo, {numbers:,} of them regression")
    for name, count in sorted(groups.items()):
        table.add("", f"{count:,}", f"of these: {name}")
    show_result(table)


def next_step(out: Path, secret: Path | None, silos: Sequence[str]) -> str:
    """Return the command that makes the silo's table of what was written."""
    folder, given = quote(str(out)), quote(str(secret)) if secret else "SECRET"
    return (
        f"blindsum prepare {folder}/recipe.yaml {folder}/sources.yaml --secret {given} "
        f"--out {folder}/{[*silos, *SILOS][0]}"
    )
