"""Doubtful settings are named from the job alone, and sensible ones are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from blindsum.platform.job.file import load_job
from blindsum.platform.privacy.sanity import doubtful_epsilon, expected_records, job_warnings
from tests.conftest import MakeJob

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*/job.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_nothing_is_doubtful_about_an_example(path: Path) -> None:
    assert job_warnings(load_job(path).job) == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["privacy.epsilon=1000000"], "privacy.epsilon 1e+06 promises little"),
        (["silos.birch.epsilon=21"], "silos.birch.epsilon 21 promises little"),
        (["privacy.delta=0.01"], "privacy.delta 0.01 is above 1 / 110"),
        (["training.expected_batch_size=1"], "means 5 training records at each silo"),
        (
            ["training.expected_batch_size=1e9", "privacy.delta=1e-11"],
            "means 5e+09 training records",
        ),
        (
            ["training.sampling_rate=1e-6", "training.expected_batch_size=0.001"],
            "over 6 steps a record takes part with probability 6e-06, which privacy.delta 0.0001",
        ),
        (
            ["training.sampling_rate=0.002", "training.expected_batch_size=1"],
            "so the model learns from few of the records",
        ),
        (["training.learning_rate=1e9"], "training.learning_rate 1e+09 is above 100"),
        (["server={optimizer: adam, learning_rate: 2}"], "server.learning_rate 2 is above 1"),
    ],
)
def test_a_doubtful_setting_is_named_with_what_it_does(
    make_job: MakeJob, overrides: list[str], said: str
) -> None:
    found = job_warnings(make_job(*overrides).job)
    assert len(found) == 1 and said in found[0], found


def test_without_privacy_only_what_trains_badly_is_named(make_job: MakeJob) -> None:
    job = make_job("privacy={noise: none}", "training.learning_rate=1e9").job
    assert [text.split()[0] for text in job_warnings(job)] == ["training.learning_rate"]


def test_a_delta_below_one_record_is_not_doubtful(make_job: MakeJob) -> None:
    job = make_job("privacy.delta=0.009").job
    assert expected_records(job) == pytest.approx(110)
    assert job_warnings(job) == []


def test_an_epsilon_of_20_is_the_last_that_is_not_doubtful() -> None:
    assert doubtful_epsilon(20, "a limit of") is None
    assert "a limit of 20.5 promises little" in (doubtful_epsilon(20.5, "a limit of") or "")
