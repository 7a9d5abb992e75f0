"""Base distributions as modules: they move, save, compile and train."""

import copy
import math
import pickle

import numpy as np
import pytest
import scipy.stats
import torch

from flowgroup import distributions, flows
from flowgroup.manifolds import SPD

BASES = {
    "DiagonalNormal": lambda: flows.DiagonalNormal(3),
    "DiagonalNormal trainable": lambda: flows.DiagonalNormal(3, trainable=True),
    "MultivariateNormal": lambda: flows.MultivariateNormal(3),
    "MultivariateNormal fixed": lambda: flows.MultivariateNormal(3, trainable=False),
    "BoxUniform": lambda: flows.BoxUniform([0.0, -1.0], torch.tensor([1.0, 2.0])),
    "TorusUniform": lambda: flows.TorusUniform(3),
    "SphereUniform": lambda: flows.SphereUniform(2),
    "VonMises": lambda: flows.VonMises(3),
    "VonMises trainable": lambda: flows.VonMises(3, trainable=True),
    "VonMisesFisher": lambda: flows.VonMisesFisher(2),
    "VonMisesFisher trainable": lambda: flows.VonMisesFisher(2, trainable=True),
    "VonMisesFisher S3 trainable": lambda: flows.VonMisesFisher(3, concentration=5.0, trainable=True),
    "MixtureNormal": lambda: flows.MixtureNormal(2, components=4),
    "MixtureVonMisesFisher": lambda: flows.MixtureVonMisesFisher(2, components=4),
    "Mixture fixed": lambda: flows.Mixture(
        flows.Base(torch.distributions.Dirichlet, concentration=torch.rand(4, 3) + 1), trainable=False
    ),
}
names = pytest.mark.parametrize("name", BASES)


def perturbed(base):
    with torch.no_grad():
        for p in base.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return base


@names
def test_shapes(name):
    base = BASES[name]()
    d = base.distribution()
    assert d.batch_shape == () and d.event_shape == base.event_shape
    z = d.sample((5, 2))
    assert z.shape == (5, 2, *base.event_shape)
    assert base.log_prob(z).shape == (5, 2)
    assert base.log_prob(z).isfinite().all()


@pytest.mark.parametrize(
    "make, shown",
    [
        (lambda: flows.VonMises(3, trainable=True), "VonMises, event_shape=(3,), trainable=True"),
        (lambda: flows.TorusUniform(2), "TorusUniform, event_shape=(2,)"),
        (lambda: flows.FreeBodies(2, box=(1.0, 1.0, 1.0)), "FreeBodies, event_shape=(2, 7)"),
        (lambda: flows.WrappedNormal(SPD(2)), "WrappedNormal, event_shape=(2, 2)"),
        (lambda: flows.RotationNormal(), "Even, event_shape=(4,)"),
        (lambda: flows.Product(flows.TorusUniform(1), flows.DiagonalNormal(2)), "Product, event_shape=(3,)"),
    ],
)
def test_reads_like_its_distribution(make, shown):
    base = make()
    assert shown in repr(base) and shown in repr(copy.deepcopy(base))


@names
@pytest.mark.parametrize("copied", ["state_dict", "pickle", "deepcopy"])
def test_copies(name, copied, tmp_path):
    base = perturbed(BASES[name]())
    z = base.distribution().sample((5,))
    if copied == "state_dict":
        torch.save(base.state_dict(), tmp_path / "base.pt")
        other = BASES[name]()
        other.load_state_dict(torch.load(tmp_path / "base.pt", weights_only=True))
    else:
        other = pickle.loads(pickle.dumps(base)) if copied == "pickle" else copy.deepcopy(base)
    assert torch.equal(other.log_prob(z), base.log_prob(z))
    for a, b in zip(base.parameters(), other.parameters()):
        assert a is not b


@names
def test_moves_to_another_dtype_and_device(name, device):
    base = perturbed(BASES[name]()).to(device)
    z = base.distribution().sample((5,))
    assert z.device.type == device.type
    before = base.log_prob(z)
    base.double()
    after = base.log_prob(z.double())
    assert after.dtype == torch.float64
    assert base.distribution().sample((2,)).dtype == torch.float64
    torch.testing.assert_close(before.double(), after, rtol=1e-5, atol=1e-5)


@names
def test_compiles_and_maps(name):
    base = perturbed(BASES[name]())
    z = base.distribution().sample((5,))
    expected = base.log_prob(z)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(base.log_prob, fullgraph=True, backend="eager")(z), expected)
    torch.testing.assert_close(torch.func.vmap(base.log_prob)(z), expected)
    if "Mixture fixed" in name:
        return  # torch's Dirichlet itself does not sample under vmap or as a graph

    def sample(_):
        d = base.distribution()
        return d.rsample((3,)) if d.has_rsample else d.sample((3,))

    assert torch.compile(sample, fullgraph=True, backend="eager")(None).shape == (3, *base.event_shape)
    drawn = torch.func.vmap(sample, randomness="different")(torch.zeros(2))
    assert drawn.shape == (2, 3, *base.event_shape) and not torch.equal(drawn[0], drawn[1])


@names
def test_gradients_reach_every_parameter(name):
    base = perturbed(BASES[name]())
    z = base.distribution().sample((50,))
    parameters = list(base.parameters())
    assert bool(parameters) == base.trainable
    if base.trainable:
        for g in torch.autograd.grad(base.log_prob(z).sum(), parameters):
            assert g.isfinite().all() and (g != 0).any()


def test_parameters_keep_their_constraints():
    torch.manual_seed(0)
    for name in ("DiagonalNormal trainable", "MultivariateNormal", "VonMises trainable", "VonMisesFisher trainable"):
        base = BASES[name]()
        with torch.no_grad():
            for p in base.parameters():
                p.copy_(3 * torch.randn_like(p))
        d = base.distribution()
        for argument, constraint in d.arg_constraints.items():
            assert constraint.check(getattr(d, argument)).all(), (name, argument)


def test_trainable_starts_at_the_values_given():
    torch.manual_seed(0)
    loc = torch.nn.functional.normalize(torch.randn(4), dim=0)
    base = flows.Base(distributions.VonMisesFisher, trainable=True, loc=loc, concentration=torch.tensor(7.0))
    torch.testing.assert_close(base.distribution().loc, loc)
    torch.testing.assert_close(base.distribution().concentration, torch.tensor(7.0))


def test_arguments_are_copied():
    loc = torch.zeros(2)
    base = flows.Base(distributions.DiagonalNormal, loc=loc, scale=torch.ones(2))
    loc.add_(1)
    assert (base.distribution().loc == 0).all()


def fit(base, x, steps, lr):
    optimizer = torch.optim.Adam(base.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = -base.log_prob(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return loss.item()


def test_von_mises_fisher_trains_to_the_maximum_likelihood():
    x = scipy.stats.vonmises_fisher([0.48, -0.6, 0.64], 12.0).rvs(500, random_state=np.random.default_rng(0))
    mean, kappa = scipy.stats.vonmises_fisher.fit(x)
    base = flows.VonMisesFisher(2, trainable=True).double()
    fit(base, torch.from_numpy(x), steps=300, lr=0.1)
    d = base.distribution()
    np.testing.assert_allclose(d.loc.detach(), mean, atol=1e-4)
    assert d.concentration.item() == pytest.approx(kappa, rel=1e-3)


def test_multivariate_normal_trains_to_the_sample_covariance():
    torch.manual_seed(0)
    x = torch.randn(500, 2, dtype=torch.float64) @ torch.tensor([[1.0, 0.8], [0.0, 0.3]], dtype=torch.float64) + 2
    base = flows.MultivariateNormal(2).double()
    fit(base, x, steps=400, lr=0.05)
    d = base.distribution()
    torch.testing.assert_close(d.covariance_matrix.detach(), torch.cov(x.T, correction=0), rtol=0, atol=2e-3)
    torch.testing.assert_close(d.loc.detach(), x.mean(0), rtol=0, atol=2e-3)


def test_mixture_trains_to_the_entropy_of_its_data():
    """Eight Gaussians have an entropy of log 8 + log(2πe·0.2²) = 1.70 nats; one Gaussian stays above 3.5."""
    torch.manual_seed(0)
    x = distributions.EightGaussians().sample((2000,))
    assert fit(flows.MixtureNormal(2, components=24), x, steps=300, lr=0.1) < 1.85


def test_mixtures_in_a_flow():
    flow = flows.Flow(flows.Elementwise(flows.Affine(), features=2), base=flows.MixtureNormal(2, components=3))
    x = flow.sample((7,))
    assert flow.log_prob(x).shape == (7,)
    with pytest.raises(NotImplementedError, match="cannot be sampled by reparametrization"):
        flow.rsample_and_log_prob((7,))


def test_fixed_values_against_closed_forms():
    assert flows.TorusUniform(2).log_prob(torch.zeros(2)).item() == pytest.approx(-2 * math.log(2 * math.pi))
    assert flows.SphereUniform(2).log_prob(torch.eye(3)[0]).item() == pytest.approx(-math.log(4 * math.pi))
    assert flows.VonMises(2, concentration=3.0).log_prob(torch.zeros(2)).item() == pytest.approx(
        2 * scipy.stats.vonmises(3.0).logpdf(0), abs=1e-5
    )
    expected = scipy.stats.vonmises_fisher([1.0, 0.0, 0.0], 3.0).logpdf([0.0, 1.0, 0.0])
    assert flows.VonMisesFisher(2, concentration=3.0).log_prob(torch.eye(3)[1]).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: flows.BoxUniform([1.0], [0.0]), ValueError, "high must be larger than low"),
        (lambda: flows.BoxUniform([0.0], [1.0, 2.0]), ValueError, r"high must have shape \(..., 1\)"),
        (lambda: flows.TorusUniform(0), ValueError, "features must be a positive integer"),
        (lambda: flows.SphereUniform(0), ValueError, "dim must be a positive integer"),
        (lambda: flows.VonMises(2, concentration=-1.0), ValueError, "concentration"),
        (lambda: flows.VonMises(2, concentration=0.0, trainable=True), ValueError, "concentration must start inside"),
        (lambda: flows.VonMisesFisher(0), ValueError, "dim must be a positive integer"),
        (lambda: flows.VonMisesFisher(2, concentration=math.nan), ValueError, "concentration"),
        (lambda: flows.Mixture(flows.DiagonalNormal(2)), ValueError, "components must have one batch dimension"),
        (
            lambda: flows.Base(distributions.DiagonalNormal, loc=torch.zeros(2), scale=-torch.ones(2)),
            ValueError,
            "scale",
        ),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()
