"""Cholesky factors with a quick derivative, and congruences by them."""

from __future__ import annotations

import torch
from torch import Tensor

from flowgroup._checks import check_square, values_readable
from flowgroup.linalg._function import Function
from flowgroup.linalg._parallel import parallel
from flowgroup.linalg.triangular_functions import closed_form_pays, tril_inverse


def cholesky(A: Tensor) -> Tensor:
    """The lower triangular L with A = LLᵀ and a positive diagonal.

    Differentiable twice, dL = L·Φ(L⁻¹ dA L⁻ᵀ), Φ being the lower triangle with half the diagonal. Gradients are
    symmetric. Sizes 1, 2 and 3 are element by element over the batch.

    Args:
        A: symmetric positive-definite matrices (..., n, n), of which the lower triangle is read.

    Returns:
        Lower triangular matrices (..., n, n). Where a matrix is not positive definite, its factor is NaN.

    Raises:
        ValueError: the matrices are not square.

    Source: Differentiation of the Cholesky decomposition, 2016, arXiv 1602.07527.

    Example:
        >>> cholesky(torch.tensor([[4.0, 2.0], [2.0, 5.0]]))
        tensor([[2., 0.],
                [1., 2.]])
    """
    check_square("A", A)
    if torch.compiler.is_compiling():
        # dynamo forgets custom gradients inside functorch's transforms: LLᵀ = A + dA up to third order in dA = 0
        L = _factor(A.detach())
        dA = A - A.detach()
        X = _phi(1.0, inverse_congruence(L, 0.5 * (dA + dA.mT)))
        return L + L @ (X - _phi(1.0, X @ X.mT))
    return _Cholesky.apply(A)


def congruence(L: Tensor, X: Tensor) -> Tensor:
    """L X Lᵀ.

    Args:
        L, X: matrices (..., n, n); batch shapes broadcast.

    Returns:
        Matrices (..., n, n).

    Example:
        >>> congruence(torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.eye(2))
        tensor([[4., 2.],
                [2., 2.]])
    """
    return L @ X @ L.mT


def gram(L: Tensor) -> Tensor:
    """L Lᵀ.

    Example:
        >>> gram(torch.tensor([[2.0, 0.0], [1.0, 1.0]]))
        tensor([[4., 2.],
                [2., 2.]])
    """
    if torch.compiler.is_compiling():
        return L @ L.mT
    return _Gram.apply(L)


def inverse_congruence(L: Tensor, X: Tensor) -> Tensor:
    """L⁻¹ X L⁻ᵀ for lower triangular L.

    Args:
        L: lower triangular matrices (..., n, n).
        X: matrices (..., n, n); batch shapes broadcast.

    Returns:
        Matrices (..., n, n).

    Example:
        >>> inverse_congruence(torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([[4.0, 2.0], [2.0, 2.0]]))
        tensor([[1., 0.],
                [0., 1.]])
    """
    return congruence(tril_inverse(L), X)


def _factor(A: Tensor) -> Tensor:
    n = A.shape[-1]
    if not closed_form_pays(A):
        (transposed,) = parallel(_transposed_factor, A.reshape(-1, n, n), least=2**17 // n**2)
        return transposed.mT.reshape(A.shape)
    L: list[list[Tensor]] = []
    for i in range(n):
        row: list[Tensor] = []
        for j in range(i):
            row.append((A[..., i, j] - sum(a * b for a, b in zip(row, L[j]))) / L[j][j])
        row.append((A[..., i, i] - sum(a * a for a in row)).sqrt())
        L.append(row)
    zero = 0 / L[-1][-1]  # NaN where a pivot was not positive: it spreads to all pivots after it
    return _stack([[L[i][j] + zero if j <= i else zero for j in range(n)] for i in range(n)])


def _transposed_factor(A: Tensor) -> tuple[Tensor]:
    """Lᵀ, which is how LAPACK leaves L in memory."""
    L, info = torch.linalg.cholesky_ex(A)
    if values_readable(A) and A.device.type == "cpu" and not info.any():
        return (L.mT,)
    zero = torch.zeros_like(info, dtype=A.dtype).masked_fill(info != 0, torch.nan)
    return (L.mT + zero[..., None, None],)


def _pull_back(L: Tensor, grad: Tensor) -> Tensor:
    """The symmetric gradient in A of a gradient in L."""
    n = L.shape[-1]
    if not closed_form_pays(L):
        K = tril_inverse(L)
        half = K.mT @ _phi(0.5, L.mT @ grad) @ K
        return half + half.mT
    # the steps of `_factor`, from the last to the first
    g = [[grad[..., i, j] for j in range(i + 1)] for i in range(n)]
    for i in reversed(range(n)):
        for j in reversed(range(i + 1)):
            g[i][j] = (g[i][j] if j < i else 0.5 * g[i][i]) / L[..., j, j]
            for k in range(j):
                g[i][k] = g[i][k] - g[i][j] * L[..., j, k]
            for k in range(j + (j < i)):
                g[j][k] = g[j][k] - g[i][j] * L[..., i, k]
            if j < i:
                g[i][j] = 0.5 * g[i][j]
    return _stack([[g[max(i, j)][min(i, j)] for j in range(n)] for i in range(n)])


def _stack(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([x for row in rows for x in row], -1).unflatten(-1, (len(rows), len(rows)))


def _phi(scale: float, X: Tensor) -> Tensor:
    """The lower triangle with half the diagonal, times a number."""
    n = X.shape[-1]
    half = torch.full((n, n), 0.5 * scale, dtype=X.dtype, device=X.device)
    return X * (half.tril() + half.tril(-1))


class _Gram(Function):
    @staticmethod
    def forward(L: Tensor) -> Tensor:
        return L @ L.mT

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, grad: Tensor):
        (L,) = ctx.saved_tensors
        return (grad + grad.mT) @ L  # one product where autograd takes two


class _Cholesky(Function):
    @staticmethod
    def forward(A: Tensor) -> Tensor:
        return _factor(A)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (L,) = ctx.saved_tensors
        return _pull_back(L, grad)
