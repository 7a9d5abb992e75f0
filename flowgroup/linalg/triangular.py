"""Products and triangular solves of matrices with vectors, quick for one matrix and many vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def matvec(A: Tensor, x: Tensor) -> Tensor:
    """y = A x, in the wider of the two dtypes also under autocast.

    Batch dimensions that only x has become columns of one matrix product; A is never copied along them.

    Args:
        A: matrices (..., m, n).
        x: vectors (..., n); batch shapes broadcast.

    Returns:
        Vectors (..., m).

    Example:
        >>> matvec(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.ones(2))
        tensor([3., 1.])
    """
    A, x = _same_dtype(A, x)
    with torch.autocast(x.device.type, enabled=False):
        return torch.einsum("...ij,...j->...i", A, x)


def solve_triangular(A: Tensor, y: Tensor, *, upper: bool, unitriangular: bool = False) -> Tensor:
    """x = A⁻¹ y for triangular A.

    Args:
        A: triangular matrices (..., n, n).
        y: vectors (..., n); batch shapes broadcast.
        upper: whether A is upper triangular, else lower.
        unitriangular: take the diagonal of A to be one, whatever is stored there.

    Returns:
        Vectors (..., n).

    Example:
        >>> solve_triangular(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([3.0, 1.0]), upper=True)
        tensor([1., 1.])
    """
    A, y = _same_dtype(A, y)
    lead = y.shape[: max(y.dim() + 1 - A.dim(), 0)]
    # xᵀAᵀ = yᵀ with the batch dimensions that only y has as rows
    rows = y.reshape(math.prod(lead), *y.shape[len(lead) :]).movedim(0, -2)
    x = torch.linalg.solve_triangular(A.mT, rows, upper=not upper, left=False, unitriangular=unitriangular)
    return x.movedim(-2, 0).reshape(*lead, *x.shape[:-2], x.shape[-1])


def _same_dtype(A: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(A.dtype, x.dtype)
    return A.to(dtype), x.to(dtype)
