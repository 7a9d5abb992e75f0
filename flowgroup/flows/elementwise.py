"""A bijection with parameters of its own, or with parameters computed from a context."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowgroup.bijections import Bijection
from flowgroup.flows.transform import Transform
from flowgroup.nn.mlp import MLP, start_near_


class Elementwise(Transform):
    """yᵢ = f(xᵢ; θᵢ) for a scalar bijection f, y = f(x; θ) for one of vectors.

    Args:
        bijection: f.
        features: size of x.
        context: size of the context; when positive, θ is an MLP of the context.
        hidden_features: widths of that MLP.

    Example:
        >>> from flowgroup import flows
        >>> t = flows.Elementwise(flows.RationalQuadraticSpline(bins=8, bound=4.0), features=2, context=3)
        >>> y, logdet = t(torch.randn(10, 2), context=torch.randn(3))
    """

    def __init__(
        self,
        bijection: Bijection,
        features: int,
        context: int = 0,
        hidden_features: Sequence[int] = (64, 64),
    ):
        super().__init__()
        if not isinstance(bijection, Bijection):
            raise TypeError(f"bijection must be a flowgroup.bijections.Bijection, got {bijection!r}")
        self.bijection = bijection
        self.in_shape = self.out_shape = (features,)
        self.domain, self.codomain = bijection.domain, bijection.codomain
        repeat = features if bijection.event_dim == 0 else 1
        initial = torch.stack([bijection.initial_params() for _ in range(repeat)])
        self._param_shape = initial.shape if bijection.event_dim == 0 else initial.shape[1:]
        self.context_features = context if initial.numel() else 0
        self.net = None
        if self.context_features:
            self.net = MLP(context, initial.numel(), hidden_features)
            start_near_(self.net.output, initial.flatten())
        elif initial.numel():
            self.params = nn.Parameter(initial.reshape(self._param_shape))
        else:
            self.register_buffer("params", initial.reshape(self._param_shape), persistent=False)

    def _params(self, context: Tensor | None) -> Tensor:
        return self.params if self.net is None else self.net(context).unflatten(-1, self._param_shape)

    def _sum(self, logdet: Tensor) -> Tensor:
        return logdet.sum(-1) if self.bijection.event_dim == 0 else logdet

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self._checked("x", x, context)
        y, logdet = self.bijection.forward(x, self._params(context))
        return y, self._sum(logdet)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self._checked("y", y, context, inverse=True)
        x, logdet = self.bijection.inverse(y, self._params(context))
        return x, self._sum(logdet)

    def extra_repr(self) -> str:
        return f"{self.bijection}, features={self.in_shape[0]}, context={self.context_features}"
