"""Symmetric and triangular matrices as vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def vech(X: Tensor) -> Tensor:
    """The entries Xᵢⱼ, i ≥ j, row by row, those off the diagonal times √2: |vech X| = |X|, the Frobenius norm.

    Args:
        X: symmetric matrices (..., n, n), of which the lower triangle is read.

    Returns:
        Vectors (..., n(n+1)/2).

    Example:
        >>> vech(torch.eye(2))
        tensor([1., 0., 1.])
    """
    return tril_vector(X) * _scale(X.shape[-1], X, 1.0, math.sqrt(2))


def unvech(v: Tensor) -> Tensor:
    """The symmetric matrices (..., n, n) with vech(X) = v, for vectors (..., n(n+1)/2).

    Example:
        >>> unvech(torch.tensor([1.0, 0.0, 2.0]))
        tensor([[1., 0.],
                [0., 2.]])
    """
    half = from_tril_vector(v * _scale(matrix_size(v), v, 0.5, math.sqrt(0.5)))
    return half + half.mT


def tril_vector(L: Tensor) -> Tensor:
    """The lower triangle of matrices (..., n, n), row by row: (..., n(n+1)/2).

    Example:
        >>> tril_vector(torch.tensor([[1.0, 9.0], [2.0, 3.0]]))
        tensor([1., 2., 3.])
    """
    n = L.shape[-1]
    return L.flatten(-2)[..., _entries(n, L.device)]


def from_tril_vector(v: Tensor) -> Tensor:
    """The lower triangular matrices (..., n, n) with the entries v (..., n(n+1)/2), row by row.

    Example:
        >>> from_tril_vector(torch.tensor([1.0, 2.0, 3.0]))
        tensor([[1., 0.],
                [2., 3.]])
    """
    n = matrix_size(v)
    flat = v.new_zeros(*v.shape[:-1], n * n)
    return flat.index_copy(-1, _entries(n, v.device), v).unflatten(-1, (n, n))


def matrix_size(v: Tensor) -> int:
    """n for vectors (..., n(n+1)/2)."""
    m = v.shape[-1]
    n = (int((8 * m + 1) ** 0.5) - 1) // 2
    if n * (n + 1) // 2 != m:
        raise ValueError(f"v must have n(n+1)/2 entries in its last dimension, got {m}")
    return n


def _scale(n: int, like: Tensor, diagonal: float, off: float) -> Tensor:
    i, j = torch.tril_indices(n, n, device=like.device)
    return torch.full_like(i, off, dtype=like.dtype).masked_fill(i == j, diagonal)


def _entries(n: int, device: torch.device) -> Tensor:
    i, j = torch.tril_indices(n, n, device=device)
    return i * n + j
