"""Products: points and their parts, closed forms, groups and their matrices, cheap models, optimizers."""

import math

import geoopt
import pytest
import torch

from flowgroup.groups import SO2, SO3, LieGroup
from flowgroup.groups.pullback import PullbackGroup
from flowgroup.manifolds import Euclidean, Manifold, Product, Sphere, Torus


class Positive(PullbackGroup):
    """Positive numbers under multiplication, by their logarithms."""

    def __init__(self, n: int):
        super().__init__(Euclidean(n), (n,))

    def to_model(self, x):
        return x.log()

    def from_model(self, y):
        return y.exp()

    def projx(self, x):
        return x.abs()

    def proju(self, x, u):
        return torch.broadcast_tensors(u, x)[0]


POSES = Product(Euclidean(3), SO3())
MIXED = Product(Sphere(2), Torus(2), SO3())


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def some(manifold, *batch):
    return manifold.random(*batch, *manifold.event_shape, dtype=torch.float64)


def test_kinds():
    assert isinstance(POSES, LieGroup) and not POSES.abelian
    assert isinstance(MIXED, Manifold) and not isinstance(MIXED, LieGroup)
    assert Product(Euclidean(1), SO2()).abelian
    assert (MIXED.dim, MIXED.event_shape) == (7, torch.Size([14]))
    assert MIXED.volume == pytest.approx(4 * math.pi * (2 * math.pi) ** 2 * 8 * math.pi**2)
    assert POSES.volume == math.inf and POSES.injectivity_radius == math.pi
    assert repr(Product(Product(SO2(), Torus(1)), Sphere(1))) == "Product(Product(SO2(), Torus(1)), Sphere(1))"


def test_points_and_parts():
    x = some(MIXED, 5)
    parts = MIXED.split(x)
    assert [part.shape[1:] for part in parts] == [(3,), (2,), (3, 3)]
    assert torch.equal(MIXED.join(*parts), x)
    assert torch.equal(torch.cat([part.flatten(1) for part in parts], -1), x)
    joined = MIXED.join(some(Sphere(2), 4, 1), some(Torus(2)), some(SO3(), 6))
    assert joined.shape == (4, 6, 14) and MIXED.contains(joined).all()
    with pytest.raises(ValueError):
        MIXED.join(*parts[:2])


def test_everything_goes_by_factors():
    x, y = some(MIXED, 2, 9)
    pairs = list(zip(MIXED.factors, MIXED.split(x), MIXED.split(y)))
    close(MIXED.dist(x, y).square(), sum(factor.dist2(a, b) for factor, a, b in pairs))
    close(MIXED.dist2(x, y), MIXED.dist(x, y).square())
    close(MIXED.logmap(x, y), MIXED.join(*(factor.logmap(a, b) for factor, a, b in pairs)))
    u = MIXED.logmap(x, y)
    close(MIXED.inner(x, u), MIXED.dist2(x, y))
    close(MIXED.inner(x, u, keepdim=True), MIXED.dist2(x, y).unsqueeze(-1))
    tangents = zip(MIXED.factors, MIXED.split(x), MIXED.split(u))
    close(MIXED.log_abs_det_expmap(x, u), sum(factor.log_abs_det_expmap(a, v) for factor, a, v in tangents))
    off = x.clone()
    off[3, 0] += 1
    assert MIXED.contains(off).tolist() == 3 * [True] + [False] + 5 * [True]
    with pytest.raises(ValueError, match=r"Sphere\(2\)"):
        MIXED.assert_check_point_on_manifold(off)


@pytest.mark.parametrize("weighted", [False, True])
def test_mean_is_that_of_the_parts(weighted):
    x = some(Product(Sphere(1), Euclidean(2)), 3, 8).abs()
    weights = torch.rand(3, 8, dtype=torch.float64) if weighted else None
    mean = Product(Sphere(1), Euclidean(2)).frechet_mean(x, weights, dim=-1)
    circle, plane = x.split(2, -1)
    share = torch.full((3, 8), 1 / 8, dtype=torch.float64) if weights is None else weights
    share = (share / share.sum(1, keepdim=True)).unsqueeze(-1)
    angle = (share[..., 0] * torch.atan2(circle[..., 1], circle[..., 0])).sum(1)  # within a quarter of the circle
    close(mean[:, :2], torch.stack([angle.cos(), angle.sin()], -1))
    close(mean[:, 2:], (share * plane).sum(1))


def test_matrices_are_block_diagonal():
    v, w = torch.randn(2, 6, dtype=torch.float64)
    g = some(POSES)
    shift, turn = POSES.split(g)
    expected = torch.block_diag(Euclidean(3).hat(v[:3]), SO3().hat(v[3:]))
    assert torch.equal(POSES.hat(v), expected) and torch.equal(POSES.vee(expected), v)
    assert torch.equal(POSES.adjoint(g), torch.block_diag(torch.eye(3, dtype=torch.float64), turn))
    assert torch.equal(POSES.bracket(v, w), torch.cat([torch.zeros(3), torch.linalg.cross(v[3:], w[3:])]))
    expected = torch.block_diag(torch.eye(3, dtype=torch.float64), SO3().left_jacobian(v[3:]))
    assert torch.equal(POSES.left_jacobian(v), expected)
    assert torch.equal(POSES.act(g, g), POSES.join(2 * shift, turn @ turn))


def test_model_of_a_product():
    flat = Positive(2)
    group = Product(flat, SO3())
    assert group.model.factors == (flat.model, group.factors[1])
    assert POSES.model is POSES
    g, h = some(group, 2, 7)
    there, back = group.to_model, group.from_model
    close(back(there(g)), g)
    close(there(group.compose(g, h)), group.model.compose(there(g), there(h)))
    close(group.model.dist(there(g), there(h)), group.dist(g, h))


@pytest.mark.parametrize("group", [POSES, Product(Positive(2), SO2())], ids=["poses", "positive"])
def test_dilation(group):
    g = some(group, 7)
    e = group.identity(dtype=g.dtype)
    squared, dilate = group.dilation(g)
    close(squared, group.dist2(e, g))
    t = torch.rand(7, dtype=g.dtype)
    close(dilate(t), group.geodesic(e.expand_as(g), g, t))
    close(group.left_divide(g, g), e.expand_as(g))


def test_optimizers_adapt_to_each_factor():
    x, y = some(MIXED, 2)
    u = MIXED.logmap(x, y)
    sphere, torus, rotation = MIXED.split(u)
    expected = MIXED.join(
        sphere.square().sum(-1, keepdim=True).expand(3),
        torus.square(),
        SO3().inner(MIXED.split(x)[2], rotation, keepdim=True).expand(3, 3),
    )
    close(MIXED.component_inner(x, u), expected)
    point = geoopt.ManifoldParameter(x, manifold=MIXED)
    optimize = geoopt.optim.RiemannianAdam([point], lr=0.05)
    for _ in range(200):
        optimize.zero_grad()
        MIXED.dist2(point, y).backward()
        optimize.step()
    assert MIXED.contains(point) and MIXED.dist(point, y) < 0.05


def test_bad_arguments():
    with pytest.raises(ValueError, match="factors must be at least one manifold, got none"):
        Product()
    with pytest.raises(TypeError, match="factors must be manifolds of flowgroup, got int"):
        Product(Sphere(2), 3)
    with pytest.raises(TypeError, match="got Sphere"):
        Product(geoopt.Sphere())
    with pytest.raises(ValueError, match=r"size must be a whole shape \(\*batch, 12\)"):
        POSES.identity(5)
    with pytest.raises(ValueError, match=r"x must have shape \(..., 12\)"):
        POSES.frechet_mean(torch.zeros(4, 11))
    with pytest.raises(NotImplementedError, match=r"Euclidean\(3\) has no uniform distribution"):
        POSES.random_uniform(12)
