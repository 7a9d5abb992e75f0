"""Iterated Fréchet means: where they converge, what their gradients are, and over several processes."""

import math
import warnings

import pytest
import torch
from test_groups import AffineLine, Rotations

from flowgroup.groups import SO2, LieGroup
from flowgroup.linalg import unvech
from flowgroup.manifolds import SPD, Euclidean, Manifold, Sphere, Torus
from flowgroup.manifolds.karcher import _solve


class SPDByHand(Manifold):
    """The affine-invariant metric through torch.linalg alone, well apart from the eigenvalues' ties."""

    def __init__(self, n):
        super().__init__(n * (n + 1) // 2, (n, n))

    def function(self, x, f):
        w, V = torch.linalg.eigh(0.5 * (x + x.mT))
        return (V * f(w).unsqueeze(-2)) @ V.mT

    def roots(self, x):
        return self.function(x, torch.sqrt), self.function(x, torch.rsqrt)

    def logmap(self, x, y):
        root, inverse = self.roots(x)
        return root @ self.function(inverse @ y @ inverse, torch.log) @ root

    def expmap(self, x, u):
        root, inverse = self.roots(x)
        return root @ torch.linalg.matrix_exp(0.5 * inverse @ (u + u.mT) @ inverse) @ root

    def inner(self, x, u, v=None, *, keepdim=False):
        inverse = torch.linalg.inv(x)
        product = ((inverse @ u) * (inverse @ (u if v is None else v)).mT).sum((-2, -1))
        return self._over_event(product) if keepdim else product

    def egrad2rgrad(self, x, u):
        return x @ (0.5 * (u + u.mT)) @ x

    def projx(self, x):
        return 0.5 * (x + x.mT)

    proju = transp = dist = None


def spd(*shape, spread):
    """Matrices with eigenvalues e^-spread … e^spread."""
    Q = torch.linalg.qr(torch.randn(*shape, dtype=torch.float64)).Q
    w = torch.exp(spread * (2 * torch.rand(*shape[:-1], dtype=torch.float64) - 1))
    return (Q * w.unsqueeze(-2)) @ Q.mT


def cluster(manifold, *batch, radius=1.0):
    """Points around a random one, as free variables of their own."""
    centre = manifold.random(*batch[:-1], 1, *manifold.event_shape, dtype=torch.float64)
    noise = torch.randn(*batch, *manifold.event_shape, dtype=torch.float64)
    return manifold.expmap(centre, radius * manifold.proju(centre.expand_as(noise), noise)).requires_grad_()


SPACES = [Sphere(1), Sphere(3), Rotations()]


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_gradient_of_a_converged_mean_is_that_of_a_long_iteration(space):
    x = cluster(space, 3, 7, radius=0.6)
    weights = torch.rand(3, 7, dtype=torch.float64).requires_grad_()
    towards = torch.randn(3, *space.event_shape, dtype=torch.float64)
    mean, long = space.frechet_mean(x, weights, dim=1), space.frechet_mean(x, weights, dim=1, steps=150)
    torch.testing.assert_close(mean, long, rtol=0, atol=1e-12)
    got, expected = (torch.autograd.grad((towards * m).sum(), (x, weights)) for m in (mean, long))
    for a, b in zip(got, expected):
        assert b.abs().max() > 0.05
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_gradient_of_a_converged_mean_by_finite_differences():
    space = SPDByHand(3)
    x, weights = spd(6, 3, 3, spread=2.0), torch.rand(6, dtype=torch.float64)
    dx, dw = torch.randn_like(x), torch.randn_like(weights)
    dx, h = dx + dx.mT, 1e-5
    towards = torch.randn(3, 3, dtype=torch.float64)

    def value(t):
        mean = space.frechet_mean(x + t * dx * 0.1 * x[:, :1, :1], weights + t * dw * 0.1)
        return (towards * (mean + mean.mT)).sum()

    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (got,) = torch.autograd.grad(value(t), t)
    with torch.no_grad():
        # a difference of fourth order: its own error is below 1e-12 + rounding/h
        expected = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
    assert abs(expected) > 1e-2
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-9)


def test_gradient_where_the_equation_is_not_that_of_a_least_cost():
    # on ax + b the curves are not shortest; the mean solves Σ w log(m⁻¹x) = 0, of which the derivative has no symmetry
    group = AffineLine()
    x = group.random(2, 8, 2, 2, dtype=torch.float64).requires_grad_()
    weights = torch.rand(2, 8, dtype=torch.float64).requires_grad_()
    share = (weights / weights.sum(1, keepdim=True)).unsqueeze(-1)
    mean = group.frechet_mean(x, weights, dim=1)
    m = mean.detach()
    for _ in range(150):
        m = group.compose(m, group.exp((share * group.log(group.inverse(m).unsqueeze(1) @ x)).sum(1)))
    torch.testing.assert_close(mean, m, rtol=1e-12, atol=1e-12)
    towards = torch.randn_like(m)
    got, expected = (torch.autograd.grad((towards * a).sum(), (x, weights)) for a in (mean, m))
    for a, b in zip(got, expected):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("n, size", [(2, 20), (4, 12), (8, 6)])
@pytest.mark.parametrize("newton", [False, True])
def test_ill_conditioned_matrices_converge(n, size, newton):
    # eigenvalues 1e-3 … 1e3: iterating with unit steps does not converge
    space = SPDByHand(n)
    x = spd(3, size, n, n, spread=math.log(1e3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean = (SPD(n) if newton else space).frechet_mean(x, dim=1)
    _, inverse = space.roots(mean)
    whitened = inverse.unsqueeze(1) @ x @ inverse.unsqueeze(1)
    gradient = space.function(whitened, torch.log).mean(1)
    assert torch.linalg.matrix_norm(gradient).max() < 1e-8


@pytest.mark.parametrize("alpha, beta", [(1.0, 0.0), (0.3, 0.2)])
def test_expansion_of_the_affine_invariant_cost(alpha, beta):
    # against fourth-order differences of distances along geodesics
    space, x, h = SPD(3, alpha=alpha, beta=beta), spd(5, 3, 3, spread=1.5), 1e-2
    weights = torch.tensor([0.1, 0.3, 0.2, 0.3, 0.1], dtype=torch.float64)
    m, u = spd(1, 3, 3, spread=1.0), unvech(torch.randn(1, 6, dtype=torch.float64))
    u = u / torch.linalg.matrix_norm(u, keepdim=True)
    _, exp, base = space._chart(m)
    at = space._expansion(m, x, lambda v: (weights.view(-1, *[1] * (v.dim() - 1)) * v).sum(0, keepdim=True))

    def cost(t):
        return 0.5 * (weights * space.dist(exp(t * u), x).square()).sum()

    left, a, b, c, right = (cost(k * h) for k in (-2, -1, 0, 1, 2))
    first = (8 * (c - a) - (right - left)) / (12 * h)
    second = (16 * (a + c) - (left + right) - 30 * b) / (12 * h**2)
    torch.testing.assert_close(at.cost.squeeze(), b, rtol=1e-12, atol=0)
    torch.testing.assert_close(at.inner(at.gradient, u).squeeze(), -first, rtol=0, atol=1e-7)
    torch.testing.assert_close(at.inner(u, at.hessian(u)).squeeze(), second, rtol=0, atol=1e-6)
    torch.testing.assert_close(at.inner(u, u), space.inner(base, u), rtol=1e-12, atol=0)


@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-4, 1e-8, None])
@pytest.mark.parametrize("alpha", [1.0, 0.1])
@pytest.mark.parametrize("n", [2, 3, 5])
def test_newton_steps_keep_the_tolerance(n, alpha, tol):
    # the last step is not looked at: its bound must hold for means of few and of many points, near and far
    space, eps = SPDByHand(n), torch.finfo(torch.float64).eps
    for size, spread in ((2, 0.5), (2, 4.0), (3, 2.0), (10, 1.0), (10, 4.0)):
        x = spd(20, size, n, n, spread=spread)
        weights = torch.rand(20, size, dtype=torch.float64)
        weights = weights / weights.sum(1, keepdim=True)
        mean = SPD(n, alpha=alpha).frechet_mean(x, weights, dim=1, tol=tol)
        _, inverse = space.roots(mean.unsqueeze(1))
        log = space.function(inverse @ x @ inverse, torch.log)
        rounding = 4 * n * eps * torch.linalg.cond(inverse @ x @ inverse).amax(1)
        gradient = math.sqrt(alpha) * torch.linalg.matrix_norm((weights[..., None, None] * log).sum(1))
        spread = (alpha * weights * log.square().sum((-2, -1))).sum(1).sqrt()
        assert (gradient <= (tol or 8 * eps) * (1 + spread) + rounding).all()


@pytest.mark.parametrize("n", [3, 8])
def test_newton_steps_are_few(n, monkeypatch):
    space, x, points = SPD(n), spd(50, n, n, spread=3.0), []
    expansion = type(space)._expansion
    monkeypatch.setattr(type(space), "_expansion", lambda self, m, *more: points.append(m) or expansion(self, m, *more))
    mean = space.frechet_mean(x, tol=1e-8)
    assert 3 <= len(points) <= 5
    monkeypatch.setattr(type(space), "_expansion", Manifold._expansion)
    assert space.dist(mean, space.frechet_mean(x)) < 5e-8


def test_newton_steps_of_matrices_without_a_mean():
    x = spd(4, 3, 3, spread=1.0)
    torch.testing.assert_close(SPD(3).frechet_mean(x[:1].expand(4, 3, 3)), x[0], rtol=1e-12, atol=1e-12)
    x[1, 0, 0] = math.nan
    with pytest.warns(RuntimeWarning, match=r"frechet_mean on AffineInvariantSPD\(3\) did not converge"):
        assert SPD(3).frechet_mean(x).isnan().any()


def test_unit_steps_do_not_converge_there():
    space, x = SPDByHand(4), spd(12, 4, 4, spread=math.log(1e3))
    mean = space.projx(x.mean(0))
    for _ in range(100):
        gradient = space.logmap(mean, x).mean(0)
        mean = space.expmap(mean, gradient)
    assert not space.inner(mean, gradient).sqrt() < 1e-3  # may well be NaN


def test_memory_does_not_grow_with_the_steps():
    kept = []

    def count(tensor):
        kept.append(tensor.numel())
        return tensor

    x = cluster(Sphere(2), 40, radius=0.7)
    sizes = []
    for steps, tol in ((None, 1e-1), (None, 1e-12), (30, None)):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            Sphere(2).frechet_mean(x, steps=steps, tol=tol)
        sizes.append(sum(kept))
    assert sizes[0] == sizes[1] < sizes[2] / 10


def test_second_derivatives_of_a_converged_mean_are_refused():
    x = cluster(Sphere(2), 5, radius=0.4)
    (gradient,) = torch.autograd.grad(Sphere(2).frechet_mean(x).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only; ask frechet_mean for a number of steps"):
        torch.autograd.grad(gradient.sum(), x)
    torch.autograd.gradgradcheck(
        lambda x: Sphere(2).frechet_mean(Sphere(2).projx(x), steps=2), x.detach()[:2].requires_grad_()
    )


def test_no_gradient_is_asked_for():
    x = cluster(Sphere(2), 5).detach()
    assert not Sphere(2).frechet_mean(x).requires_grad
    with torch.no_grad():
        assert not Sphere(2).frechet_mean(x.requires_grad_()).requires_grad


def test_float32_gradient():
    x = cluster(Rotations(), 20, radius=0.5).detach()
    single, double = x.float().requires_grad_(), x.float().double().requires_grad_()
    a, b = (torch.autograd.grad(Rotations().frechet_mean(v)[0, 1], v)[0] for v in (single, double))
    torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-6 * b.abs().max().item())


class Processes:
    """The parts of a batch, worked on in lock step by threads: what all_reduce needs, without processes."""

    def __init__(self, parts):
        import threading

        self.barrier, self.values, self.local = threading.Barrier(parts), [None] * parts, threading.local()

    def all_reduce(self, x):
        self.values[self.local.rank] = x
        self.barrier.wait(60)
        total = sum(self.values)
        self.barrier.wait(60)
        return total


def over_processes(f, parts):
    from concurrent.futures import ThreadPoolExecutor

    processes = Processes(len(parts))

    def work(rank):
        processes.local.rank = rank
        return f(parts[rank], processes.all_reduce)

    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(work, range(len(parts))))


@pytest.mark.parametrize("steps", [None, 1, 3])
@pytest.mark.parametrize("space", [*SPACES, Euclidean(2), Torus(2), SO2(), SPD(3), SPD(2, theta=0.5)], ids=repr)
def test_means_over_processes(space, steps):
    x = cluster(space, 2, 9, radius=0.3).detach()
    weights = torch.rand(2, 9, dtype=torch.float64)
    one = space.frechet_mean(x, weights, dim=1, steps=steps), space.frechet_mean(x, dim=1, steps=steps)
    cuts = (x.split((4, 5, 0), 1), weights.split((4, 5, 0), 1))

    def part(arguments, all_reduce):
        x, weights = arguments
        options = dict(dim=1, steps=steps, all_reduce=all_reduce)
        return space.frechet_mean(x, weights, **options), space.frechet_mean(x, **options)

    for many in over_processes(part, list(zip(*cuts))):
        for a, b in zip(many, one):
            assert (space.dist(a, b) < 1e-10).all()


def test_residuals_solve_batches_without_symmetry():
    A = torch.eye(6, dtype=torch.float64) + 0.3 * torch.randn(5, 6, 6, dtype=torch.float64)
    A = A @ A.mT + torch.randn(5, 6, 6, dtype=torch.float64).triu(1) * 0.5
    b = torch.randn(5, 6, dtype=torch.float64)
    b[2] = 0
    none = torch.zeros((), dtype=torch.float64)
    got, left = _solve(
        lambda v: (A @ v.unsqueeze(-1)).squeeze(-1), b, lambda u, v: (u * v).sum(-1, keepdim=True), none, 8
    )
    assert left.max() < 1e-12
    torch.testing.assert_close(got, torch.linalg.solve(A, b), rtol=1e-10, atol=1e-10)


def test_a_mean_that_is_not_found_warns():
    x = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, -1.0, 0.0]], dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match=r"frechet_mean on Sphere\(2\) did not converge"):
        Sphere(2).frechet_mean(torch.full_like(x, math.nan))


def test_why_a_point_is_not_on_the_manifold():
    x = torch.eye(3).expand(2, 3, 3).clone()
    assert Sphere(2).why_not(x) is None
    x[1, 0] *= 1.5
    assert Sphere(2).why_not(x) == "1 of 6 points do not: the first, at index (1, 0), is 0.5 away from it"
    x[0, 2, 2] = math.nan
    assert Sphere(2).why_not(x) == "2 of 6 points do not: the first, at index (0, 2), holds NaN or infinite values"
    assert isinstance(SO2(), LieGroup) and "at index ()" in SO2().why_not(2 * torch.eye(2))
