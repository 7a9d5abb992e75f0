"""Couplings of the positions and rotations of many rigid bodies, in open space or in a periodic box."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowgroup.bijections import (
    Affine,
    AxisMoebius,
    AxisSpline,
    Bijection,
    Chain,
    CircularShift,
    Moebius,
    ProjectiveLinear,
    RationalQuadraticSpline,
)
from flowgroup.flows.coupling import coupling_mask
from flowgroup.flows.pose_coordinates import PoseCoordinates, columns
from flowgroup.flows.sphere import circle_map
from flowgroup.flows.transform import Transform
from flowgroup.linalg import permute
from flowgroup.manifolds import RigidBodies, Sphere, constraints
from flowgroup.nn.attention import BodyAttention
from flowgroup.nn.mlp import start_near_

# of each kind of coupling, whether it moves a body's coordinates x, y, z and its rotation
MOVED = {
    "positions": (True, True, True, False),
    "x": (True, False, False, False),
    "y": (False, True, False, False),
    "z": (False, False, True, False),
    "rotations": (False, False, False, True),
    "turns": (False, False, False, True),
}


class RigidCoupling(Transform):
    """yᵢ = f(xᵢ; net(what stays, c)) for the positions, or for the rotations, of some or all of N rigid bodies.

    What stays is all else: the positions when rotations move, the rotations when positions do, the other two
    coordinates when one moves, and all of the bodies outside the mask. "turns" are about an axis, by angles that depend
    on the directions of the axis as the bodies see it, which stay as well. So positions depend on positions and
    rotations on rotations also among bodies that all move.

    The network is attention among bodies. It sees products of two entries of quaternions, so it is even in each; moved
    quaternions go through odd maps of S³, f(−q) = −f(q); positions in a box are seen by the cos and sin of their angles
    2πx/L and moved on these circles. So the map is one of rotations and of the box, and with an even base densities are
    p(q) = p(−q).

    The sites of a crystal float: displacements from them are counted from their mean (on the circle, in a box) over
    what stays, and the map is equivariant under moving all bodies alike. It is smooth but where that mean is not
    defined, which crystals are far from.

    Args:
        bodies: N.
        moved: "positions", one coordinate "x", "y" or "z" of them, "rotations", or "turns".
        box: edges (3,) of the periodic box in nm; None for open space.
        mask: which bodies move, a boolean tensor (N,) or a name as in `Coupling`; None for all of them, of which the
            network then sees the other part of the pose.
        bijection: f, of one coordinate as an angle (without a box as a number in nm, with sites in units of `spread`)
            for positions, of unit quaternions for rotations, an `AxisSpline` or `AxisMoebius` for turns.
        sites: poses (N, 7) that positions and rotations are counted from, for crystals.
        floating: whether sites move along with the crystal as a whole; if not, they are fixed in space.
        spread: typical displacement in nm from sites, and turn in radians, the units in which the network sees them.
        exchangeable: whether bodies are identical, and the map equivariant under exchange of them; if not, the network
            knows them apart.
        context: size of the context c, 0 for none.
        width, heads, blocks: of the network, see `flowgroup.nn.BodyAttention`.

    Raises:
        TypeError, ValueError: a bijection that does not fit, exchangeable bodies with sites or a mask, floating sites
            where no positions stay, turns with a mask.

    Source: Rigid Body Flows for Sampling Molecular Crystal Structures, 2023, arXiv 2301.11355; for one coordinate at a
        time, Targeted Free Energy Estimation via Learned Mappings, 2020, arXiv 2002.04913.

    Example:
        >>> from flowgroup import flows
        >>> t = RigidCoupling(4, "rotations", box=(1.0, 1.0, 1.0), width=16)
        >>> y, logdet = t(flows.FreeBodies(4, box=(1.0, 1.0, 1.0)).distribution().sample((5,)))
        >>> y.shape, logdet.shape
        (torch.Size([5, 4, 7]), torch.Size([5]))
    """

    def __init__(
        self,
        bodies: int,
        moved: str,
        box: Sequence[float] | None = None,
        mask: str | Tensor | Sequence[bool] | None = None,
        bijection: Bijection | None = None,
        sites: Tensor | None = None,
        floating: bool = True,
        spread: tuple[float, float] = (0.03, 0.15),
        exchangeable: bool = False,
        context: int = 0,
        width: int = 64,
        heads: int = 4,
        blocks: int = 2,
    ):
        super().__init__()
        if moved not in MOVED:
            raise ValueError(f"moved must be one of {sorted(MOVED)}, got {moved!r}")
        if exchangeable and not (sites is None and mask is None):
            raise ValueError("exchangeable bodies have no sites and no mask: both tell them apart")
        if moved == "turns" and mask is not None:
            raise ValueError("mask must be None for turns: those of all bodies are made together")
        self.manifold = RigidBodies(bodies, box)
        self.domain = self.codomain = self.manifold.constraint
        self.in_shape = self.out_shape = (bodies, 7)
        self.context_features = context
        self.moved = moved

        which = torch.ones(bodies, dtype=torch.bool) if mask is None else coupling_mask(mask, bodies)
        order = torch.cat(((~which).nonzero().flatten(), which.nonzero().flatten()))
        self._count = int(which.sum())
        self.register_buffer("_order", order, persistent=False)
        self.register_buffer("_restore", order.argsort(), persistent=False)
        moves = torch.tensor(MOVED[moved]).to(which.device)
        self._axes = moves[:3].nonzero().flatten().tolist()  # those that move
        self.poses = PoseCoordinates(self.manifold, ~(which.unsqueeze(-1) & moves), sites, floating, spread)

        self.bijection = self._checked_bijection(bijection)
        initial, features = self.bijection.initial_params(), self.poses.features
        if moved == "turns":
            self.frame = nn.Parameter(F.normalize(torch.randn(4), dim=-1))
            initial, features = initial[4:], features + 3
        elif self._axes:
            initial = initial.expand(len(self._axes), -1).flatten()
        apart = None if exchangeable else bodies
        self.net = BodyAttention(features, len(initial), apart, width, heads, blocks, context)
        self.register_buffer("_initial", initial, persistent=False)
        # near sites a little is much
        self._scale, gain = (1.0, 0.1) if sites is None else (spread[1], 0.01)
        start_near_(self.net.output, torch.zeros(1), gain)

    def _checked_bijection(self, bijection: Bijection | None) -> Bijection:
        box = self.manifold.box
        if bijection is None:
            return _default_bijection(self.moved, box, self.poses.sites)
        if not isinstance(bijection, Bijection):
            raise TypeError(f"bijection must be a flowgroup.bijections.Bijection, got {bijection!r}")
        if self.moved == "turns" and not isinstance(bijection, AxisSpline | AxisMoebius):
            raise ValueError(f"bijection must be an AxisSpline or an AxisMoebius for turns, got {bijection!r}")
        if MOVED[self.moved][3]:
            wanted = Sphere(3).constraint
        else:
            wanted = constraints.real if box is None else constraints.Circle()
        for space in (bijection.domain, bijection.codomain):
            if repr(space) != repr(wanted):
                raise ValueError(f"bijection must map {wanted!r} to itself to move {self.moved}, got {space!r}")
        return bijection

    def _params(self, seen: Tensor, context: Tensor | None) -> Tensor:
        return self._initial + self._scale * self.net(seen, context)

    def _couple(self, x: Tensor, context: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        positions, q, mean = self.poses(x)
        seen = self.poses.seen(positions, q)
        if self.moved == "turns":
            q, logdet = self.bijection.couple(
                q, self.frame, lambda axis: self._params(torch.cat((seen, axis), -1), context), inverse
            )
            return self.poses.with_rotations(x, q), logdet.sum(-1)
        params = self._params(seen, context)
        sizes = (self.in_shape[0] - self._count, self._count)
        part = positions if self._axes else q
        params, part = (permute(a, self._order, self._restore, -2) for a in (params, part))
        still, part = part.split(sizes, -2)
        part, logdet = self._moved(part, params[..., sizes[0] :, :], inverse)
        part = permute(torch.cat((still, part), -2), self._restore, self._order, -2)
        y = self.poses.with_positions(x, part, mean) if self._axes else self.poses.with_rotations(x, part)
        return y, logdet.flatten(x.dim() - 2).sum(-1)

    def _moved(self, part: Tensor, params: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Positions, along the axes that move, or quaternions through the bijection."""
        f = self.bijection.inverse if inverse else self.bijection.forward
        if not self._axes:
            return f(part, params)
        moved, logdet = f(columns(part, self._axes), params.unflatten(-1, (len(self._axes), -1)))
        entries = list(part.unbind(-1))
        for axis, column in zip(self._axes, moved.unbind(-1)):
            entries[axis] = column
        return torch.stack(entries, -1), logdet

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._couple(self._checked("x", x, context), context, inverse=False)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._couple(self._checked("y", y, context, inverse=True), context, inverse=True)

    def extra_repr(self) -> str:
        which = sorted(self._order[self.in_shape[0] - self._count :].tolist())
        return f"{self.manifold}, {self.moved} of {which} by {self.bijection}, context={self.context_features}"


def _default_bijection(moved: str, box: Sequence[float] | None, sites: Tensor | None, bins: int = 8) -> Bijection:
    if moved == "turns":
        return AxisSpline(bins)
    if moved == "rotations":
        return ProjectiveLinear(3)
    if box is None:
        return Chain(RationalQuadraticSpline(bins), Affine())
    # near sites a Möbius map is nearly affine
    return circle_map("spline", bins) if sites is None else Chain(Moebius(), CircularShift())
