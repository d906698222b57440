"""Workers in this process, for tests that look at what passes between a silo and its workers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from blindsum.actors import prepared
from blindsum.actors.admission import Admission
from blindsum.actors.messages import SiloSpec
from blindsum.actors.workers.team import Team
from blindsum.actors.workers.worker import Worker
from blindsum.platform.data.computing import Told
from blindsum.platform.job.paths import SiloPlaces
from blindsum.platform.privacy.plan import PrivacyPlan


class LocalProcesses:
    """As `blindsum.actors.workers.team.Processes`. `passed` has every message."""

    here = "this node"

    def __init__(self, count: int) -> None:
        self.workers = [Worker() for _ in range(count)]
        self.passed = list[bytes]()

    def introduce(self) -> list[tuple[bytes, int, str]]:
        return [(*worker.introduce(), self.here) for worker in self.workers]

    def begin(self, keys: Sequence[bytes]) -> None:
        self.passed += keys
        for worker, key in zip(self.workers, keys, strict=True):
            worker.begin(key)

    def ask(self, questions: Sequence[bytes], told: Told | None = None) -> list[bytes]:
        answers = [w.ask(one) for w, one in zip(self.workers, questions, strict=True)]
        self.passed += [*questions, *answers]
        if told:
            told(max(worker.progress() for worker in self.workers))
        return answers


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> dict[str, LocalProcesses]:
    """Let silos' workers be in this process; returns them by silo, once a silo has them."""
    found: dict[str, LocalProcesses] = {}

    def team(
        spec: SiloSpec, admission: Admission, plan: PrivacyPlan | None, places: SiloPlaces
    ) -> Team | None:
        count = spec.job.silo(spec.name).workers
        if count == 1:
            return None
        found[spec.name] = LocalProcesses(count)
        return Team(spec, plan, places.state, found[spec.name], admission.approval)

    monkeypatch.setattr(prepared, "_team", team)
    return found


def assert_nothing_readable(passed: Sequence[bytes], private: Sequence[bytes]) -> None:
    """Check messages for what may only be in them sealed."""
    assert len(passed) > 4
    for content in passed:
        for text in private:
            assert text not in content
