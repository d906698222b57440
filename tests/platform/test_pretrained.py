"""Public weights with which a model begins, and parameters that are not trained."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from pydantic import ValidationError

from blindsum.platform.data.records import Fold
from blindsum.platform.errors import ModelError
from blindsum.platform.job import paths
from blindsum.platform.job.model_section import Cnn, Linear, Mlp
from blindsum.platform.job.paths import files_from
from blindsum.platform.prediction.released import read_released, released
from blindsum.platform.privacy.randomness import seeded_generator
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import (
    build_model,
    counted,
    get_parameters,
    initial_digest,
    model_of,
    set_parameters,
)
from tests.conftest import MakeJob
from tests.plans import plan_by_hand


@pytest.fixture(autouse=True)
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder beside a job, the only one in which files are looked for."""
    monkeypatch.setattr(paths, "_HELD", [])
    files_from(tmp_path)
    return tmp_path


def kept(
    folder: Path, weights: dict[str, torch.Tensor], name: str = "w.safetensors"
) -> dict[str, str]:
    safetensors.torch.save_file(weights, folder / name)
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return {"file": name, "sha256": digest}


def trunk() -> dict[str, torch.Tensor]:
    """Return the first layer of an mlp with 3 hidden units."""
    return {"0.weight": torch.full((3, 4), 0.5), "0.bias": torch.arange(3.0)}


def mlp(**changes: Any) -> Mlp:
    return Mlp.model_validate({"kind": "mlp", "hidden": [3], **changes})


def test_a_model_begins_with_the_chosen_weights_and_the_rest_as_always(beside: Path) -> None:
    section = mlp(weights={**kept(beside, trunk()), "only": ["0.*"]})
    model = build_model(section, 4, 2, seed=1, private=True).state_dict()
    plain = build_model(mlp(), 4, 2, seed=1, private=True).state_dict()
    for name, values in trunk().items():
        torch.testing.assert_close(model[name], values)
    torch.testing.assert_close(model["2.weight"], plain["2.weight"])


@pytest.mark.parametrize(
    ("weights", "only", "said"),
    [
        (trunk(), None, r"it lacks 2.bias; it lacks 2.weight"),
        (trunk() | {"9.weight": torch.zeros(1)}, ["0.*"], "9.weight is not in the model"),
        (trunk() | {"2.bias": torch.zeros(2)}, ["0.*"], "2.bias is left out by"),
        (trunk() | {"0.bias": torch.zeros(4)}, ["0.*"], r"0.bias has shape \(4,\), not \(3,\)"),
        (trunk() | {"0.bias": torch.full((3,), np.nan)}, ["0.*"], "not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    weights: dict[str, torch.Tensor], only: list[str] | None, said: str, beside: Path
) -> None:
    section = mlp(weights={**kept(beside, weights), "only": only})
    with pytest.raises(ModelError, match=said):
        build_model(section, 4, 2, seed=1, private=True)


def test_only_the_file_with_the_jobs_digest_is_used(beside: Path) -> None:
    """This fails if a file's content is not compared with the job."""
    section = mlp(weights={**kept(beside, trunk()), "only": ["0.*"]})
    kept(beside, {name: values + 1 for name, values in trunk().items()})
    with pytest.raises(ModelError, match="there is no file w.safetensors with the SHA-256"):
        build_model(section, 4, 2, seed=1, private=True)
    (beside / "w.safetensors").write_bytes(b"no tensors")
    digest = hashlib.sha256(b"no tensors").hexdigest()
    section = mlp(weights={"file": "w.safetensors", "sha256": digest})
    with pytest.raises(ModelError, match="no safetensors file"):
        build_model(section, 4, 2, seed=1, private=True)


@pytest.mark.parametrize("name", ["../w.safetensors", "/w.safetensors", "w.pt", "a/w.safetensors"])
def test_a_job_names_no_other_files(name: str) -> None:
    with pytest.raises(ValidationError):
        mlp(weights={"file": name, "sha256": "0" * 64})


def test_frozen_parameters_stay_and_are_not_sent(make_job: MakeJob) -> None:
    section = mlp(freeze=["0.*"])
    model = build_model(section, 4, 2, seed=1, private=True)
    assert get_parameters(model).size == 3 * 2 + 2
    assert counted(section, (4,), 2) == (4 * 3 + 3 + 3 * 2 + 2, 3 * 2 + 2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    random = np.random.default_rng(0)
    data = Fold(random.normal(size=(30, 4)).astype(np.float32), random.integers(0, 2, 30))
    training = make_job().job.training
    own = plan_by_hand(noise_multiplier=1.0, sampling_rate=1.0)
    trainer = LocalTrainer(model, data, training, own, seeded_generator(0))
    update = trainer.train(get_parameters(model))
    assert update.values.size == 8 and np.abs(update.values).max() > 0
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) is name.startswith("0."), name


def test_frozen_layers_of_pictures_and_of_heads(make_job: MakeJob) -> None:
    section = Cnn(kind="cnn", channels=[4, 8], freeze=["1.*", "2.*"])
    every, trained = counted(section, (1, 8, 8), 2)
    model = build_model(section, (1, 8, 8), 2, seed=0, private=True)
    assert (every, trained) == (
        sum(p.numel() for p in model.parameters()),
        get_parameters(model).size,
    )
    heads = build_model(mlp(freeze=["0.*"]), 4, 2, seed=0, private=True, own=3)
    assert get_parameters(heads).size == 3 * 2 + 2
    assert counted(mlp(freeze=["0.*"]), (4,), 2, 3).trained == 3 * 2 + 2


@pytest.mark.parametrize(
    ("freeze", "said"), [(["5.*"], "is the name of no parameter"), (["*"], "nothing to train")]
)
def test_patterns_that_cannot_be_meant_are_refused(freeze: list[str], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        build_model(Linear(kind="linear", freeze=freeze), 4, 2, seed=0, private=True)


def test_the_released_model_has_the_frozen_weights_and_needs_no_file(
    beside: Path, make_job: MakeJob
) -> None:
    said = kept(beside, trunk())
    job = make_job(
        "model={kind: mlp, hidden: [3], freeze: ['0.*'], weights: {file: w.safetensors, "
        f"sha256: {said['sha256']}, only: ['0.*']}}}}"
    ).job
    model = model_of(job, private=False)
    set_parameters(model, get_parameters(model) + 1)
    (beside / "m.blindsum").write_bytes(released(job, "r", 1, model, {}))
    (beside / "w.safetensors").unlink()
    again = read_released(beside / "m.blindsum").model
    for name, values in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], values)


def test_silos_with_other_frozen_weights_do_not_agree(beside: Path) -> None:
    """The digest that silos compare before round 1 covers what is frozen."""
    digests = set()
    for shift in (0.0, 1.0):
        moved = {name: values + shift for name, values in trunk().items()}
        section = mlp(freeze=["0.*"], weights={**kept(beside, moved), "only": ["0.*"]})
        digests.add(initial_digest(build_model(section, 4, 2, seed=1, private=True)))
    assert len(digests) == 2
