"""Symmetric positive-definite matrices with the distance of optimal transport between centred normal distributions."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from flowgroup.linalg import Spectrum, lyapunov, powm, sylvester
from flowgroup.manifolds.base import whole_shape
from flowgroup.manifolds.pullback import Pullback
from flowgroup.manifolds.spd_matrices import SPDMatrices, log_det_of_power

TRANSPORT_STEPS = 3
"""Steps of sixth order in which parallel transport follows a geodesic."""

# Kahan and Li's symmetric composition of nine midpoint steps, of order six
_STAGES = (0.39216144400731413928, 0.33259913678935943860, -0.70624617255763935981, 0.08221359629355080023)
_STAGES = (*_STAGES, 1 - 2 * sum(_STAGES), *reversed(_STAGES))
_TIMES = [0.0, *itertools.accumulate(s / TRANSPORT_STEPS for _ in range(TRANSPORT_STEPS) for s in _STAGES)]


class BuresWassersteinSPD(SPDMatrices):
    """d²(P, Q) = tr P + tr Q − 2 tr (P^½QP^½)^½, the least of |A − B|² over AAᵀ = P and BBᵀ = Q.

    ⟨U, V⟩_P = ½ tr(XV), where XP + PX = U. Geodesics (1 + tX)P(1 + tX) end where 1 + tX is no longer positive, at a
    distance √λ_min(P) in the worst direction: that is the injectivity radius at P, and `injectivity_radius` is the one
    at the points that `random` gives, of which no eigenvalue is below ¼.

    Args:
        n: size of the matrices.

    Source: On the Bures–Wasserstein distance between positive definite matrices, 2017, arXiv 1712.01504; for the
    transport Bures–Wasserstein minimizing geodesics between covariance matrices of different ranks, 2022,
    arXiv 2204.09928, of which the equation is solved here in the space of factors.

    Example:
        >>> manifold = BuresWassersteinSPD(2)
        >>> P, Q = torch.diag(torch.tensor([1.0, 4.0])), torch.diag(torch.tensor([4.0, 9.0]))
        >>> manifold.dist(P, Q)
        tensor(1.4142)
        >>> manifold.geodesic(P, Q, 0.5).diagonal()
        tensor([2.2500, 6.2500])
    """

    injectivity_radius = 0.5

    def __init__(self, n: int):
        super().__init__(n * (n + 1) // 2, (n, n))
        self.n = n

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """(1 + X)P(1 + X), XP + PX = U."""
        B = self._eye(x) + lyapunov(x, 0.5 * (u + u.mT))
        return _symmetric(B @ x @ B)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """P^{−½}EP^½ + its transpose, E = (P^½QP^½)^½ − P."""
        P = Spectrum(x)
        half = P.inv_sqrt() @ _excess(P, y) @ P.sqrt()
        return half + half.mT

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """|P^{−½}E|, E = (P^½QP^½)^½ − P."""
        P = Spectrum(x)
        squared = (P.inv_sqrt() @ _excess(P, y)).square().sum((-2, -1))
        distance = torch.where(squared > 0, torch.where(squared > 0, squared, 1).sqrt(), 0)
        return self._over_event(distance) if keepdim else distance

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        """½ tr(XV), XP + PX = U."""
        u = _symmetric(u)
        product = 0.5 * (lyapunov(x, u) * (u if v is None else _symmetric(v))).sum((-2, -1))
        return self._over_event(product) if keepdim else product

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """2(GP + PG), G the symmetric part of the gradient."""
        half = (u + u.mT) @ x
        return half + half.mT

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport along the geodesic, an isometry to rounding or, of points far apart, to 1e-12.

        Its error is about 1e-10 within nine tenths of the injectivity radius, and 2e-8 between points that `random`
        gives.

        A geodesic is AAᵀ for a line A(t) = A + tH of factors. A vector YAᵀ + AYᵀ is parallel along it while AᵀY stays
        symmetric and Y′ = AΩ, Ω skew, which has no closed form. The midpoint rule, in a composition of order six with
        9·`TRANSPORT_STEPS` steps, gives a linear map T that its reverse undoes; the isometry next to it,
        T(T*T)^{−½} = T(3 − T*T)/2, is the result.
        """
        x, y, v = torch.broadcast_tensors(x, y, v)
        P = Spectrum(x)
        A, inverse = P.sqrt(), P.inv_sqrt()
        H = inverse @ _excess(P, y)
        # the equations for Ω, AᵀAΩ + ΩAᵀA = YᵀH − HᵀY, have matrices A(middle)ᵀA(end) when solved for a whole step
        times = torch.tensor(_TIMES, dtype=x.dtype, device=x.device)[:, None, None]
        middle, end = (A.unsqueeze(-3) + t * H.unsqueeze(-3) for t in (0.5 * (times[:-1] + times[1:]), times[1:]))
        gram = Spectrum(_symmetric(middle.mT @ end))
        grams = [
            Spectrum.of(*parts)
            for parts in zip(gram.matrix.unbind(-3), gram.eigenvalues.unbind(-2), gram.eigenvectors.unbind(-3))
        ]
        steps = list(zip((b - a for a, b in itertools.pairwise(_TIMES)), middle.unbind(-3), grams))

        def there(Y: Tensor) -> Tensor:
            for h, M, gram in steps:
                turn = Y.mT @ H
                Y = Y + h * M @ lyapunov(gram, turn - turn.mT)
            return Y

        def adjoint(Y: Tensor) -> Tensor:
            for h, M, gram in reversed(steps):
                turn = M.mT @ Y
                Y = Y - h * H @ lyapunov(gram, turn - turn.mT)
            half = Y @ A
            return lyapunov(P, half + half.mT) @ A

        Y = lyapunov(P, _symmetric(v)) @ A
        Y = there(1.5 * Y - 0.5 * adjoint(there(Y)))
        half = Y @ (A + H).mT
        return half + half.mT

    def log_abs_det_expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """Σᵢ≤ⱼ log((mᵢ + mⱼ)/√((pᵢ + pⱼ)(qᵢ + qⱼ))), the eigenvalues of P^½(1 + X)P^½, P and Q = exp_P(U)."""
        P = Spectrum(x)
        R = P.sqrt()
        B = self._eye(x) + lyapunov(P, _symmetric(u))
        M, Q = Spectrum(_symmetric(R @ B @ R)), Spectrum(_symmetric(B @ x @ B))
        return _log_pairs(M) - 0.5 * (_log_pairs(P) + _log_pairs(Q))

    def log_volume_density(self, x: Tensor) -> Tensor:
        """−½ Σᵢ≤ⱼ log(pᵢ + pⱼ) − ½n log 2; see `SPDMatrices.log_volume_density`."""
        return -0.5 * _log_pairs(Spectrum(x)) - 0.5 * self.n * math.log(2)

    def random(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        """¼ + GGᵀ/n, G standard normal."""
        G = torch.randn(whole_shape(size, self.event_shape), dtype=dtype, device=device)
        return 0.25 * self._eye(G) + G @ G.mT / self.n

    def origin(self, *size: int, dtype: torch.dtype | None = None, device=None, seed: int | None = None) -> Tensor:
        """The identity matrix; `seed` is there for geoopt and has no effect."""
        return torch.eye(self.n, dtype=dtype, device=device).expand(whole_shape(size, self.event_shape)).clone()

    def extra_repr(self) -> str:
        return str(self.n)

    def _eye(self, like: Tensor) -> Tensor:
        return torch.eye(self.n, dtype=like.dtype, device=like.device)


class PowerBuresWassersteinSPD(SPDMatrices, Pullback):
    """The deformation d(P^θ, Q^θ)/|θ| = d(P^θ/θ², Q^θ/θ²) of the Bures–Wasserstein distance.

    Args:
        n: size of the matrices.
        theta: θ, not zero.
    """

    random = Pullback.random

    def __init__(self, n: int, theta: float):
        super().__init__(BuresWassersteinSPD(n), (n, n))
        self.n, self.theta = n, theta

    def to_model(self, x: Tensor) -> Tensor:
        return powm(x, self.theta) / self.theta**2

    def from_model(self, y: Tensor) -> Tensor:
        return powm(self.theta**2 * y, 1 / self.theta)

    def log_volume_density(self, x: Tensor) -> Tensor:
        """The one of Bures–Wasserstein at P^θ/θ², plus log|det| of that map."""
        spectrum = Spectrum(x)
        scale = 2 * self.dim * math.log(abs(self.theta))
        at = self.model.log_volume_density(spectrum.power(self.theta) / self.theta**2)
        return at + log_det_of_power(spectrum, self.theta) - scale

    def extra_repr(self) -> str:
        return f"{self.n}, theta={self.theta:g}"


def _excess(P: Spectrum, Q: Tensor) -> Tensor:
    """E = M − P, M = (P^½QP^½)^½, from ME + EP = P^½(Q − P)P^½: no digits are lost where Q is close to P."""
    R = P.sqrt()
    inside = Spectrum(_symmetric(R @ Q @ R))
    M = Spectrum.of(inside.sqrt(), inside.eigenvalues.clamp(min=0).sqrt(), inside.eigenvectors)
    return sylvester(M, P, R @ (Q - P.matrix) @ R)


def _log_pairs(spectrum: Spectrum) -> Tensor:
    """Σᵢ≤ⱼ log(wᵢ + wⱼ)."""
    w = spectrum.values()
    i, j = torch.tril_indices(w.shape[-1], w.shape[-1], device=w.device)
    return (w[..., i] + w[..., j]).log().sum(-1)


def _symmetric(X: Tensor) -> Tensor:
    return 0.5 * (X + X.mT)
