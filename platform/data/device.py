"""The device on which a silo trains: a GPU of its node, or the processor.

Only sums of clipped gradients and outputs of held-out records come back from a device. Noise,
integers, encryption and the next model are made on the processor, from integers that all silos
have. So silos with different devices still end a round with the same model, bit for bit.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from blindsum.platform.errors import ClusterError

CPU = torch.device("cpu")


def device_for(gpus: float) -> torch.device:
    """Return the device for that share of a GPU, which Ray has granted to this process.

    It also turns off what shortens the numbers from which norms are computed: with TensorFloat's 10
    bits a clipped gradient could be longer than the clip norm by one part in a thousand. And it
    turns on cuDNN's deterministic algorithms, so that a run without privacy can be repeated.

    Raises:
        ClusterError: the job gives the silo a GPU, and torch finds none.
    """
    if not gpus:
        return CPU
    if not torch.cuda.is_available():
        raise ClusterError(
            "silos.NAME.resources.gpus is set, and torch finds no GPU in this process",
            "Install a torch with CUDA on the silo's node, or leave resources out.",
        )
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    return torch.device("cuda", 0)


def device_of(model: nn.Module) -> torch.device:
    """Return the device that a model's parameters are on."""
    return next((p.device for p in model.parameters()), CPU)


def on(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which new tensors are on that device."""
    return nullcontext() if device == CPU else device


def random_state(device: torch.device) -> Tensor:
    """Return the state of torch's generator for that device, uint8."""
    if device == CPU:
        return torch.get_rng_state()
    state: Tensor = torch.get_device_module(device).get_rng_state(device)
    return state
