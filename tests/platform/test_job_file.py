"""Job files: every error has its line and a remedy."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from blindsum.platform.errors import JobError
from blindsum.platform.job.file import load_job
from tests.conftest import MakeJob, job_content

ROOT = Path(__file__).resolve().parents[2]


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(JobError) as caught:
        load_job(path, overrides)
    return str(caught.value)


def write(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(
        content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
    )
    return path


def edited(tmp_path: Path, keys: str, value: Any) -> Path:
    content = job_content(tmp_path)
    here: Any = content
    *parents, last = keys.split(".")
    for key in parents:
        here = here[int(key)] if key.isdigit() else here[key]
    if value is ...:
        del here[last]
    else:
        here[last] = value
    return write(tmp_path, content)


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        ("traning", {}, "traning: unknown key. Did you mean 'training'?"),
        ("training.epoch", 3, "training.epoch: unknown key. Known keys: rounds, local_steps"),
        ("privacy.epsilom", 3, "privacy.epsilom: unknown key. Did you mean 'epsilon'?"),
        ("silos.1.dat", "x", "silos.1.dat: unknown key. Did you mean 'data'?"),
        (
            "model.hidden",
            [3],
            "model.hidden: unknown key. Known keys: kind, weights, freeze, lora.",
        ),
        ("training.rounds", ..., "training.rounds: is missing. Add it."),
        ("privacy.noise", ..., "privacy: the key 'noise' is missing. Add it."),
        (
            "privacy.noise",
            "gaussian",
            "privacy: 'gaussian' is not known. Choose one of: 'local', 'shared', 'none'",
        ),
        ("privacy.epsilon", 0, "privacy.epsilon: input should be greater than 0"),
        ("privacy.epsilon", float("inf"), "privacy.epsilon: input should be a finite number"),
        ("privacy.epsilon", "three", "privacy.epsilon: input should be a valid number"),
        ("privacy.delta", 1, "privacy.delta: input should be less than 0.5"),
        ("training.rounds", 2.5, "training.rounds: input should be a valid integer"),
        (
            "training.sampling_rate",
            1.5,
            "training.sampling_rate: input should be less than or equal to 1",
        ),
        ("silos.0.name", "Alder & Co", "silos.0.name: string should match"),
        ("silos.2.name", "alder", "two silos have the same name, 'alder'"),
        ("silos.2.data", "alder.parquet", "two silos have the same data"),
        ("silos", [], "silos: list should have at least 2 items"),
        ("data.target.classes", ["a"], "data.target.classes: list should have at least 2 items"),
        ("data.target.classes", ["a", "a"], "data.target.classes: a class is named twice"),
        ("data.target.classes", ["a", 1], "classes must be all text or all integers"),
        ("data.folds", {"kind": "scaffold", "salt": "x"}, "folds.kind scaffold needs features"),
        ("quorum", 4, "quorum is 4, but the job has only 3 silos"),
        (
            "data.features.columns.mean_radius.scale",
            0,
            "mean_radius.scale: input should be greater",
        ),
        (
            "model",
            {"kind": "factory", "factory": "mine"},
            "model.factory: write it as module:function",
        ),
        ("privacy.noise", "shared", "takes one step a round: write training.local_steps: 1"),
        ("encryption", {"range": 1e307}, "encryption.range: write a number from 1e-12 to 1e12"),
        ("encryption", {"range": 1e-307}, "encryption.range: write a number from 1e-12 to 1e12"),
        ("encryption", {"bits": 40}, "encryption.bits: input should be less than or equal to 24"),
        ("training", 3, "training: is not a section. Write its keys"),
        ("privacy.epsilon", True, "privacy.epsilon: input should be a valid number"),
        ("silos.1.state", "state/birch", "write an absolute path"),
        ("silos.1.name", "aggregator", "cannot be named 'aggregator'"),
        ("silos.1.data", "./alder.parquet", "have the same data"),
        ("training.rounds", 1_000_000, "less than or equal to"),
    ],
)
def test_an_error_has_its_place_and_a_remedy(
    tmp_path: Path, keys: str, value: Any, said: str
) -> None:
    message = refused(edited(tmp_path, keys, value))
    assert said in message
    assert "job.yaml, line " in message


def test_the_line_is_the_right_one(tmp_path: Path) -> None:
    path = edited(tmp_path, "training.epoch", 3)
    line = 1 + path.read_text().splitlines().index("  epoch: 3")
    assert f"job.yaml, line {line}: training.epoch" in refused(path)


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    content = job_content(tmp_path)
    content["training"]["rounds"] = 0
    content["privacy"]["delta"] = 7
    content["extra"] = 1
    assert len(refused(write(tmp_path, content)).splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a job file"),
        ("- 1", "is not a job file"),
        ("a: [1", "line 1"),
        ("a: [1\n\n", "line 1"),
        # LibYAML's own composer would end the process
        pytest.param("[" * 200_000, "remove !! tags", id="nested too deeply"),
        ("? [a]\n: 1", "found unhashable key"),
        ("a: &x 1\nb: *x", "uses YAML aliases"),
        ("seed: 2024-13-45", "looks like a date or a number"),
        ("name: x\nname: y", "line 2: duplicate key 'name'"),
    ],
)
def test_texts_that_are_not_job_files(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(write(tmp_path, text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "blindsum init" in refused(tmp_path / "none.yaml")
    assert "cannot be read" in refused(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refused(tmp_path / "binary")


def test_overrides(make_job: MakeJob) -> None:
    job_file = make_job(
        "training.rounds=5",
        "silos.birch.epsilon=1.5",
        "silos.2.data=/else/c.parquet",
        "server.optimizer=momentum",
        "data.target.classes=[malignant, benign]",
    )
    job = job_file.job
    assert job.training.rounds == 5 and job.server.optimizer == "momentum"
    assert job.silo("birch").epsilon == 1.5 and job.silo("cedar").data == "/else/c.parquet"
    assert yaml.safe_load(job_file.text)["training"]["rounds"] == 5


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.rounds", "does not have the form"),
        ("training.round=5", "--set: training.round: unknown key. Did you mean 'rounds'?"),
        ("training.rounds=0", "--set: training.rounds: input should be greater"),
        ("silos.oak.epsilon=1", "there is no item 'oak'"),
        ("silos.9.epsilon=1", "Choose one of: alder, birch, cedar"),
        ("name.x=1", "name has no keys"),
        ("training.rounds=[", "is not a YAML value"),
    ],
)
def test_wrong_overrides(make_job: MakeJob, override: str, said: str) -> None:
    with pytest.raises(JobError) as caught:
        make_job(override)
    assert said in str(caught.value)


def test_numbers_with_an_exponent_are_numbers(make_job: MakeJob, tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-5 as text, but a delta written so is meant as a number."""
    assert make_job("privacy.delta=1e-5", "privacy.epsilon=2E0").job.privacy.delta == 1e-5  # type: ignore[union-attr]
    path = tmp_path / "exponent.yaml"
    path.write_text((tmp_path / "job.yaml").read_text().replace("delta: 0.0001", "delta: 1e-6"))
    assert load_job(path).job.privacy.delta == 1e-6  # type: ignore[union-attr]


def test_a_silo_budget_without_privacy_is_refused(make_job: MakeJob) -> None:
    with pytest.raises(JobError, match="has an epsilon but"):
        make_job("privacy={noise: none}", "silos.alder.epsilon=1")


def test_starter_and_example_are_valid(tmp_path: Path) -> None:
    starter = files("blindsum.pipelines.cli").joinpath("starter.yaml").read_text()
    assert load_job(write(tmp_path, starter)).job.roster[0] == "hospital-a"
    assert load_job(ROOT / "examples/solubility/job.yaml").job.privacy.noise == "shared"


def test_two_owners_datasets_may_have_the_same_name_but_not_be_the_same_file(
    tmp_path: Path,
) -> None:
    content = job_content(tmp_path)
    for silo in content["silos"]:
        silo["data"] = "tumours"
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    assert {silo.data for silo in load_job(path).job.silos} == {"tumours"}
    (tmp_path / "tumours").write_bytes(b"PAR1")
    with pytest.raises(JobError, match="have the same data"):
        load_job(path)
