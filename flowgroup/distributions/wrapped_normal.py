"""Normal distributions of a tangent space, wrapped onto the manifold by its exponential map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from flowgroup._checks import check_event_shape
from flowgroup.distributions._validate import may_validate
from flowgroup.distributions.normal import MultivariateNormal
from flowgroup.distributions.von_mises import reflect
from flowgroup.groups import SO2, SO3
from flowgroup.groups.base import LieGroup
from flowgroup.manifolds import Manifold, Sphere, Torus

WINDINGS = 8
"""On compact manifolds, how often round the density counts geodesics, in either direction."""


class WrappedNormal(Distribution):
    """x = exp_μ(u), u ~ N(0, LLᵀ) in the tangent space at μ: p(x) = Σ N(u; 0, LLᵀ)/|det d exp_μ(u)|, over exp_μ(u) = x.

    The density is with respect to the Riemannian volume, and exact. Where the exponential map is a diffeomorphism (flat
    spaces, matrices that are symmetric positive definite under all metrics but bures-wasserstein) the sum has one term,
    u = log_μ x. On spheres, the circle and rotations of space, where all geodesics close, it has one for each number
    of times that a geodesic from μ to x goes round; the 17 shortest are counted, enough for standard deviations up to 5
    times the injectivity radius over π. There the density of a wide distribution is infinite at μ, where all geodesics
    of one length meet again. Other manifolds are refused.

    Coordinates refer to an orthonormal basis of the tangent space: on a Lie group that of the algebra, moved from the
    identity to μ by translation.

    Args:
        manifold: a Lie group or sphere as above.
        loc: points μ (..., *event).
        scale_tril: L (..., d, d) for a manifold of dimension d, lower triangular with a positive diagonal.
        validate_args: whether to look at the arguments' values.

    Raises:
        ValueError: a wrong shape, `scale_tril` not a Cholesky factor, `loc` off the manifold, or a manifold on which
            the density is no sum of known terms.

    Source: A Wrapped Normal Distribution on Hyperbolic Space for Gradient-Based Learning, 2019, arXiv 1902.02992.

    Example:
        >>> from flowgroup.manifolds import SPD
        >>> law = WrappedNormal(SPD(2), torch.eye(2), 0.5 * torch.eye(3))
        >>> law.log_prob(torch.eye(2))  # −3/2·log 2π − 3·log 0.5
        tensor(-0.6774)
    """

    has_rsample = True

    def __init__(self, manifold: Manifold, loc: Tensor, scale_tril: Tensor, validate_args: bool = True):
        check_event_shape("loc", loc, tuple(manifold.event_shape))
        check_event_shape("scale_tril", scale_tril, (manifold.dim, manifold.dim))
        self._period = _period(manifold)
        self.manifold, self.loc, self.scale_tril = manifold, loc, scale_tril
        batch_shape = torch.broadcast_shapes(loc.shape[: loc.dim() - manifold.ndim], scale_tril.shape[:-2])
        self._normal = MultivariateNormal(scale_tril.new_zeros(manifold.dim), scale_tril, validate_args=False)
        super().__init__(batch_shape, manifold.event_shape, may_validate(validate_args, loc, scale_tril))

    @property
    def arg_constraints(self) -> dict:
        return {"loc": self.manifold.constraint, "scale_tril": constraints.lower_cholesky}

    @property
    def support(self):
        return self.manifold.constraint

    def expand(self, batch_shape: Sequence[int], _instance=None) -> WrappedNormal:
        batch_shape = torch.Size(batch_shape)
        loc = self.loc.expand(batch_shape + self.event_shape)
        scale_tril = self.scale_tril.expand(batch_shape + self.scale_tril.shape[-2:])
        return WrappedNormal(self.manifold, loc, scale_tril, validate_args=False)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        v = self._normal.expand(self.batch_shape).rsample(torch.Size(sample_shape))
        return Frame(self.manifold, self.loc).exp(v)

    def log_prob(self, value: Tensor) -> Tensor:
        check_event_shape("value", value, tuple(self.event_shape))
        frame = Frame(self.manifold, self.loc)
        v = frame.log(value)
        if self._period is None:
            return self._normal.log_prob(v) - frame.log_abs_det_exp(v)
        v = self._windings(v)
        return (self._normal.log_prob(v) - frame.log_abs_det_exp(v)).logsumexp(0)

    def _windings(self, v: Tensor) -> Tensor:
        """The coordinates (17, ..., d) of all geodesics that go round at most 8 times either way to where v goes."""
        squared = v.square().sum(-1, keepdim=True)
        here = squared == 0
        length = torch.where(here, 0, torch.where(here, 1, squared).sqrt())
        along = torch.nn.functional.pad(torch.ones_like(length), (0, v.shape[-1] - 1))
        direction = torch.where(here, along, v / torch.where(here, 1, length))
        times = torch.arange(-WINDINGS, WINDINGS + 1, dtype=v.dtype, device=v.device)
        times = times.reshape(-1, *(1,) * v.dim())
        return torch.where(times == 0, v, (length + self._period * times) * direction)


class Frame:
    """exp and log at points of a manifold in coordinates (..., d) of orthonormal bases of the tangent spaces there.

    Args:
        manifold: a Lie group or a sphere.
        loc: the points (..., *event).
    """

    def __init__(self, manifold: Manifold, loc: Tensor):
        self.manifold, self.loc = manifold, loc
        if isinstance(manifold, LieGroup):
            # the model is isometric, and its chart leaves vectors at the identity, where nothing is to be undone
            self.manifold, self.loc = manifold.model, manifold.to_model(loc)
            self.to_model, self.from_model = manifold.to_model, manifold.from_model
        else:
            self.to_model = self.from_model = _itself
        self._log, self._exp, self._at = self.manifold._chart(self.loc)

    def exp(self, v: Tensor) -> Tensor:
        """Points (..., *event)."""
        return self.from_model(self._exp(self._tangent(v)))

    def log(self, x: Tensor) -> Tensor:
        """The shortest v with exp(v) = x."""
        u = self._log(self.to_model(x))
        if isinstance(self.manifold, LieGroup):
            return self.manifold.coordinates(self._at, u)
        return reflect(u, self._at)[..., 1:]

    def log_abs_det_exp(self, v: Tensor) -> Tensor:
        """log|det d exp|, of the batch shape of v and of the points."""
        return self.manifold.log_abs_det_expmap(self._at, self._tangent(v))

    def _tangent(self, v: Tensor) -> Tensor:
        if isinstance(self.manifold, LieGroup):
            return self.manifold.tangent(self._at, v)
        return reflect(torch.nn.functional.pad(v, (1, 0)), self._at)


def _period(manifold: Manifold) -> float | None:
    """The length of all closed geodesics, None where there are none."""
    if isinstance(manifold, Sphere | SO2 | SO3) or (isinstance(manifold, Torus) and manifold.dim == 1):
        return 2 * manifold.injectivity_radius
    if isinstance(manifold, LieGroup) and math.isinf(manifold.injectivity_radius):
        return None
    raise ValueError(
        "manifold must be a Lie group on which the exponential map is a diffeomorphism, a sphere, the circle, or the "
        f"rotations of space, got {manifold}"
    )


def _itself(x: Tensor) -> Tensor:
    return x
