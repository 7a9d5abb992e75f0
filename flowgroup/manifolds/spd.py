"""Symmetric positive-definite matrices under their metrics."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from flowgroup._checks import positive_integer, values_readable
from flowgroup.groups.base import LieGroup, MatrixLieGroup
from flowgroup.groups.pullback import PullbackGroup
from flowgroup.linalg import (
    Spectrum,
    exp_cholesky,
    expm,
    log_cholesky,
    logm,
    matrix_exp,
    powm,
    tril_log,
    unvech,
    vech,
)
from flowgroup.linalg.cholesky import cholesky, congruence, inverse_congruence
from flowgroup.linalg.scalar_functions import EXP, INV, LOG, LOG_SQUARED, LOG_SQUARED_SLOPE
from flowgroup.linalg.spectral import above_noise
from flowgroup.manifolds.base import Manifold, whole_shape
from flowgroup.manifolds.bures_wasserstein import BuresWassersteinSPD, PowerBuresWassersteinSPD
from flowgroup.manifolds.euclidean import Euclidean
from flowgroup.manifolds.karcher import Expansion
from flowgroup.manifolds.spd_matrices import SPDMatrices, half_differences, log_det_of_power, log_sinhc


def SPD(  # noqa: N802
    n: int, metric: str = "affine-invariant", theta: float = 1.0, alpha: float = 1.0, beta: float = 0.0
) -> Manifold:
    """Symmetric positive-definite matrices (n, n) under one of five metrics.

    | metric | d²(P, Q) | product |
    |---|---|---|
    | affine-invariant | α‖X‖² + β tr²X, X = log P^{−½}QP^{−½} | L_P Q L_Pᵀ, L_P = chol P |
    | cholesky-right-invariant | its twin under the right translations of that product | Q and P exchanged |
    | log-euclidean | α‖X‖² + β tr²X, X = log P − log Q | exp(log P + log Q) |
    | log-cholesky | ‖φ(P) − φ(Q)‖², φ = strict lower part of L plus log diag L | φ⁻¹(φ(P) + φ(Q)) |
    | bures-wasserstein | tr P + tr Q − 2 tr (P^½QP^½)^½ | none |

    All but the last are Lie groups. θ deforms a metric to d(P^θ, Q^θ)/|θ|, which leaves log-euclidean as it is.

    Args:
        n: size of the matrices.
        metric: one of the five names.
        theta: the power θ, not zero.
        alpha, beta: weights of the squared norm and of the squared trace, α > 0 and α + nβ > 0; for metrics where the
            table has them.

    Raises:
        ValueError: an unknown metric, θ = 0, or weights that the metric does not have or that are not positive.

    Source: A Lie Group Approach to Riemannian Batch Normalization, 2024, arXiv 2403.11261, table 2; for log-cholesky
    Riemannian Geometry of Symmetric Positive Definite Matrices via Cholesky Decomposition, 2019, arXiv 1908.09326.

    Example:
        >>> manifold = SPD(2, metric="log-euclidean")
        >>> P = torch.diag(torch.tensor([1.0, 4.0]))
        >>> torch.allclose(manifold.geodesic(torch.eye(2), P, 0.5), torch.diag(torch.tensor([1.0, 2.0])), atol=1e-6)
        True
    """
    positive_integer("n", n)
    if metric not in _METRICS:
        raise ValueError(f"metric must be one of {', '.join(_METRICS)}, got {metric!r}")
    if not (math.isfinite(theta) and theta != 0):
        raise ValueError(f"theta must be finite and not zero, got {theta}")
    if metric in ("log-cholesky", "bures-wasserstein"):
        if (alpha, beta) != (1.0, 0.0):
            raise ValueError(f"the {metric} metric has no alpha and beta, got alpha={alpha}, beta={beta}")
        return _METRICS[metric](n, theta)
    if not (alpha > 0 and alpha + n * beta > 0):
        raise ValueError(f"alpha and alpha + n·beta must be positive, got alpha={alpha}, beta={beta} with n={n}")
    return _METRICS[metric](n, theta, alpha, beta)


class AffineInvariantSPD(SPDMatrices, LieGroup):
    """⟨U, V⟩_P = α tr(P⁻¹UP⁻¹V) + β tr(P⁻¹U) tr(P⁻¹V), with the product P ⊙ Q = L_P Q L_Pᵀ, L_P = chol P.

    As a group it is that of lower triangular matrices with positive diagonal, seen through L ↦ LLᵀ. Left translations
    are isometries; right ones are not, so geodesics through the identity, exp(tU), are not its one-parameter
    subgroups, which `exp` gives. `transp` is parallel transport.
    """

    def __init__(self, n: int, alpha: float = 1.0, beta: float = 0.0):
        super().__init__(n * (n + 1) // 2, (n, n))
        self.n, self.alpha, self.beta = n, alpha, beta

    def identity(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        return torch.eye(self.n, dtype=dtype, device=device).expand(whole_shape(size, self.event_shape)).clone()

    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        return congruence(cholesky(g), h)

    def inverse(self, g: Tensor) -> Tensor:
        """L⁻¹L⁻ᵀ."""
        return inverse_congruence(cholesky(g), torch.eye(self.n, dtype=g.dtype, device=g.device))

    def left_divide(self, g: Tensor, h: Tensor) -> Tensor:
        return inverse_congruence(cholesky(g), h)

    def act(self, g: Tensor, x: Tensor) -> Tensor:
        """L_g x, for column vectors x (..., n)."""
        return (cholesky(g) @ x.unsqueeze(-1)).squeeze(-1)

    def dilation(self, g: Tensor) -> tuple[Tensor, Callable[[Tensor | float], Tensor]]:
        spectrum = Spectrum(g)
        squared = self.alpha * spectrum.trace(LOG_SQUARED, LOG_SQUARED_SLOPE)
        if self.beta:
            squared = squared + self.beta * spectrum.trace(LOG, INV).square()
        return squared, spectrum.power

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        squared = self._squared(logm(self.left_divide(x, y)))
        distance = torch.where(squared > 0, torch.where(squared > 0, squared, 1).sqrt(), 0)
        return self._over_event(distance) if keepdim else distance

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        L = cholesky(x)
        a = inverse_congruence(L, u)
        product = self._inner_at_identity(a, a if v is None else inverse_congruence(L, v))
        return self._over_event(product) if keepdim else product

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """L exp(L⁻¹UL⁻ᵀ) Lᵀ."""
        L = cholesky(x)
        return congruence(L, expm(inverse_congruence(L, u)))

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """L log(L⁻¹QL⁻ᵀ) Lᵀ."""
        L = cholesky(x)
        return congruence(L, logm(inverse_congruence(L, y)))

    def geodesic(self, x: Tensor, y: Tensor, t: Tensor | float) -> Tensor:
        """L (L⁻¹QL⁻ᵀ)ᵗ Lᵀ."""
        L = cholesky(x)
        return congruence(L, Spectrum(inverse_congruence(L, y)).power(t))

    def _chart(self, m: Tensor) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Tensor]:
        L = cholesky(m)
        e = torch.eye(self.n, dtype=m.dtype, device=m.device)
        return lambda x: logm(inverse_congruence(L, x)), lambda u: congruence(L, expm(u)), e

    def _expansion(self, m: Tensor, x: Tensor, average: Callable[[Tensor], Tensor]) -> Expansion:
        """With L⁻¹QL⁻ᵀ = V diag(eˡ) Vᵀ the Hessian of ½d² is U ↦ V(C ∘ VᵀUV)Vᵀ, Cᵢⱼ = δ coth δ, 2δ = |lᵢ − lⱼ|."""
        spectrum = Spectrum(inverse_congruence(cholesky(m), x))
        log, V = above_noise(spectrum.eigenvalues).log(), spectrum.eigenvectors
        C = (log.unsqueeze(-1) - log.unsqueeze(-2)).abs_().clamp_min_(torch.finfo(x.dtype).tiny)
        C = C.expm1().reciprocal_().add_(0.5).mul_(C)
        squared = self.alpha * log.square().sum(-1)
        if self.beta:
            squared = squared + self.beta * log.sum(-1).square()
        gradient = average((V * log.unsqueeze(-2)) @ V.mT)

        def hessian(U: Tensor) -> Tensor:
            return average(V @ (V.mT @ U @ V).mul_(C) @ V.mT)

        return Expansion(0.5 * average(squared), gradient, self._inner_at_identity, hessian, 0.5 / self.alpha)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """EVEᵀ, E = (QP⁻¹)^½: parallel transport along the geodesic."""
        L = cholesky(x)
        root = Spectrum(inverse_congruence(L, y)).sqrt()
        return congruence(L, root @ inverse_congruence(L, v) @ root)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """(PUP − β/(α + nβ) tr(PU) P)/α, U symmetric."""
        PU = x @ (0.5 * (u + u.mT))
        trace = PU.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        return (PU @ x - self.beta / (self.alpha + self.n * self.beta) * trace * x) / self.alpha

    def log_abs_det_expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """Σᵢ<ⱼ log(sinh(δ/2)/(δ/2)), δ the differences of the eigenvalues of L⁻¹UL⁻ᵀ."""
        w = Spectrum(inverse_congruence(cholesky(x), u)).values()
        return log_sinhc(half_differences(w)).sum(-1)

    proju = SPDMatrices.proju
    random = SPDMatrices.random

    def log_volume_density(self, x: Tensor) -> Tensor:
        """c − (n + 1) Σᵢ log Lᵢᵢ."""
        at_identity = _log_volume_at_identity(self.n, self.alpha, self.beta)
        return at_identity - (self.n + 1) * _log_diagonal(cholesky(x)).sum(-1)

    def exp(self, v: Tensor) -> Tensor:
        L = matrix_exp(self.hat(v))
        return L @ L.mT

    def log(self, g: Tensor) -> Tensor:
        return self.vee(tril_log(cholesky(g)))

    def hat(self, v: Tensor) -> Tensor:
        """The lower triangular H with H + Hᵀ the symmetric matrix of v, which is d/dt exp(tv) at t = 0."""
        U = self._symmetric(v)
        return U.tril(-1) + 0.5 * torch.diag_embed(U.diagonal(dim1=-2, dim2=-1))

    def vee(self, X: Tensor) -> Tensor:
        H = X.tril()
        return self._vector(H + H.mT)

    def tangent(self, g: Tensor, v: Tensor) -> Tensor:
        return congruence(cholesky(g), self._symmetric(v))

    def coordinates(self, g: Tensor, u: Tensor) -> Tensor:
        return self._vector(inverse_congruence(cholesky(g), 0.5 * (u + u.mT)))

    def adjoint(self, g: Tensor) -> Tensor:
        """Columns vee(L·hat(eᵢ)·L⁻¹)."""
        L = cholesky(g).unsqueeze(-3)
        basis = self.hat(torch.eye(self.dim, dtype=g.dtype, device=g.device))
        return self.vee(torch.linalg.solve_triangular(L, L @ basis, upper=False, left=False)).mT

    bracket = MatrixLieGroup.bracket

    def extra_repr(self) -> str:
        return f"{self.n}" + _weights(self.alpha, self.beta)

    def _symmetric(self, v: Tensor) -> Tensor:
        return _from_frobenius(unvech(v), self.alpha, self.beta)

    def _vector(self, U: Tensor) -> Tensor:
        return vech(_to_frobenius(U, self.alpha, self.beta))

    def _squared(self, X: Tensor) -> Tensor:
        return self._inner_at_identity(X, X)

    def _inner_at_identity(self, X: Tensor, Y: Tensor) -> Tensor:
        product = self.alpha * (X * Y).sum((-2, -1))
        if self.beta == 0:
            return product
        return product + self.beta * _trace(X) * _trace(Y)


class PowerSPD(SPDMatrices, PullbackGroup):
    """The deformation d(P^θ, Q^θ)/|θ| of an affine-invariant metric, of which α and β carry the 1/θ²."""

    def __init__(self, n: int, theta: float, alpha: float = 1.0, beta: float = 0.0):
        super().__init__(AffineInvariantSPD(n, alpha / theta**2, beta / theta**2), (n, n))
        self.theta = theta

    def to_model(self, x: Tensor) -> Tensor:
        return _power(x, self.theta)

    def from_model(self, y: Tensor) -> Tensor:
        return powm(y, 1 / self.theta)

    def log_volume_density(self, x: Tensor) -> Tensor:
        """The one of the model at P^θ, plus log|det| of the power."""
        spectrum = Spectrum(x)
        return self.model.log_volume_density(spectrum.power(self.theta)) + log_det_of_power(spectrum, self.theta)

    def extra_repr(self) -> str:
        weights = (w * self.theta**2 for w in (self.model.alpha, self.model.beta))
        return f"{self.model.n}, theta={self.theta:g}" + _weights(*weights)


class CholeskyRightInvariantSPD(PowerSPD):
    """The twin of the affine-invariant metric that right translations by Cholesky factors keep: its pullback by
    P = LLᵀ ↦ L⁻¹L⁻ᵀ.

    That map turns products around, so here P ⊙ Q = L_Q P L_Qᵀ, with which translations from the left are isometries.

    It also turns eigenvectors towards the axes, so matrices that lie about each other in all directions go to ones that
    are much alike. A few others among them then are very far from the mean: what is lost in rounding grows with the
    condition number of a point as seen from the mean, which may be the square of its own.
    """

    def to_model(self, x: Tensor) -> Tensor:
        return self.model.inverse(_power(x, self.theta))

    def from_model(self, y: Tensor) -> Tensor:
        return powm(self.model.inverse(y), 1 / self.theta)

    def log_volume_density(self, x: Tensor) -> Tensor:
        """The one of its twin plus Σᵢ (2i − n − 1) log Lᵢᵢ, i from 1: left and right Haar measures differ by that."""
        n = self.model.n
        share = torch.arange(1 - n, n, 2, dtype=x.dtype, device=x.device)
        return super().log_volume_density(x) + (share * _log_diagonal(cholesky(powm(x, self.theta)))).sum(-1)


class LogEuclideanSPD(SPDMatrices, PullbackGroup):
    """Flat through P ↦ log P: products add logarithms, means average them."""

    def __init__(self, n: int, alpha: float = 1.0, beta: float = 0.0):
        super().__init__(Euclidean(n * (n + 1) // 2), (n, n))
        self.n, self.alpha, self.beta = n, alpha, beta

    def to_model(self, x: Tensor) -> Tensor:
        return self._vector(logm(x))

    def from_model(self, y: Tensor) -> Tensor:
        return expm(self._symmetric(y))

    def push(self, x: Tensor, u: Tensor) -> Tensor:
        return self._vector(Spectrum(x).derivative(LOG, u))

    def pull(self, y: Tensor, w: Tensor) -> Tensor:
        return Spectrum(self._symmetric(y)).derivative(EXP, self._symmetric(w))

    def extra_repr(self) -> str:
        return f"{self.n}" + _weights(self.alpha, self.beta)

    def log_volume_density(self, x: Tensor) -> Tensor:
        """c − ½(n + 1) log det P − Σᵢ<ⱼ log(sinh(δ/2)/(δ/2)), δ the differences of the eigenvalues of log P."""
        log = Spectrum(x).values().log()
        at_identity = _log_volume_at_identity(self.n, self.alpha, self.beta)
        return at_identity - 0.5 * (self.n + 1) * log.sum(-1) - log_sinhc(half_differences(log)).sum(-1)

    _symmetric, _vector = AffineInvariantSPD._symmetric, AffineInvariantSPD._vector


class LogCholeskySPD(SPDMatrices, PullbackGroup):
    """Flat through P = LLᵀ ↦ strict lower part of L plus log diag L; θ first takes P to P^θ.

    With θ = 1 nothing but a Cholesky factor is computed.
    """

    def __init__(self, n: int, theta: float = 1.0):
        super().__init__(Euclidean(n * (n + 1) // 2), (n, n))
        self.n, self.theta = n, theta

    def to_model(self, x: Tensor) -> Tensor:
        """log diag L, then the entries of L below it row by row, all over θ."""
        v = log_cholesky(_power(x, self.theta))
        return v if self.theta == 1 else v / self.theta

    def from_model(self, y: Tensor) -> Tensor:
        return powm(exp_cholesky(y if self.theta == 1 else self.theta * y), 1 / self.theta)

    def settled(self, x: Tensor) -> Tensor:
        """Where x has no Cholesky factor for its roundings, its diagonal 1 + 4nε times as large.

        Between matrices of very different size geodesics pass some that are singular to rounding: the lower triangle
        grows linearly, its diagonal only by a power.
        """
        info = torch.linalg.cholesky_ex(x.detach()).info
        if values_readable(x) and x.device.type == "cpu" and not info.any():
            return x
        share = 4 * self.n * torch.finfo(x.dtype).eps
        fails = (info != 0)[..., None, None]
        return torch.where(fails, x + share * torch.diag_embed(x.diagonal(dim1=-2, dim2=-1)), x)

    def extra_repr(self) -> str:
        return f"{self.n}" + ("" if self.theta == 1 else f", theta={self.theta:g}")

    def log_volume_density(self, x: Tensor) -> Tensor:
        """−Σᵢ (n − i + 2) log Lᵢᵢ − n log 2, i from 1 and LLᵀ = P^θ, plus log|det| of the power less dim·log|θ|."""
        spectrum = None if self.theta == 1 else Spectrum(x)
        log = _log_diagonal(cholesky(x if spectrum is None else spectrum.power(self.theta)))
        share = torch.arange(self.n + 1, 1, -1, dtype=x.dtype, device=x.device)
        density = -(share * log).sum(-1) - self.n * math.log(2)
        if spectrum is None:
            return density
        return density + log_det_of_power(spectrum, self.theta) - self.dim * math.log(abs(self.theta))


def _power(x: Tensor, theta: float) -> Tensor:
    """P^θ with eigenvalues below rounding raised to it, so that it has a Cholesky factor where P hardly has one."""
    if theta == 1:
        return x
    spectrum = Spectrum(x)
    return Spectrum.of(x, above_noise(spectrum.eigenvalues), spectrum.eigenvectors).power(theta)


def _trace(X: Tensor) -> Tensor:
    return X.diagonal(dim1=-2, dim2=-1).sum(-1)


def _log_diagonal(L: Tensor) -> Tensor:
    return L.diagonal(dim1=-2, dim2=-1).log()


def _log_volume_at_identity(n: int, alpha: float, beta: float) -> float:
    """log √det of α⟨U, V⟩ + β tr U tr V in the entries i ≥ j."""
    dim = n * (n + 1) // 2
    metric = (dim - 1) * math.log(alpha) + math.log(alpha + n * beta)
    return 0.5 * metric + 0.25 * n * (n - 1) * math.log(2)


def add_trace(X: Tensor, share: float) -> Tensor:
    """X + share·tr(X)·1."""
    return X + share * _trace(X)[..., None, None] * torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)


def _to_frobenius(U: Tensor, alpha: float, beta: float) -> Tensor:
    """X with ‖X‖² = α‖U‖² + β tr²U."""
    n, a = U.shape[-1], math.sqrt(alpha)
    U = U if beta == 0 else add_trace(U, (math.sqrt(alpha + n * beta) / a - 1) / n)
    return U if alpha == 1 else a * U


def _from_frobenius(X: Tensor, alpha: float, beta: float) -> Tensor:
    """U with ‖X‖² = α‖U‖² + β tr²U."""
    n, a = X.shape[-1], math.sqrt(alpha)
    X = X if beta == 0 else add_trace(X, (a / math.sqrt(alpha + n * beta) - 1) / n)
    return X if alpha == 1 else X / a


def _weights(alpha: float, beta: float) -> str:
    return ("" if alpha == 1 else f", alpha={alpha:g}") + ("" if beta == 0 else f", beta={beta:g}")


def _affine_invariant(n: int, theta: float, alpha: float, beta: float) -> Manifold:
    return AffineInvariantSPD(n, alpha, beta) if theta == 1 else PowerSPD(n, theta, alpha, beta)


def _bures_wasserstein(n: int, theta: float) -> Manifold:
    return BuresWassersteinSPD(n) if theta == 1 else PowerBuresWassersteinSPD(n, theta)


_METRICS: dict[str, Callable[..., Manifold]] = {
    "affine-invariant": _affine_invariant,
    "cholesky-right-invariant": CholeskyRightInvariantSPD,
    "log-euclidean": lambda n, theta, alpha, beta: LogEuclideanSPD(n, alpha, beta),
    "log-cholesky": LogCholeskySPD,
    "bures-wasserstein": _bures_wasserstein,
}
