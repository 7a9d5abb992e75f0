"""What couplings of rigid bodies make of poses: numbers of a fitting size, counted from sites, and what is seen."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowgroup._checks import check_constraint, check_event_shape
from flowgroup.groups import UnitQuaternions, quaternion_to_matrix
from flowgroup.manifolds import RigidBodies
from flowgroup.nn.mlp import periodic

HARMONICS = 2
ROTATIONS = UnitQuaternions()


class PoseCoordinates(nn.Module):
    """Positions, angles 2πd/L in a box, and quaternions, both relative to sites where there are any.

    Without a box positions are in nm, with sites in units of the spread. Sites float by the mean displacement of the
    positions that stay, so that the coordinates do not change when all bodies move alike.

    Args:
        manifold: the space of the poses (N, 7).
        stays: of each body, which of x, y, z and the rotation a coupling leaves as they are, booleans (N, 4).
        sites: poses (N, 7), or None.
        floating: whether sites move along with the crystal as a whole.
        spread: typical displacement from the sites in nm, and turn in radians.

    Attributes:
        features: size of what is seen of a body.

    Raises:
        TypeError, ValueError: sites that are no poses, a spread that is not positive, floating sites where along an
            axis no position stays.
    """

    def __init__(
        self,
        manifold: RigidBodies,
        stays: Tensor,
        sites: Tensor | None = None,
        floating: bool = True,
        spread: tuple[float, float] = (0.03, 0.15),
    ):
        super().__init__()
        if not all(0 < size < math.inf for size in spread):
            raise ValueError(f"spread must be two positive numbers, got {spread}")
        if sites is not None:
            check_event_shape("sites", sites, tuple(manifold.event_shape))
            check_constraint("sites", sites, manifold.constraint)
            sites = sites.detach().clone()
        self.manifold, self.spread = manifold, spread
        self.floating = floating and sites is not None
        self.register_buffer("sites", sites)
        self.register_buffer("stays", stays, persistent=False)
        self._axes = stays[:, :3].any(0).nonzero().flatten().tolist()  # along which some positions stay
        self._rotations, self._bodies = bool(stays[:, 3].any()), bool(stays.all(-1).any())
        if self.floating and len(self._axes) < 3:
            raise ValueError("floating sites need a mask where positions move: some positions must stay")
        each = 1 if manifold.box is None else 2 * HARMONICS if sites is None else 2
        self.features = each * len(self._axes) + 9 * self._rotations + self._bodies

    def _unit(self, like: Tensor) -> Tensor:
        """What positions are counted in, in nm: (3,)."""
        if self.manifold.box is not None:
            return like.new_tensor(self.manifold.box) / (2 * math.pi)
        return like.new_full((3,), 1.0 if self.sites is None else self.spread[0])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | float]:
        """Positions (..., N, 3) and quaternions (..., N, 4) of poses x, and the mean that positions are relative to."""
        positions, q = x[..., :3], x[..., 3:]
        mean: Tensor | float = 0.0
        if self.sites is not None:
            places, orientations = split_sites(self.sites, x)
            positions, q = positions - places, ROTATIONS.left_divide(orientations, q)
        positions = positions / self._unit(x)
        if self.floating:
            stays = self.stays[:, :3].to(x.dtype)
            if self.manifold.box is None:
                mean = (positions * stays).sum(-2, keepdim=True) / stays.sum(0)
            else:
                sin, cos = ((a * stays).sum(-2, keepdim=True) for a in (positions.sin(), positions.cos()))
                mean = torch.atan2(sin, cos)
        return positions - mean, q, mean

    def with_positions(self, x: Tensor, positions: Tensor, mean: Tensor | float) -> Tensor:
        """x with those of its positions that move at new places."""
        positions = (positions + mean) * self._unit(x)
        if self.sites is not None:
            positions = positions + split_sites(self.sites, x)[0]
        return torch.cat((torch.where(self.stays[:, :3], x[..., :3], positions), x[..., 3:]), -1)

    def with_rotations(self, x: Tensor, q: Tensor) -> Tensor:
        """x with new quaternions."""
        q = q if self.sites is None else ROTATIONS.compose(split_sites(self.sites, x)[1], q)
        return torch.cat((x[..., :3], q), -1)

    def seen(self, positions: Tensor, q: Tensor) -> Tensor:
        """What a network sees of the bodies (..., N, features): of what stays, all even in quaternions."""
        stays = self.stays.to(q.dtype)
        seen = [(self._where(columns(positions, self._axes)) * columns(stays, self._axes).unsqueeze(-1)).flatten(-2)]
        if self._rotations:
            seen.append(self._turned(q) * stays[:, 3:])
        if self._bodies:
            seen.append(stays.prod(-1, keepdim=True).expand(*q.shape[:-1], 1))
        return torch.cat(seen, -1)

    def _where(self, positions: Tensor) -> Tensor:
        """Numbers for each coordinate, in a box periodic ones; with sites about d and d²/2 in units of the spread."""
        positions = positions.unsqueeze(-1)
        if self.manifold.box is None:
            return positions
        if self.sites is None:
            k = torch.arange(1, HARMONICS + 1, dtype=positions.dtype, device=positions.device)
            return periodic(positions * k)
        unit = columns(self._unit(positions), self._axes).unsqueeze(-1) / self.spread[0]
        sin, cos = (positions / 2).sin(), (positions / 2).cos()
        return torch.cat((2 * sin * cos * unit, 2 * (sin * unit).square()), -1)

    def _turned(self, q: Tensor) -> Tensor:
        """Nine numbers for each rotation: its matrix; with sites about the vector of the turn and its products."""
        if self.sites is None:
            return quaternion_to_matrix(q).flatten(-2)
        v = q[..., 1:] * (2 / self.spread[1])
        a, b, c = v.unbind(-1)
        return torch.cat((q[..., :1] * v, torch.stack((a * a, a * b, a * c, b * b, b * c, c * c), -1)), -1)


def split_sites(sites: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Positions and orientations of sites (N, 7), in the dtype of some poses; quaternions stay units in any."""
    sites = sites.to(like)
    return sites[:, :3], F.normalize(sites[:, 3:], dim=-1)


def columns(x: Tensor, which: list[int]) -> Tensor:
    """Some entries of the last dimension, without an index tensor."""
    return torch.stack([x[..., i] for i in which], -1) if which else x[..., :0]
