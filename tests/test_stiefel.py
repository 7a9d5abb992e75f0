"""The Stiefel manifold: what it shares with spheres and rotations, its geodesics, its volume, and training on it."""

import math

import geoopt
import pytest
import registry_spaces
import scipy.stats
import torch

from flowgroup import linalg, testing
from flowgroup.manifolds import Product, Sphere, Stiefel

every_stiefel = pytest.mark.parametrize("space", registry_spaces.WITHOUT_LOGARITHM, ids=str)


def points_and_tangents(stiefel, dtype, device=None, n=16):
    x = stiefel.random(n, *stiefel.event_shape, dtype=dtype, device=device)
    return x, stiefel.proju(x, torch.randn_like(x))


def rounding(dtype, units=64):
    return dict(rtol=0, atol=units * torch.finfo(dtype).eps)


@every_stiefel
def test_projections_and_frames(space, dtype, device):
    stiefel = space.make()
    x, u = points_and_tangents(stiefel, dtype, device)
    eye = torch.eye(stiefel.p, dtype=dtype, device=device).expand(16, -1, -1)
    torch.testing.assert_close(x.mT @ x, eye, **rounding(dtype))
    torch.testing.assert_close(stiefel.projx(x), x, **rounding(dtype))
    torch.testing.assert_close(x.mT @ u, -u.mT @ x, **rounding(dtype))
    torch.testing.assert_close(stiefel.proju(x, u), u, **rounding(dtype))
    noise = torch.randn_like(x)
    torch.testing.assert_close(linalg.nearest_frame(noise), stiefel.projx(noise))
    assert stiefel.contains(stiefel.projx(noise)).all() and not stiefel.contains(2 * x).any()
    assert stiefel.check_point_on_manifold(x) and stiefel.check_vector_on_tangent(x, u)
    assert testing.tangent_basis(stiefel, x).shape[1] == stiefel.dim
    testing.assert_egrad2rgrad(stiefel, dtype, device)
    torch.testing.assert_close(stiefel.origin(dtype=dtype, device=device), torch.eye(*stiefel.event_shape).to(x))


@every_stiefel
def test_exponential_map_is_a_geodesic(space):
    # γ(0) = x, γ′(0) = u, the frame stays orthonormal and its acceleration has no tangent part
    stiefel = space.make()
    x, u = points_and_tangents(stiefel, torch.float64)

    def curve(t):
        return stiefel.expmap(x, t * u)

    def velocity(t):
        return torch.func.jvp(curve, (t,), (torch.ones_like(t),))[1]

    t = torch.tensor(0.0, dtype=torch.float64)
    torch.testing.assert_close(curve(t), x)
    torch.testing.assert_close(velocity(t), u)
    t = torch.tensor(0.7, dtype=torch.float64)
    y = curve(t)
    _, acceleration = torch.func.jvp(velocity, (t,), (torch.ones_like(t),))
    assert stiefel.contains(y).all()
    torch.testing.assert_close(stiefel.proju(y, acceleration), torch.zeros_like(y), rtol=0, atol=1e-11)
    torch.testing.assert_close(stiefel.norm(y, velocity(t)), stiefel.norm(x, u))


def test_agrees_with_geoopt(dtype):
    ours, theirs = Stiefel(5, 3), geoopt.EuclideanStiefel()
    x, u = points_and_tangents(ours, dtype)
    y = ours.random(16, 5, 3, dtype=dtype)
    torch.testing.assert_close(ours.retr(x, u), theirs.retr(x, u), **rounding(dtype))
    torch.testing.assert_close(ours.expmap(x, u), theirs.expmap(x, u), **rounding(dtype))
    torch.testing.assert_close(ours.transp(x, y, u), theirs.transp(x, y, u), **rounding(dtype))
    torch.testing.assert_close(ours.egrad2rgrad(x, y), theirs.egrad2rgrad(x, y), **rounding(dtype))
    torch.testing.assert_close(ours.projx(x + u), theirs.projx(x + u), **rounding(dtype))
    torch.testing.assert_close(ours.inner(x, u, y), theirs.inner(x, u, y), **rounding(dtype))


def test_one_column_is_a_sphere(dtype):
    stiefel, sphere = Stiefel(4, 1), Sphere(3)
    x, u = points_and_tangents(stiefel, dtype)
    torch.testing.assert_close(
        stiefel.expmap(x, u).squeeze(-1), sphere.expmap(x.squeeze(-1), u.squeeze(-1)), **rounding(dtype)
    )
    torch.testing.assert_close(
        stiefel.retr(x, u).squeeze(-1), sphere.retr(x.squeeze(-1), u.squeeze(-1)), **rounding(dtype)
    )
    assert stiefel.volume == pytest.approx(sphere.volume) and stiefel.dim == sphere.dim


def test_square_frames_are_rotations_and_reflections():
    x, u = points_and_tangents(Stiefel(3, 3), torch.float64)
    torch.testing.assert_close(Stiefel(3, 3).expmap(x, u), x @ torch.linalg.matrix_exp(x.mT @ u))
    # O(2): two circles, along which the norm of the velocity is √2 times that of the angle
    assert Stiefel(2, 2).volume == pytest.approx(2 * 2 * math.pi * math.sqrt(2))


def test_uniform_frames():
    x = Stiefel(5, 2).random_uniform(20_000, 5, 2, dtype=torch.float64)
    # every entry is one of a uniform unit vector; columns and rows are uncorrelated
    for i, j in ((0, 0), (4, 1)):
        assert scipy.stats.kstest((x[:, i, j].numpy() + 1) / 2, scipy.stats.beta(2, 2).cdf).pvalue > 1e-3
    flat = x.flatten(1)
    assert (flat.mT @ flat / len(x) - torch.eye(10) / 5).abs().max() < 5 / (5 * len(x) ** 0.5)


@every_stiefel
def test_maps_broadcast_compile_and_have_gradients(space, dtype, device):
    stiefel = space.make()
    x, u = points_and_tangents(stiefel, dtype, device, n=4)
    torch._dynamo.reset()
    for f, arguments in (
        (stiefel.expmap, (x, u)),
        (stiefel.retr, (x, u)),
        (stiefel.proju, (x, u)),
        (stiefel.inner, (x, u, u)),
        (stiefel.transp, (x, stiefel.retr(x, u), u)),
        (stiefel.projx, (x,)),
    ):
        expected = f(*arguments)
        singly = torch.stack([f(*(a[i] for a in arguments)) for i in range(4)])
        grid = f(arguments[0].unsqueeze(1), *(a.unsqueeze(0) for a in arguments[1:])) if len(arguments) > 1 else None
        torch.testing.assert_close(singly, expected, **rounding(dtype))
        if grid is not None:
            same = torch.stack([grid[i, i] for i in range(4)])
            torch.testing.assert_close(same, expected, **rounding(dtype))
        torch.testing.assert_close(torch.func.vmap(f)(*arguments), expected, **rounding(dtype))
        compiled = torch.compile(f, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(*arguments), expected, **rounding(dtype))
        leaves = [a.clone().requires_grad_() for a in arguments]
        gradients = torch.autograd.grad(f(*leaves).sum(), leaves, materialize_grads=True)
        assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("shape", [(4, 2), (3, 3), (3, 1)])
def test_gradient_of_the_nearest_frame(shape):
    x = torch.randn(3, *shape, dtype=torch.float64)
    x[0] = Stiefel(*shape).random(dtype=torch.float64)  # all singular values equal
    assert torch.autograd.gradcheck(linalg.nearest_frame, x.requires_grad_(), check_forward_ad=True)


@pytest.mark.parametrize("optimizer", [geoopt.optim.RiemannianAdam, geoopt.optim.RiemannianSGD])
def test_geoopt_finds_principal_axes(optimizer, device):
    values = torch.tensor([5.0, 4.0, 1.0, 0.5, 0.1], device=device)
    axes = Stiefel(5, 5).random(device=device)
    covariance = (axes * values) @ axes.mT
    frame = geoopt.ManifoldParameter(Stiefel(5, 2).random(5, 2, device=device), manifold=Stiefel(5, 2))
    optimize = optimizer([frame], lr=0.05)
    for _ in range(200):
        optimize.zero_grad()
        (-(frame.mT @ covariance @ frame).diagonal().sum()).backward()
        optimize.step()
    assert Stiefel(5, 2).contains(frame)
    share = (frame.mT @ covariance @ frame).diagonal().sum().item() / 9
    assert share == pytest.approx(1, abs=1e-3)  # a random plane has about a half of it


def test_no_logarithm_says_so():
    stiefel = Stiefel(5, 2)
    x, y = stiefel.random(2, 5, 2)
    for call in (lambda: stiefel.logmap(x, y), lambda: stiefel.dist(x, y), lambda: stiefel.geodesic(x, y, 0.5)):
        with pytest.raises(NotImplementedError, match=r"Stiefel\(5, 2\) has no logmap"):
            call()
    product = Product(stiefel, Sphere(2))
    assert product.contains(product.random(7, 13)).all()
    with pytest.raises(NotImplementedError, match="no logmap"):
        product.dist(product.random(), product.random())


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Stiefel(2, 3), "p must be at most n, got n=2 and p=3"),
        (lambda: Stiefel(2, 0), "p must be a positive integer, got 0"),
        (lambda: Stiefel(5, 2).random(2, 5), r"size must be a whole shape \(\*batch, 5, 2\)"),
        (lambda: geoopt.ManifoldParameter(torch.ones(4, 2), manifold=Stiefel(5, 2)), r"must have shape \(..., 5, 2\)"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
