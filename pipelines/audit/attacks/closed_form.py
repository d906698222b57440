"""One record from the gradient of a first linear layer with a bias, in closed form.

Phong, Aono, Hayashi, Wang and Moriai, "Privacy-preserving deep learning via additively homomorphic
encryption", IEEE TIFS 2018, section 3: the gradient of the weight is d x^T and that of the bias d, so
every row is a multiple of the record x. Rows are combined by least squares, which averages noise.
"""

from __future__ import annotations

import torch
from torch import Tensor


def one_record(weight: Tensor, bias: Tensor) -> Tensor:
    """The record, float64 [n], from gradients [m, n] and [m]; zeros where the bias has none."""
    g, d = weight.double(), bias.double()
    squared = d @ d
    return (d @ g) / squared if float(squared) > 0 else torch.zeros(g.shape[1], dtype=torch.float64)
