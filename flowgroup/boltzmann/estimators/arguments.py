"""Checks that the estimators share."""

from __future__ import annotations

from torch import Tensor


def check_tensor(name: str, x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")


def vector(name: str, x: Tensor, n: int | None = None) -> Tensor:
    """x (n,), n > 0, in float64 without gradient."""
    check_tensor(name, x)
    if x.dim() != 1 or len(x) != (n or len(x)) or len(x) == 0:
        expected = "(n,), n > 0" if n is None else f"({n},)"
        raise ValueError(f"{name} must be a tensor of shape {expected}, got {tuple(x.shape)}")
    return x.detach().double()
