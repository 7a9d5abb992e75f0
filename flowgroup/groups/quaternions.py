"""The group of unit quaternions."""

from __future__ import annotations

import torch
from torch import Tensor

from flowgroup.groups.base import LieGroup
from flowgroup.groups.rotations import hamilton_product, quaternion_to_matrix
from flowgroup.groups.so3 import cross, left_jacobian
from flowgroup.manifolds.sphere import Sphere


class UnitQuaternions(Sphere, LieGroup):
    """Quaternions (w, x, y, z) of length one under the Hamilton product, with d(p, q) = the angle between p and q.

    As a manifold it is `Sphere(3)`. It acts on vectors (..., 3) by rotation, twice over: q and −q turn alike. For
    coordinates v (..., 3), exp(v) = (cos|v|, sin|v|·v/|v|) is the rotation by 2|v| about v: they are half the rotation
    vectors of `SO3`, and the distance there is 2·min(d, π − d). `log` keeps its digits up to −1, where all directions
    are as short and it takes a fixed one.

    Example:
        >>> group = UnitQuaternions()
        >>> q = group.exp(torch.tensor([0.0, 0.0, torch.pi / 4]))
        >>> group.act(q, torch.tensor([1.0, 0.0, 0.0])).round(decimals=4) + 0.0
        tensor([0., 1., 0.])
    """

    def __init__(self):
        super().__init__(3)

    def identity(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        return self.origin(*size, dtype=dtype, device=device)

    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        return hamilton_product(g, h)

    def inverse(self, g: Tensor) -> Tensor:
        return torch.cat([g[..., :1], -g[..., 1:]], -1)

    def act(self, g: Tensor, x: Tensor) -> Tensor:
        """The vector part of gxg⁻¹, for vectors x (..., 3)."""
        w, u = g[..., :1], g[..., 1:]
        t = 2 * cross(u, x)
        return x + w * t + cross(u, t)

    def exp(self, v: Tensor) -> Tensor:
        return self.expmap(self.identity(dtype=v.dtype, device=v.device), _pure(v))

    def log(self, g: Tensor) -> Tensor:
        return self.logmap(self.identity(dtype=g.dtype, device=g.device), g)[..., 1:]

    def hat(self, v: Tensor) -> Tensor:
        """The matrix (..., 4, 4) of q ↦ (0, v)q."""
        eye = torch.eye(4, dtype=v.dtype, device=v.device)
        return hamilton_product(_pure(v).unsqueeze(-2), eye).mT

    def vee(self, X: Tensor) -> Tensor:
        basis = self.hat(torch.eye(3, dtype=X.dtype, device=X.device))
        return (X.unsqueeze(-3) * basis).sum((-2, -1)) / 4

    def tangent(self, g: Tensor, v: Tensor) -> Tensor:
        """g·(0, v)."""
        return hamilton_product(g, _pure(v))

    def coordinates(self, g: Tensor, u: Tensor) -> Tensor:
        """The vector part of g⁻¹u."""
        return hamilton_product(self.inverse(g), u)[..., 1:]

    def adjoint(self, g: Tensor) -> Tensor:
        """The rotation matrix of g."""
        return quaternion_to_matrix(g)

    def bracket(self, v: Tensor, w: Tensor) -> Tensor:
        """2·v × w."""
        return 2 * cross(v, w)

    def left_jacobian(self, v: Tensor) -> Tensor:
        """That of `SO3` at 2v."""
        return left_jacobian(2 * v)

    def log_abs_det_exp(self, v: Tensor) -> Tensor:
        """2·log|sin|v|/|v||; see `LieGroup.log_abs_det_exp`."""
        return self.log_abs_det_expmap(self.identity(dtype=v.dtype, device=v.device), _pure(v))

    def extra_repr(self) -> str:
        return ""


def _pure(v: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(v[..., :1]), v], -1)
