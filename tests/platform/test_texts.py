"""Texts: bytes as the job cuts them, and a transformer that is trained on them with privacy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from blindsum.platform.data.features import features_of
from blindsum.platform.data.ragged import Bytes
from blindsum.platform.data.records import Fold, dense
from blindsum.platform.data.table import load_data
from blindsum.platform.errors import JobError
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.model_section import Tokens, Transformer
from blindsum.platform.job.text_section import VOCABULARY, Text
from blindsum.platform.job.training_section import TrainingSection
from blindsum.platform.prediction.predictor import Predictor
from blindsum.platform.prediction.released import read_released, released
from blindsum.platform.privacy.randomness import seeded_generator
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import build_model, counted, get_parameters, model_of
from tests.conftest import MakeJob
from tests.plans import plan_by_hand

SMALL = Transformer(kind="transformer", width=8, heads=2, layers=2, hidden=12)
TOKENS = Tokens(12, VOCABULARY)
JOB = (
    "data.features={kind: text, column: note, length: 12}",
    "model={kind: transformer, width: 8, heads: 2, layers: 1, hidden: 12}",
)


def contract(length: int = 12) -> DataSection:
    return DataSection.model_validate(
        {
            "features": {"kind": "text", "column": "note", "length": length},
            "target": {"column": "ill", "classes": [0, 1]},
            "folds": {"kind": "random", "salt": "s", "test_fraction": 0.3},
        }
    )


@given(st.lists(st.text(max_size=20), max_size=9), st.integers(1, 30))
@settings(deadline=None)
def test_a_text_is_its_first_bytes_from_one_and_then_zeros(texts: list[str], length: int) -> None:
    kind = features_of(Text(kind="text", column="note", length=length))
    made = kind.compute(pa.table({"note": pa.array(texts, pa.string())}))
    found = dense(made.features)
    assert found.shape == (len(texts), length) and found.dtype == np.float32
    for row, text in zip(found, texts, strict=True):
        content = text.encode()[:length]
        assert row.tolist() == [*(b + 1 for b in content), *[0] * (length - len(content))]
    assert isinstance(made.features, Bytes) and found.max(initial=0) < VOCABULARY


def test_text_of_every_file_kind_is_the_same(tmp_path: Path) -> None:
    table = pa.table({"note": [f"{i:03d} ä" for i in range(40)], "ill": [0, 1] * 20})
    pq.write_table(table, tmp_path / "a.parquet")
    pa.csv.write_csv(table, tmp_path / "a.csv")
    one, other = (
        load_data(tmp_path / f"a.{kind}", contract(), tmp_path / "r") for kind in ("parquet", "csv")
    )
    assert one.fingerprint == other.fingerprint and len(one.test) > 3
    np.testing.assert_array_equal(one.train.features, other.train.features)


# -- the model ------------------------------------------------------------------------------------


def texts(count: int) -> np.ndarray:
    random = np.random.default_rng(0)
    found = random.integers(1, VOCABULARY, (count, 12)).astype(np.float32)
    for row, length in enumerate(random.integers(0, 13, count)):
        found[row, length:] = 0
    return found


def test_what_follows_a_texts_end_changes_nothing() -> None:
    model = build_model(SMALL, TOKENS, 2, seed=0, private=True).eval()
    longer = build_model(SMALL, Tokens(20, VOCABULARY), 2, seed=0, private=True).eval()
    own = {n: p for n, p in model.state_dict().items() if not n.endswith("places")}
    longer.load_state_dict(own, strict=False)
    with torch.no_grad():
        longer.model.places[:13] = model.model.places  # type: ignore[union-attr, operator, index]
    x = torch.from_numpy(texts(6))
    padded = torch.cat([x, torch.zeros(6, 8)], 1)
    torch.testing.assert_close(model(x), longer(padded), atol=1e-5, rtol=1e-4)


def test_an_empty_text_and_no_text_have_outputs() -> None:
    model = build_model(SMALL, TOKENS, 2, seed=0, private=True)
    for x in (torch.zeros(1, 12), torch.zeros(0, 12)):
        for mode in (model.train(), model.eval()):
            assert mode(x).shape == (len(x), 2) and bool(mode(x).isfinite().all())


def test_the_parameters_are_counted_without_making_them() -> None:
    model = build_model(SMALL, TOKENS, 3, seed=0, private=True)
    every = sum(p.numel() for p in model.parameters())
    assert counted(SMALL, TOKENS, 3) == (every, every)
    huge = Transformer(kind="transformer", width=4096, heads=64, layers=48, hidden=16384)
    assert counted(huge, TOKENS, 3).every > 9e9


def test_a_private_step_is_the_clipped_sum_of_each_records_gradient() -> None:
    """Compared with automatic differentiation, record by record."""
    model = build_model(SMALL, TOKENS, 2, seed=0, private=True)
    start, x, labels = get_parameters(model), texts(9), np.arange(9) % 2
    own = plan_by_hand(noise_multiplier=0.0, sampling_rate=1.0, clip_norm=0.05)
    training = {"rounds": 1, "local_steps": 1, "sampling_rate": 1.0, "expected_batch_size": 1.0}
    section = TrainingSection.model_validate(training | {"learning_rate": 1.0})
    trainer = LocalTrainer(model, Fold(x, labels), section, own, seeded_generator(0))
    found = trainer.train(start).values

    expected, plain = np.zeros_like(found), build_model(SMALL, TOKENS, 2, seed=0, private=True)
    for record, label in zip(torch.from_numpy(x), torch.from_numpy(labels), strict=True):
        loss = nn.functional.cross_entropy(plain(record[None]), label[None])
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, plain.parameters())])
        norm = float(gradient.norm())
        assert norm > 0.05
        expected -= (gradient * 0.05 / norm).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_released_and_applied_to_texts(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(*JOB).job
    (tmp_path / "m.blindsum").write_bytes(released(job, "r", 1, model_of(job), {}))
    predictor = Predictor(read_released(tmp_path / "m.blindsum"))
    found = predictor.predict(pa.table({"note": ["a", "", "ä" * 99]}))
    assert found.num_rows == 3 and found["reason"].null_count == 3
    assert set(predictor.example()) == {"note"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (JOB[:1], "needs model.kind transformer"),
        (JOB[1:], "needs data.features.kind text"),
        ((JOB[0], "model={kind: transformer, width: 9, heads: 2}"), "no multiple of heads"),
    ],
)
def test_models_that_do_not_read_texts_are_refused(
    changes: tuple[str, ...], said: str, make_job: MakeJob
) -> None:
    with pytest.raises((JobError, ValidationError), match=said):
        make_job(*changes)


def test_a_function_of_ones_own_gets_whole_numbers(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reading.py").write_text(
        "from torch import nn\n"
        "class Mean(nn.Module):\n"
        "    def __init__(self, tokens, outputs):\n"
        "        super().__init__()\n"
        "        self.table = nn.Embedding(tokens.vocabulary, outputs)\n"
        "    def forward(self, ids):\n"
        "        assert not ids.dtype.is_floating_point\n"
        "        return self.table(ids).mean(1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    job: Any = make_job(JOB[0], "model={kind: factory, factory: 'reading:Mean'}").job
    model = model_of(job)
    assert model(torch.from_numpy(texts(3))).shape == (3, 2)
