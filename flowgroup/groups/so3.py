"""Rotations of space as matrices."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowgroup.groups.base import MatrixLieGroup
from flowgroup.groups.rotations import (
    matrix_to_quaternion,
    quaternion_to_matrix,
    quaternion_to_rotation_vector,
    rotation_vector_to_quaternion,
)
from flowgroup.linalg.nearest import nearest_rotation
from flowgroup.manifolds.base import whole_shape
from flowgroup.manifolds.sphere import Sphere, cos_sinc


class SO3(MatrixLieGroup):
    """Rotation matrices of space, with d(g, h) = the angle of g⁻¹h in radians.

    Coordinates are rotation vectors (..., 3), axis times angle: `exp` takes any of them to matrices (..., 3, 3), `log`
    gives one of angle at most π. Both keep their digits at angles near 0 and near π; at half turns, where axis and
    opposite axis are as good, `log` gives one of the two.

    Example:
        >>> group = SO3()
        >>> g = group.exp(torch.tensor([0.0, 0.0, math.pi / 2]))
        >>> group.act(g, torch.tensor([1.0, 0.0, 0.0])).round(decimals=4) + 0.0
        tensor([0., 1., 0.])
        >>> group.log(g @ g)
        tensor([0.0000, 0.0000, 3.1416])
    """

    reversible = True
    volume = 8 * math.pi**2
    injectivity_radius = math.pi

    def __init__(self):
        super().__init__(3, (3, 3))

    def inverse(self, g: Tensor) -> Tensor:
        return g.mT

    def exp(self, v: Tensor) -> Tensor:
        return quaternion_to_matrix(rotation_vector_to_quaternion(v))

    def log(self, g: Tensor) -> Tensor:
        return quaternion_to_rotation_vector(matrix_to_quaternion(g))

    def hat(self, v: Tensor) -> Tensor:
        """The matrix of w ↦ v × w."""
        return cross_matrix(v)

    def vee(self, X: Tensor) -> Tensor:
        twice = [X[..., 2, 1] - X[..., 1, 2], X[..., 0, 2] - X[..., 2, 0], X[..., 1, 0] - X[..., 0, 1]]
        return torch.stack(twice, -1) / 2

    def adjoint(self, g: Tensor) -> Tensor:
        """g itself."""
        return g

    def bracket(self, v: Tensor, w: Tensor) -> Tensor:
        """v × w."""
        return cross(v, w)

    def left_jacobian(self, v: Tensor) -> Tensor:
        return left_jacobian(v)

    def log_abs_det_exp(self, v: Tensor) -> Tensor:
        """2·log|sin(θ/2)/(θ/2)|, θ = |v|; see `LieGroup.log_abs_det_exp`."""
        return 2 * cos_sinc((v * v).sum(-1) / 4)[1].abs().log()

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """Twice the tangent part, as the dot product of coordinates is half the product of matrices."""
        return 2 * self.proju(x, u)

    def projx(self, x: Tensor) -> Tensor:
        """The nearest rotation."""
        return nearest_rotation(x)

    def random_uniform(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        shape = whole_shape(size, self.event_shape)
        return quaternion_to_matrix(Sphere(3).random_uniform(*shape[:-2], 4, dtype=dtype, device=device))

    def extra_repr(self) -> str:
        return ""


def left_jacobian(v: Tensor) -> Tensor:
    """J(v) = I + (1 − cos θ)/θ²·hat(v) + (θ − sin θ)/θ³·hat(v)², θ = |v|; see `LieGroup.left_jacobian`.

    Example:
        >>> left_jacobian(torch.zeros(3)).diagonal()
        tensor([1., 1., 1.])
    """
    z = (v * v).sum(-1)[..., None, None]
    hat = cross_matrix(v)
    eye = torch.eye(3, dtype=v.dtype, device=v.device)
    return eye + cos_sinc(z / 4)[1] ** 2 / 2 * hat + _third(z) * (hat @ hat)


def cross(v: Tensor, w: Tensor) -> Tensor:
    """v × w (..., 3), with broadcasting."""
    return torch.linalg.cross(*torch.broadcast_tensors(v, w))


def cross_matrix(v: Tensor) -> Tensor:
    """The matrix (..., 3, 3) of w ↦ v × w."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def _third(z: Tensor) -> Tensor:
    """(θ − sin θ)/θ³, θ = √z, smooth at z = 0."""
    small = z < 0.25
    series = torch.ones_like(z)
    for c in (272, 210, 156, 110, 72, 42, 20):
        series = 1 - z / c * series
    return torch.where(small, series / 6, (1 - cos_sinc(z)[1]) / torch.where(small, 1, z))
