"""Increasing functions as bijections: the inverse by root finding, its gradients by the implicit function theorem."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch._higher_order_ops import while_loop

from flowgroup.bijections.base import Bijection
from flowgroup.manifolds import constraints

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Monotone(Bijection):
    """y = f(x; params) for any strictly increasing, differentiable f.

    Args:
        function: f(x, params) with x of any shape and params (*x.shape, P) or one that broadcasts against it, giving y
            elementwise. What it depends on differentiably must come in through `params`.
        params: parameters (P,) to start training from.
        lower, upper: ends of the interval on which f is defined; None for the whole line. The inverse of a y beyond
            their images is the end.
        codomain: the image of f, a constraint; None for the whole line.

    Example:
        >>> f = Monotone(lambda x, p: x + p[..., 0].exp() * x**3, params=torch.zeros(1))
        >>> f.inverse(torch.tensor([2.0]), torch.zeros(1))
        (tensor([1.]), tensor([-1.3863]))
    """

    def __init__(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        params: Tensor,
        lower: float | None = None,
        upper: float | None = None,
        codomain: constraints.Constraint | None = None,
    ):
        if params.dim() != 1:
            raise ValueError(f"params must have shape (P,), got {tuple(params.shape)}")
        if lower is not None and upper is not None and not lower < upper:
            raise ValueError(f"lower must be less than upper, got {lower} and {upper}")
        self.function = function
        self.lower, self.upper = lower, upper
        self._params = params.detach().clone()
        if lower is not None or upper is not None:
            self.domain = constraints.Interval(
                -math.inf if lower is None else lower, math.inf if upper is None else upper
            )
        self.codomain = constraints.real if codomain is None else codomain

    @property
    def param_shape(self) -> tuple[int]:
        return tuple(self._params.shape)

    def initial_params(self) -> Tensor:
        return self._params.clone()

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        x = x.expand(torch.broadcast_shapes(x.shape, params.shape[:-1])).contiguous()  # jvp writes a tangent to each
        y, slope = torch.func.jvp(lambda x: self.function(x, params), (x,), (torch.ones_like(x),))
        return y, slope.log()

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return invert_increasing(self.forward, y, params, self.lower, self.upper, function=self.function)


def invert_increasing(
    forward: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    y: Tensor,
    params: Tensor,
    lower: float | Tensor | None = None,
    upper: float | Tensor | None = None,
    function: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """x with f(x; params) = y and log|∂x/∂y|: the `inverse` of a scalar bijection that only has a `forward`.

    x is found by `bisect` and given its derivatives by `differentiable_root`.

    Args:
        forward: (x, params) → (f(x), log f′(x)), f strictly increasing.
        y: values of any shape.
        params: (*y.shape, P) or one that broadcasts against it.
        lower, upper: where to search; None for the ends of the line.
        function: (x, params) → f(x) alone, where that costs less than `forward`.

    Returns:
        x and log|∂x/∂y|.

    Example:
        >>> invert_increasing(lambda x, p: (x.sinh(), x.cosh().log()), torch.tensor([1.1752]), torch.empty(0))
        (tensor([1.0000]), tensor([-0.4338]))
    """
    y = y.expand(torch.broadcast_shapes(y.shape, params.shape[:-1]))
    fixed = params.detach()
    x = bisect(
        (lambda x: forward(x, fixed)[0]) if function is None else (lambda x: function(x, fixed)), y, lower, upper
    )
    x, log_slope = differentiable_root(forward, x, y, params)
    return x, -log_slope


def differentiable_root(
    forward: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], x: Tensor, y: Tensor, params: Tensor
) -> tuple[Tensor, Tensor]:
    """The root x of f(x; params) = y again, now with derivatives with respect to y and params up to the third order.

    Two Newton steps from the root leave its value and each doubles the order to which derivatives are right (the
    implicit function theorem). The residual is 0 by construction, so that flat parts of f do not amplify its rounding.

    Args:
        forward: (x, params) → (f(x), log f′(x)).
        x: the root, without gradient.
        y, params: as they were for the root.

    Returns:
        x and log f′(x).

    Example:
        >>> y = torch.tensor(8.0, requires_grad=True)
        >>> x, _ = differentiable_root(lambda x, p: (x**3, (3 * x**2).log()), torch.tensor(2.0), y, torch.empty(0))
        >>> x.backward()
        >>> y.grad  # 1/(3x²)
        tensor(0.0833)
    """
    tiny = torch.finfo(y.dtype).tiny
    for _ in range(2):
        fx, log_slope = forward(x, params)
        x = x - ((fx - fx.detach()) - (y - y.detach())) / log_slope.exp().clamp_min(tiny)
    return x, forward(x, params)[1]


def bisect(
    function: Callable[[Tensor], Tensor],
    y: Tensor,
    lower: float | Tensor | None = None,
    upper: float | Tensor | None = None,
) -> Tensor:
    """The least floating-point x in [lower, upper] with f(x) ≥ y for an increasing f, or `upper` if there is none.

    Floating-point numbers are bisected in their own order, as integers: as many steps as the dtype has bits find the
    root to the last of them, wherever it is and however steep or flat f may be.

    Args:
        function: f, elementwise.
        y: values of any shape.
        lower, upper: where to search; None for the ends of the line.

    Returns:
        x of the shape of y, without gradient.

    Example:
        >>> bisect(lambda x: x**3, torch.tensor([-8e-30, 1.0, 8e30]))
        tensor([-2.0000e-10,  1.0000e+00,  2.0000e+10])
    """
    y = y.detach()
    largest = torch.finfo(y.dtype).max
    low = _to_key(torch.zeros_like(y) + (-largest if lower is None else lower)) - 1
    high = _to_key(torch.zeros_like(y) + (largest if upper is None else upper))
    steps = 8 * y.element_size()

    def halve(i, low: Tensor, high: Tensor):
        middle = (low | high) - ((low ^ high) >> 1)  # (low + high) / 2 rounded up, without overflow
        x = _from_key(middle, y.dtype)
        fx = function(x)
        below = (fx < y) | (fx.isnan() & (x < 0))  # f may overflow to NaN far out on either side
        return i + 1, torch.where(below, middle, low), torch.where(below, high, middle)

    if torch.compiler.is_compiling():  # a loop in the graph too: unrolled, inductor takes minutes over it
        start = (torch.zeros((), dtype=torch.int64), low, high)
        _, low, high = while_loop(lambda i, low, high: i < steps, halve, start)
    else:
        for i in range(steps):
            _, low, high = halve(i, low, high)
    return _from_key(high, y.dtype)


def _to_key(x: Tensor) -> Tensor:
    """Integers in the order of the floating-point numbers `x`, neighbours being one apart."""
    return _flip(x.detach().view(_INTEGERS[x.element_size()]))


def _from_key(key: Tensor, dtype: torch.dtype) -> Tensor:
    return _flip(key).view(dtype)


def _flip(bits: Tensor) -> Tensor:
    # negative numbers are stored as sign and magnitude: turn the order of their magnitudes round
    return torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits)
