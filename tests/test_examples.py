"""The examples' jobs are valid, and their tables meet them. (The solubility example runs whole.)"""

from pathlib import Path

import pytest

from blindsum.pipelines.comparison.baseline import member_of
from blindsum.platform.job.file import load_job
from blindsum.platform.privacy.plan import plan

EXAMPLES = Path(__file__).parent.parent / "examples"
JOBS = [*EXAMPLES.glob("*/job.yaml"), EXAMPLES / "fraud" / "trees.yaml"]


@pytest.mark.parametrize("path", sorted(str(path.relative_to(EXAMPLES)) for path in JOBS))
def test_an_example_is_ready_to_run(path: str) -> None:
    name = Path(path).parent.name
    job_file = load_job(EXAMPLES / path)
    job = job_file.job
    for silo in job.roster:
        found = member_of(job_file, silo)
        own = plan(job, silo)
        assert own and own.rounds_within_budget == job.training.rounds
        expected = len(found.data.train) * job.training.sampling_rate
        assert job.training.expected_batch_size == pytest.approx(expected, rel=0.3)
        assert bool(found.own) == job.has_private_tasks
    said = (EXAMPLES / name / "README.md").read_text()
    assert f"blindsum run examples/{path}" in said
    assert "synthetic" in said or name not in ("fraud", "heart")


def test_the_models_of_frauds_differ_in_nothing_else() -> None:
    network, trees = (
        load_job(EXAMPLES / "fraud" / name).job for name in ("job.yaml", "trees.yaml")
    )
    alike = {"name", "seed", "silos", "data", "privacy"}
    assert network.model_dump(include=alike) == trees.model_dump(include=alike)
