"""The Lennard-Jones energy of a periodic box, switched off smoothly at a cutoff."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from flowgroup.boltzmann.targets.water.pairs import sum_over_pairs


class SwitchedLennardJones:
    """E = Σ_{i<j} S(r)·4ε((σ/r)¹² − (σ/r)⁶), S = 1 − 10t³ + 15t⁴ − 6t⁵, t = (r − r_s)/(r_c − r_s) held in [0, 1].

    Distances are to the nearest image; the energy reaches zero at the cutoff with two derivatives.

    Args:
        sigma: σ in nm.
        epsilon: ε in kJ/mol.
        cutoff: r_c in nm.
        switch: r_s in nm, below the cutoff.

    Example:
        >>> import torch
        >>> lj = SwitchedLennardJones(sigma=0.3, epsilon=1.0, cutoff=0.9, switch=0.8)
        >>> s = torch.zeros(3, 1, 2, 1)
        >>> s[2, :, 1] = 0.3 * 2 ** (1 / 6) / 2  # the minimum, in units of a box of 2 nm
        >>> lj(s, (2.0, 2.0, 2.0))[0]
        tensor([-1.])
    """

    def __init__(self, sigma: float, epsilon: float, cutoff: float, switch: float):
        self.sigma, self.epsilon, self.cutoff, self.switch = sigma, epsilon, cutoff, switch

    def __call__(self, s: Tensor, edges: Sequence[float], gradient: bool = False) -> tuple[Tensor, Tensor | None]:
        """E (B,) in kJ/mol for positions s (3, 1, N, B) in units of the box's edges (3,) in nm, and ∂E/∂s."""

        def pair(r2: Tensor) -> tuple[Tensor, Tensor | None]:
            energy, slope = self._pair(r2)
            return energy, slope if gradient else None

        return sum_over_pairs(pair, s, s.new_ones(1, 1), edges, self.cutoff)

    def _pair(self, r2: Tensor) -> tuple[Tensor, Tensor]:
        """The energy of a pair and its derivative with respect to r²."""
        r2 = r2.clamp(max=self.cutoff**2)
        r = r2.sqrt()
        six = (self.sigma**2 / r2) ** 3
        width = self.cutoff - self.switch
        t = ((r - self.switch) / width).clamp(min=0)
        on = 1 - t**3 * (10 - t * (15 - 6 * t))
        slope_of_on = -15 * (t * (1 - t)) ** 2 / (width * r)
        pair = 4 * self.epsilon * six * (six - 1)
        slope = 12 * self.epsilon * six * (1 - 2 * six) / r2
        return on * pair, on * slope + slope_of_on * pair

    def tail(self) -> float:
        """∫ (1 − S(r))·u(r) 4πr² dr in kJ/mol·nm³: what switch and cutoff take away from each pair, times the volume.

        Example:
            >>> lj = SwitchedLennardJones(sigma=1.0, epsilon=1.0, cutoff=5.0, switch=4.999)
            >>> round(lj.tail(), 4), round(-16 * math.pi / 3 / 5**3, 4)
            (-0.1341, -0.134)
        """
        x, w = np.polynomial.legendre.leggauss(48)
        r = self.switch + (self.cutoff - self.switch) * (x + 1) / 2
        t = (x + 1) / 2
        off = t**3 * (10 - t * (15 - 6 * t))
        u = 4 * self.epsilon * ((self.sigma / r) ** 12 - (self.sigma / r) ** 6)
        switched = (self.cutoff - self.switch) / 2 * float(w @ (off * u * 4 * math.pi * r**2))
        six = (self.sigma / self.cutoff) ** 6
        beyond = 16 * math.pi * self.epsilon * self.cutoff**3 * (six**2 / 9 - six / 3)
        return switched + beyond
