"""What the closing summary says about a run, and where MLflow shows it."""

import pytest

from blindsum.actors.thread_cluster import ThreadCluster
from blindsum.pipelines.run.closing import show_end
from blindsum.pipelines.run.output import Quiet
from blindsum.pipelines.run.train import train
from tests.conftest import MakeJob

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's


@pytest.mark.parametrize(
    ("setting", "first", "second"),
    [
        ("training.learning_rate=1e9", "lower training.learning_rate (1e+09)", "encryption.range"),
        ("encryption.range=1e-6", "raise encryption.range (1e-06)", "training.learning_rate"),
    ],
)
def test_updates_that_were_cut_have_the_likelier_cause_first(
    setting: str, first: str, second: str, make_job: MakeJob, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(make_job("training.rounds=1", setting), None, Quiet(), cluster=ThreadCluster())
    show_end(run)
    said = " ".join("".join(capsys.readouterr()).split())
    assert first in said and second in said[said.index(first) + len(first) :]
    page = f"http://127.0.0.1:5000/#/experiments/{run.link.experiment_id}/runs"  # type: ignore[union-attr]
    assert f"{page}?workflowType=machine_learning" in said
    assert f"ui --backend-store-uri {run.link.uri}" in said  # type: ignore[union-attr]
