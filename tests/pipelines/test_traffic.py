"""What `check` says that a run sends is what the run counts."""

import pytest

from blindsum.actors.thread_cluster import ThreadCluster
from blindsum.pipelines.run import traffic as of_traffic
from blindsum.pipelines.run.check import check
from blindsum.pipelines.run.output import Quiet
from blindsum.pipelines.run.train import train
from tests.conftest import MakeJob

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's

SHARED = "privacy={noise: shared, epsilon: 3, delta: 1e-4}"
STAYS = "encryption.adapt_range=false"
LONG = "encryption={range: 0.01234567890123456}"


@pytest.mark.parametrize(
    "overrides",
    [
        (STAYS,),
        (STAYS, "training.rounds=11"),  # a digit more in the headers
        (SHARED, "training.local_steps=1"),
        (STAYS, "model={kind: mlp, hidden: [3000, 1000]}", "training.rounds=1"),  # several parts
        (STAYS, "privacy={noise: none}", "encryption.scheme=none"),
        (LONG,),  # adapts
    ],
)
def test_a_run_sends_what_check_says(make_job: MakeJob, overrides: tuple[str, ...]) -> None:
    job_file = make_job(*overrides)
    said = check(job_file, None).traffic
    run = train(job_file, None, Quiet(), cluster=ThreadCluster())
    up, down = sum(r.up_bytes for r in run.reports), sum(r.down_bytes for r in run.reports)
    adapts = overrides == (LONG,)
    assert adapts or not said.at_most
    if adapts:  # an update's frame has one range
        assert up <= said.up <= up + 64 * sum(len(r.roster) for r in run.reports)
    else:
        assert up == said.up
    assert down == said.down
    if not adapts and len(run.reports) > 1:  # the last one's bytes include its model's evaluation
        before = run.reports[-2]
        whole = (said.up_a_round, said.down_a_round)
        assert 0 <= whole[0] - before.up_bytes <= 3 * 64 and whole[1] == before.down_bytes


def test_no_factor_is_longer_in_a_header_than_the_longest() -> None:
    longest = len(repr(of_traffic._LONGEST))
    for exponent in range(-29, 30):
        assert len(repr(1.2345678901234567 * 10.0**exponent)) <= longest
