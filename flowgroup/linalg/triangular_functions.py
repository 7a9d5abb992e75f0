"""Functions of lower triangular matrices that are lower triangular again."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowgroup._checks import check_square, values_readable
from flowgroup.linalg._function import Function
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


def tril_log(L: Tensor) -> Tensor:
    """log L = ∫ ((1 + s)⁻¹ − (s + L)⁻¹) ds over s > 0, for lower triangular L with a positive diagonal.

    Exact to rounding up to a ratio of 10⁸ of diagonal entries, and relatively to |L − 1| near the identity.
    Differentiable twice.

    Args:
        L: matrices (..., n, n), of which the lower triangle is read.

    Returns:
        Lower triangular matrices (..., n, n) whose exponential is L. They cost as much as 80 inverses (40 in float32),
        in time and in memory.

    Raises:
        ValueError: the matrices are not square.

    Source: Functions of Matrices, 2008, Higham, equation 11.1; the rule is the trapezoidal one in a variable t with
    log s = at + sinh(t)/10, in which the integrand dies out doubly exponentially.

    Example:
        >>> tril_log(torch.tensor([[1.0, 0.0], [3.0, 1.0]]))
        tensor([[0.0000, 0.0000],
                [3.0000, 0.0000]])
    """
    check_square("L", L)
    n = L.shape[-1]
    diagonal = L.diagonal(dim1=-2, dim2=-1)
    logs = diagonal.log()
    low, high = logs.detach().aminmax(dim=-1)
    t = torch.linspace(-6.4, 6.4, 80 if L.dtype == torch.float64 else 40, dtype=L.dtype, device=L.device)
    t = t.reshape(-1, *[1] * low.dim())
    # out to where the integrand is below 10⁻¹⁵
    a = (6 + (high - low) / 2) / 6.4
    weight = (a + 0.1 * t.cosh()) * (12.8 / (t.shape[0] - 1))
    log_s = (high + low) / 2 + a * t + 0.1 * t.sinh()
    terms = tril_inverse(torch.eye(n, dtype=L.dtype, device=L.device) + L * torch.exp(-log_s)[..., None, None])
    return torch.diag_embed(logs) - (weight[..., None, None] * terms).sum(0).tril(-1)


def unitriangular_log(L: Tensor) -> Tensor:
    """log L = −Σₖ (1 − L)ᵏ/k, a finite sum, for lower triangular L with a diagonal of ones.

    Args:
        L: matrices (..., n, n), of which the part below the diagonal is read.

    Returns:
        Strictly lower triangular matrices (..., n, n).

    Raises:
        ValueError: the matrices are not square.

    Example:
        >>> unitriangular_log(torch.tensor([[1.0, 0.0], [3.0, 1.0]]))
        tensor([[0., 0.],
                [3., 0.]])
    """
    check_square("L", L)
    return _series(L.tril(-1), [0.0] + [(-1.0) ** (k + 1) / k for k in range(1, L.shape[-1])])


def unitriangular_exp(N: Tensor) -> Tensor:
    """exp N = Σₖ Nᵏ/k!, a finite sum, for strictly lower triangular N.

    Args:
        N: matrices (..., n, n), of which the part below the diagonal is read.

    Returns:
        Lower triangular matrices (..., n, n) with a diagonal of ones.

    Raises:
        ValueError: the matrices are not square.

    Example:
        >>> unitriangular_exp(torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
        tensor([[1., 0.],
                [3., 1.]])
    """
    check_square("N", N)
    return _series(N.tril(-1), [1 / math.factorial(k) for k in range(N.shape[-1])])


def _series(N: Tensor, coefficients: list[float]) -> Tensor:
    """Σₖ cₖNᵏ by about 2√n products.

    Source: On the Number of Nonscalar Multiplications Necessary to Evaluate Polynomials, 1973, Paterson and Stockmeyer.
    """
    width = math.isqrt(max(len(coefficients) - 1, 0)) + 1
    powers = [torch.eye(N.shape[-1], dtype=N.dtype, device=N.device).expand_as(N)]
    for _ in range(width):
        powers.append(powers[-1] @ N if len(powers) > 1 else N)
    step = powers.pop()
    rows = [coefficients[i : i + width] for i in range(0, len(coefficients), width)]
    table = N.new_tensor([row + [0.0] * (width - len(row)) for row in rows])
    *sums, total = torch.einsum("rp,p...->r...", table, torch.stack(powers)).unbind(0)
    for x in reversed(sums):
        total = x + step @ total
    return total


def closed_form_pays(A: Tensor) -> bool:
    """Whether element-wise formulas for matrices (..., n, n) beat LAPACK: for small ones, when there are many."""
    return many_small(A.shape) or (A.shape[-1] <= 3 and not values_readable(A))


def many_small(shape: torch.Size) -> bool:
    """Whether these are many matrices (..., n, n) of a size up to 3."""
    return shape[-1] <= 3 and shape[:-2].numel() >= 128


def _inverse(L: Tensor) -> Tensor:
    n = L.shape[-1]
    if not closed_form_pays(L):
        (transposed,) = parallel(_solve_for_transposed, L.reshape(-1, n, n), least=2**17 // n**2)
        return transposed.mT.reshape(L.shape)
    K: list[list[Tensor]] = []
    for i in range(n):
        pivot = 1 / L[..., i, i]
        sums = (sum(L[..., i, k] * K[k][j] for k in range(j, i)) for j in range(i))
        K.append([-pivot * s for s in sums] + [pivot] + [torch.zeros_like(pivot)] * (n - 1 - i))
    return torch.stack([x for row in K for x in row], -1).unflatten(-1, (n, n))


def _solve_for_transposed(L: Tensor) -> tuple[Tensor]:
    """(L⁻¹)ᵀ, which is how LAPACK leaves L⁻¹ in memory."""
    eye = torch.eye(L.shape[-1], dtype=L.dtype, device=L.device).expand_as(L)
    if L.dtype == torch.float32 and values_readable(L) and torch.get_num_threads() == 1:
        # half the time with MKL, and many times the time where it has more than one thread
        return (torch.linalg.solve_triangular(L.mT, eye, upper=True, left=False),)
    return (torch.linalg.solve_triangular(L, eye, upper=False).mT,)


class _Inverse(Function):
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
