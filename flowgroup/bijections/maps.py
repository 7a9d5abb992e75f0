"""Maps of the real line without parameters, and the rotation of a circle."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions.constraints import positive

from flowgroup.bijections.base import Bijection
from flowgroup.manifolds import constraints
from flowgroup.manifolds.constraints import wrap

# Each of these takes params (..., 0) and does not look at them. Where y saturates in floating point it stays inside the
# codomain, so that it inverts to a finite number.


class LeakyReLU(Bijection):
    """y = x for x ≥ 0, slope·x for x < 0.

    Args:
        slope: a positive number.

    Example:
        >>> y, logdet = LeakyReLU(0.5).forward(torch.tensor([-2.0, 3.0]), torch.empty(0))
        >>> y, logdet
        (tensor([-1.,  3.]), tensor([-0.6931,  0.0000]))
    """

    def __init__(self, slope: float = 0.01):
        if not 0 < slope < math.inf:
            raise ValueError(f"slope must be positive and finite, got {slope}")
        self.slope = slope

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(x < 0, self.slope * x, x), torch.where(x < 0, x.new_full((), math.log(self.slope)), 0.0)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(y < 0, y / self.slope, y), torch.where(y < 0, y.new_full((), -math.log(self.slope)), 0.0)


class Softplus(Bijection):
    """y = log(1 + eˣ), from the real line to the positive numbers.

    Example:
        >>> Softplus().forward(torch.tensor([0.0]), torch.empty(0))
        (tensor([0.6931]), tensor([-0.6931]))
    """

    codomain = positive

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y = -F.logsigmoid(-x)  # without the threshold of F.softplus, which costs digits in float64
        return y.clamp_min(torch.finfo(y.dtype).tiny), F.logsigmoid(x)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y = y.clamp_min(torch.finfo(y.dtype).tiny)
        log_slope = torch.log(-torch.expm1(-y))
        return y + log_slope, -log_slope


class Exp(Bijection):
    """y = eˣ, from the real line to the positive numbers.

    Example:
        >>> Exp().forward(torch.tensor([0.0]), torch.empty(0))
        (tensor([1.]), tensor([0.]))
    """

    codomain = positive

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        range_ = torch.finfo(x.dtype)
        return x.exp().clamp(range_.tiny, range_.max), x.clone()

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        x = y.clamp_min(torch.finfo(y.dtype).tiny).log()
        return x, -x


class Sigmoid(Bijection):
    """y = 1/(1 + e⁻ˣ), from the real line to (0, 1). Its `Inverse` is the logit.

    Example:
        >>> Sigmoid().forward(torch.tensor([0.0]), torch.empty(0))
        (tensor([0.5000]), tensor([-1.3863]))
    """

    codomain = constraints.Interval(0.0, 1.0)

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return _inside_unit(torch.sigmoid(x)), F.logsigmoid(x) + F.logsigmoid(-x)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y = _inside_unit(y)
        a, b = y.log(), torch.log1p(-y)
        return a - b, -(a + b)


class Tanh(Bijection):
    """y = tanh x, from the real line to (−1, 1).

    Example:
        >>> Tanh().forward(torch.tensor([0.0]), torch.empty(0))
        (tensor([0.]), tensor([0.]))
    """

    codomain = constraints.Interval(-1.0, 1.0)

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        # 1 − tanh²x = 4 σ(2x) σ(−2x)
        return _inside_one(torch.tanh(x)), F.logsigmoid(2 * x) + F.logsigmoid(-2 * x) + math.log(4)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y = _inside_one(y)
        return torch.atanh(y), -torch.log1p(-y) - torch.log1p(y)


class CircularShift(Bijection):
    """y = x + shift on a circle, params = (shift,).

    Args:
        half_period: half the circumference; y is given in [−half_period, half_period).

    Example:
        >>> y, logdet = CircularShift().forward(torch.tensor([3.0]), torch.tensor([1.0]))
        >>> y, logdet
        (tensor([-2.2832]), tensor([0.]))
    """

    def __init__(self, half_period: float = math.pi):
        if not 0 < half_period < math.inf:
            raise ValueError(f"half_period must be positive and finite, got {half_period}")
        self.half_period = half_period
        self.domain = self.codomain = constraints.Circle(half_period)

    @property
    def param_shape(self) -> tuple[int]:
        return (1,)

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y = wrap(x + params[..., 0], self.half_period)
        return y, y.new_zeros(()).expand_as(y)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        x = wrap(y - params[..., 0], self.half_period)
        return x, x.new_zeros(()).expand_as(x)

    def __repr__(self) -> str:
        return f"CircularShift(half_period={self.half_period:g})"


def _inside_unit(y: Tensor) -> Tensor:
    return y.clamp(torch.finfo(y.dtype).tiny, 1 - torch.finfo(y.dtype).eps)


def _inside_one(y: Tensor) -> Tensor:
    limit = 1 - torch.finfo(y.dtype).eps
    return y.clamp(-limit, limit)
