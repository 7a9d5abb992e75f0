"""Flows on spheres by recursion over dimensions: an angle on the circle and a height for every further dimension."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowgroup.bijections import Bijection, Chain, CircularShift, MoebiusMixture, RationalQuadraticSpline
from flowgroup.flows.autoregressive import Autoregressive
from flowgroup.flows.elementwise import Elementwise
from flowgroup.flows.transform import Transform
from flowgroup.manifolds import Sphere
from flowgroup.nn.mlp import periodic


def circle_map(kind: str, bins: int) -> Bijection:
    """A flexible map of the circle of angles: "spline" (circular, then a shift) or "moebius" (a mixture of `bins`)."""
    if kind == "spline":
        return Chain(RationalQuadraticSpline(bins, torch.pi, tails="circular"), CircularShift())
    if kind == "moebius":
        return MoebiusMixture(bins)
    raise ValueError(f"circle must be 'spline' or 'moebius', got {kind!r}")


class RecursiveSphere(Transform):
    """x ∈ S^d ↔ (angle φ, heights h ∈ [−1, 1]^{d−1}); φ′ = f(φ; h, c), then h′ᵢ = g(hᵢ; h₁, …, hᵢ₋₁, φ′, c).

    The volume of S^d is Π (1 − hₖ²)^{(k−2)/2} dφ dh₂ … dh_d. On the two-sphere (φ, h) is the cylinder of the same area.

    Args:
        dim: d, at least 1.
        context: size of the context c, 0 for none.
        bins: bins of the splines.
        hidden_features: widths of the networks.
        circle: "spline" or "moebius", the map of φ.

    Source: Normalizing Flows on Tori and Spheres, 2020, arXiv 2002.02428, Section 2.3.

    Example:
        >>> x = torch.nn.functional.normalize(torch.randn(5, 3), dim=-1)
        >>> y, logdet = RecursiveSphere(dim=2)(x)
        >>> y.shape, logdet.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(
        self,
        dim: int,
        context: int = 0,
        bins: int = 8,
        hidden_features: Sequence[int] = (64, 64),
        circle: str = "spline",
    ):
        super().__init__()
        self.domain = self.codomain = Sphere(dim).constraint
        self.in_shape = self.out_shape = (dim + 1,)
        self.context_features = context
        self.angle = Elementwise(circle_map(circle, bins), 1, context + dim - 1, hidden_features)
        self.heights = None
        if dim > 1:
            spline = RationalQuadraticSpline(bins, 1.0, tails="bounded")
            self.heights = Autoregressive(spline, dim - 1, context + 2, hidden_features)
            self.heights.validate_args = False  # x itself is checked

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self._checked("x", x, context)
        phi, h, volume = to_cylinder(x)
        phi, logdet = self.angle(phi, self._joint(h, context))
        if self.heights is not None:
            h, more = self.heights(h, self._joint(periodic(phi), context))
            logdet = logdet + more
        y, new_volume = from_cylinder(phi, h)
        return y, logdet + new_volume - volume

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self._checked("y", y, context, inverse=True)
        phi, h, volume = to_cylinder(y)
        logdet = 0.0
        if self.heights is not None:
            h, logdet = self.heights.inverse(h, self._joint(periodic(phi), context))
        phi, more = self.angle.inverse(phi, self._joint(h, context))
        x, new_volume = from_cylinder(phi, h)
        return x, logdet + more + new_volume - volume

    def _joint(self, values: Tensor, context: Tensor | None) -> Tensor | None:
        if context is not None:
            values = torch.cat((values, context.expand(*values.shape[:-1], context.shape[-1])), -1)
        return values if values.shape[-1] else None


def to_cylinder(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Angle (..., 1), heights (..., d−1) and Σ (k−2)/2 log(1 − hₖ²) of unit vectors (..., d+1).

    Heights are relative to the remaining radius: hₖ = xₖ₊₁/ρₖ₊₁, ρₖ = |(x₁, …, xₖ)|, so 1 − hₖ² = ρₖ²/ρₖ₊₁².

    Example:
        >>> to_cylinder(torch.tensor([0.0, 0.6, 0.8]))
        (tensor([1.5708]), tensor([0.8000]), tensor(0.))
    """
    phi = torch.atan2(x[..., 1:2], x[..., :1])
    rho2 = x.square().cumsum(-1).clamp(min=torch.finfo(x.dtype).eps ** 2)
    h = (x[..., 2:] / rho2[..., 2:].sqrt()).clamp(-1, 1)
    return phi, h, _log_volume(h)


def from_cylinder(phi: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors (..., d+1) of an angle (..., 1) and heights (..., d−1), and Σ (k−2)/2 log(1 − hₖ²)."""
    squares = ((1 - h) * (1 + h)).clamp(min=torch.finfo(h.dtype).tiny)
    radii = squares.sqrt().flip(-1).cumprod(-1).flip(-1)
    outer = torch.cat((radii[..., 1:], torch.ones_like(h[..., :1])), -1) if h.shape[-1] else h
    first = radii[..., :1] if h.shape[-1] else torch.ones_like(phi)
    x = torch.cat((first * phi.cos(), first * phi.sin(), h * outer), -1)
    return x, _log_volume(h)


def _log_volume(h: Tensor) -> Tensor:
    """Σ (k−2)/2 log(1 − hₖ²), both ways from heights and with one floor: at a pole old and new volume must cancel."""
    squares = ((1 - h) * (1 + h)).clamp(min=torch.finfo(h.dtype).eps ** 0.5)
    k = torch.arange(h.shape[-1], dtype=h.dtype, device=h.device)
    return (0.5 * k * squares.log()).sum(-1)
