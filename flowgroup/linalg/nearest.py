"""The nearest rotations and orthonormal frames."""

from __future__ import annotations

import torch
from torch import Tensor


def nearest_rotation(X: Tensor) -> Tensor:
    """argmin_R |X − R| over rotations: U·diag(1, …, 1, ±1)·Vᵀ for X = U·diag(σ)·Vᵀ.

    The gradient is that of the minimizer, also at rotations, where all σ coincide; where several rotations are as near
    it leaves out the directions that are not determined. First derivatives only.

    Args:
        X: square matrices (..., n, n).

    Returns:
        Rotations (..., n, n).

    Example:
        >>> nearest_rotation(torch.diag(torch.tensor([3.0, 2.0, -1.0])))
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """
    U, sigma, Vh = torch.linalg.svd(X.detach())
    sign = torch.where(torch.linalg.det(U @ Vh) < 0, -1.0, 1.0).to(sigma).unsqueeze(-1)
    flip = torch.cat([torch.ones_like(sigma[..., 1:]), sign], -1)
    return _frame(X, U * flip.unsqueeze(-2), sigma * flip, Vh)


def nearest_frame(X: Tensor) -> Tensor:
    """argmin_Q |X − Q| over Q with QᵀQ = I: the polar factor UVᵀ of X = U·diag(σ)·Vᵀ.

    The gradient is as in `nearest_rotation`.

    Args:
        X: matrices (..., n, p), p ≤ n.

    Returns:
        Matrices (..., n, p) with orthonormal columns.

    Example:
        >>> nearest_frame(torch.tensor([[3.0], [4.0]]))
        tensor([[0.6000],
                [0.8000]])
    """
    U, sigma, Vh = torch.linalg.svd(X.detach(), full_matrices=False)
    return _frame(X, U, sigma, Vh)


def _frame(X: Tensor, U: Tensor, sigma: Tensor, Vh: Tensor) -> Tensor:
    """Q = UVᵀ, of which only X carries a derivative: dQ = Q·Ω + (I − QQᵀ)·dX·S⁻¹, ΩS + SΩ = QᵀdX − dXᵀQ, S = QᵀX."""
    eps = torch.finfo(X.dtype).eps
    Q = U @ Vh
    XV = X @ Vh.mT
    B = U.mT @ XV
    omega = (B - B.mT) * _reciprocal(sigma.unsqueeze(-1) + sigma.unsqueeze(-2), eps * sigma[..., :1, None])
    across = (XV - U @ B) * _reciprocal(sigma, eps * sigma[..., :1]).unsqueeze(-2)
    change = (U @ omega + across) @ Vh
    return Q + (change - change.detach())


def _reciprocal(x: Tensor, least: Tensor) -> Tensor:
    """1/x, and 0 for x up to `least`."""
    large = x > least
    return torch.where(large, 1 / torch.where(large, x, 1), 0)
