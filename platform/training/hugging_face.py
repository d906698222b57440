"""Models of the transformers library, from a folder of this machine or from a configuration.

Nothing is downloaded, nothing is unpickled, and no code of a model's authors runs: the class is
transformers' own for that type of model, its configuration is passed on as values, and its weights
as tensors that were read from safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from blindsum.platform.errors import ModelError
from blindsum.platform.job.model_section import HuggingFace, Tokens
from blindsum.platform.job.paths import WEIGHTS, home_folder, public_folder
from blindsum.platform.training.optional_packages import needed

_MOST_LAYERS, _MOST_CONFIG = 1000, 2**20
_NOT_KEPT = (
    *("architectures", "auto_map", "transformers_version", "_name_or_path"),
    *("id2label", "label2id", "num_labels", "problem_type", "torch_dtype", "dtype"),
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
    *("experts_implementation", "_experts_implementation", "fusion_config"),
)
"""What of a configuration is left out: other outputs, and the ways to run it, of which some would
be downloaded."""

POOLER = "pooler"
"""What BERT's kind call a layer between the trunk and the head, which few folders have."""


class LanguageModel(nn.Module):
    """A model of transformers that gets int64 [records, length], in which 0 stands for the places
    after a text's end.

    The model gets its own number for padding there, and attends to no such place. The first place
    always counts, so that an empty text is one of padding.

    Args:
        shift: as of `Tokens`: a model that belongs to a tokenizer gets the ids of its file.
    """

    def __init__(self, net: nn.Module, outputs: int, padding: int, shift: int = 0) -> None:
        super().__init__()
        self.net, self._outputs, self._padding, self._shift = net, outputs, padding, shift

    def forward(self, ids: Tensor) -> Tensor:
        """Return outputs [records, outputs]."""
        if not len(ids):  # a sample can be empty
            return torch.zeros(0, self._outputs, device=ids.device)
        there = ids != 0
        given = torch.where(there, ids - self._shift, self._padding)
        attended = torch.cat([torch.ones_like(there[:, :1]), there[:, 1:]], 1)
        found: Tensor = self.net(input_ids=given, attention_mask=attended.long()).logits
        return found

    @property
    def head(self) -> list[str]:
        """The names of the modules that are new, or may be: all but the trunk, and its pooler."""
        trunk = str(self.net.base_model_prefix)
        new = [f"net.{name}" for name, _ in self.net.named_children() if name != trunk]
        poolers = [n for n, _ in self.named_modules() if n.rpartition(".")[2] == POOLER]
        return [*new, *poolers]


def language_model(section: HuggingFace, tokens: Tokens, outputs: int) -> LanguageModel:
    """Build a model with its public weights; what the folder lacks begins at random.

    Raises:
        ModelError: transformers is not installed, there is no such folder, it holds no model that
            classifies sequences, or the model is too small for the features.
    """
    transformers = needed("transformers", "model.kind huggingface")
    folder, counting = _folder(section), torch.empty(0).is_meta  # which needs no weights
    with _quiet(transformers):
        config = _config(transformers, _given(section, folder), outputs)
    kinds = transformers.AutoModelForSequenceClassification._model_mapping
    if type(config) not in kinds:
        raise ModelError(
            f"transformers has no model of type {config.model_type!r} that classifies sequences"
        )
    with _quiet(transformers), _as_errors("the model cannot be built"):
        if folder is None or counting:
            net = kinds[type(config)](config)
        else:
            net = _loaded(kinds[type(config)], config, _weights(folder), folder.name)
    net.train()
    _require_room(net, tokens)
    whole = LanguageModel(net, outputs, config.pad_token_id, tokens.shift)
    if counting:
        return whole
    with _as_errors(f"the model cannot read {tokens.length} tokens"), torch.no_grad():
        whole(torch.full((1, tokens.length), tokens.vocabulary - 1))
    return whole


def config_of(section: HuggingFace) -> dict[str, Any]:
    """Return a model's configuration, without what a job does not need.

    Raises:
        ModelError: there is no such folder, or its config.json is none.
    """
    return _given(section, _folder(section))


def _given(section: HuggingFace, folder: Path | None) -> dict[str, Any]:
    given: Any = section.config
    if folder is not None:
        path = folder / "config.json"
        try:
            if path.stat().st_size > _MOST_CONFIG:
                raise ValueError
            given = json.loads(path.read_bytes())
        except (OSError, ValueError):
            raise ModelError(f"{folder.name}/config.json is no configuration") from None
    if not isinstance(given, dict) or not isinstance(given.get("model_type"), str):
        raise ModelError("the model's configuration names no model_type")
    if given.get("quantization_config"):
        raise ModelError(
            "the model's weights are quantised, and cannot be trained",
            "Save the model in float32 or bfloat16.",
        )
    # Dropout would be drawn anew in each of a silo's workers, and privacy adds noise enough.
    return {
        name: 0.0 if "drop" in name and type(value) in (int, float) else value
        for name, value in given.items()
        if name not in _NOT_KEPT
    }


def _folder(section: HuggingFace) -> Path | None:
    if section.folder is None or section.sha256 is None:
        return None
    found = public_folder(section.folder, section.sha256)
    if found is None:
        raise ModelError(
            f"there is no folder {section.folder} with the SHA-256 {section.sha256[:16]}... of "
            "model.sha256",
            f"Put it beside the job file, or in {home_folder() / WEIGHTS} on this machine. Its "
            "digest: sha256sum config.json *.safetensors | sha256sum",
        )
    return found


def _config(transformers: Any, given: Mapping[str, Any], outputs: int) -> Any:
    values = dict(given)
    kind = values.pop("model_type")
    with _as_errors(f"transformers cannot read the configuration of type {kind!r}"):
        config = transformers.AutoConfig.for_model(kind, **values)
        config.num_labels, config.use_cache = outputs, False
        # Written in plain operations of torch, whose gradients can be clipped.
        config._attn_implementation = "eager"
        padding = config.pad_token_id
        allowed = isinstance(padding, int) and 0 <= padding < config.vocab_size
        config.pad_token_id = padding if allowed else 0
        # Counting a model of strangers makes its layers, though without memory for them.
        if config.num_hidden_layers > _MOST_LAYERS:
            raise ValueError(f"it has more than {_MOST_LAYERS} layers")
    return config


def _weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a folder as float32, from all its files of safetensors."""
    held = dict[str, Tensor]()
    for path in sorted(folder.glob("*.safetensors")):
        try:
            found = safetensors.torch.load_file(path)
        except (SafetensorError, OSError, ValueError):
            raise ModelError(f"{folder.name}/{path.name} is no safetensors file") from None
        if twice := sorted(held.keys() & found.keys()):
            raise ModelError(
                f"two files of {folder.name} have {twice[0]}", "Keep the files of one model there."
            )
        held |= {name: t.float() if t.is_floating_point() else t for name, t in found.items()}
    if not held:
        raise ModelError(
            f"{folder.name} has no weights as safetensors", "Save the model anew: save_pretrained."
        )
    return held


def _loaded(kind: Any, config: Any, held: dict[str, Tensor], name: str) -> nn.Module:
    """Return a model with a folder's weights.

    Raises:
        ModelError: the folder lacks weights of the trunk.
    """
    net, about = kind.from_pretrained(
        None, config=config, state_dict=held, dtype=torch.float32, output_loading_info=True
    )
    trunk = f"{net.base_model_prefix}."
    lacks = [n for n in about["missing_keys"] if n.startswith(trunk) and POOLER not in n.split(".")]
    wrong = sorted({*lacks, *(one[0] for one in about["mismatched_keys"])})
    if wrong:
        raise ModelError(
            f"the weights in {name} are not those of its config.json: {', '.join(wrong[:5])}"
            f"{' and others' if len(wrong) > 5 else ''} are missing or have another shape"
        )
    loaded: nn.Module = net
    return loaded


def _require_room(net: Any, tokens: Tokens) -> None:
    """Check that the model has an entry for every token, and a position for every place."""
    entries, asked = net.get_input_embeddings().num_embeddings, tokens.vocabulary - tokens.shift
    if asked > entries:
        raise ModelError(
            f"the features have {asked} different tokens, and the model knows {entries}",
            "Use the tokenizer that belongs to the model.",
        )
    places = getattr(net.config, "max_position_embeddings", None)
    if places is not None and tokens.length > places:
        raise ModelError(
            f"data.features.length is {tokens.length}, and the model has {places} positions",
            "Lower data.features.length.",
        )


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep transformers from writing reports and bars: a new head is what a job asks for."""
    logs = transformers.utils.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()


@contextmanager
def _as_errors(what: str) -> Iterator[None]:
    """Turn whatever transformers says of a configuration into an error with a message."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # noqa: BLE001 - of any of some hundred kinds of models
        said = (str(error).splitlines() or [""])[0][:300]
        raise ModelError(f"{what}: {type(error).__name__}: {said}") from None
