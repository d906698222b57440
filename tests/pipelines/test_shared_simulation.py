"""Every output of a job whose simulated silos share processes says so."""

import json

import pytest

from blindsum.actors.thread_cluster import ThreadCluster
from blindsum.pipelines.run.check import check, show_check
from blindsum.pipelines.run.closing import show_end
from blindsum.pipelines.run.output import JsonLines
from blindsum.pipelines.run.save import closing_tags
from blindsum.pipelines.run.train import train
from blindsum.platform.job.schema import Job
from blindsum.platform.state.approval import job_digest
from tests.conftest import MakeJob

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's

SHARED = "simulation.silos_per_process=2"
SAID = "simulated: 2 silos share a process"


def test_check_says_that_silos_share_a_process(
    make_job: MakeJob, capsys: pytest.CaptureFixture[str]
) -> None:
    job_file = make_job(SHARED)
    checked = check(job_file, None)
    show_check(job_file, checked, as_json=False)
    shown = capsys.readouterr()
    assert SAID in " ".join(shown.out.split()) and SAID in " ".join(shown.err.split())
    show_check(job_file, checked, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["simulated"].startswith(SAID) and said["warnings"][0].startswith(SAID)
    show_check(plain := make_job(), check(plain, None), as_json=True)
    assert "simulated: " not in capsys.readouterr().out


def test_a_run_and_its_results_say_that_silos_share_a_process(
    make_job: MakeJob, capsys: pytest.CaptureFixture[str]
) -> None:
    job_file = make_job("training.rounds=1", SHARED)
    run = train(job_file, None, JsonLines(), cluster=ThreadCluster())
    planned = json.loads(capsys.readouterr().out.splitlines()[0])
    assert planned["warnings"][0].startswith(SAID)
    show_end(run)
    shown = capsys.readouterr()
    assert SAID in " ".join(shown.out.split()) and SAID in " ".join(shown.err.split())
    for name, place in (("summary.json", []), ("privacy-statement.json", ["simulation"])):
        content = json.loads((run.folder / name).read_text())
        found = content["Threat model and trust"][place[0]] if place else content["simulated"]
        assert found.startswith(SAID)
    assert closing_tags(run)["blindsum.simulated"].startswith(SAID)


def test_a_job_without_the_section_keeps_its_digest(make_job: MakeJob) -> None:
    job, shared = make_job().job, make_job(SHARED).job
    assert "simulation" not in job.model_dump() and job.simulated is None
    assert job_digest(shared) != job_digest(job), "an approval of one is none of the other"


def test_more_silos_per_process_than_silos_is_what_there_is(make_job: MakeJob) -> None:
    said = make_job("simulation.silos_per_process=64").job.simulated
    assert said and said.startswith("simulated: 3 silos share a process")


@pytest.mark.parametrize(
    ("silos_per_process", "wrong"), [(0, "greater than or equal to 1"), (65, "equal to 64")]
)
def test_a_process_has_one_to_sixty_four_silos(
    make_job: MakeJob, silos_per_process: int, wrong: str
) -> None:
    content = make_job().job.model_dump()
    content["simulation"] = {"silos_per_process": silos_per_process}
    with pytest.raises(ValueError, match=wrong):
        Job.model_validate(content)


def test_silos_with_workers_share_no_process(make_job: MakeJob) -> None:
    with pytest.raises(Exception, match="cannot be combined with silos.workers"):
        make_job(SHARED, "silos.birch.workers=2")
