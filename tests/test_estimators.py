"""Estimators on distributions of which the answer is known: normal ones, ideal gases, lattices."""

import builtins
import logging
import math
import sys

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from flowgroup.boltzmann import (
    Estimate,
    bar,
    bootstrap,
    effective_sample_size,
    free_energy_perturbation,
    histogram_overlap,
    log_z,
    mbar,
    mode_weights,
    radial_distribution,
)


def gaussian_log_w(x, mean_p, mean_q):
    """log p/q of two normal distributions of unit variance."""
    return 0.5 * ((x - mean_q) ** 2 - (x - mean_p) ** 2)


def test_both_effective_sample_sizes_tend_to_that_of_shifted_normals():
    # E_q[(p/q)²] = e^{d²} for a shift by d
    d, n = 0.7, 400_000
    x = torch.randn(n, dtype=torch.float64)
    exact = math.exp(-(d**2))
    forward = effective_sample_size(gaussian_log_w(x, d, 0.0) + 5.0)
    reverse = effective_sample_size(gaussian_log_w(x + d, d, 0.0) - 3.0, of="target")
    assert abs(forward - exact) < 0.01 and abs(reverse - exact) < 0.01


def test_effective_sample_size_of_few_weights():
    w = torch.tensor([[1.0, 2.0, 4.0, 0.0], [3.0, 3.0, 3.0, 3.0]], dtype=torch.float64)
    torch.testing.assert_close(effective_sample_size(w.log()), torch.tensor([49 / 21 / 4, 1.0], dtype=torch.float64))
    for of in ("flow", "target"):
        assert effective_sample_size(torch.full((5,), -torch.inf), of) == 0  # no weight at all
    harmonic = 3 / (1 + 1 / 2 + 1 / 4) / (7 / 3)
    assert effective_sample_size(w[0, :3].log(), of="target").item() == pytest.approx(harmonic, rel=1e-12)
    large = torch.tensor([-1e6, -1e6 + math.log(2.0)])  # energies of large systems, in float32
    assert effective_sample_size(large).item() == pytest.approx(0.9, rel=1e-2)
    assert effective_sample_size(large, of="target").item() == pytest.approx(8 / 9, rel=1e-2)
    with pytest.raises(ValueError, match="'flow' or 'target'"):
        effective_sample_size(w, of="data")
    with pytest.raises(ValueError, match="at least one"):
        effective_sample_size(torch.tensor(1.0))


def test_only_samples_of_the_target_see_a_missed_mode():
    # the flow covers one of two modes: weights of its own samples are all the same
    flow_side, target_side = torch.zeros(1000), torch.cat((torch.zeros(500), torch.full((500,), 50.0)))
    assert effective_sample_size(flow_side).item() == pytest.approx(1.0)
    assert effective_sample_size(target_side, of="target") < 1e-9


def test_log_z_and_its_error():
    # log w normal of spread s: log mean w has mean s²/2 and spread √((e^{s²} − 1)/n)
    s, n, values = 0.5, 2000, []
    for seed in range(40):
        log_w = s * torch.randn(n, generator=torch.Generator().manual_seed(seed))
        values.append(log_z(log_w, resamples=100, seed=seed))
    exact_error = math.sqrt((math.exp(s**2) - 1) / n)
    numbers, errors = np.array(values).T
    assert abs(numbers.mean() - s**2 / 2) < 3 * exact_error / math.sqrt(40)
    assert abs(numbers.std(ddof=1) / exact_error - 1) < 0.35 and abs(errors.mean() / exact_error - 1) < 0.1
    found = free_energy_perturbation(1.0 - log_w)
    assert found.value == pytest.approx(1.0 - values[-1].value, abs=1e-6) and found.error > 0
    assert log_z(torch.tensor([-torch.inf, math.log(4.0)])).value == pytest.approx(math.log(2.0))
    # no spread to be seen, which is not none: one sample, and resamples without any weight
    for few in (torch.zeros(1), torch.tensor([-torch.inf, 0.0]), torch.full((3,), -torch.inf)):
        assert log_z(few).error == math.inf


def test_bootstrap_of_two_samples():
    x, y = torch.randn(500, dtype=torch.float64), 2 * torch.randn(2000, dtype=torch.float64)
    draws = bootstrap(lambda a, b: torch.stack((a.mean() - b.mean(), a.mean())), x, y, resamples=2000)
    expected = torch.stack(((x.var() / 500 + y.var() / 2000).sqrt(), (x.var() / 500).sqrt()))
    torch.testing.assert_close(draws.std(0), expected, rtol=0.06, atol=0)
    state = torch.get_rng_state()
    assert torch.equal(bootstrap(torch.mean, x, seed=3), bootstrap(torch.mean, x, seed=3))
    assert torch.equal(state, torch.get_rng_state())


def test_bar_on_gaussian_work():
    # works of both directions that obey Crooks: N(ΔF + σ²/2, σ²) and N(−ΔF + σ²/2, σ²)
    delta, sigma, n = 2.0, 1.5, 4000
    forward = delta + sigma**2 / 2 + sigma * torch.randn(n)
    backward = -delta + sigma**2 / 2 + sigma * torch.randn(n)
    result = bar(forward, backward)
    assert abs(result.value - delta) < 4 * result.error
    # Bennett's variance for equal numbers: (1/⟨f(1−f)⟩ − 4)/2n, f the Fermi function of w − ΔF, by quadrature
    overlap, _ = integrate.quad(lambda w: stats.norm.pdf(w, sigma**2 / 2, sigma) * (1 / (1 + math.exp(w))), -12, 14)
    assert result.error == pytest.approx(math.sqrt((1 / overlap - 2) / n), rel=0.05)


def test_bar_is_that_of_pymbar():
    pymbar = pytest.importorskip("pymbar")
    for n0, n1, sigma, delta in ((1000, 1000, 1.5, 2.0), (2000, 200, 3.0, -670.0), (200, 800, 0.3, 40.0)):
        forward = delta + sigma**2 / 2 + sigma * torch.randn(n0, dtype=torch.float64)
        backward = -delta + sigma**2 / 2 + sigma * torch.randn(n1, dtype=torch.float64)
        ours, other = bar(forward, backward), pymbar.bar(forward.numpy(), backward.numpy(), relative_tolerance=1e-12)
        assert ours.value == pytest.approx(other["Delta_f"], abs=1e-6)
        assert ours.error == pytest.approx(other["dDelta_f"], rel=5e-3)


def test_bar_with_works_that_are_large_or_infinite():
    # from the interval [0, 1] to [0, ½], whose wall half of the samples hit: ΔF = log 2
    n, results = 1000, []
    for height in (1e3, 1e30, math.inf):
        results.append(bar(torch.tensor([0.0, height]).repeat(n // 2), torch.zeros(n)))
    assert results[0] == results[1] == results[2] and abs(results[0].value - math.log(2)) < 1e-12
    # half of the forward acceptances are zero, the others alike: relative variance 1/(n − 1)
    assert results[0].error == pytest.approx(math.sqrt(1 / (n - 1)), rel=1e-9)
    assert bar(torch.ones(1), torch.zeros(5)).error == math.inf
    nothing = bar(torch.full((3,), math.inf), torch.zeros(3))
    assert math.isnan(nothing.value) and nothing.error == math.inf


def test_mbar_on_harmonic_wells():
    k, n = torch.tensor([1.0, 2.0, 5.0]), (500, 1000, 1500)
    x = torch.randn(sum(n)) / k.repeat_interleave(torch.tensor(n)).sqrt()
    F, error = mbar(0.5 * k[:, None] * x**2, n)
    exact = 0.5 * k.double().log()
    assert F[0] == 0 and error[0] == 0 and F.dtype == torch.float64
    assert ((F - exact).abs()[1:] < 4 * error[1:]).all() and (error[1:] < 0.05).all()
    with pytest.raises(ValueError, match="counts"):
        mbar(0.5 * k[:, None] * x**2, (500, 1000, 1000))


def test_pymbar_keeps_quiet_and_its_absence_names_the_extra(monkeypatch, caplog, capfd):
    for name in [n for n in sys.modules if n.split(".")[0] == "pymbar"]:
        monkeypatch.delitem(sys.modules, name)
    mbar(torch.randn(2, 50), (20, 30))
    assert "pymbar" in sys.modules and not caplog.records and capfd.readouterr() == ("", "")
    assert logging.getLogger("pymbar").level == logging.NOTSET

    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.split(".")[0] == "pymbar":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"flowgroup\[boltzmann\]"):
        mbar(torch.randn(2, 5), (2, 3))
    assert math.isfinite(bar(torch.randn(5), torch.randn(5)).value)  # does without


def test_mode_weights_and_their_errors():
    p = torch.tensor([0.5, 0.3, 0.2])
    mode = torch.distributions.Categorical(p).sample((20_000,))
    found, error = mode_weights(mode, 4)
    torch.testing.assert_close(error[:3], (p * (1 - p) / 20_000).sqrt(), rtol=0.05, atol=0)
    assert found[3] == 0 and error[3] == 0 and ((found[:3] - p).abs() < 4 * error[:3]).all()
    # drawn evenly and weighted to p
    mode = torch.randint(3, (20_000,))
    found, error = mode_weights(mode, 3, p[mode].log() + 7.0)
    assert ((found - p).abs() < 4 * error).all() and (error > 0).all()
    # one sample with all the weight tells nothing of the spread
    for mode, log_w in ((torch.tensor([1]), None), (torch.tensor([1, 2]), torch.tensor([0.0, -torch.inf]))):
        found, error = mode_weights(mode, 3, log_w)
        assert found.tolist() == [0, 1, 0] and (error == torch.inf).all()


def test_histogram_overlap_of_shifted_uniforms():
    a = torch.linspace(0, 1, 30_001)
    assert histogram_overlap(a, a + 0.25, bins=50) == pytest.approx(0.75, abs=2e-3)
    assert histogram_overlap(a, a + 3) == pytest.approx(0.0, abs=1e-3)
    # weights that make the one the other
    x = torch.rand(200_000)
    assert histogram_overlap(x, x.sqrt(), log_w_a=(2 * x).log(), bins=20) > 0.99
    assert histogram_overlap(x, x.sqrt(), bins=20) == pytest.approx(0.75, abs=0.02)
    with_bad = torch.cat((a, torch.tensor([torch.nan, torch.inf])))
    assert histogram_overlap(with_bad, a) == pytest.approx(1.0, abs=1e-3)
    assert histogram_overlap(torch.tensor([torch.nan]), torch.tensor([torch.inf])) == 0
    # one energy of atoms on each other, with its weight or without, does not make all the others one bin
    u, log_w = torch.cat((a, torch.tensor([1e9]))), torch.cat((torch.zeros_like(a), torch.tensor([-1e9])))
    for weights in (None, log_w):
        assert histogram_overlap(u, a + 0.25, weights, bins=50) == pytest.approx(0.75, abs=5e-3)
        assert histogram_overlap(a + 0.25, u, None, weights, bins=50) == pytest.approx(0.75, abs=5e-3)


@pytest.mark.parametrize("d", [2, 3])
def test_radial_distribution_of_an_ideal_gas_and_of_a_lattice(d):
    box = torch.tensor([1.0, 1.5, 2.0])[:d]
    x = torch.rand(300, 40, d) * box
    r, g = radial_distribution(x, box, bins=10)
    pairs = 300 * 40 * 39 / 2
    shells = (math.pi if d == 2 else 4 * math.pi / 3) * np.diff(np.linspace(0, 0.5, 11) ** d)
    error = torch.from_numpy(1 / np.sqrt(pairs * shells / box.prod().item())).float()
    assert ((g - 1).abs() < 4 * error).all() and r[0] == pytest.approx(0.025)

    # cubes of edge 4 with one point in each unit cell: 2d neighbours at distance 1, moved by whole boxes
    cells = torch.cartesian_prod(*[torch.arange(4.0)] * d) + 4 * torch.randint(-2, 3, (1, 4**d, d))
    r, g = radial_distribution(cells.expand(2, -1, -1), (4.0,) * d, r_max=1.3, bins=13)
    peak = g * (0.1 * 2 * math.pi * r if d == 2 else 4 * math.pi * (r**2 * 0.1 + 0.1**3 / 12))
    neighbours = (peak * (4**d - 1) / 4**d).tolist()
    at_one = [i for i, v in enumerate(neighbours) if v > 1e-9]
    assert at_one == [10] or at_one == [9]
    assert sum(neighbours) == pytest.approx(2 * d, rel=1e-5)


def test_radial_distribution_of_two_species_and_of_weighted_frames():
    near, far = torch.zeros(1, 1, 3), torch.tensor([[[0.9, 0.0, 0.0]]])  # 0.1 through the wall
    _, g = radial_distribution(near, (1.0, 1.0, 1.0), far, bins=5)
    assert (g > 0).tolist() == [False, True, False, False, False]
    assert g[1].item() == pytest.approx(1 / (4 * math.pi / 3 * (0.2**3 - 0.1**3)), rel=1e-5)
    frames = torch.cat((torch.tensor([[[0.0, 0, 0], [0.05, 0, 0]]]), torch.tensor([[[0.0, 0, 0], [0.35, 0, 0]]])))
    _, g = radial_distribution(frames, (1.0, 1.0, 1.0), bins=5, log_w=torch.tensor([3.0, 1.0]).log())
    _, each = radial_distribution(frames[:1], (1.0, 1.0, 1.0), bins=5)
    assert g[0].item() == pytest.approx(0.75 * each[0].item(), rel=1e-5) and g[3] > 0
    with pytest.raises(ValueError, match="r_max"):
        radial_distribution(frames, (1.0, 1.0, 1.0), r_max=0.6)
    with pytest.raises(ValueError, match="frames, n, d"):
        radial_distribution(frames[0], (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="as many frames"):
        radial_distribution(frames, (1.0, 1.0, 1.0), near)
    with pytest.raises(ValueError, match="a pair"):
        radial_distribution(frames[:, :1], (1.0, 1.0, 1.0))


def test_estimates_print_two_digits_of_their_error():
    assert str(Estimate(-669.7112, 0.0541)) == "-669.711 ± 0.054"
    assert str(Estimate(12345.6, 120.0)) == "12346 ± 120"
    assert str(Estimate(2.0, 0.0)) == "2.0000 ± 0.0000"
    assert str(Estimate(1.0, math.nan)) == "1.0000 ± nan"


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="log_w must be a tensor of shape"):
        log_z(torch.zeros(3, 2))


@pytest.mark.parametrize("log_w", [torch.zeros(2), torch.zeros(5), torch.zeros(3, 1)], ids=lambda w: str(len(w)))
def test_weights_are_one_for_each_sample(log_w):
    x = torch.rand(3, 4, 3)
    for estimate in (
        lambda: radial_distribution(x, (1.0, 1.0, 1.0), log_w=log_w),
        lambda: mode_weights(torch.zeros(3, dtype=torch.long), 1, log_w),
        lambda: histogram_overlap(x[:, 0, 0], x[:, 0, 0], log_w_b=log_w),
    ):
        with pytest.raises(ValueError, match=r"^log_w\w* must be a tensor of shape \(3,\), got"):
            estimate()


@pytest.mark.parametrize(
    "call, name",
    [
        (lambda: effective_sample_size([0.0, 1.0]), "log_w"),
        (lambda: bootstrap(torch.mean, [0.0, 1.0]), "samples"),
        (lambda: bar(torch.zeros(3), [1.0]), "reverse_work"),
        (lambda: mbar([[0.0, 1.0], [1.0, 0.0]], (1, 1)), "energies"),
        (lambda: mode_weights([0, 1], 2), "mode"),
        (lambda: histogram_overlap(torch.zeros(3), [0.0]), "b"),
        (lambda: radial_distribution([[[0.0, 0.0, 0.0]]], (1.0, 1.0, 1.0)), "x"),
        (lambda: radial_distribution(torch.zeros(1, 2, 3), (1.0, 1.0, 1.0), [[[0.0, 0.0, 0.0]]]), "y"),
    ],
)
def test_lists_are_no_tensors(call, name):
    with pytest.raises(TypeError, match=f"^{name} must be a torch.Tensor, got list"):
        call()


def test_a_histogram_has_bins():
    for estimate in (
        lambda: radial_distribution(torch.rand(1, 2, 3), (1.0, 1.0, 1.0), bins=0),
        lambda: histogram_overlap(torch.zeros(3), torch.zeros(3), bins=0),
    ):
        with pytest.raises(ValueError, match="bins must be a positive integer, got 0"):
            estimate()
