"""Linear equations AX + XB = C with symmetric A and B."""

from __future__ import annotations

import torch
from torch import Tensor

from flowgroup._checks import check_event_shape
from flowgroup.linalg._function import Function
from flowgroup.linalg.spectral import Spectrum, above_noise


def lyapunov(A: Tensor | Spectrum, C: Tensor) -> Tensor:
    """X with AX + XA = C, for symmetric positive-definite A.

    Differentiable twice in A and C. Eigenvalues of A are taken as everywhere: those below rounding are raised to it.

    Args:
        A: matrices (..., n, n), of which the lower triangle is read, or their spectrum, which saves a decomposition.
        C: matrices (..., n, n), symmetric or not; batch shapes broadcast.

    Returns:
        Matrices (..., n, n).

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> lyapunov(torch.diag(torch.tensor([1.0, 3.0])), torch.ones(2, 2))
        tensor([[0.5000, 0.2500],
                [0.2500, 0.1667]])
    """
    spectrum = A if isinstance(A, Spectrum) else Spectrum(A)
    n = spectrum.matrix.shape[-1]
    check_event_shape("C", C, (n, n))
    w = above_noise(spectrum.eigenvalues)
    return _solution(spectrum.matrix, spectrum.matrix, C, w, spectrum.eigenvectors, w, spectrum.eigenvectors)


def sylvester(A: Tensor | Spectrum, B: Tensor | Spectrum, C: Tensor) -> Tensor:
    """X with AX + XB = C, for symmetric A and B of which no eigenvalues aᵢ, bⱼ add to zero.

    Differentiable twice in A, B and C; where aᵢ + bⱼ = 0 the result is not finite.

    Args:
        A: matrices (..., n, n), of which the lower triangle is read, or their spectrum.
        B: matrices (..., m, m), likewise.
        C: matrices (..., n, m); batch shapes broadcast.

    Returns:
        Matrices (..., n, m).

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> sylvester(torch.diag(torch.tensor([1.0, 3.0])), torch.tensor([[1.0]]), torch.tensor([[2.0], [8.0]]))
        tensor([[1.],
                [2.]])
    """
    a, b = (X if isinstance(X, Spectrum) else Spectrum(X) for X in (A, B))
    check_event_shape("C", C, (a.matrix.shape[-1], b.matrix.shape[-1]))
    return _solution(a.matrix, b.matrix, C, a.eigenvalues, a.eigenvectors, b.eigenvalues, b.eigenvectors)


def _solution(A: Tensor, B: Tensor, C: Tensor, a: Tensor, U: Tensor, b: Tensor, V: Tensor) -> Tensor:
    """X for A = U diag(a) Uᵀ and B = V diag(b) Vᵀ, a, U, b and V without gradient."""
    if torch.compiler.is_compiling():
        # dynamo forgets custom gradients inside functorch's transforms; corrections that are zero have the same two
        dA, dB = (0.5 * (X + X.mT) for X in (A - A.detach(), B - B.detach()))
        X = _solve(C, a, U, b, V)
        for _ in range(2):
            X = _solve(C - dA @ X - X @ dB, a, U, b, V)
        return X
    batch = torch.broadcast_shapes(A.shape[:-2], B.shape[:-2], C.shape[:-2])
    A, B, C, U, V = (X.expand(*batch, *X.shape[-2:]) for X in (A, B, C, U, V))
    return _Solution.apply(A, B, C, a.expand(*batch, -1), U, b.expand(*batch, -1), V)


def _solve(C: Tensor, a: Tensor, U: Tensor, b: Tensor, V: Tensor) -> Tensor:
    return U @ ((U.mT @ C @ V) / (a.unsqueeze(-1) + b.unsqueeze(-2))) @ V.mT


class _Solution(Function):
    @staticmethod
    def forward(A: Tensor, B: Tensor, C: Tensor, a: Tensor, U: Tensor, b: Tensor, V: Tensor) -> Tensor:
        return _solve(C, a, U, b, V)

    @staticmethod
    def setup_context(ctx, inputs, output):
        A, B, _, *spectra = inputs
        ctx.save_for_backward(output, A, B, *spectra)

    @staticmethod
    def backward(ctx, grad: Tensor):
        X, A, B, *spectra = ctx.saved_tensors
        # the equation is its own adjoint in C; A and B enter as −dA·X and −X·dB
        Y = _Solution.apply(A, B, grad, *spectra)
        half_a = -0.5 * (Y @ X.mT) if ctx.needs_input_grad[0] else None
        half_b = -0.5 * (X.mT @ Y) if ctx.needs_input_grad[1] else None
        in_a, in_b = (None if H is None else H + H.mT for H in (half_a, half_b))
        return in_a, in_b, Y, None, None, None, None
