"""Adapters of low rank: what is trained and sent, how it is clipped, and the released model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from blindsum.platform.data.records import Fold
from blindsum.platform.errors import ModelError
from blindsum.platform.job.model_section import Input, Model, Tokens
from blindsum.platform.job.text_section import VOCABULARY
from blindsum.platform.job.training_section import TrainingSection
from blindsum.platform.prediction.predictor import Predictor
from blindsum.platform.prediction.released import read_released, released
from blindsum.platform.privacy.randomness import seeded_generator
from blindsum.platform.training.adapters import merged
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import (
    build_model,
    counted,
    get_parameters,
    initial_digest,
    model_of,
    private_parameters,
    set_parameters,
)
from tests.conftest import MakeJob
from tests.plans import plan_by_hand

TOKENS = Tokens(12, VOCABULARY)
SMALL = {"kind": "transformer", "width": 8, "heads": 2, "layers": 2, "hidden": 12}
KINDS: dict[str, tuple[dict[str, Any], list[str], Input, str]] = {
    "linear": ({"kind": "linear"}, ["0"], (4,), ""),
    "mlp": ({"kind": "mlp", "hidden": [6, 5]}, ["0", "2"], (4,), "4."),
    "cnn": ({"kind": "cnn", "channels": [4, 8]}, ["1", "5"], (1, 8, 8), "11."),
    "transformer": (SMALL, ["linear1", "linear2"], TOKENS, "model.last."),
    "embedding": (SMALL, ["tokens"], TOKENS, "model.last."),
}


def section(kind: str, **lora: Any) -> Model:
    """Return one of the models with adapters of rank 2."""
    model, targets, _, _ = KINDS[kind]
    whole: Model = TypeAdapter(Model).validate_python(
        {**model, "lora": {"rank": 2, "alpha": 4, "targets": targets, **lora}}
    )
    return whole


def plain(kind: str) -> Model:
    found: Model = section(kind).model_copy(update={"lora": None})
    return found


def records(record: Input, count: int = 7) -> torch.Tensor:
    torch.manual_seed(3)
    if isinstance(record, Tokens):
        return torch.randint(0, record.vocabulary, (count, record.length)).float()
    return torch.randn(count, int(np.prod(record)))


def moved(model: nn.Module) -> nn.Module:
    """Return the model with trained parameters that are no longer those of the start."""
    values = get_parameters(model)
    random = np.random.default_rng(1)
    set_parameters(model, values + 0.3 * random.normal(size=values.size).astype(np.float32))
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_begins_as_without_adapters_and_the_same_in_every_silo(kind: str) -> None:
    record = KINDS[kind][2]
    a, b = (build_model(section(kind), record, 3, seed=5, private=True) for _ in range(2))
    assert initial_digest(a) == initial_digest(b)
    other = build_model(section(kind), record, 3, seed=6, private=True)
    assert initial_digest(other) != initial_digest(a)
    without = build_model(plain(kind), record, 3, seed=5, private=True)
    x = records(record)
    with torch.no_grad():
        torch.testing.assert_close(a.eval()(x), without.eval()(x))


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_and_the_head_train_and_nothing_else(kind: str) -> None:
    _, _, record, head = KINDS[kind]
    model = build_model(section(kind), record, 3, seed=5, private=True)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    expected = {n for n, _ in model.named_parameters() if "lora_" in n or (head and head in n)}
    assert trained == expected and len(trained) >= 2
    every = sum(p.numel() for p in model.parameters())
    assert counted(section(kind), record, 3) == (every, get_parameters(model).size)


@pytest.mark.parametrize("kind", KINDS)
def test_a_private_step_is_the_clipped_sum_of_each_records_gradient(kind: str) -> None:
    """Compared with automatic differentiation, record by record, from trained adapters."""
    record = KINDS[kind][2]
    model = moved(build_model(section(kind), record, 3, seed=5, private=True))
    start, x, labels = get_parameters(model), records(record), np.arange(7) % 3
    own = plan_by_hand(noise_multiplier=0.0, sampling_rate=1.0, clip_norm=0.05)
    training = {"rounds": 1, "local_steps": 1, "sampling_rate": 1.0, "expected_batch_size": 1.0}
    rules = TrainingSection.model_validate(training | {"learning_rate": 1.0})
    trainer = LocalTrainer(model, Fold(x.numpy(), labels), rules, own, seeded_generator(0))
    before = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    found = trainer.train(start).values
    for name, p in model.named_parameters():
        assert name not in before or torch.equal(p, before[name]), name

    expected = np.zeros_like(found)
    set_parameters(model, start)
    parameters = [p for p in model.parameters() if p.requires_grad]
    for one, label in zip(x, torch.from_numpy(labels), strict=True):
        loss = nn.functional.cross_entropy(model(one[None]), label[None])
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
        norm = float(gradient.norm())
        assert norm > 0.05
        expected -= (gradient * 0.05 / norm).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_model_predicts_the_same_without_adapters(kind: str) -> None:
    record = KINDS[kind][2]
    model = moved(build_model(section(kind), record, 3, seed=5, private=True))
    alone = build_model(plain(kind), record, 3, seed=9, private=True)
    alone.load_state_dict(merged(model).state_dict(), strict=True)
    x = records(record, 50)
    with torch.no_grad():
        a, b = model(x), alone.eval()(x)
    assert float((a - b).abs().max()) <= 2e-6 * float(a.abs().max().clamp(min=1))


def test_a_layer_that_is_read_past_its_module_counts_when_the_model_predicts() -> None:
    """Torch's encoder layers do so where no gradient is needed. This fails without the hooks."""
    model = moved(build_model(section("transformer"), TOKENS, 3, seed=5, private=True))
    x = records(TOKENS)
    with torch.no_grad():
        without_gradients = model(x)
    torch.testing.assert_close(without_gradients, model(x).detach(), rtol=1e-4, atol=1e-5)


def test_the_released_model_needs_no_peft(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(
        "data.features={kind: text, column: note, length: 12}",
        "model={kind: transformer, width: 8, heads: 2, layers: 2, hidden: 12, "
        "lora: {rank: 2, targets: [linear1]}}",
    ).job
    model = moved(model_of(job))
    (tmp_path / "m.blindsum").write_bytes(released(job, "r", 1, model, {}))
    for name in [name for name in sys.modules if name.partition(".")[0] == "peft"]:
        monkeypatch.setitem(sys.modules, name, None)
    again = read_released(tmp_path / "m.blindsum")
    assert again.terms.model.lora is None
    found = Predictor(again).outputs_of(pa.table({"note": ["CCO", "c1ccccc1"]}))
    ids = torch.tensor([[b + 1 for b in text.ljust(12, b"\0")] for text in (b"CCO", b"c1ccccc1")])
    x = torch.where(ids == 1, 0, ids).float()
    with torch.no_grad():
        np.testing.assert_allclose(found, model(x).numpy(), atol=1e-5)
    with pytest.raises(ModelError, match=r"pip install 'blindsum\[lora\]'"):
        model_of(job)


def test_a_silos_own_head_is_trained_and_kept_beside_the_adapters() -> None:
    given = section("mlp")
    model = build_model(given, (4,), 2, seed=5, private=True, own=3)
    assert sum(p.numel() for p in private_parameters(model)) == 3 * 5 + 3
    assert all(p.requires_grad for p in private_parameters(model))
    assert counted(given, (4,), 2, 3).trained == get_parameters(model).size
    alone = build_model(plain("mlp"), (4,), 2, seed=5, private=True, own=3)
    alone.load_state_dict(merged(moved(model)).state_dict(), strict=True)
    x = records((4,))
    with torch.no_grad():
        torch.testing.assert_close(model(x), alone.eval()(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "lora", "said"),
    [
        ("mlp", {"targets": ["7"]}, "'7', which is the name of no layer.*They are: 0, 2, 4"),
        ("mlp", {"modules_to_save": ["last"]}, "'last', which is the name of no module"),
        ("mlp", {"targets": ["4"], "modules_to_save": ["4"]}, "4 is in model.lora.targets and in"),
        (
            "transformer",
            {"targets": ["linear1", "out_proj"]},
            "self_attn.out_proj, which the model",
        ),
    ],
)
def test_names_that_cannot_be_meant_are_refused(kind: str, lora: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        build_model(section(kind, **lora), KINDS[kind][2], 3, seed=0, private=True)


def test_what_is_trained_whole_can_be_chosen_and_frozen() -> None:
    def names(given: Model) -> set[str]:
        model = build_model(given, (4,), 3, seed=5, private=True)
        return {n for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n}

    assert names(section("mlp", targets=["0"], modules_to_save=["2", "4"])) == {
        *("2.weight", "2.bias", "4.weight", "4.bias")
    }
    assert names(section("mlp", modules_to_save=[])) == set()
    assert names(section("mlp", targets=["[02]"]).model_copy(update={"freeze": ["4.bias"]})) == {
        "4.weight"
    }


def test_a_layer_whose_weights_are_also_read_elsewhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "twofold.py").write_text(
        "from torch import nn\n"
        "class Twofold(nn.Module):\n"
        "    def __init__(self, features, outputs):\n"
        "        super().__init__()\n"
        "        self.first = nn.Linear(features, features)\n"
        "        self.last = nn.Linear(features, outputs)\n"
        "    def forward(self, x):\n"
        "        return self.last(self.first(x) + x @ self.first.weight)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    given: Model = TypeAdapter(Model).validate_python(
        {"kind": "factory", "factory": "twofold:Twofold", "lora": {"targets": ["first"]}}
    )
    with pytest.raises(ModelError, match="its weights read in another way too"):
        build_model(given, 4, 2, seed=0, private=True)
