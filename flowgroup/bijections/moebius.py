"""Möbius maps of the circle and of spheres: they move mass towards one side."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from flowgroup.bijections.base import Bijection
from flowgroup.bijections.monotone import bisect, differentiable_root
from flowgroup.manifolds import Sphere, constraints
from flowgroup.manifolds.constraints import wrap


class Moebius(Bijection):
    """y = x + 2 arg(1 − w e^{−ix}) on the circle, w = u/√(1+|u|²) in the open unit disk, params = u.

    As a map of z = eⁱˣ this is (z − w)/(1 − w̄z). u = 0 is the identity.

    Args:
        half_period: half the circumference; y is given in [−half_period, half_period).

    Source: Normalizing Flows on Tori and Spheres, 2020, arXiv 2002.02428, Section 2.1.1.

    Example:
        >>> Moebius().forward(torch.tensor([0.0]), torch.tensor([-1.0, 0.0]))
        (tensor([0.]), tensor([-1.7627]))
    """

    def __init__(self, half_period: float = math.pi):
        _set_circle(self, half_period)

    @property
    def param_shape(self) -> tuple[int]:
        return (2,)

    def _map(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        unit = math.pi / self.half_period
        turn, log_slope = _turn(x * unit, _ball(u, x.dtype))
        return wrap(x + turn / unit, self.half_period), log_slope

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self._map(x, params)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self._map(y, -params)

    def __repr__(self) -> str:
        return f"Moebius(half_period={self.half_period:g})"


class MoebiusMixture(Bijection):
    """y = x + Σₖ ρₖ 2 arg(1 − wₖ e^{−ix}) on the circle, Σρₖ = 1: a convex combination of Möbius maps.

    params = (u₁, …, u_K, logits of ρ), wₖ = uₖ/√(1+|uₖ|²). The inverse is found by bisection to the last bit and has
    exact gradients. Up to a rotation this is the map of the paper, which fixes one point instead.

    Args:
        components: K.
        half_period: half the circumference; y is given in [−half_period, half_period).

    Source: Normalizing Flows on Tori and Spheres, 2020, arXiv 2002.02428, Section 2.1.1.

    Example:
        >>> f = MoebiusMixture(components=4)
        >>> x = torch.tensor([-1.0, 0.5])
        >>> y, logdet = f.forward(x, torch.ones(12))
        >>> torch.allclose(f.inverse(y, torch.ones(12))[0], x, atol=1e-5)
        True
    """

    def __init__(self, components: int, half_period: float = math.pi):
        if components < 1:
            raise ValueError(f"components must be at least 1, got {components}")
        self.components = components
        _set_circle(self, half_period)

    @property
    def param_shape(self) -> tuple[int]:
        return (3 * self.components,)

    def initial_params(self) -> Tensor:
        # centres on a small ring: near the identity, but no two alike, which training could not tell apart
        angle = torch.arange(self.components) * (2 * math.pi / self.components)
        ring = 0.1 * torch.stack((angle.cos(), angle.sin()), -1)
        return torch.cat((ring.flatten(), torch.zeros(self.components)))

    def _weights_and_centres(self, params: Tensor, dtype: torch.dtype) -> tuple[Tensor, tuple[Tensor, ...]]:
        K = self.components
        log_weight = params[..., 2 * K :].to(torch.promote_types(params.dtype, dtype)).log_softmax(-1)
        return log_weight, _ball(params[..., : 2 * K].unflatten(-1, (K, 2)), dtype)

    def _lift(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """The map as an increasing function of the line, in radians, and its log-slope."""
        log_weight, ball = self._weights_and_centres(params, x.dtype)
        turn, log_slope = _turn(x.unsqueeze(-1), ball)
        return x + (turn * log_weight.exp()).sum(-1), (log_slope + log_weight).logsumexp(-1)

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        unit = math.pi / self.half_period
        y, log_slope = self._lift(x * unit, params)
        return wrap(y / unit, self.half_period), log_slope

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        unit = math.pi / self.half_period
        y = (wrap(y, self.half_period) * unit).expand(torch.broadcast_shapes(y.shape, params.shape[:-1]))
        log_weight, ball = self._weights_and_centres(params.detach(), y.dtype)
        weight = log_weight.exp()
        # every component turns by less than π
        start = y.detach()
        x = bisect(
            lambda x: x + (_turn(x.unsqueeze(-1), ball)[0] * weight).sum(-1), start, start - math.pi, start + math.pi
        )
        x, log_slope = differentiable_root(self._lift, x, y, params)
        return wrap(x / unit, self.half_period), -log_slope

    def __repr__(self) -> str:
        return f"MoebiusMixture(components={self.components}, half_period={self.half_period:g})"


class SphereMoebius(Bijection):
    """y = (1−|q|²)/|x−q|² (x−q) − q on the sphere Sᵈ, q = u/√(1+|u|²) in the open unit ball, params = u.

    log|det| = d log((1−|q|²)/|x−q|²). The inverse is the same map with −q; u = 0 is the identity.

    Args:
        dim: d; points are unit vectors (..., d+1).

    Source: Normalizing Flows on Tori and Spheres, 2020, arXiv 2002.02428, Section 2.1.1.

    Example:
        >>> SphereMoebius(dim=2).forward(torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, 1.0]))
        (tensor([0., 0., 1.]), tensor(3.5255))
    """

    event_dim = 1

    def __init__(self, dim: int):
        self.dim = dim
        self.domain = self.codomain = constraints.OnManifold(Sphere(dim))

    @property
    def param_shape(self) -> tuple[int]:
        return (self.dim + 1,)

    def _map(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        q, centre, r, gap, log_volume = _ball(u, x.dtype)
        distance2 = gap.square() + r * (x - centre).square().sum(-1)
        log_scale = log_volume - distance2.log()
        y = log_scale.exp().unsqueeze(-1) * (x - q) - q
        # near the boundary of the ball rounding would otherwise grow along the normal
        return F.normalize(y, dim=-1), self.dim * log_scale

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self._map(x, params)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self._map(y, -params)

    def __repr__(self) -> str:
        return f"SphereMoebius(dim={self.dim})"


def _set_circle(bijection: Bijection, half_period: float) -> None:
    if not 0 < half_period < math.inf:
        raise ValueError(f"half_period must be positive and finite, got {half_period}")
    bijection.half_period = half_period
    bijection.domain = bijection.codomain = constraints.Circle(half_period)


def _turn(x: Tensor, ball: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """2 arg(1 − w e^{−ix}), in (−π, π), and log|dy/dx| of y = x + that, for w = q of `_ball`."""
    q, centre, r, gap, log_volume = ball
    cos, sin = x.cos(), x.sin()
    chord2 = r * ((cos - centre[..., 0]).square() + (sin - centre[..., 1]).square())
    turn = 2 * torch.atan2(q[..., 0] * sin - q[..., 1] * cos, gap + 0.5 * chord2)
    return turn, log_volume - (gap.square() + chord2).log()


def _ball(u: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """q = u/√(1+|u|²), its direction q/|q|, |q|, 1 − |q| and log(1 − |q|²), none by a difference of near equals.

    For unit x, |x − q|² = (1−|q|)² + |q| |x − q/|q||² keeps all its digits where x and q come close.
    """
    u = u.to(torch.promote_types(u.dtype, dtype))  # a network under autocast makes them in bfloat16
    u2 = u.square().sum(-1)
    length = (u2 + torch.finfo(u.dtype).tiny).sqrt()  # keeps gradients right at u = 0
    root = (1 + u2).sqrt()
    gap = 1 / (root * (root + length))  # 1 − |u|/√(1+|u|²)
    return u / root.unsqueeze(-1), u / length.unsqueeze(-1), length / root, gap, -torch.log1p(u2)
