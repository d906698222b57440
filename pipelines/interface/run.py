"""A run as a Python object: its history, its spend, its model and its picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from blindsum.pipelines.interface.job import Job
from blindsum.pipelines.run.past_runs import past_run
from blindsum.pipelines.run.run_log import read_log
from blindsum.platform.errors import JobError
from blindsum.platform.job.paths import MODEL

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from blindsum.actors.round_report import RoundReport
    from blindsum.pipelines.interface.model import Model
    from blindsum.pipelines.run.run import Run as Ended

Status = Literal["FINISHED", "FAILED", "KILLED", "RUNNING", "INTERRUPTED"]

_WORDS: dict[str, str] = {
    "FINISHED": "finished",
    "FAILED": "failed",
    "KILLED": "ended by Ctrl-C",
    "RUNNING": "still running",
    "INTERRUPTED": "broken off",
}


class Run:
    """A run and its results. `blindsum.run` and `blindsum.simulate` return it; `Run.open` reads one
    from its folder.

    Attributes:
        job: the job.
        folder: the folder with its results; None if the folder was temporary.
        summary: everything about the run, as `summary.json` and `--json` have it.
    """

    def __init__(
        self,
        job: Job,
        folder: Path | None,
        summary: Mapping[str, Any],
        reports: Sequence[RoundReport],
        model: Model | None = None,
    ) -> None:
        self.job, self.folder = job, folder
        self.summary: dict[str, Any] = dict(summary)
        self._reports, self._model = list(reports), model

    @classmethod
    def _of(cls, ended: Ended) -> Run:
        return cls(Job._of(ended.job_file), ended.folder, ended.summary(), ended.reports)

    def _without_folder(self) -> Run:
        """Return the run as it is once its folder is removed, with its model in memory."""
        gone = ("model", "tracking_uri", "experiment", "mlflow_run", "tracking_failure")
        summary = {**self.summary, **dict.fromkeys(gone), "ledgers": {}}
        model = self.model if self.summary["model"] else None
        return Run(self.job, None, summary, self._reports, model)

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Read a run from its folder, `runs/NAME`.

        Raises:
            JobError: there is no run in that folder, or its log cannot be read.
        """
        path = Path(folder).expanduser().absolute()
        state = past_run(path).state
        kept = read_log(path)
        found = _summary(path)
        if state == "running" or found.get("rounds") != len(kept.reports):
            # The summary is missing, or from before the run was resumed.
            found = {
                "run": kept.name,
                "status": "RUNNING" if state == "running" else "INTERRUPTED",
                "ended": None,
                "rounds": len(kept.reports),
                "rounds_planned": kept.job_file.job.training.rounds,
                "epsilon": dict(kept.reports[-1].epsilon) if kept.reports else {},
                "model": None,
            }
        return cls(Job._of(kept.job_file), path, found, kept.reports)

    @property
    def name(self) -> str:
        """The run's unique name."""
        return str(self.summary["run"])

    @property
    def status(self) -> Status:
        """FINISHED, FAILED, or KILLED by Ctrl-C. A run that was opened may also be RUNNING, or
        INTERRUPTED: its process ended without a summary, and it can be resumed."""
        return cast(Status, self.summary["status"])

    @property
    def ended(self) -> str | None:
        """Why it ended before its last round, or None."""
        found = self.summary["ended"]
        return None if found is None else str(found)

    @property
    def rounds(self) -> int:
        """The number of completed rounds."""
        return len(self._reports)

    @property
    def epsilon(self) -> dict[str, float]:
        """An upper bound on what each silo's records have spent, failed attempts included; infinite
        without differential privacy. For a RUNNING or INTERRUPTED run: after its last completed
        round; the silo's ledger may have one more charge."""
        spent: Mapping[str, float] = self.summary["epsilon"]
        return {silo: spent.get(silo, 0.0) if self.job.private else inf for silo in self.job.silos}

    @property
    def history(self) -> pd.DataFrame:
        """A row for each completed round: the consortium's held-out figures with the ends of their
        95 % intervals (`_low`, `_high`; NaN in rounds without evaluation), `epsilon` of the silo
        that has spent most, `epsilon_SILO`, `silos`, `attempt`, `seconds` and bytes."""
        import pandas as pd

        rows = [self._row(report) for report in self._reports]
        columns = dict.fromkeys(name for row in rows for name in row)
        return pd.DataFrame(rows, columns=[*columns] or ["round"]).set_index("round")

    def _row(self, report: RoundReport) -> dict[str, Any]:
        spent = report.epsilon if self.job.private else dict.fromkeys(self.job.silos, inf)
        held_out = {"metrics_epsilon": report.metrics_epsilon} if report.metrics_epsilon else {}
        return {
            "round": report.round,
            **report.metrics.as_dict(),
            "epsilon": max(spent.values()),
            **{f"epsilon_{silo}": spent.get(silo) for silo in self.job.silos},
            **held_out,
            "silos": len(report.roster),
            "attempt": report.attempt,
            "seconds": report.seconds,
            "up_bytes": report.up_bytes,
            "down_bytes": report.down_bytes,
        }

    @property
    def model(self) -> Model:
        """The released model, which predicts on data frames.

        Raises:
            JobError: the run released none.
        """
        if self._model is None:
            from blindsum.pipelines.interface.model import Model

            if self.folder is None or not (self.folder / MODEL).is_file():
                raise JobError(
                    f"{self.name} released no model", "A run does once a round is completed."
                )
            self._model = Model(self.folder / MODEL)
        return self._model

    @property
    def statistics(self) -> dict[str, Any]:
        """The figures of a run of statistics, as `statistics.json` has them.

        Raises:
            JobError: it is a run of another kind, or did not complete.
        """
        if "statistics" not in self.summary:
            raise JobError(
                f"{self.name} has no statistics", "Run the job that Job.statistics returns."
            )
        return dict(self.summary["statistics"])

    def plot(self) -> Figure:
        """Return a figure: the held-out score with its 95 % interval, and each silo's epsilon with
        its budget, by round.

        Raises:
            JobError: no round was completed.
        """
        from blindsum.pipelines.run.save import draw

        if not self._reports:
            raise JobError(f"{self.name} completed no round", "There is nothing to plot.")
        budgets = {s: None if e == inf else e for s, e in self.job.budgets.items()}
        return draw(f"{self.name}\n{self._result()}; {self._spent()}", self._reports, budgets)

    def _result(self) -> str:
        found = [r.metrics.held_out for r in self._reports if r.metrics.held_out]
        return found[-1].line() if found else "no round was evaluated"

    def _spent(self) -> str:
        if not self.job.private:
            return "no differential privacy: epsilon is unbounded"
        return f"epsilon at most {max(self.epsilon.values()):.3g}"

    def _completed(self) -> str:
        said = f"{self.rounds} of {self.job.settings['training']['rounds']} completed"
        return f"{said}; {self.ended}" if self.ended else said

    def __repr__(self) -> str:
        done = f"{_WORDS[self.status]}, {self.rounds} rounds"
        return f"<Run {self.name}: {done}; {self._result()}; {self._spent()}>"

    def _repr_html_(self) -> str:
        budgets = self.job.budgets
        rows = [
            ("run", self.name),
            ("status", _WORDS[self.status]),
            ("rounds", self._completed()),
            ("held out", self._result()),
            *(
                (f"epsilon {silo}", f"{spent:.3f} of {budgets[silo]:g}")
                for silo, spent in self.epsilon.items()
                if self.job.private
            ),
            *([] if self.job.private else [("epsilon", self._spent())]),
            ("folder", str(self.folder or "none: it was temporary")),
        ]
        cells = "".join(
            f'<tr><th style="text-align: left">{escape(label)}</th>'
            f'<td style="text-align: left">{escape(text)}</td></tr>'
            for label, text in rows
        )
        return f"<table>{cells}</table>"


def _summary(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    needed = {"run", "status", "ended", "rounds", "epsilon", "model"}
    return found if isinstance(found, dict) and needed <= found.keys() else {}
