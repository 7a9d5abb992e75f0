"""Geometric means of symmetric positive-definite matrices."""

from __future__ import annotations

from torch import Tensor

from flowgroup.linalg.cholesky import cholesky, congruence, inverse_congruence
from flowgroup.linalg.spectral import powm


def geometric_mean(A: Tensor, B: Tensor, t: float | Tensor = 0.5) -> Tensor:
    """A #ₜ B = L (L⁻¹BL⁻ᵀ)ᵗ Lᵀ, A = LLᵀ: the affine-invariant geodesic from A to B at time t.

    It is A^½ (A^{−½}BA^{−½})ᵗ A^½, without roots of A. For t = ½ it is the X with XA⁻¹X = B. The mean of more than two
    matrices is `flowgroup.manifolds.SPD(n).frechet_mean`.

    Args:
        A, B: symmetric positive-definite matrices (..., n, n); batch shapes broadcast.
        t: a number, or a tensor of the batch shape, which gets its gradient.

    Returns:
        Matrices (..., n, n).

    Source: Positive Definite Matrices, 2007, Bhatia, chapter 4.

    Example:
        >>> import torch
        >>> geometric_mean(torch.eye(2), 4 * torch.eye(2))
        tensor([[2., 0.],
                [0., 2.]])
    """
    L = cholesky(A)
    return congruence(L, powm(inverse_congruence(L, B), t))
