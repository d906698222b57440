"""Models by name or `module:function`, as flat parameter vectors that can be summed.

Shared parameters are sent as one float32 vector, in the order of `named_parameters()`. The
parameters of a private head never leave the silo.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from blindsum.platform.data.features import features_of
from blindsum.platform.errors import ModelError
from blindsum.platform.job.model_section import (
    Dmpnn,
    Factory,
    Gapped,
    GraphSize,
    HuggingFace,
    Input,
    Model,
    Shape,
    Tokens,
    Transformer,
)
from blindsum.platform.job.own_code import FACTORY, own_function
from blindsum.platform.job.schema import Job
from blindsum.platform.job.statistics_section import Statistics
from blindsum.platform.job.tensors import Tensors
from blindsum.platform.job.trees_section import Boosted
from blindsum.platform.training.adapters import adapt, head_of, refuse_unused
from blindsum.platform.training.buffers import digest_with_buffers, refuse_running_state
from blindsum.platform.training.clipping.mixing import MEND, dense, mixes
from blindsum.platform.training.convolutions import convolutions
from blindsum.platform.training.dp_layers import refuse_mixing_layers
from blindsum.platform.training.graphs import Graphs, dmpnn
from blindsum.platform.training.hugging_face import LanguageModel, language_model
from blindsum.platform.training.named_tensors import NamedTensors
from blindsum.platform.training.pretrained import begin_with, freeze
from blindsum.platform.training.regression.fit import GeneralisedLinear
from blindsum.platform.training.sequences import Encoder, Sequences
from blindsum.platform.training.torch_random import forked_random
from blindsum.platform.training.trees.forest import Forest
from blindsum.platform.training.vector import Vector, digest
from blindsum.platform.training.vector_room import IN_MEMORY, VectorRoom, blocks


def model_of(job: Job, *, private: bool | None = None, own: int = 0) -> nn.Module:
    """Build a job's model with its initial weights, as every silo does.

    Args:
        private: as for `build_model`; by default whether the job has differential privacy.
        own: the silo's number of private tasks; used only in a job that has private tasks.

    Raises:
        ModelError: as `build_model`.
    """
    if isinstance(job.model, Statistics):
        from blindsum.platform.training.statistics.describing import Describing, Table

        return Table(Describing(job, job.model).size)
    return build_model(
        job.model,
        features_of(job.data.features).shape,
        job.data.outputs,
        seed=job.seed,
        private=job.privacy.noise != "none" if private is None else private,
        own=own if job.has_private_tasks else None,
    )


def build_model(
    section: Model,
    features: int | Input,
    outputs: int,
    *,
    seed: int,
    private: bool,
    own: int | None = None,
) -> nn.Module:
    """Build the job's model with initial weights from the seed, identical in every silo.

    Args:
        features: their number, or what a record is. The model gets a record's values one after the
            other, whatever their shape.
        own: outputs of the silo's private head, 0 outside silos; None if no silo has one.
        private: whether to check that DP-SGD can train the model.

    Raises:
        ModelError: the factory fails or returns something else, or a layer mixes the records of a
            batch or has state that is not a parameter.
    """
    record: Input = (features,) if isinstance(features, int) else features
    with forked_random(seed):
        model = _build(section, record, max(outputs, 1))
        if section.weights:
            begin_with(model, section.weights)
        model = _assembled(model, section, outputs, own)
    _refuse_parameters(model)
    refuse_running_state(model, dense(_values(record)))
    if isinstance(section, Factory | HuggingFace):  # Blindsum's own models always pass
        named = repr(section.factory) if isinstance(section, Factory) else section.kind
        if private:
            refuse_mixing_layers(model)
        _check_output(model, named, _values(record), outputs)
    if section.lora:
        refuse_unused(model, dense(_values(record)))
    return model


def _values(record: Input) -> int:
    return math.prod(record) if isinstance(record, tuple) else record.values


def _assembled(model: nn.Module, section: Model, outputs: int, own: int | None) -> nn.Module:
    freeze(model, section.freeze)
    if section.lora:
        model = adapt(model, section.lora, head_names(model, max(outputs, 1)))
    return model if own is None else WithHeads(model, outputs, own)


def head_names(model: nn.Module, outputs: int) -> list[str]:
    """Return the names of the modules that turn what a model has found into its outputs; none if
    they are not known, or are the whole model."""
    if isinstance(model, Sequences) and isinstance(model.model, LanguageModel):
        return [f"model.{name}" for name in model.model.head]
    return head_of(model, outputs)


class Counted(NamedTuple):
    """The parameters of a model, and those of them that silos train together."""

    every: int
    trained: int


def counted(section: Model, features: Input, outputs: int, own: int | None = None) -> Counted:
    """Count a model's parameters without memory for them: a job of strangers may name a huge one.

    Args:
        own: as of `build_model`.

    Raises:
        ModelError: `model.freeze` does not fit the model.
    """
    with torch.device("meta"):
        model = _assembled(_build(section, features, max(outputs, 1)), section, outputs, own)
    trained = sum(p.numel() for p in shared_parameters(model) if p.requires_grad)
    return Counted(sum(p.numel() for p in model.parameters()), trained)


class WithHeads(nn.Module):
    """A shared trunk with a shared head, and a head that belongs to one silo.

    Args:
        whole: hidden layers and a final linear layer.
        outputs: outputs of the shared head. With 0 no task is shared, and there is no such head.
        own: outputs of the private head. With 0 there is no such head.
    """

    def __init__(self, whole: nn.Module, outputs: int, own: int) -> None:
        super().__init__()
        *hidden, last = whole.children()
        self.trunk, self.shared = nn.Sequential(*hidden), last if outputs else None
        self.private = nn.Linear(cast(nn.Linear, last).in_features, own) if own else None
        if self.private is not None:  # starts the same whatever the number of tasks
            nn.init.zeros_(self.private.weight)
            nn.init.zeros_(self.private.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the shared outputs, then the private ones, [B, outputs]; without any head, the
        trunk's output."""
        h: torch.Tensor = self.trunk(x)
        heads = [head(h) for head in (self.shared, self.private) if head is not None]
        return torch.cat(heads, dim=1) if heads else h


def shared_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that all silos train together, including frozen ones."""
    own = set(map(id, private_parameters(model)))
    return [p for p in model.parameters() if id(p) not in own]


def private_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the private head's parameters. A factory's model has none, however it names its
    layers."""
    if not isinstance(model, WithHeads) or model.private is None:
        return []
    return list(model.private.parameters())


def parameter_count(model: nn.Module) -> int:
    """Return the number of shared trainable parameters."""
    return sum(p.numel() for p in shared_parameters(model) if p.requires_grad)


def get_parameters(model: nn.Module, room: VectorRoom = IN_MEMORY) -> Vector:
    """Return a copy of all shared trainable parameters, float32 [parameters].

    Args:
        room: where the copy lies.
    """
    return _flat([p for p in shared_parameters(model) if p.requires_grad], room)


def initial_digest(model: nn.Module) -> str:
    """Return the SHA-256 of all shared parameters, including frozen ones, in hex. Silos compare it
    before round 1."""
    flat = digest(*(p.detach().cpu().numpy() for p in shared_parameters(model)))
    return digest_with_buffers(model, flat)


def set_parameters(model: nn.Module, vector: Vector) -> None:
    """Load shared trainable parameters, float32 [parameters], into the model."""
    _load([p for p in shared_parameters(model) if p.requires_grad], vector)


def get_trainable(model: nn.Module) -> Vector:
    """Return a copy of all trainable parameters, shared and private, float32 [parameters], in the
    order of `parameters()`."""
    return _flat([p for p in model.parameters() if p.requires_grad], IN_MEMORY)


def set_trainable(model: nn.Module, vector: Vector) -> None:
    """Load what `get_trainable` returned into a model of the same kind."""
    _load([p for p in model.parameters() if p.requires_grad], vector)


def _flat(parameters: Sequence[torch.Tensor], room: VectorRoom) -> Vector:
    vector = room.zeros(sum(p.numel() for p in parameters))
    for p, part in _pairs(parameters, vector):
        values = p.detach().reshape(-1)
        for where in blocks(part.size, vector):
            part[where] = values[where].cpu().numpy()
    return vector


def _load(parameters: Sequence[torch.Tensor], vector: Vector) -> None:
    for p, part in _pairs(parameters, vector):
        # Copies, because a vector that crossed Ray is read-only.
        if not p.is_contiguous():
            p.detach().copy_(torch.from_numpy(part.reshape(p.shape).copy()))
            continue
        values = p.detach().view(-1)
        for where in blocks(part.size, vector):
            values[where].copy_(torch.from_numpy(part[where].copy()))


def _pairs(
    parameters: Sequence[torch.Tensor], vector: Vector
) -> Iterator[tuple[torch.Tensor, Vector]]:
    """Yield each parameter with its part of a flat vector, a view."""
    sizes = [p.numel() for p in parameters]
    if vector.shape != (sum(sizes),):
        raise ValueError(f"a vector of shape {vector.shape} for {sum(sizes)} parameters")
    stops = list(itertools.accumulate(sizes))
    for p, size, stop in zip(parameters, sizes, stops, strict=True):
        yield p, vector[stop - size : stop]


def split_as(parameters: Sequence[torch.Tensor], vector: Vector) -> list[torch.Tensor]:
    """Return a flat vector's values in the shapes of those parameters, one after the other, on the
    processor."""
    # A copy, because a vector that crossed Ray is read-only.
    parts = torch.split(torch.from_numpy(vector.copy()), [p.numel() for p in parameters])
    return [part.view_as(p) for p, part in zip(parameters, parts, strict=True)]


def get_private(model: nn.Module) -> tuple[npt.NDArray[np.float32], ...]:
    """Return copies of the private head's parameters; nothing without a head."""
    return tuple(p.detach().cpu().numpy().copy() for p in private_parameters(model))


def set_private(model: nn.Module, head: Sequence[npt.NDArray[np.float32]]) -> None:
    """Load the private head's parameters into the model."""
    with torch.no_grad():
        for p, one in zip(private_parameters(model), head, strict=True):
            p.copy_(torch.from_numpy(one))


def _build(section: Model, record: Input, outputs: int) -> nn.Module:
    if isinstance(record, Tokens):
        if isinstance(section, Transformer):
            return Sequences(Encoder(section, record, outputs), record)
        if isinstance(section, HuggingFace):
            return Sequences(language_model(section, record, outputs), record)
        if not isinstance(section, Factory):
            raise ModelError(f"model.kind {section.kind} cannot read texts")
        return Sequences(_made(section, record, outputs), record)
    if isinstance(record, GraphSize):
        if isinstance(section, Dmpnn):
            return dmpnn(section, record, outputs)
        if not isinstance(section, Factory):
            raise ModelError(f"model.kind {section.kind} cannot read graphs")
        return nn.Sequential(Graphs(record), _made(section, record, outputs))
    if isinstance(record, Tensors):
        if not isinstance(section, Factory):
            raise ModelError(f"model.kind {section.kind} cannot read tensors by name")
        return NamedTensors(_made(section, dict(record.of), outputs), record)
    if isinstance(record, Gapped):
        if not isinstance(section, Boosted):
            raise ModelError(f"model.kind {section.kind} cannot read missing values")
        return Forest(section.trees, outputs, section.max_depth, gaps=True)
    return _of_shape(section, record, outputs)


def _of_shape(section: Model, shape: Shape, outputs: int) -> nn.Module:
    features = math.prod(shape)
    if section.kind == "transformer" or section.kind == "huggingface":
        raise ModelError(f"model.kind {section.kind} reads texts only")
    if section.kind == "dmpnn":
        raise ModelError("model.kind dmpnn reads graphs only")
    if section.kind == "linear":
        return nn.Linear(features, outputs)
    if section.kind == "statistics":
        raise ModelError("statistics predict nothing")
    if section.kind == "trees":
        return Forest(section.trees, outputs, section.max_depth)
    if section.kind == "regression":
        return GeneralisedLinear(features, outputs)
    if section.kind == "cnn":
        return convolutions(section, shape, outputs)
    if section.kind == "mlp":
        activation = nn.ReLU if section.activation == "relu" else nn.Tanh
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise([features, *section.hidden]):
            layers += [nn.Linear(a, b), activation()]
        return nn.Sequential(*layers, nn.Linear(section.hidden[-1], outputs))
    model = _made(section, features if len(shape) == 1 else shape, outputs)
    return model if len(shape) == 1 else nn.Sequential(nn.Unflatten(1, shape), model)


def _made(section: Factory, record: object, outputs: int) -> nn.Module:
    """Return what a job's own function makes."""
    factory = own_function(FACTORY, section.factory)
    try:
        model = factory(record, outputs)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code
        raise ModelError(
            f"model.factory {section.factory!r} failed with {type(error).__name__}: {error}"
        ) from None
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"model.factory {section.factory!r} returned {type(model).__name__}",
            "Return a torch.nn.Module.",
        )
    return model


def _check_output(model: nn.Module, named: str, features: int, outputs: int) -> None:
    for records in (3, 1, 0):  # a Poisson sample can be empty
        try:
            with torch.no_grad():
                output = model(torch.zeros(records, features))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code
            raise ModelError(
                f"the model of {named} fails on {records} records of {features} features: "
                f"{type(error).__name__}: {error}",
                ""
                if records
                else "A round's sample can be empty. Begin forward with: if not len(x): return "
                f"x.new_zeros(0, {outputs})",
            ) from None
        shape = tuple(getattr(output, "shape", ()))
        if shape != (records, outputs) or not output.is_floating_point():
            raise ModelError(
                f"the model of {named} returns shape {shape}, "
                f"expected ({records}, {outputs}) of float32"
            )
    _refuse_mixing(model, named, features)


def _refuse_mixing(model: nn.Module, named: str, features: int) -> None:
    """Raise ModelError if a record's output depends on the other records of its batch."""
    # Random weights, because a last layer that starts at zero would hide the layers below it.
    tried = copy.deepcopy(model)
    with forked_random(0), torch.no_grad():
        for p in tried.parameters():
            p.normal_(0.0, 0.5)
    if mixes(tried, dense(features)):
        raise ModelError(
            f"the model of {named} mixes the records of a batch: one record's output "
            "changes with the others",
            MEND,
        )


def _refuse_parameters(model: nn.Module) -> None:
    if not any(p.requires_grad for p in model.parameters()):
        raise ModelError("the model has no trainable parameters")
    for name, p in model.named_parameters():
        if not torch.isfinite(p).all():
            raise ModelError(f"parameter '{name}' starts with NaN or infinite values")
        if p.dtype != torch.float32:
            raise ModelError(f"parameter '{name}' is {p.dtype}", "Use torch.float32.")
