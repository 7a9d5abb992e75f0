"""Checks of arguments, in one place: what may be looked at when, and how an error reads."""

from __future__ import annotations

import torch
from torch import Tensor


def values_readable(x: Tensor) -> bool:
    """Whether the values of `x` may steer Python: not while compiling, not inside vmap, grad or jvp."""
    return not (torch.compiler.is_compiling() or x.is_meta or torch._C._functorch.is_functorch_wrapped_tensor(x))


def check_event_shape(name: str, x: Tensor, event_shape: tuple[int | None, ...]) -> None:
    """Raise unless the last dimensions of `x` are `event_shape` (None fits any size)."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    n = len(event_shape)
    got = tuple(x.shape[x.dim() - n :]) if x.dim() >= n else None
    if got is None or any(e is not None and e != g for e, g in zip(event_shape, got)):
        expected = ", ".join("any" if e is None else str(e) for e in event_shape)
        raise ValueError(f"{name} must have shape (..., {expected}), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must be of a floating-point dtype, got {x.dtype}")


def check_context(context: Tensor | None, features: int) -> None:
    """Raise unless a context is there exactly when one is expected, with `features` entries."""
    if features == 0 and context is not None:
        raise ValueError("context was given, but this flow or transform was built without one (context=0)")
    if features > 0:
        if context is None:
            raise ValueError(f"context is missing: expected a tensor of shape (..., {features})")
        check_event_shape("context", context, (features,))


def check_finite(name: str, x: Tensor) -> None:
    """Raise when `x` holds NaN or infinity and its values may be read."""
    if values_readable(x) and not torch.isfinite(x).all():
        bad = (~torch.isfinite(x)).sum().item()
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite of {x.numel()} values")


def check_constraint(name: str, x: Tensor, constraint) -> None:
    """Raise when `x` lies outside the torch.distributions `constraint` and its values may be read."""
    if values_readable(x):
        ok = constraint.check(x)
        if not ok.all():
            bad = (~ok).sum().item()
            raise ValueError(f"{name} must lie in {describe(constraint)}, but {bad} of {ok.numel()} points do not")


def describe(constraint) -> str:
    """A constraint in words, for error messages."""
    text = str(constraint)
    return text if text else type(constraint).__name__


def positive_integer(name: str, value: int) -> int:
    """`value`, unless it is no positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return value
