"""Scalar functions with their divided differences, which are the derivatives of functions of symmetric matrices.

f[a, b] = (f(a) − f(b))/(a − b) and f[a, b, c] = (f[a, b] − f[b, c])/(a − c), continued to equal arguments. Taken
literally they lose every digit where arguments are close; here they do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

NEAR = 0.1
"""Arguments whose distance is below this part of the scale on which f varies are integrated over, not subtracted."""

NODES = [(float(0.5 + 0.5 * x), float(0.5 * w)) for x, w in zip(*np.polynomial.legendre.leggauss(6))]


class ScalarFunction(NamedTuple):
    """A scalar function with what its matrix function and the first two derivatives of that need.

    Attributes:
        value: f, element by element.
        derivative: f′.
        second_derivative: f″, for second derivatives of matrix functions.
        difference: (a, b) ↦ f[a, b] for a ≥ b, accurate also where they are close; it may overwrite a and b. None:
            from f and f′.
        domain: where f is smooth: everywhere, or for x > 0 with a limit at 0 ("nonnegative") or without ("positive").
        scale: x ↦ the length on which f varies near x; None: |x|.
    """

    value: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    second_derivative: Callable[[Tensor], Tensor]
    difference: Callable[[Tensor, Tensor], Tensor] | None = None
    domain: Literal["real", "nonnegative", "positive"] = "real"
    scale: Callable[[Tensor], Tensor] | None = None

    def divided_difference(self, a: Tensor, b: Tensor) -> Tensor:
        """f[a, b], by the mean of f′ between arguments that are close.

        Example:
            >>> a = torch.tensor([2.0, 2.0])
            >>> torch.allclose(LOG.divided_difference(a, a), 1 / a)
            True
        """
        a, b = torch.maximum(a, b), torch.minimum(a, b)
        if self.difference is not None:
            return self.difference(a, b)
        near = self._near(a, b)
        mean = sum(w * self.derivative(b + x * (a - b)) for x, w in NODES)
        return torch.where(near, mean, (self.value(a) - self.value(b)) / torch.where(near, 1, a - b))

    def second_divided_difference(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """f[a, b, c], by a mean of f″ over the triangle between arguments that are close.

        Source: Functions of Matrices, 2008, Higham, appendix B.16 (Hermite–Genocchi).
        """
        (a, b), c = (torch.maximum(a, b), torch.minimum(a, b)), c
        (a, c), b = (torch.maximum(a, c), torch.minimum(a, c)), b
        b, c = torch.maximum(b, c), torch.minimum(b, c)
        near = self._near(a, c)
        mean = torch.zeros_like(a + b + c)
        for s, weight in NODES:
            for t, w in NODES:
                mean = mean + (weight * w * s) * self.second_derivative(c + s * (b - c + t * (a - b)))
        far = self.divided_difference(a, b) - self.divided_difference(b, c)
        return torch.where(near, mean, far / torch.where(near, 1, a - c))

    def _near(self, a: Tensor, b: Tensor) -> Tensor:
        scale = torch.maximum(a.abs(), b.abs()) if self.scale is None else self.scale(torch.minimum(a, b))
        return a - b <= NEAR * scale


def _above_zero(x: Tensor) -> Tensor:
    """x ≥ 0 in place, and ε² for anything smaller: there f(x)/x has its limit at 0 to all digits, without a branch."""
    return x.clamp_min_(torch.finfo(x.dtype).eps ** 2)


# in place, because fresh memory costs more than arithmetic


def _log_difference(a: Tensor, b: Tensor) -> Tensor:
    x = _above_zero(a.sub_(b).div_(b))  # a − b has no rounding where a ≈ b, so nothing cancels
    return torch.log1p(x).div_(x.mul_(b))


def _exp_difference(a: Tensor, b: Tensor) -> Tensor:
    x = _above_zero(a - b).neg_()
    return torch.expm1(x).div_(x).mul_(a.exp_())


def _inv_sqrt_difference(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.sqrt_(), b.sqrt_()
    return (a + b).mul_(a.mul_(b)).reciprocal_().neg_()


LOG = ScalarFunction(
    torch.log,
    torch.reciprocal,
    lambda x: -1 / (x * x),
    _log_difference,
    "positive",
)

EXP = ScalarFunction(
    torch.exp,
    torch.exp,
    torch.exp,
    _exp_difference,
    scale=torch.ones_like,
)

SQRT = ScalarFunction(
    torch.sqrt,
    lambda x: 0.5 * x.rsqrt(),
    lambda x: -0.25 * x.rsqrt() / x,
    lambda a, b: a.sqrt_().add_(b.sqrt_()).reciprocal_(),
    "nonnegative",
)

INV_SQRT = ScalarFunction(
    torch.rsqrt,
    lambda x: -0.5 * x.rsqrt() / x,
    lambda x: 0.75 * x.rsqrt() / (x * x),
    _inv_sqrt_difference,
    "positive",
)

INV = ScalarFunction(
    torch.reciprocal,
    lambda x: -1 / (x * x),
    lambda x: 2 / (x * x * x),
    lambda a, b: -(1 / a) / b,
    "positive",
)


def power(p: float) -> ScalarFunction:
    """f(x) = xᵖ, with f[a, b] = a^{p−1}·(1 − e^{−pδ})/(1 − b/a), δ = log(a/b).

    Example:
        >>> x = torch.tensor([4.0])
        >>> power(1.5).value(x), power(1.5).divided_difference(x, x)
        (tensor([8.]), tensor([3.]))
    """
    if not math.isfinite(p):
        raise ValueError(f"p must be finite, got {p}")
    known = {0.5: SQRT, -0.5: INV_SQRT, -1.0: INV}
    if float(p) in known:
        return known[float(p)]

    return ScalarFunction(
        lambda x: x**p,
        lambda x: p * x ** (p - 1),
        lambda x: p * (p - 1) * x ** (p - 2),
        lambda a, b: power_difference(a, b, p),
        "nonnegative" if p > 0 else "positive",
    )


def power_difference(a: Tensor, b: Tensor, p: float | Tensor) -> Tensor:
    """f[a, b] of f(x) = xᵖ for a ≥ b, either of which may be overwritten; p broadcasts against them."""
    x = _above_zero((a - b).div_(b))
    delta = torch.log1p(x)
    if not isinstance(p, Tensor) and p < 0:
        # from the end where the power is larger, so that nothing overflows before the result does
        return torch.expm1(delta.mul_(p)).mul_(b**p).div_(x.mul_(b))
    power = a ** (p - 1)
    return torch.expm1(delta.mul_(-p)).neg_().mul_(a.div_(x.mul_(b))).mul_(power)


LOG_SQUARED = ScalarFunction(
    lambda x: x.log().square(),
    lambda x: 2 * x.log() / x,
    lambda x: 2 * (1 - x.log()) / (x * x),
    domain="positive",
)

LOG_SQUARED_SLOPE = ScalarFunction(
    LOG_SQUARED.derivative,
    LOG_SQUARED.second_derivative,
    lambda x: (4 * x.log() - 6) / (x * x * x),
    domain="positive",
)
"""The derivative of `LOG_SQUARED`."""


def rectifier(threshold: float) -> ScalarFunction:
    """f(x) = max(x, threshold), with derivative 1 above the threshold and 0 from there down.

    Example:
        >>> rectifier(1.0).value(torch.tensor([0.5, 2.0]))
        tensor([1., 2.])
    """

    def difference(a: Tensor, b: Tensor) -> Tensor:
        equal = a == b
        rise = (a.clamp(min=threshold) - b.clamp(min=threshold)) / torch.where(equal, 1, a - b)
        return torch.where(equal, (a > threshold).to(a.dtype), rise)

    return ScalarFunction(
        lambda x: x.clamp(min=threshold), lambda x: (x > threshold).to(x.dtype), torch.zeros_like, difference
    )


def smooth(value: Callable[[Tensor], Tensor], derivative: Callable[[Tensor], Tensor]) -> ScalarFunction:
    """A scalar function given with its derivative; the second derivative comes from autograd.

    Example:
        >>> x = torch.tensor([1.0])
        >>> torch.allclose(smooth(torch.sin, torch.cos).divided_difference(x, x), x.cos())
        True
    """

    def second_derivative(x: Tensor) -> Tensor:
        y, pull = torch.func.vjp(derivative, x)
        return pull(torch.ones_like(y))[0]

    return ScalarFunction(value, derivative, second_derivative)
