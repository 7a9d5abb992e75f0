"""Layers whose arithmetic needs float32 at least."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor


def full_precision(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A `forward(self, x, …)` that works in float32 at least: half precisions are widened, autocast is off.

    Example:
        >>> class Doubled(torch.nn.Module):
        ...     @full_precision
        ...     def forward(self, x):
        ...         return x + x
        >>> Doubled()(torch.ones(2, dtype=torch.bfloat16)).dtype
        torch.float32
    """

    @functools.wraps(forward)
    def wide(self, x: Tensor, *args, **kwargs) -> Tensor:
        if not isinstance(x, Tensor):
            return forward(self, x, *args, **kwargs)  # which says what is wrong with it
        if x.dtype in (torch.float16, torch.bfloat16):
            x = x.float()
        if x.is_meta:
            return forward(self, x, *args, **kwargs)  # shapes alone; autocast does not know that device
        with torch.autocast(x.device.type, enabled=False):
            return forward(self, x, *args, **kwargs)

    return wide
