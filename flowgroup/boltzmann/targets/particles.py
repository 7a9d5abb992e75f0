"""Clusters of identical particles that only feel each other: DW4 and Lennard-Jones."""

from __future__ import annotations

import torch
from torch import Tensor

from flowgroup.boltzmann.targets.base import Target
from flowgroup.manifolds import MeanFree

CONVENTIONS = {"once": 1.0, "twice": 2.0}


class Particles(Target):
    """n particles in d dimensions whose energy depends on their differences alone.

    The energy of any x (..., n, d) is defined and does not change when all particles move together. So that Z is
    finite, the distribution is that of configurations with mean zero, `MeanFree(n, d)`: a flat space of (n − 1)·d
    dimensions, and Z = ∫ e^{−u} over its volume, which is that of orthonormal coordinates (`flows.MeanFreeChart`).
    Samplers stay there, and flows should.
    """

    validate_args = False  # an energy does not need the mean to be zero

    def __init__(self, n: int, d: int):
        super().__init__()
        self.support = MeanFree(n, d).constraint
        self.event_shape = torch.Size((n, d))

    @property
    def manifold(self) -> MeanFree:
        """Where the distribution lives."""
        return self.support.manifold

    def pair_squares(self, x: Tensor, diagonal: float) -> Tensor:
        """|xᵢ − xⱼ|² (..., n, n), with `diagonal` for i = j."""
        squares = (x.unsqueeze(-2) - x.unsqueeze(-3)).square().sum(-1)
        return squares + squares.new_full(squares.shape[-1:], diagonal).diag()


class DW4(Particles):
    """u(x) = Σ_{i<j} a·t + b·t² + c·t⁴, t = |xᵢ − xⱼ| − d₀: four particles in the plane, every pair a double well.

    Args:
        a, b, c: slope, curvature and quartic term.
        d0: distance of the barrier.

    Attributes:
        log_z, entropy: with the default coefficients log Z = 29.66723 and the entropy 7.12572 nats, by quadrature; None
            with others. No model can have a mean negative log-likelihood below the entropy.

    Source: Equivariant Flows: Exact Likelihood Generative Learning for Symmetric Densities, 2020, arXiv 2006.02425,
        whose sum goes over ordered pairs and is halved.

    Example:
        >>> square = torch.tensor([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]])
        >>> DW4().energy(square)  # two pairs at 4√2, four on their barrier
        tensor(-8.3966)
    """

    def __init__(self, a: float = 0.0, b: float = -4.0, c: float = 0.9, d0: float = 4.0):
        super().__init__(4, 2)
        self.a, self.b, self.c, self.d0 = float(a), float(b), float(c), float(d0)
        known = (self.a, self.b, self.c, self.d0) == (0.0, -4.0, 0.9, 4.0)
        self.log_z, self.entropy = (29.667232, 7.125724) if known else (None, None)

    def _energy(self, x: Tensor) -> Tensor:
        squares = self.pair_squares(x, self.d0**2)
        apart = squares != 0  # also NaN; the distance has no derivative where two particles meet
        t = torch.where(apart, torch.where(apart, squares, 1).sqrt(), 0) - self.d0
        square = t * t
        return 0.5 * (self.a * t + (self.b + self.c * square) * square).sum((-2, -1))

    def extra_repr(self) -> str:
        return f"a={self.a:g}, b={self.b:g}, c={self.c:g}, d0={self.d0:g}"


class LennardJones(Particles):
    """u(x) = m·ε·Σ_{i<j} (r⁻¹² − 2r⁻⁶) + ½k·Σᵢ |xᵢ − x̄|², r = |xᵢ − xⱼ|/r_min: n particles in three dimensions.

    Two conventions are in circulation: pairs counted once, m = 1, and twice, m = 2 (the sum over ordered pairs, whose
    wells are twice as deep). Neither doubles the oscillator, which keeps the cluster together. Likelihoods and
    energies of one cannot be compared with those of the other.

    Args:
        n: number of particles; 13 and 55 are the usual ones.
        convention: "once" or "twice".
        oscillator: k.
        epsilon: depth ε of one pair's well in kT.
        r_min: distance of least energy.

    Raises:
        ValueError: another convention.

    Source: Equivariant Flows: Exact Likelihood Generative Learning for Symmetric Densities, 2020, arXiv 2006.02425.

    Example:
        >>> pair = torch.tensor([[-0.5, 0.0, 0.0], [0.5, 0.0, 0.0]])
        >>> LennardJones(2, "once").energy(pair), LennardJones(2, "twice").energy(pair)
        (tensor(-0.7500), tensor(-1.7500))
    """

    def __init__(self, n: int, convention: str, oscillator: float = 1.0, epsilon: float = 1.0, r_min: float = 1.0):
        super().__init__(n, 3)
        if convention not in CONVENTIONS:
            raise ValueError(f"convention must be 'once' or 'twice' (how often a pair counts), got {convention!r}")
        self.convention, self.oscillator, self.epsilon, self.r_min = convention, oscillator, epsilon, r_min

    def _energy(self, x: Tensor) -> Tensor:
        s = (self.r_min**2 / self.pair_squares(x, torch.inf)).pow(3)
        pairs = 0.5 * CONVENTIONS[self.convention] * self.epsilon * (s * (s - 2)).sum((-2, -1))
        return pairs + 0.5 * self.oscillator * (x - x.mean(-2, keepdim=True)).square().sum((-2, -1))

    def extra_repr(self) -> str:
        options = f"oscillator={self.oscillator:g}, epsilon={self.epsilon:g}, r_min={self.r_min:g}"
        return f"{self.event_shape[0]}, {self.convention!r}, {options}"
