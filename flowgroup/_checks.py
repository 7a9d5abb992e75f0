"""Checks of arguments, in one place: what may be looked at when, and how an error reads."""

from __future__ import annotations

import torch
from torch import Tensor


def values_readable(x: Tensor) -> bool:
    """Whether the values of `x` may steer Python: not while compiling, not inside vmap, grad or jvp."""
    functorch = torch._C._functorch
    return not (
        torch.compiler.is_compiling()
        or x.is_meta
        or functorch.is_functorch_wrapped_tensor(x)
        or functorch.is_legacy_batchedtensor(x)  # by is_grads_batched of torch.autograd.grad
    )


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


def check_rows(name: str, x: Tensor, event_shape: tuple[int, ...]) -> None:
    """Raise unless `x` is (rows, *event_shape), with a row at least."""
    check_event_shape(name, x, event_shape)
    if x.dim() != len(event_shape) + 1 or len(x) == 0:
        raise ValueError(f"{name} must be rows (n, *{tuple(event_shape)}), n > 0, got shape {tuple(x.shape)}")


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
            manifold = getattr(constraint, "manifold", None)
            why = None if manifold is None else manifold.why_not(x)
            why = why or f"{(~ok).sum().item()} of {ok.numel()} points do not"
            raise ValueError(f"{name} must lie in {describe(constraint)}, but {why}")


def check_square(name: str, x: Tensor) -> None:
    """Raise unless `x` holds square matrices (..., n, n); no look at values."""
    check_event_shape(name, x, (None, None))
    if x.shape[-2] != x.shape[-1]:
        raise ValueError(f"{name} must hold square matrices (..., n, n), got shape {tuple(x.shape)}")


def check_symmetric(name: str, x: Tensor) -> None:
    """Raise unless `x` holds symmetric matrices: |x − xᵀ| ≤ √ε·|x| in the largest entries, where values may be read."""
    check_square(name, x)
    if not values_readable(x) or x.numel() == 0:
        return
    x = x.detach()
    skew, size = ((a.abs()).amax((-2, -1)) for a in (x - x.mT, x))
    bad = ~(skew <= torch.finfo(x.dtype).eps ** 0.5 * size)  # so written, NaN and infinity are bad as well
    if bad.any():
        index = tuple(bad.nonzero()[0].tolist())
        if not x[index].isfinite().all():
            why = "holds NaN or infinite values"
        else:
            why = f"differs from its transpose by {skew[index].item():.3g}, with entries up to {size[index].item():.3g}"
        raise ValueError(f"{name} must hold symmetric matrices, but {_which(bad, index)} {why}")


def check_spd(name: str, x: Tensor) -> None:
    """Raise unless `x` holds symmetric positive-definite matrices, where values may be read."""
    check_symmetric(name, x)
    if not values_readable(x) or x.numel() == 0:
        return
    x = _at_least_float32(x.detach())
    bad = torch.linalg.cholesky_ex(x).info != 0
    if bad.any():
        # Cholesky may fail for the roundings of a matrix that is only just positive definite
        w = torch.linalg.eigvalsh(x)
        bad = bad & ~(w[..., 0] > 0)
    if bad.any():
        index = tuple(bad.nonzero()[0].tolist())
        low, high = w[index][0].item(), w[index][-1].item()
        raise ValueError(
            f"{name} must hold positive-definite matrices, but {_which(bad, index)} "
            f"has smallest eigenvalue {low:.3g} (largest {high:.3g})"
        )


def _which(bad: Tensor, index: tuple[int, ...]) -> str:
    """The start of a sentence on the first of the bad matrices of a batch."""
    return f"{bad.sum().item()} of {bad.numel()} are not: the first, at index {index}," if index else "this one"


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def describe(constraint) -> str:
    """A constraint in words, for error messages."""
    text = str(constraint)
    return text if text else type(constraint).__name__


def positive_integer(name: str, value: int) -> int:
    """`value`, unless it is no positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return value
