"""Flows on the poses of many rigid bodies, in open space or in a periodic box."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flowgroup._checks import check_constraint, check_event_shape, positive_integer
from flowgroup.bijections import Affine, Bijection, Chain, ProjectiveLinear, RationalQuadraticSpline
from flowgroup.flows.bases import Base, FreeBodies
from flowgroup.flows.coupling import coupling_mask
from flowgroup.flows.flow import Flow
from flowgroup.flows.sphere import circle_map
from flowgroup.flows.transform import Sequential, Transform
from flowgroup.groups import UnitQuaternions, quaternion_to_matrix
from flowgroup.linalg import permute
from flowgroup.manifolds import RigidBodies, Sphere, constraints
from flowgroup.nn.attention import BodyAttention
from flowgroup.nn.mlp import periodic, start_near_

MOVED = ("positions", "rotations")
HARMONICS = 2
ROTATIONS = UnitQuaternions()


class RigidCoupling(Transform):
    """yᵢ = f(xᵢ; net(what stays, c)) for the positions, or for the rotations, of some or all of N rigid bodies.

    What stays is all else: the positions when rotations move, the rotations when positions do, and both of the bodies
    outside the mask. The network is attention among bodies. It sees rotation matrices, so all is even in every
    quaternion it reads; moved quaternions go through odd maps of S³, f(−q) = −f(q); positions in a box are seen by the
    cos and sin of their angles 2πx/L and moved on these circles. So the map is one of rotations and of the box, and
    with an even base densities are p(q) = p(−q).

    Args:
        bodies: N.
        moved: "positions" or "rotations".
        box: edges (3,) of the periodic box in nm; None for open space.
        mask: which bodies move, a boolean tensor (N,) or a name as in `Coupling`; None for all of them, of which the
            network then sees the other half of the pose.
        bijection: f, of one coordinate as an angle (as a number in nm without a box) for positions, of unit quaternions
            for rotations.
        sites: poses (N, 7) that positions and rotations are counted from, for crystals.
        exchangeable: whether bodies are identical, and the map equivariant under exchange of them; if not, the network
            knows them apart.
        context: size of the context c, 0 for none.
        width, heads, blocks: of the network, see `flowgroup.nn.BodyAttention`.

    Raises:
        TypeError, ValueError: a bijection that does not fit, exchangeable bodies with sites or a mask.

    Source: Rigid Body Flows for Sampling Molecular Crystal Structures, 2023, arXiv 2301.11355.

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
        exchangeable: bool = False,
        context: int = 0,
        width: int = 64,
        heads: int = 4,
        blocks: int = 2,
    ):
        super().__init__()
        if moved not in MOVED:
            raise ValueError(f"moved must be one of {MOVED}, got {moved!r}")
        if exchangeable and not (sites is None and mask is None):
            raise ValueError("exchangeable bodies have no sites and no mask: both tell them apart")
        self.manifold = RigidBodies(bodies, box)
        self.domain = self.codomain = self.manifold.constraint
        self.in_shape = self.out_shape = (bodies, 7)
        self.context_features = context
        self.moved = moved
        self.bijection = self._checked_bijection(bijection)
        if sites is not None:
            check_event_shape("sites", sites, (bodies, 7))
            check_constraint("sites", sites, self.domain)
            sites = sites.detach().clone()
        self.register_buffer("sites", sites)

        which = torch.ones(bodies, dtype=torch.bool) if mask is None else coupling_mask(mask, bodies)
        order = torch.cat(((~which).nonzero().flatten(), which.nonzero().flatten()))
        self._count = int(which.sum())
        self.register_buffer("_order", order, persistent=False)
        self.register_buffer("_restore", order.argsort(), persistent=False)

        seen = {"positions": 3 if box is None else 6 * HARMONICS, "rotations": 9}
        features = seen["positions" if moved == "rotations" else "rotations"]
        features += 0 if self._count == bodies else seen[moved] + 1
        initial = self.bijection.initial_params()
        if moved == "positions":
            initial = initial.expand(3, -1).flatten()
        apart = None if exchangeable else bodies
        self.net = BodyAttention(features, len(initial), apart, width, heads, blocks, context)
        start_near_(self.net.output, initial)

    def _checked_bijection(self, bijection: Bijection | None) -> Bijection:
        if bijection is None:
            return _default_bijection(self.moved, self.manifold.box)
        if not isinstance(bijection, Bijection):
            raise TypeError(f"bijection must be a flowgroup.bijections.Bijection, got {bijection!r}")
        if self.moved == "rotations":
            wanted = Sphere(3).constraint
        else:
            wanted = constraints.real if self.manifold.box is None else constraints.Circle()
        for space in (bijection.domain, bijection.codomain):
            if repr(space) != repr(wanted):
                raise ValueError(f"bijection must map {wanted!r} to itself to move {self.moved}, got {space!r}")
        return bijection

    @property
    def _orientations(self) -> Tensor:
        """Those of the sites, unit quaternions also after a change of dtype."""
        return F.normalize(self.sites[:, 3:], dim=-1)

    def _features(self, positions: Tensor, q: Tensor) -> Tensor:
        """What the network sees of the bodies (..., N, features)."""
        if self.manifold.box is None:
            where = positions
        else:
            k = torch.arange(1, HARMONICS + 1, dtype=positions.dtype, device=positions.device)
            where = periodic((positions.unsqueeze(-1) * k).flatten(-2))
        turned = quaternion_to_matrix(q).flatten(-2)
        moved, other = (where, turned) if self.moved == "positions" else (turned, where)
        if self._count == self.in_shape[0]:
            return other
        stays = (self._restore < self.in_shape[0] - self._count).to(q.dtype).unsqueeze(-1)
        return torch.cat((other, moved * stays, stays.expand(*moved.shape[:-1], 1)), -1)

    def _from_sites(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Positions, in a box as angles, and quaternions, both counted from the sites if there are any."""
        positions, q = x[..., :3], x[..., 3:]
        if self.sites is not None:
            positions = positions - self.sites[:, :3]
            q = ROTATIONS.left_divide(self._orientations, q)
        if self.manifold.box is not None:
            positions = positions * (2 * math.pi / positions.new_tensor(self.manifold.box))
        return positions, q

    def _couple(self, x: Tensor, context: Tensor | None, f) -> tuple[Tensor, Tensor]:
        positions, q = self._from_sites(x)
        params = self.net(self._features(positions, q), context)
        sizes = (self.in_shape[0] - self._count, self._count)
        part = positions if self.moved == "positions" else q
        params, part = (permute(a, self._order, self._restore, -2) for a in (params, part))
        still, part = part.split(sizes, -2)
        params = params[..., sizes[0] :, :]
        if self.moved == "positions":
            params = params.unflatten(-1, (3, -1))
        part, logdet = f(part, params)
        part = permute(torch.cat((still, part), -2), self._restore, self._order, -2)
        return self._with(x, part), logdet.flatten(x.dim() - 2).sum(-1)

    def _with(self, x: Tensor, part: Tensor) -> Tensor:
        """x with its positions, or its quaternions, in place of those counted from the sites."""
        if self.moved == "rotations":
            q = part if self.sites is None else ROTATIONS.compose(self._orientations, part)
            return torch.cat((x[..., :3], q), -1)
        if self.manifold.box is not None:
            part = part * (part.new_tensor(self.manifold.box) / (2 * math.pi))
        positions = part if self.sites is None else part + self.sites[:, :3]
        return torch.cat((positions, x[..., 3:]), -1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._couple(self._checked("x", x, context), context, self.bijection.forward)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._couple(self._checked("y", y, context, inverse=True), context, self.bijection.inverse)

    def extra_repr(self) -> str:
        which = sorted(self._order[self.in_shape[0] - self._count :].tolist())
        return f"{self.manifold}, {self.moved} of {which} by {self.bijection}, context={self.context_features}"


def _default_bijection(moved: str, box: Sequence[float] | None, bins: int = 8) -> Bijection:
    if moved == "rotations":
        return ProjectiveLinear(3)
    return Chain(RationalQuadraticSpline(bins), Affine()) if box is None else circle_map("spline", bins)


def RigidBodyFlow(  # noqa: N802  (named like the classes of the parts it is made of)
    bodies: int,
    box: Sequence[float] | None = None,
    transforms: int = 4,
    context: int = 0,
    sites: Tensor | None = None,
    exchangeable: bool = False,
    positions: Bijection | None = None,
    rotations: Bijection | None = None,
    width: int = 64,
    heads: int = 4,
    blocks: int = 2,
    base: Base | None = None,
) -> Flow:
    """Positions given rotations, rotations given positions, in turn, by attention: densities on poses of N bodies.

    Events are poses (N, 7): positions in nm, then unit quaternions, q and −q being one rotation with one density. Every
    transform moves positions, then rotations; bodies that are known apart move in two halves, every second one first,
    so that each half also sees the other's positions and rotations.

    Args:
        bodies: N.
        box: edges (3,) of the periodic box in nm; None for open space.
        transforms: number of rounds, of two couplings each for exchangeable bodies and of four else.
        context: size of the context, 0 for none.
        sites: poses (N, 7) that bodies stay near to, for crystals.
        exchangeable: whether the bodies are identical and the density the same for any order of them.
        positions: map of one coordinate, as an angle in a box; circular splines (in open space splines and an affine
            map) by default.
        rotations: odd map of unit quaternions; `ProjectiveLinear` by default.
        width, heads, blocks: of the networks, see `flowgroup.nn.BodyAttention`.
        base: distribution of the latent poses, even in every quaternion; `FreeBodies` by default.

    Raises:
        TypeError, ValueError: what `RigidCoupling` raises.

    Source: Rigid Body Flows for Sampling Molecular Crystal Structures, 2023, arXiv 2301.11355.

    Example:
        >>> flow = RigidBodyFlow(3, box=(1.0, 1.0, 1.0), transforms=1, exchangeable=True, width=16)
        >>> x = flow.sample((5,))
        >>> x.shape, torch.allclose(flow.log_prob(x), flow.log_prob(x.flip(-2)), atol=1e-4)
        (torch.Size([5, 3, 7]), True)
    """
    if positive_integer("bodies", bodies) == 1 or exchangeable:
        masks = [None]
    else:
        masks = ["checkerboard", "checkerboard-flipped"]
    layers = [
        RigidCoupling(
            bodies, moved, box, mask, bijection, sites, exchangeable, context, width=width, heads=heads, blocks=blocks
        )
        for _ in range(positive_integer("transforms", transforms))
        for mask in masks
        for moved, bijection in (("positions", positions), ("rotations", rotations))
    ]
    return Flow(Sequential(*layers), FreeBodies(bodies, box) if base is None else base)
