"""Choosing features on public records: what is compared, how it is scored, and who is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from blindsum.pipelines.cli.app import app
from blindsum.pipelines.selection import candidates
from blindsum.pipelines.selection.candidates import REPRESENTATIONS, Plan, Setting, settings_of
from blindsum.pipelines.selection.command import choose_features
from blindsum.pipelines.selection.compared import Compared, Estimate, _best, compared
from blindsum.pipelines.selection.public_records import PublicRecords, read_public, tasks_of
from blindsum.pipelines.selection.trial import dealt, noise_of, parameters_of
from blindsum.platform.errors import ConsentError, DataError, JobError
from blindsum.platform.job.owner import OwnerFile
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import plan as plan_of
from tests.conftest import MakeJob

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "examples" / "assays" / "data" / "birch.parquet"
PLAN = Plan(silos=2, records=None, epsilon=3.0, delta=1e-4, tasks={"soluble": {"kind": "binary"}})


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "ROUNDS", 3)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("public") / "public.parquet"
    pq.write_table(pq.read_table(SOURCE).select(["smiles", "log_s", "soluble"]), path)
    return path


@pytest.fixture(scope="module")
def records(file: Path) -> PublicRecords:
    return read_public(file, "smiles", ["soluble"], ["projection-64", "maccs"])


def chosen(file: Path, *options: str) -> Any:
    few = ["--only", "projection-64", "--only", "maccs", "--folds", "3", "--silos", "2"]
    arguments = ["features", "--data", str(file), "--label", "soluble", *few, *options]
    return CliRunner().invoke(app, arguments)


def test_it_prints_a_table_and_sections_that_a_job_takes(file: Path, make_job: MakeJob) -> None:
    done = chosen(file, "--yes")
    assert done.exit_code == 0, done.output
    assert "The file must be public" in done.stderr and "epsilon 3" in done.stderr
    table, _, text = done.stdout.partition("\n\n")
    lines = table.splitlines()
    assert lines[0].split()[:2] == ["features", "inputs"] and len(lines) == 3
    assert {line.split()[0] for line in lines[1:]} == {"projection-64", "maccs"}
    assert all("±" in line for line in lines[1:])
    sections = yaml.safe_load(text)
    settings = [f"{name}={json.dumps(sections[name])}" for name in ("model", "training", "server")]
    features = sections["data"]["features"]
    job = make_job(*settings, f"privacy={json.dumps(sections['privacy'])}",
                   f"data.features={json.dumps(features)}").job  # fmt: skip
    assert job.data.features.kind in ("projection", "maccs")
    assert job.training.sampling_rate * 427 / 2 == pytest.approx(
        job.training.expected_batch_size, rel=0.02
    )


def test_it_writes_a_new_file_and_none_over_another(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "sections.yaml"
    done = chosen(file, "--yes", "--json", "--write", str(out), "--records", "500")
    assert done.exit_code == 0, done.output
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["event"] for one in events] == ["features", "features", "chosen"]
    best, other, said = events
    assert best["score"] >= other["score"] and best["against_best"] == 0
    assert other["against_best"] == pytest.approx(other["score"] - best["score"])
    assert len(best["by_fold"]) == 3 and best["standard_error"] > 0
    written = out.read_text()
    assert yaml.safe_load(written) == said["sections"]
    assert "500 training records" in written.splitlines()[0] and file.name in written
    assert said["sections"]["training"]["expected_batch_size"] == 250
    again = chosen(file, "--yes", "--write", str(out))
    assert again.exit_code == 1 and isinstance(again.exception, JobError)
    assert out.read_text() == written


def test_without_a_yes_nothing_is_read(tmp_path: Path) -> None:
    done = chosen(tmp_path / "none.parquet")
    assert isinstance(done.exception, JobError) and "needs a yes" in str(done.exception)


def test_an_owners_datasets_are_never_tuned_on(file: Path, tmp_path: Path) -> None:
    """Their ledger would not know of it. This fails if the owner's file is not looked for."""
    place = tmp_path / "owner" / "silo.yaml"
    place.parent.mkdir(mode=0o700)
    content = {"names": ["alder"], "state": str(tmp_path / "real"), "datasets": {}}
    content["datasets"] = {"assays": {"path": str(file)}}
    place.write_text(yaml.safe_dump(OwnerFile.model_validate(content).model_dump()))
    place.chmod(0o600)
    with pytest.raises(ConsentError, match="would pass their ledger by"):
        choose_features(file, ["soluble"], PLAN, ["maccs"], 3, 1, None, True)
    assert isinstance(chosen(file, "--yes").exception, ConsentError)


def test_a_budget_is_a_number_or_none(file: Path) -> None:
    done = chosen(file, "--yes", "--epsilon", "none")
    assert done.exit_code == 0 and "no privacy" in done.stderr
    assert yaml.safe_load(done.stdout.partition("\n\n")[2])["privacy"] == {"noise": "none"}
    for wrong in ("-1", "0", "nan", "inf", "much"):
        failed = chosen(file, "--yes", "--epsilon", wrong)
        assert isinstance(failed.exception, JobError) and "is no budget" in str(failed.exception)


def test_silos_have_scaffolds_of_their_own_and_no_more_records_than_planned(
    records: PublicRecords,
) -> None:
    rows = records.parts("fold", 3) != 0
    few = Plan(silos=2, records=40, epsilon=3.0, delta=1e-4)
    for plan, most in ((PLAN, 10**6), (few, 40)):
        silos = dealt(records, rows, plan, seed=1)
        keys = [{records.scaffolds[i] for i in np.flatnonzero(own)} for own in silos]
        assert not keys[0] & keys[1]
        assert all((own <= rows).all() and 0 < own.sum() <= most for own in silos)
    assert (sum(own.astype(int) for own in dealt(records, rows, PLAN, 1)) == rows).all()


def test_noise_weighs_as_much_as_beside_the_planned_number_of_records() -> None:
    job = Job.model_validate(PLAN.job(Setting("maccs", 0, 1.0), 1000, 1))
    whole = plan_of(job, "silo-0")
    assert whole is not None and whole.share is not None
    same, fewer = noise_of(job, "silo-0", 300, None), noise_of(job, "silo-0", 100, 1000)
    assert same is not None and fewer is not None
    assert same.own_noise == pytest.approx(whole.share)
    assert fewer.own_noise / 100 == pytest.approx(whole.share / 1000)
    plain = Plan(silos=2, records=None, epsilon=None, delta=1e-4, tasks=PLAN.tasks)
    bare = Job.model_validate(plain.job(Setting("maccs", 0, 1.0), 1000, 1))
    assert noise_of(bare, "silo-0", 100, 1000) is None


def test_every_setting_is_one_that_a_job_takes() -> None:
    settings = settings_of([], None) + settings_of([], 3.0)
    assert list(dict.fromkeys(one.representation for one in settings)) == list(REPRESENTATIONS)
    for one in settings:
        assert parameters_of(PLAN, one) > 16
    with pytest.raises(JobError, match="unknown features 'ecfp'.*There are physchem"):
        settings_of(["ecfp"], 3.0)


def test_a_standard_error_counts_that_folds_share_records() -> None:
    """Nadeau and Bengio: with 5 folds, 0.45 of the variance between folds and not 0.2."""
    values = np.array([0.70, 0.74, 0.72, 0.78, 0.71])
    found = Estimate.of(values)
    assert found.mean == pytest.approx(0.73)
    assert found.error == pytest.approx(np.sqrt(0.45 * values.var(ddof=1)))
    assert str(found) == "0.730 ± 0.021"
    assert not found.is_zero and Estimate.of(values - 0.73).is_zero
    one, other = Compared(Setting("maccs", 0, 1.0), values), Compared(
        Setting("physchem", 0, 1.0), values - np.array([0.01, 0.02, 0.01, 0.02, 0.01])
    )  # fmt: skip
    assert one.over(other).mean == pytest.approx(0.014)
    assert one.over(other).error < 0.01 and not one.over(other).is_zero


def test_a_fold_is_scored_with_what_is_best_on_the_others() -> None:
    """Or the more settings a representation has, the better it would look."""
    settings = [Setting("maccs", 0, 1.0), Setting("maccs", 0, 4.0)]
    by_fold = np.array([[0.9, 0.5, 0.5], [0.6, 0.6, 0.6]])
    found = _best(settings, by_fold)
    assert found.by_fold.tolist() == [0.6, 0.5, 0.5]
    assert found.setting == settings[0]  # 0.633 against 0.6 over all folds


def test_all_representations_have_the_same_records(tmp_path: Path) -> None:
    table = pq.read_table(SOURCE).select(["smiles", "soluble"]).slice(0, 210)
    odd = pa.table(
        {
            "smiles": ["no molecule", "C" * 301, "CCO", None],
            "soluble": pa.array([1, 1, None, 0], pa.int64()),
        }
    )
    path = tmp_path / "odd.parquet"
    pq.write_table(pa.concat_tables([table, odd]), path)
    found = read_public(path, "smiles", [], ["maccs", "physchem"])
    assert list(found.tasks) == ["soluble"] and found.left_out == 4
    assert len(found) == len(found.labels) == 210
    assert {len(one) for one in found.features.values()} == {210}
    pq.write_table(table, path)
    plain = read_public(path, "smiles", ["soluble"], ["physchem"])
    np.testing.assert_array_equal(plain.features["physchem"], found.features["physchem"])
    assert list(plain.scaffolds) == list(found.scaffolds)


def test_labels_are_found_or_named() -> None:
    table = pa.table(
        {
            "smiles": ["C", "CC", "CCC"],
            "name": ["a", "b", "c"],
            "toxic": [True, None, False],
            "active": [1.0, 0.0, None],
            "logd": [1.5, 2.5, None],
            "same": [2.0, 2.0, 2.0],
        }
    )
    path = Path("t.csv")
    found = tasks_of(table, path, "smiles", [])
    assert {name: task.kind for name, task in found.items()} == dict.fromkeys(
        ("toxic", "active"), "binary"
    )
    (logd,) = tasks_of(table, path, "smiles", ["logd"]).values()
    assert (logd.kind, logd.center, logd.scale) == ("regression", 2.0, 0.5)
    for labels, said in (
        (["name"], "is string, and no label"),
        (["same"], "has one value or none"),
        (["toxic", "logd"], "mixes columns of 0 and 1 with columns of numbers"),
    ):
        with pytest.raises(DataError, match=said):
            tasks_of(table, path, "smiles", labels)
    with pytest.raises(DataError, match="has no column of 0 and 1"):
        tasks_of(table.select(["smiles", "logd"]), path, "smiles", [])


def test_a_file_without_enough_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no column 'structure'.*smiles, log_s"):
        read_public(file, "structure", [], ["maccs"])
    path = tmp_path / "few.parquet"
    pq.write_table(pq.read_table(file).slice(0, 50), path)
    with pytest.raises(DataError, match="50 usable records, fewer than 200"):
        read_public(path, "smiles", ["soluble"], ["maccs"])


def test_numbers_are_scored_by_r2(file: Path) -> None:
    numbers = read_public(file, "smiles", ["log_s"], ["maccs"])
    assert not numbers.is_binary
    plan = Plan(silos=2, records=None, epsilon=None, delta=1e-4, tasks=numbers.task_sections)
    (found,) = compared(numbers, [Setting("maccs", 0, 1.0)], plan, 3, 1)
    assert -1 <= found.estimate.mean < 1


def test_a_silo_without_a_record_is_said(records: PublicRecords) -> None:
    one = PublicRecords(
        features=records.features, labels=records.labels, scaffolds=["C"] * len(records),
        tasks=records.tasks, left_out=0,
    )  # fmt: skip
    with pytest.raises(DataError, match="too few scaffolds for 2 silos and 3 folds"):
        compared(one, [Setting("maccs", 0, 1.0)], PLAN, 3, 1)
