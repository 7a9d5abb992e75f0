"""Correlation matrices under four flat metrics."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from flowgroup._checks import positive_integer
from flowgroup.groups.pullback import PullbackGroup
from flowgroup.linalg import (
    Spectrum,
    expm,
    from_tril_vector,
    logm,
    tril_vector,
    unitriangular_exp,
    unitriangular_log,
    unvech,
    vech,
)
from flowgroup.linalg.cholesky import cholesky
from flowgroup.linalg.scalar_functions import EXP, LOG
from flowgroup.manifolds.euclidean import Euclidean

OFF_LOG_STEPS = 10
"""Most Newton steps of the off-log metric, an eigen-decomposition each; condition numbers of 1e13 need nine."""

LOG_SCALED_STEPS = 22
"""Most Newton steps of the log-scaled metric, a Cholesky factor each; condition numbers of 1e12 need 21."""


def Correlation(n: int, metric: str = "ecm") -> CorrelationMatrices:  # noqa: N802
    """Correlation matrices (n, n) under one of four metrics, each flat: d(C, C′) = |φ(C) − φ(C′)|.

    | metric | φ(C), with C = LLᵀ and D = diag L |
    |---|---|
    | ecm, Euclidean–Cholesky | the strict lower part of D⁻¹L |
    | lecm, log-Euclidean–Cholesky | log(D⁻¹L) |
    | olm, off-log | log C without its diagonal |
    | lsm, log-scaled | log(ΔCΔ), Δ > 0 diagonal and such that the rows of ΔCΔ sum to one |

    All are abelian Lie groups, C ⊙ C′ = φ⁻¹(φ(C) + φ(C′)), with the identity matrix for their identity. The norm is
    Frobenius's, where symmetric matrices count both triangles.

    Args:
        n: size of the matrices, at least 2.
        metric: one of the four names.

    Raises:
        ValueError: an unknown metric, or n below 2.

    Source: Theoretically and computationally convenient geometries on full-rank correlation matrices, 2022,
    arXiv 2201.06282 (ecm, lecm); Permutation-invariant log-Euclidean geometries on full-rank correlation matrices,
    2024, Thanwerdas (olm, lsm).

    Example:
        >>> manifold = Correlation(2, metric="olm")
        >>> C = torch.tensor([[1.0, 0.6], [0.6, 1.0]])
        >>> torch.allclose(manifold.log(C), 2**0.5 * torch.tensor([0.6]).atanh())
        True
        >>> torch.allclose(manifold.compose(C, manifold.inverse(C)), torch.eye(2))
        True
    """
    if metric not in _METRICS:
        raise ValueError(f"metric must be one of {', '.join(_METRICS)}, got {metric!r}")
    return _METRICS[metric](n)


class CorrelationMatrices(PullbackGroup):
    """Symmetric positive-definite matrices (n, n) with ones on the diagonal, flat through a chart φ into ℝⁿ⁽ⁿ⁻¹⁾ᐟ².

    Tangent vectors are the symmetric matrices with zeros on the diagonal. Random points are φ⁻¹ of normal vectors whose
    entries have standard deviation ½. A subclass gives `to_model`, φ into orthonormal coordinates, and `from_model`.

    Args:
        n: size of the matrices, at least 2.
    """

    def __init__(self, n: int):
        if positive_integer("n", n) < 2:
            raise ValueError(f"n must be at least 2, got {n}")
        super().__init__(Euclidean(n * (n - 1) // 2), (n, n))
        self.n = n

    def contains(self, x: Tensor) -> Tensor:
        """Symmetric and with a diagonal of ones, both up to √ε, and with a Cholesky factor."""
        finite = torch.isfinite(x).all(-1).all(-1)
        eye = torch.eye(self.n, dtype=x.dtype, device=x.device)
        x = torch.where(finite[..., None, None], x, eye)
        root = torch.finfo(x.dtype).eps ** 0.5
        asymmetry, off_one = ((a.abs()).amax((-2, -1)) for a in (x - x.mT, (x - eye) * eye))
        return finite & (asymmetry <= root) & (off_one <= root) & (torch.linalg.cholesky_ex(x).info == 0)

    def _fault(self, x: Tensor) -> str:
        if not x.isfinite().all():
            return "holds NaN or infinite values"
        root = torch.finfo(x.dtype).eps ** 0.5
        asymmetry, off_one = (x - x.mT).abs().max().item(), (x.diagonal() - 1).abs().max().item()
        if asymmetry > root:
            return f"is not symmetric: it differs from its transpose by up to {asymmetry:.3g}"
        if off_one > root:
            return f"has no unit diagonal: it differs from ones by up to {off_one:.3g}"
        smallest = torch.linalg.eigvalsh(x)[0].item()
        return f"is not positive definite: its smallest eigenvalue is {smallest:.3g}"

    def _check_point_on_manifold(self, x: Tensor, *, atol=1e-5, rtol=1e-5) -> tuple[bool, str | None]:
        fault = self.why_not(x)
        return fault is None, fault

    def projx(self, x: Tensor) -> Tensor:
        """The symmetric part, its eigenvalues raised to what a correlation matrix may have, scaled to unit diagonal."""
        info = torch.finfo(x.dtype)
        spectrum = Spectrum(0.5 * (x + x.mT))
        w, V = spectrum.eigenvalues, spectrum.eigenvectors
        variance = (V.square() * w.clamp(min=0).unsqueeze(-2)).sum(-1).amax(-1, keepdim=True)
        floor = (4 * self.n * info.eps * variance).clamp(min=info.tiny)
        raised = (V * torch.maximum(w, floor).unsqueeze(-2)) @ V.mT
        return _unit_diagonal(torch.where((w < floor).any(-1)[..., None, None], raised, spectrum.matrix))

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """The symmetric part without its diagonal."""
        u = 0.5 * (u + u.mT)
        return torch.broadcast_tensors(u.tril(-1) + u.triu(1), x)[0]

    def random(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        """φ⁻¹ of normal vectors whose entries have standard deviation ½."""
        return self.from_model(0.5 * self.model.random(*self._model_size(size), dtype=dtype, device=device))

    def log_volume_density(self, x: Tensor) -> Tensor:
        """log √det g with respect to Lebesgue measure on the entries Cᵢⱼ, i > j: log|det dφ|.

        So log p of a density with respect to the Riemannian volume, plus this, is that of the one with respect to the
        entries.

        Args:
            x: points (..., n, n).

        Returns:
            Tensor of the batch shape.

        Example:
            >>> Correlation(3, metric="ecm").log_volume_density(torch.eye(3))
            tensor(0.)
        """
        half = _from_strict_vector(torch.eye(self.dim, dtype=x.dtype, device=x.device))
        return torch.linalg.slogdet(self.push(x.unsqueeze(-3), half + half.mT)).logabsdet

    def extra_repr(self) -> str:
        return str(self.n)


class EuclideanCholeskyCorrelation(CorrelationMatrices):
    """φ(C) is the strict lower part of D⁻¹L, C = LLᵀ, D = diag L.

    Example:
        >>> EuclideanCholeskyCorrelation(2).log(torch.tensor([[1.0, 0.6], [0.6, 1.0]]))
        tensor([0.7500])
    """

    def to_model(self, x: Tensor) -> Tensor:
        return _strict_vector(_unit_triangular(x))

    def from_model(self, y: Tensor) -> Tensor:
        eye = torch.eye(self.n, dtype=y.dtype, device=y.device)
        return _from_factor(_from_strict_vector(y) + eye)


class LogEuclideanCholeskyCorrelation(CorrelationMatrices):
    """φ(C) = log(D⁻¹L), C = LLᵀ, D = diag L: a sum of n − 1 powers.

    Example:
        >>> LogEuclideanCholeskyCorrelation(2).log(torch.tensor([[1.0, 0.6], [0.6, 1.0]]))
        tensor([0.7500])
    """

    def to_model(self, x: Tensor) -> Tensor:
        return _strict_vector(unitriangular_log(_unit_triangular(x)))

    def from_model(self, y: Tensor) -> Tensor:
        return _from_factor(unitriangular_exp(_from_strict_vector(y)))


class OffLogCorrelation(CorrelationMatrices):
    """φ(C) is log C without its diagonal; of given V, one diagonal Δ makes the diagonal of exp(V + Δ) one.

    Δ is the minimum of tr exp(V + Δ) − tr Δ, which is convex. Newton's method finds it to rounding, and its
    derivatives, first and second, are those of the implicit function.

    Example:
        >>> C = OffLogCorrelation(3).exp(torch.tensor([0.5, 1.0, -0.5], dtype=torch.float64))
        >>> torch.allclose(C.diagonal(), torch.ones(3, dtype=torch.float64), atol=1e-14)
        True

    Source: A new parametrization of correlation matrices, 2021, Archakov and Hansen, arXiv 2012.02395.
    """

    def to_model(self, x: Tensor) -> Tensor:
        return _off_vector(logm(x))

    def push(self, x: Tensor, u: Tensor) -> Tensor:
        return _off_vector(Spectrum(x).derivative(LOG, u))

    def from_model(self, y: Tensor) -> Tensor:
        return self._exponent(y, derivatives=2)[0].exp()

    def pull(self, y: Tensor, w: Tensor) -> Tensor:
        """Dexp(V + Δ)[W + Δ′], Δ′ the diagonal with which the diagonal of this is zero."""
        y, w = torch.broadcast_tensors(y, w)
        spectrum, factor = self._exponent(y, derivatives=1)
        U = _from_off_vector(w)
        for _ in range(2):  # the solution, and its derivative
            change = spectrum.derivative(EXP, U).diagonal(dim1=-2, dim2=-1)
            U = U - torch.diag_embed(_newton_step(factor, change))
        return spectrum.derivative(EXP, U)

    @staticmethod
    def _exponent(y: Tensor, derivatives: int) -> tuple[Spectrum, tuple[Tensor, Tensor]]:
        """The spectrum of V + Δ with so many derivatives in y, and what `_newton_step` takes."""
        V = _from_off_vector(y)
        diagonal, w, U, *factor = _solve_unit_diagonal(V.detach())

        def spectrum() -> Spectrum:
            return Spectrum.of(V + torch.diag_embed(diagonal), w, U)

        # Each step from the solution, with its Jacobian held fixed, makes one more derivative right. All matrices have
        # the value of the first: one decomposition serves them.
        for _ in range(derivatives):
            diagonal = diagonal - _newton_step(factor, _log_diagonal(spectrum().exp()))
        return spectrum(), tuple(factor)


class LogScaledCorrelation(CorrelationMatrices):
    """φ(C) = log(ΔCΔ), Δ = diag d > 0 and the rows of ΔCΔ sum to one; φ⁻¹(V) is exp V scaled to unit diagonal.

    d is the minimum of ½dᵀCd − Σ log d, which is convex. Newton's method finds it to rounding, and its derivatives,
    first and second, are those of the implicit function. φ(C) has rows that sum to zero: its coordinates are those of
    QᵀφQ, the columns of Q an orthonormal basis of the vectors that do.

    Example:
        >>> C = torch.tensor([[1.0, 0.6], [0.6, 1.0]])
        >>> torch.allclose(LogScaledCorrelation(2).log(C), torch.tensor([0.25]).log())
        True
    """

    def to_model(self, x: Tensor) -> Tensor:
        Q = _complement_of_ones(self.n, x)
        return vech(logm(Q.mT @ _scaled(x, self._scale(x, derivatives=2)) @ Q))

    def push(self, x: Tensor, u: Tensor) -> Tensor:
        """Dlog(A)[ΔUΔ + RA + AR], A = ΔCΔ, R the diagonal that leaves the sums of rows alone."""
        d = self._scale(x, derivatives=1)
        A, U = _scaled(x, d), _scaled(u, d)
        eye = torch.eye(self.n, dtype=x.dtype, device=x.device)
        r = -torch.linalg.solve(A + eye, U.sum(-1, keepdim=True)).squeeze(-1)
        Q = _complement_of_ones(self.n, x)
        change = U + (r.unsqueeze(-1) + r.unsqueeze(-2)) * A
        return vech(Spectrum(Q.mT @ A @ Q).derivative(LOG, Q.mT @ change @ Q))

    @staticmethod
    def _scale(x: Tensor, derivatives: int) -> Tensor:
        """d with so many derivatives in x, by steps as in `OffLogCorrelation`."""
        start, factor = _solve_unit_rows(x.detach())
        d = start
        for _ in range(derivatives):
            residual = 1 - d * (x @ d.unsqueeze(-1)).squeeze(-1)
            d = d + start * torch.cholesky_solve(residual.unsqueeze(-1), factor).squeeze(-1)
        return d

    def from_model(self, y: Tensor) -> Tensor:
        Q = _complement_of_ones(self.n, y)
        return _unit_diagonal(Q @ expm(unvech(y)) @ Q.mT + 1 / self.n)


def _strict_vector(X: Tensor) -> Tensor:
    """The entries Xᵢⱼ, i > j, row by row."""
    return tril_vector(X[..., 1:, :-1])


def _from_strict_vector(v: Tensor) -> Tensor:
    """The strict lower triangular matrices with these entries."""
    return functional.pad(from_tril_vector(v), (0, 1, 1, 0))


def _off_vector(X: Tensor) -> Tensor:
    """The entries of a symmetric matrix off its diagonal, as a vector of the same norm."""
    return math.sqrt(2) * _strict_vector(X)


def _from_off_vector(v: Tensor) -> Tensor:
    half = _from_strict_vector(math.sqrt(0.5) * v)
    return half + half.mT


def _scaled(X: Tensor, d: Tensor) -> Tensor:
    """diag(d) X diag(d)."""
    return d.unsqueeze(-1) * X * d.unsqueeze(-2)


def _unit_diagonal(P: Tensor) -> Tensor:
    """Covariance to correlation: Pᵢⱼ/√(PᵢᵢPⱼⱼ)."""
    return _scaled(P, P.diagonal(dim1=-2, dim2=-1).rsqrt())


def _unit_triangular(C: Tensor) -> Tensor:
    """D⁻¹L, C = LLᵀ, D = diag L."""
    L = cholesky(C)
    return L / L.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)


def _from_factor(F: Tensor) -> Tensor:
    """FFᵀ scaled to unit diagonal."""
    F = F / torch.linalg.vector_norm(F, dim=-1, keepdim=True)
    return F @ F.mT


def _complement_of_ones(n: int, like: Tensor) -> Tensor:
    """Q (n, n−1) with QᵀQ = 1 and Qᵀ(1, …, 1) = 0: all but the first column of a reflection."""
    Q = torch.eye(n, dtype=like.dtype, device=like.device)[:, 1:] - 1 / (n - math.sqrt(n))
    return torch.cat([torch.full_like(Q[:1], 1 / math.sqrt(n)), Q[1:]])


def _log_diagonal(X: Tensor) -> Tensor:
    return X.diagonal(dim1=-2, dim2=-1).clamp(min=torch.finfo(X.dtype).tiny).log()


# The solvers are operators of their own, so that compiled code and vmap run their loops instead of unrolling them.
def _operator(name: str) -> Callable[[Callable], Callable]:
    """Makes f, from one batch of matrices to several tensors with the same batch dimensions, such an operator."""

    def decorate(f: Callable) -> Callable:
        operator = torch.library.custom_op(f"flowgroup::{name}", f, mutates_args=())

        @operator.register_vmap
        def _(info, in_dims, X: Tensor):
            results = operator(X.movedim(in_dims[0], 0))
            return results, (0,) * len(results)

        return operator

    return decorate


@_operator("solve_unit_diagonal")
def _solve_unit_diagonal(V: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """d with diag exp(V + diag d) = 1, eigenvalues and eigenvectors of V + diag d, and what `_newton_step` takes.

    Newton's method for log diag exp(V + diag d) = 0, no step longer than 2 in any entry. The first step, with the
    Jacobian replaced by one, is Archakov and Hansen's.
    """
    eps = torch.finfo(V.dtype).eps
    d = torch.zeros_like(V[..., 0])
    close = False
    for i in range(OFF_LOG_STEPS + 1):
        spectrum = Spectrum(V + torch.diag_embed(d))
        w, U = spectrum.eigenvalues, spectrum.eigenvectors
        # exp(V + diag d)·e^{−top}, which cannot overflow
        top = w[..., -1:]
        e = (U.square() * (w - top).exp().unsqueeze(-2)).sum(-1).clamp(min=torch.finfo(V.dtype).tiny)
        residual = e.log() + top
        factor = _jacobian_factor(w - top, U, e)
        if close or i == OFF_LOG_STEPS:
            break
        step = residual if i == 0 else _newton_step(factor, residual)
        d = d - (step if i == 0 else step * (2 / step.abs().amax(-1, keepdim=True).clamp(min=2)))
        close = bool((residual.abs() < 0.1 * eps**0.5).all())
    return d, *(X.contiguous() for X in (w, U, *factor))


@_solve_unit_diagonal.register_fake
def _(V: Tensor) -> tuple[Tensor, ...]:
    d, X = torch.empty_like(V[..., 0]), torch.empty_like(V)
    return d, d.clone(), X, X.clone(), d.clone()


def _jacobian_factor(w: Tensor, U: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """The Jacobian of log diag exp(V + diag d) in d is e^{−½} K e^{½}: a Cholesky factor of K, and e^{−½}.

    w and U are the eigenvalues and eigenvectors of the exponent, e the diagonal of its exponential. K is positive
    definite with eigenvalues up to one.
    """
    slopes = EXP.divided_difference(w.unsqueeze(-1), w.unsqueeze(-2))
    rows = e.pow(-0.25).unsqueeze(-1) * U
    pairs = rows.unsqueeze(-2) * rows.unsqueeze(-3)
    K = ((pairs @ slopes.unsqueeze(-3)) * pairs).sum(-1)
    noise = 4 * torch.finfo(w.dtype).eps * torch.eye(w.shape[-1], dtype=w.dtype, device=w.device)
    return torch.linalg.cholesky_ex(K + noise).L, e.rsqrt()


def _newton_step(factor: tuple[Tensor, Tensor], residual: Tensor) -> Tensor:
    L, root = factor
    return root * torch.cholesky_solve((residual / root).unsqueeze(-1), L).squeeze(-1)


@_operator("solve_unit_rows")
def _solve_unit_rows(C: Tensor) -> tuple[Tensor, Tensor]:
    """d > 0 such that the rows of A = diag(d) C diag(d) sum to one, and a Cholesky factor of A + 1.

    Newton's method, no step halving any entry more than once.
    """
    eye = torch.eye(C.shape[-1], dtype=C.dtype, device=C.device)
    eps = torch.finfo(C.dtype).eps
    total = C.sum((-2, -1)).clamp(min=eps)
    d = (C.shape[-1] / total).sqrt().unsqueeze(-1).expand(C.shape[:-1])
    close = False
    for i in range(LOG_SCALED_STEPS + 1):
        A = _scaled(C, d)
        residual = 1 - A.sum(-1)
        factor = torch.linalg.cholesky_ex(A + eye).L
        if close or i == LOG_SCALED_STEPS:
            break
        step = torch.cholesky_solve(residual.unsqueeze(-1), factor).squeeze(-1)
        d = d + d * step * (0.5 / (-step).amax(-1, keepdim=True).clamp(min=0.5))
        close = bool((step.abs() < 0.1 * eps**0.5).all())
    return d, factor.contiguous()


@_solve_unit_rows.register_fake
def _(C: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(C[..., 0]), torch.empty_like(C)


_METRICS: dict[str, type[CorrelationMatrices]] = {
    "ecm": EuclideanCholeskyCorrelation,
    "lecm": LogEuclideanCholeskyCorrelation,
    "olm": OffLogCorrelation,
    "lsm": LogScaledCorrelation,
}
