"""Rigid motions: stored values, scipy, screws, geodesics of the product metric."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from flowgroup.boltzmann import bodies_to_sites
from flowgroup.groups import SE3, SO3, matrix_to_pose, pose_to_matrix
from flowgroup.manifolds import Euclidean, Product, RigidBodies

HERE = Path(__file__).parent
STORED = HERE.parent.parent / "shared" / "oracles" / "lie.npz"
DOUBLE = torch.float64


def some_values() -> dict[str, torch.Tensor]:
    values = json.loads((HERE / "data" / "rigid_motions.json").read_text())
    return {name: torch.tensor(value, dtype=DOUBLE) for name, value in values.items()}


def all_values() -> dict[str, torch.Tensor]:
    file = np.load(STORED)
    values = {name: torch.as_tensor(file[name]) for name in file if name.startswith("se3")}
    return values | {"se3_first": values["se3_exp"][:10], "se3_second": values["se3_exp"][1:11]}


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(some_values, id="some"),
        pytest.param(
            all_values,
            id="all",
            marks=pytest.mark.skipif(not STORED.exists(), reason="the full set is not beside the repository"),
        ),
    ],
)
def test_stored_values(values):
    """Angles from 0 over 1e-10 to π − 1e-10 and π."""
    values, group = values(), SE3()
    xi, g = values["se3_xi"], values["se3_exp"]
    for got, expected in (
        (group.exp(xi), g),
        (group.adjoint(g), values["se3_Ad"]),
        (group.left_jacobian(xi), values["se3_Jl"]),
        (torch.linalg.inv(group.left_jacobian(xi)), values["se3_Jl_inv"]),
        (group.compose(values["se3_first"], values["se3_second"]), values["se3_compose"]),
    ):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-13 * expected.abs().max().item())
    log = group.log(g)
    half = xi[:, 3:].norm(dim=-1) > math.pi - 1e-6  # where the opposite axis is as good
    torch.testing.assert_close(log[~half], xi[~half], rtol=0, atol=1e-13)
    torch.testing.assert_close(group.exp(log), g, rtol=0, atol=1e-13)
    torch.testing.assert_close(group.log_abs_det_exp(xi), torch.linalg.slogdet(values["se3_Jl"]).logabsdet)


def test_exp_is_the_matrix_exponential(dtype):
    v = torch.randn(20, 6, dtype=dtype)
    expected = torch.tensor(np.stack([scipy.linalg.expm(X) for X in SE3().hat(v).double().numpy()]))
    torch.testing.assert_close(SE3().exp(v).double(), expected, rtol=0, atol=32 * torch.finfo(dtype).eps)


def test_as_a_manifold_it_is_positions_beside_rotations():
    group, product = SE3(), Product(Euclidean(3), SO3())

    def split(g):
        return torch.cat([g[..., :3, 3], g[..., :3, :3].flatten(-2)], -1)

    g, h = group.random(2, 10, 4, 4, dtype=DOUBLE)
    v = torch.randn(10, 6, dtype=DOUBLE)
    u = group.tangent(g, v)
    torch.testing.assert_close(split(group.logmap(g, h)), product.logmap(split(g), split(h)))
    torch.testing.assert_close(group.dist(g, h), product.dist(split(g), split(h)))
    torch.testing.assert_close(split(group.expmap(g, u)), product.expmap(split(g), split(u)))
    torch.testing.assert_close(split(group.transp(g, h, u)), product.transp(split(g), split(h), split(u)))
    torch.testing.assert_close(group.log_abs_det_expmap(g, u), product.log_abs_det_expmap(split(g), split(u)))


def test_float32_agrees_with_float64():
    v = torch.randn(500, 6, dtype=DOUBLE)
    v[:, 3:] *= torch.logspace(-8, 0, 500, dtype=DOUBLE).unsqueeze(-1)
    v = v.float().double()
    eps = torch.finfo(torch.float32).eps
    torch.testing.assert_close(SE3().exp(v.float()).double(), SE3().exp(v), rtol=0, atol=32 * eps)
    short = v[v[:, 3:].norm(dim=-1) < 3]
    torch.testing.assert_close(SE3().log(SE3().exp(short.float())).double(), short, rtol=0, atol=64 * eps)


def test_poses_are_matrices_and_back(dtype):
    poses = RigidBodies(5).random(30, 5, 7, dtype=dtype)
    axes = torch.tensor(
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.6, 0.0, 0.8], [-0.6, 0.8, 0.0]], dtype=dtype
    )
    poses[0, :, 3:] = torch.nn.functional.pad(axes, (1, 0))  # half turns
    g, atol = pose_to_matrix(poses), 8 * torch.finfo(dtype).eps
    sites = torch.randn(4, 3, dtype=dtype)
    moved = SE3().act(g.unsqueeze(-3), sites)
    torch.testing.assert_close(moved, bodies_to_sites(poses, sites), rtol=0, atol=8 * atol)
    opposite = torch.cat([poses[..., :3], -poses[..., 3:]], -1)
    assert SE3().contains(g).all() and torch.equal(pose_to_matrix(opposite), g)
    back = matrix_to_pose(g)
    sign = (back[..., 3:] * poses[..., 3:]).sum(-1, keepdim=True).sign()  # of one rotation; either at half turns
    torch.testing.assert_close(back[..., 3:], sign * poses[..., 3:], rtol=0, atol=atol)
    assert torch.equal(back[..., :3], poses[..., :3]) and (back[..., 3] >= 0).all()
    torch.testing.assert_close(pose_to_matrix(back), g, rtol=0, atol=atol)
    for call, name in ((pose_to_matrix, "pose"), (matrix_to_pose, "g")):
        with pytest.raises(ValueError, match=f"^{name} must have shape"):
            call(torch.zeros(3, 3))
