"""Linear transforms that mix features: triangular, orthogonal and permutations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from flowgroup import bijections
from flowgroup.flows.elementwise import Elementwise
from flowgroup.flows.transform import Transform
from flowgroup.linalg import permute
from flowgroup.manifolds import constraints


def LULinear(  # noqa: N802
    features: int, context: int = 0, hidden_features: Sequence[int] = (64, 64), bias: bool = True
) -> Elementwise:
    """y = L U x + b, starting as the identity; see `flowgroup.bijections.LULinear`.

    Args:
        features: size of x.
        context: size of the context; when positive, L, U and b are computed from it by an MLP.
        hidden_features: widths of that MLP.
        bias: whether there is a b.

    Example:
        >>> y, logdet = LULinear(3)(torch.ones(3))
        >>> y, logdet
        (tensor([1., 1., 1.], grad_fn=<AddBackward0>), tensor(0., grad_fn=<ExpandBackward0>))
    """
    return Elementwise(bijections.LULinear(features, bias), features, context, hidden_features)


def QRLinear(  # noqa: N802
    features: int, context: int = 0, hidden_features: Sequence[int] = (64, 64), bias: bool = True
) -> Elementwise:
    """y = Q R x + b, starting as the identity; see `flowgroup.bijections.QRLinear`.

    Args:
        features: size of x.
        context: size of the context; when positive, Q, R and b are computed from it by an MLP.
        hidden_features: widths of that MLP.
        bias: whether there is a b.

    Example:
        >>> QRLinear(3)(torch.ones(5, 3))[1].shape
        torch.Size([5])
    """
    return Elementwise(bijections.QRLinear(features, bias), features, context, hidden_features)


def HouseholderLinear(  # noqa: N802
    features: int, reflections: int | None = None, context: int = 0, hidden_features: Sequence[int] = (64, 64)
) -> Elementwise:
    """y = H₁…H_k x, reflections; see `flowgroup.bijections.HouseholderLinear`.

    Args:
        features: size of x.
        reflections: how many; by default an even number that reaches every rotation.
        context: size of the context; when positive, the reflections are computed from it by an MLP.
        hidden_features: widths of that MLP.

    Example:
        >>> HouseholderLinear(3)(torch.ones(5, 3))[1].shape
        torch.Size([5])
    """
    return Elementwise(bijections.HouseholderLinear(features, reflections), features, context, hidden_features)


def GivensLinear(features: int, context: int = 0, hidden_features: Sequence[int] = (64, 64)) -> Elementwise:  # noqa: N802
    """y = Q x, Q a product of rotations of two coordinates each; see `flowgroup.bijections.GivensLinear`.

    Args:
        features: size of x.
        context: size of the context; when positive, the angles are computed from it by an MLP.
        hidden_features: widths of that MLP.

    Example:
        >>> GivensLinear(3)(torch.ones(5, 3))[1].shape
        torch.Size([5])
    """
    return Elementwise(bijections.GivensLinear(features), features, context, hidden_features)


class Permutation(Transform):
    """yᵢ = x[orderᵢ].

    Args:
        features: size of x.
        order: "reverse", "random" (drawn now, kept in the state dict), or a permutation (features,) of 0, 1, ….
        domain: where the entries of x live.

    Raises:
        ValueError: when `order` is neither.

    Example:
        >>> Permutation(3)(torch.tensor([1.0, 2.0, 3.0]))
        (tensor([3., 2., 1.]), tensor(0.))
    """

    def __init__(
        self,
        features: int,
        order: str | Tensor | Sequence[int] = "reverse",
        domain: Constraint = constraints.real,
    ):
        super().__init__()
        self.domain = self.codomain = domain
        self.in_shape = self.out_shape = (features,)
        if order == "reverse":
            order = range(features - 1, -1, -1)
        elif order == "random":
            order = torch.randperm(features)
        elif isinstance(order, str):
            raise ValueError(f"order must be 'reverse', 'random' or a permutation, got {order!r}")
        order = order.detach().cpu() if isinstance(order, Tensor) else torch.tensor(list(order))
        if order.shape != (features,) or not torch.equal(order.sort().values, torch.arange(features)):
            raise ValueError(f"order must be a permutation of 0, …, {features - 1}, got {order.tolist()}")
        self.register_buffer("order", order)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self._checked("x", x, context)
        return permute(x, self.order, self.order.argsort()), x.new_zeros(x.shape[:-1])

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self._checked("y", y, context, inverse=True)
        return permute(y, self.order.argsort(), self.order), y.new_zeros(y.shape[:-1])

    def extra_repr(self) -> str:
        return f"{self.order.tolist()}"
