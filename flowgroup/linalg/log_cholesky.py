"""Log-Cholesky coordinates of positive-definite matrices: a vector that may be anything."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from flowgroup._checks import check_square
from flowgroup.linalg._constants import constant
from flowgroup.linalg._entries import Entry, assemble, entries, numpy_may, silent
from flowgroup.linalg._function import Function
from flowgroup.linalg.cholesky import (
    cholesky,
    closed_factor,
    closed_pull_back,
    factor,
    gram,
    lower,
    pull_back,
    symmetric,
    triangle,
)
from flowgroup.linalg.triangular_functions import closed_form_pays, many_small
from flowgroup.linalg.vech import gather, matrix_size, put, scatter, take


def log_cholesky(P: Tensor) -> Tensor:
    """(log L₁₁, …, log Lₙₙ, L₂₁, L₃₁, L₃₂, …), P = LLᵀ.

    Args:
        P: symmetric positive-definite matrices (..., n, n), of which the lower triangle is read.

    Returns:
        Vectors (..., n(n+1)/2); NaN where a matrix is not positive definite. Differentiable twice.

    Raises:
        ValueError: the matrices are not square.

    Source: Riemannian Geometry of Symmetric Positive Definite Matrices via Cholesky Decomposition, 2019, arXiv
    1908.09326.

    Example:
        >>> log_cholesky(torch.tensor([[1.0, 2.0], [2.0, 5.0]]))
        tensor([0., 0., 2.])
    """
    check_square("P", P)
    return _LogCholesky.apply(P)[0] if numpy_may(P) else _log_cholesky(P)


def exp_cholesky(v: Tensor) -> Tensor:
    """The matrices (..., n, n) with log_cholesky(P) = v, for vectors (..., n(n+1)/2). Differentiable twice.

    Example:
        >>> exp_cholesky(torch.tensor([0.0, 0.0, 2.0]))
        tensor([[1., 2.],
                [2., 5.]])
    """
    matrix_size(v)
    return _ExpCholesky.apply(v)[0] if numpy_may(v) else _exp_cholesky(v)


def _log_cholesky(P: Tensor) -> Tensor:
    n = P.shape[-1]
    L = cholesky(P)
    below = take(L.flatten(-2), _order(n, P.device)[n:])
    return torch.cat([L.diagonal(dim1=-2, dim2=-1).log(), below], -1)


def _exp_cholesky(v: Tensor) -> Tensor:
    n = matrix_size(v)
    v = torch.cat([v[..., :n].exp(), v[..., n:]], -1)
    return gram(put(v, _order(n, v.device), n * n).unflatten(-1, (n, n)))


@constant
def _order(n: int, device: torch.device) -> Tensor:
    """Where the diagonal and what is below it are in a flattened matrix."""
    i, j = torch.tril_indices(n, n, -1, device=device)
    return torch.cat([torch.arange(n, device=device) * (n + 1), i * n + j])


class _WithFactor(Function):
    """A map with L beside its value, for the way back: its entries (·, batch) where they are computed one by one."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[0], output[1])


class _LogCholesky(_WithFactor):
    """P ↦ v."""

    @staticmethod
    def forward(P: Tensor) -> tuple[Tensor, Tensor]:
        n = P.shape[-1]
        if closed_form_pays(P):
            with silent(True):
                L = closed_factor(triangle(entries(P, lower(n), 2, numpy=True)))
                v = [np.log(L[i][i]) for i in range(n)] + _below(L)
                return assemble(v, (*P.shape[:-2], -1)), torch.from_numpy(np.stack([x for row in L for x in row]))
        L = factor(P.detach())
        v = gather(L.flatten(-2), _order(n, P.device))
        v[..., :n].log_()
        return v, L

    @staticmethod
    def backward(ctx, grad: Tensor | None, _: None):
        return _gradient(ctx, grad, _log_cholesky, _in_matrix)


class _ExpCholesky(_WithFactor):
    """v ↦ P."""

    @staticmethod
    def forward(v: Tensor) -> tuple[Tensor, Tensor]:
        n = matrix_size(v)
        shape = torch.Size((*v.shape[:-1], n, n))
        if many_small(shape):
            with silent(True):
                rows = _rows(entries(v, range(v.shape[-1]), 1, numpy=True), n)
                for i in range(n):
                    rows[i][i] = np.exp(rows[i][i])
                P = [[sum(x * y for x, y in zip(rows[i], rows[j])) for j in range(i + 1)] for i in range(n)]
                return assemble(symmetric(P), shape), torch.from_numpy(np.stack([x for row in rows for x in row]))
        L = scatter(v, _order(n, v.device), n * n).unflatten(-1, (n, n))
        L.diagonal(dim1=-2, dim2=-1).exp_()
        return L @ L.mT, L

    @staticmethod
    def backward(ctx, grad: Tensor | None, _: None):
        return _gradient(ctx, grad, _exp_cholesky, _in_vector)


def _gradient(
    ctx, grad: Tensor | None, plain: Callable[[Tensor], Tensor], pull: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor | None:
    """By `pull`; by autograd's own ways through `plain` where it is to be differentiated again."""
    if grad is None:
        return None
    x, L = ctx.saved_tensors
    if torch.is_grad_enabled() or not numpy_may(grad):
        with torch.enable_grad():
            return torch.autograd.grad(plain(x), x, grad, create_graph=True)[0]
    return pull(x, L, grad)


def _in_matrix(P: Tensor, L: Tensor, grad: Tensor) -> Tensor:
    """The gradient in P of one in v."""
    n = P.shape[-1]
    if closed_form_pays(P):
        with silent(True):
            rows = triangle(list(L.numpy()))
            g = _rows(entries(grad, range(grad.shape[-1]), 1, numpy=True), n)
            for i in range(n):
                g[i][i] = g[i][i] / rows[i][i]
            return assemble(symmetric(closed_pull_back(rows, g)), P.shape)
    in_L = scatter(grad, _order(n, L.device), n * n).unflatten(-1, (n, n))
    in_L.diagonal(dim1=-2, dim2=-1).div_(L.diagonal(dim1=-2, dim2=-1))
    return pull_back(L, in_L)


def _in_vector(v: Tensor, L: Tensor, grad: Tensor) -> Tensor:
    """The gradient in v of one in P: (G + Gᵀ) L."""
    n = grad.shape[-1]
    if closed_form_pays(grad):
        with silent(True):
            rows = triangle(list(L.numpy()))
            G = entries(grad, range(n * n), 2, numpy=True)
            S = [[G[i * n + j] + G[j * n + i] for j in range(n)] for i in range(n)]
            g = [[sum(S[i][k] * rows[k][j] for k in range(j, n)) for j in range(i + 1)] for i in range(n)]
            return assemble([g[i][i] * rows[i][i] for i in range(n)] + _below(g), v.shape)
    in_v = gather(((grad + grad.mT) @ L).flatten(-2), _order(n, v.device))
    in_v[..., :n].mul_(L.diagonal(dim1=-2, dim2=-1))
    return in_v


def _below(L: list[list[Entry]]) -> list[Entry]:
    """What is below the diagonal, row by row."""
    return [x for i, row in enumerate(L) for x in row[:i]]


def _rows(v: list[Entry], n: int) -> list[list[Entry]]:
    """The rows of a lower triangle from its diagonal and what is below that."""
    below = iter(v[n:])
    return [[next(below) for _ in range(i)] + [v[i]] for i in range(n)]
