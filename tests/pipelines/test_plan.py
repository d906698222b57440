"""Planning on public records: what is tried, where figures come from, and who is refused."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from blindsum.he.parameters import Parameters
from blindsum.pipelines.cli.app import app
from blindsum.pipelines.selection import planning
from blindsum.pipelines.selection.digits import encryption_of
from blindsum.pipelines.selection.planning import CHOOSING, candidates, planned, trainings
from blindsum.pipelines.selection.rehearsal import Candidate, Rehearsal, rehearsal_of
from blindsum.platform.errors import ConsentError, DataError, JobError, PrivacyError
from blindsum.platform.job.file import load_job
from blindsum.platform.job.owner import OwnerFile
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import plan as plan_of
from blindsum.platform.privacy.plan import update_range
from blindsum.platform.privacy.shared_noise import require_fine

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "diagnosis"
JOB, PUBLIC = EXAMPLE / "job.yaml", EXAMPLE / "data" / "east.parquet"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "RATES", (0.25, 0.5))
    monkeypatch.setattr(planning, "ROUNDS", (2, 4))
    monkeypatch.setattr(planning, "FACTORS", (1.0,))


def rehearsal(**changed: Any) -> Rehearsal:
    given = {"silos": None, "records": None, "epsilon": None, "divisions": 4} | changed
    return rehearsal_of(load_job(JOB), PUBLIC, **given)


def ran(*options: str, job: Path = JOB) -> Any:
    return CliRunner().invoke(app, ["plan", str(job), "--data", str(PUBLIC), *options])


@pytest.mark.usefixtures("few")
def test_it_prints_rounds_against_scores_and_sections_that_the_job_takes(tmp_path: Path) -> None:
    done = ran("--yes", "--set", "training.rounds=3")
    assert done.exit_code == 0, done.output
    table, _, text = done.stdout.partition("\n\n")
    assert table.splitlines()[0].split()[:3] == ["rounds", "held-out", "score"]
    rounds = [line.split()[0] for line in table.splitlines()[1:]]
    assert rounds[:3] == ["2", "3", "4"] and rounds[3:] in ([], ["3"]), "the job's own is shown"
    assert "chosen" in table and "the job's own" in table
    assert "on which nothing was chosen" in done.stderr.replace("\n", " ")
    sections = yaml.safe_load(text)
    settings = [f"{name}={json.dumps(sections[name])}" for name in sections]
    job = load_job(JOB, [item for one in settings for item in [one]]).job
    assert job.private and job.training.rounds in (2, 3, 4)
    assert plan_of(job, "north") is not None


@pytest.mark.usefixtures("few")
def test_json_has_a_line_for_each_number_of_rounds_and_the_file_is_new(tmp_path: Path) -> None:
    out = tmp_path / "sections.yaml"
    options = ("--yes", "--json", "--epsilon", "1", "--silos", "3", "--data-size", "900")
    done = ran(*options, "--write", str(out))
    assert done.exit_code == 0, done.output
    *rows, said = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["event"] for row in rows} == {"plan"} and len(rows) in (3, 4)
    assert sum(row["chosen"] for row in rows) == 1 and sum(row["own"] for row in rows) == 1
    assert said["silos"] == 3 and said["records"] == 900
    assert said["sections"]["privacy"]["epsilon"] == 1
    rate = said["sections"]["training"]["sampling_rate"]
    assert said["sections"]["training"]["expected_batch_size"] == round(900 * rate)
    assert yaml.safe_load(out.read_text()) == said["sections"]
    again = ran(*options, "--write", str(out))
    assert isinstance(again.exception, JobError) and "already exists" in str(again.exception)


def test_without_a_yes_or_on_an_owners_machine_nothing_is_read(tmp_path: Path) -> None:
    assert "needs a yes" in str(ran().exception)
    place = tmp_path / "owner" / "silo.yaml"
    place.parent.mkdir(mode=0o700)
    content = {"names": ["north"], "state": str(tmp_path / "real"), "datasets": {}}
    content["datasets"] = {"east": {"path": str(PUBLIC)}}
    place.write_text(yaml.safe_dump(OwnerFile.model_validate(content).model_dump()))
    place.chmod(0o600)
    assert isinstance(ran("--yes").exception, ConsentError)
    with pytest.raises(ConsentError, match="would pass their ledger by"):  # from Python too
        planning.plan_job(load_job(JOB), PUBLIC, None, None, None, 2, None, True)


def test_models_without_steps_and_tables_without_the_columns_are_refused(tmp_path: Path) -> None:
    for model in ("{kind: trees}", "{kind: regression}"):
        done = ran("--yes", "--set", f"model={model}")
        assert isinstance(done.exception, JobError), done.output
    other = ROOT / "examples" / "solubility" / "job.yaml"
    assert isinstance(ran("--yes", job=other).exception, DataError | JobError)


def test_noise_is_that_of_the_planned_number_of_records() -> None:
    one = Candidate(0.5, 4, 1.0, 1.0)
    few, many = rehearsal(epsilon=0.1), rehearsal(epsilon=0.1, records=10_000)
    known = [r.sections(one, r.records or 100)["training"] for r in (few, many)]
    assert [k["expected_batch_size"] for k in known] == [50, 5000]
    scores = [np.mean([r.score(one, division) for division in range(4)]) for r in (few, many)]
    assert scores[1] > scores[0], "less noise"


def test_divisions_differ_and_silos_share_no_record() -> None:
    found = rehearsal()
    sizes = {tuple(d.train.features[:, 0].tolist()) for d in found.divisions}
    assert len(sizes) == 4, "another salt is another division"
    assert found.silos == 4 and found.epsilon == 3.0
    assert found.each(0) == len(found.divisions[0].train) / 4


class Known(Rehearsal):
    """A rehearsal whose scores are known: a candidate is lucky on the first division."""

    def score(self, candidate: Candidate, division: int) -> float:
        lucky = candidate.rounds == 30 and division == 0
        diverged = candidate.learning_rate > 1
        true = 0.7 if candidate.rounds == 60 else 0.6
        return float("nan") if diverged else (0.9 if lucky else true)


def test_no_figure_is_of_a_division_for_choosing() -> None:
    real = rehearsal(divisions=5)
    luck = Known(**{name: getattr(real, name) for name in real.__dataclass_fields__})
    count = [0]

    def done() -> None:
        count[0] += 1

    found = planned(luck, done)
    by_rounds = {row.candidate.rounds: row.estimate.mean for row in found.by_rounds}
    assert by_rounds[30] == pytest.approx(0.6), "not the 0.9 of the division for choosing"
    assert found.own.estimate.mean == pytest.approx(0.6)
    assert len(found.best.scores) == 5 - CHOOSING
    assert count[0] <= trainings(luck)


def test_if_every_model_diverges_it_says_so() -> None:
    class Lost(Rehearsal):
        def score(self, candidate: Candidate, division: int) -> float:
            return float("nan")

    real = rehearsal()
    with pytest.raises(DataError, match="no setting gave a score"):
        planned(Lost(**{name: getattr(real, name) for name in real.__dataclass_fields__}))


def test_without_privacy_only_rounds_and_learning_rates_are_tried() -> None:
    own = Candidate(0.25, 40, 1.0, 1.0)
    assert {one.sampling_rate for one in candidates(own, private=False)} == {0.25}
    assert len(candidates(own, private=True)) == 48


def test_integers_are_made_fine_enough_for_the_noise() -> None:
    """Large samples and little noise: what a run would refuse, the sections mend."""
    one = Candidate(1.0, 2, 1.0, 1.0)
    found = rehearsal(epsilon=8.0)
    coarse = found.planned(one, 20_000)
    assert encryption_of(found.planned(one, 100)) == {}
    bits = encryption_of(coarse)["encryption"]["bits"]
    content = coarse.model_dump(mode="json")
    content["encryption"]["bits"] = bits
    fine, own = Job.model_validate(content), plan_of(coarse, "silo-0")
    assert own is not None and own.share is not None
    for job, holds in ((coarse, False), (fine, True)):
        limit = Parameters.derive(4, job.encryption.bits).limit
        with nullcontext() if holds else pytest.raises(PrivacyError, match="integer units"):
            require_fine(own.share, update_range(job, own), limit)


def test_settings_that_cannot_go_together_are_one_message() -> None:
    done = ran(
        "--yes", "--epsilon", "3", "--set", "privacy={noise: none}",
        "--set", "training.local_steps=5",
    )  # fmt: skip
    assert isinstance(done.exception, JobError) and "the planned job is not valid" in str(
        done.exception
    )
    tiny = rehearsal(epsilon=0.001)
    assert np.isnan(tiny.score(Candidate(1.0, 100_000, 1.0, 1.0), 0))
