"""Saving of a run of statistics: figures as JSON and as a page, in the run's folder and MLflow."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from blindsum.pipelines.run.files import write_whole
from blindsum.pipelines.run.run import Run, SavedModel
from blindsum.platform.job.paths import STATISTICS, STATISTICS_PAGE

if TYPE_CHECKING:
    from blindsum.actors.federation import Federation
    from blindsum.platform.job.statistics_section import Statistics
    from blindsum.platform.tracking.mlflow_run import Tracker


def save_statistics(
    run: Run, section: Statistics, federation: Federation, tracker: Tracker
) -> None:
    """Fetch the sums from a silo, and write what follows from them.

    Raises:
        BlindsumError: no silo returns them.
        OSError: the folder cannot be written.
    """
    from blindsum.pipelines.statistics.page import as_page
    from blindsum.platform.training.statistics.describing import Describing
    from blindsum.platform.training.statistics.figures import COUNTING, figures_of

    describing, last = Describing(run.job_file.job, section), run.reports[-1]
    if last.round < COUNTING:
        return  # nothing follows from the first round alone
    release = federation.release(last.round, last.state_digest, 60.0)
    found = run.statistics = figures_of(describing, release.newest, last.round)
    content = {"run": run.name, "privacy": run.headline(), **found.as_dict()}
    run.folder.mkdir(parents=True, exist_ok=True)
    path = write_whole(run.folder / STATISTICS, json.dumps(content, indent=1).encode())
    tracker.log_file(path)
    page = as_page(found, run.name, run.headline())
    tracker.log_file(write_whole(run.folder / STATISTICS_PAGE, page.encode()))
    run.saved = SavedModel(path, last.round)
