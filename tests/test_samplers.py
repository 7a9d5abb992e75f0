"""Samplers against closed forms and quadrature: moments, detailed balance, partition sums."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from scipy.integrate import quad

from flowgroup import distributions, flows
from flowgroup.boltzmann import (
    DW4,
    HMC,
    DoubleWell,
    Langevin,
    LennardJones,
    ManyWell,
    RigidMoves,
    Target,
    ais,
    mcmc,
    parallel_tempering,
)
from flowgroup.manifolds import RigidBodies, Sphere, Torus

QUIET = {"progress": False}
KERNELS = [HMC(leapfrog=5, step_size=0.3), Langevin(step_size=0.1, steps=5)]


class Gaussian(Target):
    """½xᵀAx."""

    def __init__(self, precision):
        super().__init__()
        self.event_shape = torch.Size(precision.shape[:1])
        self.register_buffer("precision", precision)

    def _energy(self, x):
        return 0.5 * (x * (x @ self.precision)).sum(-1)


class Linear(Target):
    """−κ x₀ on a manifold."""

    def __init__(self, manifold, kappa):
        super().__init__()
        self.support, self.event_shape, self.kappa = manifold.constraint, manifold.event_shape, kappa

    def _energy(self, x):
        return -self.kappa * (x[..., 0] if isinstance(self.support.manifold, Sphere) else x[..., 0].cos())


class Bodies(Target):
    """Bodies on springs around the origin, and −κ(q₀)² for each of their orientations."""

    def __init__(self, n, kappa=3.0):
        super().__init__()
        self.event_shape, self.kappa = torch.Size((n, 7)), kappa
        self.log_unit_volume = n * math.log(2 * math.pi**2)

    def _energy(self, x):
        return (0.5 * x[..., :3].square().sum(-1) - self.kappa * x[..., 3].square()).sum(-1)


class Half(Target):
    """½x² for x > 0, NaN elsewhere."""

    event_shape = torch.Size((1,))

    def _energy(self, x):
        return torch.where(x > 0, 0.5 * x * x, torch.nan).squeeze(-1)


class Detached(Half):
    """½x² that autograd does not see."""

    def _energy(self, x):
        return super()._energy(x.detach())


class Lost(Target):
    """Two rotations in one vector."""

    event_shape, log_unit_volume = torch.Size((8,)), 2 * math.log(2 * math.pi**2)

    def _energy(self, x):
        return x.square().sum(-1)


def error_bars(x):
    """Mean and its standard error over independent chains, of x (steps, chains)."""
    per_chain = x.double().mean(0)
    return per_chain.mean().item(), (per_chain.std() / len(per_chain) ** 0.5).item()


def assert_mean(x, exact, sigmas=4.0, bias=0.0):
    mean, error = error_bars(x)
    assert abs(mean - exact) < sigmas * error + bias, f"{mean} ± {error}, expected {exact}"
    assert error < 0.05 * max(abs(exact), 0.2), f"error bar {error} is too wide to tell"


# ----------------------------------------------------------------------------------------------------- moments


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
def test_moments_of_a_gaussian(kernel, dtype):
    precision = torch.tensor([[2.0, 0.8], [0.8, 1.0]], dtype=dtype)
    covariance = precision.inverse()
    chain = mcmc(Gaussian(precision), torch.zeros(300, 2, dtype=dtype), kernel, steps=200, warmup=50, seed=1, **QUIET)
    assert chain.x.dtype == chain.energy.dtype == dtype
    bias = 0.01 if isinstance(kernel, Langevin) else 0.0
    for i, j in ((0, 0), (0, 1), (1, 1)):
        assert_mean(chain.x[..., i] * chain.x[..., j], covariance[i, j].item(), bias=bias)
    assert_mean(chain.energy, 1.0, bias=bias)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
def test_the_mean_of_particles_stays_at_the_origin(kernel):
    """Particles on springs alone: ½k|x|² on 3(n − 1) dimensions."""
    target = LennardJones(5, "once", oscillator=2.0, epsilon=0.0)
    start = 0.5 * target.manifold.random(200, 5, 3)
    chain = mcmc(target, start, kernel, steps=200, warmup=50, **QUIET)
    assert chain.x.mean(-2).abs().max() < 1e-5
    assert_mean(chain.energy, 6.0, bias=0.06 if isinstance(kernel, Langevin) else 0.0)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
@pytest.mark.parametrize("manifold", [Sphere(2), Sphere(3), Torus(1)], ids=str)
def test_moments_on_manifolds(kernel, manifold):
    kappa, size = 2.0, manifold.event_shape.numel()
    order = size / 2 if isinstance(manifold, Sphere) else 1  # of von Mises–Fisher: E x₀ = I_{n/2}(κ)/I_{n/2−1}(κ)
    exact = scipy.special.ive(order, kappa) / scipy.special.ive(order - 1, kappa)
    start = manifold.random(200, size)
    chain = mcmc(Linear(manifold, kappa), start, kernel, steps=200, warmup=50, **QUIET)
    assert manifold.contains(chain.x).all()
    assert_mean(-chain.energy / kappa, exact, bias=0.01 if isinstance(kernel, Langevin) else 0.0)


def test_scale_is_a_mass():
    """A scale as wide as the distribution makes all directions alike, whatever their widths."""
    width = torch.tensor([0.01, 100.0])
    target = Gaussian((1 / width**2).diag())
    chain = mcmc(target, torch.zeros(200, 2), HMC(6, 0.3, scale=width), steps=100, warmup=20, **QUIET)
    assert_mean(chain.energy, 1.0)
    assert_mean((chain.x[..., 1] / 100).square(), 1.0)


@pytest.mark.parametrize("bodies", [1, 2, 9])
def test_rigid_moves(bodies):
    kappa = 3.0
    # the first component of a uniform unit quaternion has the density √(1 − w²)
    mass = [quad(lambda w, k=k: w**k * math.sqrt(1 - w * w) * math.exp(kappa * w * w), -1, 1)[0] for k in (0, 2)]
    target = Bodies(3, kappa)
    start = torch.cat([torch.randn(150, 3, 3), Sphere(3).random(150, 3, 4)], -1)
    chain = mcmc(target, start, RigidMoves(0.8, 0.8, bodies), steps=600, warmup=100, **QUIET)
    assert Sphere(3).contains(chain.x[..., 3:]).all()
    assert_mean(chain.x[..., 3].square().mean(-1), mass[1] / mass[0])
    assert_mean(chain.x[..., :3].square().mean((-2, -1)), 1.0)
    assert abs(chain.acceptance.mean() - 0.4) < 0.1
    moved = (chain.x[1:] != chain.x[:-1]).any(-1).sum(-1)
    assert set(moved.unique().tolist()) == {0, min(bodies, 3)}


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
def test_rotations_are_known_by_their_volume(kernel):
    """A target whose support is all numbers, but whose unit of volume is that of rotations."""
    kappa = 3.0
    mass = [quad(lambda w, k=k: w**k * math.sqrt(1 - w * w) * math.exp(kappa * w * w), -1, 1)[0] for k in (0, 2)]
    start = torch.cat([torch.randn(150, 2, 3), Sphere(3).random(150, 2, 4)], -1)
    chain = mcmc(Bodies(2, kappa), start, kernel, steps=200, warmup=50, **QUIET)
    assert Sphere(3).contains(chain.x[..., 3:]).all()
    bias = 0.015 if isinstance(kernel, Langevin) else 0.0
    assert_mean(chain.x[..., 3].square().mean(-1), mass[1] / mass[0], bias=bias)
    assert_mean(chain.x[..., :3].square().mean((-2, -1)), 1.0, bias=bias)


def test_rigid_moves_stay_in_the_box():
    class Free(Bodies):
        def _energy(self, x):
            return torch.zeros_like(x[..., 0, 0])

    box = (1.0, 2.0, 3.0)
    start = torch.cat([torch.rand(100, 2, 3), Sphere(3).random(100, 2, 4)], -1)
    chain = mcmc(Free(2), start, RigidMoves(0.6, 0.3, 2, box), steps=100, **QUIET)
    position = chain.x[..., :3] / torch.tensor(box)
    assert (position >= -0.5).all() and (position < 0.5).all() and (chain.acceptance == 1).all()
    torch.testing.assert_close(RigidBodies(2, box).projx(chain.x), chain.x)
    assert scipy.stats.kstest(position[-1, :, 0, 1], "uniform", args=(-0.5, 1.0)).pvalue > 1e-3
    q = chain.x[..., 0, 3:]
    turn = 2 * (q[1:] * q[:-1]).sum(-1).abs().clamp(max=1).acos()
    assert turn.square().mean().sqrt().item() == pytest.approx(0.3 * 3**0.5, rel=0.02)


# ---------------------------------------------------------------------------------------------- detailed balance


@pytest.mark.parametrize(
    "kernel", [HMC(3, 0.25, jitter=0.0), HMC(4, 0.4, scale=torch.tensor([0.6, 1.0]))], ids=["plain", "scaled"]
)
def test_detailed_balance(kernel):
    """From equilibrium, a step goes from cell i to cell j as often as back, and leaves the cells as full."""
    target = DoubleWell()
    before = target.sample((60_000,))
    after = mcmc(target, before, kernel, steps=1, **QUIET)
    assert 0.2 < after.acceptance.mean() < 0.95  # so that rejection matters
    edges = torch.tensor([-1.7, -1.2, 0.0, 1.2, 1.6, 1.9])
    i, j = torch.bucketize(before[:, 0].contiguous(), edges), torch.bucketize(after.x[0, :, 0].contiguous(), edges)
    flux = torch.zeros(7, 7).index_put_((i, j), torch.ones(()), accumulate=True)
    sigmas = (flux - flux.T) / (flux + flux.T).clamp(min=1).sqrt()
    assert sigmas.abs().max() < 4
    assert (flux.triu(1) > 50).sum() > 5  # there is traffic


@pytest.mark.parametrize("kernel", [HMC(5, 0.15), Langevin(0.05, steps=5)], ids=["HMC", "Langevin"])
def test_energy_histogram(kernel):
    """From equilibrium on, energies are distributed as quadrature says."""
    target = DoubleWell()
    chain = mcmc(target, target.sample((600,)), kernel, steps=150, warmup=50, thin=5, **QUIET)
    u = np.linspace(-4, 4, 8001)
    w = -0.5 * u - 6 * u**2 + u**4
    weight = np.exp(-w - target.log_z + 0.5 * math.log(2 * math.pi)) * (u[1] - u[0])
    for threshold in (-10.0, -9.0, -7.5, -6.0):
        inside = 2 * scipy.stats.norm.cdf(np.sqrt(2 * np.clip(threshold - w, 0, None))) - 1  # of v, given u
        assert_mean((chain.energy < threshold).double(), (weight * inside).sum(), bias=0.005)


def test_parallel_tempering_finds_the_other_well():
    target = ManyWell(4)
    start = torch.tensor([1.7, 0.0]).repeat(2).expand(1, 200, 4)
    betas = [1.0, 0.6, 0.35, 0.2, 0.1]
    chain = parallel_tempering(target, start, betas, HMC(5, 0.1), steps=700, warmup=200, thin=5, **QUIET)
    assert chain.x.shape == (140, 5, 200, 4) and chain.energy.shape == (140, 5, 200)
    assert chain.step_size.shape == (5,) and (chain.step_size[1:] > chain.step_size[:-1]).all()
    assert chain.swaps.shape == (4,) and (chain.swaps > 0.2).all() and (chain.swaps < 1).all()
    torch.testing.assert_close(target.energy(chain.x), chain.energy)
    assert_mean(target.in_right_well(chain.x[:, 0]).double().mean(-1), target.right_probability)
    # every level is at its own temperature: v is N(0, 1/β)
    for level, beta in enumerate(betas):
        assert_mean(chain.x[:, level, :, 1].square(), 1 / beta)


def test_parallel_tempering_with_rigid_moves():
    kappa = 9.0
    mass = [quad(lambda w, k=k: w**k * math.sqrt(1 - w * w) * math.exp(kappa * w * w), -1, 1)[0] for k in (0, 2)]
    start = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]).expand(1, 200, 1, 7)
    kernel = RigidMoves(0.8, 0.8)
    chain = parallel_tempering(Bodies(1, kappa), start, [1.0, 0.4, 0.1], kernel, steps=400, warmup=100, **QUIET)
    assert_mean(chain.x[:, 0, :, 0, 3].square(), mass[1] / mass[0])
    # q and −q are as likely, but are found only over the barrier
    assert_mean((chain.x[200:, 0, :, 0, 3] > 0).double(), 0.5, bias=0.02)


def test_exchange_of_velocities_on_a_manifold():
    # velocities that stay behind are not tangent to the configuration that comes
    kappa, betas = 3.0, [1.0, 0.5, 0.25]
    kernel = Langevin(step_size=0.1, friction=0.1, steps=1)
    start = Sphere(3).random(1, 300, 4)
    chain = parallel_tempering(Linear(Sphere(3), kappa), start, betas, kernel, steps=600, warmup=50, **QUIET)
    for level, beta in enumerate(betas):  # ⟨x₀⟩ of e^{κx₀} on S³
        exact = scipy.special.iv(2, beta * kappa) / scipy.special.iv(1, beta * kappa)
        assert_mean(chain.x[:, level, :, 0], exact, bias=0.005)


# -------------------------------------------------------------------------------------------------- settings


def test_warmup_reaches_the_acceptance():
    for start in (0.01, 3.0):
        chain = mcmc(DoubleWell(), DoubleWell().sample((100,)), HMC(5, start), steps=100, warmup=200, **QUIET)
        assert abs(chain.acceptance.mean() - 0.8) < 0.05


def test_steps_do_not_grow_without_end():
    class Free(Bodies):
        def _energy(self, x):
            return torch.zeros_like(x[..., 0, 0])

    start = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]).expand(100, 1, 7)
    kernel = RigidMoves(0.1, 0.1, box=(1.0, 1.0, 1.0))
    chain = mcmc(Free(1), start, kernel, steps=50, warmup=1000, **QUIET)
    # with steps as wide as they are taken, positions would be multiples of some part of the box
    positions = chain.x[..., :3].flatten()
    assert chain.step_size <= 1000 and len(positions.unique()) > 0.95 * len(positions)
    assert scipy.stats.kstest(positions[::3], "uniform", args=(-0.5, 1.0)).pvalue > 1e-3


def test_far_away_chains_get_going():
    target = DW4()
    chain = mcmc(target, 3 * target.manifold.random(100, 4, 2), HMC(10), steps=50, warmup=200, **QUIET)
    assert (chain.acceptance > 0.4).all()
    assert chain.energy[-1].max() < 0


def test_seeds():
    target, x = DoubleWell(), torch.zeros(5, 2)
    state = torch.get_rng_state()
    a, b, c = (mcmc(target, x, steps=20, seed=s, **QUIET).x for s in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(state, torch.get_rng_state())


def test_bad_energies_are_rejected_and_counted():
    for kernel in (HMC(3, 0.5), HMC(3, 0.5, target_acceptance=None)):
        chain = mcmc(Half(), torch.ones(400, 1), kernel, steps=300, warmup=50, **QUIET)
        assert (chain.x > 0).all() and chain.energy.isfinite().all()
        assert chain.bad > 0 and f"{chain.bad} bad" in repr(chain)
        assert_mean(chain.x[..., 0], math.sqrt(2 / math.pi))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: mcmc(Half(), torch.tensor([[1.0], [-1.0]]), **QUIET), ValueError, "1 of 2 have not"),
        (lambda: mcmc(Half(), torch.ones(3, 2), **QUIET), ValueError, "x must have shape"),
        (lambda: mcmc(Half(), torch.ones(0, 1), **QUIET), ValueError, "at least one chain"),
        (lambda: mcmc(torch.nn.Linear(1, 1), torch.ones(3, 1), **QUIET), TypeError, "target must be"),
        (lambda: mcmc(Half(), torch.ones(3, 1), steps=0, **QUIET), ValueError, "steps must be a positive integer"),
        (lambda: mcmc(Half(), torch.ones(3, 1), steps=3, thin=5, **QUIET), ValueError, "thin must be at most"),
        (lambda: mcmc(Half(), torch.ones(3, 1), warmup=-1, **QUIET), ValueError, "warmup must be"),
        (lambda: mcmc(Half(), torch.ones(3, 1), beta=0.0, **QUIET), ValueError, "beta must be positive"),
        (lambda: mcmc(Half(), torch.ones(3, 1), RigidMoves(), steps=2, **QUIET), ValueError, "rigid bodies"),
        (lambda: mcmc(Lost(), torch.ones(3, 8), steps=2, **QUIET), ValueError, "has rotations"),
        (lambda: mcmc(Half(), [[1.0], [2.0]], **QUIET), TypeError, "x must be a torch.Tensor, got list"),
        (lambda: mcmc(Half(), torch.ones(3, 1), HMC, **QUIET), TypeError, r"as in kernel=HMC\(…\), got the class"),
        (lambda: mcmc(Half(), torch.ones(3, 1), 0.1, **QUIET), TypeError, "kernel must be HMC.* got float"),
        (lambda: mcmc(Detached(), torch.ones(3, 1), steps=2, **QUIET), ValueError, "they have no gradient"),
        (lambda: parallel_tempering(Half(), [[[1.0]]], [1.0, 0.5], **QUIET), TypeError, "x must be a torch.Tensor"),
        (lambda: parallel_tempering(Half(), torch.ones(1, 3, 1), [1.0, -0.5], **QUIET), ValueError, "beta must be"),
        (lambda: parallel_tempering(Half(), torch.ones(1, 3, 1), [1.0], **QUIET), ValueError, "at least two"),
        (lambda: parallel_tempering(Half(), torch.ones(3, 1), [1.0, 0.5], **QUIET), ValueError, "2 or 1, "),
        (lambda: ais(torch.nn.Linear(1, 1), flows.DiagonalNormal(1), (3,)), TypeError, "target must be"),
        (lambda: ais(Half(), flows.DiagonalNormal(1), 16), TypeError, r"such as \(16,\), got 16"),
        (lambda: ais(Half(), flows.DiagonalNormal(1), (3,), kernel=HMC), TypeError, "got the class"),
        (lambda: ais(Half(), flows.DiagonalNormal(1), (3,), levels=-1), ValueError, "levels must be"),
        (lambda: ais(Half(), flows.DiagonalNormal(1), (3,), alpha=0.0), ValueError, "alpha must be"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ------------------------------------------------------------------------------------------------------- annealing


def log_mean(log_w):
    """log of the mean weight, and its standard error."""
    w = (log_w.double() - log_w.max()).exp()
    return (log_w.max() + w.mean().log()).item(), (w.std() / w.mean() / len(w) ** 0.5).item()


def test_annealing_gives_the_partition_sum_of_many_wells():
    target = ManyWell(6)
    base = distributions.DiagonalNormal(torch.zeros(6), torch.tensor([1.7, 1.0]).repeat(3))
    x, log_w = ais(target, base, (4000,), levels=15, kernel=HMC(5, 0.15))
    log_z, error = log_mean(log_w)
    assert error < 0.1 and abs(log_z - target.log_z) < 4 * error
    w = log_w.softmax(0).double()
    right = (w[:, None] * target.in_right_well(x)).sum(0)
    assert (right - target.right_probability).abs().max() < 0.05


def test_annealing_gives_the_partition_sum_of_dw4():
    """Of a mean-free space, from a flow there."""
    target = DW4()
    wide = flows.Elementwise(flows.Affine(max_log_scale=1e6), 6)
    flow = flows.Flow(flows.Sequential(flows.MeanFreeChart(4, 2), wide), flows.DiagonalNormal(6))
    with torch.no_grad():
        wide.params.copy_(torch.tensor([0.0, -math.log(2.5)]).expand_as(wide.params))
    assert flow.sample((1000,)).square().mean().item() == pytest.approx(6 / 8 * 2.5**2, rel=0.1)
    x, log_w = ais(target, flow, (3000,), levels=50, kernel=HMC(4, 0.12))
    log_z, error = log_mean(log_w)
    assert error < 0.1 and abs(log_z - DW4().log_z) < 4 * error
    assert x.mean(-2).abs().max() < 1e-5


@pytest.mark.parametrize("levels", [0, 6])
def test_annealing_to_the_variance_of_weights(levels):
    """alpha = 2 aims at p²/q: of p = 2·N(m, 1) and q = N(0, 1) that is 4·exp(m²)·N(2m, 1)."""

    class Shifted(Target):
        event_shape, log_unit_volume = torch.Size((1,)), 0.7

        def _energy(self, x):
            return 0.5 * (x - 0.5).square().sum(-1) + 0.5 * math.log(2 * math.pi) - math.log(2) - 0.7

    base = distributions.DiagonalNormal(torch.zeros(1), torch.ones(1))
    x, log_w = ais(Shifted(), base, (20_000,), levels=levels, alpha=2.0, kernel=HMC(4, 0.4))
    log_sum, error = log_mean(log_w)
    assert abs(log_sum - (2 * math.log(2) + 0.25)) < 4 * error
    w = log_w.softmax(0)
    assert (w * x[:, 0]).sum().item() == pytest.approx(1.0, abs=0.05)
    if levels == 0:
        log_p = torch.distributions.Normal(0.5, 1.0).log_prob(x[:, 0]) + math.log(2)
        torch.testing.assert_close(log_w, 2 * (log_p - base.log_prob(x)))
    else:  # where the chains went is nearer to p²/q than where they started
        assert x.mean() > 0.3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_annealing_gives_bad_energies_no_weight(value):
    class Broken(Target):
        event_shape = torch.Size((1,))

        def _energy(self, x):
            return torch.where(x[:, 0] > 0.5, value, 0.5 * x.square().sum(-1))

    base = distributions.DiagonalNormal(torch.zeros(1), torch.ones(1))
    for levels in (0, 2):
        x, log_w = ais(Broken(), base, (200,), levels=levels)
        assert not log_w.isnan().any() and (log_w < torch.inf).all()
        assert log_w[x[:, 0] > 0.5].isneginf().all() and log_w.isfinite().any()


def test_annealing_weighs_bad_energies_as_nothing():
    base = distributions.DiagonalNormal(torch.zeros(1), torch.ones(1))
    for levels in (0, 3):
        _, log_w = ais(Half(), base, (4000,), levels=levels, kernel=HMC(3, 0.3))
        assert not log_w.isnan().any() and (log_w == -math.inf).double().mean().item() == pytest.approx(0.5, abs=0.04)
        log_z, error = log_mean(log_w)
        assert abs(log_z - 0.5 * math.log(math.pi / 2)) < 4 * error + 0.01


def test_trajectories_that_run_away_are_rejected_where_values_are_looked_at():
    """Targets on manifolds, and flows, refuse NaN: a diverging trajectory must not end the run."""
    start = Sphere(3).random(50, 4)
    chain = mcmc(Linear(Sphere(3), 3.0), start, HMC(5, 1e20, target_acceptance=None), steps=3, **QUIET)
    assert chain.bad == 150 and torch.equal(chain.x[-1], start)
    flow = flows.NSF(2, transforms=1)
    _, log_w = ais(DoubleWell(), flow, (64,), levels=2, kernel=HMC(5, 1e6))
    assert log_w.isfinite().all()


def test_annealing_tunes_its_kernel():
    base = distributions.DiagonalNormal(torch.zeros(2), 2 * torch.ones(2))
    for start in (0.02, 1.0):
        kernel = HMC(5, start)
        for _ in range(40):
            ais(DoubleWell(), base, (50,), levels=1, kernel=kernel)
        assert 0.05 < kernel.step_size < 0.5
