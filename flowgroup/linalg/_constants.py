"""Small tables of numbers that are the same at every call: made once, on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode


def constant(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`make`, whose last argument is a device, with its results kept: making them takes longer than using them.

    Other devices, compilers and tensors that only pretend get a new one at every call.
    """

    @functools.lru_cache(maxsize=256)
    def kept(*key) -> Tensor:
        with torch.inference_mode(False):  # else autograd would refuse what was first made in inference
            return make(*key)

    @functools.wraps(make)
    def get(*key) -> Tensor:
        if torch.compiler.is_compiling() or key[-1].type != "cpu" or _get_current_dispatch_mode() is not None:
            return make(*key)
        return kept(*key)

    return get
