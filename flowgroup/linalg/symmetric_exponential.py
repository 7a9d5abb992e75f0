"""The exponential of symmetric matrices; for many float32 matrices of middling size by squares, without eigenvalues.

exp A = e^μ·(1 + D)^(2^s) with D = p((A − μ)/2^s), μ the mean of the diagonal and p a polynomial that has the series of
eˣ − 1 up to x¹¹. Every product in it is the square of a combination of what came before, and so in the derivative:
(U²)′ = UU′ + (UU′)ᵀ is one product again, as all of them are symmetric.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowgroup._checks import check_square, values_readable
from flowgroup.linalg._function import Function
from flowgroup.linalg.scalar_functions import EXP
from flowgroup.linalg.spectral import Spectrum, _Derivative

SQUARES = [
    [1.0],
    [5.5008420047341814573, 1.0],
    [31.036428219463406725, -2.5039864242383770604, 1.0],
    [0.72149221657627625401, 0.1174655924841345247, 0.0011567261638083038276, 1.8757522558740356865e-7],
]
"""P₁ = x, and P₂ … P₅ the squares of the combinations of P₁, P₂ … with these coefficients."""

SUM = [1.0, 0.13971041684249877223, -0.0054044895823217805823, 3.3993266175035777867e-6]
"""p(x) = P₅ + the combination of P₁ … P₄ with these, which is x + x²/2! + … + x¹¹/11! + 1.28 x¹²/12! + …"""

REACH = 1.3
"""|x| up to which p is right in float32: |p(x) + 1 − eˣ| ≤ 2⁻²⁴·|x|·eˣ."""

DOUBLINGS = 6
"""Largest s; beyond it the products cost about what eigenvalues cost."""


def expm(A: Tensor) -> Tensor:
    """exp A of symmetric matrices (..., n, n).

    Many float32 matrices with n from 8 to 64, not too far from multiples of the identity, take scaling and squaring on
    the CPU where values may be read, all others their eigenvalues. Differentiable twice; gradients are symmetric,
    those of exp((A + Aᵀ)/2).

    Source: for scaling and squaring Functions of Matrices, 2008, Higham, section 10.3; the coefficients here solve
    p(x) = eˣ − 1 + O(x¹²).

    Example:
        >>> torch.allclose(expm(torch.zeros(3, 3)), torch.eye(3))
        True
    """
    check_square("A", A)
    result = _by_squares(A) if _squares_pay(A) else None
    return Spectrum(A).exp() if result is None else result


def _squares_pay(A: Tensor) -> bool:
    where = A.device.type == "cpu" and A.dtype == torch.float32 and values_readable(A)
    return where and 8 <= A.shape[-1] <= 64 and A.numel() >= 8192


def _by_squares(A: Tensor) -> Tensor | None:
    """exp A, or None where it would take more than `DOUBLINGS`."""
    n = A.shape[-1]
    with torch.no_grad():
        powers = A.new_empty(len(SQUARES), A.shape[:-2].numel(), n, n)
        X, square = powers[0], powers[1]
        A_flat = A.reshape(X.shape)
        torch.lerp(A_flat, A_flat.mT, 0.5, out=X)
        diagonal = X.diagonal(dim1=-2, dim2=-1)
        mean = diagonal.mean(-1, keepdim=True)
        diagonal.sub_(mean)
        torch.bmm(X, X, out=square)
        # bounds |eigenvalues|: the fourth power of one is at most the sum of all
        size = torch.linalg.vector_norm(square, dim=(-2, -1)).amax().sqrt().item()
        if not size <= REACH * 2**DOUBLINGS:  # so written, NaN is too large as well
            return None
        s = math.ceil(math.log2(max(size / REACH, 1)))
        X.mul_(0.5**s)
        square.mul_(0.25**s)
        root = (0.5 * mean).exp_().unsqueeze(-1)
    return _Exponential.apply(A, powers, root, s)[0]


def _combination(coefficients: list[float], terms: Tensor, out: Tensor) -> Tensor:
    """Σ coefficients[k]·terms[k], in `out`."""
    k = len(coefficients)
    torch.mv(terms[:k].view(k, -1).T, terms.new_tensor(coefficients), out=out.view(-1))
    return out


class _Exponential(Function):
    """exp A, and all the matrices squared on the way.

    `powers` is room for P₁ … P₄ of (A − μ)/2^s, with P₁ and P₂ in it; `root` is e^{μ/2}, which taken twice neither
    overflows nor vanishes before the result does.
    """

    @staticmethod
    def forward(A: Tensor, powers: Tensor, root: Tensor, s: int) -> tuple[Tensor, Tensor]:
        last = len(SQUARES)
        squared = powers.new_empty(last + s, *powers.shape[1:])
        squared[0] = powers[0]
        for k in range(1, last):
            U = _combination(SQUARES[k], powers, out=squared[k])
            if k + 1 < last:
                torch.bmm(U, U, out=powers[k + 1])
        D = _combination(SUM, powers, out=torch.empty_like(U)).baddbmm_(U, U)
        for k in range(last, last + s):
            squared[k] = D
            # (1 + D)² = 1 + (2D + D²): what is small is kept apart from 1
            D.baddbmm_(squared[k], squared[k], beta=2)
        D.diagonal(dim1=-2, dim2=-1).add_(1)
        return D.mul_(root).mul_(root).view(A.shape), squared

    @staticmethod
    def setup_context(ctx, inputs, output):
        A, _, root, _ = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(A, root, output[1])

    @staticmethod
    def backward(ctx, grad: Tensor | None, _: None):
        if grad is None:
            return None, None, None, None
        A, root, squared = ctx.saved_tensors
        if torch.is_grad_enabled() or not values_readable(grad):
            spectrum = Spectrum(A)
            return _Derivative.apply(A, grad, spectrum.eigenvalues, spectrum.eigenvectors, EXP), None, None, None
        return _pull_back(grad, root, squared).view(A.shape), None, None, None


def _pull_back(H: Tensor, root: Tensor, squared: Tensor) -> Tensor:
    """D exp(A)[(H + Hᵀ)/2] (batch, n, n), which is its own adjoint."""
    last = len(SQUARES)
    s = len(squared) - last
    powers = squared.new_empty(last, *squared.shape[1:])
    H = H.reshape(powers[0].shape)
    torch.lerp(H, H.mT, 0.5, out=powers[0]).mul_(root * 0.5**s)
    D, M = torch.empty_like(squared[0]), torch.empty_like(squared[0])
    for k in range(last):
        torch.bmm(squared[k], _combination(SQUARES[k], powers, out=D), out=M)
        if k + 1 < last:
            torch.add(M, M.mT, out=powers[k + 1])
    _combination(SUM, powers, out=D).add_(torch.add(M, M.mT, out=powers[0]))
    for k in range(last, last + s):
        torch.baddbmm(D, squared[k], D, out=M)
        torch.add(M, M.mT, out=D)
    return D.mul_(root)
