"""Monte Carlo moves of rigid bodies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowgroup.boltzmann.samplers.kernels import Move, Potential, Scalars, State, metropolis
from flowgroup.groups import UnitQuaternions
from flowgroup.manifolds import RigidBodies

ROTATIONS = UnitQuaternions()


@dataclass
class RigidMoves:
    """Shift some bodies by N(0, translation²) and turn them by a rotation vector from N(0, rotation²), then accept
    with min(1, e^{−βΔu}).

    A body is (x, y, z) and a unit quaternion (w, x, y, z), in events (7,) or (N, 7), or a quaternion alone, (4,) or
    (N, 4).

    Args:
        translation: standard deviation of each coordinate's shift, in units of positions (nm).
        rotation: standard deviation of each component of the rotation vector, in radians.
        bodies: how many bodies move in one step, drawn anew for each chain; all of them where there are fewer.
        box: edge lengths (3,) of a periodic box; positions are brought back into the box
            around the origin, as on `manifolds.RigidBodies`.
        step_size: factor on both standard deviations.
        target_acceptance: what warm-up aims at.

    Source: Understanding Molecular Simulation, 2002, Frenkel and Smit, Chapter 3.

    Example:
        >>> from flowgroup import boltzmann
        >>> class Pinned(boltzmann.Target):  # one body on a spring, free to turn
        ...     event_shape = torch.Size((1, 7))
        ...     def _energy(self, x):
        ...         return 0.5 * x[..., :3].square().sum((-2, -1))
        >>> start = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]).expand(50, 1, 7)
        >>> chain = boltzmann.mcmc(Pinned(), start, RigidMoves(0.5, 0.5), steps=20, progress=False)
        >>> torch.allclose(chain.x[..., 3:].norm(dim=-1), torch.ones(()))
        True
    """

    translation: float = 0.01
    rotation: float = 0.1
    bodies: int = 1
    box: Sequence[float] | Tensor | None = None
    step_size: float = 1.0
    target_acceptance: float | None = 0.4
    uses_gradient = False

    def step(self, potential: Potential, state: State, step_size: Scalars, beta: Scalars) -> Move:
        x = state.x
        if x.shape[-1] not in (4, 7):
            raise ValueError(f"x must hold rigid bodies (..., 7) or quaternions (..., 4), got shape {tuple(x.shape)}")
        position, q = x[..., :-4], x[..., -4:]
        t = potential.over_event(step_size)
        moved = self._chosen(potential, x)
        turn = 0.5 * self.rotation * t * torch.randn_like(q[..., 1:])
        q = torch.where(moved, ROTATIONS.projx(ROTATIONS.compose(ROTATIONS.exp(turn), q)), q)
        shifted = position + self.translation * t * torch.randn_like(position)
        if self.box is not None and x.shape[-1] == 7:
            shifted = RigidBodies(1, self.box).wrap(shifted)
        new = potential.at(torch.cat([torch.where(moved, shifted, position), q], -1), gradient=False)
        return metropolis(potential, state, new, beta * (state.energy - new.energy))

    def _chosen(self, potential: Potential, x: Tensor) -> Tensor:
        """Which bodies move (..., N, 1), in each chain as many as it should be."""
        n = x.shape[-2] if potential.event_dim == 2 else 1
        if self.bodies >= n:
            return torch.ones((), dtype=torch.bool, device=x.device)
        rank = torch.rand(x.shape[:-1], device=x.device).argsort(-1).argsort(-1)
        return (rank < self.bodies).unsqueeze(-1)
