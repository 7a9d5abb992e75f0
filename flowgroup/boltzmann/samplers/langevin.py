"""Underdamped Langevin dynamics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flowgroup.boltzmann.samplers.kernels import Move, Potential, Scalars, State


@dataclass
class Langevin:
    """dx = v dt, dv = −β∇u dt − γv dt + √(2γ) dW, of unit mass, by the BAOAB splitting.

    Half a kick, half a drift, friction and noise, half a drift, half a kick. Nothing is rejected: averages have an
    error of order step_size², which is small for positions in this order of parts. On a manifold drifts follow
    geodesics.

    Args:
        step_size: length of a step; it is never adapted.
        friction: γ in units of one over time.
        steps: how many for one step of the chain.
        scale: as in `HMC`.

    Source: Rational Construction of Stochastic Numerical Methods for Molecular Sampling, 2013, arXiv 1203.5428.

    Example:
        >>> from flowgroup import boltzmann
        >>> kernel = Langevin(step_size=0.02)
        >>> chain = boltzmann.mcmc(boltzmann.DoubleWell(), torch.zeros(9, 2), kernel, steps=20, progress=False)
        >>> chain.x.shape
        torch.Size([20, 9, 2])
    """

    step_size: float = 0.02
    friction: float = 1.0
    steps: int = 10
    scale: Tensor | float = 1.0
    target_acceptance = None
    uses_gradient = True

    def step(self, potential: Potential, state: State, step_size: Scalars, beta: Scalars) -> Move:
        t, b = potential.over_event(step_size), potential.over_event(beta)
        v = potential.velocity(state.x) if state.velocity is None else state.velocity
        decay = torch.as_tensor(-self.friction * t).exp()
        noise = (1 - decay * decay).sqrt()
        bad = torch.zeros_like(state.energy, dtype=torch.bool)
        for _ in range(self.steps):
            v = v - 0.5 * t * b * self.scale * state.gradient
            x, v = potential.drift(state.x, v, 0.5 * t, self.scale)
            v = decay * v + noise * potential.velocity(x)
            x, v = potential.drift(x, v, 0.5 * t, self.scale)
            state = potential.at(x)
            v = v - 0.5 * t * b * self.scale * state.gradient
            bad = bad | state.energy.isinf()
        return Move(state._replace(velocity=v), torch.ones_like(state.energy), bad)
