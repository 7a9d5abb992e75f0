"""Bijections made of bijections."""

from __future__ import annotations

import torch
from torch import Tensor

from flowgroup.bijections.base import Bijection
from flowgroup.manifolds.constraints import joins


class Inverse(Bijection):
    """y = f⁻¹(x) of another bijection f.

    Example:
        >>> from flowgroup.bijections import Additive
        >>> Inverse(Additive()).forward(torch.tensor([3.0]), torch.tensor([2.0]))[0]
        tensor([1.])
    """

    def __init__(self, bijection: Bijection):
        self.bijection = bijection
        self.event_dim = bijection.event_dim
        self.domain, self.codomain = bijection.codomain, bijection.domain

    @property
    def param_shape(self) -> tuple[int]:
        return self.bijection.param_shape

    def initial_params(self) -> Tensor:
        return self.bijection.initial_params()

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self.bijection.inverse(x, params)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self.bijection.forward(y, params)

    def __repr__(self) -> str:
        return f"Inverse({self.bijection!r})"


class Chain(Bijection):
    """y = fₙ(…f₂(f₁(x))), params = those of f₁, …, fₙ one after the other.

    Example:
        >>> from flowgroup.bijections import Additive
        >>> Chain(Additive(), Additive()).forward(torch.tensor([3.0]), torch.tensor([1.0, 2.0]))[0]
        tensor([6.])
    """

    def __init__(self, *bijections: Bijection):
        if not bijections:
            raise ValueError("Chain needs at least one bijection")
        if len({b.event_dim for b in bijections}) != 1:
            raise ValueError(f"bijections of a Chain must have one event_dim, got {[b.event_dim for b in bijections]}")
        for a, b in zip(bijections, bijections[1:]):
            if not joins(a.codomain, b.domain):
                raise ValueError(f"{a} gives values on {a.codomain}, but {b} takes those on {b.domain}")
        self.bijections = bijections
        self.event_dim = bijections[0].event_dim
        self.domain, self.codomain = bijections[0].domain, bijections[-1].codomain
        self._sizes = [b.param_shape[0] for b in bijections]

    @property
    def param_shape(self) -> tuple[int]:
        return (sum(self._sizes),)

    def initial_params(self) -> Tensor:
        return torch.cat([b.initial_params() for b in self.bijections])

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        total = 0
        for bijection, p in zip(self.bijections, params.split(self._sizes, -1)):
            x, logdet = bijection.forward(x, p)
            total = total + logdet
        return x, total

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        total = 0
        for bijection, p in zip(self.bijections[::-1], params.split(self._sizes, -1)[::-1]):
            y, logdet = bijection.inverse(y, p)
            total = total + logdet
        return y, total

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.bijections))})"
