"""Single rigid bodies in an external field: a tetrahedron that only turns, and one that moves as well."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import torch
from torch import Tensor

from flowgroup.boltzmann.targets.base import Target
from flowgroup.boltzmann.units import LOG_ROTATIONS
from flowgroup.groups.rotations import quaternion_to_matrix
from flowgroup.manifolds import RigidBodies, Sphere, constraints

VERTICES = ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
"""Of a tetrahedron, times √3."""


class _Tetrahedron(Target):
    """What both targets know: the vertices v_k, and the 12 rotations that take the tetrahedron to itself.

    Attributes:
        modes: these rotations as unit quaternions (12, 4).
    """

    def __init__(self):
        super().__init__()
        self.log_unit_volume = LOG_ROTATIONS
        vertices = torch.tensor(VERTICES, dtype=torch.float64) / 3**0.5
        halves = [(0.5, *signs) for signs in product((0.5, -0.5), repeat=3)]
        modes = torch.cat((torch.eye(4, dtype=torch.float64), torch.tensor(halves, dtype=torch.float64)))
        self.register_buffer("vertices", vertices, persistent=False)
        self.register_buffer("modes", modes, persistent=False)

    def _rotated(self, q: Tensor) -> Tensor:
        """R(q)v_k: (..., 4, 3)."""
        return self.vertices.to(q) @ quaternion_to_matrix(q).mT

    def _nearest(self, q: Tensor) -> Tensor:
        return (q @ self.modes.to(q).mT).abs().argmax(-1)


class TetrahedralRotor(_Tetrahedron):
    """u(q) = −β·Σₖ (Rvₖ)₁(Rvₖ)₂(Rvₖ)₃, R = R(q), vₖ the vertices of a tetrahedron: a molecule in a crystal field.

    Events are unit quaternions (4,), and u(−q) = u(q). The field xyz is that of a site with the symmetry of a
    tetrahedron, so there are 12 modes, all alike: the `modes`, rotations that take the tetrahedron to itself.

    Args:
        beta: strength of the field in kT.

    Attributes:
        log_z: log Z with respect to the invariant probability measure on rotations, exact to 1e-9 up to beta = 40.

    Raises:
        ValueError: a beta that is not finite.

    Source: Rigid Body Flows for Sampling Molecular Crystal Structures, 2023, arXiv 2301.11355 (the molecule).

    Example:
        >>> target = TetrahedralRotor(beta=10.0)
        >>> round(target.log_z, 6)
        3.605459
        >>> target.energy(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.5, -0.5, 0.5, 0.5]]))
        tensor([-7.6980, -7.6980])
    """

    event_shape = torch.Size((4,))
    support = constraints.OnManifold(Sphere(3))

    def __init__(self, beta: float = 10.0):
        super().__init__()
        if not math.isfinite(beta):
            raise ValueError(f"beta must be finite, got {beta}")
        self.beta = float(beta)
        self.log_z = self._quadrature()

    def _energy(self, x: Tensor) -> Tensor:
        return -self.beta * self._rotated(x).prod(-1).sum(-1)

    def nearest_mode(self, x: Tensor) -> Tensor:
        """Index of the mode nearest to each rotation; by symmetry each is nearest with probability 1/12.

        Args:
            x: unit quaternions (*batch, 4).

        Returns:
            Indices (*batch) into `modes`.
        """
        return self._nearest(x)

    def _quadrature(self, n: int = 48) -> float:
        """log ∫ e^{−u}: equal weights in the outer Euler angles (period π), Gauss's in the cosine of the middle one."""
        cosine, weight = np.polynomial.legendre.leggauss(n)
        cosine, weight = torch.from_numpy(cosine), torch.from_numpy(weight / 2)
        outer = torch.arange(n, dtype=torch.float64) * (math.pi / n)
        half = (0.5 * cosine.acos())[:, None, None]
        both, difference = 0.5 * (outer + outer[:, None]), 0.5 * (outer - outer[:, None])
        q = torch.stack((half.cos() * both.cos(), half.sin() * difference.sin(), half.sin() * difference.cos(),
                         half.cos() * both.sin()), -1)  # fmt: skip
        log_weight = (weight.log() - 2 * math.log(n))[:, None, None]
        return (log_weight - self._energy(q)).flatten().logsumexp(0).item()

    def extra_repr(self) -> str:
        return f"beta={self.beta:g}"


class MethaneInField(_Tetrahedron):
    """u(p, q) = |p|²/(2s²) − β·Σₖ Πᵢ sin(πrₖᵢ/(2a)), rₖ = p + b·R(q)vₖ: a body like methane in a periodic field.

    Events (1, 7) are the position p in nm and the unit quaternion q of one body. At p = 0 the hydrogens at rₖ find
    their four favoured corners of a cube of edge 2a at once, so there are 12 modes, all alike; away from it position
    and orientation depend on each other.

    Args:
        beta: strength of the field in kT.
        spread: s in nm, of the harmonic well that holds the body.
        edge: a in nm.
        bond: b in nm.

    Raises:
        ValueError: lengths that are not positive.

    Source: Rigid Body Flows for Sampling Molecular Crystal Structures, 2023, arXiv 2301.11355 (the molecule).

    Example:
        >>> MethaneInField().energy(torch.tensor([[0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]]))
        tensor(-11.6526)
    """

    event_shape = torch.Size((1, 7))
    support = RigidBodies(1).constraint

    def __init__(self, beta: float = 5.0, spread: float = 0.03, edge: float = 0.1, bond: float = 0.109):
        super().__init__()
        for name, value in {"spread": spread, "edge": edge, "bond": bond}.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        self.beta, self.spread, self.edge, self.bond = float(beta), float(spread), float(edge), float(bond)

    def _energy(self, x: Tensor) -> Tensor:
        p, q = x.squeeze(-2).split((3, 4), -1)
        sites = p.unsqueeze(-2) + self.bond * self._rotated(q)
        field = (math.pi / (2 * self.edge) * sites).sin().prod(-1).sum(-1)
        return 0.5 * (p / self.spread).square().sum(-1) - self.beta * field

    def nearest_mode(self, x: Tensor) -> Tensor:
        """Index of the mode nearest in orientation; by symmetry each is nearest with probability 1/12.

        Args:
            x: configurations (*batch, 1, 7).

        Returns:
            Indices (*batch) into `modes`.
        """
        return self._nearest(x[..., 0, 3:])

    def extra_repr(self) -> str:
        return f"beta={self.beta:g}, spread={self.spread:g}, edge={self.edge:g}, bond={self.bond:g}"
