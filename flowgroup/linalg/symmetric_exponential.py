"""The exponential of symmetric matrices by squares alone, without eigenvalues: quicker from middling sizes on.

exp A = e^μ·(1 + D)^(2^s) with D = p((A − μ)/2^s), μ the mean of the diagonal and p a polynomial that has the series of
eˣ − 1 up to x¹¹. Every product in it is the square of a combination of what came before, and so in the derivative:
(U²)′ = UU′ + (UU′)ᵀ is one product again, as all of them are symmetric.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowgroup._checks import values_readable

SQUARES = [
    [1.0],
    [5.5008420047341814573, 1.0],
    [31.036428219463406725, -2.5039864242383770604, 1.0],
    [0.72149221657627625401, 0.1174655924841345247, 0.0011567261638083038276, 1.8757522558740356865e-7],
]
"""P₁ = x, and P₂ … P₅ the squares of the combinations of P₁, P₂ … with these coefficients."""

SUM = [1.0, 0.13971041684249877223, -0.0054044895823217805823, 3.3993266175035777867e-6]
"""p(x) = P₅ + the combination of P₁ … P₄ with these, which is x + x²/2! + … + x¹¹/11! + 1.28 x¹²/12! + …"""

SIZES = range(6, 65)
"""n where this is quicker than eigenvalues."""

DOUBLINGS = 7
"""Largest s: beyond it eigenvalues cost no more."""


def symmetric_exponential(A: Tensor) -> Tensor | None:
    """exp A of symmetric matrices (..., n, n) in float32 or float64, or None where eigenvalues are the better way.

    That is for small and large n, for matrices far from a multiple of the identity, for those with NaN or infinity, on
    other devices than the CPU, and where values cannot be read. The gradient is that of exp((A + Aᵀ)/2).

    Source: the squares follow no paper; their coefficients solve p(x) = eˣ − 1 + O(x¹²). For the frame: New Scaling and
    Squaring, Functions of Matrices, 2008, Higham, section 10.3.

    Example:
        >>> A = torch.ones(8, 8)
        >>> torch.allclose(symmetric_exponential(A), torch.eye(8) + A * (math.exp(8) - 1) / 8)
        True
    """
    n = A.shape[-1]
    if n not in SIZES or A.numel() == 0 or A.device.type != "cpu" or not values_readable(A):
        return None
    if A.dtype not in (torch.float32, torch.float64):
        return None
    with torch.no_grad():
        powers = A.new_empty(len(SQUARES), A.shape[:-2].numel(), n, n)
        X, square = powers[0], powers[1]
        flat = A.detach().reshape(X.shape)
        torch.lerp(flat, flat.mT, 0.5, out=X)
        diagonal = X.diagonal(dim1=-2, dim2=-1)
        mean = diagonal.mean(-1, keepdim=True)
        diagonal.sub_(mean)
        torch.bmm(X, X, out=square)
        # the largest |eigenvalue|, as its fourth power is at most the sum of all
        size = torch.linalg.vector_norm(square, dim=(-2, -1)).amax().sqrt().item()
        if not size <= 2**DOUBLINGS * _reach(A.dtype):
            return None
        s = max(0, math.ceil(math.log2(max(size, 1e-30) / _reach(A.dtype))))
        X.mul_(0.5**s)
        square.mul_(0.25**s)
    return _Exponential.apply(A, powers, (0.5 * mean).exp_().unsqueeze(-1), s)[0]


def _reach(dtype: torch.dtype) -> float:
    """|x| up to which p is right: |p(x) + 1 − eˣ| ≤ ε/2·|x|·eˣ."""
    return (1.5e8 * torch.finfo(dtype).eps) ** (1 / 11)


def _combination(coefficients: list[float], terms: Tensor, out: Tensor) -> Tensor:
    torch.mv(terms[: len(coefficients)].view(len(coefficients), -1).T, terms.new_tensor(coefficients), out=out.view(-1))
    return out


class _Exponential(torch.autograd.Function):
    """exp A from P₁ and P₂ of (A − μ)/2^s, in storage for P₁ … P₄, and √e^μ; and all matrices squared on the way."""

    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor, powers: Tensor, root: Tensor, s: int) -> tuple[Tensor, Tensor]:
        last = len(SQUARES)
        squared = powers.new_empty(last - 1 + s, *powers.shape[1:])  # all but x
        for k in range(2, last):
            U = _combination(SQUARES[k - 1], powers, squared[k - 2])
            torch.bmm(U, U, out=powers[k])
        U = _combination(SQUARES[-1], powers, squared[last - 2])
        D = _combination(SUM, powers, squared[last - 1] if s else torch.empty_like(U)).baddbmm_(U, U)
        for k in range(s):
            # (1 + D)² = 1 + (2D + D²): what is small is kept apart from 1
            D = torch.baddbmm(D, D, D, beta=2, out=squared[last + k] if k + 1 < s else torch.empty_like(D))
        D.diagonal(dim1=-2, dim2=-1).add_(1)
        return D.mul_(root).mul_(root).view(A.shape), squared

    @staticmethod
    def setup_context(ctx, inputs, output):
        A, powers, root, ctx.s = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(A, powers[0], root, output[1])

    @staticmethod
    def backward(ctx, grad: Tensor | None, _):
        if grad is None:
            return None, None, None, None
        A, X, root, squared = ctx.saved_tensors
        return _pull_back(grad, X, root, squared, ctx.s).view(A.shape), None, None, None


def _pull_back(grad: Tensor, X: Tensor, root: Tensor, squared: Tensor, s: int) -> Tensor:
    """D exp(A)[(G + Gᵀ)/2], the derivative being its own adjoint."""
    last = len(SQUARES)
    powers = squared.new_empty(last, *X.shape)
    grad = grad.reshape(X.shape)
    torch.lerp(grad, grad.mT, 0.5, out=powers[0])
    powers[0].mul_(root * 0.5**s)
    M, V = torch.empty_like(X), torch.empty_like(X)
    for k in range(1, last):
        U = X if k == 1 else squared[k - 2]
        V = powers[0] if k == 1 else _combination(SQUARES[k - 1], powers, V)
        torch.bmm(U, V, out=M)
        torch.add(M, M.mT, out=powers[k])
        V = torch.empty_like(X) if k == 1 else V
    torch.bmm(squared[last - 2], _combination(SQUARES[-1], powers, V), out=M)
    D = _combination(SUM, powers, V).add_(M).add_(M.mT)
    for k in range(s):
        torch.baddbmm(D, squared[last - 1 + k], D, out=M)
        torch.add(M, M.mT, out=D)
    return D.mul_(root)
