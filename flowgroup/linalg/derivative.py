"""Directional derivatives by reverse mode alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def jvp(f: Callable[[Tensor], Tensor], x: Tensor, u: Tensor) -> Tensor:
    """df(x)[u] = d/dt f(x + tu) at t = 0, as the derivative of the linear map c ↦ df(x)*[c].

    It works where functions have a derivative of their own but no forward mode, and may be differentiated again.

    Args:
        f: takes and gives one tensor.
        x, u: tensors of one shape.

    Example:
        >>> jvp(torch.sin, torch.zeros(2), torch.tensor([1.0, 2.0]))
        tensor([1., 2.])
    """
    y, pull = torch.func.vjp(f, x)
    _, push = torch.func.vjp(lambda c: pull(c)[0], torch.zeros_like(y))
    return push(u.expand_as(x))[0]
