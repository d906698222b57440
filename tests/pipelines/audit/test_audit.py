"""A whole audit as its user runs it: what is written where, what is said, and what it gates."""

import json
from pathlib import Path

import mlflow
import pytest

from blindsum.pipelines.audit import command, outcome
from blindsum.pipelines.audit.attacks.memorisation import Reading
from blindsum.pipelines.audit.attacks.shadows import mislabelled
from blindsum.pipelines.audit.evidence import DEFENCES, Evidence, Figure, proportion
from blindsum.platform.data.table import load_data
from blindsum.platform.errors import BlindsumError, JobError
from blindsum.platform.job.file import JobFile
from blindsum.platform.privacy.plan import plan
from tests.conftest import MakeJob

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow warns its users; not ours to mend

TINY = outcome.Depth(
    "tiny",
    1,
    0.3,
    20,
    (1, 3),
    (1,),
    (8,),
    18,
    200,
    federations=1,
    rounds=10,
    reading=Reading(2, 20),
    models=1,
    limit_s=5.0,
)
RELU = "model={kind: mlp, hidden: [24], activation: relu}"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "QUICK", TINY)


def audited(
    job_file: JobFile, capsys: pytest.CaptureFixture[str], *fail_on: str
) -> dict[str, object]:
    with pytest.raises(BlindsumError, match="1 of 1 limits exceeded: outsider.candidates.* > -1"):
        command.run_audit(
            job_file, "birch", True, ["outsider.candidates.right_candidate=-1"], True, mlflow=True
        )
    (line,) = capsys.readouterr().out.splitlines()
    return dict(json.loads(line))


@pytest.mark.usefixtures("cluster", "tiny")
def test_an_audit_leaves_a_report_and_keeps_records_in_the_silo(
    make_job: MakeJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job_file = make_job(RELU)
    said = audited(job_file, capsys)
    report = Path(str(said["report"]))
    figures = json.loads((report.parent / "audit.json").read_text())
    page = report.read_text()
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    for heading in ("Attacks and defences", "stay within its epsilon", "What was not tested"):
        assert heading in page
    _check_evidence(figures)
    assert not any(x is None for x in figures["refusals"].values())
    assert [p["epsilon"] for p in figures["score_by_epsilon"]] == [None, 1.0, 3.0, 8.0]
    assert len(figures["refusals"]) == 9 and all(figures["refusals"].values())
    assert figures["gate"]["server.planted_weights_accepted"] == 1, "no job is approved here"
    assert figures["gate"]["aggregator.key_recovery.share_of_the_key"] == 0
    assert report.stat().st_mode & 0o777 == 0o600
    assert figures["defence_of_the_job"] == "both"
    _check_private(job_file, tmp_path, page, report.parent / "audit.json")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = [e.experiment_id for e in client.search_experiments() if e.name == "trial"]
    (logged,) = client.search_runs([experiment])
    assert logged.data.metrics["audit/protocol/accepted_forgeries"] == 0
    assert logged.data.tags["blindsum.audit"] == "both"


def _check_evidence(figures: dict[str, list[dict[str, object]]]) -> None:
    by = {(e["attack"], e["defence"], e["checkpoint"]): e["figures"] for e in figures["evidence"]}
    for attack, checkpoint in (("closed form", "fresh"), ("sparse recovery", "fresh")):
        exact = {d: by[attack, d, checkpoint]["exact records"]["value"] for d in DEFENCES}  # type: ignore[index]
        assert exact == {"none": 1.0, "dp": 0.0, "encrypted": 0.0, "both": 0.0}
    attacks = {e["attack"] for e in figures["evidence"]}
    assert {
        "matching",
        "imprint",
        "subtraction",
        "key recovery",
        "upload opened",
        "lira",
        "rmia",
        "confidence",
        "candidates",
        "generator",
    } <= attacks
    for one in figures["evidence"]:
        assert all(f["floor"] is not None for f in one["figures"].values())  # type: ignore[attr-defined]


def _check_private(job_file: JobFile, tmp_path: Path, page: str, shared: Path) -> None:
    state = tmp_path / "state" / "birch" / "audit"
    names = {p.name for p in state.iterdir() if p.is_file()}
    assert names == {"exposed_records.csv", "records.html"}
    assert all((state / name).stat().st_mode & 0o777 == 0o600 for name in names)
    data = load_data(tmp_path / "birch.parquet", job_file.job.data, tmp_path / "rejected")
    lines = (state / "exposed_records.csv").read_text().splitlines()
    canaries = mislabelled(job_file.job, data)[1]
    assert len(lines) == 1 + len(data.train) - canaries.sum()
    rows = [int(line.partition(",")[0]) for line in lines[1:]]
    assert not set(rows) & set(canaries.nonzero()[0].tolist())
    # Nor does anything that may be shared tell how many records there are.
    shared_figures = json.loads(shared.read_text())
    exact = [v for v in shared_figures["gate"].values() if abs(v) < 1e6 and v != round(v, 3)]
    exact += [
        v
        for points in shared_figures["curves"].values()
        for p in points
        for v in p
        if v != round(v, 4)
    ]
    exact += [
        f["value"]
        for e in shared_figures["evidence"]
        for f in e["figures"].values()
        if f["value"] != round(f["value"], 3)
    ]
    assert not exact, "to the last digit a share tells of how many it is"
    assert shared_figures["curves"]["none"][0][0] == 1e-4
    values = {text for v in data.train.features.ravel() if len(text := f"{v:.6g}") > 7}
    assert len(values) > 100
    for text in (page, shared.read_text()):
        assert not any(value in text for value in list(values)[:400])


def test_limits_are_finite_and_of_figures_that_there_are(make_job: MakeJob) -> None:
    job_file = make_job(RELU)
    own = plan(make_job().job, "birch")
    assert own
    with pytest.raises(
        JobError, match="'no.such', a figure that this audit does not have.*forgeries"
    ):
        outcome.exceeded(outcome.Audit(job_file.job, "birch", TINY, own), {"no.such": 1.0})
    for nonsense in ("server.x=high", "server.x=nan", "server.x=inf"):
        with pytest.raises(JobError, match="is not a limit"):
            command.run_audit(job_file, "birch", True, [nonsense], True)
    for unknown in ("nobody.x=1", "server.lira.tpr_at_1pct_fpr=1"):
        with pytest.raises(JobError, match=r"unknown figure.*outsider\.lira\."):
            command.run_audit(job_file, "birch", True, [unknown], True)
    found = outcome.Audit(job_file.job, "birch", TINY, own)
    found.findings.evidence.append(
        Evidence("x", "server", found.own, "", {"y": Figure(float("nan"))})
    )
    assert outcome.exceeded(found, {"server.x.y": 1.0})


@pytest.mark.usefixtures("cluster", "tiny")
def test_what_a_model_does_not_allow_is_said_and_a_planted_layer_refused(
    make_job: MakeJob, tmp_path: Path
) -> None:
    (tmp_path / "dropping.py").write_text(
        "from torch import nn\n\ndef build(features, outputs):\n"
        "    return nn.Sequential(nn.Tanh(), nn.Dropout(0.2), nn.Linear(features, outputs))\n"
    )
    job_file = make_job("model={kind: factory, factory: 'dropping:build'}")
    command.run_audit(job_file, "birch", True, [], True)
    assert not (tmp_path / "mlflow.db").exists(), "nothing goes to MLflow unasked"
    (written,) = (tmp_path / "runs").glob("*/audit.json")
    found = json.loads(written.read_text())
    said = " ".join(found["not_tested"])
    for reason in (
        "closed form, batch of 1: the model does not begin",
        "subtraction",
    ):
        assert reason in said
    settings = {e["attack"]: e["setting"] for e in found["evidence"]}
    assert settings.keys() >= {"matching", "candidates", "lira"}
    assert "in front of the model" in settings["imprint"]
    assert "shadow models, each on half" in settings["lira"]
    assert found["gate"]["server.planted_weights_accepted"] == 1, "no approval is required here"


def test_an_interval_is_the_exact_binomial_one() -> None:
    """Against tabulated values of Clopper and Pearson for 0 and 3 of 10."""
    assert proportion(0, 10).high == pytest.approx(0.3085, abs=1e-4)
    three = proportion(3, 10, floor=0.05)
    assert (three.low, three.high) == (
        pytest.approx(0.0667, abs=1e-4),
        pytest.approx(0.6525, abs=1e-4),
    )
    assert three.above_floor and not proportion(1, 10, floor=0.05).above_floor
    # Of eight looked at, one hit in six among 400 records is chance; two of two is not.
    assert proportion(1, 6, 1 / 400).above_floor and not proportion(1, 6, 1 / 400, 8).above_floor
    assert proportion(2, 2, 1 / 400, 8).above_floor
    assert not Figure(0.1, 0.0, 0.2, floor=0.0).above_floor and Figure(1.0, floor=0.0).above_floor
