"""`blindsum.run` and `blindsum.resume`: what the commands of these names do, from Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from blindsum.pipelines.interface.job import Job
from blindsum.pipelines.interface.progress import NotebookProgress, Progress, in_notebook, listener
from blindsum.pipelines.interface.run import Run
from blindsum.pipelines.run.run_log import Kept, read_log
from blindsum.platform.errors import BlindsumError, JobError, without_values

if TYPE_CHECKING:
    from blindsum.actors.cluster import Cluster
    from blindsum.pipelines.run.output import Shown
    from blindsum.pipelines.run.run import Run as Ended
    from blindsum.platform.job.file import JobFile


def run(job: Job | str | Path, address: str | None = None, progress: Progress = True) -> Run:
    """Run a job to its end on Ray, as `blindsum run` does; returns the finished run.

    Ctrl-C ends the run as on the command line: its last model is saved, and charges remain. In a
    notebook (the stop button) the run is then returned with status KILLED if a round was completed;
    elsewhere KeyboardInterrupt goes on. `Run.open` reads what is in its folder, and
    `blindsum.resume` continues it.

    Args:
        job: a job, or the path of a job file.
        address: the Ray cluster to join (`auto`, `HOST:PORT`); None starts one on this machine, or
            uses the one that this process is connected to.
        progress: True shows it live in a notebook or on a terminal, and elsewhere only warnings;
            "lines" prints a line for each stage and round; False shows only warnings.

    Raises:
        BlindsumError: the run failed. Its notes say where what was finished lies.
    """
    job_file = (job if isinstance(job, Job) else Job.read(job)).job_file
    return finished(job_file, address, listener(progress, job_file.job.name))


def resume(folder: str | Path, address: str | None = None, progress: Progress = True) -> Run:
    """Resume an interrupted run after its last completed round, as `blindsum resume` does.

    Args:
        folder: the run's folder, `runs/NAME`.
        address: the Ray cluster to join, as for `blindsum.run`.
        progress: as for `blindsum.run`.

    Raises:
        BlindsumError: there is no run to resume there, or it failed.
    """
    kept = resumable(Path(folder).expanduser())
    return finished(kept.job_file, address, listener(progress, kept.job_file.job.name), kept)


def resumable(folder: Path) -> Kept:
    """Read the log of a run that can be resumed.

    Raises:
        JobError: there is none in that folder, or it has already completed.
    """
    kept = read_log(folder.absolute())
    if kept.ended:
        raise JobError(f"{kept.name} has already completed", "Start a new run.")
    return kept


def train_shown(
    job_file: JobFile,
    address: str | None,
    shown: NotebookProgress | Shown,
    ended: Callable[[Ended], None],
    kept: Kept | None = None,
    cluster: Cluster | None = None,
) -> None:
    """Run or resume a job, show its progress, and hand over the run, whatever its outcome.

    Args:
        shown: is closed before `ended` is called.
        cluster: a simulation's silos, in place of Ray.

    Raises:
        BlindsumError, KeyboardInterrupt: as `blindsum.pipelines.run.train.train`, after `ended`.
    """
    from blindsum.pipelines.run.train import train

    seen: list[Ended] = []
    simulated = cluster is not None
    try:
        train(
            job_file, address, shown, seen.append, kept=kept, cluster=cluster, simulated=simulated
        )
    finally:
        shown.close()
        for one in seen:
            ended(one)


def finished(
    job_file: JobFile,
    address: str | None,
    shown: NotebookProgress | Shown,
    kept: Kept | None = None,
    cluster: Cluster | None = None,
) -> Run:
    """Run or resume a job from Python; returns the run, as `run` describes. Arguments are those of
    `train_shown`."""
    seen: list[Ended] = []
    try:
        train_shown(job_file, address, shown, seen.append, kept, cluster)
    except KeyboardInterrupt:
        if not (in_notebook() and seen and seen[0].reports):
            raise
    except BlindsumError as error:
        for one in seen:
            if one.reports:
                rounds = f"{len(one.reports)} completed rounds"
                error.add_note(f"{rounds} are kept: blindsum.Run.open({str(one.folder)!r})")
        raise error.with_traceback(None) from None  # the message says what a caller can mend
    except ImportError:
        raise  # says which package is missing
    except Exception as error:  # noqa: BLE001 - as on the command line: it may quote values
        raise without_values(error) from None
    return Run._of(seen[0])
