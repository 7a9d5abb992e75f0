"""Hamiltonian Monte Carlo on flat space and on manifolds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flowgroup.boltzmann.samplers.kernels import Move, Potential, Scalars, State, metropolis


@dataclass
class HMC:
    """Leapfrog steps of Hamilton's equations from a random velocity, then accept with min(1, e^{−ΔH}), H = βu + ½|v|².

    On a manifold a step moves along geodesics, and forces and velocities are tangent to it: unit quaternions stay unit
    quaternions, a mean at the origin stays there.

    Args:
        leapfrog: steps of each trajectory.
        step_size: length of a step.
        jitter: each trajectory has steps of step_size·(1 ± jitter), uniformly, so that no motion of the system is in
            resonance with all.
        scale: factor on step and force of each coordinate, broadcast against an event; the square root of an inverse
            diagonal mass matrix. It must be the same for all coordinates of one sphere.
        target_acceptance: what warm-up aims at.

    Source: MCMC using Hamiltonian dynamics, 2011, arXiv 1206.1901; Geodesic Monte Carlo on Embedded Manifolds, 2013,
        arXiv 1301.6064.

    Example:
        >>> from flowgroup import boltzmann
        >>> chain = boltzmann.mcmc(boltzmann.DoubleWell(), torch.zeros(100, 2), HMC(), steps=50, progress=False)
        >>> chain.x.shape
        torch.Size([50, 100, 2])
    """

    leapfrog: int = 10
    step_size: float = 0.1
    jitter: float = 0.2
    scale: Tensor | float = 1.0
    target_acceptance: float | None = 0.8
    uses_gradient = True

    def step(self, potential: Potential, state: State, step_size: Scalars, beta: Scalars) -> Move:
        size = step_size * (1 + self.jitter * (2 * torch.rand_like(state.energy) - 1))
        t, b = potential.over_event(size), potential.over_event(beta)
        v, new = potential.velocity(state.x), state
        before = potential.kinetic(v)
        v = v - 0.5 * t * b * self.scale * state.gradient
        for i in range(self.leapfrog):
            x, v = potential.drift(new.x, v, t, self.scale)
            new = potential.at(x)
            v = v - (1.0 if i + 1 < self.leapfrog else 0.5) * t * b * self.scale * new.gradient
        log_ratio = beta * (state.energy - new.energy) + before - potential.kinetic(v)
        return metropolis(potential, state, new, log_ratio)
