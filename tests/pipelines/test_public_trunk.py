"""Weights of public records: what is written, that a job can begin with it, and who is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from typer.testing import CliRunner

from blindsum.pipelines.cli.app import app
from blindsum.pipelines.comparison.baseline import baseline
from blindsum.pipelines.comparison.public_trunk import write_trunk
from blindsum.platform.errors import ConsentError, JobError, ModelError
from blindsum.platform.job import paths
from blindsum.platform.job.owner import OwnerFile
from blindsum.platform.training.models import get_parameters, model_of
from tests.conftest import MakeJob

MLP = "model={kind: mlp, hidden: [5, 4]}"


@pytest.fixture(autouse=True)
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_HELD", [tmp_path])


def test_a_job_begins_with_what_the_command_prints(make_job: MakeJob, tmp_path: Path) -> None:
    path = make_job(MLP).path
    file = tmp_path / "trunk.safetensors"
    arguments = ["baseline", "pooled", str(path), "--publish-weights", str(file)]
    options = ["--set", MLP, "--set", f"tracking.uri=sqlite:///{tmp_path}/m.db", "--yes"]
    done = CliRunner().invoke(app, [*arguments, *options])
    assert done.exit_code == 0, done.output
    assert "trains without differential privacy" in done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    printed = [one for one in lines if one.startswith(("weights:", "freeze:"))]
    assert printed[1] == 'freeze: ["0.*", "2.*"]'
    job = make_job(f"model={{kind: mlp, hidden: [5, 4], {', '.join(printed)}}}").job
    model = model_of(job)
    held = safetensors.torch.load_file(file)
    assert set(held) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    for name, values in held.items():
        torch.testing.assert_close(model.state_dict()[name], values)
    assert get_parameters(model).size == 4 * 2 + 2
    plain = model_of(make_job(MLP).job).state_dict()
    assert not torch.equal(plain["0.weight"], held["0.weight"])  # it was trained


def test_it_is_trained_without_privacy_and_says_so(make_job: MakeJob, tmp_path: Path) -> None:
    job_file = make_job(MLP, f"tracking.uri=sqlite:///{tmp_path}/m.db")
    file = tmp_path / "trunk.safetensors"
    assert job_file.job.private
    found = baseline(job_file, "pooled", weights=file)
    assert found.epsilon is None and found.trunk is not None
    assert found.trunk.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert baseline(job_file, "pooled").trunk is None


def test_without_a_yes_nothing_is_trained(make_job: MakeJob, tmp_path: Path) -> None:
    file = tmp_path / "trunk.safetensors"
    arguments = ["baseline", "pooled", str(make_job(MLP).path), "--publish-weights", str(file)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code != 0 and not file.exists()


def test_an_owners_datasets_are_never_published(
    make_job: MakeJob, tables: dict[str, Path], tmp_path: Path
) -> None:
    """Their ledger would not know of it. This fails if the owner's file is not looked for."""
    datasets = {f"of-{name}": {"path": str(path)} for name, path in tables.items()}
    place = tmp_path / "owner" / "silo.yaml"
    place.parent.mkdir(mode=0o700)
    file = {"names": [*tables], "state": str(tmp_path / "real"), "datasets": datasets}
    place.write_text(yaml.safe_dump(OwnerFile.model_validate(file).model_dump()))
    place.chmod(0o600)
    silos = [{"name": name, "data": f"of-{name}"} for name in tables]
    job_file = make_job(
        MLP, f"silos={json.dumps(silos)}", f"tracking.uri=sqlite:///{tmp_path}/m.db"
    )
    with pytest.raises(ConsentError, match="would reveal their records"):
        baseline(job_file, "pooled", weights=tmp_path / "trunk.safetensors")
    assert not (tmp_path / "trunk.safetensors").exists()


@pytest.mark.parametrize("name", ["trunk.pt", ".safetensors", "a trunk.safetensors"])
def test_a_file_that_no_job_can_name_is_refused(
    name: str, make_job: MakeJob, tmp_path: Path
) -> None:
    with pytest.raises(JobError, match="cannot be the name"):
        baseline(make_job(MLP), "pooled", weights=tmp_path / name)
    with pytest.raises(JobError, match="only the pooled arm"):
        baseline(make_job(MLP), "local", weights=tmp_path / "trunk.safetensors")


@pytest.mark.parametrize(
    ("model", "text", "only"),
    [
        (
            {"kind": "transformer", "width": 8, "heads": 2, "layers": 1, "hidden": 8},
            True,
            ["model.places", "model.tokens.*", "model.encoder.*", "model.norm.*"],
        ),
        (
            {
                "kind": "huggingface",
                "config": {
                    "model_type": "bert",
                    "hidden_size": 8,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "intermediate_size": 8,
                },
            },
            True,
            ["model.net.bert.embeddings.*", "model.net.bert.encoder.*"],
        ),
        ({"kind": "mlp", "hidden": [5], "lora": {"targets": ["0"]}}, False, ["0.*"]),
    ],
)
def test_the_head_is_left_out_of_every_kind_of_model(
    model: dict[str, Any], text: bool, only: list[str], make_job: MakeJob, tmp_path: Path
) -> None:
    features = ["data.features={kind: text, column: note, length: 6}"] if text else []
    job = make_job(*features, f"model={json.dumps(model)}").job
    trunk = write_trunk(job, model_of(job), tmp_path / "t.safetensors")
    assert list(trunk.only) == only
    weights = {"file": "t.safetensors", "sha256": trunk.sha256, "only": only}
    plain = {key: value for key, value in model.items() if key != "lora"}
    begun = plain | {"weights": weights, "freeze": only}
    again = make_job(*features, f"model={json.dumps(begun)}").job
    assert get_parameters(model_of(again)).size < get_parameters(model_of(job)).size


def test_a_model_that_is_all_head_has_nothing_to_publish(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job("model={kind: linear}").job
    with pytest.raises(ModelError, match="no layers before its last"):
        write_trunk(job, model_of(job), tmp_path / "t.safetensors")
