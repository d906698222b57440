"""`blindsum prepare`: build the table a silo trains on from its own tables; each silo runs it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from blindsum.infra.ray_session import ray_session
from blindsum.pipelines.preparation.stage_cache import StageCache
from blindsum.pipelines.show.console import console, emit, show_result, show_warnings
from blindsum.pipelines.show.progress import Shown, progress
from blindsum.pipelines.show.table import Sheet
from blindsum.platform.data.preparation.assemble import labels_of, structures_of
from blindsum.platform.data.preparation.manifest import (
    Manifest,
    differences,
    manifest_of,
    read_manifest,
)
from blindsum.platform.data.preparation.output import REJECTED, write_output
from blindsum.platform.data.preparation.prepared_features import prepared_features_of
from blindsum.platform.data.preparation.quorums import with_divided_weights
from blindsum.platform.data.preparation.recipe import Recipe, load_recipe, load_sources
from blindsum.platform.data.preparation.record_parts import PreparedRecords
from blindsum.platform.data.preparation.report import Report
from blindsum.platform.data.preparation.secret import Secret, read_secret
from blindsum.platform.data.preparation.stages import Stage, Standardise
from blindsum.platform.data.preparation.tables import Tables, read_tables
from blindsum.platform.errors import DataError
from blindsum.platform.job.paths import home_folder


def prepare(
    recipe_path: Path,
    sources_path: Path,
    secret_path: Path,
    out: Path,
    against: Sequence[Path] = (),
    workers: int | None = None,
    quiet: bool = False,
) -> Report:
    """Prepare a silo's tables and write them to a folder.

    Args:
        against: other silos' manifests, compared before any slow step.
        workers: number of processes; by default one per core.
        quiet: show no progress.

    Raises:
        BlindsumError: a file is wrong or cannot be read or written, or a manifest differs.
    """
    recipe, sources = load_recipe(recipe_path), load_sources(sources_path)
    secret = read_secret(secret_path)
    manifest = manifest_of(recipe, secret)
    for path in against:
        if differ := differences(manifest, read_manifest(path)):
            raise DataError(
                f"this silo's preparation differs from {path}:\n  " + "\n  ".join(differ),
                "Agree on one recipe, one secret and one version of RDKit.",
            )
    report = Report()
    with progress("reading the tables", quiet) as shown:
        tables = read_tables(
            sources, recipe, sources_path.resolve().parent, lambda text: show_warnings([text])
        )
        with _Slow(workers, shown, quiet) as slow:
            written = _write(out, tables, recipe, secret, manifest, report, slow)
    if not written:
        show_report(report)
        raise DataError(
            "nothing is left to train on",
            "The counts above show why. Check thresholds and quorum.",
        )
    return report


def _write(
    out: Path,
    tables: Tables,
    recipe: Recipe,
    secret: Secret,
    manifest: Manifest,
    report: Report,
    slow: _Slow,
) -> bool:
    """Prepare tables that were read, and write the result; return whether there was any."""
    standard = slow.computed(
        Standardise(recipe.structures), _distinct(tables.compounds["smiles"]), "structures"
    )
    compounds = structures_of(tables, standard.to_pandas(), report)
    stage = prepared_features_of(recipe.features).stage
    features = slow.computed(stage, _distinct(compounds["structure"]), "features")
    usable = _finite(features)
    whole = compounds["structure"].isin(usable["text"].to_pandas())
    report.reject_compounds(compounds[~whole], "no finite features")
    slow.shown.stage("combining measurements")
    labels = labels_of(tables, compounds[whole], recipe.tasks, recipe.quorum, report)
    if not len(labels):
        return False
    labelled = pa.array(labels["structure"].unique(), pa.string())
    usable = usable.filter(pc.is_in(usable["text"], value_set=labelled))
    used = {*recipe.tasks, *labels["task"]}
    tasks = {name: task for name, task in tables.tasks.items() if name in used}
    records = PreparedRecords(
        labels=labels,
        names=compounds,
        features=usable,
        standard=standard,
        recipe=recipe,
        tasks=tasks,
        secret=secret,
    )
    own = {name: task for name, task in tasks.items() if name not in recipe.tasks}
    if tables.divide_weights:
        own = with_divided_weights(own, tables.of_assay)
    slow.shown.stage(f"writing {out.name}")
    write_output(out, records.parts(), own, recipe, manifest, report)
    return True


class _Slow(ExitStack):
    """Runs stages, showing their progress, on a Ray that starts when the first work is due."""

    def __init__(self, workers: int | None, shown: Shown, quiet: bool) -> None:
        super().__init__()
        self._workers = workers or os.cpu_count() or 1
        self.shown, self._quiet, self._started = shown, quiet, False

    def computed(self, stage: Stage, texts: Sequence[str], what: str) -> pa.Table:
        self.shown.stage(f"looking for {what} that were computed before")
        cache = StageCache(stage, _folder())
        missing = cache.missing(texts)
        there = len(texts) - len(missing)
        if there and missing and not self._quiet:
            console.print(f"{what}: {there:,} of {len(texts):,} were computed before")
        if missing and not self._started:
            self.shown.stage("starting Ray")
            self.enter_context(ray_session())
            self._started = True
        if missing:
            self.shown.stage(what, len(missing))
            cache.run(missing, self._workers, self.shown.step)
        return cache.table(texts)


def _folder() -> Path:
    return home_folder() / "prepare"


def _distinct(texts: Iterable[str]) -> list[str]:
    return sorted({text for text in texts if text})


def _finite(features: pa.Table) -> pa.Table:
    """Keep the rows whose features are all present and finite."""
    for name in features.column_names:
        keep = pc.is_valid(features[name])
        if pa.types.is_floating(features[name].type):
            keep = pc.is_finite(features[name]).fill_null(False)
        if not pc.all(keep).as_py():
            features = features.filter(keep)
    return features


def show_report(report: Report, as_json: bool = False) -> None:
    """Print how many compounds, labels and tasks were kept and dropped."""
    if as_json:
        emit("prepared", **report.as_dict())
        return
    table = Sheet("", "", "", text=True)
    rows = [
        (
            "records",
            report.records,
            f"distinct structures with labels, of {report.compounds} compounds",
        ),
        (
            "",
            report.merged_compounds,
            "compounds with the same structure as another (merged into one record)",
        ),
        *(("", n, f"compounds dropped: {why}") for why, n in report.dropped_compounds.items()),
        ("labels", report.labels, f"of {report.measurements} measurements"),
        *(
            ("", n, f"measurements dropped: {why}")
            for why, n in report.dropped_measurements.items()
        ),
        *(
            ("", n, f"of these in {unit}, which cannot be converted")
            for unit, n in report.dropped_units.most_common(10)
        ),
        (
            "tasks",
            report.shared_tasks + report.private_tasks,
            f"{report.shared_tasks} shared, {report.private_tasks} private to this silo",
        ),
        *(("", n, f"tasks: {why}") for why, n in report.dropped_tasks.items()),
    ]
    for name, count, text in rows:
        if name or count:
            table.add(name, f"{count:,}", text)
    show_result(table)
    if report.rejected or report.rejected_compounds:
        console.print(f"rows and reasons, in the output folder: {' and '.join(REJECTED)}")
