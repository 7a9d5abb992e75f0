"""Coupling transforms: some features are transformed with parameters computed from the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowgroup.bijections import Bijection
from flowgroup.flows.transform import Transform
from flowgroup.linalg import permute
from flowgroup.manifolds.constraints import Circle
from flowgroup.nn.mlp import MLP, periodic, start_near_

MASKS = {
    "checkerboard": lambda n: torch.arange(n) % 2 == 1,
    "checkerboard-flipped": lambda n: torch.arange(n) % 2 == 0,
    "half": lambda n: torch.arange(n) >= n // 2,
    "half-flipped": lambda n: torch.arange(n) < n // 2,
}


def coupling_mask(mask: str | Tensor | Sequence[bool], features: int) -> Tensor:
    """Boolean mask (features,), true where a feature is transformed, from a name or from values.

    Example:
        >>> coupling_mask("checkerboard", 4)
        tensor([False,  True, False,  True])
    """
    if isinstance(mask, str):
        if mask not in MASKS:
            raise ValueError(f"mask must be one of {sorted(MASKS)} or a boolean tensor, got {mask!r}")
        mask = MASKS[mask](features)
    mask = torch.as_tensor(mask)
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must hold booleans, got {mask.dtype}")
    mask = mask.to(torch.get_default_device())
    if mask.shape != (features,):
        raise ValueError(f"mask must have shape ({features},), got {tuple(mask.shape)}")
    if not mask.any():
        raise ValueError("mask must be true for at least one feature: those are transformed")
    if mask.all():
        raise ValueError("mask must be false for at least one feature: the others depend on those (or use Elementwise)")
    return mask


class Coupling(Transform):
    """y_m = f(x_m; net(x_¬m, c)), y_¬m = x_¬m for a mask m.

    Args:
        bijection: a scalar bijection f. On a circle the network sees cos and sin of the angles.
        features: size of x (channels of an image).
        mask: which features are transformed: "checkerboard" (every second), "half" (the latter half), one of these
            with "-flipped", or a boolean tensor (features,).
        context: size of the context c, 0 for none.
        hidden_features: widths of the default network, an MLP.
        conditioner: a network of your own instead, called as net(x_¬m, c) (for images on (..., channels, height,
            width)), giving the features to transform times `bijection.param_shape[0]` values in the feature dimension,
            the parameters of one feature side by side.
        event_dim: 1 for vectors (features,), 3 for images (features, height, width).

    Source: Density estimation using Real NVP, 2017, arXiv 1605.08803; Neural Spline Flows, 2019, arXiv 1906.04032.

    Example:
        >>> from flowgroup import flows
        >>> t = flows.Coupling(flows.Affine(), features=4, mask="half")
        >>> y, logdet = t(torch.randn(10, 4))
    """

    def __init__(
        self,
        bijection: Bijection,
        features: int,
        mask: str | Tensor | Sequence[bool] = "checkerboard",
        context: int = 0,
        hidden_features: Sequence[int] = (64, 64),
        conditioner: nn.Module | None = None,
        event_dim: int = 1,
    ):
        super().__init__()
        if not isinstance(bijection, Bijection) or bijection.event_dim != 0:
            raise TypeError(f"bijection must be a scalar flowgroup.bijections.Bijection, got {bijection!r}")
        if event_dim not in (1, 3):
            raise ValueError(f"event_dim must be 1 (vectors) or 3 (images), got {event_dim}")
        mask = coupling_mask(mask, features)
        self.bijection = bijection
        self.context_features = context
        self.domain, self.codomain = bijection.domain, bijection.codomain
        self.in_shape = self.out_shape = (features,) + (None,) * (event_dim - 1)
        self._dim = -event_dim

        kept, moved = (~mask).nonzero().flatten(), mask.nonzero().flatten()
        order = torch.cat((kept, moved))
        self.register_buffer("_order", order, persistent=False)
        self.register_buffer("_restore", order.argsort(), persistent=False)
        self._sorted = order.tolist() == list(range(features))
        self._sizes = (len(kept), len(moved))
        if conditioner is None:
            if event_dim != 1:
                raise ValueError("conditioner is missing: images need one, such as flowgroup.nn.ConvNet")
            inputs = len(kept) * (2 if isinstance(self.domain, Circle) else 1)
            conditioner = MLP(inputs, len(moved) * bijection.param_shape[0], hidden_features, context)
            start_near_(conditioner.output, bijection.initial_params())
        self.conditioner = conditioner

    def _params(self, kept: Tensor, context: Tensor | None) -> Tensor:
        if isinstance(self.domain, Circle):
            kept = periodic(kept, self.domain.half_period)
        out = self.conditioner(kept) if context is None else self.conditioner(kept, context)
        wanted = self._sizes[1] * self.bijection.param_shape[0]
        if out.shape[self._dim] != wanted:
            raise ValueError(f"conditioner must give {wanted} values in dimension {self._dim}, got {tuple(out.shape)}")
        out = out.unflatten(self._dim, (self._sizes[1], -1))
        return out if self._dim == -1 else out.movedim(self._dim, -1)

    def _couple(self, x: Tensor, context: Tensor | None, f) -> tuple[Tensor, Tensor]:
        if not self._sorted:
            x = permute(x, self._order, self._restore, self._dim)
        kept, moved = x.split(self._sizes, self._dim)
        moved, logdet = f(moved, self._params(kept, context))
        y = torch.cat((kept, moved), self._dim)
        if not self._sorted:
            y = permute(y, self._restore, self._order, self._dim)
        return y, logdet.flatten(self._dim).sum(-1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._couple(self._checked("x", x, context), context, self.bijection.forward)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self._checked("y", y, context, inverse=True)
        return self._couple(y, context, self.bijection.inverse)

    def extra_repr(self) -> str:
        return f"{self.bijection}, moved={self._order[self._sizes[0] :].tolist()}, context={self.context_features}"
