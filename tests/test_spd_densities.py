"""Wrapped normals and Riemannian Gaussians against quadrature, stored values, Monte Carlo and each other."""

import copy
import math
import pickle

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.stats
import torch

from flowgroup import distributions as D
from flowgroup import flows
from flowgroup.distributions.log_eigenvalues import log_acceptance, log_normalizer
from flowgroup.groups import SO2, SO3, UnitQuaternions
from flowgroup.manifolds import SPD, Euclidean, Product, Sphere, Torus

F64 = {"dtype": torch.float64}

DIFFEOMORPHIC = [
    SPD(2),
    SPD(3, alpha=2.0, beta=0.3),
    SPD(3, theta=0.5, alpha=0.7, beta=-0.1),
    SPD(2, metric="cholesky-right-invariant", theta=-1.5),
    SPD(3, metric="log-euclidean", beta=0.2),
    SPD(2, metric="log-cholesky", theta=2.0),
    Euclidean(3),
]
CLOSED = [Sphere(2), Sphere(3), SO2(), SO3(), UnitQuaternions(), Torus(1)]


def wrapped(manifold, scale=0.5, batch=(), **like):
    d = manifold.dim
    loc = manifold.random(*batch, *manifold.event_shape, **like)
    return D.WrappedNormal(
        manifold, loc, scale * (torch.eye(d, **like) + 0.5 * torch.randn(*batch, d, d, **like).tril(-1))
    )


def mean_and_error(x):
    """The mean and its standard error."""
    return x.mean().item(), (x.std() / len(x) ** 0.5).item()


# ------------------------------------------------------------------------------------------------------ wrapped normals


@pytest.mark.parametrize("manifold", DIFFEOMORPHIC + CLOSED, ids=repr)
def test_wrapped_normal_of_equal_variances_depends_on_the_distance(manifold):
    """−d²/2σ² − log|det d exp|, from the methods of the manifold itself; windings are 1e-60 at this σ."""
    loc, sigma = manifold.random(*manifold.event_shape, **F64), 0.15
    law = D.WrappedNormal(manifold, loc, sigma * torch.eye(manifold.dim, **F64))
    x = law.sample((50,))
    constant = manifold.dim * math.log(sigma * math.sqrt(2 * math.pi))
    expected = -0.5 * (manifold.dist(loc, x) / sigma) ** 2 - constant
    expected = expected - manifold.log_abs_det_expmap(loc, manifold.logmap(loc, x))
    torch.testing.assert_close(law.log_prob(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("manifold", DIFFEOMORPHIC + CLOSED, ids=repr)
def test_tangent_vectors_of_samples_have_the_covariance(manifold):
    """In the basis of `tangent`, or in any basis for the invariants of the covariance."""
    law = wrapped(manifold, 0.2, **F64)
    x = law.sample((20000,))
    u = manifold.logmap(law.loc, x)
    squared = manifold.inner(law.loc, u)
    mean, error = mean_and_error(squared)
    assert abs(mean - law.scale_tril.square().sum()) < 4.5 * error
    if hasattr(manifold, "coordinates"):
        covariance = torch.cov(manifold.coordinates(law.loc, u).mT)
        expected = law.scale_tril @ law.scale_tril.mT
        # the entries of a sample covariance have variances (CᵢᵢCⱼⱼ + Cᵢⱼ²)/N
        error = ((expected.diagonal()[:, None] * expected.diagonal() + expected**2) / len(x)).sqrt()
        assert ((covariance - expected).abs() < 4.5 * error).all()


@pytest.mark.parametrize("scale", [0.3, 1.5, 4.0])
@pytest.mark.parametrize("manifold", [SO2(), Torus(1)], ids=repr)
def test_wrapped_normal_of_the_circle_is_the_classical_one(manifold, scale):
    """Its Fourier series 1/2π·(1 + 2 Σ exp(−k²σ²/2) cos kθ)."""
    law = D.WrappedNormal(manifold, manifold.origin(**F64), scale * torch.eye(1, **F64))
    theta = torch.linspace(-3.1, 3.1, 41, **F64)
    k = torch.arange(1, 60, **F64)
    expected = (1 + 2 * ((-0.5 * (k * scale) ** 2).exp() * (theta[:, None] * k).cos()).sum(-1)) / (2 * math.pi)
    torch.testing.assert_close(law.log_prob(manifold.exp(theta[:, None])).exp(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("scale", [0.4, 1.5, 3.0])
@pytest.mark.parametrize("manifold", [Sphere(2), Sphere(3), SO3(), UnitQuaternions()], ids=repr)
def test_wrapped_normal_integrates_to_one_where_geodesics_close(manifold, scale):
    """Over uniform points. Without the windings the integral is 0.2 for σ = 3."""
    law = wrapped(manifold, scale, **F64)
    x = manifold.random_uniform(100000, *manifold.event_shape, **F64)
    mean, error = mean_and_error(law.log_prob(x).exp() * manifold.volume)
    assert error < 0.02 and abs(mean - 1) < 4.5 * error


def test_wrapped_normal_of_rotations_against_the_heat_of_their_angle():
    """The law of the angle of exp(v), v ~ N(0, σ²), by summing the density of |v| over all |v| with that angle."""
    sigma, angle = 1.3, torch.linspace(0.2, 3.0, 15, **F64)
    law = D.WrappedNormal(SO3(), torch.eye(3, **F64), sigma * torch.eye(3, **F64))
    x = SO3().exp(torch.nn.functional.pad(angle[:, None], (1, 1)))
    radial = scipy.stats.maxwell(scale=sigma).pdf
    expected = sum(radial(2 * math.pi * k + s * angle.numpy()) for k in range(12) for s in (1, -1) if k or s > 0)
    area = 16 * math.pi * (angle / 2).sin() ** 2  # of the rotations by one angle, in the metric where d is the angle
    torch.testing.assert_close(law.log_prob(x).exp() * area, torch.from_numpy(expected), rtol=1e-10, atol=0)


def test_wrapped_normal_at_its_mean_has_finite_values_and_gradients():
    for manifold in (Sphere(2), SO3(), SPD(3)):
        for dtype in (torch.float32, torch.float64):
            law = wrapped(manifold, 0.3, dtype=dtype)
            x = law.loc.clone().requires_grad_()
            value = law.log_prob(x)
            (gradient,) = torch.autograd.grad(value, x)
            constant = law.scale_tril.diagonal().log().sum() + 0.5 * manifold.dim * math.log(2 * math.pi)
            assert value.item() == pytest.approx(-constant.item(), abs=1e-4)
            assert gradient.isfinite().all()


@pytest.mark.parametrize("manifold", [Euclidean(2), SPD(2), SPD(3, metric="log-cholesky")], ids=repr)
def test_rsample_is_differentiable(manifold):
    law = wrapped(manifold, **F64)

    def sample(loc, scale_tril):
        torch.manual_seed(5)
        if loc.dim() == 2:  # a symmetric matrix, of which gradcheck moves the entries one by one
            loc = 0.5 * (loc + loc.mT)
        return D.WrappedNormal(manifold, loc, scale_tril, validate_args=False).rsample((2,))

    scale_tril = law.scale_tril.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a: sample(law.loc, a), scale_tril)
    assert torch.autograd.gradcheck(lambda a: sample(a, law.scale_tril), law.loc.clone().requires_grad_())


@pytest.mark.parametrize(
    ("manifold", "message"),
    [
        (Torus(2), "manifold must be a Lie group on which the exponential map is a diffeomorphism"),
        (Product(Euclidean(2), SO3()), "manifold must be a Lie group on which"),
        (Product(Euclidean(2), Sphere(2)), "manifold must be a Lie group on which"),
        (SPD(2, metric="bures-wasserstein"), "manifold must be a Lie group on which"),
    ],
)
def test_wrapped_normal_refuses_what_it_cannot_sum(manifold, message):
    with pytest.raises(ValueError, match=message):
        D.WrappedNormal(manifold, manifold.origin(), torch.eye(manifold.dim))


def test_wrapped_normal_of_a_product_is_the_product():
    a, b = SPD(2), Euclidean(2)
    both = Product(a, b)
    law = wrapped(both, 0.4, **F64)
    law = D.WrappedNormal(both, law.loc, torch.diag_embed(torch.rand(both.dim, **F64) + 0.1))
    (loc_a, loc_b), scale = both.split(law.loc), law.scale_tril
    x = law.sample((9,))
    x_a, x_b = both.split(x)
    expected = D.WrappedNormal(a, loc_a, scale[:3, :3]).log_prob(x_a)
    expected = expected + D.MultivariateNormal(loc_b, scale[3:, 3:]).log_prob(x_b)
    torch.testing.assert_close(law.log_prob(x), expected)


# ------------------------------------------------------------------------------------------------------- the normaliser

# log ζ(σ) for n: {σ: value}, from the Pfaffian in 120 and more digits
STORED = {
    1: {0.3: -0.2850342711212633, 2.0: 1.612085713764618},
    2: {0.05: -6.229964537020866, 0.5: 0.7192136425384054, 1.0: 2.926214916862387, 3.0: 7.741922516464813},
    3: {
        0.05: -12.4591997956251,
        0.3: -1.6537664186787342,
        0.9: 5.402617652746414,
        1.1: 6.874443887668906,
        3.0: 19.004807031803907,
    },
    5: {0.05: -31.14461299559664, 0.5: 4.130291142271243, 1.0: 16.9185512640354, 3.0: 66.26105660482801},
    8: {0.05: -74.73539765732848, 0.5: 11.146906691492628, 1.5: 80.4833980743134, 3.0: 230.7786115415121},
    13: {0.05: -188.86628047912666, 0.5: 33.46826870523101, 1.0: 142.72849731571335, 3.0: 899.4567826786779},
    20: {0.05: -435.6908425178446, 0.4: 30.140876112113528, 1.0: 420.5762685709883, 3.0: 3126.4733542345743},
}


@pytest.mark.parametrize("n", STORED)
def test_normalizer_against_stored_values(n):
    sigma = torch.tensor(list(STORED[n]), **F64)
    expected = torch.tensor(list(STORED[n].values()), **F64)
    torch.testing.assert_close(log_normalizer(n, sigma), expected, rtol=1e-15, atol=1e-12)
    torch.testing.assert_close(log_normalizer(n, sigma.float()).double(), expected, rtol=2e-7, atol=2e-6 * n)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.5])
@pytest.mark.parametrize("n", [2, 3])
def test_normalizer_against_quadrature(n, sigma):
    """ω ∫ Π 2 sinh(Δ/2) exp(−|r|²/2σ²) over gaps and mean of ascending r, ω the volume of the eigenframes."""

    def weight(gaps):
        r = np.concatenate(([0.0], np.cumsum(gaps)))
        difference = (r[:, None] - r)[np.tril_indices(n, -1)]
        return np.prod(2 * np.sinh(difference / 2)) * math.exp(
            -(r**2).sum() / (2 * sigma**2) + n * r.mean() ** 2 / (2 * sigma**2)
        )

    if n == 2:
        integral = scipy.integrate.quad(weight, 0, 40 * sigma, epsabs=0, epsrel=1e-10)[0]
        # R(φ) diag(r₁, r₂) R(φ)ᵀ, 0 ≤ φ < π, r₁ < r₂, covers each matrix once, |dU|² = dr₁² + dr₂² + 2(r₂ − r₁)²dφ²
        chamber = math.sqrt(2) * math.pi
    else:
        integral = scipy.integrate.dblquad(
            lambda b, a: weight([a, b]), 0, 14 * sigma + 5 * sigma**2, 0, 14 * sigma + 5 * sigma**2, epsrel=1e-8
        )[0]
        # frames of R³ up to signs: 8π²/4 in rotation vectors, of which √2 each makes a unit of length
        chamber = math.sqrt(8) * 2 * math.pi**2
    # gaps and mean of r: dr = d(gaps) d(mean)
    mean = math.sqrt(2 * math.pi * sigma**2 / n)
    expected = math.log(chamber * mean * integral)
    assert log_normalizer(n, torch.tensor(sigma, **F64)).item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13, 20])
def test_normalizer_of_small_scales_is_that_of_the_tangent_space(n):
    """log ζ = d/2·log 2πσ² + σ² E Σ Δ²/24 + O(σ⁴): the Σ Δ² of GOE has mean n·(d − 1)."""
    d = n * (n + 1) // 2
    for sigma in (1e-6, 1e-3):
        excess = log_normalizer(n, torch.tensor(sigma, **F64)).item() - 0.5 * d * math.log(2 * math.pi * sigma**2)
        assert excess == pytest.approx(n * (d - 1) * sigma**2 / 24, abs=2e-12 * n + 1e-10 * n**4 * (sigma > 1e-4))


@pytest.mark.parametrize("n", [2, 5, 8])
def test_normalizer_is_smooth_where_its_two_ways_meet(n):
    sigma = torch.tensor([0.5, 0.999999, 1.0, 1.000001, 2.0], **F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: log_normalizer(n, s), sigma, atol=1e-7)
    assert torch.autograd.gradgradcheck(lambda s: log_normalizer(n, s), sigma, atol=1e-5)
    value = log_normalizer(n, sigma)
    slope = torch.autograd.grad(value[2], sigma)[0][2]
    assert (value[3] - value[1]).item() == pytest.approx(2e-6 * slope.item(), abs=1e-11)


# ------------------------------------------------------------------------------------------------- Riemannian Gaussians

GAUSSIANS = [
    (SPD(1), 1.0),
    (SPD(2), 1.2),
    (SPD(3, alpha=2.0, beta=0.3), 0.5),
    (SPD(3, theta=0.5, alpha=0.7, beta=-0.2), 0.6),
    (SPD(3, metric="cholesky-right-invariant", theta=2.0), 0.8),
    (SPD(4), 0.7),
    (SPD(5, beta=-0.1), 0.4),
    (SPD(3, metric="log-euclidean", beta=0.2), 0.7),
    (SPD(2, metric="log-cholesky", theta=0.5), 0.7),
]
each_gaussian = pytest.mark.parametrize(("manifold", "sigma"), GAUSSIANS, ids=repr)


def gaussian(manifold, sigma, batch=(), **like):
    loc = manifold.random(*batch, *manifold.event_shape, **like)
    return D.RiemannianGaussian(manifold, loc, torch.tensor(sigma, **like))


@each_gaussian
def test_gaussian_integrates_to_one(manifold, sigma):
    """By importance sampling from a wrapped normal: E[p/q] = 1, with standard error below 0.5 %."""
    law = gaussian(manifold, sigma, **F64)
    q = D.WrappedNormal(manifold, law.loc, 1.15 * sigma * torch.eye(manifold.dim, **F64))
    x = q.sample((60000,))
    mean, error = mean_and_error((law.log_prob(x) - q.log_prob(x)).exp())
    assert error < 0.005 and abs(mean - 1) < 4.5 * error


@each_gaussian
def test_gaussian_is_a_function_of_the_distance(manifold, sigma):
    law = gaussian(manifold, sigma, **F64)
    x = manifold.random(20, *manifold.event_shape, **F64)
    difference = law.log_prob(x) - law.log_prob(law.loc)
    torch.testing.assert_close(difference, -0.5 * (manifold.dist(law.loc, x) / sigma) ** 2)


@each_gaussian
def test_samples_of_gaussians_have_their_dispersion_and_entropy(manifold, sigma):
    law = gaussian(manifold, sigma, **F64)
    x = law.sample((20000,))
    for values, expected in ((manifold.dist(law.loc, x) ** 2, law.dispersion), (-law.log_prob(x), law.entropy())):
        mean, error = mean_and_error(values)
        assert abs(mean - expected.item()) < 4.5 * error
    shift = manifold.logmap(law.loc, x).mean(0)  # the Fréchet mean is μ
    size = manifold.norm(law.loc, shift).item()
    assert size < 4.5 * math.sqrt(law.dispersion.item() / len(x))


@pytest.mark.parametrize("sigma", [0.3, 1.0, 1.6, 3.0])
@pytest.mark.parametrize("n", [2, 3])
def test_samples_have_the_law_of_the_gaps_of_eigenvalues(n, sigma):
    """Both proposals: for n = 2 the gap has density ∝ sinh(Δ/2) exp(−Δ²/4σ²); for n = 3 the outer gap by quadrature."""
    law = D.RiemannianGaussian(SPD(n), torch.eye(n, **F64), torch.tensor(sigma, **F64))
    r = torch.linalg.eigvalsh(law.sample((5000,))).log().numpy()
    grid = np.linspace(0, 12 * sigma + 3 * sigma**2, 4001)
    if n == 2:
        density = np.sinh(grid / 2) * np.exp(-(grid**2) / (4 * sigma**2))
    else:
        t = np.linspace(0, 1, 401)[:, None]  # the middle one divides the outer gap at t
        r3 = np.stack([0 * t * grid, t * grid, (1 + 0 * t) * grid])
        squares = ((r3 - r3.mean(0)) ** 2).sum(0)
        product = np.sinh(t * grid / 2) * np.sinh((1 - t) * grid / 2) * np.sinh(grid / 2)
        density = (product * np.exp(-squares / (2 * sigma**2))).sum(0) * grid
    cdf = np.cumsum((density[1:] + density[:-1]) / 2)
    cdf = np.concatenate(([0], cdf)) / cdf[-1]
    gaps = np.sort(r[:, -1] - r[:, 0])
    assert scipy.stats.kstest(gaps, lambda x: np.interp(x, grid, cdf)).pvalue > 1e-3
    assert scipy.stats.kstest(r.mean(1), scipy.stats.norm(scale=sigma / math.sqrt(n)).cdf).pvalue > 1e-3


def test_eigenvectors_of_samples_are_uniform():
    law = D.RiemannianGaussian(SPD(3), torch.eye(3, **F64), torch.tensor(0.8, **F64))
    V = torch.linalg.eigh(law.sample((4000,))).eigenvectors
    for i in range(3):  # a coordinate of a uniform axis of R³ is uniform on [−1, 1]
        assert scipy.stats.kstest(V[:, i, 0].abs().numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("n", [2, 5, 10])
def test_acceptance_is_a_share_that_is_never_small_for_few_dimensions(n):
    rates = log_acceptance(n, torch.logspace(-3, 1, 400, **F64)).exp()
    assert (rates <= 1 + 1e-9).all()
    assert rates.min() > {2: 0.75, 5: 0.15, 10: 3e-4}[n]


def test_the_acceptance_is_the_one_found():
    from flowgroup.distributions.log_eigenvalues import _log_acceptance, _propose

    for n, sigma in ((3, 1.5), (3, 2.5), (5, 1.2), (5, 2.0), (6, 1.0)):
        s = torch.full((20000,), sigma, **F64)
        log_rate, tangent = _log_acceptance(n, s)
        found, error = mean_and_error(_propose(n, s, tangent)[1].double())
        assert abs(found - log_rate[0].exp()) < 4.5 * error


def test_what_cannot_be_sampled_says_so():
    law = D.RiemannianGaussian(SPD(20), torch.eye(20), torch.tensor(1.0))
    with pytest.raises(ValueError, match="scale must be one that can be sampled: for 1 with n=20"):
        law.sample()
    assert law.log_prob(torch.eye(20)).isfinite()


def test_flat_gaussians_are_wrapped_normals():
    for manifold in (SPD(3, metric="log-euclidean", alpha=2.0), SPD(2, metric="log-cholesky"), Euclidean(2)):
        law = gaussian(manifold, 0.8, **F64)
        other = D.WrappedNormal(manifold, law.loc, 0.8 * torch.eye(manifold.dim, **F64))
        x = law.rsample((7,))
        torch.testing.assert_close(law.log_prob(x), other.log_prob(x))
        assert law.dispersion.item() == pytest.approx(manifold.dim * 0.64)
        assert law.acceptance == 1


def test_gradients_of_gaussians():
    manifold = SPD(3)
    law = gaussian(manifold, 0.7, **F64)
    x = law.sample()

    def log_prob(loc, scale, x):
        loc, x = (0.5 * (a + a.mT) for a in (loc, x))
        return D.RiemannianGaussian(manifold, loc, scale, validate_args=False).log_prob(x)

    arguments = [a.clone().requires_grad_() for a in (law.loc, law.scale, x)]
    assert torch.autograd.gradcheck(log_prob, arguments)
    same = torch.autograd.grad(log_prob(arguments[0], arguments[1], arguments[0].detach()), arguments[0])[0]
    assert same.abs().max() < 1e-10  # at its mean the density has its maximum


def test_maximum_likelihood_finds_the_scale():
    """E d² as a function of σ rises, so the likelihood of σ has its one maximum where it equals the mean of d²."""
    torch.manual_seed(2)
    law = D.RiemannianGaussian(SPD(3), torch.eye(3, **F64), torch.tensor(0.6, **F64))
    x = law.sample((4000,))
    base = flows.RiemannianGaussian(SPD(3), trainable=True).double()
    optimizer = torch.optim.LBFGS(base.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = -base.log_prob(x).mean()
        value.backward()
        return value

    optimizer.step(loss)
    found = base.distribution()
    squared = SPD(3).dist(found.loc, x) ** 2
    assert found.dispersion.item() == pytest.approx(squared.mean().item(), rel=1e-5)
    assert found.scale.item() == pytest.approx(0.6, abs=0.02)
    torch.testing.assert_close(found.loc.detach(), SPD(3).frechet_mean(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: D.RiemannianGaussian(Sphere(2), torch.eye(3)[0], torch.tensor(1.0)), "manifold must be flat, or SPD"),
        (lambda: D.RiemannianGaussian(SPD(33), torch.eye(33), torch.tensor(1.0)), "of size at most 32"),
        (lambda: D.RiemannianGaussian(SPD(2), torch.eye(2), torch.tensor(0.0)), "scale"),
        (lambda: D.RiemannianGaussian(SPD(2), -torch.eye(2), torch.tensor(1.0)), "loc"),
        (lambda: D.RiemannianGaussian(SPD(2), torch.eye(3), torch.tensor(1.0)), r"loc must have shape \(..., 2, 2\)"),
        (lambda: D.WrappedNormal(SPD(2), torch.eye(2), -torch.eye(3)), "scale_tril"),
        (lambda: D.WrappedNormal(SPD(2), torch.eye(2), torch.eye(2)), r"scale_tril must have shape \(..., 3, 3\)"),
        (lambda: D.WrappedNormal(SPD(2), torch.full((2, 2), math.nan), torch.eye(3)), "loc"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# -------------------------------------------------------------------------------------------------------- both of them

LAWS = {
    "WrappedNormal": lambda **like: wrapped(SPD(3), batch=(4,), **like),
    "WrappedNormal flat": lambda **like: wrapped(SPD(2, metric="log-euclidean"), batch=(4,), **like),
    "WrappedNormal SO3": lambda **like: wrapped(SO3(), batch=(4,), **like),
    "WrappedNormal sphere": lambda **like: wrapped(Sphere(2), batch=(4,), **like),
    "RiemannianGaussian": lambda **like: gaussian(SPD(3), 0.6, batch=(4,), **like),
    "RiemannianGaussian flat": lambda **like: gaussian(SPD(2, metric="log-cholesky"), 0.6, batch=(4,), **like),
}
each_law = pytest.mark.parametrize("name", LAWS)


@each_law
def test_shapes_dtypes_and_support(name, dtype):
    law = LAWS[name](dtype=dtype)
    x = law.sample((7,))
    assert x.shape == (7, 4, *law.event_shape) and x.dtype == dtype and not x.requires_grad
    assert law.support.check(x).all()
    log_prob = law.log_prob(x)
    assert log_prob.shape == (7, 4) and log_prob.dtype == dtype
    wide = law.expand((2, 4))
    assert wide.sample((3,)).shape == (3, 2, 4, *law.event_shape)
    torch.testing.assert_close(wide.log_prob(x[:2]), log_prob[:2])


@each_law
def test_float32_agrees_with_float64(name):
    law = LAWS[name]()
    x = law.sample((200,))
    scale = law.scale_tril if "Wrapped" in name else law.scale
    double = type(law)(law.manifold, law.loc.double(), scale.double(), validate_args=False)
    torch.testing.assert_close(law.log_prob(x).double(), double.log_prob(x.double()), rtol=1e-5, atol=2e-4)


@each_law
def test_copies(name):
    law = LAWS[name]()
    x = law.sample()
    for twin in (copy.deepcopy(law), pickle.loads(pickle.dumps(law))):
        assert torch.equal(twin.log_prob(x), law.log_prob(x))


@each_law
def test_compiles_and_maps(name):
    law = LAWS[name]()
    scale = law.scale_tril if "Wrapped" in name else law.scale
    x = law.sample()

    def make(loc, scale):
        return type(law)(law.manifold, loc, scale)

    expected = law.log_prob(x)
    mapped = torch.func.vmap(lambda y, *a: make(*a).log_prob(y))(x, law.loc, scale)
    torch.testing.assert_close(mapped, expected, rtol=1e-5, atol=1e-5)
    drawn = torch.func.vmap(lambda *a: make(*a).sample((2,)), randomness="different")(law.loc, scale)
    assert drawn.shape == (4, 2, *law.event_shape)
    fixed = torch.func.vmap(lambda _: make(law.loc, scale).sample(), randomness="different")(torch.zeros(2))
    assert not torch.equal(fixed[0], fixed[1])

    torch._dynamo.reset()
    compiled = torch.compile(lambda *a: (make(*a).log_prob(x), make(*a).sample((3,))), fullgraph=True, backend="eager")
    log_prob, sample = compiled(law.loc, scale)
    torch.testing.assert_close(log_prob, expected, rtol=1e-5, atol=1e-5)
    assert sample.shape == (3, 4, *law.event_shape) and law.log_prob(sample).isfinite().all()
