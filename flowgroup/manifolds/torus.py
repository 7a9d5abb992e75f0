"""The flat torus of angles, a group of rotations."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from flowgroup._checks import positive_integer
from flowgroup.groups.base import LieGroup
from flowgroup.manifolds.base import whole_shape
from flowgroup.manifolds.constraints import wrap


class Torus(LieGroup):
    """n angles in radians with d(x, y) = |wrap(x − y)|, a group under addition that moves itself.

    Any finite numbers are a point; results are in [−π, π). Its exponential map is that of ℝⁿ, wrapped.

    Args:
        n: number of angles.

    Example:
        >>> Torus(2).dist(torch.tensor([3.0, 0.0]), torch.tensor([-3.0, 0.0]))
        tensor(0.2832)
    """

    abelian = True
    reversible = True
    injectivity_radius = math.pi

    def __init__(self, n: int):
        super().__init__(positive_integer("n", n), (n,))
        self.volume = (2 * math.pi) ** n

    def contains(self, x: Tensor) -> Tensor:
        """Whether every angle is finite."""
        return torch.isfinite(x).all(-1)

    def identity(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        return torch.zeros(whole_shape(size, self.event_shape), dtype=dtype, device=device)

    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        return wrap(g + h)

    def inverse(self, g: Tensor) -> Tensor:
        return wrap(-g)

    def act(self, g: Tensor, x: Tensor) -> Tensor:
        """wrap(g + x)."""
        return wrap(g + x)

    def random_uniform(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        u = torch.rand(whole_shape(size, self.event_shape), dtype=dtype, device=device)
        return wrap(2 * math.pi * u)

    def exp(self, v: Tensor) -> Tensor:
        return wrap(v)

    def log(self, g: Tensor) -> Tensor:
        return wrap(g)

    def hat(self, v: Tensor) -> Tensor:
        """Blocks [[0, −θ], [θ, 0]] on the diagonal (..., 2n, 2n), of which the exponential are n plane rotations."""
        turn = v.new_tensor([[0.0, -1.0], [1.0, 0.0]])
        blocks = torch.diag_embed(v)[..., :, None, :, None] * turn[:, None, :]
        return blocks.flatten(-4, -3).flatten(-2, -1)

    def vee(self, X: Tensor) -> Tensor:
        blocks = X.unflatten(-1, (self.dim, 2)).unflatten(-3, (self.dim, 2)).diagonal(dim1=-4, dim2=-2)
        return (blocks[..., 1, 0, :] - blocks[..., 0, 1, :]) / 2

    def tangent(self, g: Tensor, v: Tensor) -> Tensor:
        return torch.broadcast_tensors(v, g)[0]

    def coordinates(self, g: Tensor, u: Tensor) -> Tensor:
        return torch.broadcast_tensors(u, g)[0]

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self.proju(x, u)

    def component_inner(self, x: Tensor, u: Tensor, v: Tensor | None = None) -> Tensor:
        """Per entry, for optimizers: the torus is a product of circles."""
        return u * (u if v is None else v)

    def projx(self, x: Tensor) -> Tensor:
        """The representative in [−π, π)."""
        return wrap(x)

    def frechet_mean(
        self,
        x: Tensor,
        weights: Tensor | None = None,
        dim: int = 0,
        steps: int | None = None,
        tol: float | None = None,
        all_reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The mean of each angle, in closed form where all points are here; see `Manifold.frechet_mean` and
        `circular_mean`."""
        if all_reduce is not None:
            return super().frechet_mean(x, weights, dim, steps, tol, all_reduce)
        x, weights, dim = self._mean_arguments(x, weights, dim)
        return circular_mean(x, weights.unsqueeze(-1), dim)

    def _mean_start(self, x: Tensor, average: Callable[[Tensor], Tensor]) -> Tensor:
        """The direction of the mean point of the circle."""
        return torch.atan2(average(x.sin()), average(x.cos()))

    def _check_point_on_manifold(self, x: Tensor, *, atol=1e-5, rtol=1e-5) -> tuple[bool, str | None]:
        ok = bool(self.contains(x).all())
        return ok, None if ok else f"x must be finite to be on {self}"


def circular_mean(theta: Tensor, weights: Tensor, dim: int) -> Tensor:
    """argmin_m Σᵢ wᵢ wrap(θᵢ − m)², the global minimum, in O(N log N).

    With the angles sorted in [−π, π), the minimizer is m + 2πWₖ for one k, m the arithmetic mean and Wₖ the weight of
    the first k angles, which then count as θᵢ + 2π; of these N candidates the one of least cost is taken.

    Args:
        theta: angles in radians, of any shape.
        weights: broadcast against `theta`, not negative, summing to one along `dim`.
        dim: the dimension to average over.

    Returns:
        Means in [−π, π), of the shape of `theta` without `dim`.

    Source: Intrinsic Means on the Circle: Uniqueness, Locus and Asymptotics, 2011, arXiv 1108.2141.

    Example:
        >>> circular_mean(torch.tensor([3.0, -3.0, 3.0]), torch.full((3,), 1 / 3), 0)
        tensor(3.0944)
    """
    theta, order = wrap(theta).sort(dim)
    weights = weights.expand(theta.shape).gather(dim, order)
    weighted = weights * theta
    passed = weights.cumsum(dim) - weights  # Wₖ
    candidates = weighted.sum(dim, keepdim=True) + 2 * math.pi * passed
    # cost of each candidate, less the term Σ w θ² that they share
    cost = 4 * math.pi * (weighted.cumsum(dim) - weighted) + 4 * math.pi**2 * passed - candidates.square()
    best = cost.argmin(dim, keepdim=True)
    return wrap(candidates.gather(dim, best).squeeze(dim))
