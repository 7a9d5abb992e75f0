"""Functions of lower triangular matrices that are lower triangular again."""

from __future__ import annotations

import torch
from torch import Tensor

from flowgroup._checks import check_square
from flowgroup.linalg._parallel import parallel


def tril_inverse(L: Tensor) -> Tensor:
    """L⁻¹ of lower triangular matrices.

    Args:
        L: matrices (..., n, n), of which the lower triangle is read.

    Returns:
        Lower triangular matrices (..., n, n); NaN or infinite where the diagonal holds a zero. Differentiable, without
        another solve.

    Raises:
        ValueError: the matrices are not square.

    Example:
        >>> tril_inverse(torch.tensor([[2.0, 0.0], [2.0, 1.0]]))
        tensor([[ 0.5000,  0.0000],
                [-1.0000,  1.0000]])
    """
    check_square("L", L)
    if torch.compiler.is_compiling():
        # dynamo forgets custom gradients inside functorch's transforms; terms that are zero have the same two
        K = _inverse(L.detach())
        E = K @ (L - L.detach()).tril()
        return K - (E - E @ E) @ K
    return _Inverse.apply(L)


def _inverse(L: Tensor) -> Tensor:
    n = L.shape[-1]
    if n > 3:
        (transposed,) = parallel(_solve_for_transposed, L.reshape(-1, n, n), least=2**16 // n**2)
        return transposed.mT.reshape(L.shape)
    K: list[list[Tensor]] = []
    for i in range(n):
        pivot = 1 / L[..., i, i]
        sums = (sum(L[..., i, k] * K[k][j] for k in range(j, i)) for j in range(i))
        K.append([-pivot * s for s in sums] + [pivot] + [torch.zeros_like(pivot)] * (n - 1 - i))
    return torch.stack([x for row in K for x in row], -1).unflatten(-1, (n, n))


def _solve_for_transposed(L: Tensor) -> tuple[Tensor]:
    """(L⁻¹)ᵀ, which is how LAPACK leaves L⁻¹ in memory."""
    eye = torch.eye(L.shape[-1], dtype=L.dtype, device=L.device)
    return (torch.linalg.solve_triangular(L, eye.expand_as(L), upper=False).mT,)


class _Inverse(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(L: Tensor) -> Tensor:
        return _inverse(L)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (K,) = ctx.saved_tensors
        return -(K.mT @ grad @ K.mT).tril()
