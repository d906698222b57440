"""A job as a Python object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from blindsum.platform.errors import JobError
from blindsum.platform.job.file import JobFile, load_job, make_job
from blindsum.platform.job.yaml_reader import Loader


class Job:
    """A job: its silos, features, labels, model, training and privacy. Validated and immutable.

    Sections have the keys of a job file, as dicts; docs/job-file.md explains each of them.
    `Job.read` reads a job file instead.

    Args:
        content: the whole job as one dict, in place of `sections`.
        folder: paths in the job start here; default: the working directory.
        sections: the job's sections: name, silos, data, model, training, privacy, and others.

    Raises:
        JobError: a setting is wrong; lists every fault at once, by key.
    """

    def __init__(
        self,
        content: Mapping[str, Any] | None = None,
        /,
        *,
        folder: str | Path | None = None,
        **sections: Any,
    ) -> None:
        if content is not None and not isinstance(content, Mapping):
            raise JobError(
                f"a {type(content).__name__} is not a job",
                "Give a dict of its sections; Job.read(path) reads a job file.",
            )
        start = Path.cwd() if folder is None else Path(folder).expanduser()
        self._file = make_job({**(content or {}), **sections}, start)

    @classmethod
    def read(cls, path: str | Path, overrides: Sequence[str] = ()) -> Job:
        """Read a job file.

        Args:
            overrides: settings such as `"privacy.epsilon=1"`, as the command line's `--set`.

        Raises:
            JobError: the file cannot be read or a setting is wrong; lists every fault at once, by
                line.
        """
        return cls._of(load_job(Path(path).expanduser(), overrides))

    @classmethod
    def _of(cls, file: JobFile) -> Job:
        made = cls.__new__(cls)
        made._file = file
        return made

    def override(self, *settings: str) -> Job:
        """Return a copy with other settings, such as `"privacy.epsilon=1"`, as `--set` takes them.

        Raises:
            JobError: a setting is wrong.
        """
        import yaml

        content = yaml.load(self._file.text, Loader=Loader)
        return Job._of(make_job(content, self.folder, settings))

    def statistics(
        self,
        epsilon: float | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
    ) -> Job:
        """Return the job of statistics that `blindsum describe` runs.

        Args:
            epsilon: its budget; default: the job's `privacy.describe_epsilon`.
            bounds: public bounds of columns, in their units.

        Raises:
            JobError: there is no budget, or it is above a silo's.
        """
        from blindsum.pipelines.statistics.derived import derived

        return Job._of(derived(self._file, epsilon, bounds))

    @property
    def name(self) -> str:
        """The job's name."""
        return self._file.job.name

    @property
    def silos(self) -> tuple[str, ...]:
        """The names of its silos."""
        return self._file.job.roster

    @property
    def folder(self) -> Path:
        """The folder where paths in the job start."""
        return self._file.folder

    @property
    def text(self) -> str:
        """The job as YAML: what a job file holds."""
        return self._file.text

    @property
    def settings(self) -> dict[str, Any]:
        """All settings with their defaults, as nested dicts. Changing them does not change the
        job."""
        return self._file.job.model_dump()

    @property
    def private(self) -> bool:
        """Whether its runs are differentially private."""
        return self._file.job.private

    @property
    def budgets(self) -> dict[str, float]:
        """The epsilon that each silo may spend; infinite without differential privacy."""
        job = self._file.job
        if not job.private or job.privacy.noise == "none":
            return dict.fromkeys(job.roster, float("inf"))
        most = job.privacy.epsilon
        return {silo.name: min(most, silo.epsilon or most) for silo in job.silos}

    @property
    def job_file(self) -> JobFile:
        """The validated job, for Blindsum's own modules."""
        return self._file

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Job):
            return NotImplemented
        return (self._file.job, self.folder) == (other._file.job, other.folder)

    def __hash__(self) -> int:
        return hash((self.name, self.folder))

    def __repr__(self) -> str:
        budget = min(self.budgets.values())
        spends = f"epsilon {budget:g}" if self.private else "no differential privacy"
        return f"<Job {self.name}: silos {', '.join(self.silos)}; {spends}>"

    def _repr_html_(self) -> str:
        from blindsum.pipelines.run.job_picture import planned_picture

        drawn = escape(planned_picture(self._file).as_text())
        return f'<pre style="line-height: 1.2">{drawn}</pre>'
