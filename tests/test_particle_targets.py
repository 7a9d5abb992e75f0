"""Double wells, DW4, Lennard-Jones: energies and forces against stored numbers, partition sums against quadrature."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

from flowgroup import flows
from flowgroup.boltzmann import DW4, DoubleWell, LennardJones, ManyWell
from flowgroup.manifolds import MeanFree

STORED = json.loads((Path(__file__).parent / "data" / "targets.json").read_text())

CASES = [
    (DW4(), "dw4_x", "dw4_E", "dw4_grad"),
    (DW4(*STORED["dw4_params_a"]), "dw4_x", "dw4_E_a", "dw4_grad_a"),
    (LennardJones(13, "once"), "lj13_x", "lj13_E", "lj13_grad"),
    (LennardJones(13, "twice"), "lj13_x", "lj13_E_doubled", "lj13_grad_doubled"),
    (LennardJones(13, "once", oscillator=0), "lj13_x", "lj13_E_pair_only", None),
    (DoubleWell(), "manywell2_x", "manywell2_E", "manywell2_grad"),
    (ManyWell(32), "manywell32_x", "manywell32_E", "manywell32_grad"),
]
TARGETS = [DW4(), LennardJones(13, "once"), LennardJones(55, "twice"), DoubleWell(), ManyWell(32)]


def points(target, n=5, dtype=torch.float64):
    """Some of which no energy is extreme."""
    if isinstance(target, ManyWell):
        return torch.randn(n, target.dim, dtype=dtype)
    count = target.event_shape[0]
    side = math.ceil(count ** (1 / target.event_shape[1]))
    axes = torch.meshgrid(*[torch.arange(side, dtype=dtype)] * target.event_shape[1], indexing="ij")
    lattice = torch.stack(axes, -1).flatten(0, -2)[:count]
    return 1.2 * lattice + 0.05 * torch.randn(n, *target.event_shape, dtype=dtype)


@pytest.mark.parametrize("target, x, energy, gradient", CASES)
def test_energy_and_force_are_the_stored_ones(target, x, energy, gradient):
    x, energy = (torch.tensor(STORED[k], dtype=torch.float64) for k in (x, energy))
    torch.testing.assert_close(target.energy(x), energy, rtol=1e-12, atol=1e-12)
    if gradient is not None:
        u, force = target.force(x)
        gradient = torch.tensor(STORED[gradient], dtype=torch.float64)
        torch.testing.assert_close(-force, gradient, rtol=1e-12, atol=1e-12 * max(1.0, gradient.abs().max().item()))
        torch.testing.assert_close(u, energy, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_single_precision_is_enough(target):
    x = points(target)
    single = target.energy(x.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), target.energy(x.float().double()), rtol=3e-6, atol=1e-4)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_compiles_and_maps_over_batches(target, device):
    target, x = target.to(device), points(target, dtype=torch.float32).to(device)
    expected = target.energy(x)
    compiled = torch.compile(target, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected)
    torch.testing.assert_close(torch.func.vmap(target)(x), expected)
    _, force = target.force(x)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(target))(x), -force)


@pytest.mark.parametrize("target", TARGETS[:3], ids=str)
def test_particles_feel_their_differences_alone(target):
    x = points(target)
    n, d = target.event_shape
    rotation = torch.linalg.qr(torch.randn(d, d, dtype=x.dtype)).Q
    moved = x[:, torch.randperm(n)] @ rotation.mT + torch.randn(d, dtype=x.dtype)
    torch.testing.assert_close(target.energy(moved), target.energy(x), rtol=1e-10, atol=1e-10)
    assert target.support.manifold.dim == (n - 1) * d


def test_particles_on_each_other():
    x = torch.zeros(4, 2, requires_grad=True)
    DW4().energy(x).backward()
    assert x.grad.isfinite().all()
    assert not LennardJones(13, "once").energy(torch.zeros(13, 3)).isfinite()


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: type(t).__name__)
def test_a_position_that_is_nan_has_no_energy(target):
    x = torch.randn(2, *target.event_shape)
    x[0].view(-1)[0] = torch.nan
    assert target._energy(x).isnan().tolist() == [True, False]


def test_dw4_has_the_partition_sum_of_the_quadrature():
    """∫ over the differences to particle 1, times 4^{−2/2} for the volume of the mean-free space."""

    def log_z(beta, h=0.2, half=11.0, steps=80, longest=7.6):
        pair = lambda r: np.exp(-beta * (-4 * (r - 4) ** 2 + 0.9 * (r - 4) ** 4))  # noqa: E731
        n = int(2 * half / h)
        g = (np.arange(n) - n // 2) * h
        x, y = np.meshgrid(g, g, indexing="ij")
        kernel = np.fft.rfft2(np.fft.ifftshift(pair(np.hypot(x, y))))
        total = 0.0
        for r in (np.arange(steps) + 0.5) * (longest / steps):
            f = pair(np.hypot(x - r / 2, y)) * pair(np.hypot(x + r / 2, y))  # of a third particle beside two
            both = (f * np.fft.irfft2(np.fft.rfft2(f) * kernel, s=f.shape)).sum() * h**4
            total += 2 * math.pi * r * pair(r) * both * longest / steps
        return math.log(total) - math.log(4)

    exact = log_z(1.0)
    energy = -(log_z(1.001) - log_z(0.999)) / 0.002
    assert exact == pytest.approx(DW4().log_z, abs=1e-5)
    assert exact + energy == pytest.approx(DW4().entropy, abs=1e-4)


@pytest.mark.parametrize("a, b, c", [(-0.5, -6.0, 1.0), (0.3, -3.0, 0.5)])
def test_partition_sum_of_many_wells(a, b, c):
    target = ManyWell(6, a, b, c)

    def density(u):
        return math.exp(-(a * u + b * u**2 + c * u**4))

    def mass(low, high):
        return scipy.integrate.quad(density, low, high, points=[0.0], limit=500, epsabs=0, epsrel=1e-12)[0]

    whole = mass(-8, 8)
    assert target.log_z == pytest.approx(3 * (math.log(whole) + 0.5 * math.log(2 * math.pi)), rel=1e-11)
    assert target.right_probability == pytest.approx(mass(target.barrier, 8) / whole, abs=1e-9)
    # the wells are minima, the barrier is between them
    for u, sign in ((target.wells[0], 1), (target.barrier, -1), (target.wells[1], 1)):
        assert abs(a + 2 * b * u + 4 * c * u**3) < 1e-9 and sign * (2 * b + 12 * c * u**2) > 0
    assert ManyWell(32).log_z == pytest.approx(STORED["manywell32_logZ"], rel=1e-12)


def test_samples_of_many_wells(dtype):
    target = ManyWell(4)
    x = target.sample((20_000,), dtype=dtype)
    assert x.shape == (20_000, 4) and x.dtype == dtype
    grid = np.linspace(-4, 4, 4001)
    density = np.exp(-(-0.5 * grid - 6 * grid**2 + grid**4))
    cdf = scipy.integrate.cumulative_simpson(density, x=grid, initial=0)
    for column in (0, 2):
        assert scipy.stats.kstest(x[:, column], lambda u: np.interp(u, grid, cdf / cdf[-1])).pvalue > 1e-3
    for column in (1, 3):
        assert scipy.stats.kstest(x[:, column], "norm").pvalue > 1e-3
    right = target.in_right_well(x).double().mean(0)
    assert (right - target.right_probability).abs().max() < 4 * (0.8443 * 0.1557 / 20_000) ** 0.5


def test_density_of_a_mean_free_flow_is_one_of_their_volume():
    """A flow that is N(0, I) on the coordinates is N(0, I) on the (n−1)·d-dimensional space."""
    flow = flows.Flow(flows.MeanFreeChart(3, 2), flows.DiagonalNormal(4))
    x = MeanFree(3, 2).random(7, 3, 2)
    expected = -0.5 * x.square().sum((-2, -1)) - 2 * math.log(2 * math.pi)
    torch.testing.assert_close(flow.log_prob(x), expected)
    with pytest.raises(ValueError, match="MeanFree"):
        flow.log_prob(x + 1)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ManyWell(3), "dim must be even"),
        (lambda: ManyWell(2, b=1.0), "two wells"),
        (lambda: DoubleWell(c=-1.0), "two wells"),
        (lambda: LennardJones(13, "half"), "'once' or 'twice'"),
        (lambda: LennardJones(1, "once"), "at least 2"),
        (lambda: DW4().energy(torch.zeros(3, 2)), "x must have shape"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("d", [2, 3])
def test_density_in_a_frame_does_not_change_with_rotations(d, dtype):
    inner = flows.NSF(4 * d - d * (d - 1) // 2, transforms=2, hidden_features=(16,)).transform
    flow = flows.Flow(flows.InFrame(inner, 5, d), flows.DiagonalNormal(4 * d)).to(dtype)
    x = MeanFree(5, d).random(6, 5, d, dtype=dtype)
    flow(x)
    flow.eval()
    rotation = torch.linalg.qr(torch.randn(40, 1, d, d, dtype=dtype)).Q
    rotation[..., 0] *= torch.linalg.det(rotation).unsqueeze(-1)
    tolerance = 1e-3 if dtype == torch.float32 else 1e-9
    before, after = flow.log_prob(x).expand(40, 6), flow.log_prob(x @ rotation.mT)
    torch.testing.assert_close(after, before, rtol=0, atol=tolerance)
    if d == 2:  # a reflection is another configuration
        assert (flow.log_prob(x * torch.tensor([1, -1], dtype=dtype)) - flow.log_prob(x)).abs().max() > 0.1


def test_frames_along_the_axes_come_back():
    # where an angle is at its end, the score of which would be infinite
    t = flows.InFrame(flows.Elementwise(flows.Affine(), features=3), 3, 3).double()
    for axis in torch.tensor([[0.0, 0, 1], [0, 0, -1], [-1, 0, 0]], dtype=torch.float64):
        x = MeanFree(3, 3).projx(torch.stack([0 * axis, 1.5 * axis, axis.new_tensor([1.0, 0.2, 0.3])]))
        y, logdet = t(x)
        back, back_logdet = t.inverse(y)
        assert y.isfinite().all() and (back - x).abs().max() < 2e-7 and (logdet + back_logdet).abs() < 1e-6


def test_orientations_in_a_frame_are_uniform():
    flow = flows.Flow(flows.InFrame(flows.LULinear(6), 4, 3), flows.DiagonalNormal(9))
    bond = flow.sample((20_000,)).diff(dim=-2)[:, 1]  # of the second and third particle
    axis = torch.nn.functional.normalize(bond, dim=-1)
    for k in range(3):  # heights on a sphere are uniform, whatever the axis
        assert scipy.stats.kstest(axis[:, k], "uniform", (-1, 2)).pvalue > 1e-3


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: flows.InFrame(flows.LULinear(5), 4, 4), "d must be 2 or 3"),
        (lambda: flows.InFrame(flows.LULinear(3), 2, 3), "n at least d"),
        (lambda: flows.InFrame(flows.LULinear(6), 4, 2), "must take vectors"),
    ],
)
def test_frames_that_do_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()
