"""Rigid bodies as positions and quaternions, and the sites that move with them."""

from __future__ import annotations

import torch
from torch import Tensor

from flowgroup._checks import check_event_shape
from flowgroup.groups.rotations import matrix_to_quaternion, quaternion_to_matrix


def bodies_to_sites(bodies: Tensor, frame: Tensor) -> Tensor:
    """xₛ = p + R(q/|q|)·fₛ, differentiable in bodies and frame.

    Args:
        bodies: (..., 7), position p and quaternion q = (w, x, y, z) of any length but zero.
        frame: sites in the frame of the body (S, 3), in the unit of the positions.

    Returns:
        Sites (..., S, 3).

    Raises:
        TypeError, ValueError: arguments of the wrong kind or shape.

    Example:
        >>> body = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])  # half a turn about z
        >>> bodies_to_sites(body, torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]))
        tensor([[1.0000, 0.0000, 0.0000],
                [0.5000, 0.0000, 0.0000]])
    """
    check_event_shape("bodies", bodies, (7,))
    check_event_shape("frame", frame, (None, 3))
    position, q = bodies.split([3, 4], -1)
    R = quaternion_to_matrix(q / torch.linalg.vector_norm(q, dim=-1, keepdim=True))
    return position.unsqueeze(-2) + frame @ R.mT


def sites_to_bodies(sites: Tensor) -> Tensor:
    """The rigid bodies of three-site molecules: p = x₀, z along x₁ + x₂ − 2x₀, x towards x₁ in the plane of the sites.

    It undoes `bodies_to_sites` for the frames of water, and gives the nearest pose where sites vibrate.

    Args:
        sites: (..., S, 3) with S ≥ 3, of which the first three are read: oxygen and the two hydrogens. Molecules must
            be whole, not cut by a periodic boundary.

    Returns:
        Bodies (..., 7), quaternions with w ≥ 0.

    Raises:
        TypeError, ValueError: sites of the wrong kind or shape.

    Example:
        >>> sites_to_bodies(torch.tensor([[0.0, 0.0, 1.0], [0.8, 0.0, 1.6], [-0.8, 0.0, 1.6]]))
        tensor([0., 0., 1., 1., 0., 0., 0.])
    """
    check_event_shape("sites", sites, (None, 3))
    if sites.shape[-2] < 3:
        raise ValueError(f"sites must have at least three sites per molecule, got shape {tuple(sites.shape)}")
    o, first, second = sites[..., 0, :], sites[..., 1, :], sites[..., 2, :]
    z = _unit(first + second - 2 * o)
    x = first - second
    x = _unit(x - (x * z).sum(-1, keepdim=True) * z)
    R = torch.stack([x, torch.linalg.cross(z, x), z], -1)
    return torch.cat([o, matrix_to_quaternion(R)], -1)


def _unit(x: Tensor) -> Tensor:
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
