"""The names of metrics in MLflow, and what it shows of a run beside its figures."""

import getpass
import json
from dataclasses import replace
from pathlib import Path

import pytest

from blindsum.platform.evaluation.figures import HeldOut
from blindsum.platform.tracking import names
from blindsum.platform.tracking.mlflow_uri import runs_page
from blindsum.platform.tracking.run_facts import (
    dataset_of,
    experiment_note,
    flatten,
    origin_tags,
    run_note,
    settings_of,
)
from tests.conftest import SILOS, MakeJob

FOUND = HeldOut(records=90, accuracy=0.8, loss=0.4, largest_class=0.6, dropped=2)


def test_sections_begin_with_what_runs_are_compared_by() -> None:
    """MLflow sorts its sections of charts by name."""
    own = [v for k, v in vars(names).items() if k.isupper() and isinstance(v, str) and "/" in v]
    own += [names.held_out("accuracy"), names.epsilon_of("alder"), names.seconds_of("train")]
    sections = {name.rpartition("/")[0] for name in own}
    assert sorted(sections) == ["held_out", "privacy", "privacy/epsilon", "system", "training"]
    # A file store makes a folder of what comes before a slash: no metric may have that name.
    assert not sections & set(own)


def test_what_stays_the_same_is_a_tag_and_comes_back_as_a_figure() -> None:
    metrics, tags = names.held_out_metrics(FOUND), names.held_out_tags(FOUND)
    assert {"held_out/accuracy", "held_out/loss"} <= metrics.keys()
    assert "held_out/records" not in metrics and tags["blindsum.held_out.records"] == "90"
    more = {names.SECONDS_ROUND: 2.0, names.epsilon_of("alder"): 1.5}
    figures = names.figures_of({**metrics, **more}, tags)
    assert figures == {**FOUND.tracked(), "seconds_round": 2.0, "epsilon_spent.alder": 1.5}
    # Under noise every evaluation gives other counts.
    noised = replace(FOUND, deviation=0.01)
    assert "held_out/records" in names.held_out_metrics(noised) and not names.held_out_tags(noised)


def test_runs_from_before_there_were_groups_have_the_same_figures() -> None:
    earlier = {"accuracy": 0.8, "held_out_records": 90.0, "epsilon_spent.alder": 1.5}
    assert names.figures_of(earlier, {"epsilon": "3"}) == earlier


def test_what_is_not_a_number_is_not_logged() -> None:
    given = {"a": 1, "b": float("nan"), "c": float("inf"), "d": -float("inf"), "e": 0.0}
    assert names.loggable(given) == {"a": 1.0, "e": 0.0}


def test_settings_have_no_nulls_and_columns_are_one_of_them(make_job: MakeJob) -> None:
    settings = settings_of(make_job().job)
    assert "null" not in settings.values() and "quorum" not in settings
    assert settings["training.local_steps"] == "2" and settings["silos.alder.data"]
    assert "mean_radius" in json.loads(settings["data.features.columns"])
    assert len(settings) < 42
    assert flatten({"a": {"b": None}, "c": []}) == {"c": "[]"}


def test_long_settings_are_cut_and_still_told_apart(make_job: MakeJob) -> None:
    columns = ", ".join(f"column_{i}: {{}}" for i in range(1000))
    one, other = (
        settings_of(make_job(f"data.features.columns={{{columns}, {last}: {{}}}}").job)
        for last in ("one", "other")
    )
    name = "data.features.columns"
    assert one[name] != other[name] and len(one[name]) == len(other[name]) == 6000


def test_the_dataset_is_the_contract_and_says_nothing_of_a_table(
    make_job: MakeJob, tables: dict[str, Path]
) -> None:
    """A fingerprint of a table would let anyone who reads MLflow confirm a guess about records."""
    before = dataset_of(make_job().job)
    for silo in SILOS:
        tables[silo].unlink()
    again = dataset_of(make_job("seed=9", "training.rounds=7").job)
    assert vars(before.dataset) == vars(again.dataset), "tables do not enter, nor what is not data"
    other = dataset_of(make_job("data.folds.salt=other").job)
    assert other.dataset.digest != before.dataset.digest
    source = json.loads(before.dataset.source)
    assert source["silos"] == list(SILOS) and source["folds"]["salt"] == "t"
    assert before.dataset.profile is None, "MLflow's place for the number of rows"
    columns = json.loads(before.dataset.schema)["mlflow_colspec"]
    assert {column["name"] for column in columns} == {
        "mean_radius",
        "mean_texture",
        "mean_smoothness",
        "mean_concavity",
    }


def test_source_and_user_are_filled(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job_file = make_job()
    monkeypatch.setenv("LOGNAME", "ada")
    tags = origin_tags(job_file, "baseline local")
    assert tags["mlflow.source.name"] == "blindsum baseline local job.yaml"
    assert tags["mlflow.source.type"] == "LOCAL" and tags["mlflow.user"] == "ada"

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(getpass, "getuser", nobody)
    monkeypatch.setenv("BLINDSUM_SUBMITTED", "1")
    tags = origin_tags(job_file, "run")
    assert "mlflow.user" not in tags and tags["mlflow.source.type"] == "JOB"


def test_descriptions_name_model_features_and_silos(make_job: MakeJob) -> None:
    job = make_job().job
    assert run_note(job) == "A linear model on 4 columns, labels from column diagnosis."
    assert "alder, birch, cedar" in experiment_note(job)
    assert "held_out/" in experiment_note(job)


@pytest.mark.parametrize(
    ("uri", "server"),
    [
        ("sqlite:////tmp/mlflow.db", "http://127.0.0.1:5000"),
        ("postgresql+psycopg://db/mlflow", "http://127.0.0.1:5000"),
        ("https://mlflow.example:8443/", "https://mlflow.example:8443"),
    ],
)
def test_the_page_is_the_one_with_runs(uri: str, server: str) -> None:
    page = f"{server}/#/experiments/7/runs?workflowType=machine_learning"
    assert runs_page(uri, "7") == page
    assert runs_page("databricks", "7") is None
