"""Rotations of the plane."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from flowgroup.groups.base import MatrixLieGroup
from flowgroup.manifolds.base import whole_shape
from flowgroup.manifolds.torus import circular_mean


class SO2(MatrixLieGroup):
    """Rotations [[cos θ, −sin θ], [sin θ, cos θ]] of the plane, with the metric dθ².

    The angle θ in radians is the only coordinate of the Lie algebra: `exp` takes (..., 1) to (..., 2, 2), and `log`
    gives it back in [−π, π].

    Example:
        >>> group = SO2()
        >>> g = group.exp(torch.tensor([math.pi / 2]))
        >>> group.act(g, torch.tensor([1.0, 0.0])).round(decimals=4) + 0.0
        tensor([0., 1.])
    """

    abelian = True
    reversible = True
    volume = 2 * math.pi
    injectivity_radius = math.pi

    def __init__(self):
        super().__init__(1, (2, 2))

    def inverse(self, g: Tensor) -> Tensor:
        return g.mT

    def exp(self, v: Tensor) -> Tensor:
        c, s = v[..., 0].cos(), v[..., 0].sin()
        return _matrix(c, s)

    def log(self, g: Tensor) -> Tensor:
        c, s = _parts(g)
        return torch.atan2(s, c).unsqueeze(-1)

    def hat(self, v: Tensor) -> Tensor:
        """[[0, −θ], [θ, 0]]."""
        return _matrix(torch.zeros_like(v[..., 0]), v[..., 0])

    def vee(self, X: Tensor) -> Tensor:
        return _parts(X)[1].unsqueeze(-1)

    def projx(self, x: Tensor) -> Tensor:
        """The nearest rotation; the identity where every one is as near."""
        c, s = _parts(x)
        largest = torch.maximum(c.abs(), s.abs()).detach()
        none = largest == 0
        largest = torch.where(none, 1, largest)  # divided by first, so that squares neither vanish nor overflow
        c, s = torch.where(none, 1, c / largest), s / largest
        r = (c * c + s * s).sqrt()
        return _matrix(c / r, s / r)

    def random_uniform(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        shape = whole_shape(size, self.event_shape)
        return self.exp(math.pi * (2 * torch.rand(*shape[:-2], 1, dtype=dtype, device=device) - 1))

    def frechet_mean(
        self,
        x: Tensor,
        weights: Tensor | None = None,
        dim: int = 0,
        steps: int | None = None,
        tol: float | None = None,
        all_reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The mean of the angles that is nearest to all of them, in closed form where all points are here; see
        `Manifold.frechet_mean`."""
        if all_reduce is not None:
            return super().frechet_mean(x, weights, dim, steps, tol, all_reduce)
        x, weights, dim = self._mean_arguments(x, weights, dim)
        return self.exp(circular_mean(self.log(x), weights.unsqueeze(-1), dim))

    def extra_repr(self) -> str:
        return ""


def _parts(X: Tensor) -> tuple[Tensor, Tensor]:
    """a and b of the part [[a, −b], [b, a]] of a matrix."""
    return (X[..., 0, 0] + X[..., 1, 1]) / 2, (X[..., 1, 0] - X[..., 0, 1]) / 2


def _matrix(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([a, -b, b, a], -1).unflatten(-1, (2, 2))
