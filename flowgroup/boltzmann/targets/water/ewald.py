"""The Coulomb energy of neutral rigid molecules in a periodic box, by an Ewald sum to any accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.polynomial import Chebyshev, Legendre, Polynomial
from scipy.linalg import eigh_tridiagonal
from torch import Tensor, nn

from flowgroup.boltzmann.targets.water.pairs import sum_over_pairs

COULOMB = 138.935457644382  # 1/4πε₀ in kJ/mol·nm/e²


class Ewald(nn.Module):
    """E = K Σ_{i<j} qᵢqⱼ(1 − χ(r))/r + (2πK/V) Σ_{k≠0} ρ(k)|Σⱼ qⱼe^{ik·xⱼ}|²/k² − what molecules do to themselves.

    Each charge is screened by a cloud of the opposite charge within the cutoff r_c. The cloud decides how quickly the
    sums converge, not the energy. Here it is that of the prolate spheroidal wave function ψ of bandwidth c:
    χ(r) = ∫₀^{r/r_c} ψ / ∫₀¹ ψ, and ρ(k) is the cosine transform of ψ at k·r_c. No function on an interval has less
    beyond the frequency c, so that an error of e^{−c} needs wave numbers up to c/r_c only: about a fifth of the waves
    that a Gaussian cloud needs. χ(r)/r is smooth and even, hence a polynomial in r², and neither sum has a special
    function in it.

    Molecules are rigid: what the second sum holds of pairs within one is a constant, taken off with the self-energy.
    The boundary at infinity is a conductor. Distances are to the nearest image.

    Args:
        charges: (S,) of a molecule, in e, with sum zero.
        frame: sites (S, 3) of a molecule, in nm.
        box: edges (3,) of the box in nm.
        cutoff: r_c in nm, at most half the shortest edge.
        accuracy: the error of the energy of one molecule in kJ/mol, within a factor of five.

    Source: Accelerating Fast Ewald Summation with Prolates for Molecular Dynamics Simulations, 2025, arXiv 2505.09727.

    Example:
        >>> dipole = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.01]]
        >>> ewald = Ewald((1.0, -1.0), dipole, (1.0, 1.0, 1.0), cutoff=0.5, accuracy=1e-6)
        >>> s = torch.tensor(dipole, dtype=torch.float64).mT[:, :, None, None]
        >>> ewald.far(s)[0].round(decimals=4)  # −2πKμ²/3V with μ = 0.01 e nm
        tensor([-0.0291], dtype=torch.float64)
    """

    def __init__(self, charges: Sequence[float], frame: Sequence, box: Sequence[float], cutoff: float, accuracy: float):
        super().__init__()
        q, sites, edges = (np.asarray(numbers, dtype=float) for numbers in (charges, frame, box))
        bandwidth = math.log(COULOMB * float(np.max(q * q)) / (cutoff * accuracy))
        psi = prolate(bandwidth)
        chi = psi.integ(lbnd=0)

        def smooth(t):
            return np.where(t > 0, chi(t) / np.where(t > 0, t, 1), psi(0.0)) / cutoff

        # in powers of u = 2(r/r_c)² − 1, where they are well conditioned
        powers = chebyshev_fit(lambda u: smooth(np.sqrt((u + 1) / 2)), 0.1 * math.exp(-bandwidth))
        self.cutoff, self.edges = cutoff, edges.tolist()
        self.register_buffer("charges", torch.as_tensor(q))
        self.register_buffer("smooth", torch.as_tensor(powers))
        self.register_buffer("slope", torch.as_tensor(powers[1:] * np.arange(1, len(powers)) * 2 / cutoff**2))

        # cos and sin along each edge: over the eight ±k, |S(k)|² adds up to eight times Σ (Σⱼ qⱼ·wave·wave·wave)²
        self.orders = [int(bandwidth / cutoff * edge / (2 * math.pi)) for edge in edges]
        x, y, z = (np.arange(-order, order + 1) for order in self.orders)
        y, z = (axis.flatten() for axis in np.meshgrid(y, z, indexing="ij"))
        in_ball = (y / edges[1]) ** 2 + (z / edges[2]) ** 2 <= (bandwidth / cutoff / (2 * math.pi)) ** 2
        y, z = y[in_ball], z[in_ball]
        self.widths = (np.bincount(y - y.min()) // 2).tolist()  # z from −width to width for each y
        k = 2 * math.pi * np.sqrt((x / edges[0]) ** 2 + ((y / edges[1]) ** 2 + (z / edges[2]) ** 2)[:, None])
        multiplicity = 2.0 ** (np.minimum(abs(x), 1) + (np.minimum(abs(y), 1) + np.minimum(abs(z), 1))[:, None])
        density = transform(psi, k * cutoff) / np.where(k > 0, k, math.inf) ** 2
        weight = 2 * math.pi * COULOMB / edges.prod() * multiplicity * density
        where = {wave: i for i, wave in enumerate(zip(y, z))}
        mirrored = [[where[-a, b] for a, b in where], [where[a, -b] for a, b in where]]

        t = np.linalg.norm(sites[:, None] - sites, axis=-1) / cutoff
        self.itself = -COULOMB / 2 * float(q @ smooth(t) @ q)
        self.register_buffer("weight", torch.as_tensor(weight))
        self.register_buffer("numbers", torch.as_tensor(np.stack([y, z])))
        self.register_buffer("mirrored", torch.as_tensor(mirrored))

    def near(self, s: Tensor, gradient: bool = False) -> tuple[Tensor, Tensor | None]:
        """The sum over pairs (B,) in kJ/mol for charges at s (3, S, N, B) in units of the box's edges, and ∂/∂s."""
        q = self.charges.to(s)

        def pair(r2: Tensor) -> tuple[Tensor, Tensor | None]:
            inside = (r2 < self.cutoff**2).to(r2)  # u may be off 1 by rounding
            r2 = r2.clamp(max=self.cutoff**2)
            inverse, u = r2.rsqrt(), r2 * (2 / self.cutoff**2) - 1
            energy = (inverse - horner(self.smooth, u)) * inside
            if not gradient:
                return energy, None
            return energy, torch.addcmul(horner(self.slope, u), inverse * inverse, inverse, value=0.5) * -inside

        return sum_over_pairs(pair, s, COULOMB * torch.outer(q, q), self.edges, self.cutoff)

    def far(self, s: Tensor, gradient: bool = False) -> tuple[Tensor, Tensor | None]:
        """The sum over waves less what molecules do to themselves, as `near`."""
        x, y, z = (_waves(part.mT, order) for part, order in zip((s - s.round()).flatten(1, 2), self.orders))
        x = x * self.charges.to(s).repeat_interleave(s.shape[2])
        middle = self.orders[2]
        rows = zip(y.split(1, 1), self.widths)
        plane = torch.cat([row * z[:, middle - width : middle + width + 1] for row, width in rows], 1)
        amplitude = plane @ x.mT
        weighted = self.weight.to(s) * amplitude
        energy = (weighted * amplitude).sum((1, 2)) + s.shape[2] * self.itself
        if not gradient:
            return energy, None
        # waves of one order are each other's derivatives
        slopes = [weighted.flip(2) * _numbers(self.orders[0], s)]
        for numbers, mirrored in zip(self.numbers, self.mirrored):
            slopes.append(weighted.index_select(1, mirrored) * numbers.to(s).unsqueeze(1))
        by_site = (torch.cat(slopes, 2).mT @ plane).unflatten(1, (3, -1)) * x.unsqueeze(1)
        return energy, 4 * math.pi * by_site.sum(2).permute(1, 2, 0).reshape(s.shape)


def _numbers(order: int, like: Tensor) -> Tensor:
    return torch.arange(-order, order + 1, dtype=like.dtype, device=like.device)


def _waves(s: Tensor, order: int) -> Tensor:
    """cos 2πns of s (B, M) for n = 0, …, order, and before them sin 2π|n|s for n = −order, …, −1: (B, 2·order + 1, M).

    The derivative of number n is −2πn times number −n.
    """
    n = _numbers(order, s).unsqueeze(-1)
    return (2 * math.pi * n * s.unsqueeze(1) + 0.5 * math.pi * (n < 0).to(n)).cos()


def horner(coefficients: Tensor, u: Tensor) -> Tensor:
    """Σₖ aₖuᵏ, for coefficients (K,).

    Example:
        >>> horner(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([3.0]))
        tensor([19.])
    """
    *rest, value = coefficients.to(u).unbind()
    for a in reversed(rest):
        value = torch.addcmul(a, value, u)
    return value


def prolate(bandwidth: float) -> Legendre:
    """The prolate spheroidal wave function ψ on [−1, 1], the most concentrated below a frequency, with ∫₀¹ ψ = 1.

    It is the eigenfunction of lowest order of ((1 − t²)ψ′)′ − c²t²ψ, a tridiagonal matrix in Legendre polynomials.

    Args:
        bandwidth: c > 0.

    Returns:
        A Legendre series, even.

    Source: Prolate spheroidal wavefunctions, quadrature and interpolation, 2001, doi 10.1088/0266-5611/17/4/315.

    Example:
        >>> psi = prolate(10.0)
        >>> bool(psi(1.0) < 1e-3 * psi(0.0)), round(float(psi.integ(lbnd=0)(1.0)), 6)
        (True, 1.0)
    """
    k = 2.0 * np.arange(int(bandwidth) // 2 + 30)
    c2 = bandwidth**2
    diagonal = k * (k + 1) + c2 * (2 * k * (k + 1) - 1) / ((2 * k + 3) * (2 * k - 1))
    beside = c2 * (k + 2) * (k + 1) / ((2 * k + 3) * np.sqrt((2 * k + 1) * (2 * k + 5)))
    _, vector = eigh_tridiagonal(diagonal, beside[:-1], select="i", select_range=(0, 0))
    series = np.zeros(2 * len(k))
    series[::2] = vector[:, 0] * np.sqrt(k + 0.5)
    return Legendre(series / series[0])


def transform(series: Legendre, k: np.ndarray) -> np.ndarray:
    """∫₀¹ f(t) cos(kt) dt of an even series f, by Gauss quadrature.

    Example:
        >>> transform(Legendre([1.0]), np.array([0.0, np.pi])).round(12) + 0.0
        array([1., 0.])
    """
    nodes, weights = np.polynomial.legendre.leggauss(128)
    return sum(w * series(t) * np.cos(k * t) for t, w in zip(nodes[64:], weights[64:]))


def chebyshev_fit(function: Callable[[np.ndarray], np.ndarray], error: float) -> np.ndarray:
    """Coefficients of powers of u on [−1, 1], of the interpolant of a smooth function to `error` of its largest value.

    Example:
        >>> chebyshev_fit(np.exp, 1e-2).round(3)
        array([0.995, 0.997, 0.543, 0.177])
    """
    series = Chebyshev.interpolate(function, 64)
    size = np.abs(series.coef)
    kept = int(np.flatnonzero(size > max(error, 1e-15) * size.sum()).max())
    return series.truncate(kept + 1).convert(kind=Polynomial).coef
