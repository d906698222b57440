"""`blindsum.simulate`: the whole protocol over data frames, with silos as threads of this process.

A simulation protects nobody: records, keys and sums of all silos are in one process. Its figures
and its epsilon are those of a run: every silo encrypts, masks, verifies and charges a ledger as it
would on its own machine. Everything it writes lies in its own folder, its ledgers too: it charges
no budget of a silo of this machine.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from blindsum.pipelines.interface.job import Job
from blindsum.pipelines.interface.progress import Progress, listener
from blindsum.pipelines.interface.run import Run
from blindsum.pipelines.interface.training import finished
from blindsum.platform.errors import BlindsumError, ConsentError, DataError, JobError
from blindsum.platform.job.file import JobFile, make_job
from blindsum.platform.job.owner import find_owner
from blindsum.platform.job.paths import import_from, resolve
from blindsum.platform.job.yaml_reader import Loader
from blindsum.platform.tracking.mlflow_uri import sqlite_uri

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_PATIENCE_S = 30.0
"""Seconds to wait, after a simulation, for what its threads are doing."""

_MOST_LINES = 11
"""Lines of a list of rejected rows that an error's note repeats: a heading and ten rows."""


def simulate(
    job: Job | str | Path,
    data: Mapping[str, pd.DataFrame | pa.Table],
    folder: str | Path | None = None,
    progress: Progress = True,
) -> Run:
    """Run a job on data frames, with all silos as threads of this process; returns the run.

    **A simulation protects nobody**: all records and keys are in this process. Its figures and its
    epsilon are those of a run on the same records. The job's paths, tracking server and pinned
    identities are not used. Ctrl-C does as in `blindsum.run`.

    Args:
        job: a job, or the path of a job file.
        data: each silo's records, by the silo's name in the job, with the columns that the job
            names.
        folder: where to keep tables, ledgers, results (`runs/NAME`) and MLflow (`mlflow.db`). Each
            simulation adds a folder of its own with new ledgers. None: a temporary folder that only
            this user can enter, and that is removed at the end.
        progress: as for `blindsum.run`.

    Raises:
        DataError: the silos of `data` are not those of the job, or a table does not meet the job.
        ConsentError: this machine is a silo's: it has an owner's file.
        BlindsumError: the simulation failed.
    """
    job_file = (job if isinstance(job, Job) else Job.read(job)).job_file
    _refuse_at_a_silo()
    _require_silos(job_file, data)
    with _place(folder) as place:
        own = Path(tempfile.mkdtemp(prefix=f"{job_file.job.name}-", dir=place))  # mode 0700
        for silo, records in data.items():
            _write(silo, records, own / f"{silo}.parquet")
        simulated = _simulated(job_file, place, own)
        import_from(str(job_file.folder))  # where the code of a model.factory may lie
        found = _run(simulated, own, progress)
        return found if folder is not None else found._without_folder()


def _run(simulated: JobFile, own: Path, progress: Progress) -> Run:
    shown = listener(progress, simulated.job.name)
    from blindsum.actors.thread_cluster import ThreadCluster  # imports Ray

    cluster = ThreadCluster()
    try:
        return finished(simulated, None, shown, cluster=cluster)
    except BlindsumError as error:
        for text in _told_to_owners(own):
            error.add_note(text)
        raise
    finally:
        cluster.close(_PATIENCE_S)


def _refuse_at_a_silo() -> None:
    if (owner := find_owner()) is not None:
        raise ConsentError(
            f"this machine is a silo's, by {owner.path}: no simulation runs here",
            "Simulate on another machine.",
        )


def _require_silos(job_file: JobFile, data: Mapping[str, Any]) -> None:
    roster = job_file.job.roster
    missing, unknown = [n for n in roster if n not in data], [n for n in data if n not in roster]
    if missing or unknown:
        said = f"no records for silo {missing[0]!r}" if missing else f"no silo {unknown[0]!r}"
        raise DataError(
            f"data has {said}" if missing else f"the job has {said}",
            f"Give one table for each of the job's silos: {', '.join(roster)}.",
        )


@contextmanager
def _place(folder: str | Path | None) -> Iterator[Path]:
    """Yield the folder to keep everything in; without one, a temporary folder."""
    if folder is None:
        made = Path(tempfile.mkdtemp(prefix="blindsum-simulation-"))  # mode 0700
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return
    place = Path(folder).expanduser().absolute()
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise JobError(
            f"folder: {place} cannot be made: {os.strerror(error.errno or 0)}",
            "Name another folder.",
        ) from None
    yield place


def _write(silo: str, records: Any, path: Path) -> None:
    """Write one silo's table."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if isinstance(records, pd.DataFrame):
            named = any(name is not None for name in records.index.names)
            records = pa.Table.from_pandas(records, preserve_index=named)
        if not isinstance(records, pa.Table):
            raise DataError(
                f"a {type(records).__name__} is not a table",
                "Give a DataFrame or an Arrow table.",
                silo=silo,
            )
        pq.write_table(records, path)
    except (pa.ArrowException, TypeError, ValueError):
        raise DataError(
            "a column mixes types, or two columns have one name",
            "Give each column a name of its own, and one type.",
            silo=silo,
        ) from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {os.strerror(error.errno or 0)}", "Make room.", silo=silo
        ) from None


def _simulated(job_file: JobFile, place: Path, own: Path) -> JobFile:
    """Return the job with every path in the simulation's folders, and without pinned identities,
    whose keys are on other machines."""
    content = yaml.load(job_file.text, Loader=Loader)
    for silo in content["silos"]:
        name = silo["name"]
        silo |= {"data": str(own / f"{name}.parquet"), "state": str(own / "state" / name)}
        silo.pop("identity", None)
        if silo.get("private_tasks"):
            silo["private_tasks"] = str(resolve(silo["private_tasks"], str(job_file.folder)))
    content["runs"] = str(place / "runs")
    tracking = dict(content.get("tracking") or {})
    content.pop("simulation", None)  # all silos share this process
    content["tracking"] = tracking | {"uri": sqlite_uri(place / "mlflow.db")}
    return make_job(content, own)


def _told_to_owners(own: Path) -> list[str]:
    """Return what silos wrote for their owners alone about their tables: here, for the caller."""
    from blindsum.platform.data.at_silo import read_at_silo
    from blindsum.platform.data.member import REJECTED_ROWS

    told = []
    for folder in sorted(own.glob("state/*/runs/*")):
        found = read_at_silo(folder)
        if (rejected := folder / REJECTED_ROWS).is_file():
            lines = rejected.read_text(encoding="utf-8").splitlines()
            more = ["..."] if len(lines) > _MOST_LINES else []
            found.append("\n".join([f"{REJECTED_ROWS}:", *lines[:_MOST_LINES], *more]))
        told += [f"at {folder.parents[1].name}: {text}" for text in found]
    return told
