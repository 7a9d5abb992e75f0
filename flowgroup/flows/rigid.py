"""Flows on the poses of many rigid bodies, in open space or in a periodic box."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from flowgroup._checks import positive_integer
from flowgroup.bijections import AxisSpline, Bijection
from flowgroup.bijections.axis import SIDES
from flowgroup.flows.bases import Base, FreeBodies
from flowgroup.flows.flow import Flow
from flowgroup.flows.rigid_coupling import RigidCoupling
from flowgroup.flows.sphere import circle_map
from flowgroup.flows.transform import Sequential


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
        >>> import torch
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
