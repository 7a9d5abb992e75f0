"""Poses of rigid bodies, in open space or in a periodic box."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from flowgroup._checks import positive_integer
from flowgroup.manifolds.base import Manifold, whole_shape
from flowgroup.manifolds.constraints import wrap
from flowgroup.manifolds.sphere import Sphere
from flowgroup.manifolds.torus import circular_mean


class RigidBodies(Manifold):
    """N bodies (position, unit quaternion), d² = Σᵢ |xᵢ − yᵢ|² + ∠(pᵢ, qᵢ)², positions to the nearest image.

    A point has shape (N, 7): position (x, y, z) in nm, then the quaternion (w, x, y, z). Quaternions are points of the
    sphere S³ of volume 2π²; q and −q are different points here, one rotation, and what is even in q is a function of
    rotations.

    Args:
        n: number N of bodies.
        box: edges (3,) of the periodic box in nm, centred at the origin; None for open space.

    Raises:
        ValueError: edges that are not three positive numbers.

    Example:
        >>> pair = RigidBodies(2, box=(1.0, 1.0, 2.0))
        >>> pair.dim, pair.event_shape, round(pair.volume / (2 * math.pi**2) ** 2, 3)
        (12, torch.Size([2, 7]), 4.0)
    """

    def __init__(self, n: int, box: Sequence[float] | None = None):
        super().__init__(6 * positive_integer("n", n), (n, 7))
        self.n = n
        self.box = None if box is None else checked_box(box)
        self._sphere = Sphere(3)
        self.volume = math.inf if box is None else (math.prod(self.box) * self._sphere.volume) ** n
        self.injectivity_radius = math.pi if box is None else min(math.pi, min(self.box) / 2)

    def wrap(self, positions: Tensor) -> Tensor:
        """The image of each position or displacement (..., 3) in the box around the origin."""
        return positions if self.box is None else wrap(positions, positions.new_tensor(self.box) / 2)

    def contains(self, x: Tensor) -> Tensor:
        """Whether all entries are finite and all quaternions of length one; any image of a position will do."""
        return self._sphere.contains(x[..., 3:]).all(-1) & x.isfinite().flatten(-2).all(-1)

    def _fault(self, x: Tensor) -> str:
        if not x.isfinite().all():
            return "holds NaN or infinite values"
        off = (torch.linalg.vector_norm(x[..., 3:], dim=-1) - 1).abs().max().item()
        return f"has a quaternion whose length is off 1 by {off:.3g}"

    def projx(self, x: Tensor) -> Tensor:
        positions, q = _split(x)
        return _join(self.wrap(positions), self._sphere.projx(q))

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        x, u = torch.broadcast_tensors(x, u)
        return _join(u[..., :3], self._sphere.proju(x[..., 3:], u[..., 3:]))

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self.proju(x, u)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        product = torch.broadcast_tensors(u * (u if v is None else v), x)[0]
        return product.sum((-2, -1), keepdim=keepdim)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        (a, q), (b, v) = _split(x), _split(u)
        return _join(self.wrap(a + b), self._sphere.expmap(q, v))

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        (a, p), (b, q) = _split(x), _split(y)
        return _join(self.wrap(b - a), self._sphere.logmap(p, q))

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        x, y, v = torch.broadcast_tensors(x, y, v)
        return _join(v[..., :3], self._sphere.transp(x[..., 3:], y[..., 3:], v[..., 3:]))

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """√Σ, with gradient zero at x = y."""
        (a, p), (b, q) = _split(x), _split(y)
        parts = torch.cat((self.wrap(b - a), self._sphere.dist(p, q, keepdim=True)), -1)
        return torch.linalg.vector_norm(parts, dim=(-2, -1), keepdim=keepdim)

    def log_abs_det_expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """The sum of those of the spheres."""
        return self._sphere.log_abs_det_expmap(x[..., 3:], u[..., 3:]).sum(-1)

    def origin(self, *size: int, dtype: torch.dtype | None = None, device=None, seed: int | None = None) -> Tensor:
        """Positions zero, quaternions (1, 0, 0, 0)."""
        point = torch.zeros(whole_shape(size, self.event_shape), dtype=dtype, device=device)
        point[..., 3] = 1
        return point

    def random_uniform(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        if self.box is None:
            return super().random_uniform(*size)
        shape = (*whole_shape(size, self.event_shape)[:-1], 3)
        u = torch.rand(shape, dtype=dtype, device=device) - 0.5
        return self._turned(u * u.new_tensor(self.box))

    def random(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        """Uniform; without a box, positions are standard normal."""
        if self.box is not None:
            return self.random_uniform(*size, dtype=dtype, device=device)
        shape = (*whole_shape(size, self.event_shape)[:-1], 3)
        return self._turned(torch.randn(shape, dtype=dtype, device=device))

    def _turned(self, positions: Tensor) -> Tensor:
        """Bodies at these positions, turned at random."""
        shape = (*positions.shape[:-1], 4)
        q = self._sphere.random_uniform(*shape, dtype=positions.dtype, device=positions.device)
        return _join(positions, q)

    def frechet_mean(
        self,
        x: Tensor,
        weights: Tensor | None = None,
        dim: int = 0,
        steps: int | None = None,
        tol: float | None = None,
        all_reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The means of positions, in closed form, and of quaternions; see `Manifold.frechet_mean`."""
        if all_reduce is not None:
            return super().frechet_mean(x, weights, dim, steps, tol, all_reduce)
        x, weights, dim = self._mean_arguments(x, weights, dim)
        positions, q = _split(x)
        if self.box is None:
            mean = (self._over_event(weights) * positions).sum(dim)
        else:
            unit = positions.new_tensor(self.box) / (2 * math.pi)
            mean = circular_mean(positions / unit, self._over_event(weights), dim) * unit
        shared = weights.unsqueeze(-1).expand(q.shape[:-1])
        return _join(mean, self._sphere.frechet_mean(q, shared, dim, steps, tol))

    def extra_repr(self) -> str:
        return f"{self.n}" if self.box is None else f"{self.n}, box={self.box}"


def checked_box(box: Sequence[float]) -> tuple[float, float, float]:
    """Three edges as numbers, unless they are not that or not positive."""
    try:
        edges = tuple(float(edge) for edge in box)
    except (TypeError, ValueError):  # one number, or a matrix
        edges = ()
    if len(edges) != 3 or not all(math.isfinite(edge) and edge > 0 for edge in edges):
        raise ValueError(f"box must be three positive edges in nm, got {box!r}")
    return edges


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., :3], x[..., 3:]


def _join(positions: Tensor, quaternions: Tensor) -> Tensor:
    return torch.cat((positions, quaternions), -1)
