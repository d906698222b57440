"""Layers that differential privacy cannot train, and what to use instead.

DP-SGD clips each record's gradient, so a layer must have a gradient for each record. Opacus knows
which layers have none; the messages about them are ours.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from blindsum.platform.errors import ModelError

_ACROSS_RECORDS = "it normalises over the records of a batch, so one record moves the others"
_FUSED = "torch computes it as a whole, without gradients of single records"

_UNTRAINABLE: dict[type[nn.Module], tuple[str, str]] = {
    nn.BatchNorm1d: (_ACROSS_RECORDS, "torch.nn.GroupNorm or LayerNorm"),
    nn.BatchNorm2d: (_ACROSS_RECORDS, "torch.nn.GroupNorm or LayerNorm"),
    nn.BatchNorm3d: (_ACROSS_RECORDS, "torch.nn.GroupNorm or LayerNorm"),
    nn.SyncBatchNorm: (_ACROSS_RECORDS, "torch.nn.GroupNorm or LayerNorm"),
    nn.LSTM: (_FUSED, "opacus.layers.DPLSTM"),
    nn.GRU: (_FUSED, "opacus.layers.DPGRU"),
    nn.RNN: (_FUSED, "opacus.layers.DPRNN"),
    nn.MultiheadAttention: (_FUSED, "opacus.layers.DPMultiheadAttention"),
}
"""Why such a layer cannot be trained, and its replacement with the same arguments."""


def refuse_untrainable(model: nn.Module) -> None:
    """Check that no trainable layer is of a kind that has no gradients of single records.

    Raises:
        ModelError: names every such layer and what to use instead.
    """
    found = [
        (name, layer, *_UNTRAINABLE[type(layer)])
        for name, layer in _trainable(model)
        if type(layer) in _UNTRAINABLE
    ]
    if found:
        reasons = dict.fromkeys(why for _, _, why, _ in found)
        raise ModelError(
            f"differential privacy cannot train {_named([(n, layer) for n, layer, *_ in found])}: "
            f"{'; '.join(reasons)}",
            f"{' '.join(dict.fromkeys(_mend(n, kind, instead) for n, kind, _, instead in found))}",
        )
    _refuse_what_opacus_refuses(model)


def _refuse_what_opacus_refuses(model: nn.Module) -> None:
    # Imported here: Opacus takes seconds to import in every silo, and most models do not need it.
    from opacus.validators import ModuleValidator

    checks = ModuleValidator.VALIDATORS
    found = [
        (name, layer)
        for name, layer in _trainable(model)
        if type(layer) in checks and checks[type(layer)](layer)
    ]
    if found:
        raise ModelError(
            f"differential privacy cannot train {_named(found)} as configured",
            "Replace it, or turn off its running statistics (track_running_stats=False).",
        )


def no_rule(model: nn.Module, repeats: bool) -> ModelError:
    """Return the error for a model that Opacus fails to clip.

    Args:
        repeats: whether Opacus found a weight that is used more than once.
    """
    from opacus.grad_sample import GradSampleModule

    known = GradSampleModule.GRAD_SAMPLERS
    odd = [
        (name, layer)
        for name, layer in _trainable(model)
        if type(layer) not in known and any(True for _ in layer.parameters(recurse=False))
    ]
    if odd:
        return ModelError(
            f"differential privacy cannot train {_named(odd)}: Opacus has no rule for gradients of "
            "single records there",
            "Replace it by layers that have one: Linear, Conv1d to Conv3d, Embedding, LayerNorm, "
            "GroupNorm, and those of opacus.layers.",
        )
    if repeats:
        return ModelError(
            "Opacus cannot clip this model: a layer or weight is used more than once for a record",
            "Give each use its own layer, and use every weight only through its layer.",
        )
    return ModelError(
        "Opacus cannot clip this model",
        "Use layers whose input has one row of numbers for each record: Linear, Conv1d to Conv3d, "
        "Embedding, LayerNorm, GroupNorm, and those of opacus.layers.",
    )


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, layer in model.named_modules():
        if any(p.requires_grad for p in layer.parameters()):
            yield name, layer


def _named(layers: list[tuple[str, nn.Module]]) -> str:
    texts = [f"'{name}' ({type(layer).__name__})" for name, layer in layers]
    return f"layer{'s' if len(texts) > 1 else ''} {', '.join(texts)}"


def _mend(name: str, layer: nn.Module, instead: str) -> str:
    text = f"Replace {type(layer).__name__} by {instead}."
    if name.rpartition(".")[2] in ("self_attn", "multihead_attn"):
        text += " Inside torch.nn's Transformer layers, assign it after they are built."
    return text
