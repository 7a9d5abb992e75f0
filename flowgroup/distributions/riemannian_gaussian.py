"""Riemannian Gaussian distributions of symmetric positive-definite matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from flowgroup._checks import check_event_shape
from flowgroup.distributions._validate import may_validate
from flowgroup.distributions.log_eigenvalues import LARGEST, log_acceptance, log_normalizer, sample_log
from flowgroup.groups.base import LieGroup
from flowgroup.linalg import jvp
from flowgroup.manifolds import Euclidean, Manifold
from flowgroup.manifolds.spd import AffineInvariantSPD, add_trace


class RiemannianGaussian(Distribution):
    """p(x) = exp(−d²(x, μ)/2σ²)/ζ(σ), with respect to the Riemannian volume: μ is the Fréchet mean.

    ζ is exact. Under flat metrics (log-euclidean, log-cholesky, ℝⁿ) it is (2πσ²)^{d/2}, d the dimension, and the law a
    `WrappedNormal`. Under the affine-invariant metric and its deformations it is a Pfaffian in closed form, and the law
    no wrapped normal: it weighs a tangent vector u by |det d exp(u)|.

    Samples are exact as well. Under the affine-invariant metric they come by rejection and are no differentiable
    functions of μ and σ. Where σ is near 1, fewer proposals are accepted the larger the matrices are (see
    `acceptance`); where it would be fewer than one in a million, `sample` raises a ValueError.

    Args:
        manifold: SPD under any metric but bures-wasserstein, correlation matrices, or another space that is flat.
        loc: points μ (..., *event).
        scale: σ > 0 (...).
        validate_args: whether to look at the arguments' values.

    Raises:
        ValueError: a wrong shape, `scale` not positive, `loc` off the manifold, another manifold, or affine-invariant
            matrices larger than 32 × 32.

    Source: Riemannian Gaussian Distributions on the Space of Symmetric Positive Definite Matrices, 2017, arXiv
    1507.01760.

    Example:
        >>> from flowgroup.manifolds import SPD
        >>> law = RiemannianGaussian(SPD(2), torch.eye(2), torch.tensor(0.5))
        >>> law.log_prob(torch.eye(2)), law.sample((3,)).shape
        (tensor(-0.7192), torch.Size([3, 2, 2]))
    """

    def __init__(self, manifold: Manifold, loc: Tensor, scale: Tensor, validate_args: bool = True):
        check_event_shape("loc", loc, tuple(manifold.event_shape))
        check_event_shape("scale", scale, ())
        self._model = _model(manifold)
        self.manifold = manifold
        batch_shape = torch.broadcast_shapes(loc.shape[: loc.dim() - manifold.ndim], scale.shape)
        self.loc, self.scale = loc.expand(batch_shape + manifold.event_shape), scale.expand(batch_shape)
        super().__init__(batch_shape, manifold.event_shape, may_validate(validate_args, loc, scale))

    @property
    def arg_constraints(self) -> dict:
        return {"loc": self.manifold.constraint, "scale": constraints.positive}

    @property
    def support(self):
        return self.manifold.constraint

    @property
    def has_rsample(self) -> bool:
        """Whether the manifold is flat."""
        return isinstance(self._model, Euclidean)

    def expand(self, batch_shape: Sequence[int], _instance=None) -> RiemannianGaussian:
        batch_shape = torch.Size(batch_shape)
        loc = self.loc.expand(batch_shape + self.event_shape)
        return RiemannianGaussian(self.manifold, loc, self.scale.expand(batch_shape), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The Fréchet mean μ."""
        return self.loc

    @property
    def dispersion(self) -> Tensor:
        """E d²(x, μ) = σ³·∂ log ζ/∂σ."""
        slope = jvp(self._log_normalizer, self.scale, torch.ones_like(self.scale))
        return self.scale**3 * slope

    @property
    def acceptance(self) -> Tensor:
        """The share of proposals that sampling accepts, exactly; 1 where the manifold is flat."""
        if self.has_rsample:
            return torch.ones_like(self.scale)
        return log_acceptance(self._model.n, self.scale / math.sqrt(self._model.alpha)).exp()

    def entropy(self) -> Tensor:
        """−E log p = log ζ + E d²/2σ²."""
        return self._log_normalizer(self.scale) + self.dispersion / (2 * self.scale**2)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return self._draw(torch.Size(sample_shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        if not self.has_rsample:
            raise NotImplementedError(
                f"a Riemannian Gaussian on {self.manifold} cannot be sampled by reparametrization, since some of its "
                "proposals are rejected; sample() draws without gradient"
            )
        return self._draw(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        check_event_shape("value", value, tuple(self.event_shape))
        model, loc, x = self._model, self.manifold.to_model(self.loc), self.manifold.to_model(value)
        squared = model.dilation(model.left_divide(loc, x))[0]  # from one decomposition, smooth where x = μ
        return -0.5 * squared / self.scale.square() - self._log_normalizer(self.scale)

    def _log_normalizer(self, scale: Tensor) -> Tensor:
        """log ζ."""
        model = self._model
        if isinstance(model, Euclidean):
            return 0.5 * model.dim * math.log(2 * math.pi) + model.dim * scale.log()
        # β stretches lengths and volume along the trace alike, and the rest does not see it
        return 0.5 * model.dim * math.log(model.alpha) + log_normalizer(model.n, scale / math.sqrt(model.alpha))

    def _draw(self, sample_shape: torch.Size) -> Tensor:
        model, loc = self._model, self.manifold.to_model(self.loc)
        scale = self.scale.expand(sample_shape + self.batch_shape)
        if isinstance(model, Euclidean):
            noise = torch.randn(*scale.shape, model.dim, dtype=loc.dtype, device=loc.device)
            return self.manifold.from_model(loc + scale.unsqueeze(-1) * noise)
        n, alpha, beta = model.n, model.alpha, model.beta
        U = sample_log(n, scale / math.sqrt(alpha))
        U = add_trace(U, (math.sqrt(alpha / (alpha + n * beta)) - 1) / n)
        return self.manifold.from_model(model._chart(loc)[1](U))


def _model(manifold: Manifold) -> LieGroup:
    """The flat or affine-invariant space that the manifold is isometric to."""
    model = manifold.model if isinstance(manifold, LieGroup) else None
    if isinstance(model, AffineInvariantSPD):
        if model.n > LARGEST:
            raise ValueError(f"manifold must have matrices of size at most {LARGEST}, got {manifold}")
        return model
    if isinstance(model, Euclidean):
        return model
    raise ValueError(
        "manifold must be flat, or SPD under an affine-invariant metric or a deformation of that, got " + repr(manifold)
    )
