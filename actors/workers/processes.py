"""A silo's workers as processes of the Ray in which the silo runs."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from blindsum.actors.placement import ONCE, require_gpus, require_no_others
from blindsum.actors.workers.worker import Worker
from blindsum.platform.data.computing import Told
from blindsum.platform.errors import BlindsumError, SiloLost, Unexpected

POLL_S = 1.0


class WorkerProcess:
    """A worker in a process of its own."""

    def __init__(self) -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # its memory holds records
        self._worker = Worker()

    def introduce(self) -> tuple[bytes, int, str]:
        """As `Worker.introduce`, with the name of the node."""
        return *self._worker.introduce(), ray.get_runtime_context().get_node_id()

    def begin(self, keys: bytes) -> None:
        """As `Worker.begin`."""
        self._worker.begin(keys)

    def ask(self, question: Any) -> Any:
        """As `Worker.ask`, with arrays of bytes, which Ray does not copy."""
        return np.frombuffer(self._worker.ask(question.tobytes()), np.uint8)

    @ray.method(concurrency_group="aside")
    def progress(self) -> float:
        """As `Worker.progress`."""
        return self._worker.progress()


_OPTIONS: dict[str, Any] = {"concurrency_groups": {"aside": 1}, "scheduling_strategy": "SPREAD"}

WorkerActor: Any = ray.remote(**ONCE, **_OPTIONS)(WorkerProcess)


class RayProcesses:
    """Workers on the nodes of this process's Ray. They end with this process, which owns them.

    Args:
        own: whether this Ray is the silo's own.
        gpus: the share of a GPU for each.

    Raises:
        ClusterError: other organisations' silos run on this Ray, or it has too few GPUs.
    """

    def __init__(self, count: int, own: bool, gpus: float = 0.0) -> None:
        offered = ray.cluster_resources()  # type: ignore[no-untyped-call]
        if not own:
            require_no_others(offered)
        require_gpus(count * gpus, offered)
        self._workers = [WorkerActor.options(num_gpus=gpus).remote() for _ in range(count)]

    @property
    def here(self) -> str:
        """As `blindsum.actors.workers.team.Processes.here`."""
        return str(ray.get_runtime_context().get_node_id())

    def introduce(self) -> list[tuple[bytes, int, str]]:
        """As `blindsum.actors.workers.team.Processes.introduce`."""
        return self._all([worker.introduce.remote() for worker in self._workers])

    def begin(self, keys: Sequence[bytes]) -> None:
        """As `blindsum.actors.workers.team.Processes.begin`."""
        pairs = zip(self._workers, keys, strict=True)
        self._all([worker.begin.remote(key) for worker, key in pairs])

    def ask(self, questions: Sequence[bytes], told: Told | None = None) -> list[bytes]:
        """As `blindsum.actors.workers.team.Processes.ask`."""
        pairs = zip(self._workers, questions, strict=True)
        asked = [worker.ask.remote(np.frombuffer(one, np.uint8)) for worker, one in pairs]
        return [answer.tobytes() for answer in self._all(asked, told)]

    def _all(self, asked: Sequence[Any], told: Told | None = None) -> list[Any]:
        """Return all answers. The first loss ends the waiting."""
        waiting, found, done = list(asked), dict[Any, Any](), 0.0
        while waiting:
            ready, waiting = ray.wait(waiting, timeout=POLL_S if told else None)
            for ref in ready:
                found[ref] = self._value(ref, asked.index(ref))
            if told and waiting:
                now = self._progress()
                if now > done:
                    told(now)
                done = max(done, now)
        return [found[ref] for ref in asked]

    def _progress(self) -> float:
        asked = [worker.progress.remote() for worker in self._workers]
        ready, _ = ray.wait(asked, num_returns=len(asked), timeout=POLL_S)
        shares: list[float] = [self._value(ref, asked.index(ref)) for ref in ready]
        return sum(shares) / len(asked)

    def _value(self, ref: Any, number: int) -> Any:
        try:
            return ray.get(ref)
        except RayTaskError as error:
            if isinstance(error.cause, BlindsumError):
                raise error.cause from None
            raise Unexpected(f"a worker failed with {type(error.cause).__name__}") from None
        except RayError as error:
            of = len(self._workers)
            died = "died" if isinstance(error, RayActorError) else "did not answer"
            raise SiloLost(
                f"its worker {number + 1} of {of} {died} ({type(error).__name__}), and its share "
                "of the table is lost",
                "Look at the memory and logs of the silo's nodes, then start the job again.",
            ) from None
