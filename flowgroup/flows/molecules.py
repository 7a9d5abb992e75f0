"""Flexible molecules as rigid bodies that vibrate: poses beside internal coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from flowgroup._checks import positive_integer
from flowgroup.flows.internal_coordinates import InternalCoordinates
from flowgroup.flows.transform import Transform
from flowgroup.groups import matrix_to_quaternion, quaternion_to_matrix
from flowgroup.manifolds import Euclidean, Product, RigidBodies, Torus


class FlexibleMolecules(Transform):
    """y = (soft torsions, all other internal coordinates, poses) of N molecules of S atoms; logdet = log(dy/dx).

    The pose of a molecule is the position of the first atom of its Z-matrix and the rotation that takes the z-axis to
    the direction of the second, the half-plane y = 0, x > 0 to that of the third. Of each atom dx is Lebesgue measure:
    dx = dvol · dp · 4 dq for each molecule, dvol of internal coordinates as in `InternalCoordinates`, dp of positions
    and dq of rotations with the volume 2π² for all of them. That is what densities on unit quaternions are normalised
    by: both q and −q stand for a rotation, and densities are even in q, as those of rigid-body flows are. So logdet
    counts both, log 2 for each molecule beyond log|det ∂y/∂x| of the one that `forward` gives (that with w ≥ 0), and
    the density of a flow is one of atoms, without corrections to e^{−u(x)}.

    Poses come last, so that in a `ChainRule` they are moved under the internal coordinates. The other way round
    quaternions would be a context, of which a network would have to be even.

    Args:
        molecules: N, of one kind.
        z_matrix: rows (i, j, k, l) of the S ≥ 3 atoms of a molecule, as `InternalCoordinates` takes them.
        stiff: torsions of a molecule that stay near a value, as there.
        box: edges (3,) of the periodic box in nm; None for open space. Molecules are whole, not cut by a boundary; any
            image of a molecule will do.

    Attributes:
        internal: the internal coordinates of one molecule.
        space: of y, the product of a torus (N·soft,) where torsions are soft, numbers and poses; `space.split(y)` takes
            y apart, torsions and numbers of one molecule side by side.

    Raises:
        ValueError: what `InternalCoordinates` raises, or a box that is none.

    Source: Boltzmann Generators, 2019, arXiv 1812.01729, and Rigid Body Flows for Sampling Molecular Crystal
        Structures, 2023, arXiv 2301.11355, for the two parts.

    Example:
        >>> from flowgroup import flows
        >>> water = FlexibleMolecules(2, flows.z_matrix([(0, 1), (0, 2)]))
        >>> t = flows.ChainRule(flows.LULinear(6), flows.RigidBodyFlow(2, context=6, transforms=1, width=8).transform)
        >>> base = flows.Product(flows.DiagonalNormal(6), flows.FreeBodies(2))
        >>> flow = flows.Flow(flows.Sequential(water, t), base)
        >>> flow.sample((5,)).shape
        torch.Size([5, 6, 3])
    """

    def __init__(
        self,
        molecules: int,
        z_matrix: Sequence[Sequence[int]] | Tensor,
        stiff: Mapping[int, float] | None = None,
        box: Sequence[float] | None = None,
    ):
        super().__init__()
        n = self.molecules = positive_integer("molecules", molecules)
        self.internal = InternalCoordinates(z_matrix, stiff)
        soft = n * self.internal.torsions
        line = n * self.internal.out_shape[0] - soft
        self.space = Product(*([Torus(soft)] if soft else []), Euclidean(line), RigidBodies(n, box))
        self.codomain = self.space.constraint
        self.in_shape, self.out_shape = (n * self.internal.atoms, 3), tuple(self.space.event_shape)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        atoms = self._checked("x", x, context).unflatten(-2, (self.molecules, self.internal.atoms))
        internal, logdet = self.internal(atoms)
        frame = self.internal.manifold
        q = matrix_to_quaternion(frame.axes(atoms))
        poses = torch.cat((atoms[..., frame.frame[0], :], q), -1)
        parts = [part.flatten(-2) for part in internal.split(self._sizes, -1) if part.shape[-1]]
        return self.space.join(*parts, poses), logdet.sum(-1) - self._log_rotations

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        *parts, poses = self.space.split(self._checked("y", y, context, inverse=True))
        internal = torch.cat([part.unflatten(-1, (self.molecules, -1)) for part in parts], -1)
        still, logdet = self.internal.inverse(internal)
        atoms = poses[..., None, :3] + still @ quaternion_to_matrix(poses[..., 3:]).mT
        return atoms.flatten(-3, -2), logdet.sum(-1) + self._log_rotations

    @property
    def _sizes(self) -> tuple[int, int]:
        soft = self.internal.torsions
        return soft, self.internal.out_shape[0] - soft

    @property
    def _log_rotations(self) -> float:
        """All rotations have the volume 8π² in dx, where turns are counted in radians, and 2π² in dy."""
        return self.molecules * math.log(4)

    def extra_repr(self) -> str:
        return f"{self.molecules}, {self.space}"
