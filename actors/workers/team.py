"""A silo's workers, from the silo's side: they read its table, and sum over its records.

The silo's own process holds no records. It gives every worker the same parameters, adds what they
return, and alone draws noise. In a private run each worker draws its own sample from its own
cryptographic generator, and tells nobody: records are sampled independently of each other, so that
the shares' samples together are a sample of the table. Without an answer of every worker there is
no sum: fewer records than the plan counts on would be noised too much, and more than that, the
model would silently be another one.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from blindsum.actors.codec import decoded, encoded
from blindsum.actors.messages import SiloSpec
from blindsum.actors.separate.failures import error_of
from blindsum.actors.separate.messages import Failure
from blindsum.actors.workers.parcels import Array, Parcel
from blindsum.actors.workers.reports import report_of, sample_of
from blindsum.actors.workers.sealing import Sealed, sealed_to
from blindsum.actors.workers.worker import skip
from blindsum.platform.data.computing import Computing, Told
from blindsum.platform.data.ragged import TaskLabels
from blindsum.platform.data.record_digests import Digests
from blindsum.platform.data.record_sample import RecordSample
from blindsum.platform.data.shares import ShareReport, load_in_shares
from blindsum.platform.data.table import SiloData
from blindsum.platform.errors import BlindsumError
from blindsum.platform.evaluation.scores import Answers
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.labels_section import Tasks
from blindsum.platform.job.paths import held_folders
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.state.approval import Approval
from blindsum.platform.training.vector import Vector


class Processes(Protocol):
    """The workers' processes, in one order."""

    def introduce(self) -> list[tuple[bytes, int, str]]:
        """Return each worker's public keys, its node's cores, and the node's name."""

    def begin(self, keys: Sequence[bytes]) -> None:
        """Give each worker its keys."""

    def ask(self, questions: Sequence[bytes], told: Told | None = None) -> list[bytes]:
        """Return each worker's answer to its question.

        Args:
            told: called with the share of the reading that is done, whenever it has grown.

        Raises:
            SiloLost: a worker died.
        """

    @property
    def here(self) -> str:
        """The name of the silo's own node."""


class Team:
    """The workers of one silo in one run.

    Args:
        state: the silo's state folder.
        approval: the owner's; workers import the job's own functions from the code that it covers.
    """

    def __init__(
        self,
        spec: SiloSpec,
        plan: PrivacyPlan | None,
        state: Path,
        processes: Processes,
        approval: Approval | None = None,
    ) -> None:
        self._spec, self._plan, self._state, self._processes = spec, plan, state, processes
        self._approval = approval
        self._sealed = list[Sealed]()
        self._threads = list[int]()
        self._reports = list[ShareReport]()
        self._table, self._own = Path(), Tasks()

    def __len__(self) -> int:
        return self._spec.job.silo(self._spec.name).workers

    # -- reading -------------------------------------------------------------------------

    def load(
        self, path: Path, contract: DataSection, rejects: Path, own: Tasks, computing: Computing
    ) -> SiloData:
        """Read the silo's table, as `blindsum.platform.data.shares.load_in_shares`."""
        self._begin()
        self._table, self._own = path, own
        data, self._reports = load_in_shares(self, path, contract, rejects, own, computing)
        return data

    def _begin(self) -> None:
        introduced = self._processes.introduce()
        sealed = [sealed_to(public) for public, _, _ in introduced]
        self._sealed = [one for one, _ in sealed]
        self._processes.begin([keys for _, keys in sealed])
        sharing = Counter(node for _, _, node in introduced)
        mine = self._spec.threads
        self._threads = [
            max(1, (mine if mine and node == self._processes.here else cores) // sharing[node])
            for _, cores, node in introduced
        ]

    def read(self, shares: Sequence[range], records: int, told: Told) -> list[ShareReport | str]:
        """As `blindsum.platform.data.shares.Readers.read`."""
        values = {
            "job": self._spec.job.model_dump_json(),
            "silo": self._spec.name,
            "own": encoded(self._own).decode(),
            "plan": encoded(self._plan).decode() if self._plan else None,
            "state": str(self._state),
            "table": str(self._table),
            "modules": sys.path,
            "files": [str(folder) for folder in held_folders()],
            "approval": self._approval.id if self._approval else None,
            "code": dict(self._approval.code) if self._approval else {},
            "records": records,
        }
        pairs = zip(shares, self._threads, strict=True)
        questions = [{"rows": [r.start, r.stop], "threads": n} for r, n in pairs]
        found = self._asked("read", [Parcel(values | one) for one in questions], told)
        return [one.what if isinstance(one, BlindsumError) else report_of(one) for one in found]

    def digests(self, begin: range) -> Iterator[list[Digests]]:
        """As `blindsum.platform.data.shares.Readers.digests`."""
        question = Parcel({"begin": [begin.start, begin.stop]})
        for answer in self._answers("digests", [question] * len(self)):
            yield [*answer.arrays.values()]

    def samples(self, most: int) -> Iterator[RecordSample]:
        """As `blindsum.platform.data.shares.Readers.samples`."""
        question = Parcel({"most": most})
        return (sample_of(one) for one in self._answers("sample", [question] * len(self)))

    def build(self) -> None:
        """Let the workers build the model, once it is known that the silo's own process can.

        Raises:
            ModelError: a worker cannot, for example because a module is missing on its node.
        """
        self._answers("build", [Parcel()] * len(self))

    # -- summing -------------------------------------------------------------------------

    def clipped_sum(
        self, parameters: Vector, clip_norm: float, random: np.random.Generator
    ) -> tuple[Vector, float]:
        """As `blindsum.platform.training.local.TrainedElsewhere.clipped_sum`."""
        counts, values = [one.outline.train for one in self._reports], {"clip norm": clip_norm}
        questions = [Parcel(values, {"parameters": parameters})] * len(self)
        if not self._spec.job.private:
            seeded = values | {"random": random.bit_generator.state}
            questions = [
                Parcel(seeded | {"before": sum(counts[:i])}, {"parameters": parameters})
                for i in range(len(self))
            ]
            skip(random, sum(counts))  # what the workers draw of the stream
        answers = self._answers("clipped sum", questions)
        sums = _sum([one.arrays["sums"] for one in answers]).astype(np.float32)
        return sums, sum(one.values["unclipped"] for one in answers)

    def class_sums(self, parameters: Vector) -> Array:
        """As `blindsum.platform.evaluation.elsewhere.HeldOutElsewhere.class_sums`."""
        return _sum([one.arrays["sums"] for one in self._evaluated("class sums", parameters)])

    def answers(self, parameters: Vector) -> tuple[Answers, float]:
        """As `blindsum.platform.evaluation.elsewhere.HeldOutElsewhere.answers`."""
        answers, loss = Answers(), 0.0
        found = self._evaluated("answers", parameters)
        for one, report in zip(found, self._reports, strict=True):
            if isinstance(report.labels, TaskLabels):
                answers.add_known(one.arrays["outputs"], report.labels)
            loss += one.values["loss"]
        return answers, loss

    def _evaluated(self, do: str, parameters: Vector) -> list[Parcel]:
        return self._answers(do, [Parcel({}, {"parameters": parameters})] * len(self))

    # -- asking --------------------------------------------------------------------------

    def _answers(self, do: str, questions: Sequence[Parcel]) -> list[Parcel]:
        """Return every worker's answer. Raises SiloLost, or the error of the first that has one."""
        found = self._asked(do, questions)
        for one in found:
            if isinstance(one, BlindsumError):
                raise one
        return [one for one in found if isinstance(one, Parcel)]

    def _asked(
        self, do: str, questions: Sequence[Parcel], told: Told | None = None
    ) -> list[Parcel | BlindsumError]:
        """Return every worker's answer or error. Raises SiloLost if one has none."""
        closed = [
            sealed.close(Parcel({**question.values, "do": do}, question.arrays))
            for sealed, question in zip(self._sealed, questions, strict=True)
        ]
        answers = self._processes.ask(closed, told)
        opened = [sealed.open(answer) for sealed, answer in zip(self._sealed, answers, strict=True)]
        return [self._read_answer(one) for one in opened]

    def _read_answer(self, answer: Parcel) -> Parcel | BlindsumError:
        if said := answer.values.get("failed"):
            return error_of(decoded(said.encode(), Failure), self._spec.name)
        return answer


def _sum(arrays: Sequence[Any]) -> Array:
    """Add up what the workers returned, in float64: the order then hardly matters."""
    found: Array = np.sum([one.astype(np.float64) for one in arrays], axis=0)
    return found
