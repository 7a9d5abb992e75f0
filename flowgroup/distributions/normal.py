"""Normal distributions on vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from flowgroup._checks import check_event_shape
from flowgroup.distributions._validate import may_validate


class DiagonalNormal(Distribution):
    """N(μ, diag σ²) on vectors: log p(x) = −½|(x−μ)/σ|² − Σ log σᵢ − n/2·log 2π.

    Args:
        loc: μ (..., n).
        scale: σ (..., n), positive.
        validate_args: whether to look at the arguments' values.

    Raises:
        ValueError: a wrong shape, `scale` not positive, `loc` not a number.

    Example:
        >>> DiagonalNormal(torch.zeros(2), torch.ones(2)).log_prob(torch.zeros(2))
        tensor(-1.8379)
    """

    arg_constraints = {
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool = True):
        check_event_shape("loc", loc, (None,))
        check_event_shape("scale", scale, loc.shape[-1:])
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(self.loc.shape[:-1], self.loc.shape[-1:], may_validate(validate_args, loc, scale))

    def expand(self, batch_shape: Sequence[int], _instance=None) -> DiagonalNormal:
        shape = torch.Size(batch_shape) + self.event_shape
        return DiagonalNormal(self.loc.expand(shape), self.scale.expand(shape), validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.scale.square()

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.scale * noise

    def log_prob(self, value: Tensor) -> Tensor:
        check_event_shape("value", value, self.event_shape)
        z = (value - self.loc) / self.scale
        constant = self.scale.log().sum(-1) + 0.5 * self.event_shape[0] * math.log(2 * math.pi)
        return -0.5 * z.square().sum(-1) - constant


class MultivariateNormal(Distribution):
    """N(μ, LLᵀ) on vectors: log p(x) = −½|L⁻¹(x−μ)|² − Σ log Lᵢᵢ − n/2·log 2π.

    Unlike torch's class of this name, it samples inside vmap.

    Args:
        loc: μ (..., n).
        scale_tril: L (..., n, n), lower triangular with a positive diagonal.
        validate_args: whether to look at the arguments' values.

    Raises:
        ValueError: a wrong shape, `scale_tril` not a Cholesky factor, `loc` not a number.

    Example:
        >>> MultivariateNormal(torch.zeros(2), torch.eye(2)).log_prob(torch.zeros(2))
        tensor(-1.8379)
    """

    arg_constraints = {"loc": constraints.real_vector, "scale_tril": constraints.lower_cholesky}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, scale_tril: Tensor, validate_args: bool = True):
        check_event_shape("loc", loc, (None,))
        check_event_shape("scale_tril", scale_tril, (loc.shape[-1], loc.shape[-1]))
        self.loc, self.scale_tril = loc, scale_tril
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], scale_tril.shape[:-2])
        super().__init__(batch_shape, loc.shape[-1:], may_validate(validate_args, loc, scale_tril))

    def expand(self, batch_shape: Sequence[int], _instance=None) -> MultivariateNormal:
        batch_shape, n = torch.Size(batch_shape), self.event_shape
        loc, scale_tril = self.loc.expand(batch_shape + n), self.scale_tril.expand(batch_shape + n + n)
        return MultivariateNormal(loc, scale_tril, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc.expand(self.batch_shape + self.event_shape)

    @property
    def covariance_matrix(self) -> Tensor:
        """LLᵀ (..., n, n)."""
        covariance = self.scale_tril @ self.scale_tril.mT
        return covariance.expand(self.batch_shape + 2 * self.event_shape)

    @property
    def variance(self) -> Tensor:
        return self.scale_tril.square().sum(-1).expand(self.batch_shape + self.event_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + torch.einsum("...ij,...j->...i", self.scale_tril, noise)

    def log_prob(self, value: Tensor) -> Tensor:
        check_event_shape("value", value, self.event_shape)
        # one inverse of L for all points: a batched solve would copy L to each of them
        identity = torch.eye(self.event_shape[0], dtype=self.loc.dtype, device=self.loc.device)
        inverse = torch.linalg.solve_triangular(self.scale_tril, identity, upper=False)
        z = torch.einsum("...ij,...j->...i", inverse, value - self.loc)
        log_det = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * z.square().sum(-1) - log_det - 0.5 * self.event_shape[0] * math.log(2 * math.pi)
