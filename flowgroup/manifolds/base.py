"""The contract of a manifold: geoopt's interface, with what densities and statistics need beside it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import geoopt.manifolds.base
import torch
from torch import Tensor

from flowgroup._checks import values_readable
from flowgroup.manifolds import constraints
from flowgroup.manifolds.karcher import Expansion, karcher_mean


class Manifold(geoopt.manifolds.base.Manifold):
    """A Riemannian manifold whose points are tensors (*batch, *event).

    It holds no tensors. A subclass gives geoopt's `expmap, logmap, dist, transp, inner, proju, egrad2rgrad, projx`,
    and `log_abs_det_expmap` where that is known; geoopt's parameters and optimizers take it as it is. Tangent vectors
    have the shape of points, and everything broadcasts over batch dimensions. Sizes given to `random`,
    `random_uniform` and `origin` are whole shapes (*batch, *event), as in geoopt; none at all means one event.

    Args:
        dim: intrinsic dimension.
        event_shape: shape of one point; geoopt's `ndim` is its length.

    Attributes:
        volume: total Riemannian volume, infinite where it is not finite.
        injectivity_radius: tangent vectors shorter than this are what `logmap` finds again.

    Example:
        >>> from flowgroup.manifolds import Sphere
        >>> Sphere(2), Sphere(2).dim, Sphere(2).event_shape, round(Sphere(2).volume, 3)
        (Sphere(2), 2, torch.Size([3]), 12.566)
    """

    volume: float = math.inf
    injectivity_radius: float = math.inf
    reversible = False

    def __init__(self, dim: int, event_shape: Sequence[int]):
        super().__init__()
        self.dim = dim
        self.event_shape = torch.Size(event_shape)
        self.ndim = len(self.event_shape)
        self.name = type(self).__name__

    @property
    def constraint(self) -> constraints.OnManifold:
        """The manifold as a support for torch.distributions."""
        return constraints.OnManifold(self)

    def contains(self, x: Tensor) -> Tensor:
        """|x − projx(x)| ≤ √ε·max(1, |x|) in the ambient norm, ε the dtype's: booleans of the batch shape."""
        finite = torch.isfinite(x)
        x = torch.where(finite, x, 0)
        return self._small(x - self.projx(x), x) & finite.all(self._event_dims())

    def why_not(self, x: Tensor) -> str | None:
        """None where every point of `x` lies on the manifold; else which is the first that does not, and why.

        Example:
            >>> from flowgroup.manifolds import Sphere
            >>> Sphere(1).why_not(torch.tensor([[1.0, 0.0], [0.0, 1.5]]))
            '1 of 2 points do not: the first, at index (1,), is 0.5 away from it'
        """
        off = ~self.contains(x)
        if not off.any():
            return None
        index = tuple(off.nonzero()[0].tolist())
        return (
            f"{off.sum().item()} of {off.numel()} points do not: the first, at index {index}, {self._fault(x[index])}"
        )

    def _fault(self, x: Tensor) -> str:
        """Why the one point `x` is not on the manifold, as the end of a sentence."""
        if not x.isfinite().all():
            return "holds NaN or infinite values"
        return f"is {torch.linalg.vector_norm(x - self.projx(x)).item():.3g} away from it"

    def settled(self, x: Tensor) -> Tensor:
        """x, computed points, or points a few roundings away where rounding has taken them off the manifold."""
        return x

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """The exponential map, or a cheaper map that agrees with it to first order."""
        return self.expmap(x, u)

    def geodesic(self, x: Tensor, y: Tensor, t: Tensor | float) -> Tensor:
        """γ(t) = exp_x(t·log_x y), so γ(0) = x and γ(1) = y.

        Args:
            x, y: points (*batch, *event).
            t: times, of the batch shape or one that broadcasts against it.

        Example:
            >>> from flowgroup.manifolds import Torus
            >>> Torus(1).geodesic(torch.tensor([3.0]), torch.tensor([-3.0]), 0.25)
            tensor([3.0708])
        """
        t = torch.as_tensor(t, dtype=x.dtype, device=x.device)
        return self.expmap(x, self._over_event(t) * self.logmap(x, y))

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        """|u|ₓ = √⟨u, u⟩ₓ, with gradient zero at u = 0."""
        z = self.inner(x, u, keepdim=keepdim)
        return torch.where(z > 0, torch.where(z > 0, z, 1).sqrt(), 0)

    def log_abs_det_expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """log|det d expₓ(u)|, between orthonormal bases of the tangent spaces at x and at expₓ(u).

        So a density p on the tangent space at x becomes p(u)·exp(−log_abs_det_expmap(x, u)) with respect to the
        Riemannian volume. (The exponential of a Lie group, from coordinates in its algebra, has `log_abs_det_exp`.)

        Args:
            x: points (*batch, *event).
            u: tangent vectors at x (*batch, *event).

        Returns:
            Tensor of the joint batch shape.
        """
        raise NotImplementedError(f"{self} has no log_abs_det_expmap")

    def random_uniform(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        """Points drawn uniformly with respect to the Riemannian volume, of shape `size` = (*batch, *event).

        Raises:
            NotImplementedError: where the volume is infinite.
        """
        raise NotImplementedError(f"{self} has no uniform distribution")

    def random(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        """Random points of shape `size` = (*batch, *event): uniform where the manifold is compact."""
        return self.random_uniform(*size, dtype=dtype, device=device)

    def frechet_mean(
        self,
        x: Tensor,
        weights: Tensor | None = None,
        dim: int = 0,
        steps: int | None = None,
        tol: float | None = None,
        all_reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """argmin_m Σᵢ wᵢ d²(m, xᵢ), by the Karcher iteration m ← exp_m(τ Σᵢ wᵢ log_m xᵢ) where no closed form exists.

        The step τ starts from 1 for every mean of a batch, is halved when the cost does not fall enough, and grows
        when progress is slow. Iterating to convergence, manifolds that know the Hessian of the cost (affine-invariant
        metrics) take Newton's direction instead of the gradient's. The gradient of a given number of steps goes through
        all of them; that of a converged mean is the one of the equation Σᵢ wᵢ log_m xᵢ = 0, takes no more memory than
        one step, and cannot be differentiated again.

        Args:
            x: points (*batch, *event).
            weights: not negative, broadcast against the batch shape, scaled to sum to one along `dim`. None: equal.
            dim: the batch dimension to average over; negative ones count from the last batch dimension.
            steps: how many steps exactly (needed inside torch.compile and vmap), or None to iterate to convergence;
                ignored where there is a closed form.
            tol: converged when the gradient Σᵢ wᵢ log_m xᵢ is shorter than tol·(1 + root mean square distance).
                None: eight times the dtype's epsilon.
            all_reduce: a differentiable function that gives the sum of a tensor over processes, each of which brings
                some of the points (perhaps none) and gets the mean of all. None: all points are here.

        Returns:
            Means, of the shape of `x` without `dim`.

        Raises:
            ValueError: `dim` out of range, an empty `dim`, weights that are negative, not finite or all zero, or no
                `steps` where convergence cannot be looked at.

        Source: Riemannian Center of Mass and Mollifier Smoothing, 1977, Karcher.

        Example:
            >>> from flowgroup.manifolds import Sphere
            >>> Sphere(1).frechet_mean(torch.eye(2))
            tensor([0.7071, 0.7071])
        """
        equal = weights is None and all_reduce is None
        x, weights, dim = self._mean_arguments(x, weights, dim, all_reduce)
        if steps is None and not (values_readable(x) and values_readable(weights)):
            raise ValueError(f"frechet_mean on {self} needs an integer for steps inside torch.compile and vmap")
        if steps is not None and steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        tol = 8 * torch.finfo(x.dtype).eps if tol is None else tol
        return karcher_mean(self, x, weights, dim, steps, tol, all_reduce or _itself, equal).squeeze(dim)

    def _mean_start(self, x: Tensor, average: Callable[[Tensor], Tensor]) -> Tensor:
        """Where the Karcher iteration starts: the arithmetic mean, projected.

        Args:
            x: points (*batch, *event).
            average: the weighted mean of a tensor (*batch, *event) over points and processes; the dimension stays.
        """
        return self.projx(average(x))

    def _chart(self, m: Tensor) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Tensor]:
        """log and exp at m as functions of points and of vectors, and the point at which `inner` takes the vectors."""
        return functools.partial(self.logmap, m), functools.partial(self.expmap, m), m

    def _expansion(self, m: Tensor, x: Tensor, average: Callable[[Tensor], Tensor]) -> Expansion | None:
        """½Σᵢ wᵢ d²(·, xᵢ) around m up to second order, for a quicker iteration; None where that is not known.

        Args:
            m: where (*batch, *event), of size 1 in the dimension of the points.
            x: points (*batch, *event).
            average: as in `_mean_start`; it also takes numbers of the batch shape.
        """
        return None

    def _mean_arguments(
        self, x: Tensor, weights: Tensor | None, dim: int, all_reduce: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor, int]:
        """`x`, normalized weights of the batch shape, and `dim` counted from the front."""
        self._assert_check_shape(x.shape, "x")
        n = x.dim() - self.ndim
        if not -n <= dim < n:
            raise ValueError(f"dim must be one of the {n} batch dimensions of x {tuple(x.shape)}, got {dim}")
        dim %= n
        if all_reduce is None:
            if x.shape[dim] == 0:
                raise ValueError(f"x must hold at least one point along dim {dim}, got shape {tuple(x.shape)}")
            if weights is None:
                return x, x.new_full((), 1 / x.shape[dim]).expand(x.shape[:n]), dim
            all_reduce = _itself
        elif weights is None:
            weights = x.new_ones(())
        try:
            weights = weights.to(x).expand(x.shape[:n])
        except RuntimeError:
            raise ValueError(
                f"weights must broadcast to the batch shape {tuple(x.shape[:n])}, got {tuple(weights.shape)}"
            ) from None
        total = all_reduce(weights.sum(dim, keepdim=True))
        if values_readable(weights) and not ((weights >= 0).all() and (total > 0).all() and total.isfinite().all()):
            raise ValueError("weights must be finite and not negative, and not all zero")
        return x, weights / total, dim

    def _over_event(self, scalars: Tensor) -> Tensor:
        """Scalars of the batch shape, made to broadcast against points."""
        return scalars.reshape(scalars.shape + (1,) * self.ndim)

    def _event_dims(self) -> tuple[int, ...]:
        return tuple(range(-self.ndim, 0))

    def _small(self, difference: Tensor, scale: Tensor, atol: float | None = None, rtol: float | None = None) -> Tensor:
        """|difference| ≤ max(atol, rtol·|scale|) per event; NaN is not small."""
        root = torch.finfo(difference.dtype).eps ** 0.5
        atol, rtol = (root if a is None else a for a in (atol, rtol))
        size, allowed = (torch.linalg.vector_norm(a, dim=self._event_dims()) for a in (difference, scale))
        return size <= (rtol * allowed).clamp(min=atol)

    def _check_shape(self, shape: Sequence[int], name: str) -> tuple[bool, str | None]:
        shape = tuple(shape)
        if len(shape) >= self.ndim and shape[len(shape) - self.ndim :] == tuple(self.event_shape):
            return True, None
        event = ", ".join(map(str, self.event_shape))
        return False, f"{name} must have shape (..., {event}) to be on {self}, got {shape}"

    def _check_point_on_manifold(self, x: Tensor, *, atol=1e-5, rtol=1e-5) -> tuple[bool, str | None]:
        ok = bool(self._small(x - self.projx(x), x, atol, rtol).all())
        return ok, None if ok else f"x is further than atol={atol}, rtol={rtol} from {self}"

    def _check_vector_on_tangent(self, x: Tensor, u: Tensor, *, atol=1e-5, rtol=1e-5) -> tuple[bool, str | None]:
        ok = bool(self._small(u - self.proju(x, u), u, atol, rtol).all())
        return ok, None if ok else f"u is further than atol={atol}, rtol={rtol} from the tangent space of {self}"

    def extra_repr(self) -> str:
        return str(self.dim)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


def _itself(x: Tensor) -> Tensor:
    return x


def whole_shape(size: Sequence, event_shape: Sequence[int]) -> torch.Size:
    """`size` given as integers or as one shape, after checking that it ends in `event_shape`; none means one event.

    Example:
        >>> whole_shape((5, 3), (3,)), whole_shape((torch.Size([5, 3]),), (3,)), whole_shape((), (3,))
        (torch.Size([5, 3]), torch.Size([5, 3]), torch.Size([3]))
    """
    if len(size) == 1 and not isinstance(size[0], int):
        size = size[0]
    elif not size:
        size = event_shape
    n = len(event_shape)
    if len(size) < n or tuple(size[len(size) - n :]) != tuple(event_shape):
        event = ", ".join(map(str, event_shape))
        raise ValueError(f"size must be a whole shape (*batch, {event}), got {tuple(size)}")
    return torch.Size(size)
