"""The law of U = log P for a Riemannian Gaussian P of SPD matrices: its normaliser in closed form, and a sampler.

Around the identity, a density ∝ exp(−|U|²/2σ²) with respect to the affine-invariant volume makes the eigenvectors of U
uniform and gives its eigenvalues r the density ∝ Πᵢ<ⱼ sinh(|rᵢ − rⱼ|/2) · exp(−|r|²/2σ²). The product is a Vandermonde
determinant |det exp(kₐrᵢ)|/2^{n(n−1)/2}, k = −(n−1)/2, …, (n−1)/2, of which de Bruijn's formula makes

    ∫ = n! Π √(2π)σ exp(σ²kₐ²/2) · Pf E/2^{n(n−1)/2},    Eₐᵦ = erf(σ(b − a)/2),

E bordered by ones where n is odd. For small σ all digits of the Pfaffian cancel: below σ = 1 its logarithm, less
n(n−1)/2·log σ, is a polynomial in σ², from values computed once with as many digits as it takes.
"""

from __future__ import annotations

import functools
import math
from decimal import Decimal, localcontext

import torch
from torch import Tensor

from flowgroup.linalg import unvech
from flowgroup.manifolds.spd_matrices import half_differences, log_sinhc

LARGEST = 32
"""The size of matrices up to which the normaliser was compared with arithmetic of many digits."""

TANGENTS = 128  # how many are tried
PROPOSALS = 2**16  # how many are made at a time, unless there are more to be drawn


def log_normalizer(n: int, scale: Tensor) -> Tensor:
    """log ζ(σ) = log ∫ exp(−d²(P, I)/2σ²) dP over SPD matrices (n, n), affine-invariant distance and volume.

    Args:
        n: size of the matrices, up to 32.
        scale: σ > 0, of any shape.

    Returns:
        The logarithm, in the shape and dtype of σ and differentiable in it. It is computed in float64, with errors
        below 1e-12 for all σ. The first call for a size takes 0.1 s for n = 10, 1 s for n = 20, 6 s for n = 32.

    Source: Riemannian Gaussian Distributions on the Space of Symmetric Positive Definite Matrices, 2017, arXiv
    1507.01760, for the integral; On some multiple integrals involving determinants, 1955, de Bruijn, for the Pfaffian.

    Example:
        >>> log_normalizer(1, torch.ones(()))  # ½ log 2π
        tensor(0.9189)
    """
    sigma = scale.double()
    return (_log_independent(n, sigma) + log_pfaffian(n, sigma)).to(scale.dtype)


def log_pfaffian(n: int, sigma: Tensor) -> Tensor:
    """log Pf E for σ in float64: the probability that n normal variables N(σ²kₐ, σ²) are in order, thinned by a factor
    Πᵢ<ⱼ (1 − exp(rᵢ − rⱼ))."""
    near = sigma < 1
    s = torch.where(near, sigma, 1).square()
    x, below, series = 2 * s - 1, torch.zeros_like(s), torch.zeros_like(s)
    first, *others = _chebyshev(n)
    for c in others[::-1]:
        series, below = c + 2 * x * series - below, series
    series = first + x * series - below + 0.25 * n * (n - 1) * s.log()

    size = n + n % 2
    index = torch.arange(size, device=sigma.device)
    lag = index - index.unsqueeze(-1)
    border = (index == n) | (index.unsqueeze(-1) == n)
    E = torch.where(border, lag.sign(), torch.erf(0.5 * lag * torch.where(near, 1, sigma)[..., None, None]))
    return torch.where(near, series, 0.5 * torch.linalg.slogdet(E).logabsdet)


def sample_log(n: int, scale: Tensor) -> Tensor:
    """Independent U (..., n, n) for σ (...), by rejection and exact, without gradient.

    Of two proposals each σ takes the one that is accepted more often. One are the eigenvalues of a normal matrix of
    larger variance, log(sinh x/x) being bounded by a tangent in x²; the other the normal variables of `log_pfaffian`.

    Raises:
        ValueError: a σ for which fewer than one proposal in a million would be accepted; see `log_acceptance`.
    """
    # what is random is mapped over by vmap, so every copy of σ draws for itself
    return _sample_log(n, scale.detach() + torch.zeros_like(scale) * torch.rand_like(scale))


# the loop until all are accepted is one operation, so that torch.compile need not look into it
@torch.library.custom_op("flowgroup::sample_log_spd", mutates_args=(), schema="(int n, Tensor scale) -> Tensor")
def _sample_log(n: int, scale: Tensor) -> Tensor:
    sigma = scale.double()
    log_rate, tangent = _log_acceptance(n, sigma)
    if sigma.numel() and not (log_rate > math.log(1e-6)).all():
        raise ValueError(
            f"scale must be one that can be sampled: for {sigma.flatten()[log_rate.argmin()].item():.3g} with n={n}, "
            f"{log_rate.min().exp().item():.1e} of the proposals would be accepted"
        )
    sigma, tangent, log_rate = sigma.reshape(-1), tangent.reshape(-1), log_rate.reshape(-1)
    r = sigma.new_zeros(len(sigma), n)
    todo = torch.arange(len(sigma), device=sigma.device)
    while len(todo):
        tries = min(math.ceil((-log_rate[todo].min()).exp().item()), max(1, PROPOSALS // len(todo)))
        again = todo.unsqueeze(-1).expand(-1, tries)
        proposed, accepted = _propose(n, sigma[again], tangent[again])
        found, first = accepted.any(-1), accepted.long().argmax(-1)
        r[todo[found]] = proposed[torch.arange(len(todo), device=todo.device), first][found]
        todo = todo[~found]
    V = torch.linalg.qr(torch.randn(len(sigma), n, n, dtype=r.dtype, device=r.device)).Q
    return ((V * r.unsqueeze(-2)) @ V.mT).reshape(*scale.shape, n, n).to(scale.dtype)


@_sample_log.register_fake
def _(n: int, scale: Tensor) -> Tensor:
    return scale.new_empty(*scale.shape, n, n)


@_sample_log.register_vmap
def _(info, in_dims, n: int, scale: Tensor) -> tuple[Tensor, int]:
    return _sample_log(n, scale.movedim(in_dims[1], 0)), 0


def log_acceptance(n: int, scale: Tensor) -> Tensor:
    """The logarithm of the share of proposals that `sample_log` accepts, exactly.

    At worst, at a σ between 1 and 2, two in three for n = 3, one in five for n = 5, one in 120 for n = 8 and one in
    3000 for n = 10; the largest n for which every σ can be sampled is 12.
    """
    return _log_acceptance(n, scale.detach().double())[0].to(scale.dtype)


def _log_independent(n: int, sigma: Tensor) -> Tensor:
    """log ζ − log Pf E."""
    constant = math.lgamma(n + 1) + 0.25 * n * (n + 1) * math.log(2 * math.pi)
    constant += sum(math.lgamma(1.5) - math.lgamma(1 + 0.5 * j) for j in range(1, n + 1))
    return constant + n * sigma.log() + n * (n * n - 1) / 24 * sigma.square()


def _log_acceptance(n: int, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The logarithm of the rate, and the x at which log(sinh x/x) has its tangent; 0 for the other proposal."""
    ordered = log_pfaffian(n, sigma)
    x = torch.logspace(-1, 1, TANGENTS, dtype=sigma.dtype, device=sigma.device)
    value, slope = log_sinhc(x), _slope(x)
    precision = 1 / sigma.square().unsqueeze(-1) - 0.5 * n * slope
    wider = precision > 0
    log_envelope = 0.5 * n * (n - 1) * (value - slope * x.square())
    log_envelope = log_envelope - 0.25 * (n * (n + 1) - 2) * torch.where(wider, precision, 1).log()
    log_envelope = log_envelope + 0.25 * n * (n + 1) * math.log(2 * math.pi) + sigma.log().unsqueeze(-1)
    log_zeta = _log_independent(n, sigma) + ordered
    rate = torch.where(wider, log_zeta.unsqueeze(-1) - log_envelope, -math.inf)
    best, index = rate.max(-1)
    return torch.maximum(best, ordered), torch.where(best > ordered, x[index], 0)


def _propose(n: int, sigma: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """One r (..., n) for each σ (...), and whether it is accepted."""
    log_u = torch.rand_like(sigma).log()

    ordered = _exponents(n, sigma) * sigma.square().unsqueeze(-1)
    ordered = ordered + sigma.unsqueeze(-1) * torch.randn_like(ordered)
    gap = 2 * half_differences(ordered)
    in_order = (gap > 0).all(-1) & (log_u < torch.where(gap > 0, -(-gap).expm1(), 1).log().sum(-1))

    x = torch.where(tangent > 0, tangent, 1).unsqueeze(-1)
    slope = torch.where(tangent > 0, _slope(x.squeeze(-1)), 0).unsqueeze(-1)
    width = (1 / sigma.square() - 0.5 * n * slope.squeeze(-1)).rsqrt()
    normal = torch.randn(*sigma.shape, n * (n + 1) // 2, dtype=sigma.dtype, device=sigma.device)
    wide = torch.linalg.eigvalsh(unvech(normal))
    mean = wide.mean(-1, keepdim=True)
    wide = width.unsqueeze(-1) * (wide - mean) + sigma.unsqueeze(-1) * mean
    half_gap = half_differences(wide)
    excess = log_sinhc(half_gap) - log_sinhc(x) - slope * (half_gap.square() - x.square())

    first = tangent > 0
    return torch.where(first.unsqueeze(-1), wide, ordered), torch.where(first, log_u < excess.sum(-1), in_order)


def _exponents(n: int, like: Tensor) -> Tensor:
    """k = −(n−1)/2, …, (n−1)/2."""
    return torch.arange(n, dtype=like.dtype, device=like.device) - 0.5 * (n - 1)


def _slope(x: Tensor) -> Tensor:
    """The derivative of log(sinh x/x) in x²."""
    return (x / x.tanh() - 1) / (2 * x.square())


def _chebyshev(n: int) -> tuple[float, ...]:
    return _coefficients(n)


# what torch.compiler.assume_constant_result does, which would import the compiler along with us: 1.5 s
_chebyshev._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _coefficients(n: int) -> tuple[float, ...]:
    """Coefficients of log Pf E − n(n−1)/2·log σ in Chebyshev polynomials of 2σ² − 1, for σ ≤ 1."""
    nodes = 24 + n // 2
    angles = [math.pi * (k + 0.5) / nodes for k in range(nodes)]
    squares = [math.cos(0.5 * angle) ** 2 for angle in angles]
    with localcontext() as context:
        context.prec = 50 + 8 * n  # the last pivot is about σ²ⁿ/n!
        pi = _pi()
        values = [float(_log_pfaffian(n, Decimal(s), pi) - Decimal(n * (n - 1)) / 4 * Decimal(s).ln()) for s in squares]
    sums = (sum(math.cos(k * a) * v for a, v in zip(angles, values)) for k in range(nodes))
    return tuple((1 if k == 0 else 2) / nodes * total for k, total in enumerate(sums))


def _log_pfaffian(n: int, square: Decimal, pi: Decimal) -> Decimal:
    """log Pf E for σ² by elimination, in the precision of the context."""
    size, sigma = n + n % 2, square.sqrt()
    erf = [_erf(sigma * k / 2, pi) for k in range(n)]
    E = [[Decimal(1) if b == n else erf[max(b - a, 0)] for b in range(size)] for a in range(size)]
    total = Decimal(0)
    for k in range(0, size, 2):
        pivot = E[k][k + 1]
        total += pivot.ln()
        for i in range(k + 2, size):
            first, second = E[k][i] / pivot, E[k + 1][i] / pivot
            for j in range(i + 1, size):
                E[i][j] += second * E[k][j] - first * E[k + 1][j]
    return total


def _erf(x: Decimal, pi: Decimal) -> Decimal:
    """erf x for 0 ≤ x of moderate size, by 2x/√π·exp(−x²)·Σ (2x²)ᵏ/(2k+1)!!, in which nothing cancels."""
    term = total = Decimal(1)
    k = 0
    while total + term != total:
        k += 1
        term *= 2 * x * x / (2 * k + 1)
        total += term
    return 2 * x * (-x * x).exp() * total / pi.sqrt()


def _pi() -> Decimal:
    """π in the precision of the context, by the arithmetic-geometric mean of Gauss and Legendre."""
    a, b, t, p = Decimal(1), 1 / Decimal(2).sqrt(), Decimal(1) / 4, Decimal(1)
    for _ in range(10):
        mean = (a + b) / 2
        a, b, t, p = mean, (a * b).sqrt(), t - p * (a - mean) ** 2, 2 * p
    return (a + b) ** 2 / (4 * t)
