"""Parts of x one after the other, each under the parts before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowgroup.flows.transform import Transform
from flowgroup.manifolds import Product, constraints
from flowgroup.manifolds._space import space_of
from flowgroup.nn.mlp import periodic


class ChainRule(Transform):
    """(y₁, …, yₖ) = (t₁(x₁; c), t₂(x₂; x₁, c), …): under a base of independent parts, p(x) = p(x₁|c) p(x₂|x₁, c) ⋯.

    So what lives on different spaces goes into one flow: torsions on circles, say, and bonds on the line. As a context,
    angles are seen by their cos and sin, points of a manifold by their entries.

    Args:
        transforms: each takes, as its context, the part before it, the one before that, …, and last c.
        context: size of c, 0 for none.

    Raises:
        TypeError, ValueError: what is no transform of vectors to vectors of the same space, a context of another size.

    Example:
        >>> from flowgroup import flows
        >>> angles, numbers = flows.NCSF(2, transforms=2), flows.NSF(3, context=4, transforms=2)
        >>> t = ChainRule(angles.transform, numbers.transform)
        >>> flow = flows.Flow(t, flows.Product(angles.base, numbers.base))
        >>> flow.log_prob(flow.sample((7,))).shape
        torch.Size([7])
    """

    def __init__(self, *transforms: Transform, context: int = 0):
        super().__init__()
        if not transforms:
            raise ValueError("ChainRule needs at least one transform")
        self.transforms = nn.ModuleList(transforms)
        self.context_features = context
        seen, spaces, images = context, [], []
        for i, t in enumerate(transforms):
            if not isinstance(t, Transform):
                raise TypeError(f"transform {i} must be a flowgroup.flows.Transform, got {t!r}")
            if t.context_features != seen:
                raise ValueError(f"transform {i} must take a context of size {seen}, got {t.context_features}")
            spaces.append(space_of(f"transform {i}", t.in_shape, t.domain))
            images.append(space_of(f"transform {i}", t.out_shape, t.codomain))
            seen += spaces[-1].event_shape.numel() * (2 if isinstance(t.domain, constraints.Circle) else 1)
        self.space, self.image = Product(*spaces), Product(*images)
        self.domain, self.codomain = self.space.constraint, self.image.constraint
        self.in_shape, self.out_shape = tuple(self.space.event_shape), tuple(self.image.event_shape)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self._checked("x", x, context)
        done, ys, total = _start(x, context), [], 0.0
        for t, part in zip(self.transforms, self.space.split(x)):
            y, logdet = t(part, done)
            ys.append(y)
            total = total + logdet
            done = _joined(part, t.domain, done)
        return self.image.join(*ys), total

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self._checked("y", y, context, inverse=True)
        done, xs, total = _start(y, context), [], 0.0
        for t, part in zip(self.transforms, self.image.split(y)):
            x, logdet = t.inverse(part, done)
            xs.append(x)
            total = total + logdet
            done = _joined(x, t.domain, done)
        return self.space.join(*xs), total


def _start(x: Tensor, context: Tensor | None) -> Tensor | None:
    return None if context is None else context.expand(*x.shape[:-1], context.shape[-1])


def _joined(x: Tensor, where: constraints.Constraint, done: Tensor | None) -> Tensor:
    x = periodic(x) if isinstance(where, constraints.Circle) else x
    x = x.flatten(-where.event_dim) if where.event_dim > 1 else x
    return x if done is None else torch.cat((x, done), -1)
