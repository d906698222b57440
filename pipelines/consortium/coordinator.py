"""`blindsum coordinator serve`: listens for agents, and runs proposed jobs one after the other.

A job starts when all its silos have approved it and are connected. If some have refused and the
others reach its quorum, it starts without them; `coordinator start` does not wait for those that
have not decided. A run that this process was in when it ended goes on when it serves again.
"""

from __future__ import annotations

import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from blindsum.actors.ray_cluster import RayCluster
from blindsum.actors.separate.cluster import SeparateCluster
from blindsum.actors.separate.gate import Gate
from blindsum.actors.separate.messages import Proposal
from blindsum.actors.separate.registry import OPEN, ProposedJob
from blindsum.actors.separate.server import Server, server_context
from blindsum.he.identity import fingerprint
from blindsum.infra.certificates import (
    CA_CERTIFICATE,
    NODE_CERTIFICATE,
    NODE_KEY,
    days_left,
    make_node,
    sign_request,
)
from blindsum.infra.ray_session import ray_session
from blindsum.pipelines.consortium.job import checked_proposal, job_path
from blindsum.pipelines.consortium.settings import (
    CERTIFICATE_DAYS,
    CoordinatorHome,
    host_and_port,
)
from blindsum.pipelines.run.output import Shown
from blindsum.pipelines.run.run import Run
from blindsum.pipelines.run.run_log import Kept, read_log
from blindsum.pipelines.run.train import train
from blindsum.platform.errors import BlindsumError, ClusterError, without_values
from blindsum.platform.job.file import load_job

_LOOK_S = 0.5
Say = Callable[[str], None]


class Coordinator:
    """A serving coordinator.

    Args:
        say: shows one line to the operator.
        listener: makes the listener that shows a run.
        finished: called with every run that has ended.
    """

    def __init__(
        self,
        home: CoordinatorHome,
        version: str,
        say: Say,
        listener: Callable[[], Shown],
        finished: Callable[[Run], None],
    ) -> None:
        self._home, self._say, self._listener, self._finished = home, say, listener, finished
        self.registry = home.registry
        self.gate = Gate(
            self.registry,
            home.identity,
            self._sign,
            version,
            self.take_job,
            need_certificate=home.file.tls == "mutual",
        )
        self._told: dict[str, str] = {}
        self._states: dict[str, str] = {}

    def serve(self, stop: threading.Event) -> None:
        """Serve until `stop` is set or SIGTERM or Ctrl-C arrives.

        Raises:
            ClusterError: an address cannot be listened on, or Ray cannot be started.
            KeyboardInterrupt: a signal ended a run, which goes on when it serves again.
        """
        started = threading.Event()
        with ExitStack() as stack:
            stack.enter_context(_stopped_by_signals(stop, started))
            self._say("starting Ray for the aggregators")
            stack.enter_context(ray_session(self._home.file.ray))
            started.set()
            server = Server(
                self.gate.handle,
                [host_and_port(one) for one in self._home.file.listen],
                self._context(),
                self.gate.begin,
            )
            stack.callback(server.close)
            self._say(f"serving {self._home.file.url} (port {', '.join(map(str, server.ports))})")
            self._say(f"identity {fingerprint(self._home.identity.public)}")
            for one in self.registry.proposals():
                if one.state == "running":
                    self.registry.note(one.digest, "interrupted")
            while not stop.is_set():
                try:
                    self._look()
                except ClusterError as error:  # the disk is full, for example
                    self._say_once("registry", str(error))
                time.sleep(_LOOK_S)  # stop.wait() would hold the lock that a signal's set() takes

    def _look(self) -> None:
        """Run the next job that can start."""
        proposals = self.registry.proposals()
        self._offer(proposals)
        if ready := next(filter(self._is_ready, proposals), None):
            self._run(ready)

    def _offer(self, proposals: list[ProposedJob]) -> None:
        """Tell the agents what has changed, also by commands in other processes."""
        states = {one.digest: one.state for one in proposals}
        if states != self._states:
            self._states = states
            self.gate.boards_changed()

    def _context(self) -> ssl.SSLContext:
        tls = self._home.tls
        if days_left(tls) < CERTIFICATE_DAYS:
            for name in (NODE_CERTIFICATE, NODE_KEY, CA_CERTIFICATE):
                (tls / name).unlink()
            host = self._home.file.url.removeprefix("https://").rpartition(":")[0].strip("[]")
            make_node(self._home.folder, "gate", [host], CERTIFICATE_DAYS * 4)
        return server_context(tls / NODE_CERTIFICATE, tls / NODE_KEY, tls / CA_CERTIFICATE)

    def _sign(self, request: str, silo: str) -> tuple[str, str]:
        return sign_request(self._home.folder, request, f"{silo}.silo", CERTIFICATE_DAYS)

    def take_job(
        self, proposal: Proposal, code: Mapping[str, bytes]
    ) -> tuple[str, Mapping[str, str]]:
        """Take a proposal: check it, pin the silos' identities in it, and offer it to the silos.

        Raises:
            JobError: the job cannot run here; lists every fault at once.
        """
        silos = self.registry.silos()
        job = checked_proposal(proposal, code, silos, self._home.file.factory == "run")
        pinned = Proposal(name=job.name, job=job.model_dump_json(), code=tuple(code))
        digest = self.registry.propose(pinned, code)
        self._say(f"job {job.name} ({digest[:8]}) is proposed to {', '.join(job.roster)}")
        return digest, {name: fingerprint(silos[name].identity)[:16] for name in job.roster}

    def _is_ready(self, one: ProposedJob) -> bool:
        """Return whether a proposal can start now; say once what it waits for."""
        if one.state not in OPEN or one.state == "running":
            return False
        decisions = self.registry.decisions(one.digest)
        verdicts = {name: decisions[name].verdict for name in one.roster if name in decisions}
        approved = [name for name, verdict in verdicts.items() if verdict == "approved"]
        refused = [name for name, verdict in verdicts.items() if verdict == "refused"]
        undecided = [name for name in one.roster if name not in approved and name not in refused]
        if one.least > len(one.roster) - len(refused):
            why = "; ".join(f"{name}: {decisions[name].reason or 'refused'}" for name in refused)
            self._end(one, "failed", f"too few silos are left, since some refused ({why})")
            return False
        enough = len(approved) >= one.least and (one.forced or not undecided)
        away = [name for name in approved if not self.gate.connected(name)]
        if enough and (len(approved) - len(away) >= one.least if one.forced else not away):
            return True
        waits = [f"{name} to decide" for name in undecided] + [f"{n} to connect" for n in away]
        line = f"job {one.name} ({one.digest[:8]}) waits for {', '.join(waits)}"
        self._say_once(one.digest, line)
        return False

    def _run(self, one: ProposedJob) -> None:
        """Run a job to its end."""
        kept, job_file = None, load_job(job_path(self._home.jobs, one), [])
        if one.run:
            kept = _kept(self._home.jobs / "runs" / one.run)
        mailboxes = {name: self.gate.mailbox(name) for name in one.roster}
        cluster = SeparateCluster(
            RayCluster(), mailboxes, one.digest, job_file.job.deadlines.silent_s
        )
        self._set(one, "running")
        listener = self._listener()
        seen: list[Run] = []

        def begun(run: Run) -> None:
            self.registry.note(one.digest, "running", run=run.name)

        try:
            run = train(
                job_file, None, listener, seen.append, kept=kept, cluster=cluster, begun=begun
            )
            self._end(one, "finished", run.headline())
        except KeyboardInterrupt:
            self._set(one, "interrupted")
            raise
        except BlindsumError as error:
            self._end(one, "failed", str(error))
        except Exception as error:  # noqa: BLE001 - one job's fault must not end the others
            self._end(one, "failed", str(without_values(error)))
        finally:
            listener.close()
            cluster.close()
            for each in seen:
                self._finished(each)

    def _set(self, one: ProposedJob, state: str) -> None:
        self.registry.note(one.digest, state)
        self.gate.boards_changed()

    def _end(self, one: ProposedJob, state: str, note: str) -> None:
        self.registry.note(one.digest, state, note=note)
        self.gate.boards_changed()
        self._say(f"job {one.name} ({one.digest[:8]}) has {state}: {note}")

    def _say_once(self, about: str, line: str) -> None:
        if self._told.get(about) != line:
            self._told[about] = line
            self._say(line)


@contextmanager
def _stopped_by_signals(stop: threading.Event, started: threading.Event) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C set `stop`; before `started`, let them raise KeyboardInterrupt. A run
    has handlers of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hear(*_: object) -> None:
        if not started.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _kept(folder: Path) -> Kept | None:
    """Return an interrupted run, or None if it had not completed a round."""
    try:
        kept = read_log(folder)
    except BlindsumError:
        return None
    return None if kept.ended else kept
