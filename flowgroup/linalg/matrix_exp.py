"""The exponential of matrices that need not be symmetric."""

from __future__ import annotations

import torch
from torch import Tensor


def matrix_exp(A: Tensor) -> Tensor:
    """exp(A) = Σₖ Aᵏ/k!, as right for one matrix as for many.

    `torch.linalg.matrix_exp` takes another way for a matrix that comes alone, which in float64 is only right to 1e-10
    for small ones (torch 2.13); here it goes twice.

    Args:
        A: matrices (..., n, n).

    Returns:
        Matrices (..., n, n).

    Example:
        >>> matrix_exp(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        tensor([[1., 1.],
                [0., 1.]])
    """
    if A.shape[:-2].numel() != 1:
        return torch.linalg.matrix_exp(A)
    return torch.linalg.matrix_exp(torch.stack([A, A]))[0]
