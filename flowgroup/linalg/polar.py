"""The polar decomposition."""

from __future__ import annotations

import torch
from torch import Tensor

from flowgroup._checks import check_event_shape
from flowgroup.linalg._function import Function
from flowgroup.linalg.spectral import Spectrum
from flowgroup.linalg.sylvester import lyapunov


def polar(A: Tensor) -> tuple[Tensor, Tensor]:
    """(R, P) with A = P R, where RRᵀ = 1 and P = (AAᵀ)^½.

    R is the matrix with orthonormal rows that is nearest to A; of a tall matrix decompose the transpose. Differentiable
    twice wherever A has full rank: gradients divide by singular values and by their sums, never by differences.

    Args:
        A: matrices (..., n, p), n ≤ p.

    Returns:
        R (..., n, p), and symmetric positive-semidefinite P (..., n, n). Where A holds NaN or infinity, they are NaN.

    Raises:
        ValueError: A has more rows than columns.

    Source: Functions of Matrices, 2008, Higham, chapter 8.

    Example:
        >>> R, P = polar(torch.tensor([[0.0, -2.0], [3.0, 0.0]]))
        >>> R, P
        (tensor([[ 0., -1.],
                [ 1.,  0.]]), tensor([[2., 0.],
                [0., 3.]]))
    """
    check_event_shape("A", A, (None, None))
    n, p = A.shape[-2:]
    if n > p:
        raise ValueError(f"A must not have more rows than columns, got shape {tuple(A.shape)}: decompose its transpose")
    U, sigma, Vh = _svd(A.detach())
    R = U @ Vh
    if torch.compiler.is_compiling():
        # dynamo forgets custom gradients inside functorch's transforms; a term that is zero has the same gradient
        R = R + _pull_back(R, _stretch(A.detach(), R), U, sigma, A - A.detach())
    else:
        R = _Rotation.apply(A, R, U, sigma)
    return R, _stretch(A, R)


def _stretch(A: Tensor, R: Tensor) -> Tensor:
    half = A @ R.mT
    return 0.5 * (half + half.mT)


def _pull_back(R: Tensor, P: Tensor, U: Tensor, sigma: Tensor, G: Tensor) -> Tensor:
    """Y R + P⁻¹ G (1 − RᵀR) with YP + PY = GRᵀ − RGᵀ: the derivative of R in direction G, which is its own adjoint."""
    spectrum = Spectrum.of(P, sigma, U)
    along = G @ R.mT
    result = lyapunov(spectrum, along - along.mT) @ R
    return result if R.shape[-2] == R.shape[-1] else result + spectrum.inv() @ (G - along @ R)


def _svd(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # LAPACK fails for the whole batch where one matrix is not finite
    finite = torch.isfinite(A).all(-1, keepdim=True).all(-2, keepdim=True)
    eye = torch.eye(*A.shape[-2:], dtype=A.dtype, device=A.device)
    U, sigma, Vh = torch.linalg.svd(A.where(finite, eye), full_matrices=False)
    return U.where(finite, torch.nan), sigma, Vh


class _Rotation(Function):
    @staticmethod
    def forward(A: Tensor, R: Tensor, U: Tensor, sigma: Tensor) -> Tensor:
        return R.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        A, _, U, sigma = inputs
        ctx.save_for_backward(A, output, U, sigma)

    @staticmethod
    def backward(ctx, grad: Tensor):
        A, R, U, sigma = ctx.saved_tensors
        return _pull_back(R, _stretch(A, R), U, sigma, grad), None, None, None
