"""Texts in the tokens of a public file: the same ids everywhere, no harm from a strange file."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from blindsum.platform.data import tokenizer_file
from blindsum.platform.data.ragged import Ids
from blindsum.platform.data.records import dense
from blindsum.platform.data.table import load_data
from blindsum.platform.data.text_features import TextFeatures
from blindsum.platform.data.tokenizer_file import take_tokenizer, text_tokenizer
from blindsum.platform.errors import BlindsumError, DataError, JobError, ModelError
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.model_section import HuggingFace, Tokens, Transformer
from blindsum.platform.job.paths import files_from
from blindsum.platform.job.text_section import Text, TokenizerFile
from blindsum.platform.prediction.predictor import Predictor
from blindsum.platform.prediction.released import read_released, released
from blindsum.platform.training.models import build_model, model_of
from tests.conftest import MakeJob
from tests.fuzz.mutation import mutants, said_of

TEXTS = ["the patient walks", "the pain is mild", "no pain", "", "walks and walks and walks"] * 4


def trained() -> Tokenizer:
    """A byte pair encoding of a few words, with a token at each end of a text."""
    found = Tokenizer(models.BPE(unk_token="[UNK]"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    found.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=60, special_tokens=special))
    found.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    found.enable_padding(length=20, pad_id=3, pad_token="[PAD]")
    found.enable_truncation(3)
    return found


CONTENT = trained().to_str().encode()


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tokenizer_file, "_KNOWN", {})
    monkeypatch.setattr("blindsum.platform.job.paths._HELD", [])
    yield


def named(content: bytes = CONTENT, file: str = "words.json") -> TokenizerFile:
    return TokenizerFile(file=file, sha256=hashlib.sha256(content).hexdigest())


def kept(folder: Path, content: bytes = CONTENT) -> TokenizerFile:
    """Put a file where a silo looks for it."""
    (folder / "words.json").write_bytes(content)
    files_from(folder)
    return named(content)


def kind(tokenizer: TokenizerFile, length: int = 8) -> TextFeatures:
    section = Text(kind="text", column="note", length=length, tokenizer=tokenizer)
    return TextFeatures(section=section)


def test_a_text_is_its_first_ids_from_one_and_then_zeros(tmp_path: Path) -> None:
    """The file's own padding and truncation do not count."""
    features, own = kind(kept(tmp_path), 8), trained()
    own.no_padding()
    own.no_truncation()
    made = features.compute(pa.table({"note": TEXTS}))
    found = dense(made.features)
    assert isinstance(made.features, Ids) and made.usable.all() and found.dtype == np.float32
    for row, text in zip(found, TEXTS, strict=True):
        ids = own.encode(text).ids[:8]
        assert row.tolist() == [*(i + 1 for i in ids), *[0] * (8 - len(ids))]
    shape = features.shape
    assert isinstance(shape, Tokens) and shape.vocabulary == own.get_vocab_size() + 1
    assert found.max() < shape.vocabulary
    assert len(features.none()) == 0 and features.none().shape == (0, 8)


def test_texts_are_the_same_alone_and_among_others(tmp_path: Path) -> None:
    features = kind(kept(tmp_path))
    together = dense(features.compute(pa.table({"note": TEXTS * 100})).features)
    for i in (0, 3, 4):
        alone = dense(features.compute(pa.table({"note": [TEXTS[i]]})).features)
        np.testing.assert_array_equal(together[i], alone[0])


def test_padding_changes_no_output(tmp_path: Path) -> None:
    section = Transformer(kind="transformer", width=8, heads=2, layers=2, hidden=12)
    short, long = (kind(kept(tmp_path), length) for length in (16, 40))
    one = build_model(section, short.shape, 2, seed=0, private=True).eval()
    other = build_model(section, long.shape, 2, seed=0, private=True).eval()
    state = {n: p for n, p in one.state_dict().items() if not n.endswith("places")}
    other.load_state_dict(state, strict=False)
    with torch.no_grad():
        other.model.places[:17] = one.model.places  # type: ignore[union-attr, operator, index]
    table = pa.table({"note": TEXTS})
    x, padded = (torch.from_numpy(dense(k.compute(table).features)) for k in (short, long))
    assert bool((x == 0).any()) and not bool(padded[:, 16:].any())
    torch.testing.assert_close(one(x), other(padded), atol=1e-5, rtol=1e-4)


def test_the_file_is_known_by_its_digest(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no file words.json with the SHA-256 .* beside the job"):
        text_tokenizer(named())
    kept(tmp_path, CONTENT + b" ")
    with pytest.raises(ModelError, match="no file words.json with the SHA-256"):
        text_tokenizer(named())
    with pytest.raises(ModelError, match="is not the tokenizer of data.features.tokenizer"):
        take_tokenizer(named(), CONTENT + b" ")


def changed(**settings: Any) -> bytes:
    """The tokenizer with other settings of its model."""
    content = json.loads(CONTENT)
    content["model"] |= settings
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no tokenizer that the installed library"),
        (b"{}", "is no tokenizer that the installed library"),
        (b"\xff\xfe", "is no tokenizer that the installed library"),
        (b"[" * 100_000, "is no tokenizer that the installed library"),
        (changed(dropout=0.3), "splits texts by chance"),
        (changed(vocab={"[UNK]": 2**31}, merges=[]), "has ids up to 2,147,483,648"),
        (changed(vocab={}, merges=[]), None),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    content: bytes, said: str | None, tmp_path: Path
) -> None:
    section = kept(tmp_path, content)
    if said is None:  # only the special tokens are left
        assert text_tokenizer(section).vocabulary <= 4
        return
    with pytest.raises(ModelError, match=said):
        text_tokenizer(section)


def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_file, "MOST_BYTES", len(CONTENT) - 1)
    with pytest.raises(ModelError, match="words.json has more than 0 MB"):
        text_tokenizer(kept(tmp_path))


def test_an_id_beyond_the_vocabulary_is_refused(tmp_path: Path) -> None:
    content = json.loads(CONTENT)
    content["post_processor"]["special_tokens"]["[CLS]"]["ids"] = [4_000_000_000]
    features = kind(kept(tmp_path, json.dumps(content).encode()))
    with pytest.raises(DataError, match="an id that is not in its vocabulary"):
        features.compute(pa.table({"note": ["pain"]}))


def test_what_a_tokenizer_says_of_a_text_is_not_told(tmp_path: Path) -> None:
    class Panic(BaseException):
        """As a panic of Rust is: no Exception."""

    class Failing:
        def encode_batch(self, texts: list[str]) -> None:
            raise Panic(f"cannot split {texts}")

    one = tokenizer_file.TextTokenizer(b"", 9, Failing())
    with pytest.raises(DataError, match=r"fails on a text \(Panic\)") as caught:
        one.ids(["the patient"], 4)
    assert "patient" not in str(caught.value) and caught.value.__suppress_context__


def test_mutated_files_raise_one_message_or_do_no_harm(tmp_path: Path) -> None:
    read, table = 0, pa.table({"note": TEXTS})
    for content in mutants(CONTENT):
        tokenizer_file._KNOWN.clear()
        section = named(content)

        def tried(content: bytes = content, section: TokenizerFile = section) -> None:
            take_tokenizer(section, content)
            made = kind(section).compute(table)
            assert dense(made.features).max(initial=0) < text_tokenizer(section).vocabulary + 1

        said = said_of(tried)
        read += said is None
        assert said is None or not any(text in said for text in TEXTS if text)
    assert read, "some changes do no harm"


def test_without_the_library_its_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ModelError, match=r"pip install 'blindsum\[tokenizers\]'"):
        text_tokenizer(kept(tmp_path))


def test_a_name_that_leads_elsewhere_is_refused(make_job: MakeJob) -> None:
    for file in ("../words.json", "/words.json", "words.txt"):
        tokenizer = f"{{file: {file}, sha256: {'a' * 64}}}"
        with pytest.raises(JobError, match="tokenizer.file"):
            make_job(
                f"data.features={{kind: text, length: 8, tokenizer: {tokenizer}}}",
                "model={kind: transformer}",
            )


def job_of(make_job: MakeJob, tokenizer: TokenizerFile) -> Any:
    features = {"kind": "text", "column": "note", "length": 8, "tokenizer": tokenizer.model_dump()}
    return make_job(
        f"data.features={json.dumps(features)}",
        "model={kind: transformer, width: 8, heads: 2, layers: 1, hidden: 12}",
    ).job


def test_a_released_model_carries_the_file(make_job: MakeJob, tmp_path: Path) -> None:
    job = job_of(make_job, kept(tmp_path))
    path = tmp_path / "elsewhere.blindsum"
    path.write_bytes(released(job, "r", 1, model_of(job), {}))
    (tmp_path / "words.json").unlink()
    here = Predictor(read_released(path)).predict(pa.table({"note": TEXTS}))
    tokenizer_file._KNOWN.clear()
    found = Predictor(read_released(path)).predict(pa.table({"note": TEXTS}))
    assert found.equals(here) and found["reason"].null_count == len(TEXTS)


def test_a_released_model_with_another_tokenizer_is_refused(
    make_job: MakeJob, tmp_path: Path
) -> None:
    import zipfile

    job = job_of(make_job, kept(tmp_path))
    (tmp_path / "m").write_bytes(released(job, "r", 1, model_of(job), {}))
    with zipfile.ZipFile(tmp_path / "m") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert members["tokenizer.json"] == CONTENT
    for tokenizer in (CONTENT.replace(b"walks", b"talks"), None):
        other = members | {"tokenizer.json": tokenizer} if tokenizer else members
        with zipfile.ZipFile(tmp_path / "other", "w") as archive:
            for name, content in other.items():
                if tokenizer or name != "tokenizer.json":
                    archive.writestr(name, content)
        with pytest.raises(ModelError, match="not the tokenizer|is not a released model"):
            read_released(tmp_path / "other")


def test_a_silo_without_the_file_takes_no_part(tmp_path: Path) -> None:
    table = pa.table({"note": TEXTS, "ill": [0, 1] * 10})
    pq.write_table(table, tmp_path / "a.parquet")
    features = {"kind": "text", "column": "note", "length": 8, "tokenizer": named().model_dump()}
    contract = DataSection.model_validate(
        {
            "features": features,
            "target": {"column": "ill", "classes": [0, 1]},
            "folds": {"kind": "random", "salt": "s", "test_fraction": 0.3},
        }
    )
    with pytest.raises(BlindsumError, match="no file words.json with the SHA-256"):
        load_data(tmp_path / "a.parquet", contract, tmp_path / "r")
    kept(tmp_path)
    assert len(load_data(tmp_path / "a.parquet", contract, tmp_path / "r").train) > 5


def test_a_model_of_transformers_gets_the_ids_of_the_file(tmp_path: Path) -> None:
    """Its embeddings were trained with them."""
    features = kind(kept(tmp_path))
    x = torch.from_numpy(dense(features.compute(pa.table({"note": ["no pain"]})).features))
    vocabulary = text_tokenizer(named()).vocabulary
    config = {"model_type": "bert", "vocab_size": vocabulary, "hidden_size": 8}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    section = HuggingFace(kind="huggingface", config=config)
    model = build_model(section, features.shape, 2, seed=0, private=True)
    seen: list[list[int]] = []
    net: Any = model.model.net  # type: ignore[union-attr]
    net.get_input_embeddings().register_forward_pre_hook(
        lambda layer, given: seen.append(given[0][0].tolist())
    )
    model(x)
    ids = trained()
    ids.no_padding()
    ids.no_truncation()
    assert seen[0][: len(ids.encode("no pain").ids)] == ids.encode("no pain").ids
