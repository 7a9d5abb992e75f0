"""Symmetric and triangular matrices as vectors."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from flowgroup._checks import values_readable
from flowgroup.linalg._constants import constant
from flowgroup.linalg._entries import numpy_may
from flowgroup.linalg._function import Function


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
    return tril_vector(X) * _scale(X.shape[-1], 1.0, math.sqrt(2), X.dtype, X.device)


def unvech(v: Tensor) -> Tensor:
    """The symmetric matrices (..., n, n) with vech(X) = v, for vectors (..., n(n+1)/2).

    Example:
        >>> unvech(torch.tensor([1.0, 0.0, 2.0]))
        tensor([[1., 0.],
                [0., 2.]])
    """
    half = from_tril_vector(v * _scale(matrix_size(v), 0.5, math.sqrt(0.5), v.dtype, v.device))
    return half + half.mT


def tril_vector(L: Tensor) -> Tensor:
    """The lower triangle of matrices (..., n, n), row by row: (..., n(n+1)/2).

    Example:
        >>> tril_vector(torch.tensor([[1.0, 9.0], [2.0, 3.0]]))
        tensor([1., 2., 3.])
    """
    return take(L.flatten(-2), _entries(L.shape[-1], L.device))


def from_tril_vector(v: Tensor) -> Tensor:
    """The lower triangular matrices (..., n, n) with the entries v (..., n(n+1)/2), row by row.

    Example:
        >>> from_tril_vector(torch.tensor([1.0, 2.0, 3.0]))
        tensor([[1., 0.],
                [2., 3.]])
    """
    n = matrix_size(v)
    return put(v, _entries(n, v.device), n * n).unflatten(-1, (n, n))


def matrix_size(v: Tensor) -> int:
    """n for vectors (..., n(n+1)/2)."""
    m = v.shape[-1]
    n = (int((8 * m + 1) ** 0.5) - 1) // 2
    if n * (n + 1) // 2 != m:
        raise ValueError(f"v must have n(n+1)/2 entries in its last dimension, got {m}")
    return n


@constant
def _scale(n: int, diagonal: float, off: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    i, j = torch.tril_indices(n, n, device=device)
    return torch.full_like(i, off, dtype=dtype).masked_fill(i == j, diagonal)


@constant
def _entries(n: int, device: torch.device) -> Tensor:
    i, j = torch.tril_indices(n, n, device=device)
    return i * n + j


def take(x: Tensor, index: Tensor) -> Tensor:
    """The entries x[..., index], none of them twice.

    Example:
        >>> take(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2, 0]))
        tensor([3., 1.])
    """
    if torch.compiler.is_compiling():  # where dynamo differentiates custom functions wrongly under nested vjps
        return x[..., index]
    return _Take.apply(x, index)


def put(v: Tensor, index: Tensor, size: int) -> Tensor:
    """Vectors (..., size) with the entries v at `index` and zeros elsewhere.

    Example:
        >>> put(torch.tensor([3.0, 1.0]), torch.tensor([2, 0]), 3)
        tensor([1., 0., 3.])
    """
    if torch.compiler.is_compiling():
        return v.new_zeros(*v.shape[:-1], size).index_copy(-1, index, v)
    return _Put.apply(v, index, size)


def gather(x: Tensor, index: Tensor) -> Tensor:
    """`take` without a gradient."""
    if numpy_may(x):  # which is quicker at that than torch, threefold
        return torch.from_numpy(np.take(x.detach().numpy(), index.numpy(), axis=-1))
    return x.index_select(-1, index)


def scatter(v: Tensor, index: Tensor, size: int) -> Tensor:
    """`put` without a gradient."""
    zeros = v.new_zeros(*v.shape[:-1], size)
    if values_readable(v):
        return zeros.scatter_(-1, index.expand(v.shape), v.detach())
    return zeros.index_copy(-1, index, v)


# autograd's own gradient of a gather accumulates, and takes twice the time
class _Take(Function):
    @staticmethod
    def forward(x: Tensor, index: Tensor) -> Tensor:
        return gather(x, index)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, index = inputs
        ctx.save_for_backward(index)
        ctx.size = x.shape[-1]

    @staticmethod
    def backward(ctx, grad: Tensor):
        (index,) = ctx.saved_tensors
        return _Put.apply(grad, index, ctx.size), None


class _Put(Function):
    @staticmethod
    def forward(v: Tensor, index: Tensor, size: int) -> Tensor:
        return scatter(v, index, size)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx, grad: Tensor):
        (index,) = ctx.saved_tensors
        return _Take.apply(grad, index), None, None
