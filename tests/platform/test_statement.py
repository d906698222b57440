"""The privacy statement says what is guaranteed for this job, and what is not."""

import re

import pytest

from blindsum.pipelines.run.folders import run_name
from blindsum.platform.privacy.plan import plan
from blindsum.platform.privacy.statement import HEADINGS, Statement, as_page, privacy_statement
from blindsum.platform.tracking.run_facts import run_tags
from tests.conftest import MakeJob

SHARED = ("privacy.noise=shared", "training.local_steps=1")


def stated(make_job: MakeJob, *overrides: str) -> Statement:
    job = make_job(*overrides).job
    return privacy_statement(job, {n: plan(job, n) for n in job.roster})


@pytest.mark.parametrize("overrides", [(), SHARED])
def test_every_heading_is_there_and_every_silo_has_its_parameters(
    make_job: MakeJob, overrides: tuple[str, ...]
) -> None:
    found = stated(make_job, *overrides, "silos.birch.epsilon=1")
    assert tuple(found) == HEADINGS
    parameters = found["Privacy parameters"]
    assert {n: p["epsilon"] for n, p in parameters.items()} == {"alder": 3, "birch": 1, "cedar": 3}
    assert parameters["birch"]["epsilon of the whole plan"] <= 1


def test_the_statement_of_trust_follows_from_the_job(make_job: MakeJob) -> None:
    local = stated(make_job)["Threat model and trust"]
    assert local["other silos"] == "not trusted with a silo's records"
    shared = stated(make_job, *SHARED)["Threat model and trust"]
    assert "up to 1 of 3 may collude; at least 2 must add" in shared["other silos"]
    bare = stated(make_job, "encryption.scheme=none")
    assert bare["Threat model and trust"]["aggregator, driver, network"] == "TRUSTED"
    assert "NOT encrypted" in bare["Data security and access control"]["updates"]
    pin = f"silos.birch.identity={'ab' * 32}"
    pinned = stated(make_job, pin, "encryption.verify=keep")["Threat model and trust"]
    assert pinned["identities pinned in the job file"] == "1 of 3"
    assert pinned["totals"].endswith("signed uploads are kept as evidence")


@pytest.mark.parametrize("override", ["privacy={noise: none}", "privacy.test_seed=1"])
def test_without_privacy_nothing_is_promised(make_job: MakeJob, override: str) -> None:
    found = stated(make_job, override)
    assert "unbounded" in found["Privacy parameters"]["epsilon"]
    assert "may reveal training records" in found["What is not covered"]["everything"]
    assert found["Threat model and trust"]["anyone who can query the model"] == "TRUSTED"


def test_the_page_is_self_contained_and_escapes_its_content(make_job: MakeJob) -> None:
    page = as_page(stated(make_job), "<script>alert(1)</script>")
    assert "<script" not in page and not re.search(r"(src|href)=|url\(|@import", page)
    for heading in HEADINGS:
        assert f"<h2>{heading}</h2>" in page


def test_mlflow_and_the_runs_name_say_whether_a_run_is_private(make_job: MakeJob) -> None:
    for overrides, said, epsilon, named in (
        ((), "record-level, local noise", "3", "trial-eps3-"),
        (SHARED, "record-level, shared noise", "3", "trial-eps3-"),
        (("privacy.test_seed=1",), "NONE: privacy.test_seed is set", "unbounded", "NOT-PRIVATE"),
        (("privacy={noise: none}",), "NONE", "unbounded", "nodp"),
    ):
        job_file = make_job(*overrides)
        tags = run_tags(job_file.job)
        assert tags["blindsum.differential_privacy"] == said and tags["epsilon"] == epsilon
        assert named in run_name(job_file.job)
