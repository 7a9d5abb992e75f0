"""What symmetric positive-definite matrices have in common under all metrics."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from flowgroup.linalg import Spectrum, expm, from_tril_vector, unvech
from flowgroup.manifolds.base import Manifold, whole_shape


class SPDMatrices(Manifold):
    """What matrices (n, n), symmetric and positive definite, have in common under all metrics.

    They are an open set of the symmetric matrices, which are the tangent vectors everywhere.
    """

    def contains(self, x: Tensor) -> Tensor:
        """Symmetric up to √ε·|x|, and with a Cholesky factor: booleans of the batch shape."""
        finite = torch.isfinite(x).all(-1).all(-1)
        x = torch.where(finite[..., None, None], x, torch.eye(x.shape[-1], dtype=x.dtype, device=x.device))
        asymmetry, size = (torch.linalg.matrix_norm(a) for a in (x - x.mT, x))
        symmetric = asymmetry <= torch.finfo(x.dtype).eps ** 0.5 * size
        return finite & symmetric & (torch.linalg.cholesky_ex(x).info == 0)

    def _fault(self, x: Tensor) -> str:
        if not x.isfinite().all():
            return "holds NaN or infinite values"
        if not self.contains(0.5 * (x + x.mT)):
            smallest = torch.linalg.eigvalsh(0.5 * (x + x.mT))[0].item()
            return f"is not positive definite: its smallest eigenvalue is {smallest:.3g}"
        return f"is not symmetric: it differs from its transpose by up to {(x - x.mT).abs().max().item():.3g}"

    def _check_point_on_manifold(self, x: Tensor, *, atol=1e-5, rtol=1e-5) -> tuple[bool, str | None]:
        fault = self.why_not(x)
        return fault is None, fault

    def projx(self, x: Tensor) -> Tensor:
        """The symmetric part, eigenvalues below 16√n·ε·max|w| raised to that."""
        info = torch.finfo(x.dtype)
        spectrum = Spectrum(0.5 * (x + x.mT))
        w, V = spectrum.eigenvalues, spectrum.eigenvectors
        floor = (16 * w.shape[-1] ** 0.5 * info.eps * w.abs().amax(-1, keepdim=True)).clamp(min=info.tiny)
        lift = (V * (floor - w).clamp(min=0).unsqueeze(-2)) @ V.mT
        y = spectrum.matrix + lift
        return 0.5 * (y + y.mT)

    def _mean_start(self, x: Tensor, average: Callable[[Tensor], Tensor]) -> Tensor:
        return average(x)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """The symmetric part."""
        return torch.broadcast_tensors(0.5 * (u + u.mT), x)[0]

    def random(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        """exp X for normal X, the entries of vech X independent with standard deviation ½."""
        shape = whole_shape(size, self.event_shape)
        return expm(unvech(0.5 * torch.randn(*shape[:-2], self.dim, dtype=dtype, device=device)))

    def log_volume_density(self, x: Tensor) -> Tensor:
        """log √det g with respect to Lebesgue measure on the entries Pᵢⱼ, i ≥ j.

        It takes densities there and back: log p with respect to the Riemannian volume, plus this, is log p with respect
        to the entries. So the difference of two metrics takes a density from one volume to the other.

        Args:
            x: points (..., n, n).

        Returns:
            Tensor of the batch shape.

        Example:
            >>> from flowgroup.manifolds import SPD
            >>> SPD(1, "log-euclidean").log_volume_density(torch.tensor([[4.0]]))  # −log 4
            tensor(-1.3863)
        """
        half = from_tril_vector(torch.eye(self.dim, dtype=x.dtype, device=x.device))
        basis = half + half.tril(-1).mT
        gram = self.inner(x[..., None, None, :, :], basis.unsqueeze(1), basis)
        return 0.5 * torch.linalg.slogdet(gram).logabsdet


def log_det_of_power(spectrum: Spectrum, theta: float) -> Tensor:
    """log|det| of P ↦ P^θ on symmetric matrices, in any basis: the divided differences of w^θ, multiplied.

    Example:
        >>> log_det_of_power(Spectrum(torch.tensor([[3.0]])), 2.0)  # log 2·3
        tensor(1.7918)
    """
    w = spectrum.values()
    n = w.shape[-1]
    log = w.log()
    result = n * (n + 1) / 2 * math.log(abs(theta)) + 0.5 * (theta - 1) * (n + 1) * log.sum(-1)
    half = half_differences(log)
    return result + (log_sinhc(theta * half) - log_sinhc(half)).sum(-1)


def half_differences(x: Tensor) -> Tensor:
    """½(xⱼ − xᵢ), i < j."""
    i, j = torch.triu_indices(x.shape[-1], x.shape[-1], 1, device=x.device)
    return 0.5 * (x[..., j] - x[..., i])


_LOG_SINHC = (
    -3617 / 2605132530000,
    2 / 127702575,
    -691 / 3831077250,
    1 / 467775,
    -1 / 37800,
    1 / 2835,
    -1 / 180,
    1 / 6,
)


def log_sinhc(x: Tensor) -> Tensor:
    """log(sinh x/x), by its series near 0 and without overflow."""
    z = x * x
    small = z < 0.25
    series = torch.zeros_like(z)
    for c in _LOG_SINHC:
        series = series * z + c
    a = torch.where(small, 1, x.abs())
    return torch.where(small, z * series, a + torch.log1p(-(-2 * a).exp()) - (2 * a).log())
