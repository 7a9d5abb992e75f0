"""Cholesky factors with a quick derivative, and congruences by them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowgroup._checks import check_square, values_readable
from flowgroup.linalg._constants import constant
from flowgroup.linalg._entries import Entry, assemble, entries, numpy_may, silent
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
        L = factor(A.detach())
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


def factor(A: Tensor) -> Tensor:
    """L without a gradient of its own."""
    n = A.shape[-1]
    if not closed_form_pays(A):
        (transposed,) = parallel(_transposed_factor, A.reshape(-1, n, n), least=2**17 // n**2)
        return transposed.mT.reshape(A.shape)
    numpy = numpy_may(A)
    with silent(numpy):
        L = closed_factor(triangle(entries(A, lower(n), 2, numpy)))
        zero = 0 * L[-1][-1]
        return assemble([L[i][j] if j <= i else zero for i in range(n) for j in range(n)], A.shape)


def closed_factor(a: list[list[Entry]]) -> list[list[Entry]]:
    """The rows of L from the rows of the lower triangle of A; all NaN where a pivot is not positive."""
    L: list[list[Entry]] = []
    for i, a_i in enumerate(a):
        row: list[Entry] = []
        for j in range(i):
            row.append((a_i[j] - sum(x * y for x, y in zip(row, L[j]))) / L[j][j])
        row.append((a_i[i] - sum(x * x for x in row)) ** 0.5)
        L.append(row)
    zero = 0 / L[-1][-1]  # NaN where a pivot was not positive: it spreads to all pivots after it
    return [[x + zero for x in row] for row in L]


def closed_pull_back(L: list[list[Entry]], g: list[list[Entry]]) -> list[list[Entry]]:
    """The rows of the lower triangle of the symmetric gradient in A: the steps of `closed_factor`, last to first."""
    g = [list(row) for row in g]
    for i in reversed(range(len(L))):
        for j in reversed(range(i + 1)):
            g[i][j] = (g[i][j] if j < i else 0.5 * g[i][i]) / L[j][j]
            for k in range(j):
                g[i][k] = g[i][k] - g[i][j] * L[j][k]
            for k in range(j + (j < i)):
                g[j][k] = g[j][k] - g[i][j] * L[i][k]
            if j < i:
                g[i][j] = 0.5 * g[i][j]
    return g


def lower(n: int) -> list[int]:
    """Where the lower triangle is in a flattened matrix, row by row."""
    return [i * n + j for i in range(n) for j in range(i + 1)]


def triangle(x: Sequence[Entry]) -> list[list[Entry]]:
    """The rows of a lower triangle."""
    rows, start = [], 0
    while start < len(x):
        rows.append(list(x[start : start + len(rows) + 1]))
        start += len(rows)
    return rows


def symmetric(g: list[list[Entry]]) -> list[Entry]:
    """All entries of a symmetric matrix, row by row, from the rows of its lower triangle."""
    n = len(g)
    return [g[max(i, j)][min(i, j)] for i in range(n) for j in range(n)]


def _transposed_factor(A: Tensor) -> tuple[Tensor]:
    """Lᵀ, which is how LAPACK leaves L in memory."""
    L, info = torch.linalg.cholesky_ex(A)
    if values_readable(A) and A.device.type == "cpu" and not info.any():
        return (L.mT,)
    zero = torch.zeros_like(info, dtype=A.dtype).masked_fill(info != 0, torch.nan)
    return (L.mT + zero[..., None, None],)


def pull_back(L: Tensor, grad: Tensor) -> Tensor:
    """The symmetric gradient in A of a gradient in L."""
    batch, n = L.shape[:-2], L.shape[-1]
    once = numpy_may(L, grad) and not torch.is_grad_enabled()  # no second derivative is wanted
    if closed_form_pays(L):
        with silent(once):
            rows = [triangle(entries(X, lower(n), 2, once)) for X in (L, grad)]
            return assemble(symmetric(closed_pull_back(*rows)), L.shape)
    K = tril_inverse(L)
    if not once:
        half = K.mT @ _phi(0.5, L.mT @ grad) @ K
        return half + half.mT
    # the same in two pieces of memory: new ones cost as much as the products
    K, L, grad = (X.reshape(-1, n, n) for X in (K, L, grad))
    X = torch.bmm(L.mT, grad).mul_(_half(n, 0.5, L.dtype, L.device))
    Y = torch.bmm(K.mT, X)
    torch.bmm(Y, K, out=X)
    return torch.add(X, X.mT, out=Y).view(*batch, n, n)


def _phi(scale: float, X: Tensor) -> Tensor:
    """The lower triangle with half the diagonal, times a number."""
    return X * _half(X.shape[-1], scale, X.dtype, X.device)


@constant
def _half(n: int, scale: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    half = torch.full((n, n), 0.5 * scale, dtype=dtype, device=device)
    return half.tril() + half.tril(-1)


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
        return factor(A)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (L,) = ctx.saved_tensors
        return pull_back(L, grad)
