"""Every group keeps the laws, and so do groups written on the contracts in a few lines."""

import math
import subprocess
import sys

import pytest
import registry_spaces
import torch

from flowgroup import testing
from flowgroup.groups import SO2, LieGroup, MatrixLieGroup
from flowgroup.manifolds import Euclidean, Torus

every_group = pytest.mark.parametrize("space", registry_spaces.GROUPS, ids=str)


class Rotations(MatrixLieGroup):
    """SO(3), by what is needed and no more."""

    volume = 8 * math.pi**2
    injectivity_radius = math.pi

    def __init__(self):
        super().__init__(3, (3, 3))

    def hat(self, v):
        x, y, z = v.unbind(-1)
        o = torch.zeros_like(x)
        return torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).unflatten(-1, (3, 3))

    def vee(self, X):
        return (
            torch.stack([X[..., 2, 1] - X[..., 1, 2], X[..., 0, 2] - X[..., 2, 0], X[..., 1, 0] - X[..., 0, 1]], -1) / 2
        )

    def exp(self, v):
        # Rodrigues: torch's matrix exponential of a single small matrix is only right to 6e-14
        hat, angle = self.hat(v), v.norm(dim=-1)[..., None, None] / math.pi
        return torch.eye(3).to(v) + torch.sinc(angle) * hat + 0.5 * torch.sinc(angle / 2) ** 2 * hat @ hat

    def log(self, g):
        w = self.vee(g)
        s = w.norm(dim=-1, keepdim=True)
        c = (g.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - 1) / 2
        return torch.where(s > 1e-6, torch.atan2(s, c) / torch.where(s > 1e-6, s, 1), 1) * w

    def projx(self, x):
        q, r = torch.linalg.qr(x)
        q = q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
        return torch.cat([q[..., :2], q[..., 2:] * torch.linalg.det(q)[..., None, None]], -1)

    def random_uniform(self, *size, dtype=None, device=None):
        return self.projx(torch.randn(*size, dtype=dtype, device=device))


class AffineLine(MatrixLieGroup):
    """x ↦ ax + b with a > 0: neither abelian nor unimodular, so left and right differ."""

    def __init__(self):
        super().__init__(2, (2, 2))

    def hat(self, v):
        zero = torch.zeros_like(v[..., 0])
        return torch.stack([v[..., 0], v[..., 1], zero, zero], -1).unflatten(-1, (2, 2))

    def vee(self, X):
        return X[..., 0, :]

    def log(self, g):
        a, b = g[..., 0, 0], g[..., 0, 1]
        s = a.log()
        small = (a - 1).abs() < 1e-7
        return torch.stack([s, b * torch.where(small, 1 - s / 2, s / torch.where(small, 1, a - 1))], -1)

    def projx(self, x):
        return torch.stack([x[..., 0, :], torch.tensor([0.0, 1.0]).to(x).expand(x[..., 0, :].shape)], -2)

    def random(self, *size, dtype=None, device=None):
        return self.exp(torch.randn(*size[:-2], 2, dtype=dtype, device=device))


@every_group
@pytest.mark.parametrize("law", testing.GROUP_LAWS, ids=lambda law: law.__name__)
def test_law(space, law, dtype, device):
    law(space.make(), dtype, device)


@every_group
@pytest.mark.parametrize("law", testing.LIE_GROUP_LAWS, ids=lambda law: law.__name__)
def test_lie_law(space, law, dtype, device):
    group = space.make()
    assert isinstance(group, LieGroup)
    law(group, dtype, device)


@every_group
def test_action(space, dtype, device):
    testing.assert_action(space.make(), registry_spaces.point_moved_by(space, dtype, device), dtype, device)


@pytest.mark.parametrize(
    "law",
    [*testing.GROUP_LAWS, *testing.LIE_GROUP_LAWS, *testing.MANIFOLD_LAWS],
    ids=lambda law: law.__name__,
)
def test_contract_carries_rotations_of_space(law):
    law(Rotations())


@pytest.mark.parametrize("law", [*testing.GROUP_LAWS, *testing.LIE_GROUP_LAWS], ids=lambda law: law.__name__)
def test_contract_carries_a_group_that_is_not_unimodular(law):
    law(AffineLine())


def test_actions_of_the_contract():
    testing.assert_group(Rotations(), torch.randn(3))


class WrongAbelian(Rotations):
    abelian = True


class WrongInverse(SO2):
    def inverse(self, g):
        return g


class WrongMetric(SO2):
    def log(self, g):
        return 2 * super().log(g)


class RightJacobian(AffineLine):
    def left_jacobian(self, v):
        return super().left_jacobian(-v)


class WrongAction(SO2):
    def act(self, g, x):
        return super().act(g.mT, x) * 2


class BackwardAdjoint(Rotations):
    def adjoint(self, g):
        return super().adjoint(self.inverse(g))


@pytest.mark.parametrize(
    "wrong, law",
    [
        (WrongAbelian(), testing.assert_group_axioms),
        (WrongInverse(), testing.assert_group_axioms),
        (WrongMetric(), testing.assert_lie_exp_log),
        (RightJacobian(), testing.assert_left_jacobian),
        (BackwardAdjoint(), testing.assert_adjoint),
        (WrongAction(), lambda group: testing.assert_action(group, torch.randn(2))),
    ],
)
def test_laws_find_mistakes(wrong, law):
    with pytest.raises(AssertionError, match="broken: .*" + type(wrong).__name__):
        law(wrong)


@pytest.mark.parametrize("group", [SO2(), Torus(3), Euclidean(3)], ids=repr)
def test_exp_is_the_matrix_exponential(group, dtype):
    v = torch.randn(10, group.dim, dtype=dtype)
    matrix = torch.linalg.matrix_exp(group.hat(v).double())
    if isinstance(group, SO2):
        expected = group.exp(v)
    elif isinstance(group, Euclidean):
        expected = torch.eye(4, dtype=dtype).repeat(10, 1, 1)
        expected[:, :3, 3] = group.exp(v)
    else:
        expected = torch.stack([torch.block_diag(*SO2().exp(angles.unsqueeze(-1))) for angles in group.exp(v)])
    torch.testing.assert_close(expected.double(), matrix, rtol=0, atol=16 * torch.finfo(dtype).eps)


def test_left_jacobian_of_rotations_in_closed_form():
    v = torch.tensor([0.3, -1.1, 0.7], dtype=torch.float64)
    angle, hat = v.norm(), Rotations().hat(v)
    expected = (
        torch.eye(3, dtype=torch.float64)
        + (1 - angle.cos()) / angle**2 * hat
        + (angle - angle.sin()) / angle**3 * hat @ hat
    )
    torch.testing.assert_close(Rotations().left_jacobian(v), expected)
    torch.testing.assert_close(Rotations().log_abs_det_exp(v), 2 * (2 * (angle / 2).sin() / angle).log())


def test_half_turns(dtype):
    half = SO2().exp(torch.tensor([math.pi], dtype=dtype))
    torch.testing.assert_close(SO2().log(half).abs(), torch.tensor([math.pi], dtype=dtype))
    g = torch.eye(2, dtype=dtype).neg().requires_grad_()
    (gradient,) = torch.autograd.grad(SO2().log(g).sum(), g)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("first", ["groups", "manifolds"])
def test_either_package_can_be_imported_first(first):
    subprocess.run([sys.executable, "-c", f"import flowgroup.{first}"], check=True)
