"""Where values live, as torch.distributions constraints: the one vocabulary of domains and supports."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

real = constraints.real


class Interval(Constraint):
    """Numbers in the closed interval [lower, upper]."""

    def __init__(self, lower: float, upper: float):
        self.lower, self.upper = lower, upper
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return (value >= self.lower) & (value <= self.upper)

    def __repr__(self) -> str:
        return f"the interval [{self.lower:g}, {self.upper:g}]"


class Circle(Constraint):
    """Angles with period 2·half_period: any finite number, x and x + 2·half_period being the same."""

    def __init__(self, half_period: float = math.pi):
        self.half_period = half_period
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return torch.isfinite(value)

    def __repr__(self) -> str:
        return f"the circle of period {2 * self.half_period:g}"


class OnManifold(Constraint):
    """Points of a manifold, up to rounding (the square root of the dtype's epsilon)."""

    def __init__(self, manifold):
        self.manifold = manifold
        super().__init__()

    @property
    def event_dim(self) -> int:
        return self.manifold.ndim

    def check(self, value: Tensor) -> Tensor:
        return self.manifold.contains(value)

    def __repr__(self) -> str:
        return f"the manifold {self.manifold}"


def joins(codomain: Constraint, domain: Constraint) -> bool:
    """Whether values of one space may enter the other: points of a circle or manifold only where they belong.

    Example:
        >>> joins(Circle(), Circle()), joins(Circle(), real), joins(Interval(0, 1), real)
        (True, False, True)
    """
    curved = isinstance(codomain, Circle | OnManifold) or isinstance(domain, Circle | OnManifold)
    return not curved or repr(codomain) == repr(domain)


def wrap(x: Tensor, half_period: float = math.pi) -> Tensor:
    """The representative of `x` in [-half_period, half_period).

    Example:
        >>> wrap(torch.tensor([0.0, 4.0]))
        tensor([ 0.0000, -2.2832])
    """
    # not remainder(x + h, 2h) − h, which rounds small angles away
    return x - 2 * half_period * torch.floor((x + half_period) / (2 * half_period))
