"""Reordering of one dimension, with a reordering as its gradient."""

from __future__ import annotations

from torch import Tensor

from flowgroup.linalg._function import Function


def permute(x: Tensor, order: Tensor, inverse: Tensor, dim: int = -1) -> Tensor:
    """yᵢ = x[orderᵢ] along one dimension.

    The gradient of `index_select` is a scatter: slow, and with tails of vectors inductor lets it write out of bounds on
    a CPU (torch 2.13). That of a permutation is the inverse permutation.

    Args:
        x: any tensor.
        order: permutation (n,) of 0, …, n−1.
        inverse: its inverse, `order.argsort()`.
        dim: dimension of size n.

    Example:
        >>> import torch
        >>> order = torch.tensor([2, 0, 1])
        >>> permute(torch.tensor([1.0, 2.0, 3.0]), order, order.argsort())
        tensor([3., 1., 2.])
    """
    return _Permute.apply(x, order, inverse, dim)


class _Permute(Function):
    @staticmethod
    def forward(x: Tensor, order: Tensor, inverse: Tensor, dim: int) -> Tensor:
        return x.index_select(dim, order)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, order, inverse, ctx.dim = inputs
        ctx.save_for_backward(order, inverse)

    @staticmethod
    def backward(ctx, grad: Tensor):
        order, inverse = ctx.saved_tensors
        return _Permute.apply(grad, inverse, order, ctx.dim), None, None, None
