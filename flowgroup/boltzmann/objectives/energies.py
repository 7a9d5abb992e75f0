"""Energies to train on: finite, with gradients that are."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from flowgroup.boltzmann.targets import Target
from flowgroup.boltzmann.targets.base import gradient


class SafeEnergy(NamedTuple):
    """Energies to train on.

    Attributes:
        energy: u(x) as it is, without gradient.
        good: where u(x) and its gradient are finite.
        capped: u, above the cap growing like a logarithm, with gradient; 0 without gradient where not good.
    """

    energy: Tensor
    good: Tensor
    capped: Tensor


def smooth_cap(u: Tensor, cap: float | None) -> Tensor:
    """u for u ≤ cap, cap + log(1 + u − cap) above: with continuous slope 1/(1 + u − cap); None leaves u.

    Example:
        >>> smooth_cap(torch.tensor([3.0, 1e6]), cap=10.0)
        tensor([ 3.0000, 23.8155])
    """
    return u if cap is None else torch.where(u > cap, cap + (u - cap).clamp(min=0).log1p(), u)


def safe_energy(target: Target, x: Tensor, cap: float | None = None) -> SafeEnergy:
    """u(x) whose gradient is never NaN or infinite, whatever x is.

    The force is taken first and joined to the graph of x as a number, so that a NaN in it stays with its own sample.

    Args:
        target: u.
        x: configurations (*batch, *event).
        cap: in kT, of `smooth_cap`.

    Raises:
        ValueError: energies without a gradient, as those that numpy computed.

    Example:
        >>> from flowgroup import boltzmann
        >>> x = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)  # on each other
        >>> u = safe_energy(boltzmann.LennardJones(2, "once"), x)
        >>> u.capped.backward()
        >>> u.good, x.grad.abs().max()
        (tensor(False), tensor(0.))
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        u = target.energy(leaf)
        capped = smooth_cap(u, cap)
        g = gradient(capped, leaf)
    good = u.isfinite() & g.isfinite().flatten(u.dim()).all(-1)
    g = torch.where(over_event(good, x), g, 0)
    slope = ((x - x.detach()) * g).flatten(good.dim()).sum(-1)
    return SafeEnergy(u.detach(), good, torch.where(good, capped.detach(), 0) + torch.where(good, slope, 0))


def over_event(scalars: Tensor, x: Tensor) -> Tensor:
    """Scalars (*batch) that broadcast against configurations x (*batch, *event)."""
    return scalars.reshape(scalars.shape + (1,) * (x.dim() - scalars.dim()))
