"""Double wells, and many of them side by side: targets of which everything is known."""
# ruff: noqa: N802  (DoubleWell is named like the targets beside it)

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from flowgroup._checks import positive_integer
from flowgroup.boltzmann.targets.base import Target

GRID = 200_001
"""Points of the quadrature over one well; its error is far below rounding."""


class ManyWell(Target):
    """u(x) = Σₖ a·x₂ₖ + b·x₂ₖ² + c·x₂ₖ⁴ + ½x₂ₖ₊₁², k = 0, …, dim/2 − 1: each pair has two wells, left and right.

    Modes are looked at pair by pair, by `in_right_well`: they are not of one weight, and in 32 dimensions too many for
    the `modes` that other targets have.

    Args:
        dim: even number of coordinates; there are 2^{dim/2} modes.
        a, b, c: slope, curvature and quartic term; c > 0, and b so negative that there are two wells.

    Attributes:
        log_z: log Z, exact to rounding.
        barrier: the position between the wells, of highest energy.
        right_probability: probability of a pair to be in its right well, exact to rounding.

    Raises:
        ValueError: an odd dim, or coefficients that give no two wells.

    Source: Boltzmann Generators, 2019, arXiv 1812.01729 (the double well); Flow Annealed Importance Sampling Bootstrap,
        2023, arXiv 2208.01893 (many of them).

    Example:
        >>> target = ManyWell(32)
        >>> round(target.log_z, 4), round(target.right_probability, 4)
        (164.6957, 0.8443)
        >>> x = target.sample((1000,))
        >>> target.in_right_well(x).shape
        torch.Size([1000, 16])
    """

    def __init__(self, dim: int = 32, a: float = -0.5, b: float = -6.0, c: float = 1.0):
        super().__init__()
        if positive_integer("dim", dim) % 2:
            raise ValueError(f"dim must be even: a pair of coordinates for each double well, got {dim}")
        stationary = np.sort_complex(np.roots([4 * c, 0.0, 2 * b, a])) if c > 0 else np.zeros(0)
        if len(stationary) != 3 or np.abs(stationary.imag).max() > 1e-9 or np.diff(stationary.real).min() < 1e-6:
            raise ValueError(f"a, b, c must give two wells, with c > 0 and b negative enough, got {a}, {b}, {c}")
        self.dim, self.a, self.b, self.c = dim, float(a), float(b), float(c)
        self.event_shape = torch.Size((dim,))
        left, self.barrier, right = stationary.real.tolist()
        self.wells = (left, right)

        # where the energy is 60 above the deeper well, the density is below rounding
        u = np.linspace(-1, 1, GRID) * (max(abs(left), abs(right)) + (60 / c) ** 0.25 + 1)
        log_density = -(self.a * u + self.b * u**2 + self.c * u**4)
        top = log_density.max()
        density = np.exp(log_density - top)
        mass = np.concatenate(([0.0], np.cumsum((density[1:] + density[:-1]) / 2)))
        self.log_z = float(dim / 2 * (top + math.log(mass[-1] * (u[1] - u[0])) + 0.5 * math.log(2 * math.pi)))
        self.right_probability = float(1 - np.interp(self.barrier, u, mass) / mass[-1])
        self.register_buffer("_position", torch.from_numpy(u), persistent=False)
        self.register_buffer("_probability", torch.from_numpy(mass / mass[-1]), persistent=False)

    def _energy(self, x: Tensor) -> Tensor:
        u, v = x[..., ::2], x[..., 1::2]
        square = u * u
        return (self.a * u + (self.b + self.c * square) * square + 0.5 * v * v).sum(-1)

    def sample(self, shape: Sequence[int] = (), dtype: torch.dtype | None = None) -> Tensor:
        """Independent exact samples (*shape, dim): v normal, u by the inverse of its distribution function.

        Args:
            shape: how many.
            dtype: of the samples; by default torch's default.
        """
        position, probability = self._position, self._probability
        like = {"dtype": probability.dtype, "device": probability.device}
        chance = torch.rand(*shape, self.dim // 2, **like).clamp(min=torch.finfo(probability.dtype).tiny)
        i = torch.searchsorted(probability, chance).clamp(1, len(probability) - 1)
        low, high = probability[i - 1], probability[i]
        u = torch.lerp(position[i - 1], position[i], (chance - low) / (high - low))
        x = torch.stack((u, torch.randn_like(u)), -1).flatten(-2)
        return x.to(dtype or torch.get_default_dtype())

    def in_right_well(self, x: Tensor) -> Tensor:
        """Which pairs are in their right well: booleans (..., dim/2)."""
        return x[..., ::2] > self.barrier

    def extra_repr(self) -> str:
        return f"{self.dim}, a={self.a:g}, b={self.b:g}, c={self.c:g}"


def DoubleWell(a: float = -0.5, b: float = -6.0, c: float = 1.0) -> ManyWell:
    """u(x) = a·x₀ + b·x₀² + c·x₀⁴ + ½x₁²: a `ManyWell` of two coordinates.

    Args:
        a, b, c: slope, curvature and quartic term.

    Example:
        >>> round(DoubleWell().log_z, 5)
        10.29348
    """
    return ManyWell(2, a, b, c)
