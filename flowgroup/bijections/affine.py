"""Affine maps of the real line."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from flowgroup.bijections.base import Bijection, promoted


class Additive(Bijection):
    """y = x + shift, params = (shift,).

    Source: NICE: Non-linear Independent Components Estimation, 2014, arXiv 1410.8516, Eq. 6.

    Example:
        >>> import torch
        >>> Additive().forward(torch.tensor([1.0]), torch.tensor([2.0]))
        (tensor([3.]), tensor([0.]))
    """

    @property
    def param_shape(self) -> tuple[int]:
        return (1,)

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y = x + promoted(params, x)[..., 0]
        return y, y.new_zeros(()).expand_as(y)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        x = y - promoted(params, y)[..., 0]
        return x, x.new_zeros(()).expand_as(x)


class Affine(Bijection):
    """y = x·exp(a) + shift with a = u / (1 + |u|/max_log_scale), params = (shift, u).

    The bound keeps both directions from exploding where a conditioner meets inputs it never saw.

    Args:
        max_log_scale: bound on |log scale|.

    Source: Density estimation using Real NVP, 2017, arXiv 1605.08803, Eq. 7.

    Example:
        >>> import torch
        >>> y, logdet = Affine().forward(torch.tensor([1.0]), torch.tensor([2.0, 0.0]))
        >>> y, logdet
        (tensor([3.]), tensor([0.]))
    """

    def __init__(self, max_log_scale: float = 5.0):
        if not max_log_scale > 0:
            raise ValueError(f"max_log_scale must be positive, got {max_log_scale}")
        self.max_log_scale = max_log_scale

    @property
    def param_shape(self) -> tuple[int]:
        return (2,)

    def _shift_and_log_scale(self, params: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        shift, u = promoted(params, x).unbind(-1)
        return shift, self.max_log_scale * F.softsign(u / self.max_log_scale)

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._shift_and_log_scale(params, x)
        y = x * log_scale.exp() + shift
        return y, log_scale.expand_as(y)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._shift_and_log_scale(params, y)
        x = (y - shift) * (-log_scale).exp()
        return x, (-log_scale).expand_as(x)
