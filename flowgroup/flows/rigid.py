"""Flows on the poses of many rigid bodies, in open space or in a periodic box."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowgroup._checks import check_constraint, check_event_shape, positive_integer
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
from flowgroup.bijections.axis import SIDES
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

# of each kind of coupling, whether it moves a body's coordinates x, y, z and its rotation
MOVED = {
    "positions": (True, True, True, False),
    "x": (True, False, False, False),
    "y": (False, True, False, False),
    "z": (False, False, True, False),
    "rotations": (False, False, False, True),
    "turns": (False, False, False, True),
}
HARMONICS = 2
ROTATIONS = UnitQuaternions()


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
        if not all(0 < size < math.inf for size in spread):
            raise ValueError(f"spread must be two positive numbers, got {spread}")
        self.manifold = RigidBodies(bodies, box)
        self.domain = self.codomain = self.manifold.constraint
        self.in_shape = self.out_shape = (bodies, 7)
        self.context_features = context
        self.moved = moved
        self.spread = spread
        if sites is not None:
            check_event_shape("sites", sites, (bodies, 7))
            check_constraint("sites", sites, self.domain)
            sites = sites.detach().clone()
        self.register_buffer("sites", sites)
        self.bijection = self._checked_bijection(bijection)

        which = torch.ones(bodies, dtype=torch.bool) if mask is None else coupling_mask(mask, bodies)
        order = torch.cat(((~which).nonzero().flatten(), which.nonzero().flatten()))
        self._count = int(which.sum())
        self.register_buffer("_order", order, persistent=False)
        self.register_buffer("_restore", order.argsort(), persistent=False)
        moves = torch.tensor(MOVED[moved]).to(which.device)
        stays = ~(which.unsqueeze(-1) & moves)  # (N, 4): of each body, three coordinates and the rotation
        self.register_buffer("_stays", stays, persistent=False)
        self._axes = moves[:3].nonzero().flatten().tolist()  # those that move
        self._seen = stays[:, :3].any(0).nonzero().flatten().tolist()
        self.floating = floating and sites is not None
        if self.floating and len(self._seen) < 3:
            raise ValueError("floating sites need a mask where positions move: some positions must stay")

        each = 2 * HARMONICS if sites is None else 2
        features = len(self._seen) * (each if box is not None else 1) + (9 if stays[:, 3].any() else 0)
        features += 3 if moved == "turns" else int(self._count < bodies)
        initial = self.bijection.initial_params()
        if moved == "turns":
            self.frame = nn.Parameter(F.normalize(torch.randn(4), dim=-1))
            initial = initial[4:]
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
            return _default_bijection(self.moved, box, self.sites)
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

    @property
    def _orientations(self) -> Tensor:
        """Those of the sites, unit quaternions also after a change of dtype."""
        return F.normalize(self.sites[:, 3:], dim=-1)

    def _unit(self, like: Tensor) -> Tensor:
        """What positions are counted in, in nm: (3,)."""
        if self.manifold.box is not None:
            return like.new_tensor(self.manifold.box) / (2 * math.pi)
        return like.new_full((3,), 1.0 if self.sites is None else self.spread[0])

    def _features(self, positions: Tensor, q: Tensor) -> Tensor:
        """What the network sees of the bodies (..., N, features), but for the directions of axes."""
        positions = _columns(positions, self._seen)
        stays = self._stays.to(q.dtype)
        still = _columns(stays, self._seen).unsqueeze(-1)
        if self.manifold.box is None:
            where = positions.unsqueeze(-1)
        elif self.sites is None:
            k = torch.arange(1, HARMONICS + 1, dtype=positions.dtype, device=positions.device)
            where = periodic(positions.unsqueeze(-1) * k)
        else:  # about d and d²/2, in units of the spread
            unit = _columns(self._unit(positions), self._seen).unsqueeze(-1) / self.spread[0]
            half = (positions / 2).unsqueeze(-1)
            where = torch.cat((2 * half.sin() * half.cos() * unit, 2 * (half.sin() * unit).square()), -1)
        seen = [(where * still).flatten(-2)]
        if self.sites is None:
            turned = quaternion_to_matrix(q).flatten(-2)
        else:  # about the vector of the turn and products of its entries
            v = q[..., 1:] * (2 / self.spread[1])
            a, b, c = v.unbind(-1)
            products = torch.stack((a * a, a * b, a * c, b * b, b * c, c * c), -1)
            turned = torch.cat((q[..., :1] * v, products), -1)
        if self.moved not in ("rotations", "turns") or self._count < self.in_shape[0]:
            seen.append(turned * stays[:, 3:])
        if self._count < self.in_shape[0]:
            seen.append(stays.prod(-1, keepdim=True).expand(*q.shape[:-1], 1))
        return torch.cat(seen, -1)

    def _from_sites(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | float]:
        """Positions in their unit and quaternions, both counted from the sites if there are any, and their mean."""
        positions, q = x[..., :3], x[..., 3:]
        mean: Tensor | float = 0.0
        if self.sites is not None:
            positions = positions - self.sites[:, :3]
            q = ROTATIONS.left_divide(self._orientations, q)
        positions = positions / self._unit(x)
        if self.floating:
            stays = self._stays[:, :3].to(x.dtype)
            if self.manifold.box is None:
                mean = (positions * stays).sum(-2, keepdim=True) / stays.sum(0)
            else:
                sin, cos = ((a * stays).sum(-2, keepdim=True) for a in (positions.sin(), positions.cos()))
                mean = torch.atan2(sin, cos)
        return positions - mean, q, mean

    def _params(self, seen: Tensor, context: Tensor | None) -> Tensor:
        return self._initial + self._scale * self.net(seen, context)

    def _couple(self, x: Tensor, context: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        positions, q, mean = self._from_sites(x)
        seen = self._features(positions, q)
        if self.moved == "turns":
            q, logdet = self.bijection.couple(
                q, self.frame, lambda axis: self._params(torch.cat((seen, axis), -1), context), inverse
            )
            return self._with(x, q), logdet.sum(-1)
        params = self._params(seen, context)
        sizes = (self.in_shape[0] - self._count, self._count)
        part = positions if self._axes else q
        params, part = (permute(a, self._order, self._restore, -2) for a in (params, part))
        still, part = part.split(sizes, -2)
        params = params[..., sizes[0] :, :]
        f = self.bijection.inverse if inverse else self.bijection.forward
        if self._axes:
            columns = list(part.unbind(-1))
            params = params.unflatten(-1, (len(self._axes), -1))
            moved, logdet = f(_columns(part, self._axes), params)
            for axis, column in zip(self._axes, moved.unbind(-1)):
                columns[axis] = column
            part = torch.stack(columns, -1)
        else:
            part, logdet = f(part, params)
        part = permute(torch.cat((still, part), -2), self._restore, self._order, -2)
        return self._with(x, part + mean if self._axes else part), logdet.flatten(x.dim() - 2).sum(-1)

    def _with(self, x: Tensor, part: Tensor) -> Tensor:
        """x with its positions, or its quaternions, in place of those counted from the sites."""
        if not self._axes:
            q = part if self.sites is None else ROTATIONS.compose(self._orientations, part)
            return torch.cat((x[..., :3], q), -1)
        positions = part * self._unit(x)
        if self.sites is not None:
            positions = positions + self.sites[:, :3]
        return torch.cat((torch.where(self._stays[:, :3], x[..., :3], positions), x[..., 3:]), -1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._couple(self._checked("x", x, context), context, inverse=False)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._couple(self._checked("y", y, context, inverse=True), context, inverse=True)

    def extra_repr(self) -> str:
        which = sorted(self._order[self.in_shape[0] - self._count :].tolist())
        return f"{self.manifold}, {self.moved} of {which} by {self.bijection}, context={self.context_features}"


def _columns(x: Tensor, which: list[int]) -> Tensor:
    """Some entries of the last dimension, without an index tensor."""
    return torch.stack([x[..., i] for i in which], -1) if which else x[..., :0]


def _default_bijection(moved: str, box: Sequence[float] | None, sites: Tensor | None, bins: int = 8) -> Bijection:
    if moved == "turns":
        return AxisSpline(bins)
    if moved == "rotations":
        return ProjectiveLinear(3)
    if box is None:
        return Chain(RationalQuadraticSpline(bins), Affine())
    # near sites a Möbius map is nearly affine
    return circle_map("spline", bins) if sites is None else Chain(Moebius(), CircularShift())


def RigidBodyFlow(  # noqa: N802  (named like the classes of the parts it is made of)
    bodies: int,
    box: Sequence[float] | None = None,
    transforms: int = 4,
    context: int = 0,
    sites: Tensor | None = None,
    floating: bool = True,
    spread: tuple[float, float] = (0.03, 0.15),
    exchangeable: bool = False,
    positions: Bijection | str | None = None,
    rotations: Bijection | None = None,
    width: int = 64,
    heads: int = 4,
    blocks: int = 2,
    base: Base | None = None,
) -> Flow:
    """Positions given rotations, rotations given positions, in turn, by attention: densities on poses of N bodies.

    Events are poses (N, 7): positions in nm, then unit quaternions, q and −q being one rotation with one density.
    Bodies that are known apart move in two halves, every second one first, positions then rotations, so that each half
    also sees the other's. Exchangeable bodies, and a single one, move all together in one coordinate after the other,
    then their rotations given positions, then their rotations about an axis given its direction.

    From a base of independent bodies exchangeable ones hardly learn to keep apart. Where they repel each other strongly
    let the flow know them apart, which leaves weights right, or start from samples at another temperature.

    Of a crystal only displacements from `sites` matter, so the density is that of the crystal moved as a whole; the map
    starts as the identity. With a base of samples at another temperature, or after a map that shrinks all motions
    alike, it has little to learn: see `CrystalTransform`.

    Args:
        bodies: N.
        box: edges (3,) of the periodic box in nm; None for open space.
        transforms: number of rounds, of four couplings each, of five for exchangeable bodies.
        context: size of the context, 0 for none.
        sites: poses (N, 7) that bodies stay near to, for crystals.
        floating: whether sites move along with the crystal as a whole; if not, they are fixed in space.
        spread: typical displacement in nm from sites, and turn in radians: the units of what networks see and say.
        exchangeable: whether the bodies are identical and the density the same for any order of them.
        positions: map of one coordinate, as an angle in a box (without, as a number in nm, with sites in units of
            `spread`), or of a box also "spline" or "moebius": circular splines, a mixture of eight Möbius maps whose
            inverse is found by bisection. By default splines, in open space with an affine map after them; in a box
            with sites one Möbius map and a shift, which is nearly affine there.
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
    if isinstance(positions, str):
        positions = circle_map(positions, bins=8)
    layers = []
    for i in range(positive_integer("transforms", transforms)):
        if positive_integer("bodies", bodies) == 1 or exchangeable:
            turns = AxisSpline(8, SIDES[i % 2])
            maps = {"x": positions, "y": positions, "z": positions, "rotations": rotations, "turns": turns}
            parts = [(None, moved, bijection) for moved, bijection in maps.items()]
        else:
            halves = ("checkerboard", "checkerboard-flipped")
            parts = [(mask, *part) for mask in halves for part in (("positions", positions), ("rotations", rotations))]
        layers += [
            RigidCoupling(
                bodies,
                moved,
                box,
                mask,
                bijection,
                sites,
                floating,
                spread,
                exchangeable,
                context,
                width,
                heads,
                blocks,
            )
            for mask, moved, bijection in parts
        ]
    return Flow(Sequential(*layers), FreeBodies(bodies, box) if base is None else base)
