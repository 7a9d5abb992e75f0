"""Base distributions as modules: their parameters move, train and save with the flow."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, transform_to

from flowgroup.distributions import DiagonalNormal as _DiagonalNormal


class Base(nn.Module):
    """A distribution made anew from tensors of the module at every call.

    Args:
        make: gives the distribution from the tensors below, by name: a class of torch.distributions, say.
        trainable: whether the tensors are parameters, kept inside the constraint that the class names for them.
        tensors: arguments of `make`.
    """

    def __init__(self, make: Callable[..., Distribution], trainable: bool = False, **tensors: Tensor):
        super().__init__()
        self.make = make
        self.trainable = trainable
        self._names = tuple(tensors)
        for name, value in tensors.items():
            if trainable:
                raw = transform_to(make.arg_constraints[name]).inv(value)
                self.register_parameter(name, nn.Parameter(raw.clone()))
            else:
                self.register_buffer(name, value)
        self.event_shape = self.distribution().event_shape

    def distribution(self) -> Distribution:
        """The distribution, with an empty batch shape."""
        values = {name: getattr(self, name) for name in self._names}
        if self.trainable:
            values = {k: transform_to(self.make.arg_constraints[k])(v) for k, v in values.items()}
        return self.make(**values)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density at latent z."""
        return self.distribution().log_prob(z)


def DiagonalNormal(features: int, trainable: bool = False) -> Base:  # noqa: N802
    """N(0, I), or N(μ, diag σ²) with trainable μ and σ, starting there.

    Example:
        >>> DiagonalNormal(2).log_prob(torch.zeros(2))
        tensor(-1.8379)
    """
    return Base(_DiagonalNormal, trainable, loc=torch.zeros(features), scale=torch.ones(features))
