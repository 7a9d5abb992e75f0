"""Rigid motions of space as matrices."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowgroup._checks import check_event_shape
from flowgroup.groups.base import MatrixLieGroup
from flowgroup.groups.rotations import matrix_to_quaternion, quaternion_to_matrix
from flowgroup.groups.so3 import SO3, cross, cross_matrix, left_jacobian
from flowgroup.manifolds.base import whole_shape


class SE3(MatrixLieGroup):
    """Rigid motions g = [[R, t], [0, 1]], x ↦ Rx + t, with d(g, h)² = |t − t′|² + (the angle of R⁻¹R′)².

    Coordinates (..., 6) are (v, w): `exp` is the screw motion with velocity v at the origin and angular velocity w, a
    rotation vector. It keeps its digits at angles near 0 and near π, as does `log`; see `SO3`.

    The metric is left-invariant and that of positions beside rotations: shortest curves move the position along a
    straight line, with `expmap` and `logmap`; they are not the screws of `exp` and `log`.

    Example:
        >>> group = SE3()
        >>> quarter = group.exp(torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, math.pi / 2]))  # about (0, 2/π, 0)
        >>> group.act(quarter, torch.tensor([0.0, 2 / math.pi, 0.0])).round(decimals=4)
        tensor([0.0000, 0.6366, 0.0000])
    """

    reversible = True
    injectivity_radius = math.pi

    def __init__(self):
        super().__init__(6, (4, 4))

    def inverse(self, g: Tensor) -> Tensor:
        """[[Rᵀ, −Rᵀt], [0, 1]]."""
        R, t = _parts(g)
        return _join(R.mT, -_turn(R.mT, t), 1)

    def act(self, g: Tensor, x: Tensor) -> Tensor:
        """Rx + t, for points x (..., 3)."""
        R, t = _parts(g)
        return _turn(R, x) + t

    def exp(self, v: Tensor) -> Tensor:
        """[[exp ŵ, J(w)v], [0, 1]], J the left Jacobian of `SO3`."""
        v, w = v[..., :3], v[..., 3:]
        return _join(_ROTATIONS.exp(w), _turn(left_jacobian(w), v), 1)

    def log(self, g: Tensor) -> Tensor:
        R, t = _parts(g)
        w = _ROTATIONS.log(R)
        return torch.cat([torch.linalg.solve_ex(left_jacobian(w), t.unsqueeze(-1))[0].squeeze(-1), w], -1)

    def hat(self, v: Tensor) -> Tensor:
        """[[ŵ, v], [0, 0]]."""
        return _join(cross_matrix(v[..., 3:]), v[..., :3], 0)

    def vee(self, X: Tensor) -> Tensor:
        return torch.cat([X[..., :3, 3], _ROTATIONS.vee(X[..., :3, :3])], -1)

    def coordinates(self, g: Tensor, u: Tensor) -> Tensor:
        """(Rᵀu_t, vee(Rᵀu_R))."""
        R = g[..., :3, :3]
        return torch.cat([_turn(R.mT, u[..., :3, 3]), _ROTATIONS.vee(R.mT @ u[..., :3, :3])], -1)

    def adjoint(self, g: Tensor) -> Tensor:
        """[[R, t̂R], [0, R]]."""
        R, t = _parts(g)
        return _blocks(R, cross_matrix(t) @ R)

    def bracket(self, v: Tensor, w: Tensor) -> Tensor:
        """(a × v′ − a′ × v, a × a′) for (v, a) and (v′, a′)."""
        moved = cross(v[..., 3:], w[..., :3]) - cross(w[..., 3:], v[..., :3])
        return torch.cat([moved, cross(v[..., 3:], w[..., 3:])], -1)

    def log_abs_det_exp(self, v: Tensor) -> Tensor:
        """Twice that of `SO3`; see `LieGroup.log_abs_det_exp`."""
        return 2 * _ROTATIONS.log_abs_det_exp(v[..., 3:])

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """[[R·exp ŵ, t + u_t], [0, 1]]."""
        R, t = _parts(x)
        return _join(_ROTATIONS.expmap(R, u[..., :3, :3]), t + u[..., :3, 3], 1)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """[[R·log(RᵀR′), t′ − t], [0, 0]]."""
        (R, t), (S, s) = _parts(x), _parts(y)
        return _join(_ROTATIONS.logmap(R, S), s - t, 0)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """√(|t − t′|² + angle²)."""
        (R, t), (S, s) = _parts(x), _parts(y)
        both = torch.cat([s - t, _ROTATIONS.log(R.mT @ S)], -1)
        distance = torch.linalg.vector_norm(both, dim=-1)
        return self._over_event(distance) if keepdim else distance

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Translation in space of v_t, left translation of v_R."""
        moved = _ROTATIONS.transp(x[..., :3, :3], y[..., :3, :3], v[..., :3, :3])
        return _join(moved, v[..., :3, 3], 0)

    def log_abs_det_expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """That of `SO3`."""
        return _ROTATIONS.log_abs_det_expmap(x[..., :3, :3], u[..., :3, :3])

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return _join(_ROTATIONS.egrad2rgrad(x[..., :3, :3], u[..., :3, :3]), u[..., :3, 3], 0)

    def projx(self, x: Tensor) -> Tensor:
        """The nearest rotation beside the same position."""
        return _join(_ROTATIONS.projx(x[..., :3, :3]), x[..., :3, 3], 1)

    def random(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        """A uniform rotation and a standard normal position."""
        batch = whole_shape(size, self.event_shape)[:-2]
        R = _ROTATIONS.random(*batch, 3, 3, dtype=dtype, device=device)
        return _join(R, torch.randn(*batch, 3, dtype=dtype, device=device), 1)


_ROTATIONS = SO3()


def pose_to_matrix(pose: Tensor) -> Tensor:
    """g = [[R(q), p], [0, 1]], the element of `SE3` that takes a body at rest to the pose (p, q).

    Args:
        pose: (..., 7), position p and unit quaternion q = (w, x, y, z), as `manifolds.RigidBodies` has them.

    Returns:
        Matrices (..., 4, 4); q and −q have the same.

    Raises:
        TypeError, ValueError: a pose of the wrong kind or shape.

    Example:
        >>> pose_to_matrix(torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 1.0]))  # half a turn about z
        tensor([[-1.,  0.,  0.,  1.],
                [ 0., -1.,  0.,  2.],
                [ 0.,  0.,  1.,  3.],
                [ 0.,  0.,  0.,  1.]])
    """
    check_event_shape("pose", pose, (7,))
    return _join(quaternion_to_matrix(pose[..., 3:]), pose[..., :3], 1)


def matrix_to_pose(g: Tensor) -> Tensor:
    """(p, q) of g = [[R(q), p], [0, 1]].

    Args:
        g: elements (..., 4, 4) of `SE3`.

    Returns:
        Poses (..., 7), position and unit quaternion (w, x, y, z) with w ≥ 0.

    Raises:
        TypeError, ValueError: a g of the wrong kind or shape.

    Example:
        >>> matrix_to_pose(torch.eye(4))
        tensor([0., 0., 0., 1., 0., 0., 0.])
    """
    check_event_shape("g", g, (4, 4))
    R, p = _parts(g)
    return torch.cat([p, matrix_to_quaternion(R)], -1)


def _parts(g: Tensor) -> tuple[Tensor, Tensor]:
    """R (..., 3, 3) and t (..., 3)."""
    return g[..., :3, :3], g[..., :3, 3]


def _join(R: Tensor, t: Tensor, corner: int) -> Tensor:
    """[[R, t], [0, corner]]."""
    batch = torch.broadcast_shapes(R.shape[:-2], t.shape[:-1])
    top = torch.cat([R.expand(*batch, 3, 3), t.expand(*batch, 3).unsqueeze(-1)], -1)
    bottom = torch.nn.functional.pad(top.new_full((*batch, 1, 1), corner), (3, 0))
    return torch.cat([top, bottom], -2)


def _blocks(A: Tensor, B: Tensor) -> Tensor:
    """[[A, B], [0, A]]."""
    return torch.cat([torch.cat([A, B], -1), torch.cat([torch.zeros_like(A), A], -1)], -2)


def _turn(R: Tensor, x: Tensor) -> Tensor:
    return (R @ x.unsqueeze(-1)).squeeze(-1)
