"""Bures–Wasserstein geometry agrees with stored numbers, finite differences and scipy; so do volumes of all metrics."""

import json
import math
from pathlib import Path

import pytest
import scipy.integrate
import scipy.linalg
import scipy.stats
import torch

from flowgroup import testing
from flowgroup.manifolds import SPD
from flowgroup.manifolds.spd_matrices import SPDMatrices
from flowgroup.testing.manifolds import points_and_tangents

STORED = json.loads((Path(__file__).parent / "data" / "bures_wasserstein.json").read_text())
METRICS = [
    dict(metric="affine-invariant"),
    dict(metric="affine-invariant", theta=0.5, alpha=1.3, beta=0.2),
    dict(metric="cholesky-right-invariant"),
    dict(metric="cholesky-right-invariant", theta=-1.5, beta=-0.1),
    dict(metric="log-euclidean", alpha=0.7, beta=0.2),
    dict(metric="log-cholesky"),
    dict(metric="log-cholesky", theta=0.5),
    dict(metric="bures-wasserstein"),
    dict(metric="bures-wasserstein", theta=1.5),
]

every_metric = pytest.mark.parametrize("options", METRICS, ids=str)


def stored(name):
    return torch.tensor(STORED[name], dtype=torch.float64)


def bures_wasserstein(n, theta=1.0):
    return SPD(n, metric="bures-wasserstein", theta=theta)


def relative(got, expected):
    return ((got.double() - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("case, tolerance", [("n4", 1e-13), ("ill", 1e-9)])
def test_stored_geometry(case, tolerance):
    P, Q = stored(f"{case}_P"), stored(f"{case}_Q")
    manifold = bures_wasserstein(P.shape[-1])
    assert relative(manifold.dist(P, Q), stored(f"{case}_dist_bw")) < tolerance
    assert relative(manifold.geodesic(P, Q, 0.3), stored(f"{case}_geo_bw")) < tolerance
    X, weights = stored(f"{case}_mX"), stored(f"{case}_mw")
    assert relative(manifold.frechet_mean(X), stored(f"{case}_mean_bw")) < 1e-10
    assert relative(manifold.frechet_mean(X, weights), stored(f"{case}_mean_bw_w")) < 1e-10


def test_deformation(dtype):
    P, Q = bures_wasserstein(3).random(2, 8, 3, 3, dtype=torch.float64)
    for theta in (0.5, -1.0, 2.0):
        power = [torch.tensor(scipy.linalg.fractional_matrix_power(X, theta)) for X in (*P, *Q)]
        a, b = torch.stack(power[:8]), torch.stack(power[8:])
        root = torch.stack([torch.tensor(scipy.linalg.sqrtm(x.numpy() @ y.numpy())) for x, y in zip(a, b)])
        squared = sum(X.diagonal(dim1=-2, dim2=-1).sum(-1) for X in (a, b, -2 * root.real))
        got = bures_wasserstein(3, theta).dist(P.to(dtype), Q.to(dtype))
        torch.testing.assert_close(got.double(), squared.sqrt() / abs(theta), rtol=5e3 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("law", testing.MANIFOLD_LAWS, ids=lambda law: law.__name__)
def test_deformation_keeps_the_laws(law):
    if law is testing.assert_manifold_broadcasts:
        pytest.skip("compiles for long, and as the deformation of another metric does")
    law(bures_wasserstein(2, theta=1.5))


@pytest.mark.parametrize("gap", [1e-2, 1e-5, 1e-8])
def test_close_points_keep_their_digits(gap, dtype):
    manifold = bures_wasserstein(3)
    P = manifold.random(10, 3, 3, dtype=dtype)
    U = torch.randn(10, 3, 3, dtype=dtype)
    Q = P + gap * (U + U.mT)
    U = (Q - P).double()
    # d² = ⟨U, U⟩ to first order, by an equation that scipy solves
    X = torch.stack(
        [torch.tensor(scipy.linalg.solve_sylvester(p, p, u)) for p, u in zip(P.double().numpy(), U.numpy())]
    )
    expected = (0.5 * (X * U).sum((-2, -1))).sqrt()
    torch.testing.assert_close(
        manifold.dist(P, Q).double(), expected, rtol=20 * gap + 100 * torch.finfo(dtype).eps, atol=0
    )


def test_metric_is_the_second_derivative_of_squared_distance():
    manifold = bures_wasserstein(3)
    x, u = points_and_tangents(manifold, torch.float64, n=4)
    h = 1e-4
    forth, back = manifold.dist2(x, x + h * u), manifold.dist2(x, x - h * u)
    torch.testing.assert_close((forth + back) / (2 * h * h), manifold.inner(x, u), rtol=1e-6, atol=0)


@pytest.mark.parametrize("n", [2, 3])
def test_parallel_transport_agrees_with_an_adaptive_solver(n):
    # S′P + PS′ + SZP + PZS = 0 along P(t) = (1 + tX)P(1 + tX), Z = X(1 + tX)⁻¹, for the tangent vectors SP + PS
    manifold = bures_wasserstein(n)
    x, u = points_and_tangents(manifold, torch.float64, n=3)
    v = torch.randn_like(x)
    v = v + v.mT
    got = manifold.transp(x, manifold.expmap(x, u), v)
    for P, U, V, expected in zip(x.numpy(), u.numpy(), v.numpy(), got):
        X, one = scipy.linalg.solve_sylvester(P, P, U), torch.eye(n, dtype=torch.float64).numpy()

        def rate(t, S, P=P, X=X, one=one):
            S, B = S.reshape(n, n), one + t * X
            Z, A = X @ scipy.linalg.inv(B), B @ P @ B
            half = S @ Z @ A
            return scipy.linalg.solve_sylvester(A, A, -half - half.T).ravel()

        S = scipy.linalg.solve_sylvester(P, P, V).ravel()
        S = scipy.integrate.solve_ivp(rate, (0, 1), S, rtol=1e-12, atol=1e-13, method="DOP853").y[:, -1].reshape(n, n)
        A = (one + X) @ P @ (one + X)
        torch.testing.assert_close(torch.tensor(S @ A + A @ S), expected, rtol=0, atol=1e-8)


def test_transport_is_an_isometry_also_far_away(dtype):
    manifold = bures_wasserstein(4)
    x, y = manifold.random(2, 30, 4, 4, dtype=dtype)
    v = torch.randn_like(x)
    v = v + v.mT
    moved = manifold.transp(x, y, v)
    tolerance = dict(rtol=max(100 * torch.finfo(dtype).eps, 1e-11), atol=0)
    torch.testing.assert_close(manifold.norm(y, moved), manifold.norm(x, v), **tolerance)


def test_gradient_of_the_barycentre():
    manifold = bures_wasserstein(2)
    X = manifold.random(3, 2, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda X: manifold.frechet_mean(0.5 * (X + X.mT)), X)


def test_random_points_are_away_from_the_boundary():
    x = bures_wasserstein(3).random(1000, 3, 3, dtype=torch.float64)
    assert torch.linalg.eigvalsh(x).min() >= 0.25
    # E P = 1/4 + 1, by five standard errors: the variance of Gᵢₖ² is two
    mean = x.diagonal(dim1=-2, dim2=-1).mean().item()
    assert abs(mean - 1.25) < 5 * math.sqrt(2 / 9000)


@every_metric
@pytest.mark.parametrize("n", [1, 2, 4])
def test_volume_density_in_closed_form(options, n):
    manifold = SPD(n, **options)
    P = manifold.random(5, n, n, dtype=torch.float64)
    got = manifold.log_volume_density(P)
    gram = SPDMatrices.log_volume_density(manifold, P)  # from the metric itself
    torch.testing.assert_close(got, gram, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", [o for o in METRICS if o["metric"].startswith("log")], ids=str)
def test_volume_density_is_the_jacobian_of_a_flat_chart(options):
    manifold = SPD(3, **options)
    i, j = torch.tril_indices(3, 3)
    for P in manifold.random(3, 3, 3, dtype=torch.float64):

        def chart(entries):
            lower = torch.zeros(3, 3, dtype=torch.float64).index_put((i, j), entries)
            return manifold.to_model(lower + lower.tril(-1).mT)

        expected = torch.linalg.slogdet(torch.func.jacrev(chart)(P[i, j])).logabsdet
        torch.testing.assert_close(manifold.log_volume_density(P), expected, rtol=1e-11, atol=1e-11)


def test_volume_density_of_wishart():
    # with respect to the affine-invariant volume a Wishart density is a function of P alone that scipy knows as well
    P = SPD(3).random(4, 3, 3, dtype=torch.float64)
    wishart = [scipy.stats.wishart(5, torch.eye(3).numpy()).logpdf(p.numpy()) for p in P]
    log_det, trace = torch.linalg.slogdet(P).logabsdet, P.diagonal(dim1=-2, dim2=-1).sum(-1)
    normalizer = 7.5 * math.log(2) + torch.special.multigammaln(torch.tensor(2.5, dtype=torch.float64), 3)
    invariant = 2.5 * log_det - 0.5 * trace - normalizer - 1.5 * math.log(2)
    torch.testing.assert_close(invariant + SPD(3).log_volume_density(P), torch.tensor(wishart, dtype=torch.float64))


@every_metric
def test_volume_density_has_gradients_at_equal_eigenvalues(options):
    manifold = SPD(3, **options)
    P = torch.diag(torch.tensor([2.0, 2.0, 3.0], dtype=torch.float64)).requires_grad_()
    direction = torch.randn(3, 3, dtype=torch.float64)
    direction = direction + direction.mT
    (gradient,) = torch.autograd.grad(manifold.log_volume_density(P), P)
    h = 1e-4
    sides = [manifold.log_volume_density(P.detach() + t * direction) for t in (h, -h)]
    torch.testing.assert_close((gradient * direction).sum(), (sides[0] - sides[1]) / (2 * h), rtol=1e-6, atol=1e-6)
