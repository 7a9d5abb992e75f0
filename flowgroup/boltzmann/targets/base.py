"""The contract of a target: the energy of a system whose equilibrium is to be sampled."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowgroup._checks import check_constraint, check_event_shape
from flowgroup.manifolds import constraints
from flowgroup.manifolds.constraints import OnManifold


class Target(nn.Module):
    """p(x) = e^{−u(x)}/Z, Z = ∫ e^{−u} dV/e^c, u the energy in units of kT and c = `log_unit_volume`.

    A subclass gives `_energy`. Constants are buffers, so that they follow the module; the dtype follows x.

    Attributes:
        event_shape: shape of one configuration.
        support: where configurations live, as a constraint: `manifolds.Sphere(3).constraint` for a rotation,
            `manifolds.RigidBodies(n, box).constraint` for rigid bodies. Markov chains stay there. A target of
            rotations that names neither this nor `log_unit_volume` is one of plain numbers: chains leave the rotations.
        temperature: T in kelvin, None where energies have no unit.
        log_unit_volume: log of the volume that counts as one in Z. For each rotation it has a term log 2π², the volume
            of unit quaternions, so that rotations have the invariant probability measure.

    What else a target may know of itself is shown in reports where it is there: `log_z`, the exact log Z; `modes`
    (modes, …), all of one weight, and `nearest_mode(x)`, the index (*batch,) of the one that x belongs to. Its options,
    in words, are what `extra_repr()` gives; a checkpoint of a run towards a target with others is refused.
    """

    event_shape: torch.Size
    support: constraints.Constraint = constraints.real
    temperature: float | None = None
    log_unit_volume: float = 0.0
    validate_args: bool = True

    def _energy(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define _energy(x), the energies (*batch,) in kT")

    def energy(self, x: Tensor) -> Tensor:
        """u(x) in kT, of the batch shape, for x (*batch, *event); infinite or NaN where atoms lie on each other.

        Raises:
            TypeError, ValueError: x of the wrong kind or shape, or off the support where that is a manifold; an
                `_energy` that does not give one number for each configuration.
        """
        check_event_shape("x", x, tuple(self.event_shape))
        if self.validate_args and isinstance(self.support, OnManifold):
            check_constraint("x", x, self.support)
        return self._one_for_each(x)

    def _one_for_each(self, x: Tensor) -> Tensor:
        """What `_energy` gives, once it has the right shape."""
        energy, batch = self._energy(x), x.shape[: x.dim() - len(self.event_shape)]
        if not isinstance(energy, Tensor) or energy.shape != batch:
            got = tuple(energy.shape) if isinstance(energy, Tensor) else type(energy).__name__
            raise ValueError(
                f"_energy of {type(self).__name__} must give a tensor of the batch shape {tuple(batch)}, got {got}"
            )
        return energy

    def forward(self, x: Tensor) -> Tensor:
        return self.energy(x)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) + log Z = −u(x), with respect to the unit of volume."""
        return -self.energy(x)

    def force(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """u(x) and −∂u/∂x (*batch, *event), both without a graph.

        Raises:
            ValueError: energies without a gradient, as those that numpy computed.
        """
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            energy = self.energy(leaf)
            slope = gradient(energy, leaf)
        return energy.detach(), -slope


class Altered(Target):
    """Another target with other energies: it lives where that one does, in the same units."""

    def __init__(self, target: Target):
        super().__init__()
        self.target = target
        self.event_shape, self.support = target.event_shape, target.support
        self.temperature, self.log_unit_volume = target.temperature, target.log_unit_volume
        self.validate_args = target.validate_args


def gradient(energy: Tensor, x: Tensor) -> Tensor:
    """∂u/∂x (*batch, *event) of energies u(x) (*batch), or an error that says what is wrong with them."""
    if not energy.requires_grad:
        raise ValueError(
            "energies must be computed from x by torch operations, or they have no gradient in x; without one a flow "
            "can be trained by maximum_likelihood, and RigidMoves can move chains of rigid bodies"
        )
    return torch.autograd.grad(energy.sum(), x)[0]
