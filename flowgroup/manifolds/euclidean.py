"""Euclidean space, a group of translations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flowgroup._checks import positive_integer
from flowgroup.groups.base import LieGroup
from flowgroup.manifolds.base import whole_shape


class Euclidean(LieGroup):
    """ℝⁿ with d(x, y) = |x − y|, a group under addition that moves itself.

    Args:
        n: dimension.

    Example:
        >>> Euclidean(2).geodesic(torch.zeros(2), torch.tensor([4.0, 2.0]), 0.5)
        tensor([2., 1.])
    """

    abelian = True
    reversible = True

    def __init__(self, n: int):
        super().__init__(positive_integer("n", n), (n,))

    def identity(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        return torch.zeros(whole_shape(size, self.event_shape), dtype=dtype, device=device)

    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        return g + h

    def inverse(self, g: Tensor) -> Tensor:
        return -g

    def left_divide(self, g: Tensor, h: Tensor) -> Tensor:
        return h - g

    def dilation(self, g: Tensor) -> tuple[Tensor, Callable[[Tensor | float], Tensor]]:
        return (g * g).sum(-1), lambda t: (t.unsqueeze(-1) if isinstance(t, Tensor) else t) * g

    def act(self, g: Tensor, x: Tensor) -> Tensor:
        """g + x."""
        return g + x

    def random(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        """Standard normal."""
        return torch.randn(whole_shape(size, self.event_shape), dtype=dtype, device=device)

    def exp(self, v: Tensor) -> Tensor:
        return v

    def log(self, g: Tensor) -> Tensor:
        return g

    def hat(self, v: Tensor) -> Tensor:
        """[[0, v], [0, 0]] (..., n+1, n+1), of which the exponential is a translation in homogeneous coordinates."""
        top = torch.cat([v.new_zeros(*v.shape, self.dim), v.unsqueeze(-1)], -1)
        return torch.cat([top, torch.zeros_like(top[..., :1, :])], -2)

    def vee(self, X: Tensor) -> Tensor:
        return X[..., :-1, -1]

    def tangent(self, g: Tensor, v: Tensor) -> Tensor:
        return torch.broadcast_tensors(v, g)[0]

    def coordinates(self, g: Tensor, u: Tensor) -> Tensor:
        return torch.broadcast_tensors(u, g)[0]

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self.proju(x, u)

    def component_inner(self, x: Tensor, u: Tensor, v: Tensor | None = None) -> Tensor:
        """Per entry, for optimizers: ℝⁿ is a product of lines."""
        return u * (u if v is None else v)

    def projx(self, x: Tensor) -> Tensor:
        return x

    def frechet_mean(
        self,
        x: Tensor,
        weights: Tensor | None = None,
        dim: int = 0,
        steps: int | None = None,
        tol: float | None = None,
        all_reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The arithmetic mean; see `Manifold.frechet_mean`."""
        equal = weights is None and all_reduce is None
        x, weights, dim = self._mean_arguments(x, weights, dim, all_reduce)
        if equal:
            return x.mean(dim)
        mean = (self._over_event(weights) * x).sum(dim)
        return mean if all_reduce is None else all_reduce(mean)
