"""Densities against scipy and quadrature, samples against densities, gradients of samples against expectations."""

import copy
import math
import pickle
import warnings

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.integrate import quad
from scipy.special import gammaln, ive
from scipy.stats import kstest

from flowgroup import distributions as D
from flowgroup.distributions.polar import log_normalizer, sample_tan2

DTYPES = [torch.float32, torch.float64]
KAPPAS = [0.0, 1e-4, 0.3, 5.0, 80.0, 1e4, 1e6]


def unit(*shape, dtype=torch.float64):
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=dtype), dim=-1)


def instances(dtype=torch.float32):
    """One of each, with the batch shape in the name."""
    torch.manual_seed(0)
    covariance = torch.randn(3, 3, dtype=dtype)
    tril = torch.linalg.cholesky(covariance @ covariance.mT + torch.eye(3, dtype=dtype))
    loc, scale = torch.randn(4, 3, dtype=dtype), torch.rand(4, 3, dtype=dtype) + 0.1
    options = {"dtype": dtype}
    return {
        "DiagonalNormal (4,)": D.DiagonalNormal(loc, scale),
        "MultivariateNormal (4,)": D.MultivariateNormal(loc, tril),
        "BoxUniform (4,)": D.BoxUniform(loc, loc + scale),
        "TorusUniform": D.TorusUniform(3, **options),
        "SphereUniform": D.SphereUniform(3, **options),
        "VonMises (4,)": D.VonMises(loc, 5 * scale),
        "VonMisesFisher S1 (4,)": D.VonMisesFisher(unit(4, 2).to(dtype), scale[:, 0]),
        "VonMisesFisher S2 (4,)": D.VonMisesFisher(unit(4, 3).to(dtype), scale[:, 0]),
        "VonMisesFisher S4 (2, 4)": D.VonMisesFisher(unit(2, 1, 5).to(dtype), 30 * scale[:, 0]),
        "Mixture": D.Mixture(torch.randn(4, dtype=dtype), D.DiagonalNormal(loc, scale)),
        "Mixture (2,)": D.Mixture(torch.randn(2, 4, dtype=dtype), D.VonMisesFisher(unit(4, 3).to(dtype), scale[:, 0])),
        "TwoMoons": D.TwoMoons(**options),
        "Rings": D.Rings(**options),
        "Checkerboard": D.Checkerboard(**options),
        "EightGaussians": D.EightGaussians(**options),
    }


NAMES = list(instances())


# ---------------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_dtypes(name, dtype):
    d = instances(dtype)[name]
    x = d.sample((7,))
    assert x.shape == (7, *d.batch_shape, *d.event_shape) and x.dtype == dtype
    log_prob = d.log_prob(x)
    assert log_prob.shape == (7, *d.batch_shape) and log_prob.dtype == dtype
    assert log_prob.isfinite().all()
    assert d.support.check(x).all()
    assert not x.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_float32_agrees_with_float64(name):
    single, double = instances()[name], instances(torch.float64)[name]
    torch.manual_seed(3)
    x = instances(torch.float64)[name].sample((50,)).float()
    if "Mixture" in name or "(" in name:  # of the same parameters, not of those drawn in another dtype
        double = copy.deepcopy(single)
        as_double(double)
    torch.testing.assert_close(single.log_prob(x).double(), double.log_prob(x.double()), rtol=2e-6, atol=2e-5)


def as_double(d):
    for key, value in vars(d).items():
        if isinstance(value, torch.Tensor):
            setattr(d, key, value.double())
        elif isinstance(value, torch.distributions.Distribution):
            as_double(value)


@pytest.mark.parametrize("name", NAMES)
def test_compiles_without_a_break(name):
    d = instances()[name]
    x = d.sample((5,))
    torch._dynamo.reset()
    compiled = torch.compile(lambda: (d.log_prob(x), d.sample((3,))), fullgraph=True, backend="eager")
    log_prob, sample = compiled()
    torch.testing.assert_close(log_prob, d.log_prob(x))
    assert d.log_prob(sample).isfinite().all()


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (D.DiagonalNormal, [(3,), (3,)]),
        (lambda loc, a: D.MultivariateNormal(loc, torch.linalg.cholesky(a @ a.mT + torch.eye(3))), [(3,), (3, 3)]),
        (D.BoxUniform, [(3,), (3,)]),
        (D.VonMises, [(3,), (3,)]),
        (lambda loc, k: D.VonMisesFisher(loc / loc.norm(), k), [(3,), ()]),
        (lambda loc, k: D.VonMisesFisher(loc / loc.norm(), k), [(4,), ()]),
        (lambda w, loc: D.Mixture(w, D.DiagonalNormal(loc, torch.ones_like(loc))), [(2,), (2, 3)]),
    ],
)
def test_vmap_and_compile_from_arguments(make, shapes):
    torch.manual_seed(0)
    arguments = [torch.rand(6, *s) + 0.5 * i for i, s in enumerate(shapes)]
    if make is D.BoxUniform:
        arguments[1] = arguments[0] + 1
    one_by_one = [make(*a) for a in zip(*arguments)]
    x = torch.stack([d.sample() for d in one_by_one])
    expected = torch.stack([d.log_prob(y) for d, y in zip(one_by_one, x)])
    mapped = torch.func.vmap(lambda y, *a: make(*a).log_prob(y))(x, *arguments)
    torch.testing.assert_close(mapped, expected, rtol=1e-5, atol=1e-5)

    samples = torch.func.vmap(lambda *a: make(*a).sample((2,)), randomness="different")(*arguments)
    assert samples.shape == (6, 2, *x.shape[1:])
    equal = [a[:1].expand_as(a) for a in arguments]
    samples = torch.func.vmap(lambda *a: make(*a).sample((2,)), randomness="different")(*equal)
    assert not torch.equal(samples[0], samples[1])

    torch._dynamo.reset()

    @torch.compile(fullgraph=True, backend="eager")
    def compiled(y, *a):
        d = make(*a)
        return d.log_prob(y), d.rsample((2,)) if d.has_rsample else d.sample((2,))

    log_prob, sample = compiled(x[0], *(a[0] for a in arguments))
    torch.testing.assert_close(log_prob, expected[0])
    assert sample.shape == (2, *x.shape[1:])


@pytest.mark.parametrize("name", [n for n in NAMES if instances()[n].has_rsample or "Mixture" in n])
def test_expand(name):
    d = instances()[name]
    if name in ("TorusUniform", "SphereUniform"):
        pytest.skip("has no batch")
    wide = d.expand((5, *d.batch_shape))
    x = wide.sample((2,))
    assert x.shape == (2, 5, *d.batch_shape, *d.event_shape)
    torch.testing.assert_close(wide.log_prob(x), d.log_prob(x))


@pytest.mark.parametrize("name", NAMES)
def test_pickle(name):
    d = instances()[name]
    x = d.sample((2,))
    torch.testing.assert_close(pickle.loads(pickle.dumps(d)).log_prob(x), d.log_prob(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: D.DiagonalNormal(torch.zeros(2), -torch.ones(2)), "scale"),
        (lambda: D.DiagonalNormal(torch.full((2,), math.nan), torch.ones(2)), "loc"),
        (lambda: D.DiagonalNormal(torch.zeros(2), torch.ones(3)), r"scale must have shape \(..., 2\)"),
        (lambda: D.MultivariateNormal(torch.zeros(2), torch.ones(2, 2)), "scale_tril"),
        (lambda: D.MultivariateNormal(torch.zeros(2), torch.eye(3)), r"scale_tril must have shape \(..., 2, 2\)"),
        (lambda: D.BoxUniform(torch.ones(2), torch.ones(2)), "high must be larger than low"),
        (lambda: D.TorusUniform(0), "features must be a positive integer"),
        (lambda: D.SphereUniform(0), "dim must be a positive integer"),
        (lambda: D.VonMises(torch.zeros(2), torch.tensor([1.0, -1.0])), "concentration"),
        (lambda: D.VonMises(torch.zeros(()), torch.zeros(())), "loc must have shape"),
        (lambda: D.VonMisesFisher(torch.tensor([0.0, 1.0]), torch.tensor(-1.0)), "concentration"),
        (lambda: D.VonMisesFisher(torch.tensor([1.0, 1.0]), torch.tensor(1.0)), "loc"),
        (lambda: D.VonMisesFisher(torch.ones(1), torch.tensor(1.0)), "loc must have shape"),
        (lambda: D.Mixture(torch.zeros(3), D.DiagonalNormal(torch.zeros(2, 1), torch.ones(2, 1))), "logits must have"),
        (lambda: D.Mixture(torch.zeros(3), D.TorusUniform(3)), "components must have a batch dimension"),
        (lambda: D.Mixture(torch.tensor([0.0, math.nan]), D.BoxUniform(torch.zeros(2, 1), torch.ones(2, 1))), "logits"),
        (lambda: D.TwoMoons(noise=-0.1), "noise must be positive"),
        (lambda: D.Rings(radii=()), "radii must name"),
        (lambda: D.Rings(radii=(1.0, -1.0)), "radii must be positive"),
        (lambda: D.Checkerboard(squares=3), "squares must be a positive even number"),
        (lambda: D.EightGaussians(scale=math.inf), "scale must be positive"),
        (lambda: D.TwoMoons().log_prob(torch.zeros(3)), r"value must have shape \(..., 2\)"),
        (lambda: D.SphereUniform(2).log_prob(torch.zeros(2)), r"value must have shape \(..., 3\)"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", [n for n in NAMES if "Mixture" not in n])
def test_points_of_a_wrong_shape(name):
    with pytest.raises(ValueError, match="value must have shape"):
        instances()[name].log_prob(torch.zeros(7, 1))


def test_mixtures_have_no_reparametrized_samples():
    d = instances()["Mixture"]
    assert not d.has_rsample
    with pytest.raises(NotImplementedError, match="cannot be sampled by reparametrization"):
        d.rsample((2,))


# -------------------------------------------------------------------------------------------------- densities, by scipy


def test_normals_against_scipy():
    d = instances(torch.float64)
    x = torch.randn(9, 4, 3, dtype=torch.float64)
    diagonal, full = d["DiagonalNormal (4,)"], d["MultivariateNormal (4,)"]
    expected = scipy.stats.norm(diagonal.loc.numpy(), diagonal.scale.numpy()).logpdf(x.numpy()).sum(-1)
    np.testing.assert_allclose(diagonal.log_prob(x), expected, rtol=1e-12)
    for i in range(4):
        law = scipy.stats.multivariate_normal(full.loc[i].numpy(), full.covariance_matrix[i].numpy())
        np.testing.assert_allclose(full.log_prob(x)[:, i], law.logpdf(x[:, i].numpy()), rtol=1e-10)


def test_uniforms_against_volumes():
    low, high = torch.tensor([0.0, -1.0]), torch.tensor([2.0, 3.0])
    box = D.BoxUniform(low, high)
    inside, outside = box.log_prob(torch.tensor([[1.0, 0.0], [1.0, 3.5]]))
    assert inside.item() == pytest.approx(-math.log(8)) and outside.item() == -math.inf
    for dim, area in [(1, 2 * math.pi), (2, 4 * math.pi), (3, 2 * math.pi**2), (4, 8 * math.pi**2 / 3)]:
        assert D.SphereUniform(dim).log_prob(unit(dim + 1)).item() == pytest.approx(-math.log(area), rel=1e-12)


@pytest.mark.parametrize("kappa", KAPPAS)
def test_von_mises_against_scipy(kappa):
    x = torch.linspace(-3, 3, 41, dtype=torch.float64) * min(1.0, 3 * max(kappa, 1e-9) ** -0.5)
    loc, k = torch.full((1,), 0.7, dtype=torch.float64), torch.full((1,), kappa, dtype=torch.float64)
    expected = np.array(  # scipy's own logpdf fails at κ = 0
        [kappa * (-2 * math.sin(0.5 * y) ** 2) - math.log(2 * math.pi * ive(0, kappa)) for y in x.tolist()]
    )
    got = D.VonMises(loc, k).log_prob(x.unsqueeze(-1) + 0.7)
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)
    if kappa > 0:
        np.testing.assert_allclose(got, scipy.stats.vonmises(kappa, loc=0.7).logpdf(x.numpy() + 0.7), rtol=1e-8)
    single = D.VonMises(loc.float() * 0, k.float()).log_prob(x.float().unsqueeze(-1))
    np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kappa", [1e-4, 0.3, 5.0, 80.0, 1e4])
@pytest.mark.parametrize("dim", [1, 2, 3, 9])
def test_von_mises_fisher_against_scipy(dim, kappa):
    torch.manual_seed(dim)
    loc = unit(dim + 1)
    x = torch.nn.functional.normalize(loc + kappa**-0.5 * torch.randn(20, dim + 1, dtype=torch.float64), dim=-1)
    expected = scipy.stats.vonmises_fisher(loc.numpy(), kappa).logpdf(x.numpy())
    k = torch.tensor(kappa, dtype=torch.float64)
    np.testing.assert_allclose(D.VonMisesFisher(loc, k).log_prob(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 2, 3, 4, 11, 64])
def test_log_normalizer_against_bessel_functions(dim, dtype):
    nu = 0.5 * (dim - 1)
    kappa = torch.tensor([1e-3, 0.1, 1.0, 10.0, 300.0, 2e4, 1e6], dtype=dtype)
    k = kappa.double().numpy()
    expected = 0.5 * math.log(math.pi) + gammaln(dim / 2)
    with np.errstate(divide="ignore"):
        expected = expected + nu * np.log(2 / k) + np.log(ive(nu, k))
    representable = np.isfinite(expected)  # scipy's I_ν underflows for large ν and small κ
    assert representable.sum() >= 4
    got = log_normalizer(kappa, dim)
    assert got.isfinite().all()
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    np.testing.assert_allclose(got.numpy()[representable], expected[representable], rtol=tolerance, atol=2 * tolerance)
    at_zero = log_normalizer(torch.zeros((), dtype=dtype), dim).item()
    exact = 0.5 * math.log(math.pi) + gammaln(dim / 2) - gammaln((dim + 1) / 2)
    assert at_zero == pytest.approx(exact, abs=1e-13 if dtype == torch.float64 else 5e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 2, 3, 20])
def test_gradient_of_log_normalizer_is_the_mean_cosine(dim, dtype):
    kappa = torch.tensor([1e-2, 0.5, 10.0, 1e3, 1e6], dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(log_normalizer(kappa, dim).sum(), kappa)
    # ∂/∂κ = A(κ) − 1 with A = I_{ν+1}/I_ν: 1 − A loses digits in scipy for large κ, so there by its expansion
    k = kappa.detach().double().numpy()
    nu = 0.5 * (dim - 1)
    expected = ive(nu + 1, k) / ive(nu, k) - 1
    a = 4 * nu**2
    large = -(2 * nu + 1) / (2 * k) + (a - 1) / (8 * k**2) + (a - 1) / (8 * k**3)
    expected = np.where(k > 1e5, large, expected)
    np.testing.assert_allclose(gradient, expected, rtol=1e-10 if dtype == torch.float64 else 5e-6)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("kappa", [0.0, 2.0, 50.0])
def test_von_mises_fisher_integrates_to_one(dim, kappa):
    loc = torch.nn.functional.one_hot(torch.tensor(0), dim + 1).double()
    d = D.VonMisesFisher(loc, torch.tensor(kappa, dtype=torch.float64))
    ring = {1: 2.0, 2: 2 * math.pi, 3: 4 * math.pi}[dim]

    def integrand(theta):
        x = torch.zeros(dim + 1, dtype=torch.float64)
        x[0], x[1] = math.cos(theta), math.sin(theta)
        return d.log_prob(x).exp().item() * ring * math.sin(theta) ** (dim - 1)

    assert quad(integrand, 0, math.pi, epsabs=1e-11, limit=200)[0] == pytest.approx(1, abs=1e-9)


def test_mixture_against_a_sum():
    d = instances(torch.float64)["Mixture"]
    x = torch.randn(9, 3, dtype=torch.float64)
    components = d.component_distribution
    terms = scipy.stats.norm(components.loc.numpy(), components.scale.numpy()).logpdf(x[:, None].numpy()).sum(-1)
    expected = np.log(np.exp(terms) @ scipy.special.softmax(d.logits.numpy()))
    np.testing.assert_allclose(d.log_prob(x), expected, rtol=1e-12)


# ------------------------------------------------------------------------------------------------ samples, by densities


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kappa", [0.0, 0.3, 5.0, 1e3, 1e6])
@pytest.mark.parametrize("dim", [1, 2, 3, 8])
def test_sampled_angles_have_the_distribution_function(dim, kappa, dtype):
    torch.manual_seed(1000 * dim + int(kappa))
    q = sample_tan2(torch.tensor(kappa, dtype=dtype), dim, torch.Size((4000,))).double().numpy()
    assert np.isfinite(q).all() and (q >= 0).all()
    w = q / (1 + q)  # sin²(θ/2) has density ∝ exp(−2κw) (w(1−w))^{d/2−1}
    grid = np.sin(0.5 * np.linspace(0, min(math.pi, 12 * (dim / max(kappa, 1e-9)) ** 0.5), 20001)) ** 2
    theta = 2 * np.arcsin(np.sqrt(grid))
    density = np.exp(-2 * kappa * grid) * np.sin(theta) ** (dim - 1)
    cdf = np.concatenate(([0], np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(theta))))
    assert kstest(2 * np.arcsin(np.sqrt(w)), lambda t: np.interp(t, theta, cdf / cdf[-1])).pvalue > 1e-3


@pytest.mark.parametrize("dim", [1, 3, 8])
def test_inversion_is_exact(dim, monkeypatch):
    """F(θ(u)) = u, with F by adaptive quadrature."""
    u = torch.tensor([1e-6, 0.01, 0.3, 0.77, 0.999], dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *args, **kwargs: u)
    for kappa in (0.0, 1.0, 40.0):
        q = sample_tan2(torch.tensor(kappa, dtype=torch.float64), dim, u.shape)
        theta = 2 * q.sqrt().atan()

        def density(t, kappa=kappa):
            return math.exp(kappa * (math.cos(t) - 1)) * math.sin(t) ** (dim - 1)

        total = quad(density, 0, math.pi, epsabs=0, epsrel=1e-13, limit=500)[0]
        # u counts from the point opposite to the mean
        got = [quad(density, t, math.pi, epsabs=0, epsrel=1e-12, limit=500)[0] / total for t in theta.tolist()]
        np.testing.assert_allclose(got, u, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_gradient_of_sampled_angles(dim):
    """Against central differences of the same random numbers, also at κ = 0 and on both sides of the series."""
    for kappa in (0.0, 1e-6, 3e-3, 0.5, 20.0):

        def draw(k):
            torch.manual_seed(5)
            q = sample_tan2(k, dim, torch.Size((200,)))
            return q / (1 + q)

        k = torch.tensor(kappa, dtype=torch.float64)
        h = 1e-4 * max(kappa, 1.0) if kappa > 1e-3 else 1e-5
        gradient = torch.func.jacrev(draw)(k)
        if kappa > h:
            expected = (draw(k + h) - draw(k - h)) / (2 * h)
        else:
            expected = (-3 * draw(k) + 4 * draw(k + h) - draw(k + 2 * h)) / (2 * h)
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_von_mises_fisher_samples_have_the_mean_and_its_gradient(dim):
    """E x = A(κ) μ; 200 000 samples, within five standard errors; the derivative of A from those of the samples."""
    torch.manual_seed(0)
    loc = unit(dim + 1)
    kappa = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    x = D.VonMisesFisher(loc, kappa).rsample((200_000,))
    torch.testing.assert_close(x.norm(dim=-1), torch.ones(200_000, dtype=torch.float64), rtol=0, atol=1e-14)
    nu = 0.5 * (dim - 1)
    mean = ive(nu + 1, 4.0) / ive(nu, 4.0)
    error = (x.detach().mean(0) - mean * loc).abs() / (x.detach().std(0) / 200_000**0.5)
    assert error.max() < 5

    (gradient,) = torch.autograd.grad((x @ loc).mean(), kappa)
    expected = 1 - mean**2 - dim / 4.0 * mean  # A' = 1 − A² − (d/κ) A
    assert gradient.item() == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_gradient_of_von_mises_fisher_samples_in_the_mean_direction(dim):
    """∂ E⟨c, x⟩ / ∂μ = A(κ) c along the sphere, from 100 000 samples."""
    torch.manual_seed(1)
    loc, c = unit(dim + 1).requires_grad_(), unit(dim + 1)
    x = D.VonMisesFisher(loc, torch.tensor(4.0, dtype=torch.float64)).rsample((100_000,))
    (gradient,) = torch.autograd.grad((x @ c).mean(), loc)
    nu = 0.5 * (dim - 1)
    mean = ive(nu + 1, 4.0) / ive(nu, 4.0)
    loc = loc.detach()
    along = gradient - (gradient @ loc) * loc
    torch.testing.assert_close(along, mean * (c - (c @ loc) * loc), rtol=0, atol=0.015)


@pytest.mark.parametrize("kappa", [0.0, 1.0, 1e5])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_von_mises_fisher_samples_in_float32_are_unit_vectors(dim, kappa):
    x = D.VonMisesFisher(unit(dim + 1, dtype=torch.float32), torch.tensor(kappa)).sample((100_000,))
    assert (x.double().norm(dim=-1) - 1).abs().max() < 1e-6


def test_von_mises_samples():
    torch.manual_seed(0)
    loc = torch.tensor([0.5, 3.0, -2.0], dtype=torch.float64, requires_grad=True)
    kappa = torch.tensor([0.0, 2.0, 300.0], dtype=torch.float64)
    x = D.VonMises(loc, kappa).rsample((5000,))
    assert (x >= -math.pi).all() and (x < math.pi).all()
    assert kstest(x[:, 0].detach().numpy(), scipy.stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3
    for i in (1, 2):
        angle = np.angle(np.exp(1j * (x[:, i] - loc[i]).detach().numpy()))
        assert kstest(angle, scipy.stats.vonmises(kappa[i].item()).cdf).pvalue > 1e-3
    (gradient,) = torch.autograd.grad(x.sum(), loc)
    torch.testing.assert_close(gradient, torch.full((3,), 5000.0, dtype=torch.float64))


@pytest.mark.parametrize("name", ["DiagonalNormal (4,)", "MultivariateNormal (4,)", "BoxUniform (4,)"])
def test_means_and_variances_of_samples(name):
    d = instances(torch.float64)[name]
    torch.manual_seed(0)
    n = 100_000
    x = d.sample((n,))
    assert ((x.mean(0) - d.mean).abs() / (d.variance / n).sqrt()).max() < 5
    fourth = (x - d.mean).pow(4).mean(0)
    assert ((x.var(0) - d.variance).abs() / ((fourth - d.variance**2) / n).sqrt()).max() < 5


def test_multivariate_normal_covariance_and_gradient():
    torch.manual_seed(0)
    tril = torch.tensor([[1.0, 0.0], [0.7, 0.5]], dtype=torch.float64, requires_grad=True)
    x = D.MultivariateNormal(torch.zeros(2, dtype=torch.float64), tril).rsample((200_000,))
    (gradient,) = torch.autograd.grad((x[:, 0] * x[:, 1]).mean(), tril)
    # E x₀x₁ = L₀₀ L₁₀
    expected = torch.tensor([[0.7, 0.0], [1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(gradient.tril(), expected, rtol=0, atol=0.02)


def test_sphere_and_torus_uniform_samples():
    torch.manual_seed(0)
    x = D.SphereUniform(2).sample((5000,)).numpy()
    for i in range(3):  # Archimedes: coordinates are uniform on [−1, 1]
        assert kstest(x[:, i], scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-3
    x = D.TorusUniform(2).sample((5000,)).numpy()
    for i in range(2):
        assert kstest(x[:, i], scipy.stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3


# ------------------------------------------------------------------------------------------------------- toy densities

TOYS = {
    "TwoMoons": (D.TwoMoons(dtype=torch.float64), 3.0),
    "TwoMoons, little noise": (D.TwoMoons(noise=0.05, dtype=torch.float64), 3.0),
    "Rings": (D.Rings(dtype=torch.float64), 4.0),
    "Checkerboard": (D.Checkerboard(dtype=torch.float64), 4.0),
    "EightGaussians": (D.EightGaussians(dtype=torch.float64), 4.0),
}


def cell_masses(d, bound, cells, fine):
    """Mass of each of cells² squares, by the midpoint rule with fine² points in each."""
    n = cells * fine
    mid = (torch.arange(n, dtype=torch.float64) + 0.5) * (2 * bound / n) - bound
    density = torch.stack([d.log_prob(torch.stack((x.expand(n), mid), -1)).exp() for x in mid])
    return density.reshape(cells, fine, cells, fine).sum((1, 3)) * (2 * bound / n) ** 2


@pytest.mark.parametrize("name", TOYS)
def test_toys_integrate_to_one_and_fit_their_samples(name):
    d, bound = TOYS[name]
    masses = cell_masses(d, bound, cells=24, fine=12)
    assert masses.sum().item() == pytest.approx(1, abs=1e-6)

    torch.manual_seed(0)
    n = 20_000
    index = ((d.sample((n,)) + bound) * (24 / (2 * bound))).floor().long()
    assert (index >= 0).all() and (index < 24).all()
    counts = torch.bincount(index[:, 0] * 24 + index[:, 1], minlength=24**2).double()
    expected = n * masses.flatten()
    well_filled = expected >= 5
    assert counts[expected < 1e-9].sum() == 0
    rest = torch.stack((counts[~well_filled].sum(), expected[~well_filled].sum()))
    observed = torch.cat((counts[well_filled], rest[:1]))
    predicted = torch.cat((expected[well_filled], rest[1:]))
    chi2 = ((observed - predicted).square() / predicted.clamp(min=1e-12)).sum().item()
    assert scipy.stats.chi2.sf(chi2, well_filled.sum().item()) > 1e-3


def test_two_moons_are_those_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x, _ = datasets.make_moons(4000, noise=0.1, random_state=0)
    torch.manual_seed(0)
    y = D.TwoMoons(0.1).sample((4000,)).numpy()
    for direction in ([1, 0], [0, 1], [1, 1], [1, -2]):
        assert scipy.stats.ks_2samp(x @ direction, y @ direction).pvalue > 1e-3


@pytest.mark.parametrize("noise", [0.3, 0.1, 0.02])
def test_two_moons_density_against_adaptive_quadrature(noise):
    d = D.TwoMoons(noise)
    torch.manual_seed(0)
    for x in D.TwoMoons(2 * noise, dtype=torch.float64).sample((5,)).tolist():
        total = 0.0
        for sign, shift in ((1, (0.0, 0.0)), (-1, (1.0, 0.5))):

            def integrand(t, sign=sign, shift=shift, x=x):
                dx, dy = x[0] - shift[0] - sign * math.cos(t), x[1] - shift[1] - sign * math.sin(t)
                return math.exp(-(dx * dx + dy * dy) / (2 * noise**2))

            points = np.linspace(0, math.pi, 40)
            parts = [quad(integrand, a, b, epsabs=0, epsrel=1e-12)[0] for a, b in zip(points, points[1:])]
            total += 0.5 / math.pi * sum(parts) / (2 * math.pi * noise**2)
        got = d.log_prob(torch.tensor(x, dtype=torch.float64)).item()
        assert got == pytest.approx(math.log(total), abs=1e-9)
