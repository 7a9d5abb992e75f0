"""Uniform distributions on boxes, tori and spheres."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from flowgroup._checks import check_event_shape, positive_integer
from flowgroup.distributions._validate import may_validate
from flowgroup.manifolds import Sphere
from flowgroup.manifolds.constraints import Circle


class BoxUniform(Distribution):
    """p(x) = 1/Π(highᵢ − lowᵢ) on the box low ≤ x ≤ high, zero elsewhere.

    Args:
        low: (..., n).
        high: (..., n), larger than `low`.
        validate_args: whether to look at the arguments' values.

    Raises:
        ValueError: a wrong shape, `high` not larger than `low`.

    Example:
        >>> BoxUniform(torch.zeros(2), torch.full((2,), 2.0)).log_prob(torch.ones(2))
        tensor(-1.3863)
    """

    arg_constraints = {"low": constraints.real_vector, "high": constraints.real_vector}
    has_rsample = True

    def __init__(self, low: Tensor, high: Tensor, validate_args: bool = True):
        check_event_shape("low", low, (None,))
        check_event_shape("high", high, low.shape[-1:])
        self.low, self.high = torch.broadcast_tensors(low, high)
        validate_args = may_validate(validate_args, low, high)
        super().__init__(self.low.shape[:-1], self.low.shape[-1:], validate_args)
        if validate_args and not (self.low < self.high).all():
            raise ValueError(f"high must be larger than low, got low={low} and high={high}")

    def expand(self, batch_shape: Sequence[int], _instance=None) -> BoxUniform:
        shape = torch.Size(batch_shape) + self.event_shape
        return BoxUniform(self.low.expand(shape), self.high.expand(shape), validate_args=False)

    @property
    def support(self):
        return constraints.independent(constraints.interval(self.low, self.high), 1)

    @property
    def mean(self) -> Tensor:
        return 0.5 * (self.low + self.high)

    @property
    def variance(self) -> Tensor:
        return (self.high - self.low).square() / 12

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        u = torch.rand(shape, dtype=self.low.dtype, device=self.low.device)
        return torch.lerp(self.low, self.high, u)

    def log_prob(self, value: Tensor) -> Tensor:
        check_event_shape("value", value, self.event_shape)
        inside = ((value >= self.low) & (value <= self.high)).all(-1)
        return torch.where(inside, -(self.high - self.low).log().sum(-1), -math.inf)


class TorusUniform(Distribution):
    """p(x) = (2π)^{−n} on the torus of n angles.

    Args:
        features: n.
        dtype, device: of samples.

    Example:
        >>> TorusUniform(2).log_prob(torch.zeros(2))
        tensor(-3.6758)
    """

    arg_constraints: dict = {}
    support = constraints.independent(Circle(), 1)
    has_rsample = True

    def __init__(self, features: int, dtype: torch.dtype | None = None, device: torch.device | str | None = None):
        self._options = {"dtype": dtype, "device": device}
        super().__init__(event_shape=torch.Size((positive_integer("features", features),)), validate_args=False)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        u = torch.rand(self._extended_shape(torch.Size(sample_shape)), **self._options)
        return math.pi * (2 * u - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        check_event_shape("value", value, self.event_shape)
        return value.new_full(value.shape[:-1], -self.event_shape[0] * math.log(2 * math.pi))


class SphereUniform(Distribution):
    """p(x) = 1/vol(S^d) with respect to the surface, x a unit vector in d+1 dimensions.

    Args:
        dim: d ≥ 1, the dimension of the sphere.
        dtype, device: of samples.

    Example:
        >>> SphereUniform(2).log_prob(torch.tensor([0.0, 0.0, 1.0]))  # −log 4π
        tensor(-2.5310)
    """

    arg_constraints: dict = {}
    has_rsample = True

    def __init__(self, dim: int, dtype: torch.dtype | None = None, device: torch.device | str | None = None):
        self.dim = positive_integer("dim", dim)
        self._options = {"dtype": dtype, "device": device}
        super().__init__(event_shape=torch.Size((dim + 1,)), validate_args=False)

    @property
    def support(self):
        return Sphere(self.dim).constraint

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        x = torch.randn(self._extended_shape(torch.Size(sample_shape)), **self._options)
        return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)

    def log_prob(self, value: Tensor) -> Tensor:
        check_event_shape("value", value, self.event_shape)
        return value.new_full(value.shape[:-1], -log_sphere_area(self.dim))


def log_sphere_area(dim: int) -> float:
    """log vol(S^d) = log(2 π^{(d+1)/2} / Γ((d+1)/2)).

    Example:
        >>> round(log_sphere_area(2), 4)  # log 4π
        2.531
    """
    return math.log(2) + 0.5 * (dim + 1) * math.log(math.pi) - math.lgamma(0.5 * (dim + 1))
