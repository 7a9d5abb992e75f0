"""The unit sphere of any dimension."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowgroup._checks import positive_integer
from flowgroup.manifolds.base import Manifold, whole_shape


class Sphere(Manifold):
    """Unit vectors of ℝ^{dim+1}, with d(x, y) = 2·atan2(|x − y|, |x + y|).

    Distances and logarithms keep their digits from coinciding to opposite points. Between points exactly opposite,
    where all directions are as short, `logmap` and `transp` go by one fixed direction, so exp and log stay inverse.

    Args:
        dim: intrinsic dimension, at least 1.

    Example:
        >>> sphere = Sphere(2)
        >>> north, east = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0])
        >>> sphere.dist(north, east), sphere.logmap(north, east)
        (tensor(1.5708), tensor([1.5708, 0.0000, 0.0000]))
    """

    injectivity_radius = math.pi

    def __init__(self, dim: int):
        super().__init__(positive_integer("dim", dim), (dim + 1,))
        half = (dim + 1) / 2
        self.volume = 2 * math.exp(half * math.log(math.pi) - math.lgamma(half))

    def origin(self, *size: int, dtype: torch.dtype | None = None, device=None, seed: int | None = None) -> Tensor:
        """The point (1, 0, …, 0); `seed` is there for geoopt and has no effect."""
        point = torch.zeros(whole_shape(size, self.event_shape), dtype=dtype, device=device)
        point[..., 0] = 1
        return point

    def random_uniform(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        return self.projx(torch.randn(whole_shape(size, self.event_shape), dtype=dtype, device=device))

    def projx(self, x: Tensor) -> Tensor:
        """x/|x|; the origin for x = 0."""
        largest = x.detach().abs().amax(-1, keepdim=True)
        none = largest == 0
        x = x / torch.where(none, 1, largest)  # so that squares neither vanish nor overflow
        x = torch.where(none, self._axis(torch.zeros_like(none, dtype=torch.long), x), x)
        return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """u − ⟨x, u⟩x."""
        return u - _dot(x, u) * x

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self.proju(x, u)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        """The dot product of ℝ^{dim+1}."""
        product = u * (u if v is None else v)
        return torch.broadcast_tensors(product, x)[0].sum(-1, keepdim=keepdim)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """(x + u)/|x + u|."""
        return self.projx(x + u)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """cos|u|·x + sin|u|·u/|u|."""
        cos, sinc = cos_sinc(_dot(u, u))
        y = cos * x + sinc * u
        # without this, iterated maps amplify what rounding adds to the length
        return y / torch.linalg.vector_norm(y, dim=-1, keepdim=True)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """θ·w/|w|, w the part of y tangent at x, θ the distance."""
        # the tangent part of y is also that of y − x and of y + x: of these the one without cancellation
        near = _dot(x, y) >= 0
        w = self.proju(x, torch.where(near, y - x, y + x))
        s2 = _dot(w, w)
        opposite = ~near & (s2 == 0)
        w = torch.where(opposite, self._across(x), w)
        small = near & (s2 < 0.01)
        s2 = torch.where(small | (s2 == 0), 1, s2)
        return torch.where(small, asinc(_dot(w, w)), self._angle(x, y) / s2.sqrt()) * w

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        angle = self._angle(x, y)
        return angle if keepdim else angle.squeeze(-1)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """v − 2⟨w, v⟩w/|w|², w = x + y: parallel transport along the shortest geodesic."""
        w = x + y
        w = torch.where(_dot(w, w) == 0, self._across(x), w)
        return v - 2 * _dot(w, v) / _dot(w, w) * w

    def log_abs_det_expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """(dim − 1)·log|sin|u|/|u||."""
        sinc = cos_sinc(self.inner(x, u))[1]
        return (self.dim - 1) * sinc.abs().log() if self.dim > 1 else torch.zeros_like(sinc)

    def _angle(self, x: Tensor, y: Tensor) -> Tensor:
        return 2 * torch.atan2(*(torch.linalg.vector_norm(a, dim=-1, keepdim=True) for a in (x - y, x + y)))

    def _across(self, x: Tensor) -> Tensor:
        """A unit tangent vector at x: towards the axis that x leans to least."""
        axis = self._axis(x.detach().abs().argmin(-1, keepdim=True), x)
        return self.projx(self.proju(x, axis))

    def _axis(self, index: Tensor, like: Tensor) -> Tensor:
        return (torch.arange(self.dim + 1, device=like.device) == index).to(like.dtype)


def _dot(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).sum(-1, keepdim=True)


def cos_sinc(z: Tensor) -> tuple[Tensor, Tensor]:
    """cos √z and sin(√z)/√z, smooth at z = 0."""
    small = z < 0.01
    r = torch.where(small, 1, z).sqrt()
    cos = 1 - z / 2 * (1 - z / 12 * (1 - z / 30 * (1 - z / 56 * (1 - z / 90))))
    sinc = 1 - z / 6 * (1 - z / 20 * (1 - z / 42 * (1 - z / 72 * (1 - z / 110))))
    return torch.where(small, cos, r.cos()), torch.where(small, sinc, r.sin() / r)


def asinc(z: Tensor) -> Tensor:
    """asin(√z)/√z for 0 ≤ z < 0.01, by its series."""
    value = torch.zeros_like(z)
    for c in (143 / 10240, 231 / 13312, 63 / 2816, 35 / 1152, 5 / 112, 3 / 40, 1 / 6, 1.0):
        value = value * z + c
    return value
