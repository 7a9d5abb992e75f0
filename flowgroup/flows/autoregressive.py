"""Masked autoregressive transforms, with an inverse that costs about one forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowgroup.bijections import Bijection
from flowgroup.flows.transform import Transform
from flowgroup.manifolds.constraints import Circle
from flowgroup.nn.masked_mlp import MaskedMLP
from flowgroup.nn.mlp import periodic, start_near_


class Autoregressive(Transform):
    """yᵢ = f(xᵢ; netᵢ(x₁, …, xᵢ₋₁, c)).

    The inverse finds one feature after the other; a hidden unit is computed once, when the last feature it sees is
    known, so all n steps together do the arithmetic of one forward pass instead of n.
    `Autoregressive(…).inv` is the inverse autoregressive transform: quick to sample, sequential to evaluate.

    Args:
        bijection: a scalar bijection f. On a circle the network sees cos and sin of the angles.
        features: size of x.
        context: size of the context c, 0 for none.
        hidden_features: widths of the masked network.

    Source: Masked Autoregressive Flow for Density Estimation, 2017, arXiv 1705.07057.

    Example:
        >>> from flowgroup import flows
        >>> t = flows.Autoregressive(flows.Affine(), features=4)
        >>> x = torch.randn(10, 4)
        >>> torch.allclose(t.inverse(t(x)[0])[0], x, atol=1e-5)
        True
    """

    def __init__(
        self,
        bijection: Bijection,
        features: int,
        context: int = 0,
        hidden_features: Sequence[int] = (64, 64),
    ):
        super().__init__()
        if not isinstance(bijection, Bijection) or bijection.event_dim != 0:
            raise TypeError(f"bijection must be a scalar flowgroup.bijections.Bijection, got {bijection!r}")
        self.bijection = bijection
        self.context_features = context
        self.in_shape = self.out_shape = (features,)
        self.domain, self.codomain = bijection.domain, bijection.codomain
        self.net = MaskedMLP(
            features,
            bijection.param_shape[0],
            hidden_features,
            context,
            inputs=2 if isinstance(self.domain, Circle) else 1,
        )
        start_near_(self.net.output, bijection.initial_params())

    def _embed(self, x: Tensor) -> Tensor:
        return periodic(x, self.domain.half_period) if isinstance(self.domain, Circle) else x

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self._checked("x", x, context)
        y, logdet = self.bijection.forward(x, self.net(self._embed(x), context))
        return y, logdet.sum(-1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self._checked("y", y, context, inverse=True)
        steps = self.net.incremental(y[..., 0], context)
        params = next(steps)
        xs, logdets = [], []
        for i in range(y.shape[-1]):
            x, logdet = self.bijection.inverse(y[..., i], params)
            xs.append(x)
            logdets.append(logdet)
            if i < y.shape[-1] - 1:
                params = steps.send(self._embed(x.unsqueeze(-1)))
        return torch.stack(xs, -1), torch.stack(logdets, -1).sum(-1)

    def extra_repr(self) -> str:
        return f"{self.bijection}, context={self.context_features}"
