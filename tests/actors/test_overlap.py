"""What silos have in common, through the protocol: real ciphertext, and keys that rotate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from blindsum.pipelines.run.check import check
from blindsum.pipelines.statistics.derived import derived
from blindsum.platform.training.statistics.describing import Describing
from blindsum.platform.training.statistics.figures import Figures, figures_of
from blindsum.platform.training.statistics.interval import Figure
from tests.actors.test_trees import SentByRound
from tests.conftest import MakeJob

SHARED = ("privacy={noise: shared, epsilon: 3, delta: 1.0e-4}", "training.local_steps=1")
LOCAL = ("privacy={noise: local, epsilon: 3, delta: 1.0e-4}", "training.local_steps=1")


@pytest.fixture
def alike(tables: dict[str, Path]) -> None:
    """Let the second silo have all patients of the first, with other values."""
    alder, birch = (pq.read_table(tables[name]) for name in ("alder", "birch"))
    patients = alder.column("patient")
    at = birch.column_names.index("patient")
    pq.write_table(birch.set_column(at, "patient", patients), tables["birch"])


def made(make_job: MakeJob, *settings: str) -> SentByRound:
    return SentByRound(derived(make_job(*settings), 40.0, more={"overlap": {}}))


def figures(consortium: SentByRound) -> Figures:
    silo = consortium.silos["alder"]
    job: Any = silo._job
    return figures_of(Describing(job, job.model), silo._model.vector)


def near(figure: Figure, truth: float) -> bool:
    """Whether a figure is as near as three times its interval: the noise of a run has no seed."""
    width = max(figure.high - figure.value, figure.value - figure.low)
    return abs(figure.value - truth) <= 3 * width


@pytest.mark.usefixtures("alike")
@pytest.mark.parametrize("noise", [SHARED, LOCAL])
def test_patients_in_two_silos_are_counted_across_key_ceremonies(
    make_job: MakeJob, noise: tuple[str, ...]
) -> None:
    consortium = made(make_job, *noise)
    consortium.round(1)
    first = consortium.silos["alder"]._keys.of_identifiers()
    consortium.exchange_keys_anew()
    assert consortium.silos["alder"]._keys.of_identifiers() != first
    for number in (2, 3):
        consortium.round(number)
    found = figures(consortium).overlap
    assert found is not None and found.by == "key"
    assert near(found.pairs, 75) and 0 < found.pairs.low < found.pairs.high < 225
    assert near(found.identifiers, 225)
    keys = [silo._own.optimizer.state[0] for silo in consortium.silos.values()]
    assert all(np.array_equal(keys[0], one) for one in keys)
    assert np.array_equal(keys[0], np.frombuffer(first, np.uint8))


@pytest.mark.usefixtures("alike")
def test_a_resumed_silo_looks_up_under_the_key_that_its_checkpoint_kept(
    make_job: MakeJob,
) -> None:
    consortium = made(make_job, *SHARED)
    consortium.round(1)
    own = consortium.silos["alder"]._own
    kept = own.checkpoints.read(1)
    assert np.array_equal(kept.optimizer[0], own.optimizer.state[0]) and any(kept.optimizer[0])
    own.optimizer.state = (np.zeros(32),)
    own.go_to(kept)
    assert np.array_equal(own.optimizer.state[0], kept.optimizer[0])


def test_nothing_that_leaves_a_silo_holds_its_identifiers_or_their_key(
    make_job: MakeJob,
) -> None:
    consortium = made(make_job, *SHARED)
    silo = consortium.silos["alder"]
    for frame in consortium.train(consortium.exchange(1)):
        content = bytes(frame)
        assert silo._keys.of_identifiers() not in content
        digests = silo._own.data.identifiers
        assert digests is not None and len(digests) == 150
        assert not any(one in content for one in digests.tolist()[:20])
    for shown in (silo._keys._keys, silo._own.data, silo._own):
        assert repr(silo._keys.of_identifiers()) not in repr(shown)


def test_check_says_which_fold_keys_silos_share_and_by_what_they_are_protected(
    make_job: MakeJob, alike: None
) -> None:
    (said,) = check(make_job(*SHARED), None).concerns
    assert said.startswith("alder and birch have 75 fold keys in common: what stands in both is")
    assert "protected by epsilon" in said and "held-out figures" not in said
