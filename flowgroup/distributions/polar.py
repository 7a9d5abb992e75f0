"""The angle θ between a von Mises–Fisher point of S^d and its mean: density ∝ exp(κ cos θ) sin^{d−1} θ on (0, π).

One quadrature of fixed cost gives normaliser, distribution function and sampler for every κ ≥ 0 and d ≥ 1. With
tan(θ/2) = a e^{−δ} the density in δ is exp(−2κ sin²(θ/2)) sin^d θ. A suitable a puts its mode at δ = 0, after which its
shape hardly depends on κ any more, and δ = sinh(y)/√d spreads the nodes over peak and tails alike.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PANELS = 32
NEWTON_STEPS = 3
GAUSS_LEGENDRE = (  # the positive four of the eight nodes on [-1, 1], with their weights
    (0.18343464249564980, 0.36268378337836198),
    (0.52553240991632899, 0.31370664587788729),
    (0.79666647741362674, 0.22238103445337447),
    (0.96028985649753623, 0.10122853629037626),
)


def log_normalizer(concentration: Tensor, dim: int) -> Tensor:
    """log ∫₀^π exp(κ (cos θ − 1)) sin^{d−1} θ dθ = log(√π Γ(d/2) (2/κ)^ν e^{−κ} I_ν(κ)), ν = (d−1)/2.

    Args:
        concentration: κ ≥ 0, of any shape.
        dim: d ≥ 1.

    Returns:
        The logarithm, in the shape of κ and differentiable in it; for κ up to 1e6 and d up to 1000 its error is a
        few rounding errors of the terms it is made of, 1e-14 relative in float64.

    Source: Directional Statistics, 2000, Mardia and Jupp, section 9.3.2.

    Example:
        >>> log_normalizer(torch.zeros(()), dim=2).exp()  # ∫ sin θ dθ
        tensor(2.)
    """
    law = _Law(concentration.unsqueeze(-1), dim)
    edges = law.edges()
    total = law.integral(edges[:-1], edges[1:]).sum(-1)
    return law.log_constant().squeeze(-1) + total.log()


def sample_tan2(concentration: Tensor, dim: int, shape: torch.Size) -> Tensor:
    """tan²(θ/2) of random angles θ, by inversion of the distribution function, differentiable in κ.

    On S² the inverse is a formula. Elsewhere a fixed number of Newton steps finds it, in float64 to 1e-12 in F, and the
    last one carries the gradient ∂y/∂κ = −(∂F/∂κ)/(∂F/∂y).

    Args:
        concentration: κ ≥ 0, broadcastable to `shape`.
        dim: d ≥ 1.
        shape: shape of the result.
    """
    if dim == 2:
        return _sample_tan2_sphere(concentration, shape)
    law = _Law(concentration.unsqueeze(-1), dim)
    edges = law.edges()
    masses = law.integral(edges[:-1], edges[1:])
    law = _Law(concentration, dim)
    cdf = torch.nn.functional.pad(masses.cumsum(-1), (1, 0)).expand(*shape, -1)
    total = cdf[..., -1]

    u = torch.rand(shape, dtype=law.kappa.dtype, device=law.kappa.device)
    u = u + torch.finfo(u.dtype).eps / 4  # an exact zero would be a point opposite to the mean, whatever κ is
    with torch.no_grad():
        target = u * total
        index = (target.unsqueeze(-1) >= cdf[..., 1:-1]).sum(-1, keepdim=True)
    below, above = cdf.gather(-1, index).squeeze(-1), cdf.gather(-1, index + 1).squeeze(-1)
    with torch.no_grad():
        left, right = edges[index.squeeze(-1)], edges[index.squeeze(-1) + 1]
        # Between the ends of a panel the density is nearly exponential.
        slope = (law.log_density(right) - law.log_density(left)).clamp(-50, 50)
        slope = torch.where(slope.abs() < 1e-3, 1e-3, slope)
        v = ((target - below) / (above - below)).clamp(0, 1)
        y = left + (right - left) * (v * slope.expm1()).log1p() / slope
        for _ in range(NEWTON_STEPS):
            step = (law.integral(left, y) - (target - below)) / law.log_density(y).exp()
            y = (y - step).clamp(left, right)
        density = law.log_density(y).exp()
    y = y - (law.integral(left, y) + below - u * total) / density
    return law.tan2(y)


def _sample_tan2_sphere(concentration: Tensor, shape: torch.Size) -> Tensor:
    """The same on S², where w = sin²(θ/2) has density ∝ exp(−2κw) on [0, 1]."""
    kappa = concentration.to(torch.promote_types(concentration.dtype, torch.float32))
    u = torch.rand(shape, dtype=kappa.dtype, device=kappa.device)
    eps = torch.finfo(u.dtype).eps
    series = u - kappa * u * (1 - u) * (1 - kappa * (2 / 3) * (1 - 2 * u))  # the gradient of the formula is 0/0
    large = kappa.clamp(min=eps ** (1 / 3))
    w = -(u * (-2 * large).expm1()).log1p() / (2 * large)
    w = torch.where(kappa < eps ** (1 / 3), series, w).clamp(0, 1 - eps / 2)
    return w / (1 - w)


class _Law:
    """The density in y up to a constant factor, relative to its value at y = 0, and its integrals."""

    def __init__(self, concentration: Tensor, dim: int):
        dtype = torch.promote_types(concentration.dtype, torch.float32)
        self.kappa, self.dim, self.scale = concentration.to(dtype), dim, dim**-0.5
        b = 2 * self.kappa.detach() / dim
        self.a2 = 1 / (b + torch.hypot(b, torch.ones_like(b)))
        reach = -1.1 * math.log(torch.finfo(dtype).eps) / dim  # beyond, the density is below rounding
        self.end = math.asinh((reach + math.sqrt(2 * reach)) / self.scale)

    def tan2(self, y: Tensor) -> Tensor:
        return self.a2 * (-2 * self.scale * y.sinh()).exp()

    def _log_terms(self, q: Tensor) -> Tensor:
        return -2 * self.kappa * (q / (1 + q)) - self.dim * q.log1p()

    def log_constant(self) -> Tensor:
        """Logarithm of what multiplies integrals of the density to make them integrals over θ."""
        at_mode = self._log_terms(self.a2).detach()
        return at_mode + self.dim * (math.log(2) + 0.5 * self.a2.log()) + math.log(self.scale)

    def log_density(self, y: Tensor) -> Tensor:
        terms = self._log_terms(self.tan2(y)) - self._log_terms(self.a2).detach()
        return terms - self.dim * self.scale * y.sinh() + y.cosh().log()

    def integral(self, left: Tensor, right: Tensor) -> Tensor:
        """∫ of the density from left to right, close enough to each other for eight nodes."""
        middle, half = 0.5 * (left + right), 0.5 * (right - left)
        x, weight = self._rule(max(left.dim(), self.kappa.dim()))
        return half * (weight * self.log_density(middle + half * x).exp()).sum(0)

    def edges(self) -> Tensor:
        """Ends of the panels (PANELS + 1,)."""
        return torch.linspace(-self.end, self.end, PANELS + 1, dtype=self.a2.dtype, device=self.a2.device)

    def _rule(self, dims: int) -> tuple[Tensor, Tensor]:
        """Nodes and weights on [-1, 1] in a leading dimension; made where they are used, so no device waits."""
        pairs = [(sign * x, w) for x, w in GAUSS_LEGENDRE for sign in (-1, 1)]
        columns = (torch.stack([self.a2.new_full((1,) * dims, value) for value in column]) for column in zip(*pairs))
        return tuple(columns)
