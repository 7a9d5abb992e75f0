"""Densities that are the same at opposite points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from flowgroup._checks import check_event_shape


class Even(Distribution):
    """p(x) = ½ p₀(x) + ½ p₀(−x), the law of ±x₀ with either sign: on unit quaternions, a density on rotations.

    Args:
        law: p₀, of vectors.
        validate_args: has no effect; p₀ has been checked.

    Raises:
        TypeError, ValueError: what is no distribution, or one whose events are no vectors.

    Example:
        >>> from flowgroup.distributions import DiagonalNormal
        >>> p = Even(DiagonalNormal(torch.full((1,), 3.0), torch.ones(1)))
        >>> p.log_prob(torch.tensor([[3.0], [-3.0]]))  # −½ log 2π − log 2
        tensor([-1.6121, -1.6121])
    """

    arg_constraints: dict = {}

    def __init__(self, law: Distribution, validate_args: bool = True):
        if not isinstance(law, Distribution):
            raise TypeError(f"law must be a torch.distributions.Distribution, got {law!r}")
        if len(law.event_shape) != 1:
            raise ValueError(f"law must be one of vectors, got events of shape {tuple(law.event_shape)}")
        self.law = law
        self.has_rsample = law.has_rsample
        super().__init__(law.batch_shape, law.event_shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance=None) -> Even:
        return Even(self.law.expand(torch.Size(batch_shape)))

    @property
    def support(self):
        return self.law.support

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return _either_sign(self.law.sample(torch.Size(sample_shape)))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return _either_sign(self.law.rsample(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        check_event_shape("value", value, tuple(self.event_shape))
        return self.law.log_prob(torch.stack((value, -value))).logsumexp(0) - torch.log(value.new_tensor(2.0))


def _either_sign(x: Tensor) -> Tensor:
    return torch.where(torch.rand_like(x[..., :1]) < 0.5, -x, x)
