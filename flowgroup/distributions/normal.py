"""Normal distributions on vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints


class DiagonalNormal(Distribution):
    """N(μ, diag σ²) on vectors: log p(x) = −½|(x−μ)/σ|² − Σ log σᵢ − n/2·log 2π.

    Args:
        loc: μ (..., n).
        scale: σ (..., n), positive.

    Example:
        >>> DiagonalNormal(torch.zeros(2), torch.ones(2)).log_prob(torch.zeros(2))
        tensor(-1.8379)
    """

    arg_constraints = {
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor):
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(self.loc.shape[:-1], self.loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance=None) -> DiagonalNormal:
        shape = torch.Size(batch_shape) + self.event_shape
        return DiagonalNormal(self.loc.expand(shape), self.scale.expand(shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.scale * noise

    def log_prob(self, value: Tensor) -> Tensor:
        z = (value - self.loc) / self.scale
        constant = self.scale.log().sum(-1) + 0.5 * self.event_shape[0] * math.log(2 * math.pi)
        return -0.5 * z.square().sum(-1) - constant
