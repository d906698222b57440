"""Clipping for layers that book-keeping does not cover, through Opacus."""

from __future__ import annotations

import copy
import warnings

import torch
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import (
    GradSampleModuleFastGradientClipping,
)
from torch import Tensor, nn

from blindsum.platform.errors import ModelError
from blindsum.platform.training.book_keeping import STABLE, Clipped, no_gradient, of_no_record
from blindsum.platform.training.dp_layers import no_rule
from blindsum.platform.training.losses import RecordLoss, classification

# Opacus hooks layers whose input is data, which needs no gradient.
warnings.filterwarnings("ignore", message="Full backward hook is firing")


class Ghost:
    """Opacus's ghost clipping: norms in one backward pass, clipped sums in a second.

    They work on a copy of the model in double precision. Opacus computes norms from products over
    positions, whose terms may cancel: whatever float32 rounded away there would pass unclipped.
    """

    def __init__(self, model: nn.Module, loss: RecordLoss = classification) -> None:
        self._loss = loss
        self._source = [p for p in model.parameters() if p.requires_grad]
        copied = copy.deepcopy(model).double()
        self._parameters = [p for p in copied.parameters() if p.requires_grad]
        self._names = [name for name, p in copied.named_parameters() if p.requires_grad]
        for layer in copied.modules():
            if hasattr(layer, "inplace"):  # Opacus's hooks cannot be combined with it
                layer.inplace = False  # type: ignore[assignment]
        self._module = GradSampleModuleFastGradientClipping(
            copied, batch_first=True, loss_reduction="sum", max_grad_norm=1.0
        )
        self._module.disable_hooks()  # they are enabled only while clipping
        self._model = model

    def __call__(self, features: Tensor, labels: Tensor, clip_norm: float) -> Clipped:
        self._module.train(self._model.training)
        with torch.no_grad():
            for p, source in zip(self._parameters, self._source, strict=True):
                p.copy_(source)
        if not len(features):
            return of_no_record(self._source)
        try:
            return self._sums(features.double(), labels, clip_norm)
        except ModelError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise self._reason(features.double(), error) from None

    def _reason(self, features: Tensor, error: Exception) -> ModelError:
        """Return why the model cannot be clipped: Opacus's own texts are for its developers."""
        try:
            with torch.no_grad():
                self._module(features)
        except Exception:  # noqa: BLE001 - the user's code
            return ModelError(
                "the model cannot be clipped in double precision, which its layers need "
                f"({type(error).__name__} of torch)",
                "Create no float32 tensors in forward: take dtype from the input.",
            )
        return no_rule(self._model, isinstance(error, NotImplementedError))

    def _sums(self, features: Tensor, labels: Tensor, clip_norm: float) -> Clipped:
        module = self._module
        try:
            module.enable_hooks()
            losses = self._loss(module(features), labels)
            losses.sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
            norms = self._norms(len(features))
            finite = torch.isfinite(norms)
            if not finite.all():  # a record that overflows counts as zero
                return self._sums(features[finite], labels[finite], clip_norm)
            factors = (clip_norm / (norms + STABLE)).clamp(max=1.0)
            module.disable_hooks()  # the second pass is plain
            sums = torch.autograd.grad(losses @ factors, self._parameters, allow_unused=True)
            found = [
                torch.zeros_like(source) if s is None else s.to(source.dtype).contiguous()
                for source, s in zip(self._source, sums, strict=True)
            ]
            return Clipped(found, int((norms <= clip_norm).sum()))
        finally:
            module.disable_hooks()
            self._forget()

    def _norms(self, records: int) -> Tensor:
        norms = [getattr(p, "_norm_sample", None) for p in self._parameters]
        for name, norm in zip(self._names, norms, strict=True):
            if norm is None or norm.shape[0] != records:
                raise no_gradient(name)
        found = [norm.reshape(records) for norm in norms if norm is not None]
        whole: Tensor = torch.linalg.vector_norm(torch.stack(found), dim=0)
        return whole

    def _forget(self) -> None:
        """Delete what Opacus stored on parameters and layers: an error must not leave it there."""
        for p in self._parameters:
            p.grad = p.grad_sample = p._norm_sample = None  # type: ignore[attr-defined]
            p._forward_counter = 0  # type: ignore[attr-defined]
            if hasattr(p, "_current_grad_sample"):
                del p._current_grad_sample
        for layer in self._module.modules():
            for name in ("activations", "max_batch_len"):
                if hasattr(layer, name):
                    delattr(layer, name)
