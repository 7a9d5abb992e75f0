"""What Markov kernels have in common: a potential on a space, states there, and the choice between two states."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from flowgroup.boltzmann.targets import Target
from flowgroup.boltzmann.targets.base import gradient as gradient_of
from flowgroup.boltzmann.units import LOG_ROTATIONS
from flowgroup.manifolds import Euclidean, Manifold, Product, Sphere
from flowgroup.manifolds.constraints import OnManifold

Scalars = Tensor | float

QUATERNIONS = Sphere(3)
BODIES = Product(Euclidean(3), Sphere(3))


class State(NamedTuple):
    """Configurations x (*batch, *event), their energies (*batch), and what their kernel keeps of them.

    Attributes:
        x, energy: energies that are NaN or infinite are +∞ here, so that nobody goes there.
        gradient: ∂u/∂x, tangent to the manifold; zero where it is NaN or infinite. None for kernels that need none.
        velocity: of kernels that carry it from step to step.
    """

    x: Tensor
    energy: Tensor
    gradient: Tensor | None = None
    velocity: Tensor | None = None


class Move(NamedTuple):
    """What a step of a kernel did.

    Attributes:
        state: where the chains are now.
        acceptance: probability with which each chain took the proposal (*batch).
        bad: whose proposal had an energy that is NaN or infinite (*batch).
    """

    state: State
    acceptance: Tensor
    bad: Tensor


class Kernel(Protocol):
    """One step of a Markov chain that leaves e^{−βu} as it is (exactly, or for small steps).

    Attributes:
        step_size: the size to start from, a factor on every move.
        target_acceptance: what warm-up brings the acceptance to by changing the step size; None to leave it.
        uses_gradient: whether states need their gradient.
    """

    step_size: float
    target_acceptance: float | None
    uses_gradient: bool

    def step(self, potential: Potential, state: State, step_size: Scalars, beta: Scalars) -> Move:
        """From one state to the next; step sizes and β broadcast against the batch shape."""
        ...


class Potential(NamedTuple):
    """u(x) of configurations, and the manifold they move on.

    The metric of the manifold must be that of the space around it, as for Euclidean space, spheres, tori, `MeanFree`
    and their products. None is the flat space of all tensors.
    """

    energy: Callable[[Tensor], Tensor]
    event_dim: int
    manifold: Manifold | None = None

    @staticmethod
    def of(target: Target, energy: Callable[[Tensor], Tensor] | None = None) -> Potential:
        """That of a target, or another energy where the target lives."""
        return Potential(energy or target.energy, len(target.event_shape), _manifold_of(target))

    def at(self, x: Tensor, gradient: bool = True) -> State:
        """The state at x; that of a trajectory that ran away, where x is NaN or infinite, has the energy +∞."""
        # such an x is refused by targets and flows that look at their arguments: they get another one
        here = x.isfinite().flatten(x.dim() - self.event_dim).all(-1)
        anywhere = 0.0 if self.manifold is None else self.manifold.origin(dtype=x.dtype, device=x.device)
        place = torch.where(self.over_event(here), x, anywhere)
        if not gradient:
            with torch.no_grad():
                return State(x, _finite_or(torch.inf, self.energy(place).where(here, torch.inf)))
        with torch.enable_grad():
            leaf = place.detach().requires_grad_()
            u = self.energy(leaf)
            g = gradient_of(u, leaf)
        # any force that is a function of x keeps volumes and can be reversed, so also one that is zero here
        g = _finite_or(0.0, g.where(self.over_event(here), 0.0))
        u = _finite_or(torch.inf, u.detach().where(here, torch.inf))
        return State(x, u, g if self.manifold is None else self.manifold.proju(place, g))

    def velocity(self, x: Tensor) -> Tensor:
        """Standard normal in the tangent space at x."""
        v = torch.randn_like(x)
        return v if self.manifold is None else self.manifold.proju(x, v)

    def kinetic(self, v: Tensor) -> Tensor:
        """½|v|²."""
        return 0.5 * v.square().flatten(v.dim() - self.event_dim).sum(-1)

    def drift(self, x: Tensor, v: Tensor, t: Scalars, scale: Scalars) -> tuple[Tensor, Tensor]:
        """Where the geodesic from x with velocity scale·v is after the time t, and v transported there."""
        step = t * scale * v
        if self.manifold is None:
            return x + step, v
        y = self.manifold.expmap(x, step)
        return y, self.manifold.transp(x, y, v)

    def over_event(self, scalars: Scalars) -> Scalars:
        """Scalars that broadcast against energies, made to broadcast against configurations."""
        if not isinstance(scalars, Tensor):
            return scalars
        return scalars.reshape(scalars.shape + (1,) * self.event_dim)


def check_kernel(kernel: Kernel) -> Kernel:
    """The kernel, unless it is none, or the class of one."""
    if isinstance(kernel, type):
        raise TypeError(f"kernel must be made first, as in kernel={kernel.__name__}(…), got the class")
    if not hasattr(kernel, "step"):
        raise TypeError(f"kernel must be HMC(), Langevin() or another with a step, got {type(kernel).__name__}")
    return kernel


def metropolis(potential: Potential, old: State, new: State, log_ratio: Tensor) -> Move:
    """The new state with probability min(1, e^{log_ratio}), else the old one; NaN is −∞."""
    probability = log_ratio.clamp(max=0).exp().nan_to_num(0.0)
    accepted = torch.rand_like(probability) < probability
    return Move(choose(potential, accepted, new, old), probability, new.energy.isinf())


def choose(potential: Potential, which: Tensor, a: State, b: State) -> State:
    """a where `which` (*batch) is true, else b."""
    wide = potential.over_event(which)
    return State(
        *(
            None if p is None or q is None else torch.where(which if i == 1 else wide, p, q)
            for i, (p, q) in enumerate(zip(a, b))
        )
    )


def _manifold_of(target: Target) -> Manifold | None:
    """Where a target lives: its support where that is a manifold; else its unit of volume tells of rotations."""
    support, shape = target.support, target.event_shape
    while hasattr(support, "base_constraint"):  # of several independent entries
        support = support.base_constraint
    if isinstance(support, OnManifold):
        return support.manifold
    rotations = target.log_unit_volume / LOG_ROTATIONS
    if round(rotations) < 1 or abs(rotations - round(rotations)) > 1e-6:
        return None
    if shape[-1:] in ((4,), (7,)) and shape[:-1].numel() == round(rotations):
        return QUATERNIONS if shape[-1] == 4 else BODIES
    raise ValueError(
        f"target {type(target).__name__} has rotations (log_unit_volume = {target.log_unit_volume:g}) in events of "
        f"shape {tuple(shape)}: it must name the manifold they live on as its support"
    )


def _finite_or(value: float, x: Tensor) -> Tensor:
    return torch.where(x.isfinite(), x, value)
