"""Recover one record, in closed form, from the gradient of a first linear layer with a bias.

Phong, Aono, Hayashi, Wang and Moriai, "Privacy-preserving deep learning via additively homomorphic
encryption", IEEE TIFS 2018, section 3: the weight's gradient is d x^T and the bias's gradient is d,
so every row is a multiple of the record x. Rows are combined by least squares, which averages
noise.
"""

from __future__ import annotations

import torch
from torch import Tensor


def one_record(weight: Tensor, bias: Tensor) -> Tensor:
    """Return the record, float64 [n], from gradients [m, n] and [m]; zeros if `bias` is zero."""
    g, d = weight.double(), bias.double()
    squared = d @ d
    return (d @ g) / squared if float(squared) > 0 else torch.zeros(g.shape[1], dtype=torch.float64)
