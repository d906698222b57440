"""Models of transformers: from a folder, never from the network, and clipped as any other."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from blindsum.platform.data.records import Fold
from blindsum.platform.errors import ModelError
from blindsum.platform.job import paths
from blindsum.platform.job.model_section import HuggingFace, Model, Tokens
from blindsum.platform.job.paths import files_from, folder_digest
from blindsum.platform.job.training_section import TrainingSection
from blindsum.platform.prediction.predictor import Predictor
from blindsum.platform.prediction.released import read_released, released
from blindsum.platform.privacy.randomness import seeded_generator
from blindsum.platform.tracking.model_logging import OF_MODELS
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import (
    build_model,
    counted,
    get_parameters,
    initial_digest,
    model_of,
)
from tests.conftest import MakeJob
from tests.plans import plan_by_hand

TOKENS = Tokens(10, 257)
BERT: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 300,
    "max_position_embeddings": 32,
}
GPT: dict[str, Any] = {
    "model_type": "gpt2",
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "vocab_size": 300,
    "n_positions": 32,
}
LORA = {"bert": ["query", "value"], "gpt2": ["c_attn"]}


@pytest.fixture(autouse=True)
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder beside a job, the only one in which files are looked for."""
    monkeypatch.setattr(paths, "_HELD", [])
    files_from(tmp_path)
    return tmp_path


def section(**given: Any) -> HuggingFace:
    return HuggingFace.model_validate({"kind": "huggingface", **given})


def kept(folder: Path, config: dict[str, Any] = BERT, name: str = "small") -> dict[str, str]:
    """Save the trunk of a model with random weights, as its authors would; returns its place."""
    import transformers

    kind = config["model_type"]
    rest = {key: value for key, value in config.items() if key != "model_type"}
    torch.manual_seed(7)
    trunk = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **rest))
    trunk.save_pretrained(folder / name)
    return {"folder": name, "sha256": folder_digest(folder / name)}


def texts(count: int = 6) -> torch.Tensor:
    """Return texts of several lengths, the last one empty."""
    torch.manual_seed(1)
    found = torch.randint(1, TOKENS.vocabulary, (count, TOKENS.length))
    for row in range(count):
        found[row, TOKENS.length - 2 * row :] = 0
    found[-1] = 0
    return found.float()


@pytest.mark.parametrize("config", [BERT, GPT], ids=lambda one: str(one["model_type"]))
@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
def test_a_private_step_is_the_clipped_sum_of_each_records_gradient(
    config: dict[str, Any], lora: bool, beside: Path
) -> None:
    """Compared with automatic differentiation, record by record; each record is padded."""
    adapters = {"rank": 2, "targets": LORA[config["model_type"]]} if lora else None
    given = section(**kept(beside, config), lora=adapters)
    model = build_model(given, TOKENS, 3, seed=0, private=True)
    start, x, labels = get_parameters(model), texts(), np.arange(6) % 3
    own = plan_by_hand(noise_multiplier=0.0, sampling_rate=1.0, clip_norm=0.01)
    training = {"rounds": 1, "local_steps": 1, "sampling_rate": 1.0, "expected_batch_size": 1.0}
    rules = TrainingSection.model_validate(training | {"learning_rate": 1.0})
    trainer = LocalTrainer(model, Fold(x.numpy(), labels), rules, own, seeded_generator(0))
    if lora or config is BERT:
        assert trainer.says.startswith("gradients are clipped by book-keeping")
    found = trainer.train(start).values

    plain = build_model(given, TOKENS, 3, seed=0, private=True)
    parameters = [p for p in plain.parameters() if p.requires_grad]
    expected = np.zeros_like(found)
    for one, label in zip(x, torch.from_numpy(labels), strict=True):
        loss = nn.functional.cross_entropy(plain(one[None]), label[None])
        found_here = torch.autograd.grad(loss, parameters, materialize_grads=True)
        gradient = torch.cat([g.flatten() for g in found_here])
        norm = float(gradient.norm())
        assert norm > 0.01
        expected -= (gradient * 0.01 / norm).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_the_folders_weights_are_the_trunks_and_the_head_is_the_seeds(beside: Path) -> None:
    given = section(**kept(beside))
    held = safetensors.torch.load_file(beside / "small" / "model.safetensors")
    model = build_model(given, TOKENS, 3, seed=4, private=True)
    own = {name: p for name, p in model.named_parameters()}
    for name, values in held.items():
        torch.testing.assert_close(own[f"model.net.bert.{name}"].detach(), values)
    again = build_model(given, TOKENS, 3, seed=4, private=True)
    other = build_model(given, TOKENS, 3, seed=5, private=True)
    assert initial_digest(model) == initial_digest(again) != initial_digest(other)
    every = sum(p.numel() for p in model.parameters())
    assert counted(given, TOKENS, 3) == (every, every)


def test_half_precision_is_trained_in_full_and_dropout_is_off(beside: Path) -> None:
    config = BERT | {"hidden_dropout_prob": 0.5, "dtype": "bfloat16"}
    kept(beside, config)
    path = beside / "small" / "model.safetensors"
    held = safetensors.torch.load_file(path)
    halves = {name: t.bfloat16() for name, t in held.items()}
    safetensors.torch.save_file(halves, path, {"format": "pt"})
    given = section(folder="small", sha256=folder_digest(beside / "small"))
    model = build_model(given, TOKENS, 3, seed=0, private=True).train()
    x = texts()
    torch.testing.assert_close(model(x), model(x))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_what_follows_a_texts_end_is_not_read_and_no_record_reads_another() -> None:
    for config in (BERT, GPT, BERT | {"model_type": "roberta", "max_position_embeddings": 40}):
        model = build_model(section(config=config), TOKENS, 3, seed=0, private=True).eval()
        x = texts()
        longer = torch.cat([x, torch.zeros(6, 5)], 1)
        with torch.no_grad():
            torch.testing.assert_close(model(x), model(longer), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(model(x)[2:3], model(x[2:3]), rtol=1e-4, atol=1e-5)
            assert bool(model(x).isfinite().all()) and model(x[:0]).shape == (0, 3)


def test_the_digest_is_what_the_documented_command_prints(beside: Path) -> None:
    digest = kept(beside)["sha256"]
    command = "sha256sum config.json *.safetensors | sha256sum"
    printed = subprocess.run(
        command, shell=True, cwd=beside / "small", capture_output=True, text=True, check=True
    )
    assert printed.stdout.split()[0] == digest


def test_only_the_folder_with_the_jobs_digest_is_used(beside: Path) -> None:
    """This fails if configuration or weights are not compared with the job."""
    given = section(**kept(beside))
    for name in ("config.json", "model.safetensors"):
        path = beside / "small" / name
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        with pytest.raises(ModelError, match="there is no folder small with the SHA-256"):
            build_model(given, TOKENS, 3, seed=0, private=True)
        path.write_bytes(content)
    (beside / "small" / "adapter_config.json").write_text('{"base_model_name_or_path": "else"}')
    (beside / "small" / "pytorch_model.bin").write_bytes(b"pickled")
    build_model(given, TOKENS, 3, seed=0, private=True)  # which are not even opened


def test_nothing_is_downloaded_and_no_code_of_the_folder_runs(
    beside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configuration can name code and ways to run a model that are on the network."""
    marked = beside / "ran"
    config = BERT | {
        "auto_map": {"AutoModelForSequenceClassification": "someone/model--code.Model"},
        "_name_or_path": "someone/model",
        "attn_implementation": "kernels-community/flash-attn",
        "_attn_implementation": "kernels-community/flash-attn",
    }
    kept(beside)
    path = beside / "small" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    (beside / "small" / "code.py").write_text(f"open({str(marked)!r}, 'w')\n")

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    given = section(folder="small", sha256=folder_digest(beside / "small"))
    model: Any = build_model(given, TOKENS, 3, seed=0, private=True)
    assert model.model.net.config._attn_implementation == "eager"
    assert not marked.exists()


def test_hugging_faces_packages_are_told_that_there_is_no_network() -> None:
    code = (
        "from blindsum.platform.training.optional_packages import needed\n"
        "needed('transformers', 'a test')\n"
        "import huggingface_hub.constants as read\n"
        "print(read.HF_HUB_OFFLINE, read.HF_HUB_DISABLE_TELEMETRY)"
    )
    environment = {n: v for n, v in os.environ.items() if not n.startswith("HF_")}
    printed = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.split() == ["True", "True"]


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"pip install 'blindsum\[transformers\]'"):
        build_model(section(config=BERT), TOKENS, 3, seed=0, private=True)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "bert", "vocab_size": 256}, "257 different tokens, and the model knows"),
        ({"max_position_embeddings": 9}, "length is 10, and the model has 9 positions"),
        ({"model_type": "roberta", "max_position_embeddings": 11}, "cannot read 10 tokens"),
        ({"model_type": "unheard_of"}, "cannot read the configuration of type 'unheard_of'"),
        ({"model_type": "vit"}, "classifies sequences|cannot read"),
        ({"model_type": 3}, "names no model_type"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised"),
        ({"num_hidden_layers": 10**9}, "more than 1000 layers"),
        ({"hidden_size": 15}, "cannot be built: ValueError"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        build_model(section(config=BERT | config), TOKENS, 3, seed=0, private=True)


def test_weights_that_do_not_fit_are_refused(beside: Path) -> None:
    kept(beside)
    path = beside / "small" / "model.safetensors"
    held = safetensors.torch.load_file(path)
    gone = "encoder.layer.1.output.dense.weight"
    faults: dict[str, tuple[dict[str, torch.Tensor], str]] = {
        "lacks": ({n: t for n, t in held.items() if n != gone}, "output.dense.weight"),
        "shape": (held | {gone: torch.zeros(2, 2)}, "cannot be built|another shape"),
        "pooler": ({n: t for n, t in held.items() if "pooler" not in n}, ""),
        "nan": (held | {gone: held[gone] * np.nan}, "NaN"),
    }
    for weights, said in faults.values():
        safetensors.torch.save_file(weights, path, {"format": "pt"})
        given = section(folder="small", sha256=folder_digest(beside / "small"))
        if not said:  # few folders have BERT's pooler: it begins at random
            build_model(given, TOKENS, 3, seed=0, private=True)
            continue
        with pytest.raises(ModelError, match=said):
            build_model(given, TOKENS, 3, seed=0, private=True)
    safetensors.torch.save_file(held, path.with_name("other.safetensors"))
    given = section(folder="small", sha256=folder_digest(beside / "small"))
    with pytest.raises(ModelError, match="two files of small have"):
        build_model(given, TOKENS, 3, seed=0, private=True)


@pytest.mark.parametrize(
    "given",
    [
        {"folder": "../small", "sha256": "0" * 64},
        {"folder": "small"},
        {"sha256": "0" * 64},
        {},
        {"folder": "small", "sha256": "0" * 64, "config": BERT},
    ],
)
def test_a_job_names_a_folder_with_its_digest_or_a_configuration(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        section(**given)


def test_the_released_model_needs_no_folder(make_job: MakeJob, beside: Path) -> None:
    said = kept(beside, GPT)
    job = make_job(
        "data.features={kind: text, column: note, length: 10}",
        f"model={{kind: huggingface, folder: small, sha256: {said['sha256']}, "
        "lora: {rank: 2, targets: [c_attn]}}",
    ).job
    model = model_of(job, private=False)
    (beside / "m.blindsum").write_bytes(released(job, "r", 1, model, {}))
    for path in (beside / "small").iterdir():
        path.unlink()
    again = read_released(beside / "m.blindsum")
    assert isinstance(again.terms.model, HuggingFace) and again.terms.model.folder is None
    assert OF_MODELS[again.terms.model.kind] == ("transformers",)
    found = Predictor(again).outputs_of(pa.table({"note": ["CCO", ""]}))
    ids = torch.tensor([[b + 1 for b in b"CCO"] + [0] * 7, [0] * 10]).float()
    with torch.no_grad():
        np.testing.assert_allclose(found, model.eval()(ids).numpy(), atol=1e-5)
    whole: Model = TypeAdapter(Model).validate_json(again.terms.model.model_dump_json())
    assert whole == again.terms.model
