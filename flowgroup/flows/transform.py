"""Trainable invertible transforms: the contract, its inverse and its composition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from flowgroup._checks import check_constraint, check_context, check_event_shape
from flowgroup.manifolds import constraints


class Transform(nn.Module):
    """y, logdet = t(x, context) and x, logdet = t.inverse(y, context); `logdet` has the batch shape.

    Attributes:
        in_shape, out_shape: event shapes of x and y; None stands for any size.
        domain, codomain: where the entries of x and y live, as constraints.
        context_features: size of the context, 0 for none.
        validate_args: whether values are checked against the domain where that costs a look at them.
    """

    in_shape: tuple[int | None, ...]
    out_shape: tuple[int | None, ...]
    domain: Constraint = constraints.real
    codomain: Constraint = constraints.real
    context_features: int = 0
    validate_args: bool = True

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    @property
    def inv(self) -> Inverse:
        """The same transform in the other direction, sharing its parameters."""
        return Inverse(self)

    def _check_shapes(self, name: str, x: Tensor, context: Tensor | None, inverse: bool = False) -> None:
        """Raise unless `x` and the context have the right shapes, and their batch shapes broadcast."""
        shape = self.out_shape if inverse else self.in_shape
        check_event_shape(name, x, shape)
        check_context(context, self.context_features)
        if context is not None:
            broadcast_batch(name, x.shape[: x.dim() - len(shape)], context.shape[:-1])

    def _checked(self, name: str, x: Tensor, context: Tensor | None, inverse: bool = False) -> Tensor:
        """`x` expanded to the joint batch shape with the context, after checking both."""
        self._check_shapes(name, x, context, inverse)
        shape, domain = (self.out_shape, self.codomain) if inverse else (self.in_shape, self.domain)
        if self.validate_args and not isinstance(domain, type(constraints.real)):
            check_constraint(name, x, domain)
        if context is None:
            return x
        n = x.dim() - len(shape)
        batch = torch.broadcast_shapes(x.shape[:n], context.shape[:-1])
        return x.expand(batch + x.shape[n:])


def broadcast_batch(name: str, batch: torch.Size, context_batch: torch.Size) -> torch.Size:
    """The joint batch shape of an argument and its context."""
    try:
        return torch.broadcast_shapes(batch, context_batch)
    except RuntimeError:
        raise ValueError(
            f"batch shapes of {name} and context must broadcast, got {tuple(batch)} and {tuple(context_batch)}"
        ) from None


def joint_context(name: str, transforms: Sequence[Transform]) -> int:
    """The size of the one context that all transforms with a context take; 0 where none has one."""
    sizes = {t.context_features for t in transforms} - {0}
    if len(sizes) > 1:
        raise ValueError(f"{name} must agree on the size of the context, got {sorted(sizes)}")
    return sizes.pop() if sizes else 0


class Inverse(Transform):
    """A transform with its two directions swapped.

    Example:
        >>> from flowgroup import flows
        >>> t = flows.Elementwise(flows.Affine(), features=2)
        >>> x = torch.randn(5, 2)
        >>> torch.allclose(t.inv(t(x)[0])[0], x, atol=1e-6)
        True
    """

    def __init__(self, transform: Transform):
        super().__init__()
        self.transform = transform
        self.in_shape, self.out_shape = transform.out_shape, transform.in_shape
        self.domain, self.codomain = transform.codomain, transform.domain
        self.context_features = transform.context_features

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.transform.inverse(self._checked("x", x, context), context)  # which would call it y

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._check_shapes("y", y, context, inverse=True)
        return self.transform(y, context)

    @property
    def inv(self) -> Transform:
        return self.transform


class Sequential(Transform):
    """y = tₙ(…t₂(t₁(x))); log-determinants add up.

    Args:
        transforms: applied first to last. Those built with a context all get the same one.

    Raises:
        TypeError, ValueError: what is no transform; event shapes, spaces or context sizes that do not fit.

    Example:
        >>> from flowgroup import flows
        >>> t = flows.Sequential(flows.ActNorm(3), flows.LULinear(3))
        >>> y, logdet = t(torch.randn(8, 3))
        >>> y.shape, logdet.shape
        (torch.Size([8, 3]), torch.Size([8]))
    """

    def __init__(self, *transforms: Transform):
        super().__init__()
        if not transforms:
            raise ValueError("Sequential needs at least one transform")
        for i, t in enumerate(transforms):
            if not isinstance(t, Transform):
                raise TypeError(f"transform {i} must be a flowgroup.flows.Transform, got {t!r}")
        for i, (a, b) in enumerate(zip(transforms, transforms[1:])):
            fits = len(a.out_shape) == len(b.in_shape) and all(
                m is None or n is None or m == n for m, n in zip(a.out_shape, b.in_shape)
            )
            if not fits:
                raise ValueError(
                    f"transform {i} gives events of shape {a.out_shape}, but transform {i + 1} takes {b.in_shape}"
                )
            if not constraints.joins(a.codomain, b.domain):
                raise ValueError(
                    f"transform {i} gives values in {a.codomain!r}, but transform {i + 1} takes {b.domain!r}"
                )
        self.transforms = nn.ModuleList(transforms)
        self.context_features = joint_context("transforms", transforms)
        self.in_shape, self.out_shape = transforms[0].in_shape, transforms[-1].out_shape
        self.domain, self.codomain = transforms[0].domain, transforms[-1].codomain

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._check_shapes("x", x, context)  # before a transform that starts from its first batch sees it
        total: Tensor | float = 0.0
        for t in self.transforms:
            x, logdet = t(x, context if t.context_features else None)
            total = total + logdet
        return x, total

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._check_shapes("y", y, context, inverse=True)
        total: Tensor | float = 0.0
        for t in list(self.transforms)[::-1]:  # torch.compile loses its place in reversed() of modules at a while_loop
            y, logdet = t.inverse(y, context if t.context_features else None)
            total = total + logdet
        return y, total

    def __len__(self) -> int:
        return len(self.transforms)

    def __getitem__(self, i: int) -> Transform:
        return self.transforms[i]
