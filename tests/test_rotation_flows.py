"""Flows on rotations: stored values, oddness, float32 near singular parameters, densities that integrate to one."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import registry
import scipy.stats
import torch
import torch.nn.functional as F

from flowgroup import distributions, flows
from flowgroup.bijections import (
    AxisMoebius,
    AxisSpline,
    ProjectiveConvexGradient,
    ProjectiveLinear,
    ProjectiveMoebius,
)
from flowgroup.groups import SO3, hamilton_product, quaternion_to_matrix, rotation_vector_to_quaternion
from flowgroup.manifolds import Sphere

HERE = Path(__file__).parent
STORED = HERE.parent.parent / "shared" / "oracles" / "quaternion.npz"
DOUBLE = torch.float64

ODD = [
    AxisMoebius(2),
    AxisMoebius(2, "body"),
    AxisSpline(4),
    AxisSpline(4, "body"),
    ProjectiveConvexGradient(3, 3),
    ProjectiveLinear(3),
    ProjectiveMoebius(3),
]


def some_values() -> dict[str, torch.Tensor]:
    values = json.loads((HERE / "data" / "projective.json").read_text())
    return {name: torch.tensor(value, dtype=DOUBLE) for name, value in values.items()}


def all_values() -> dict[str, torch.Tensor]:
    file = np.load(STORED)
    return {name: torch.as_tensor(file[name]) for name in file}


references = pytest.mark.parametrize(
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


def quaternions(n: int, dtype: torch.dtype = DOUBLE) -> torch.Tensor:
    return F.normalize(torch.randn(n, 4, dtype=DOUBLE), dim=-1).to(dtype)


def outside_the_ball(q: torch.Tensor) -> torch.Tensor:
    """u with q = u/√(1+|u|²)."""
    return q * (1 - q.square().sum(-1, keepdim=True)).rsqrt()


@references
def test_stored_values_of_the_moebius_map(values):
    values, f = values(), ProjectiveMoebius(3)
    u = outside_the_ball(values["moebius_q"])
    for got, key in ((f.forward, "moebius_fwd"), (f.inverse, "moebius_inv")):
        y, logdet = got(values["moebius_p"], u)
        torch.testing.assert_close(y, values[key], rtol=0, atol=1e-12)
        torch.testing.assert_close(logdet, values[key + "_logdet"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("r", [0.5, 0.99, 0.9999])
def test_moebius_map_in_float32_is_that_of_float64(r):
    x = quaternions(20_000, torch.float32)
    u = outside_the_ball(r * quaternions(20_000)).float()
    x[:2000] = F.normalize(u[:2000] + 1e-4 * x[:2000], dim=-1)  # where one of the two stretches most
    across = x[2000:4000].double()
    along = F.normalize(u[2000:4000].double(), dim=-1)
    x[2000:4000] = F.normalize(across - (across * along).sum(-1, keepdim=True) * along, dim=-1).float()
    f = ProjectiveMoebius(3)
    for g in (f.forward, f.inverse):
        y, logdet = g(x, u)
        expected, expected_logdet = g(x.double(), u.double())
        assert (y - expected).abs().max() < 2e-7
        assert (logdet - expected_logdet).abs().max() < 2e-6


def test_moebius_map_is_the_sum_of_two():
    x, q = quaternions(50), 0.9 * quaternions(50) * torch.rand(50, 1, dtype=DOUBLE)

    def one(p, q):  # p reflected at the point that the ray from p through q meets next
        d = F.normalize(q - p, dim=-1)
        return -(p - 2 * (p * d).sum(-1, keepdim=True) * d)

    expected = F.normalize(one(x, q) + one(x, -q), dim=-1)
    torch.testing.assert_close(ProjectiveMoebius(3).forward(x, outside_the_ball(q))[0], expected)


def norm(x: torch.Tensor, params: torch.Tensor, components: int) -> torch.Tensor:
    """N(x) of `ProjectiveConvexGradient` for one x."""
    u = params[:-components].unflatten(-1, (components, -1))
    c = u / (1 + u.square().sum(-1, keepdim=True) / 900).sqrt()
    return (params[-components:].softmax(-1) * (x.square().sum() + (c @ x).square()).sqrt()).sum()


def project_gradient(potential, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """unit(∇φ) and slogdet(H(I − xxᵀ) + ∇φxᵀ) − d·log|∇φ| at one x, by autograd."""
    gradient, hessian = torch.func.grad(potential)(x), torch.func.hessian(potential)(x)
    matrix = hessian @ (torch.eye(4, dtype=DOUBLE) - torch.outer(x, x)) + torch.outer(gradient, x)
    return F.normalize(gradient, dim=-1), torch.linalg.slogdet(matrix).logabsdet - 4 * gradient.norm().log()


@references
def test_convex_gradient_is_that_of_a_norm(values):
    """The projection of gradients is the published one, by stored values; and ours is it for the potential ½N²."""
    values, f = values(), ProjectiveConvexGradient(3, 6)
    for i, x in enumerate(values["convex_x"]):
        c, b = values["convex_ctrl"][i], values["convex_bias"][i]
        w = values["convex_weight_logits"][i].softmax(-1)
        y, logdet = project_gradient(lambda x, c=c, b=b, w=w: (w * (F.softplus(b) + (c @ x).cosh()).log()).sum(), x)
        torch.testing.assert_close(y, values["convex_fwd"][i], rtol=0, atol=1e-11)
        torch.testing.assert_close(logdet, values["convex_fwd_logdet"][i], rtol=0, atol=1e-11)
        params = torch.cat((5 * c.flatten(), b))
        y, logdet = project_gradient(lambda x, p=params: norm(x, p, 6).square() / 2, x)
        got, got_logdet = f.forward(x, params)
        torch.testing.assert_close(got, y, rtol=0, atol=1e-12)
        torch.testing.assert_close(got_logdet, logdet, rtol=0, atol=1e-12)


def test_gradients_of_other_convex_functions_need_not_be_invertible():
    c = torch.tensor([[5.0, 0.0], [math.cos(0.2), math.sin(0.2)]], dtype=DOUBLE)
    angle = torch.linspace(0, math.pi, 1000, dtype=DOUBLE)
    x = torch.stack((angle.cos(), angle.sin()), -1)
    image = ((c @ x.mT).tanh().mT.unsqueeze(-1) * c).sum(-2) + 1e-5 * x  # ∇ Σ log cosh⟨c,x⟩ + ε|x|²/2
    turned = torch.atan2(image[:, 1], image[:, 0]).diff()
    turned = (turned + math.pi).remainder(2 * math.pi) - math.pi
    assert turned.min() < -1e-5 and turned.max() > 1e-5  # it goes back and forth
    params = torch.cat((c.flatten(), torch.zeros(2, dtype=DOUBLE)))
    image = ProjectiveConvexGradient(1, 2).forward(x, params)[0]
    turned = torch.atan2(image[:, 1], image[:, 0]).diff()
    assert ((turned + math.pi).remainder(2 * math.pi) > math.pi).all()


@pytest.mark.parametrize("components", [1, 2, 3, 20])
def test_convex_gradient_inverts_at_any_parameters(components):
    f = ProjectiveConvexGradient(3, components)
    params = torch.randn(500, *f.param_shape, dtype=DOUBLE)
    params[:, :-components] *= torch.logspace(0, 3, 500, dtype=DOUBLE).unsqueeze(-1)
    params[:, -components:] *= 3
    x = quaternions(500)
    torch.testing.assert_close(f.inverse(f.forward(x, params)[0], params)[0], x, rtol=0, atol=1e-11)
    torch.testing.assert_close(f.forward(f.inverse(x, params)[0], params)[0], x, rtol=0, atol=1e-11)


@pytest.mark.parametrize("f", [f for f in ODD if not isinstance(f, ProjectiveMoebius | ProjectiveLinear)], ids=repr)
def test_inverses_have_second_derivatives(f):
    y, params = quaternions(1), 0.5 * torch.randn(1, *f.param_shape, dtype=DOUBLE)

    def inverse(y, params):
        return f.inverse(F.normalize(y, dim=-1), params)

    assert torch.autograd.gradcheck(inverse, (y.requires_grad_(), params.requires_grad_()))
    assert torch.autograd.gradgradcheck(inverse, (y, params), atol=1e-4)


@pytest.mark.parametrize("f", ODD, ids=repr)
def test_maps_are_odd(f, dtype):
    x, params = quaternions(20, dtype), torch.randn(20, *f.param_shape, dtype=dtype)
    for g in (f.forward, f.inverse):
        (y, logdet), (opposite, same) = g(x, params), g(-x, params)
        torch.testing.assert_close(-opposite, y)
        torch.testing.assert_close(same, logdet)


@pytest.mark.parametrize("side", ["space", "body"])
@pytest.mark.parametrize("make", [AxisMoebius, AxisSpline])
def test_axis_maps_turn_about_their_axis(make, side):
    f = make(4, side)
    x, params = quaternions(20), torch.randn(20, *f.param_shape, dtype=DOUBLE)
    before, after = quaternion_to_matrix(x), quaternion_to_matrix(f.forward(x, params)[0])
    turn = after @ before.mT if side == "space" else (before.mT @ after).mT
    axis = quaternion_to_matrix(F.normalize(params[:, :4], dim=-1))[..., 2]
    torch.testing.assert_close((turn @ axis.unsqueeze(-1)).squeeze(-1), axis)
    assert (turn.diagonal(dim1=-2, dim2=-1).sum(-1) < 2.999).any()


@pytest.mark.parametrize("side", ["space", "body"])
@pytest.mark.parametrize("make", [lambda side: AxisMoebius(2, side), lambda side: AxisSpline(8, side)])
def test_half_turns_come_back_with_their_sign(make, side):
    f, near = make(side), torch.finfo(torch.float64).eps * torch.linspace(-4, 4, 801, dtype=torch.float64)
    params, x = f.initial_params().double(), torch.stack((near, 0 * near, 0 * near, 1 + 0 * near), -1)
    assert (f.inverse(f.forward(x, params)[0], params)[0] - x).abs().max() < 1e-13
    assert (f.forward(f.inverse(x, params)[0], params)[0] - x).abs().max() < 1e-13


@pytest.mark.parametrize("make", [AxisMoebius, AxisSpline])
def test_axis_maps_are_smooth_where_a_vector_lies_along_the_axis(make):
    """Their derivative is the same from all sides of the rotations that turn a vector of the map onto the axis."""
    f = make(1 if make is AxisMoebius else 4)
    params = torch.randn(f.param_shape, dtype=DOUBLE)
    params[:4] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    params[4:7] = torch.tensor([0.0, 0.0, 2.0])
    at = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=DOUBLE)
    side = torch.cat((torch.zeros(8, 1), 1e-7 * torch.randn(8, 3)), -1).to(DOUBLE)
    slopes = torch.func.vmap(torch.func.jacrev(lambda x: f.forward(x, params)[0]))(F.normalize(at + side, dim=-1))
    slope = torch.func.jacrev(lambda x: f.forward(x, params)[0])(at[0])
    torch.testing.assert_close(slopes, slope.expand_as(slopes), rtol=0, atol=1e-5)


def rotations(angles: int, heights: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One of each pair of unit quaternions, by angles and height, and weights that sum to half the volume 2π²."""
    node, weight = (torch.tensor(t) for t in np.polynomial.legendre.leggauss(heights))
    a = torch.arange(angles, dtype=DOUBLE) * (2 * math.pi / angles)
    b = torch.arange(angles // 2, dtype=DOUBLE) * (2 * math.pi / angles)
    t, a, b = torch.meshgrid((1 + node) / 2, a, b, indexing="ij")
    r, s = t.sqrt(), (1 - t).sqrt()
    q = torch.stack((r * a.cos(), r * a.sin(), s * b.cos(), s * b.sin()), -1).reshape(-1, 4)
    return q, (weight / 4)[:, None, None].expand_as(a).reshape(-1) * (2 * math.pi / angles) ** 2


def test_quadrature():
    q, weight = rotations(12, 6)
    assert weight.sum().item() == pytest.approx(math.pi**2)
    assert (weight * q[:, 1] ** 4 * q[:, 3] ** 2).sum().item() == pytest.approx(math.pi**2 * 3 / 192)


def projective_flow() -> flows.Flow:
    layers = [
        flows.Elementwise(flows.ProjectiveConvexGradient(3, 4), 4),
        flows.Elementwise(flows.ProjectiveMoebius(3), 4).inv,
        flows.Elementwise(flows.ProjectiveLinear(3), 4),
    ]
    return flows.Flow(flows.Sequential(*layers), flows.RotationNormal(0.9))


@pytest.mark.parametrize(
    "make, shake, angles",
    [
        (lambda: flows.RotationFlow(transforms=3, components=3, hidden_features=(16,)), 0.3, 40),
        (lambda: flows.RotationFlow(transforms=2, components=4, hidden_features=(16,), circle="spline"), 0.3, 120),
        (projective_flow, 0.15, 64),
    ],
    ids=["moebius", "spline", "projective"],
)
def test_densities_on_rotations_are_even_and_integrate_to_one(make, shake, angles):
    flow = registry.shake_(make(), shake).double()
    q, weight = rotations(angles, angles // 2)
    with torch.no_grad():
        density = flow.log_prob(q).exp()
        torch.testing.assert_close(flow.log_prob(-q[:100]).exp(), density[:100])
    assert density.max() > 2 * density.min()
    assert abs(2 * (weight * density).sum().item() - 1) < 1e-4


def test_density_is_with_respect_to_the_volume_of_unit_quaternions():
    q = quaternions(5, torch.float32)
    uniform = flows.Flow(flows.Elementwise(flows.ProjectiveMoebius(3), 4), flows.SphereUniform(3))
    torch.testing.assert_close(uniform.log_prob(q), torch.full((5,), -math.log(2 * math.pi**2)))


@pytest.mark.parametrize("scale", [0.3, 1.5])
def test_normal_on_rotations_is_the_one_of_matrices(scale):
    """Four times it: the volume of rotation matrices is 8π², that of unit quaternions 2π²."""
    matrices = distributions.WrappedNormal(SO3(), torch.eye(3, dtype=DOUBLE), scale * torch.eye(3, dtype=DOUBLE))
    base = flows.RotationNormal(scale).double()
    q = rotation_vector_to_quaternion(scale * torch.randn(50, 3, dtype=DOUBLE))
    expected = matrices.log_prob(quaternion_to_matrix(q)) + math.log(4)
    torch.testing.assert_close(base.log_prob(q), expected)
    torch.testing.assert_close(base.log_prob(-q), expected)
    sample = base.distribution().rsample((4000,))
    assert abs((sample[:, 0] > 0).double().mean().item() - 0.5) < 4 * 0.5 / 4000**0.5
    angle = SO3().log(quaternion_to_matrix(sample)).norm(dim=-1)
    reference = SO3().log(matrices.sample((4000,))).norm(dim=-1)
    assert scipy.stats.ks_2samp(angle.numpy(), reference.numpy()).pvalue > 1e-3


def test_rotation_flow_takes_a_base_and_context():
    flow = flows.RotationFlow(context=2, transforms=2, hidden_features=(8,), base=flows.RotationNormal(0.5))
    q = flow.sample((7,), torch.randn(3, 2))
    assert q.shape == (7, 3, 4) and Sphere(3).contains(q).all()
    with pytest.raises(ValueError, match="circle must be one of"):
        flows.RotationFlow(circle="cubic")
    with pytest.raises(TypeError, match="bijection must be an AxisMoebius or AxisSpline"):
        flows.AxisCoupling(flows.Affine())
    with pytest.raises(ValueError, match="side must be one of"):
        AxisMoebius(3, side="left")
    with pytest.raises(TypeError, match="law must be"):
        distributions.Even(torch.zeros(4))


def test_rotation_flow_learns_a_multimodal_density():
    """Reverse KL to e^{3(R₁₁² + R₂₃R₃₂)}, which has two modes and of which uniform rotations have 10 % ESS."""
    flow = flows.RotationFlow(transforms=4, components=8, hidden_features=(32,))
    optimizer = torch.optim.Adam(flow.parameters(), 5e-3)

    def log_weights(n):
        q, log_prob = flow.rsample_and_log_prob((n,))
        R = quaternion_to_matrix(q)
        return 3 * (R[..., 0, 0] ** 2 + R[..., 1, 2] * R[..., 2, 1]) - log_prob

    def ess(log_w):
        return (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp() / len(log_w)

    for _ in range(200):
        loss = -log_weights(256).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert ess(log_weights(4000)) > 0.85


def test_left_multiplication_carries_frames():
    """The map of frame p is the one of the identity, seen from p."""
    f = AxisMoebius(2)
    x, p = quaternions(10), quaternions(10)
    params = torch.randn(10, *f.param_shape, dtype=DOUBLE)
    params[:, :4] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    y = f.forward(x, params)[0]
    moved = torch.cat((p, params[:, 4:]), -1)
    torch.testing.assert_close(f.forward(hamilton_product(p, x), moved)[0], hamilton_product(p, y))
