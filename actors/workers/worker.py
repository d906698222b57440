"""One worker of a silo: it holds a share of the table, and sums over its records.

A plain class; `blindsum.actors.workers.processes` runs it in a process of Ray. Whatever it returns
is sealed to the silo, errors included, because a text may name private tasks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from blindsum.actors.codec import decoded, encoded
from blindsum.actors.separate.failures import failure_of
from blindsum.actors.workers.parcels import Parcel
from blindsum.actors.workers.reports import parcel_of, parcel_of_sample
from blindsum.actors.workers.sealing import Receiver, Sealed
from blindsum.platform.data.computing import Computing, granted_cores
from blindsum.platform.data.device import device_for
from blindsum.platform.data.kept_results import KeptResults
from blindsum.platform.data.shares import Share, read_share
from blindsum.platform.errors import FederationError, KeyRefused, guarded
from blindsum.platform.evaluation.classes import class_sums, greatest_loss
from blindsum.platform.evaluation.tasks import answers_of
from blindsum.platform.job.labels_section import Task
from blindsum.platform.job.paths import files_from
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.privacy.randomness import generator_of
from blindsum.platform.state.approved_code import import_approved
from blindsum.platform.training.augmentation import augmentation_of
from blindsum.platform.training.local import DRAWN_AT_ONCE, LocalTrainer
from blindsum.platform.training.losses import record_loss
from blindsum.platform.training.models import model_of, set_trainable

Tasks = dict[str, Task]


@dataclass(frozen=True)
class _Work:
    """What a worker holds once it has read its share. The model is built when it is asked for."""

    job: Job
    silo: str
    own: Tasks
    plan: PrivacyPlan | None
    share: Share

    @cached_property
    def model(self) -> nn.Module:
        device = device_for(self.job.silo(self.silo).resources.gpus)
        return model_of(self.job, own=len(self.own)).to(device)

    @cached_property
    def random(self) -> np.random.Generator:
        return generator_of(self.job, self.silo)

    @cached_property
    def trainer(self) -> LocalTrainer:
        loss = record_loss(self.job, self.own)
        records, training = self.share.train, self.job.training
        augmentation = augmentation_of(self.job.data.features)
        return LocalTrainer(
            self.model, records, training, self.plan, self.random, loss, augmentation=augmentation
        )


class Worker:
    """A worker of one silo in one run."""

    def __init__(self) -> None:
        self._receiver, self._done = Receiver(), 0.0
        self._sealed: Sealed | None = None
        self._work: _Work | None = None
        self._methods: dict[str, Callable[[Parcel], Parcel]] = {
            "read": self._read,
            "digests": self._digests,
            "sample": self._sample,
            "build": self._build,
            "clipped sum": self._clipped_sum,
            "class sums": self._class_sums,
            "answers": self._answers,
        }

    def introduce(self) -> tuple[bytes, int]:
        """Return the keys to which the silo may seal, and the number of cores here. Public."""
        return self._receiver.public, granted_cores()

    @guarded
    def begin(self, keys: bytes) -> None:
        """Take the keys of the exchange with the silo, once.

        Raises:
            KeyRefused: they were not sealed to this worker, or it has some.
        """
        if self._sealed is not None:
            raise KeyRefused("this worker belongs to a silo already")
        self._sealed = self._receiver.take(keys)

    @guarded
    def ask(self, content: bytes) -> bytes:
        """Answer the silo's next question. Both are sealed.

        Raises:
            KeyRefused: the question is not the silo's next.
        """
        if self._sealed is None:
            raise KeyRefused("this worker belongs to no silo")
        question = self._sealed.open(content)
        try:
            answer = self._methods[question.values["do"]](question)
        except Exception as error:  # noqa: BLE001 - its text is for the silo alone
            answer = Parcel({"failed": encoded(failure_of(error)).decode()})
        return self._sealed.close(answer)

    def progress(self) -> float:
        """Return the share of the reading that is done, from another thread."""
        return self._done

    def _told(self, share: float) -> None:
        self._done = share

    def _read(self, question: Parcel) -> Parcel:
        said = question.values
        torch.set_num_threads(said["threads"])
        sys.path[:0] = [entry for entry in said["modules"] if entry not in sys.path]
        for folder in said["files"]:
            files_from(Path(folder))
        if said["code"]:
            import_approved(Path(said["state"]), said["approval"], said["code"])
        job = Job.model_validate_json(said["job"])
        own = decoded(said["own"].encode(), Tasks)
        plan = decoded(said["plan"].encode(), PrivacyPlan) if said["plan"] else None
        state = Path(said["state"])
        kept = state.is_dir()  # not on a node that has no part of it
        means = Computing(
            KeptResults(state) if kept else None,
            said["threads"],
            self._told,
            state if kept else None,
        )
        rows = range(*said["rows"])
        share = read_share(Path(said["table"]), job.data, own, means, rows, said["records"])
        self._work = _Work(job, said["silo"], own, plan, share)
        return parcel_of(share.report)

    def _digests(self, question: Parcel) -> Parcel:
        digests = self._own.share.digests
        begin = range(*question.values["begin"])
        return Parcel({}, {str(i): digests[i] for i in begin})

    def _sample(self, question: Parcel) -> Parcel:
        return parcel_of_sample(self._own.share.sample.at_most(question.values["most"]))

    def _build(self, question: Parcel) -> Parcel:
        self._work = replace(self._own, share=self._own.share.without_start())
        self._own.trainer  # noqa: B018 - raises what is wrong with the model
        return Parcel()

    def _clipped_sum(self, question: Parcel) -> Parcel:
        own, said = self._own, question.values
        if not own.job.private:  # all workers draw the same stream, and each uses its own part
            own.random.bit_generator.state = said["random"]
            skip(own.random, said["before"])
        sums, unclipped = own.trainer.clipped_sum(question.arrays["parameters"], said["clip norm"])
        return Parcel({"unclipped": unclipped}, {"sums": sums})

    def _class_sums(self, question: Parcel) -> Parcel:
        own = self._own
        if (target := own.job.data.target) is None:
            raise FederationError("this job has no classes")
        set_trainable(own.model, question.arrays["parameters"])
        most = greatest_loss(own.job, target)
        sums = class_sums(own.share.test.evaluated(own.model), len(target.classes), most)
        return Parcel({}, {"sums": sums})

    def _answers(self, question: Parcel) -> Parcel:
        own = self._own
        set_trainable(own.model, question.arrays["parameters"])
        evaluated = own.share.test.evaluated(own.model)
        answers, loss = answers_of(evaluated, own.job.data.tasks or {})
        return Parcel({"loss": loss}, {"outputs": answers.outputs})

    @property
    def _own(self) -> _Work:
        if self._work is None:
            raise FederationError("this worker has read no records")
        return self._work


def skip(random: np.random.Generator, records: int) -> None:
    """Draw the chances of other processes' records from a seeded stream."""
    for start in range(0, records, DRAWN_AT_ONCE):
        random.random(min(DRAWN_AT_ONCE, records - start))
