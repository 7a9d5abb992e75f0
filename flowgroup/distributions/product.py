"""Independent parts of different kinds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from flowgroup._checks import check_event_shape
from flowgroup.manifolds import constraints
from flowgroup.manifolds.product import ProductManifold


class Product(Distribution):
    """p(x) = p₁(x₁) ⋯ pₖ(xₖ), x the events of the parts, flattened and joined, a point of the product of their spaces.

    Args:
        manifold: the product of the spaces of the parts (`flowgroup.manifolds.Product`).
        parts: a distribution on each factor; batch shapes broadcast.

    Raises:
        TypeError, ValueError: another manifold, what is no distribution, events of another shape than the factors'.

    Example:
        >>> from flowgroup.distributions import DiagonalNormal, TorusUniform
        >>> from flowgroup import manifolds
        >>> space = manifolds.Product(manifolds.Torus(1), manifolds.Euclidean(2))
        >>> p = Product(space, TorusUniform(1), DiagonalNormal(torch.zeros(2), torch.ones(2)))
        >>> p.event_shape, p.log_prob(torch.zeros(3))
        (torch.Size([3]), tensor(-3.6758))
    """

    arg_constraints: dict = {}

    def __init__(self, manifold: ProductManifold, *parts: Distribution):
        if not isinstance(manifold, ProductManifold):
            raise TypeError(f"manifold must be a product (flowgroup.manifolds.Product), got {manifold!r}")
        for part in parts:
            if not isinstance(part, Distribution):
                raise TypeError(f"parts must be torch.distributions.Distribution, got {type(part).__name__}")
        shapes = [tuple(part.event_shape) for part in parts]
        if shapes != [tuple(factor.event_shape) for factor in manifold.factors]:
            raise ValueError(f"parts must have the event shapes of the factors of {manifold}, got {shapes}")
        self.manifold = manifold
        batch = torch.broadcast_shapes(*(part.batch_shape for part in parts))
        # those without a batch draw one sample for each of it
        self.parts = tuple(part.expand(batch) if part.batch_shape else part for part in parts)
        self.has_rsample = all(part.has_rsample for part in parts)
        super().__init__(batch, manifold.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.OnManifold:
        return self.manifold.constraint

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.manifold.join(*(part.sample(self._shape_for(part, sample_shape)) for part in self.parts))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.manifold.join(*(part.rsample(self._shape_for(part, sample_shape)) for part in self.parts))

    def _shape_for(self, part: Distribution, sample_shape: Sequence[int]) -> torch.Size:
        return torch.Size(sample_shape) + (torch.Size() if part.batch_shape else self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        check_event_shape("value", value, self.event_shape)
        return sum(part.log_prob(x) for part, x in zip(self.parts, self.manifold.split(value)))
