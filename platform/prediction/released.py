"""The file of a released model, `model.blindsum`: weights, contract, privacy statement, digests.

A zip archive, in which nothing is pickled:

    model.json             what the model reads and predicts, and SHA-256 of the other members
    weights.safetensors    its parameters
    statement.json         the run's privacy statement
    tokenizer.json         the file of data.features.tokenizer, if the job has one
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors.torch
import torch
from pydantic import Field, TypeAdapter, ValidationError, model_validator
from safetensors import SafetensorError
from torch import nn

from blindsum import __version__
from blindsum.platform.data.features import features_of
from blindsum.platform.data.tokenizer_file import MOST_BYTES, take_tokenizer, text_tokenizer
from blindsum.platform.errors import ModelError
from blindsum.platform.job.average_section import LAST, described
from blindsum.platform.job.csv_section import CsvSection
from blindsum.platform.job.data_section import Features
from blindsum.platform.job.labels_section import Target, Tasks
from blindsum.platform.job.model_section import WITH_HEADS, Factory, HuggingFace, Model
from blindsum.platform.job.own_code import WHAT_FOR, functions_named
from blindsum.platform.job.paths import MODEL
from blindsum.platform.job.schema import Job
from blindsum.platform.job.section import Section
from blindsum.platform.job.text_section import Text, TokenizerFile
from blindsum.platform.training.adapters import merged
from blindsum.platform.training.hugging_face import config_of
from blindsum.platform.training.models import build_model, counted

_TERMS, _WEIGHTS, _STATEMENT = "model.json", "weights.safetensors", "statement.json"
_TOKENIZER = "tokenizer.json"
_MOST_TEXT = 64 * 2**20
"""Most bytes of the terms, and of the statement."""

_MOST_WEIGHTS = 2**36
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""The same time for every member, so that equal models are equal files."""

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Terms(Section):
    """What a released model reads and predicts. Public.

    Attributes:
        job: the job's name.
        round: the round after which the model was released.
        average: which average of the rounds' models it is, in words.
        features: the features, as in the job's data section.
        csv: how the job's CSV files are written.
        target: the classes, or None.
        tasks: the shared tasks, in the order of the model's outputs; their outputs come first.
        own_tasks: the private tasks, in the model of the silo that has them. None in a job without
            private tasks.
        weights: SHA-256 of `weights.safetensors`.
        statement: SHA-256 of `statement.json`.
    """

    format: Literal[1] = 1
    blindsum: str = Field(max_length=80)
    job: str = Field(max_length=80)
    run: str = Field(max_length=200)
    round: int = Field(ge=0)
    average: str = Field(max_length=200)
    features: Features
    csv: CsvSection | None = None
    target: Target | None = None
    tasks: Tasks | None = None
    own_tasks: Tasks | None = None
    model: Model
    weights: Sha256
    statement: Sha256

    @model_validator(mode="after")
    def _as_a_job_has_them(self) -> Terms:
        if self.target and (self.tasks is not None or not self.target.classes):
            raise ValueError("a target has classes, and stands alone")
        if self.own_tasks is not None and (self.target or self.model.kind not in WITH_HEADS):
            raise ValueError(f"private tasks need {' or '.join(WITH_HEADS)}, and no target")
        if set(self.tasks or ()) & set(self.own_tasks or ()):
            raise ValueError("a task is shared or private")
        if not self.outputs and self.own_tasks is None:
            raise ValueError("there is nothing that it predicts")
        return self

    @property
    def own_functions(self) -> dict[str, str]:
        """The job's own functions that a prediction needs, `module:function`, by their settings."""
        return functions_named(self.features, self.model)

    @property
    def outputs(self) -> int:
        """The number of shared outputs."""
        return len(self.target.classes) if self.target else len(self.tasks or ())


@dataclass(frozen=True)
class Released:
    """A released model.

    `statement` is the run's privacy statement, empty in a silo's own model.
    """

    terms: Terms
    model: nn.Module = field(repr=False)
    statement: Mapping[str, Any] = field(repr=False)


def released(
    job: Job,
    run: str,
    round: int,
    model: nn.Module,
    statement: Mapping[str, Any],
    own_tasks: Tasks | None = None,
    newest: bool = False,
) -> bytes:
    """Return the file of a model.

    Args:
        model: as `blindsum.platform.training.models.model_of` builds it.
        own_tasks: the silo's private tasks, in its own model.
        newest: whether it is the last round's model, whatever the job's average.
    """
    if job.model.lora:
        model = merged(model)
    weights = safetensors.torch.save(
        {k: v.cpu().contiguous() for k, v in model.state_dict().items()}
    )
    stated = TypeAdapter(dict[str, Any]).dump_json(dict(statement), indent=2)
    terms = Terms(
        blindsum=__version__,
        job=job.name,
        run=run,
        round=round,
        average=described(LAST if newest else job.training.average),
        features=job.data.features,
        csv=job.data.csv,
        target=job.data.target,
        tasks=job.data.tasks,
        own_tasks=(own_tasks or {}) if job.has_private_tasks else None,
        model=_without_files(job.model),
        weights=hashlib.sha256(weights).hexdigest(),
        statement=hashlib.sha256(stated).hexdigest(),
    )
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        text = terms.model_dump_json(indent=2).encode()
        members = {_TERMS: text, _WEIGHTS: weights, _STATEMENT: stated}
        if named := tokenizer_of(job.data.features):
            members[_TOKENIZER] = text_tokenizer(named).content
        for name, member in members.items():
            archive.writestr(zipfile.ZipInfo(name, _ZIP_TIME), member)
    return content.getvalue()


def _without_files(section: Model) -> Model:
    """Return a model's section for a file that holds its weights: adapters are added to them."""
    found = section.model_copy(update={"weights": None, "lora": None})
    if not isinstance(found, HuggingFace):
        return found
    return found.model_copy(update={"folder": None, "sha256": None, "config": config_of(found)})


def read_released(path: Path) -> Released:
    """Read a released model from its file.

    No code of the file's author runs: nothing is unpickled. A `model.factory` names a function of
    this machine, whose module is imported, and which is called with two numbers. A function that
    makes features is called when something is predicted, with the table that is given then.

    Raises:
        ModelError: there is no such file, it is damaged or was altered, or it is not such a file;
            or it has a tokenizer, and the library tokenizers is not installed.
    """
    terms, weights, statement = _members(path)
    shape = features_of(terms.features).shape
    own = None if terms.own_tasks is None else len(terms.own_tasks)
    for setting, named in terms.own_functions.items():
        _refuse_python_s_own(setting, named)
    if not isinstance(terms.model, Factory):
        values = counted(terms.model, shape, terms.outputs, own).every
        if 4 * values > len(weights):
            # Terms of a few hundred bytes can declare layers that fill the memory.
            raise _other_weights(path)
    model = build_model(
        terms.model,
        shape,
        terms.outputs,
        seed=0,
        private=False,
        own=own,
    )
    try:
        model.load_state_dict(safetensors.torch.load(weights), strict=True)
    except (SafetensorError, RuntimeError, ValueError, KeyError):
        raise _other_weights(path) from None
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise ModelError(f"{path.name} holds weights that are NaN or infinite")
    return Released(terms, model.eval(), statement)


def tokenizer_of(features: Features) -> TokenizerFile | None:
    """Return the tokenizer that features need, if they need one."""
    return features.tokenizer if isinstance(features, Text) else None


def _other_weights(path: Path) -> ModelError:
    return ModelError(
        f"{path.name} holds weights that are not those of its model",
        "It is damaged: copy it again from the run's folder.",
    )


def _refuse_python_s_own(setting: str, named: str) -> None:
    """Check that a job's own function is none of Python's. It is called with two numbers that the
    file's author chooses: `os:kill` would end a process of this machine."""
    if named.partition(":")[0].partition(".")[0] in sys.stdlib_module_names:
        raise ModelError(
            f"its {setting} {named!r} is a function of Python itself, not one that "
            f"{WHAT_FOR[setting].partition(':')[0]}",
            "Do not trust this file: nobody can have trained such a model.",
        )


def _members(path: Path) -> tuple[Terms, bytes, dict[str, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            terms = Terms.model_validate_json(_member(archive, _TERMS, _MOST_TEXT))
            named = tokenizer_of(terms.features)
            members = [_TERMS, _WEIGHTS, _STATEMENT, *([_TOKENIZER] if named else [])]
            if sorted(archive.namelist()) != sorted(members):
                raise ValueError
            tokenizer = _member(archive, _TOKENIZER, MOST_BYTES) if named else b""
            weights = _member(archive, _WEIGHTS, _MOST_WEIGHTS)
            stated = _member(archive, _STATEMENT, _MOST_TEXT)
            statement = TypeAdapter(dict[str, Any]).validate_json(stated)
    except FileNotFoundError:
        raise ModelError(f"there is no model {path}", "Name a run's folder, or its file.") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or 'damaged'}") from None
    except (zipfile.BadZipFile, ValidationError, ValueError, NotImplementedError, RuntimeError):
        raise ModelError(
            f"{path} is not a released model, or is damaged",
            f"Name the {MODEL} that a run writes; a newer Blindsum may have written it.",
        ) from None
    for name, content, digest in (
        (_WEIGHTS, weights, terms.weights),
        (_STATEMENT, stated, terms.statement),
    ):
        if hashlib.sha256(content).hexdigest() != digest:
            raise ModelError(
                f"{path.name}: {name} is not the one that was released",
                "It was altered or damaged: copy the file again from the run's folder.",
            )
    if named:
        take_tokenizer(named, tokenizer)
    return terms, weights, statement


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Return a member's bytes, which were stored without compression: a file of a few bytes cannot
    unpack to many."""
    info = archive.getinfo(name)
    if info.file_size > most or info.compress_type != zipfile.ZIP_STORED:
        raise ValueError
    return archive.read(name)
