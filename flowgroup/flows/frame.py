"""Flows on particles in a frame that turns with them: rotations are left out of what is to be learned."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowgroup.flows.transform import Transform
from flowgroup.manifolds import MeanFree


class InFrame(Transform):
    """y = (o, t(c)): n particles with mean zero to their orientation o and coordinates c in a frame of their own.

    The frame has its origin at the first particle and its first axis through the second; in three dimensions the third
    particle is in the half-plane of the first two axes. Distances r along and s across the first axis enter c as
    logarithms, so every c stands for a shape. The angles of the frame are o: each is uniform under a density that does
    not change with rotations, and is taken to the score that is standard normal then, Φ⁻¹(φ/2π + ½) for one. So a flow
    with a normal base and a t that leaves o alone has a density invariant under rotations.

    c has (n−1)·d − d(d−1)/2 entries: log r, s or log s, and the other particles' coordinates. logdet = log|det ∂t/∂c| +
    (d/2)·log n − d·log r − 2·log s (without s in the plane) − the log-densities of the angles under o.

    Args:
        transform: t on vectors of that size.
        n: number of particles, at least 2 in the plane and 3 in space.
        d: dimension, 2 or 3.

    Raises:
        ValueError: another dimension, too few particles, a transform of another size or with a context.

    Example:
        >>> from flowgroup import flows
        >>> vectors = flows.NSF(5, transforms=2)
        >>> flow = flows.Flow(InFrame(vectors.transform, 4, 2), flows.DiagonalNormal(6))
        >>> x = flow.sample((3,))
        >>> turned = torch.stack((-x[..., 1], x[..., 0]), -1)
        >>> torch.allclose(flow.log_prob(turned), flow.log_prob(x), atol=1e-3)
        True
    """

    def __init__(self, transform: Transform, n: int, d: int):
        super().__init__()
        if d not in (2, 3) or n < d:
            raise ValueError(f"d must be 2 or 3 and n at least d, got n={n}, d={d}")
        self.manifold = MeanFree(n, d)
        self.angles = d * (d - 1) // 2
        shape = (self.manifold.dim - self.angles,)
        if tuple(transform.in_shape) != shape or tuple(transform.out_shape) != shape or transform.context_features:
            raise ValueError(f"transform must take vectors {shape} to vectors without a context, got {transform!r}")
        self.transform = transform
        self.n, self.d = n, d
        self.in_shape, self.out_shape = (n, d), (self.manifold.dim,)
        self.domain = self.manifold.constraint

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self._checked("x", x, context)
        steps = x[..., 1:, :] - x[..., :1, :]
        first = steps[..., 0, :]
        r = torch.linalg.vector_norm(first, dim=-1)
        axis = first / r.unsqueeze(-1)
        phi = torch.atan2(axis[..., 1], axis[..., 0])
        if self.d == 2:
            uniform = [phi / (2 * math.pi) + 0.5]
            frame, s, rest = _plane(phi), None, steps[..., 1:, :]
        else:
            local = (_space(axis[..., 2], phi, torch.zeros_like(phi)) @ steps[..., 1, :, None]).squeeze(-1)
            psi = torch.atan2(local[..., 2], local[..., 1])
            s = torch.linalg.vector_norm(local[..., 1:], dim=-1)
            uniform = [phi / (2 * math.pi) + 0.5, axis[..., 2] / 2 + 0.5, psi / (2 * math.pi) + 0.5]
            frame, rest = _space(axis[..., 2], phi, psi), steps[..., 2:, :]
        parts = [r.log().unsqueeze(-1)]
        if s is not None:
            parts += [local[..., :1], s.log().unsqueeze(-1)]
        c = torch.cat([*parts, (rest @ frame.mT).flatten(-2)], -1)
        edge = torch.finfo(x.dtype).eps  # of angles at ±π, where the score would be infinite
        score = torch.special.ndtri(torch.stack(uniform, -1).clamp(edge, 1 - edge))
        y, logdet = self.transform(c)
        return torch.cat([score, y], -1), logdet - self._log_volume(c, score)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self._checked("y", y, context, inverse=True)
        score, y = y[..., : self.angles], y[..., self.angles :]
        c, logdet = self.transform.inverse(y)
        uniform = torch.special.ndtr(score)
        phi, r = 2 * math.pi * (uniform[..., 0] - 0.5), c[..., :1].exp()
        if self.d == 2:
            frame, known, rest = _plane(phi), [torch.cat([r, torch.zeros_like(r)], -1)], c[..., 1:]
        else:
            frame = _space(2 * uniform[..., 1] - 1, phi, 2 * math.pi * (uniform[..., 2] - 0.5))
            zero = torch.zeros_like(r)
            known = [torch.cat([r, zero, zero], -1), torch.cat([c[..., 1:2], c[..., 2:3].exp(), zero], -1)]
            rest = c[..., 3:]
        local = torch.cat([torch.stack(known, -2), rest.unflatten(-1, (-1, self.d))], -2)
        steps = local @ frame
        x = torch.cat([torch.zeros_like(steps[..., :1, :]), steps], -2)
        return self.manifold.projx(x), logdet + self._log_volume(c, score)

    def _log_volume(self, c: Tensor, score: Tensor) -> Tensor:
        """log(dvol(x)/(dc do))."""
        # dφ/do = 2π·N(o), d cos θ/do = 2·N(o)
        normal = -0.5 * (score.square() + math.log(2 * math.pi)).sum(-1)
        ranges = math.log(2 * math.pi) if self.d == 2 else 2 * math.log(2 * math.pi) + math.log(2)
        radial = self.d * c[..., 0] + (2 * c[..., 2] if self.d == 3 else 0)
        return radial + normal + ranges - 0.5 * self.d * math.log(self.n)

    def extra_repr(self) -> str:
        return f"{self.n}, {self.d}"


def _plane(phi: Tensor) -> Tensor:
    """Rows: the axes of the frame turned by phi."""
    c, s = phi.cos(), phi.sin()
    return torch.stack([torch.stack([c, s], -1), torch.stack([-s, c], -1)], -2)


def _space(z: Tensor, phi: Tensor, psi: Tensor) -> Tensor:
    """Rows: the first axis at height z and azimuth phi, the others turned about it by psi."""
    flat = ((1 - z) * (1 + z)).clamp(min=torch.finfo(z.dtype).eps ** 2).sqrt()
    c, s = phi.cos(), phi.sin()
    first = torch.stack([flat * c, flat * s, z], -1)
    down = torch.stack([z * c, z * s, -flat], -1)
    side = torch.stack([-s, c, torch.zeros_like(z)], -1)
    cos, sin = psi.cos().unsqueeze(-1), psi.sin().unsqueeze(-1)
    return torch.stack([first, cos * down + sin * side, cos * side - sin * down], -2)
