"""Rotations: stored values, scipy, half turns, tiny angles, float32, derivatives."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from scipy.spatial.transform import Rotation

from flowgroup import linalg
from flowgroup.groups import (
    SO,
    SO2,
    SO3,
    UnitQuaternions,
    euler_to_matrix,
    hamilton_product,
    matrix_to_euler,
    matrix_to_quaternion,
    quaternion_to_matrix,
    quaternion_to_rotation_vector,
    rotation_vector_to_quaternion,
)
from flowgroup.manifolds import Sphere

HERE = Path(__file__).parent
STORED = HERE.parent.parent / "shared" / "oracles"
CONVENTIONS = [
    "".join(axes)
    for alphabet in ("xyz", "XYZ")
    for axes in itertools.product(alphabet, repeat=3)
    if axes[0] != axes[1] != axes[2]
]
DOUBLE = torch.float64


def some_values() -> dict[str, torch.Tensor]:
    values = json.loads((HERE / "data" / "rotations.json").read_text())
    return {name: torch.tensor(value, dtype=DOUBLE) for name, value in values.items()}


def all_values() -> dict[str, torch.Tensor]:
    files = [np.load(STORED / name) for name in ("lie.npz", "quaternion.npz")]
    values = {name: torch.as_tensor(f[name]).to(DOUBLE) for f in files for name in f if name[:3] in ("so3", "qua")}
    quat = values["quat"]
    return values | {
        "quat_first": quat[:20],
        "quat_second": quat[1:21],
        "quat_vec": values["quat_vec"][:20],
        "quat_rotated": values["quat_rotated"][:20],
    }


references = pytest.mark.parametrize(
    "values",
    [
        pytest.param(some_values, id="some"),
        pytest.param(
            all_values,
            id="all",
            marks=pytest.mark.skipif(
                not STORED.exists(), reason="the full set of reference values is not beside the repository"
            ),
        ),
    ],
)


def assert_rows(got, expected, up_to_sign=None):
    """|got − expected| ≤ 1e-12·|expected| per row, and 1e-30 at 0; where asked for up to the sign of the row."""
    error = (got - expected).norm(dim=-1)
    if up_to_sign is not None:
        error = torch.where(up_to_sign, torch.minimum(error, (got + expected).norm(dim=-1)), error)
    assert (error <= (1e-12 * expected.norm(dim=-1)).clamp(min=1e-30)).all(), error


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@references
def test_stored_values_of_so3(values):
    """exp, log and Jacobian from 0 over 1e-14 to π − 1e-10 and π."""
    values, group = values(), SO3()
    v, R, half = values["so3_w"], values["so3_exp"], values["so3_log_up_to_sign"].bool()
    close(group.exp(v), R)
    close(group.exp(values["so3_wbig"]), values["so3_wbig_exp"])
    assert_rows(group.log(R), v, half)
    close(group.left_jacobian(v), values["so3_Jl"])
    close(torch.linalg.inv(group.left_jacobian(v)), values["so3_Jl_inv"])
    close(group.log_abs_det_exp(v), torch.linalg.slogdet(values["so3_Jl"]).logabsdet)


@references
def test_stored_values_of_so_n(values):
    values, group = values(), SO(3)
    hat = SO3().hat(values["so3_w"])
    close(group.exp(group.vee(hat)), values["so3_exp"])
    log = SO3().vee(group.hat(group.log(values["so3_exp"])))
    assert_rows(log, values["so3_w"], values["so3_log_up_to_sign"].bool())


@references
def test_stored_values_of_quaternions(values):
    values = values()
    q, R, v = values["quat"], values["quat_rotmat"], values["quat_rotvec"]
    everywhere = torch.ones(len(q), dtype=torch.bool)
    close(quaternion_to_matrix(q), R)
    assert_rows(matrix_to_quaternion(R), q, everywhere)
    assert_rows(rotation_vector_to_quaternion(v), q, everywhere)
    half = v.norm(dim=-1) > math.pi - 1e-6
    assert_rows(quaternion_to_rotation_vector(q), v, half)
    assert_rows(quaternion_to_rotation_vector(-q), v, half)
    group = UnitQuaternions()
    close(group.compose(values["quat_first"], values["quat_second"]), values["quat_prod"])
    close(group.act(values["quat_first"], values["quat_vec"]), values["quat_rotated"])


def rotations(n: int) -> torch.Tensor:
    """Random ones, and those of the octahedron: the identity, half and quarter turns."""
    return torch.cat([SO3().random(n, 3, 3, dtype=DOUBLE), torch.tensor(Rotation.create_group("O").as_matrix())])


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_euler_angles_are_those_of_scipy(convention):
    angles = 2 * math.pi * torch.rand(50, 3, dtype=DOUBLE) - math.pi
    expected = torch.tensor(Rotation.from_euler(convention, angles.numpy()).as_matrix())
    close(euler_to_matrix(angles, convention), expected)
    R = rotations(50)
    got = matrix_to_euler(R, convention)
    close(euler_to_matrix(got, convention), R)  # in gimbal lock too, which holds for some of the octahedron
    expected = torch.tensor(Rotation.from_matrix(R[:50].numpy()).as_euler(convention))
    difference = (got[:50] - expected + math.pi).remainder(2 * math.pi) - math.pi
    close(difference, torch.zeros_like(difference))
    middle = got[:, 1]
    low, high = (0, math.pi) if convention[0] == convention[2] else (-math.pi / 2, math.pi / 2)
    assert (middle >= low).all() and (middle <= high).all()


@pytest.mark.parametrize("convention", ["ZYX", "zxz"])
def test_euler_angles_differentiate_broadcast_and_compile(convention):
    angles = torch.rand(5, 3, dtype=DOUBLE) + 0.1
    assert torch.autograd.gradcheck(
        lambda a: matrix_to_euler(euler_to_matrix(a, convention), convention), angles.requires_grad_()
    )
    lock = torch.zeros(3, 3) + torch.eye(3)
    if convention == "ZYX":
        lock = euler_to_matrix(torch.tensor([0.0, math.pi / 2, 0.0]), convention)
    lock = lock.requires_grad_()
    (gradient,) = torch.autograd.grad(matrix_to_euler(lock, convention).sum(), lock)
    assert gradient.isfinite().all()
    R = rotations(6)
    expected = matrix_to_euler(R, convention)

    def there(R):
        return matrix_to_euler(R, convention)

    close(torch.func.vmap(there)(R), expected)
    torch._dynamo.reset()
    close(torch.compile(there, fullgraph=True, backend="eager")(R), expected)


def test_half_turns_about_every_axis(dtype, device):
    axes = Sphere(2).random(500, 3, dtype=dtype, device=device)
    eye = torch.eye(3, dtype=dtype, device=device)
    axes[:6] = Sphere(2).projx(torch.cat([eye, eye + eye.roll(1, 1)]))
    R = 2 * axes.unsqueeze(-1) * axes.unsqueeze(-2) - eye
    eps = torch.finfo(dtype).eps
    q = matrix_to_quaternion(R)
    torch.testing.assert_close(q.norm(dim=-1), torch.ones_like(q[:, 0]), rtol=0, atol=4 * eps)
    assert ((q[:, 1:] * axes).sum(-1).abs() > 1 - 8 * eps).all()
    v = SO3().log(R)
    torch.testing.assert_close(v.norm(dim=-1), torch.full_like(q[:, 0], math.pi), rtol=0, atol=16 * eps)
    torch.testing.assert_close(SO3().exp(v), R, rtol=0, atol=16 * eps)
    leaf = R.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((SO3().log(leaf).sum() + SO3().dist(leaf, R.mT).sum()), leaf)
    assert gradient.isfinite().all()


def test_tiny_angles_keep_their_digits(dtype):
    angle = torch.logspace(-18, 0, 40, dtype=dtype)
    axis = Sphere(2).random(40, 3, dtype=DOUBLE)
    v = (angle.unsqueeze(-1) * axis).to(dtype)
    for group in (SO3(), UnitQuaternions()):
        error = (group.log(group.exp(v)) - v).norm(dim=-1)
        assert (error <= 8 * torch.finfo(dtype).eps * angle).all()
    error = SO3().dist(SO3().exp(v), torch.eye(3, dtype=dtype)) - v.norm(dim=-1)
    assert (error.abs() <= 8 * torch.finfo(dtype).eps * angle).all()


def test_float32_agrees_with_float64():
    g, h = SO3().random(2, 2000, 3, 3, dtype=DOUBLE)
    eps = torch.finfo(torch.float32).eps
    distance = SO3().dist(g, h)
    torch.testing.assert_close(SO3().dist(g.float(), h.float()).double(), distance, rtol=0, atol=16 * eps)
    v = SO3().log(g.float())
    torch.testing.assert_close(SO3().exp(v).double(), g, rtol=0, atol=8 * eps)
    difference = SO3().left_jacobian(v).double() - SO3().left_jacobian(v.double())
    assert difference.abs().max() < 8 * eps


def test_derivatives():
    v = torch.randn(4, 3, dtype=DOUBLE)
    v[0] = 0
    for group in (SO3(), SO(3)):
        there_and_back = lambda v, group=group: group.log(group.exp(v) @ group.exp(v.flip(-1)))  # noqa: E731
        assert torch.autograd.gradcheck(there_and_back, v.requires_grad_(), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(there_and_back, v[1:].detach().requires_grad_())
    assert torch.autograd.gradgradcheck(SO3().exp, v)  # at zero, too
    assert torch.autograd.gradgradcheck(SO3().log_abs_det_exp, v)
    q = Sphere(3).random(4, 4, dtype=DOUBLE).requires_grad_()
    assert torch.autograd.gradcheck(lambda q: matrix_to_quaternion(quaternion_to_matrix(Sphere(3).projx(q))), q)
    assert torch.autograd.gradcheck(quaternion_to_rotation_vector, q)


def test_quaternions_cover_rotations_twice():
    group = UnitQuaternions()
    p, q = group.random(2, 300, 4, dtype=DOUBLE)
    x = torch.randn(300, 3, dtype=DOUBLE)
    close(group.act(q, x), SO3().act(quaternion_to_matrix(q), x))
    close(group.act(-q, x), group.act(q, x))
    close(quaternion_to_matrix(group.exp(x / 4)), SO3().exp(x / 2))
    close(quaternion_to_matrix(hamilton_product(p, q)), quaternion_to_matrix(p) @ quaternion_to_matrix(q))
    d = group.dist(p, q)
    close(SO3().dist(quaternion_to_matrix(p), quaternion_to_matrix(q)), 2 * torch.minimum(d, math.pi - d))
    assert SO3().volume == pytest.approx(group.volume * 8 / 2)
    minus = -group.identity(dtype=DOUBLE)
    close(group.log(minus).norm(), torch.tensor(math.pi, dtype=DOUBLE))
    close(group.exp(group.log(minus)), minus)


def test_quaternion_matrices_are_those_of_the_product():
    v, q = torch.randn(5, 3, dtype=DOUBLE), UnitQuaternions().random(5, 4, dtype=DOUBLE)
    pure = torch.cat([torch.zeros(5, 1, dtype=DOUBLE), v], -1)
    close((UnitQuaternions().hat(v) @ q.unsqueeze(-1)).squeeze(-1), hamilton_product(pure, q))
    first_column = torch.linalg.matrix_exp(UnitQuaternions().hat(v))[..., 0]
    close(UnitQuaternions().exp(v), first_column)


@pytest.mark.parametrize("group", [SO2(), SO3(), SO(2), SO(3), SO(4), SO(5)], ids=repr)
def test_haar_measure(group):
    """E tr R = 0 and E tr²R = 1 (2 in the plane), by orthogonality of characters."""
    n = 20_000
    trace = group.random(n, *group.event_shape, dtype=DOUBLE).diagonal(dim1=-2, dim2=-1).sum(-1)
    second = 2 if group.event_shape[0] == 2 else 1
    assert abs(trace.mean()) < 5 * (second / n) ** 0.5
    assert abs(trace.square().mean() - second) < 5 * trace.square().std() / n**0.5


def test_uniform_angle_of_rotations():
    angle = SO3().log(SO3().random(20_000, 3, 3, dtype=DOUBLE)).norm(dim=-1)
    # density (1 − cos θ)/π
    assert scipy.stats.kstest(angle.numpy(), lambda t: (t - np.sin(t)) / math.pi).pvalue > 1e-3


@pytest.mark.parametrize("n", [2, 4, 5, 8])
def test_so_n_against_scipy(n):
    group = SO(n)
    g = group.random(6, n, n, dtype=DOUBLE)
    log = group.hat(group.log(g))
    for got, matrix in zip(log, g):
        np.testing.assert_allclose(got, scipy.linalg.logm(matrix.numpy()).real, rtol=0, atol=1e-11)
    v = torch.randn(6, group.dim, dtype=DOUBLE)
    for got, skew in zip(group.exp(v), group.hat(v)):
        np.testing.assert_allclose(got, scipy.linalg.expm(skew.numpy()), rtol=0, atol=1e-11)


def test_so_n_has_the_metric_of_so3_and_so2():
    g, h = SO3().random(2, 50, 3, 3, dtype=DOUBLE)
    close(SO(3).dist(g, h), SO3().dist(g, h))
    u = SO3().tangent(g, torch.randn(50, 3, dtype=DOUBLE))
    close(SO(3).inner(g, u), SO3().inner(g, u))
    g, h = SO2().random(2, 50, 2, 2, dtype=DOUBLE)
    close(SO(2).dist(g, h), SO2().dist(g, h))
    assert SO(2).volume == pytest.approx(SO2().volume) and SO(3).volume == pytest.approx(SO3().volume)
    assert SO(4).volume == pytest.approx(SO3().volume * Sphere(3).volume)


def turns(angles, n: int, count: int) -> torch.Tensor:
    """Skew matrices that turn random planes by the given angles."""
    A = torch.zeros(n, n, dtype=DOUBLE)
    for i, angle in enumerate(angles):
        A[2 * i + 1, 2 * i], A[2 * i, 2 * i + 1] = angle, -angle
    Q = torch.linalg.qr(torch.randn(count, n, n, dtype=DOUBLE))[0]
    return Q @ A @ Q.mT


@pytest.mark.parametrize("gap", [1e-1, 1e-3, 1e-6, 1e-9, 1e-10])
@pytest.mark.parametrize("n, others", [(3, []), (4, [0.3]), (7, [1.0, 1.0])])
def test_logarithm_near_one_half_turn(gap, n, others):
    A = turns([math.pi - gap, *others], n, 20)
    R = torch.linalg.matrix_exp(A)
    torch.testing.assert_close(SO(n).hat(SO(n).log(R)), A, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "n, angles, tolerance",
    [
        (3, [math.pi], 1e-13),
        (7, [math.pi, 0.5, 2.0], 1e-13),
        (4, [math.pi, math.pi], 1e-13),
        (9, [math.pi, math.pi, 0.1, math.pi], 1e-13),
        (4, [math.pi - 1e-12, 1.0], 1e-11),
        (4, [math.pi, math.pi - 1e-4], 1e-12),
        (4, [math.pi - 1e-8, math.pi - 3e-8], 1e-10),
        (6, [math.pi - 1e-12, math.pi, math.pi - 1e-7], 1e-10),
    ],
)
def test_logarithm_at_half_turns_is_a_shortest_one(n, angles, tolerance):
    R = torch.linalg.matrix_exp(turns(angles, n, 20))
    log = SO(n).log(R)
    torch.testing.assert_close(SO(n).exp(log), R, rtol=0, atol=tolerance)
    length = torch.full((20,), math.hypot(*angles), dtype=DOUBLE)
    torch.testing.assert_close(log.norm(dim=-1), length, rtol=0, atol=2 * tolerance)


@pytest.mark.parametrize("diagonal", [[1, 1, 1, 1], [-1, -1, 1, 1], [-1, -1, -1, -1]])
def test_gradients_where_planes_are_not_determined(diagonal, dtype):
    R = torch.diag(torch.tensor(diagonal, dtype=dtype)).requires_grad_()
    for f in (SO(4).log, SO(4).projx):
        (gradient,) = torch.autograd.grad(f(R).sum(), R)
        assert gradient.isfinite().all()


def test_nearest_rotation():
    X = torch.randn(40, 4, 4, dtype=DOUBLE)
    R = linalg.nearest_rotation(X)
    assert (torch.linalg.det(X) < 0).any()
    close(torch.linalg.det(R), torch.ones(40, dtype=DOUBLE))
    distance = (X - R).norm(dim=(-2, -1))
    for size in (1e-3, 0.1, 1.0):
        other = R @ SO(4).exp(size * torch.randn(40, 6, dtype=DOUBLE))
        assert (distance < (X - other).norm(dim=(-2, -1))).all()
    positive = X[torch.linalg.det(X) > 0]
    for got, matrix in zip(linalg.nearest_rotation(positive), positive):
        np.testing.assert_allclose(got, scipy.linalg.polar(matrix.numpy())[0], rtol=0, atol=1e-12)
    X = torch.cat([X[:3], R[:1]]).requires_grad_()  # at a rotation all singular values are equal
    assert torch.autograd.gradcheck(linalg.nearest_rotation, X, check_forward_ad=True)
    for extreme in (torch.zeros(3, 3), torch.ones(3, 3), 1e-30 * torch.eye(3), 1e30 * torch.eye(3)):
        extreme = extreme.requires_grad_()
        R = SO3().projx(extreme)
        assert SO3().contains(R) and torch.autograd.grad(R.sum(), extreme)[0].isfinite().all()


def test_one_matrix_has_the_exponential_that_many_have():
    A = 0.3 * torch.randn(100, 2, 2, dtype=DOUBLE)
    A = A - A.mT
    one_by_one = torch.stack([linalg.matrix_exp(a) for a in A])
    torch.testing.assert_close(one_by_one, SO2().exp(A[:, 1, :1]), rtol=0, atol=1e-15)
    torch.testing.assert_close(linalg.matrix_exp(A), one_by_one, rtol=0, atol=1e-15)


def test_projection_brings_drift_back(dtype):
    g = SO3().random(100, 3, 3, dtype=dtype)
    drifted = g + 1e-3 * torch.randn_like(g)
    assert not SO3().contains(drifted).any()
    projected = SO3().projx(drifted)
    assert SO3().contains(projected).all()
    assert (SO3().dist(projected, g) < 0.02).all()


@pytest.mark.parametrize("convention", ["xyy", "xy", "xYz", "abc", "", 3])
def test_bad_conventions(convention):
    for call in (
        lambda: euler_to_matrix(torch.zeros(3), convention),
        lambda: matrix_to_euler(torch.eye(3), convention),
    ):
        with pytest.raises(ValueError, match=f"convention must name three axes.*got {convention!r}"):
            call()


@pytest.mark.parametrize("n, message", [(1, "n must be at least 2, got 1"), (2.0, "n must be a positive integer")])
def test_bad_dimensions(n, message):
    with pytest.raises(ValueError, match=message):
        SO(n)
