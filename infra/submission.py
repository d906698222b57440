"""Jobs on a Ray cluster, through Ray's job submission.

A submission sends the job file, the sources of its `model.factory` and, if no node belongs to a
silo, this installation's code as a wheel. It does not send tables: each silo reads its own on its
own node.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from blindsum.actors.placement import driver_place, offers_silo
from blindsum.infra.bundle import write_bundle
from blindsum.infra.wheel import make_wheel, requirements
from blindsum.platform.errors import ClusterError, JobError
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.paths import SUBMITTED_VARIABLE

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

Ship = Literal["code", "all", "nothing"]
"""The part of this installation that is sent to the nodes: its code, its code with all its
requirements, or nothing."""

STOP_WAIT_S = 120
"""Seconds that Ray waits for a stopped job to save its model. Ray's default of 3 s is too short."""

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
STOPPED_STATUS = 130
"""Exit status of a stopped job, the same as after Ctrl-C."""

PATIENCE_S = 120
"""Seconds for which `Cluster.follow` waits for a cluster that does not answer."""

_POLL_S = 1.0
ADDRESSES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")


class Unanswered(ClusterError):
    """The cluster cannot be reached."""


@dataclass(frozen=True)
class Submitted:
    """A job that Ray accepted.

    `status` is Ray's: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED. `exit_status` is the
    command's, None while it runs. `started` and `ended` are seconds since 1970.
    """

    id: str
    name: str
    status: str
    exit_status: int | None
    started: float | None
    ended: float | None
    message: str = ""

    @property
    def over(self) -> bool:
        """Whether the job has ended."""
        return self.status in ENDED


class Cluster:
    """The job server of a Ray cluster.

    Args:
        address: such as `http://HOST:8265`, or https behind a proxy with TLS.
        ca: certificate that verifies an https address; by default the system's.

    With RAY_AUTH_MODE=token, the token comes from RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.

    Raises:
        ClusterError: nothing answers there, or the cluster refuses the token.
    """

    def __init__(self, address: str, ca: Path | None = None) -> None:
        if not address.startswith(("http://", "https://")):
            raise ClusterError(
                f"{address!r} is not the address of a cluster's job server",
                "It begins with http:// or https:// and has the port of Ray's dashboard: "
                "http://HOST:8265.",
            )
        if ca is not None and not ca.is_file():
            raise ClusterError(f"there is no certificate {ca}", "Check --ca.")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        from ray.job_submission import JobSubmissionClient

        for module in ("dashboard.modules.dashboard_sdk", "_private.runtime_env.packaging"):
            logging.getLogger(f"ray.{module}").setLevel(logging.ERROR)  # they set their own levels
        self._address = address
        if ca is not None:
            # Not all of Ray's clients take a certificate as an argument.
            os.environ["REQUESTS_CA_BUNDLE"] = str(ca)
        with self._explained(), _without(*ADDRESSES):
            self._client: JobSubmissionClient = JobSubmissionClient(address)

    def submit(
        self,
        job_file: JobFile,
        *,
        ship: Ship | None = None,
        with_folder: bool = False,
        resume: str | None = None,
        python: str = "python",
        json: bool = False,
    ) -> Submitted:
        """Submit a job to the cluster; its driver runs on a node without a silo, if there is one.

        Args:
            ship: see `Ship`. None means "nothing" if a node offers `silo:NAME`, so that an owner's
                machine runs the code that its owner installed, and "code" otherwise.
            with_folder: also send the tables that the job names, for simulations.
            resume: folder, on the driver's node, of an interrupted run to resume.
            python: the nodes' interpreter.
            json: print the run's result as JSON.

        Raises:
            JobError: the job has paths that are not valid on another machine.
            ClusterError: Ray refused the job.
        """
        if not with_folder:
            require_portable(job_file)
        command = ["resume", resume] if resume else ["run", job_file.path.name]
        command += ["--address", "auto", "--json" if json else "--lines"]
        nodes = self._nodes()
        if ship is None:
            ship = "nothing" if any(offers_silo(offers) for *_, offers in nodes) else "code"
        number = time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + "-" + os.urandom(3).hex()
        with tempfile.TemporaryDirectory(prefix="blindsum-") as made, self._explained():
            folder = write_bundle(job_file, Path(made) / "job", with_tables=with_folder)
            environment: dict[str, Any] = {
                "working_dir": str(folder),
                "env_vars": {
                    "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
                    SUBMITTED_VARIABLE: "1",
                },
            }
            if ship != "nothing":
                environment["py_modules"] = [str(make_wheel(Path(made)))]
            if ship == "all":
                environment["pip"] = {"packages": requirements(), "pip_check": False}
            found = self._client.submit_job(
                entrypoint=shlex.join([python, "-m", "blindsum", *command]),
                runtime_env=environment,
                submission_id=f"{job_file.job.name}-{number}",
                metadata={"blindsum.job": job_file.job.name},
                entrypoint_resources=driver_place(nodes),
            )
        return self.job(found)

    def job(self, id: str) -> Submitted:
        """Return a job by its id. Raises ClusterError if there is none."""
        with self._explained():
            return _submitted(self._client.get_job_info(id))

    def jobs(self) -> list[Submitted]:
        """Return Blindsum's jobs on the cluster, newest first."""
        with self._explained():
            found = self._client.list_jobs()
        ours = [_submitted(one) for one in found if "blindsum.job" in (one.metadata or {})]
        return sorted(ours, key=lambda one: one.started or 0.0, reverse=True)

    def logs(self, id: str) -> str:
        """Return a job's output so far."""
        with self._explained():
            return str(self._client.get_job_logs(id))

    def follow(self, id: str) -> Iterator[str]:
        """Yield a job's output as it appears, until the job has ended.

        Raises:
            Unanswered: the cluster has not answered for PATIENCE_S.
        """
        said, answered = 0, time.monotonic()
        while True:
            try:
                over = self.job(id).over
                text = self.logs(id)
                answered = time.monotonic()
            except Unanswered:
                if time.monotonic() - answered > PATIENCE_S:
                    raise
                over, text = False, ""
            if len(text) > said:
                yield text[said:]
                said = len(text)
            if over:
                return
            time.sleep(_POLL_S + said / 1e6)  # every answer contains the whole text

    def stop(self, id: str) -> Submitted:
        """Stop a job by SIGTERM, so that it saves its last model, and wait until it has ended."""
        with self._explained():
            self._client.stop_job(id)
        end = time.monotonic() + STOP_WAIT_S + 10
        while not (found := self.job(id)).over and time.monotonic() < end:
            time.sleep(_POLL_S)
        return found

    def _nodes(self) -> list[tuple[bool, str, dict[str, float]]]:
        """Return, for each live node, whether it is the head, its address, and its resources."""
        from ray.util.state import list_nodes

        with self._explained(), _without(*ADDRESSES):
            nodes = list_nodes(address=self._address, limit=10_000)
        live = [n for n in nodes if n.state == "ALIVE"]
        return [(n.is_head_node, n.node_ip, n.resources_total or {}) for n in live]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise errors of Ray and the network as ClusterErrors that say what to do."""
        import requests
        from ray.exceptions import AuthenticationError
        from ray.util.state.exception import RayStateApiException

        try:
            yield
        except AuthenticationError:
            raise no_token(self._address) from None
        except (ConnectionError, requests.exceptions.RequestException) as error:
            if "CERTIFICATE" in str(error).upper() or self._unverified():
                raise ClusterError(
                    f"the certificate of {self._address} cannot be verified here",
                    "Name the certificate that signed it: --ca FILE.",
                ) from None
            raise Unanswered(
                f"{self._address} does not answer",
                "Check that the cluster is running, with its dashboard at this address.",
            ) from None
        except (RuntimeError, RayStateApiException) as error:
            raise refusal(self._address, str(error)) from None
        except OSError as error:  # shutil.Error is one
            raise ClusterError(
                "the files to send cannot be copied: "
                f"{error.strerror or type(error).__name__}"
                f"{f' ({error.filename})' if error.filename else ''}",
                "Make room in the temporary folder, and check that the job's files can be read.",
            ) from None

    def _unverified(self) -> bool:
        """Return whether the certificate is at fault: Ray's client reports only that it failed to
        connect."""
        import requests

        if not self._address.startswith("https://"):
            return False
        try:
            requests.get(self._address, timeout=10)
        except requests.exceptions.SSLError:
            return True
        except requests.exceptions.RequestException:
            return False
        return False


def refusal(address: str, text: str) -> ClusterError:
    """Return the error that explains an answer of Ray's job server."""
    found = re.match(r"Request failed with status code (\d+)", text)
    status = found[1] if found else ""
    if status in ("401", "403"):
        return no_token(address)
    if status == "404":
        return ClusterError(f"{address} has no such job", "See: blindsum job list.")
    lines = [line for line in text.splitlines() if line.strip()]
    return ClusterError(
        f"Ray at {address} refused: {lines[-1][:300] if lines else 'no reason given'}"
    )


def no_token(address: str) -> ClusterError:
    """Return the error for an address that refuses the token."""
    return ClusterError(
        f"{address} refuses this token, or requires one",
        "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.",
    )


def require_portable(job_file: JobFile) -> None:
    """Check that the job's paths are valid on the silos' own nodes, where their tables lie.

    A path that starts with / or ~ is valid there, and so is a dataset's name in the owner's file.

    Raises:
        JobError: a path is relative to the job file; the message names the silos.
    """
    relative = [
        f"silos.{silo.name}.{key}"
        for silo in job_file.job.silos
        for key in ("data", "private_tasks")
        if (path := getattr(silo, key))
        and not path.startswith(("/", "~"))
        and ("/" in path or (job_file.folder / path).exists())
    ]
    if relative:
        raise JobError(
            f"{', '.join(relative)}: a path relative to the job file is not valid on another "
            "machine",
            "Write a path on the silo's own node that starts with / or ~, or the dataset's name in "
            "the owner's file. To simulate, send the tables along with: --with-folder.",
        )


@contextmanager
def _without(*variables: str) -> Iterator[None]:
    """Remove environment variables for a `with` block: Ray's client would prefer them to the
    address that the user gave."""
    kept = {name: os.environ.pop(name) for name in variables if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _submitted(found: Any) -> Submitted:
    status = str(getattr(found.status, "value", found.status))
    code = found.driver_exit_code
    if code is None and status in ENDED:
        code = {"SUCCEEDED": 0, "STOPPED": STOPPED_STATUS}.get(status, 1)
    started, ended = (t / 1000 if t else None for t in (found.start_time, found.end_time))
    name = (found.metadata or {}).get("blindsum.job", "")
    return Submitted(found.submission_id, name, status, code, started, ended, found.message or "")
