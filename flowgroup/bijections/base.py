"""The contract of a bijection: stateless maths of an invertible map."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from flowgroup.manifolds import constraints


def promoted(params: Tensor, x: Tensor) -> Tensor:
    """Parameters in the precision of x, in float32 at least: a network under autocast makes them in bfloat16."""
    return params.to(torch.promote_types(torch.promote_types(params.dtype, x.dtype), torch.float32))


class Bijection:
    """An invertible map y = f(x; params), without state of its own.

    Written per event with broadcasting batch dimensions: a scalar bijection (`event_dim` 0) takes `x` of any shape
    and `params` of shape (*x.shape, P) or one that broadcasts against it, a vector bijection (`event_dim` 1) takes
    `x` of shape (..., n) and `params` of shape (..., P). So one class serves as an elementwise layer, in a
    coupling, in an autoregressive layer and under a context.

    Attributes:
        event_dim: 0 for maps of scalars, 1 for maps of vectors.
        domain, codomain: the spaces it maps, as constraints over single events.
    """

    event_dim: int = 0
    domain: Constraint = constraints.real
    codomain: Constraint = constraints.real

    @property
    def param_shape(self) -> tuple[int]:
        """Shape (P,) of the parameters of one event."""
        return (0,)

    def initial_params(self) -> Tensor:
        """Parameters (P,) to start training from: the identity map or one near it."""
        return torch.zeros(self.param_shape)

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """y = f(x) and log|det ∂f/∂x|, the latter of the batch shape (volume of the manifold, where it is one)."""
        raise NotImplementedError

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """x = f⁻¹(y) and log|det ∂f⁻¹/∂y|."""
        raise NotImplementedError

    def __repr__(self) -> str:
        hidden = ("event_dim", "domain", "codomain")
        options = {k: v for k, v in vars(self).items() if k not in hidden and not k.startswith("_")}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in options.items())})"
