"""Von Mises distributions on tori and von Mises–Fisher distributions on spheres."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from flowgroup._checks import check_event_shape
from flowgroup.distributions._validate import may_validate
from flowgroup.distributions.polar import log_normalizer, sample_tan2
from flowgroup.distributions.uniform import log_sphere_area
from flowgroup.manifolds import Sphere
from flowgroup.manifolds.constraints import Circle, wrap


class VonMises(Distribution):
    """log p(x) = Σᵢ κᵢ cos(xᵢ − μᵢ) − log 2π I₀(κᵢ): independent angles on the torus.

    Unlike torch's class of this name, it is exact in float64, and samples are differentiable in μ and κ.

    Args:
        loc: μ (..., n), angles in radians.
        concentration: κ ≥ 0 (..., n).
        validate_args: whether to look at the arguments' values.

    Raises:
        ValueError: a wrong shape, `concentration` negative, `loc` not a number.

    Source: Directional Statistics, 2000, Mardia and Jupp.

    Example:
        >>> VonMises(torch.zeros(1), torch.zeros(1)).log_prob(torch.ones(1))  # −log 2π
        tensor(-1.8379)
    """

    arg_constraints = {
        "loc": constraints.real_vector,
        "concentration": constraints.independent(constraints.nonnegative, 1),
    }
    support = constraints.independent(Circle(), 1)
    has_rsample = True

    def __init__(self, loc: Tensor, concentration: Tensor, validate_args: bool = True):
        check_event_shape("loc", loc, (None,))
        check_event_shape("concentration", concentration, loc.shape[-1:])
        self.loc, self.concentration = torch.broadcast_tensors(loc, concentration)
        super().__init__(self.loc.shape[:-1], self.loc.shape[-1:], may_validate(validate_args, loc, concentration))

    def expand(self, batch_shape: Sequence[int], _instance=None) -> VonMises:
        shape = torch.Size(batch_shape) + self.event_shape
        return VonMises(self.loc.expand(shape), self.concentration.expand(shape), validate_args=False)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        angle = 2 * sample_tan2(self.concentration, 1, shape).sqrt().atan()
        right = torch.rand(shape, device=angle.device) < 0.5
        return wrap(self.loc + torch.where(right, angle, -angle).to(self.loc.dtype))

    def log_prob(self, value: Tensor) -> Tensor:
        check_event_shape("value", value, self.event_shape)
        # cos x − 1 without cancellation
        cosine = -2 * (0.5 * (value - self.loc)).sin().square()
        constant = math.log(2) + log_normalizer(self.concentration, 1)
        return (self.concentration * cosine - constant).sum(-1)


class VonMisesFisher(Distribution):
    """log p(x) = κ⟨μ, x⟩ − log C, C = (2π)^{ν+1} κ^{−ν} I_ν(κ), ν = (d−1)/2, on the unit sphere S^d.

    The density is with respect to the surface; κ = 0 is the uniform distribution.

    Args:
        loc: mean direction μ (..., d+1), unit vectors, d ≥ 1.
        concentration: κ ≥ 0 (...).
        validate_args: whether to look at the arguments' values.

    Raises:
        ValueError: a wrong shape, `concentration` negative, `loc` not a unit vector.

    Source: Directional Statistics, 2000, Mardia and Jupp, section 9.3.2.

    Example:
        >>> north = torch.tensor([0.0, 0.0, 1.0])
        >>> VonMisesFisher(north, torch.tensor(2.0)).log_prob(north)
        tensor(-1.1262)
    """

    has_rsample = True

    def __init__(self, loc: Tensor, concentration: Tensor, validate_args: bool = True):
        check_event_shape("loc", loc, (None,))
        check_event_shape("concentration", concentration, ())
        if loc.shape[-1] < 2:
            raise ValueError(f"loc must have shape (..., d+1) with d at least 1, got {tuple(loc.shape)}")
        self.dim = loc.shape[-1] - 1
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        self.loc, self.concentration = loc.expand(batch_shape + loc.shape[-1:]), concentration.expand(batch_shape)
        super().__init__(batch_shape, loc.shape[-1:], may_validate(validate_args, loc, concentration))

    @property
    def arg_constraints(self) -> dict:
        return {"loc": Sphere(self.dim).constraint, "concentration": constraints.nonnegative}

    @property
    def support(self):
        return Sphere(self.dim).constraint

    def expand(self, batch_shape: Sequence[int], _instance=None) -> VonMisesFisher:
        batch_shape = torch.Size(batch_shape)
        loc = self.loc.expand(batch_shape + self.event_shape)
        return VonMisesFisher(loc, self.concentration.expand(batch_shape), validate_args=False)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        q = sample_tan2(self.concentration, self.dim, shape[:-1]).to(self.loc.dtype).unsqueeze(-1)
        across = torch.randn((*shape[:-1], self.dim), dtype=q.dtype, device=q.device)
        across = across / torch.linalg.vector_norm(across, dim=-1, keepdim=True)
        return reflect(torch.cat(((1 - q) / (1 + q), 2 * q.sqrt() / (1 + q) * across), -1), self.loc)

    def log_prob(self, value: Tensor) -> Tensor:
        check_event_shape("value", value, self.event_shape)
        # ⟨μ, x⟩ − 1 without cancellation
        cosine = -0.5 * (value - self.loc).square().sum(-1)
        return (
            self.concentration * cosine - log_normalizer(self.concentration, self.dim) - log_sphere_area(self.dim - 1)
        )


def reflect(x: Tensor, loc: Tensor) -> Tensor:
    """The image of x under a rotation that takes (1, 0, …, 0) to the unit vector loc, up to a sign of the others."""
    # Householder, to loc or −loc, whichever is further: nothing cancels
    sign = torch.where(loc[..., :1] < 0, -1.0, 1.0).to(loc.dtype)
    first = torch.nn.functional.pad(sign, (0, loc.shape[-1] - 1))
    normal = loc + first
    image = x - normal * ((normal * x).sum(-1, keepdim=True) / (1 + loc[..., :1].abs()))
    return -sign * image
