"""The examples' jobs are valid, and their tables meet them. (The solubility example runs whole.)"""

from pathlib import Path

import pytest

from blindsum.pipelines.comparison.baseline import member_of
from blindsum.platform.job.file import load_job
from blindsum.platform.privacy.plan import plan

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize("name", sorted(path.parent.name for path in EXAMPLES.glob("*/job.yaml")))
def test_an_example_is_ready_to_run(name: str) -> None:
    job_file = load_job(EXAMPLES / name / "job.yaml")
    job = job_file.job
    for silo in job.roster:
        found = member_of(job_file, silo)
        own = plan(job, silo)
        assert own and own.rounds_within_budget == job.training.rounds
        expected = len(found.data.train) * job.training.sampling_rate
        assert job.training.expected_batch_size == pytest.approx(expected, rel=0.3)
        assert bool(found.own) == job.has_private_tasks
    said = (EXAMPLES / name / "README.md").read_text()
    assert f"blindsum run examples/{name}/job.yaml" in said
    assert "synthetic" in said or name not in ("fraud", "heart")
