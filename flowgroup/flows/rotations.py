"""Flows on rotations of space: unit quaternions q with densities p(q) = p(−q), by odd maps on the double cover."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowgroup._checks import positive_integer
from flowgroup.bijections import AxisMoebius, AxisSpline
from flowgroup.flows.bases import Base, SphereUniform
from flowgroup.flows.flow import Flow
from flowgroup.flows.transform import Sequential, Transform
from flowgroup.nn.mlp import MLP, start_near_


class AxisCoupling(Transform):
    """y = f(x; p, net(u, c)): a turn of the rotation x about the axis n of the frame p, u = R(x)⁻¹n.

    Rotations with one u differ by turns about n, so u stays as it is while f moves the third degree of freedom. The
    network sees u by its products up to degree 3; all is even in x, and f(−x) = −f(x).

    Args:
        bijection: f, an `AxisMoebius` or `AxisSpline`.
        context: size of the context c, 0 for none.
        hidden_features: widths of the network, an MLP.
        frame: a quaternion (4,) for p to start from; by default the identity, whose axis is z.

    Example:
        >>> from flowgroup import flows
        >>> t = AxisCoupling(flows.AxisMoebius(components=4))
        >>> y, logdet = t(torch.nn.functional.normalize(torch.randn(5, 4), dim=-1))
    """

    in_shape = out_shape = (4,)

    def __init__(
        self,
        bijection: AxisMoebius | AxisSpline,
        context: int = 0,
        hidden_features: Sequence[int] = (64, 64),
        frame: Sequence[float] = (1.0, 0.0, 0.0, 0.0),
    ):
        super().__init__()
        if not isinstance(bijection, AxisMoebius | AxisSpline):
            raise TypeError(f"bijection must be an AxisMoebius or AxisSpline, got {bijection!r}")
        self.bijection = bijection
        self.domain, self.codomain = bijection.domain, bijection.codomain
        self.context_features = context
        initial = bijection.initial_params()
        self.frame = nn.Parameter(torch.tensor(frame))
        self.net = MLP(39, len(initial) - 4, hidden_features, context, F.silu)
        start_near_(self.net.output, initial[4:])

    def _couple(self, x: Tensor, context: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        def own(direction: Tensor) -> Tensor:
            seen = tensor_powers(3**0.5 * direction)
            return self.net(seen) if context is None else self.net(seen, context)

        return self.bijection.couple(x, self.frame, own, inverse)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._couple(self._checked("x", x, context), context, inverse=False)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._couple(self._checked("y", y, context, inverse=True), context, inverse=True)

    def extra_repr(self) -> str:
        return f"{self.bijection}, context={self.context_features}"


def tensor_powers(u: Tensor) -> Tensor:
    """u, u ⊗ u and u ⊗ u ⊗ u side by side: all polynomials of degree 1 to 3, with weights that favour no direction.

    Args:
        u: vectors (..., 3).

    Returns:
        Values (..., 39).

    Example:
        >>> tensor_powers(torch.tensor([0.0, 0.0, 2.0]))[..., [2, 11, 38]]
        tensor([2., 4., 8.])
    """
    squares = (u.unsqueeze(-1) * u.unsqueeze(-2)).flatten(-2)
    return torch.cat((u, squares, (squares.unsqueeze(-1) * u.unsqueeze(-2)).flatten(-2)), -1)


def RotationFlow(  # noqa: N802  (named like the classes of the parts it is made of)
    context: int = 0,
    transforms: int = 8,
    components: int = 16,
    hidden_features: Sequence[int] = (32, 32),
    circle: str = "moebius",
    base: Base | None = None,
) -> Flow:
    """Turns about three axes of space in turn, each by the direction of its axis in the body: densities on rotations.

    Events are unit quaternions (4,), q and −q being one rotation with one density, on a sphere of volume 2π². Add
    log 2π² for a density with respect to the invariant probability measure on rotations.

    Sampling is quick: a formula with circle="moebius", where densities of given rotations take a bisection; both
    directions are formulas with "spline".

    Args:
        context: size of the context, 0 for none.
        transforms: number of turns.
        components: components of each Möbius mixture, or bins of each spline.
        hidden_features: widths of the networks.
        circle: map of the angle about an axis, "moebius" or "spline".
        base: an even base distribution on unit quaternions; the uniform one by default.

    Example:
        >>> flow = RotationFlow(transforms=2)
        >>> q = torch.nn.functional.normalize(torch.randn(5, 4), dim=-1)
        >>> torch.allclose(flow.log_prob(q), flow.log_prob(-q), atol=1e-4)
        True
    """
    maps = {"moebius": AxisMoebius, "spline": AxisSpline}
    if circle not in maps:
        raise ValueError(f"circle must be one of {sorted(maps)}, got {circle!r}")
    # the axis is z, x, y, z, …: a third of a turn about (1, 1, 1) takes one to the next
    frames = ((1.0, 0.0, 0.0, 0.0), (0.5, 0.5, 0.5, 0.5), (-0.5, 0.5, 0.5, 0.5))
    layers = [
        AxisCoupling(maps[circle](components), context, hidden_features, frames[i % 3]).inv
        for i in range(positive_integer("transforms", transforms))
    ]
    return Flow(Sequential(*layers), SphereUniform(3) if base is None else base)
