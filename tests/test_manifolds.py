"""Every manifold keeps the laws, and agrees with closed forms, scipy and double precision."""

import math
import warnings

import geoopt
import numpy as np
import pytest
import registry_spaces
import scipy.stats
import torch

from flowgroup import groups, manifolds, testing
from flowgroup.groups import SO2
from flowgroup.manifolds import Euclidean, Manifold, Sphere, Torus, constraints
from flowgroup.manifolds.torus import circular_mean

every_manifold = pytest.mark.parametrize("space", registry_spaces.MANIFOLDS, ids=str)


def test_registry_is_complete():
    entries = registry_spaces.MANIFOLDS + registry_spaces.GROUPS + registry_spaces.WITHOUT_LOGARITHM
    listed = {type(entry.make()) for entry in entries} | {
        Manifold,
        groups.Group,
        groups.LieGroup,
        groups.MatrixLieGroup,
        groups.PullbackGroup,
        manifolds.Pullback,
    }
    public = [getattr(module, name) for module in (manifolds, groups) for name in module.__all__]
    missing = [c.__name__ for c in public if isinstance(c, type) and c not in listed]
    assert not missing, f"public in flowgroup.manifolds or flowgroup.groups, not in registry_spaces.py: {missing}"


@every_manifold
@pytest.mark.parametrize("law", testing.MANIFOLD_LAWS, ids=lambda law: law.__name__)
def test_law(space, law, dtype, device):
    law(space.make(), dtype, device)


class Acos(Sphere):
    def dist(self, x, y, *, keepdim=False):
        return (x * y).sum(-1, keepdim=keepdim).clamp(-1, 1).acos()


class ProjectedTransport(Sphere):
    def transp(self, x, y, v):
        return self.proju(y, v)


class NoLogDet(Sphere):
    def log_abs_det_expmap(self, x, u):
        return torch.zeros_like(self.norm(x, u))


class ChordMean(Sphere):
    def frechet_mean(self, x, weights=None, dim=0, steps=None, tol=None):
        x, weights, dim = self._mean_arguments(x, weights, dim)
        return self.projx((weights.unsqueeze(-1) * x).sum(dim))


class UniformLatitude(Sphere):
    def random_uniform(self, *size, dtype=None, device=None):
        latitude, longitude = math.pi * torch.rand(2, *size[:-1], dtype=dtype, device=device)
        latitude, longitude = latitude - math.pi / 2, 2 * longitude
        x = [latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()]
        return torch.stack(x, -1)


class HalfTorus(Torus):
    def logmap(self, x, y):
        return (y - x) / 2


@pytest.mark.parametrize(
    "wrong, law",
    [
        (Acos(2), testing.assert_exp_log),
        (Acos(2), testing.assert_distance),
        (ProjectedTransport(2), testing.assert_transport),
        (NoLogDet(2), testing.assert_log_abs_det_expmap),
        (NoLogDet(2), testing.assert_uniform),
        (ChordMean(2), testing.assert_frechet_mean),
        (UniformLatitude(2), testing.assert_uniform),
        (HalfTorus(1), testing.assert_exp_log),
        (HalfTorus(1), testing.assert_geodesic),
    ],
)
def test_laws_find_mistakes(wrong, law):
    with pytest.raises(AssertionError, match="broken: .*" + type(wrong).__name__):
        law(wrong)


def test_volumes():
    expected = {1: 2 * math.pi, 2: 4 * math.pi, 3: 2 * math.pi**2, 4: 8 * math.pi**2 / 3, 5: math.pi**3}
    for dim, volume in expected.items():
        assert Sphere(dim).volume == pytest.approx(volume, rel=1e-14)
    assert Torus(3).volume == pytest.approx((2 * math.pi) ** 3)
    assert SO2().volume == pytest.approx(2 * math.pi)
    assert Euclidean(2).volume == math.inf


def test_great_circle_distance(dtype):
    lat1, lat2 = (math.pi * (torch.rand(200, dtype=torch.float64) - 0.5) for _ in range(2))
    lon1, lon2 = (2 * math.pi * torch.rand(200, dtype=torch.float64) for _ in range(2))

    def point(lat, lon):
        return torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], -1).to(dtype)

    haversine = ((lat2 - lat1) / 2).sin() ** 2 + lat1.cos() * lat2.cos() * ((lon2 - lon1) / 2).sin() ** 2
    expected = 2 * torch.atan2(haversine.sqrt(), (1 - haversine).sqrt())
    got = Sphere(2).dist(point(lat1, lon1), point(lat2, lon2))
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("gap", [0.0, 1e-18, 1e-10, 1e-5, 1e-3, 0.05, 0.1, 0.5])
def test_sphere_keeps_its_digits_at_small_angles_and_near_opposite_points(gap, dtype):
    sphere = Sphere(2)
    x = torch.tensor([0.0, 0.0, 1.0], dtype=dtype)
    gap = torch.tensor(gap, dtype=dtype)
    near = torch.stack([gap.sin(), torch.zeros_like(gap), gap.cos()])
    close = dict(rtol=4 * torch.finfo(dtype).eps, atol=0)
    # the pole and points beside it are exact in every dtype, so the angle must keep its relative precision
    torch.testing.assert_close(sphere.dist(x, near), gap, **close)
    torch.testing.assert_close(sphere.logmap(x, near)[0], gap, **close)
    torch.testing.assert_close(sphere.dist(x, -near), math.pi - gap, **close)
    v = sphere.logmap(x, -near)
    torch.testing.assert_close(sphere.norm(x, v), math.pi - gap, **close)
    torch.testing.assert_close(sphere.expmap(x, v), -near, rtol=0, atol=4 * torch.finfo(dtype).eps)
    assert sphere.dist(x, x) == 0 and sphere.logmap(x, x).eq(0).all()


def test_sphere_in_float32_agrees_with_float64():
    # angles from 1e-7 to π − 1e-7; dimension 7
    sphere, n = Sphere(7), 400
    x = sphere.random(n, 8, dtype=torch.float64)
    angle = torch.cat([torch.logspace(-7, 0, n // 2), math.pi - torch.logspace(-7, 0, n // 2)]).double()
    u = sphere.proju(x, torch.randn_like(x))
    u = angle.unsqueeze(-1) * u / u.norm(dim=-1, keepdim=True)
    x, y = x.float(), sphere.expmap(x, u).float()
    x64, y64 = sphere.projx(x.double()), sphere.projx(y.double())
    eps = torch.finfo(torch.float32).eps
    torch.testing.assert_close(sphere.dist(x, y).double(), sphere.dist(x64, y64), rtol=0, atol=4 * eps)
    landed = sphere.expmap(x, sphere.logmap(x, y))
    torch.testing.assert_close(landed, y, rtol=0, atol=8 * eps)


def test_opposite_points(dtype, device):
    sphere = Sphere(3)
    x = sphere.random(20, 4, dtype=dtype, device=device).requires_grad_()
    v = sphere.logmap(x, -x)
    tol = dict(rtol=0, atol=16 * torch.finfo(dtype).eps)
    torch.testing.assert_close(v.norm(dim=-1), torch.full_like(v[:, 0], math.pi), **tol)
    torch.testing.assert_close(sphere.expmap(x, v), -x, **tol)
    a = sphere.proju(x, torch.randn_like(x))
    torch.testing.assert_close(sphere.transp(x, -x, a).norm(dim=-1), a.norm(dim=-1), **tol)
    (gradient,) = torch.autograd.grad(v.sum() + sphere.dist(x, -x).sum() + sphere.transp(x, -x, a).sum(), x)
    assert gradient.isfinite().all()


def test_second_derivatives_at_zero():
    sphere = Sphere(2)
    x = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    hessian = torch.func.hessian(lambda v: sphere.expmap(x, v)[2])(torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(hessian[:2, :2], -torch.eye(2, dtype=torch.float64))  # cos|v| = 1 − |v|²/2 + …
    hessian = torch.func.hessian(lambda v: sphere.log_abs_det_expmap(x, v))(torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(hessian, -torch.eye(3, dtype=torch.float64) / 3)  # log sinc|v| = −|v|²/6 + …


def test_parallel_transport_of_a_quarter_turn():
    x, y, z = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(Sphere(2).transp(x, y, y), -x)
    torch.testing.assert_close(Sphere(2).transp(x, y, z), z)


def test_projection_of_extreme_lengths(dtype):
    tiny, huge = (math.sqrt(getattr(torch.finfo(dtype), name)) for name in ("tiny", "max"))
    for scale in (tiny * 1e-4, huge * 1e4):
        x = scale * torch.tensor([3.0, 0.0, 4.0], dtype=dtype)
        torch.testing.assert_close(Sphere(2).projx(x), torch.tensor([0.6, 0.0, 0.8], dtype=dtype))
        rotation = scale * torch.tensor([[3.0, -4.0], [4.0, 3.0]], dtype=dtype)
        torch.testing.assert_close(SO2().projx(rotation), rotation / (5 * scale))
    zero = torch.zeros(3, dtype=dtype, requires_grad=True)
    projected = Sphere(2).projx(zero)
    assert projected.tolist() == [1, 0, 0]
    assert torch.autograd.grad(projected.sum(), zero)[0].isfinite().all()


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_moments_of_the_uniform_distribution_on_spheres(dim):
    n = 40_000
    x = Sphere(dim).random_uniform(n, dim + 1, dtype=torch.float64)
    # E x = 0 and E xxᵀ = I/(dim + 1); every entry has a variance below 1/(dim + 1)
    assert x.mean(0).abs().max() < 5 * (n * (dim + 1)) ** -0.5
    second = x.mT @ x / n
    assert (second - torch.eye(dim + 1, dtype=torch.float64) / (dim + 1)).abs().max() < 5 * (n * (dim + 1)) ** -0.5
    # one coordinate t has the density ∝ (1 − t²)^(dim/2 − 1): a beta distribution
    p = scipy.stats.kstest((x[:, 0].numpy() + 1) / 2, scipy.stats.beta(dim / 2, dim / 2).cdf).pvalue
    assert p > 1e-3


def test_uniform_angles():
    angles = Torus(2).random_uniform(20_000, 2, dtype=torch.float64)
    rotations = SO2().log(SO2().random_uniform(20_000, 2, 2, dtype=torch.float64))
    for sample in (angles[:, 0], angles[:, 1], rotations[:, 0]):
        assert scipy.stats.kstest(sample.numpy(), scipy.stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(angles.mT.numpy())[0, 1]) < 5 / 20_000**0.5


def test_normal_points():
    x = Euclidean(2).random(20_000, 2, dtype=torch.float64)
    assert scipy.stats.kstest(x.flatten().numpy(), scipy.stats.norm.cdf).pvalue > 1e-3


@pytest.mark.parametrize("n", [1, 2, 3, 10, 101])
def test_circular_mean_is_the_global_minimum(n, dtype, device):
    theta = 2 * math.pi * torch.rand(n, 30, dtype=dtype, device=device)
    weights = torch.rand(n, 30, dtype=dtype, device=device)
    weights = weights / weights.sum(0)
    grid = torch.linspace(-math.pi, math.pi, 2001, dtype=torch.float64, device=device)[:, None, None]

    def cost(mean):
        gap = torch.remainder(theta.double() - mean + math.pi, 2 * math.pi) - math.pi
        return (weights.double() * gap**2).sum(-2)

    got = cost(circular_mean(theta, weights, 0).double())
    assert (got <= cost(grid).amin(0) + 64 * torch.finfo(dtype).eps).all()
    assert (cost(grid).amin(0) - got < 1e-4).all()


def test_circular_mean_gradient_is_the_weight():
    theta = torch.tensor([3.0, -3.0, 2.0], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(circular_mean(theta, weights, 0), theta)
    torch.testing.assert_close(gradient, weights)


def test_karcher_mean_on_the_circle_agrees_with_the_closed_form():
    angle = torch.randn(12, 20, dtype=torch.float64) * 0.6 + 3.0
    points = torch.stack([angle.cos(), angle.sin()], -1)
    mean = Sphere(1).frechet_mean(points, dim=1)
    expected = circular_mean(angle, torch.full_like(angle, 1 / 20), 1)
    torch.testing.assert_close(mean, torch.stack([expected.cos(), expected.sin()], -1))


def test_karcher_mean_of_wide_batches():
    # over most of a hemisphere, and clusters so small that the cost is rounding
    sphere = Sphere(2)
    centre = sphere.random(50, 1, 3, dtype=torch.float64)
    for radius in (1e-9, 1e-3, 1.5):
        v = sphere.proju(centre, torch.randn(50, 40, 3, dtype=torch.float64))
        v = radius * torch.rand(50, 40, 1, dtype=torch.float64) * v / v.norm(dim=-1, keepdim=True)
        x = sphere.expmap(centre, v)
        mean = sphere.frechet_mean(x, dim=1)
        gradient = sphere.logmap(mean.unsqueeze(1), x).mean(1)
        assert gradient.norm(dim=-1).max() < 1e-14


def test_one_step_from_the_arithmetic_mean():
    x = Sphere(2).projx(torch.randn(6, 3, dtype=torch.float64) + torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64))
    start = Sphere(2).projx(x.mean(0))
    expected = Sphere(2).expmap(start, Sphere(2).logmap(start, x).mean(0))
    torch.testing.assert_close(Sphere(2).frechet_mean(x, steps=1), expected)


def test_gradient_of_the_karcher_mean():
    x = Sphere(2).projx(torch.randn(5, 3, dtype=torch.float64) + 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: Sphere(2).frechet_mean(Sphere(2).projx(x)), x)


def test_mean_of_points_without_a_mean_is_some_point(dtype):
    x = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        mean = Sphere(2).frechet_mean(x)
    assert Sphere(2).contains(mean)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Sphere(0), "dim must be a positive integer, got 0"),
        (lambda: Torus(2.0), "n must be a positive integer, got 2.0"),
        (lambda: Euclidean(-1), "n must be a positive integer, got -1"),
        (lambda: Sphere(2).random(5), r"size must be a whole shape \(\*batch, 3\), got \(5,\)"),
        (lambda: Sphere(2).origin(5, 4), r"size must be a whole shape \(\*batch, 3\), got \(5, 4\)"),
        (lambda: Sphere(2).frechet_mean(torch.eye(3), dim=1), "dim must be one of the 1 batch dimensions"),
        (lambda: Sphere(2).frechet_mean(torch.eye(4)), r"x must have shape \(..., 3\) to be on Sphere\(2\)"),
        (lambda: Sphere(2).frechet_mean(torch.empty(0, 3)), "x must hold at least one point"),
        (lambda: Torus(3).frechet_mean(torch.eye(3), torch.tensor([1.0, -1.0, 1.0])), "weights must be finite"),
        (lambda: Torus(3).frechet_mean(torch.eye(3), torch.zeros(3)), "weights must be finite"),
        (lambda: Torus(3).frechet_mean(torch.eye(3), torch.ones(2)), "weights must broadcast"),
        (lambda: Sphere(2).frechet_mean(torch.eye(3), steps=0), "steps must be at least 1"),
        (lambda: torch.func.vmap(Sphere(2).frechet_mean)(torch.eye(3).expand(2, 3, 3)), "needs an integer for steps"),
        (lambda: geoopt.ManifoldParameter(torch.ones(4), manifold=Sphere(2)), r"must have shape \(..., 3\)"),
        (lambda: Sphere(2).assert_check_point_on_manifold(torch.ones(3)), r"not lying on Sphere"),
        (
            lambda: Sphere(2).assert_check_vector_on_tangent(torch.eye(3)[0], torch.ones(3)),
            "not lying on tangent space",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_no_uniform_distribution_on_an_infinite_volume():
    with pytest.raises(NotImplementedError, match=r"Euclidean\(2\) has no uniform distribution"):
        Euclidean(2).random_uniform(5, 2)


def test_contains_up_to_the_root_of_epsilon(dtype):
    root = torch.finfo(dtype).eps ** 0.5
    x = torch.tensor([1.0, 1 + 0.5 * root, 1 + 2 * root, math.nan, math.inf], dtype=dtype).unsqueeze(-1)
    x = x * torch.tensor([0.6, 0.8], dtype=dtype)
    assert Sphere(1).contains(x).tolist() == [True, True, False, False, False]
    assert Sphere(1).constraint.check(x).tolist() == [True, True, False, False, False]
    assert Torus(2).contains(x).tolist() == [True, True, True, False, False]
    assert Euclidean(2).contains(x).tolist() == [True, True, True, False, False]
    reflection = torch.tensor([[1.0, 0.0], [0.0, -1.0]], dtype=dtype)
    assert not SO2().contains(reflection)
    assert isinstance(SO2().constraint, constraints.OnManifold)
    assert str(Sphere(2).constraint) == "the manifold Sphere(2)"


def test_random_follows_the_default_dtype_and_the_seed():
    for space in registry_spaces.MANIFOLDS:
        manifold = space.make()
        assert manifold.random().shape == manifold.event_shape
        assert manifold.random().dtype == manifold.origin().dtype == torch.get_default_dtype()
        assert manifold.random(torch.Size([2, *manifold.event_shape])).shape == (2, *manifold.event_shape)
        torch.manual_seed(1)
        first = manifold.random()
        torch.manual_seed(1)
        assert torch.equal(manifold.random(), first)


@every_manifold
@pytest.mark.parametrize("optimizer", [geoopt.optim.RiemannianAdam, geoopt.optim.RiemannianSGD])
def test_geoopt_trains_a_point(space, optimizer, device):
    manifold = space.make()
    target = manifold.random(4, *manifold.event_shape, device=device)
    direction = manifold.proju(target, torch.randn_like(target))
    direction = direction / manifold.norm(target, direction, keepdim=True)
    point = geoopt.ManifoldParameter(manifold.expmap(target, direction), manifold=manifold)
    optimize = optimizer([point], lr=0.05, stabilize=10)
    for _ in range(150):
        optimize.zero_grad()
        manifold.dist2(point, target).sum().backward()
        optimize.step()
    assert manifold.contains(point).all()
    assert manifold.dist(point, target).max() < 0.05  # from 1 at the start


def test_geoopt_product_takes_them():
    product = geoopt.ProductManifold((Sphere(2), 3), (Torus(2), 2))
    x, y = product.random(5, 5), product.random(5, 5)
    squares = Sphere(2).dist(x[:, :3], y[:, :3]) ** 2 + Torus(2).dist(x[:, 3:], y[:, 3:]) ** 2
    torch.testing.assert_close(product.dist(x, y), squares.sqrt())
