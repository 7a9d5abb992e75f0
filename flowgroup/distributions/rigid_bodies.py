"""Rigid bodies that know nothing of each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from flowgroup._checks import check_event_shape
from flowgroup.distributions._validate import may_validate
from flowgroup.manifolds import RigidBodies, constraints


class FreeBodies(Distribution):
    """p(x) = Πᵢ p(xᵢ)/(2π²): positions uniform in the box, or normal in open space; orientations uniform.

    Args:
        n: number of bodies; events are poses (n, 7).
        box: edges (3,) of the box in nm, or None.
        scale: standard deviation of positions in open space, in nm.
        dtype, device: of samples.

    Example:
        >>> free = FreeBodies(2, box=(1.0, 1.0, 1.0))
        >>> free.sample((5,)).shape, free.log_prob(free.sample())
        (torch.Size([5, 2, 7]), tensor(-5.9652))
    """

    arg_constraints: dict = {}
    has_rsample = True

    def __init__(
        self,
        n: int,
        box: Sequence[float] | None = None,
        scale: float = 1.0,
        dtype: torch.dtype | None = None,
        device=None,
        validate_args: bool = True,
    ):
        self.manifold = RigidBodies(n, box)
        if not 0 < scale < math.inf:
            raise ValueError(f"scale must be positive and finite, got {scale}")
        self.scale = float(scale)
        self._like = {"dtype": dtype, "device": device}
        super().__init__((), self.manifold.event_shape, may_validate(validate_args))

    @property
    def support(self) -> constraints.OnManifold:
        return self.manifold.constraint

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        x = self.manifold.random(*sample_shape, *self.event_shape, **self._like)
        if self.manifold.box is not None:
            return x
        return torch.cat((self.scale * x[..., :3], x[..., 3:]), -1)

    def log_prob(self, value: Tensor) -> Tensor:
        check_event_shape("value", value, self.event_shape)
        n = self.manifold.n
        if self.manifold.box is not None:
            return value.new_full((), -math.log(self.manifold.volume)).expand(value.shape[:-2])
        constant = n * (1.5 * math.log(2 * math.pi) + 3 * math.log(self.scale) + math.log(2 * math.pi**2))
        return -0.5 * (value[..., :3] / self.scale).square().sum((-2, -1)) - constant
