"""The base of our functions with gradients of their own."""

from __future__ import annotations

import inspect

import torch


class Function(torch.autograd.Function):
    """torch.autograd.Function with a rule for vmap, and quick to call.

    `apply` looks up the signature of `forward` at each call, which costs more than the arithmetic of small matrices;
    here it is there already.
    """

    generate_vmap_rule = True

    def __init_subclass__(cls):
        super().__init_subclass__()
        cls.forward.__signature__ = inspect.signature(cls.forward)
