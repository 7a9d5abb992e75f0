"""Rotations of space in their several forms: matrices, quaternions (w, x, y, z), rotation vectors and Euler angles."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowgroup.manifolds.constraints import wrap
from flowgroup.manifolds.sphere import asinc, cos_sinc

# q and −q are one rotation: where a function reads a rotation off a quaternion, both give the same


def hamilton_product(p: Tensor, q: Tensor) -> Tensor:
    """pq = (p₀q₀ − p·q, p₀q + q₀p + p × q), of which the rotation is first q, then p.

    Args:
        p, q: quaternions (..., 4); batch shapes broadcast.

    Returns:
        Quaternions (..., 4).

    Example:
        >>> i, j = torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0, 0.0])
        >>> hamilton_product(i, j)
        tensor([0., 0., 0., 1.])
    """
    a, b, c, d = p.unbind(-1)
    w, x, y, z = q.unbind(-1)
    return torch.stack(
        [
            a * w - b * x - c * y - d * z,
            a * x + b * w + c * z - d * y,
            a * y - b * z + c * w + d * x,
            a * z + b * y - c * x + d * w,
        ],
        -1,
    )


def quaternion_to_matrix(q: Tensor) -> Tensor:
    """R = I + 2w·hat(u) + 2·hat(u)² for the unit quaternion q = (w, u).

    Args:
        q: unit quaternions (..., 4).

    Returns:
        Rotation matrices (..., 3, 3).

    Example:
        >>> quaternion_to_matrix(torch.tensor([0.0, 0.0, 0.0, 1.0])).diagonal()
        tensor([-1., -1.,  1.])
    """
    w, x, y, z = q.unbind(-1)
    xx, yy, zz = 2 * x * x, 2 * y * y, 2 * z * z
    xy, xz, yz = 2 * x * y, 2 * x * z, 2 * y * z
    wx, wy, wz = 2 * w * x, 2 * w * y, 2 * w * z
    entries = [1 - yy - zz, xy - wz, xz + wy, xy + wz, 1 - xx - zz, yz - wx, xz - wy, yz + wx, 1 - xx - yy]
    return torch.stack(entries, -1).unflatten(-1, (3, 3))


def matrix_to_quaternion(R: Tensor) -> Tensor:
    """q with 4qqᵀ = K(R), by that column of the symmetric matrix K, linear in R, which is longest; right at any angle.

    Args:
        R: rotation matrices (..., 3, 3).

    Returns:
        Unit quaternions (..., 4) with w ≥ 0. Two of them, q and −q, stand for R; at half turns, where w = 0, either
        may come.

    Example:
        >>> matrix_to_quaternion(torch.diag(torch.tensor([-1.0, 1.0, -1.0])))
        tensor([0., 0., 1., 0.])
    """
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in R.unbind(-2))
    wx, wy, wz, xy, xz, yz = h - f, c - g, d - b, b + d, c + g, f + h
    ww, xx, yy, zz = 1 + a + e + i, 1 + a - e - i, 1 - a + e - i, 1 - a - e + i
    K = torch.stack([ww, wx, wy, wz, wx, xx, xy, xz, wy, xy, yy, yz, wz, xz, yz, zz], -1).unflatten(-1, (4, 4))
    longest = torch.stack([ww, xx, yy, zz], -1).detach().argmax(-1)[..., None, None]
    q = torch.take_along_dim(K, longest, -2).squeeze(-2)
    return _upper(q / torch.linalg.vector_norm(q, dim=-1, keepdim=True))


def rotation_vector_to_quaternion(v: Tensor) -> Tensor:
    """q = (cos θ/2, sin θ/2·v/θ), θ = |v|.

    Args:
        v: rotation vectors (..., 3), axis times angle in radians.

    Returns:
        Unit quaternions (..., 4).

    Example:
        >>> rotation_vector_to_quaternion(torch.tensor([0.0, 0.0, math.pi / 2]))
        tensor([0.7071, 0.0000, 0.0000, 0.7071])
    """
    cos, sinc = cos_sinc((v * v).sum(-1, keepdim=True) / 4)
    return torch.cat([cos, sinc * v / 2], -1)


def quaternion_to_rotation_vector(q: Tensor) -> Tensor:
    """v = 2·atan2(|u|, w)·u/|u| for q = (w, u), or for −q where w < 0.

    Args:
        q: unit quaternions (..., 4), or multiples whose squares neither vanish nor overflow.

    Returns:
        Rotation vectors (..., 3), axis times an angle in [0, π].

    Example:
        >>> quaternion_to_rotation_vector(torch.tensor([0.0, 0.0, 2.0, 0.0]))
        tensor([0.0000, 3.1416, 0.0000])
    """
    q = _upper(q)
    w, u = q[..., :1], q[..., 1:]
    s2 = (u * u).sum(-1, keepdim=True)
    n2 = w * w + s2
    small = s2 < 0.01 * n2
    s = torch.where(small, 1, s2).sqrt()
    # half the angle over |u|; near 0 by the series of the arcsine of |u|/|q|
    ratio = torch.where(small, asinc(s2 / n2) / n2.sqrt(), torch.atan2(s, w) / s)
    return 2 * ratio * u


def euler_to_matrix(angles: Tensor, convention: str) -> Tensor:
    """R = R₁(α)·R₂(β)·R₃(γ) for upper-case (intrinsic) axes, R₃(γ)·R₂(β)·R₁(α) for lower-case (extrinsic) axes.

    Args:
        angles: (..., 3) in radians, in the order of the axes.
        convention: three axes as in scipy: "ZYX" turns about the axes of the body, "xyz" about those of space; no
            axis twice in a row.

    Returns:
        Rotation matrices (..., 3, 3).

    Raises:
        ValueError: a convention that is none.

    Example:
        >>> R = euler_to_matrix(torch.tensor([math.pi / 2, 0.0, 0.0]), "ZYX")
        >>> (R @ torch.tensor([1.0, 0.0, 0.0])).round(decimals=4) + 0.0
        tensor([0., 1., 0.])
    """
    axes, intrinsic = _axes(convention)
    cos, sin = (angles / 2).cos(), (angles / 2).sin()
    zero = torch.zeros_like(cos[..., 0])
    turns = [
        torch.stack([cos[..., i], *(sin[..., i] if k == axis else zero for k in range(3))], -1)
        for i, axis in enumerate(axes)
    ]
    first, second, third = turns if intrinsic else reversed(turns)
    return quaternion_to_matrix(hamilton_product(hamilton_product(first, second), third))


def matrix_to_euler(R: Tensor, convention: str) -> Tensor:
    """The angles of which `euler_to_matrix` makes R.

    The middle angle lies in [0, π] where the outer axes are the same and in [−π/2, π/2] otherwise; at both ends (gimbal
    lock) only the sum or difference of the outer angles is determined, and one of the solutions comes.

    Args:
        R: rotation matrices (..., 3, 3).
        convention: three axes, as in `euler_to_matrix`.

    Returns:
        Angles (..., 3) in radians, the outer ones in [−π, π).

    Raises:
        ValueError: a convention that is none.

    Source: Quaternion to Euler angles conversion: a direct, general and computationally efficient method, 2022,
        doi 10.1371/journal.pone.0276302.

    Example:
        >>> angles = torch.tensor([0.3, -0.2, 0.1])
        >>> matrix_to_euler(euler_to_matrix(angles, "xyz"), "xyz")
        tensor([ 0.3000, -0.2000,  0.1000])
    """
    (i, j, k), intrinsic = _axes(convention)
    if intrinsic:  # the same turns about axes at rest, in reverse order
        i, k = k, i
    proper = i == k
    k = 3 - i - j
    parity = 1 if (j - i) % 3 == 1 else -1
    q = matrix_to_quaternion(R)
    w, x, y, z = q[..., 0], q[..., 1 + i], q[..., 1 + j], parity * q[..., 1 + k]
    # e.g. for xyx: w, x ∝ cos(β/2)·(cos, sin)(½(α + γ)) and y, z ∝ sin(β/2)·(cos, sin)(½(γ − α));
    # three different axes are that case after a quarter turn about the middle one
    a, b, c, d = (w, x, y, z) if proper else (w - y, x + z, w + y, z - x)
    middle = 2 * _angle(_length(a, b), _length(c, d))
    half_sum, half_difference = _angle(a, b), _angle(c, d)
    first, third = half_sum - half_difference, half_sum + half_difference
    if not proper:
        middle, third = middle - math.pi / 2, parity * third
    outer = (third, first) if intrinsic else (first, third)
    return torch.stack([wrap(outer[0]), middle, wrap(outer[1])], -1)


def _upper(q: Tensor) -> Tensor:
    """That of q and −q which has w ≥ 0."""
    return torch.where(q[..., :1] < 0, -q, q)


def _axes(convention: str) -> tuple[tuple[int, ...], bool]:
    """Axes 0 to 2, and whether they are those of the body."""
    intrinsic = isinstance(convention, str) and convention.isupper()
    axes = convention.lower() if isinstance(convention, str) and (intrinsic or convention.islower()) else ""
    if len(axes) != 3 or not set(axes) <= set("xyz") or axes[0] == axes[1] or axes[1] == axes[2]:
        raise ValueError(
            "convention must name three axes, no axis twice in a row, all upper case (intrinsic) or all lower case "
            f"(extrinsic), as 'ZYX' or 'xyz'; got {convention!r}"
        )
    return tuple("xyz".index(axis) for axis in axes), intrinsic


def _length(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vector_norm(torch.stack([a, b]), dim=0)


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """atan2(b, a), 0 with gradient 0 for a = b = 0."""
    return torch.atan2(b, torch.where((a == 0) & (b == 0), 1, a))
