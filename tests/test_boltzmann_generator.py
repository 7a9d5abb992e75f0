"""Boltzmann generators: what they are trained on, how runs resume, and what reports say."""

import math
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from flowgroup import boltzmann, flows
from flowgroup.boltzmann import BoltzmannGenerator, maximum_likelihood, reverse_kl, safe_energy
from flowgroup.manifolds import Sphere
from flowgroup.manifolds.constraints import OnManifold
from flowgroup.training import DivergenceError, minimise


class Normal(boltzmann.Target):
    """u(x) = |x − m|²/2s², with log Z = d·log(s√2π)."""

    def __init__(self, mean=0.0, spread=1.0, d=2, unit=0.0):
        super().__init__()
        self.event_shape = torch.Size((d,))
        self.mean, self.spread, self.log_unit_volume = mean, spread, unit
        self.exact = d * math.log(spread * math.sqrt(2 * math.pi)) - unit

    def _energy(self, x):
        return 0.5 * ((x - self.mean) / self.spread).square().sum(-1)


class Broken(Normal):
    """NaN, +∞ and infinite forces in parts of the plane."""

    def _energy(self, x):
        a, b = x.unbind(-1)
        u = super()._energy(x)
        u = torch.where(a > 1, torch.where(a > 1, 1 - a, 1).sqrt(), u)  # NaN, with NaN forces
        u = torch.where(b > 1, 1 / torch.where(b > 1, 0 * b, 1).square(), u)  # +∞
        hole = (a < -1) & (b < -1)
        return torch.where(hole, torch.where(hole, 0 * a, 1).sqrt(), u)  # 0, with infinite forces


def affine(d=2):
    """A normal distribution, at first the standard one."""
    return flows.Flow(flows.Elementwise(flows.Affine(), features=d), base=flows.DiagonalNormal(d)).double()


def state(flow):
    return [v.clone() for v in flow.state_dict().values()]


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def gradients(loss, flow):
    return torch.autograd.grad(loss, [p for p in flow.parameters() if p.requires_grad])


# Objectives


def test_reverse_kl_is_the_divergence_less_log_z():
    # q = N(0, 1): KL(q‖p) = d(log s + (1 + m²)/2s² − ½)
    m, s = 0.5, 0.8
    target = Normal(m, s, unit=0.3)
    loss, metrics = reverse_kl(affine(), target, 400_000)
    kl = 2 * (math.log(s) + (1 + m**2) / (2 * s**2) - 0.5)
    assert loss.item() == pytest.approx(kl - target.exact, abs=0.01)
    # 1/ESS = ∫p²/q
    a = 1 / s**2 - 0.5
    second = math.exp((m / s**2) ** 2 / a - (m / s) ** 2) / (s**2 * math.sqrt(2 * a))
    assert metrics["ESS"].item() == pytest.approx(second**-2, rel=0.01)
    assert metrics["nonfinite"] == 0


def two_layers():
    torch.manual_seed(3)
    return flows.RealNVP(2, transforms=2, hidden_features=(16,)).double().eval()


def test_path_gradients_have_the_mean_of_plain_ones_and_no_noise_at_the_optimum():
    target, flow = Normal(0.5, 1.3), two_layers()
    plain, path = [], []
    for seed in range(40):
        for kept, option in ((plain, False), (path, True)):
            torch.manual_seed(seed)
            loss, _ = reverse_kl(flow, target, 500, path_gradient=option)
            kept.append(torch.cat([g.flatten() for g in gradients(loss, flow)]))
    plain, path = torch.stack(plain), torch.stack(path)
    error = ((plain - path).var(0) / 40).sqrt()
    assert ((plain - path).mean(0).abs() <= 5 * error + 1e-12).all() and plain.mean(0).abs().max() > 0.1

    # q = p exactly: gradients of path samples vanish one by one, others do not
    torch.manual_seed(0)
    at_best = affine()
    (noise,), (silence,) = (
        [torch.cat([g.flatten() for g in gradients(reverse_kl(at_best, Normal(), 50, path_gradient=o)[0], at_best)])]
        for o in (False, True)
    )
    assert silence.abs().max() < 1e-14 < 1e-2 < noise.abs().max()


class Bingham(boltzmann.Target):
    """u(q) = −6·w² on rotations."""

    event_shape, support, log_unit_volume = torch.Size((4,)), OnManifold(Sphere(3)), math.log(2 * math.pi**2)

    def _energy(self, x):
        return -6 * x[..., 0].square()


def test_path_gradients_on_a_manifold():
    flow = flows.RotationFlow(transforms=2, hidden_features=(8,)).double()
    plain, path = [], []
    for seed in range(20):
        for kept, option in ((plain, False), (path, True)):
            torch.manual_seed(seed)
            loss, _ = reverse_kl(flow, Bingham(), 200, path_gradient=option)
            kept.append(torch.cat([g.flatten() for g in gradients(loss, flow)]))
    difference, mean = torch.stack(plain) - torch.stack(path), torch.stack(path).mean(0)
    error = (difference.var(0) / 20).sqrt()
    assert (difference.mean(0).abs() <= 6 * error + 1e-12).all() and mean.norm() > 5 * error.norm()


def test_bad_energies_are_counted_and_leave_no_trace_in_the_gradient():
    flow, target = affine(), Broken()
    torch.manual_seed(1)
    loss, metrics = reverse_kl(flow, target, 1000)
    found = gradients(loss, flow)
    torch.manual_seed(1)
    x, log_q = flow.rsample_and_log_prob((1000,))
    good = (x <= 1).all(-1) & (x >= -1).any(-1)
    assert metrics["nonfinite"] == (~good).sum() > 100
    expected = (log_q + Normal()._energy(x))[good].mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for a, b in zip(found, gradients(expected, flow)):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_weight_spread_is_two_divergences():
    # q = N(0, 1): KL(q‖p) + ½·log ∫p²/q, and so free of log Z
    m, s = 0.5, 0.8
    a = 1 / s**2 - 0.5
    kl = 2 * (math.log(s) + (1 + m**2) / (2 * s**2) - 0.5)
    second = 2 * ((m / s**2) ** 2 / a - (m / s) ** 2 - math.log(s**2 * math.sqrt(2 * a)))
    for unit in (0.0, 0.3):
        loss, metrics = boltzmann.weight_spread(affine(), Normal(m, s, unit=unit), 400_000)
        assert loss.item() == pytest.approx(kl + second / 2, abs=0.01)
        assert metrics["ESS"].item() == pytest.approx(math.exp(-second), rel=0.01)
    loss, _ = boltzmann.weight_spread(affine(), Normal(), 100)
    assert abs(loss.item()) < 1e-12
    # half of the samples have no energy: the loss and its gradient are those of the others
    flow = affine()
    torch.manual_seed(1)
    loss, metrics = boltzmann.weight_spread(flow, Broken(), 1000)
    found = gradients(loss, flow)
    torch.manual_seed(1)
    x, log_q = flow.rsample_and_log_prob((1000,))
    good = (x <= 1).all(-1) & (x >= -1).any(-1)
    log_w = (-log_q - Normal()._energy(x))[good]
    expected = 0.5 * log_w.exp().square().mean().log() - log_w.mean()
    torch.testing.assert_close(loss, expected)
    for one, other in zip(found, gradients(expected, flow)):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert metrics["nonfinite"] == (~good).sum() > 100


@pytest.mark.parametrize("objective", [reverse_kl, boltzmann.weight_spread])
def test_a_batch_of_bad_energies_only_has_loss_zero(objective):
    class Nowhere(Normal):
        def _energy(self, x):
            return super()._energy(x) * torch.nan

    flow = affine()
    loss, metrics = objective(flow, Nowhere(), 10)
    assert loss == 0 and metrics["nonfinite"] == 10 and metrics["ESS"] == 0
    assert all((g == 0).all() for g in gradients(loss, flow))


def test_safe_energy_keeps_forces_and_caps_smoothly():
    target = Normal(0.0, 0.1)
    x = torch.linspace(-2, 2, 41, dtype=torch.float64).unsqueeze(-1).repeat(1, 2).requires_grad_()
    u = safe_energy(target, x, cap=50.0)
    raw = target._energy(x)
    torch.testing.assert_close(u.energy, raw.detach())
    low = raw <= 50
    assert low.any() and (~low).any()
    expected = torch.where(low, raw, 50 + (1 + raw - 50).clamp(min=1).log())
    torch.testing.assert_close(u.capped, expected)
    (found,), (exact,) = (torch.autograd.grad(v.sum(), x, retain_graph=True) for v in (u.capped, expected))
    torch.testing.assert_close(found, exact)
    (free,) = torch.autograd.grad(safe_energy(target, x).capped.sum(), x)
    torch.testing.assert_close(free, 100 * x.detach())
    loss, metrics = reverse_kl(affine(), target, 5000, cap=50.0)
    assert loss < 60 and metrics["ESS"] < 0.1  # weights are those of the energies as they are


def test_mixture_adds_losses_and_metrics():
    flow, target, data = two_layers(), Normal(1.0), 1 + torch.randn(500, 2, dtype=torch.float64)
    torch.manual_seed(0)
    total, metrics = boltzmann.Mixture((0.3, reverse_kl), (2.0, maximum_likelihood))(flow, target, 64, data)
    torch.manual_seed(0)
    kl, _ = reverse_kl(flow, target, 64)
    nll = -flow.log_prob(data[torch.randint(500, (64,))]).mean()
    torch.testing.assert_close(total, 0.3 * kl + 2.0 * nll)
    torch.testing.assert_close(metrics["NLL"], nll.detach())
    twice = boltzmann.Mixture((1.0, reverse_kl), (1.0, partial(reverse_kl, path_gradient=True)))(flow, target, 8)[1]
    assert sorted(twice) == ["ESS", "ESS 1", "nonfinite", "nonfinite 1"]
    with pytest.raises(ValueError, match="data must be given"):
        maximum_likelihood(flow, target, 8)
    with pytest.raises(ValueError, match="terms"):
        boltzmann.Mixture((-1.0, reverse_kl))


def test_fab_gradient_is_that_of_the_second_moment_of_the_weights():
    # without annealing the weights are p²/q² and the gradient that of E_q[p²/q²] over itself, by quadrature
    target, flow = Normal(0.4, 0.8, d=1), affine(1)
    grid = torch.linspace(-9, 9, 4001, dtype=torch.float64).unsqueeze(-1)
    moment = torch.logsumexp(-2 * target._energy(grid) - flow(grid), 0)
    exact = torch.cat([g.flatten() for g in gradients(moment, flow)])
    torch.manual_seed(0)
    loss, metrics = boltzmann.FAB(levels=0)(flow, target, 400_000)
    found = torch.cat([g.flatten() for g in gradients(loss, flow)])
    torch.testing.assert_close(found, exact, rtol=0.02, atol=0.02)
    assert exact.abs().min() > 0.1 and metrics["nonfinite"] == 0


def test_fab_trains_and_tunes_its_step():
    torch.manual_seed(0)
    generator, objective = BoltzmannGenerator(affine(), Normal(1.0, 0.5)), boltzmann.FAB(levels=2)
    generator.fit(120, 64, objective=objective, lr=0.1, progress=False)
    assert generator.report(2000).ess > 0.97 and objective.kernel.step_size > 0.15


def test_replay_draws_by_weight_and_follows_the_flow():
    # from many rows without annealing: as without a buffer, the gradient is that of log ∫p²/q
    target, flow = Normal(0.4, 0.8, d=1), affine(1)
    grid = torch.linspace(-9, 9, 4001, dtype=torch.float64).unsqueeze(-1)

    def moment():
        return torch.logsumexp(-2 * target._energy(grid) - flow(grid), 0)

    torch.manual_seed(0)
    objective = boltzmann.FAB(levels=0, buffer=400_000, updates=20)
    for moved in (0.0, 0.1):
        with torch.no_grad():
            flow.transform.params += moved
        exact = torch.cat([g.flatten() for g in gradients(moment(), flow)])
        # rows that were never looked at have the weight of the first flow; all are brought up to date here
        objective.buffer.update_(
            torch.arange(len(objective.buffer)), flow(objective.buffer.x).detach()
        ) if moved else None
        loss, metrics = objective(flow, target, 20_000)
        found = torch.cat([g.flatten() for g in gradients(loss, flow)])
        torch.testing.assert_close(found, exact, rtol=0.05, atol=0.03)
        assert exact.abs().max() > 0.1 and len(objective.buffer) == 400_000 and metrics["nonfinite"] == 0


def test_replay_corrects_for_what_the_flow_has_learned():
    flow, target, objective = affine(), Normal(0.5), boltzmann.FAB(levels=1, buffer=150, updates=3)
    for call in range(7):
        before = dict(objective.buffer.state_dict())
        loss, metrics = objective(flow, target, 50)
        after, rows = objective.buffer, (objective.buffer.log_q - flow(objective.buffer.x)).abs() < 1e-12
        # the buffer is filled at first, then gets new rows at every third call
        assert (len(after), metrics["nonfinite"].item()) == (150, 0)
        assert torch.equal(before["x"], after.x) == (call % 3 != 0)
        if call % 3:
            log_q = flow(after.x)
            ratio = (before["log_q"] - log_q).detach()
            changed = after.log_q != before["log_q"]
            assert changed.sum() == 50 and rows.sum() == 50
            torch.testing.assert_close(after.log_w, before["log_w"] + torch.where(changed, ratio, 0))
            torch.testing.assert_close(loss, -(ratio.exp().clamp(max=10) * log_q)[changed].mean())
        with torch.no_grad():
            flow.transform.params += 0.8 * torch.randn_like(flow.transform.params)


def test_replay_goes_on_in_another_dtype():
    flow, objective = affine().float(), boltzmann.FAB(levels=0, buffer=20, updates=2)
    kind = next(flow.parameters()).dtype
    objective(flow, Normal(0.5), 10)
    again = boltzmann.FAB(levels=0, buffer=20, updates=2)
    again.load_state_dict(objective.state_dict())  # the next call adds no rows
    loss, _ = again(flow.double(), Normal(0.5), 10)
    assert kind == torch.float32 and loss.dtype == again.buffer.x.dtype == torch.float64


def test_replay_leaves_bad_energies_out():
    flow, objective = affine(), boltzmann.FAB(levels=1, buffer=400, updates=4)
    loss, metrics = objective(flow, Broken(), 100)
    buffer = objective.buffer
    assert metrics["nonfinite"] == buffer.log_w.isneginf().sum() > 20 and buffer.x.isfinite().all()
    assert all(g.isfinite().all() for g in gradients(loss, flow))

    class Nowhere(Normal):
        def _energy(self, x):
            return super()._energy(x) * torch.nan

    loss, metrics = boltzmann.FAB(levels=1, buffer=10)(flow, Nowhere(), 10)
    assert loss == 0 and metrics["nonfinite"] == 10 and all((g == 0).all() for g in gradients(loss, flow))
    with pytest.raises(ValueError, match="buffer must hold 4 batches of 101"):
        objective(flow, Normal(), 101)
    with pytest.raises(ValueError, match="updates must be 1 without a buffer"):
        boltzmann.FAB(updates=2)


def test_replay_learns_both_wells_with_their_weights():
    torch.manual_seed(1)
    target = boltzmann.DoubleWell()
    generator = BoltzmannGenerator(flows.NSF(2, transforms=2, hidden_features=(16,)), target)
    objective = boltzmann.FAB(levels=1, buffer=1000, updates=8)
    history = generator.fit(120, 64, objective=objective, lr=1e-2, progress=False)
    report = generator.report(4000, data=target.sample((2000,)))
    left = (~target.in_right_well(report.x)).double().mean().item()
    assert report.ess > 0.85 and report.data_ess > 0.85 and abs(left - (1 - target.right_probability)) < 0.04
    # 8 runs of AIS before the first step, then one for 8 steps; at one level between it takes 2 energies, and HMC 6
    assert sum(history.metrics["energies"]) == (8 + 120 // 8 - 1) * 64 * (2 + 6)


# Samples as a base


def test_learned_free_energy_perturbation():
    # from N(0, 1) to N(m, s): ΔF = −d·log s
    cold, warm = Normal(1.0, 0.4), Normal()
    rows = torch.randn(4000, 2, dtype=torch.float64)
    flow = flows.Flow(affine().transform, boltzmann.SampleBase(warm, rows))
    generator = BoltzmannGenerator(flow, cold)
    before = generator.report(4000)
    # the identity: work u₁ − u₀, row for row
    work = cold._energy(before.x) - warm._energy(before.x)
    torch.testing.assert_close(before.log_w, -work)
    assert len(before.x) == 4000 and same([before.x.sort(0).values], [rows.sort(0).values])
    history = generator.fit(300, 128, lr=0.05, progress=False)
    after = generator.report(10_000)
    assert len(after.x) == 4000 and after.relative
    assert abs(after.log_z.value - 2 * math.log(0.4)) < 0.02 and after.ess > 0.97 > 0.2 > before.ess
    assert history.metrics["energies"] == [20 * 128] * 15
    # the loss is the mean generalised work
    assert history.train[-1] == pytest.approx(-2 * math.log(0.4), abs=0.02)
    assert "−ΔF" in str(after)


def test_base_of_samples_gives_path_gradients_and_log_prob():
    cold, warm = Normal(1.0, 0.4), Normal()
    flow = flows.Flow(two_layers().transform, boltzmann.SampleBase(warm, torch.randn(1000, 2, dtype=torch.float64)))
    x, log_q = flow.rsample_and_log_prob((50,))
    torch.testing.assert_close(flow.log_prob(x), log_q)
    plain, path = [], []
    for seed in range(40):
        for kept, option in ((plain, False), (path, True)):
            torch.manual_seed(seed)
            kept.append(
                torch.cat([g.flatten() for g in gradients(reverse_kl(flow, cold, 300, path_gradient=option)[0], flow)])
            )
    # rows are a finite sample, so the means differ by its noise, √(1/1000) against √(1/300·40) of the draws
    difference = (torch.stack(plain) - torch.stack(path)).mean(0)
    assert difference.norm() < 0.2 * torch.stack(plain).mean(0).norm()
    with pytest.raises(ValueError, match="finite energies"):
        boltzmann.SampleBase(Broken(), torch.full((3, 2), 1.5))
    with pytest.raises(ValueError, match="rows"):
        boltzmann.SampleBase(warm, torch.zeros(2))


# Training


def test_learns_a_normal_distribution_by_energy_alone():
    torch.manual_seed(0)
    target = Normal(1.0, 0.6, unit=0.2)
    generator = BoltzmannGenerator(affine(), target)
    objective = partial(reverse_kl, path_gradient=True)
    history = generator.fit(400, 64, objective=objective, lr=0.1, progress=False, steps_per_epoch=100)
    report = generator.report(2000)
    assert report.ess > 0.999 and abs(report.log_z.value - target.exact) < 1e-3 and report.kl < 1e-3
    assert len(history.train) == 4 and history.steps == 400
    assert history.train[-1] == pytest.approx(-target.exact, abs=0.02)
    assert history.metrics["ESS"][0] < 0.95 < 0.99 < history.metrics["ESS"][-1]
    assert history.metrics["energies"] == [100 * 64] * 4 and history.metrics["nonfinite"] == [0] * 4
    assert abs(report.mean_energy.value - 1) < 4 * report.mean_energy.error
    torch.testing.assert_close(generator.log_weights(report.x), report.log_w)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's own
def test_compiled_training_is_the_same_and_leaves_the_flow_as_it_was():
    losses = []
    for compile in (False, True):
        flow = affine()
        generator = BoltzmannGenerator(flow, Normal(mean=1.0))
        by_path = partial(reverse_kl, path_gradient=True)
        losses.append(generator.fit(6, 32, objective=by_path, lr=0.1, compile=compile, progress=False).train)
        assert not {"forward", "inverse"} & set(vars(flow.transform))
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_bad_energies_in_training_are_counted_in_history_and_report():
    generator = BoltzmannGenerator(affine(), Broken(0.0, 0.5))
    history = generator.fit(60, 64, lr=0.05, progress=False)
    assert history.metrics["nonfinite"][0] > 20
    report = generator.report(5000)
    assert report.nonfinite == (~report.energy.isfinite()).sum() > 0
    assert f"{report.nonfinite} (" in str(report) and (report.log_w.isneginf() == ~report.energy.isfinite()).all()


def test_divergence_in_reports_is_that_of_the_part_with_finite_energies():
    class Wall(Normal):  # half a normal distribution
        def _energy(self, x):
            return torch.where(x[..., 0] > 0, super()._energy(x), torch.nan)

    report = BoltzmannGenerator(affine(), Wall()).report(4000)  # q = 2p there, and nothing is to be learned
    assert abs(report.nonfinite / 4000 - 0.5) < 0.04 and abs(report.kl) < 1e-9
    assert abs(report.log_z.value - Normal().exact + math.log(2)) < 4 * report.log_z.error < 0.1


def test_dropping_steps_of_an_epoch_counts_right():
    generator = BoltzmannGenerator(affine(), Normal(1.0))
    history = generator.fit(7, 8, steps_per_epoch=3, progress=False)
    assert history.steps == 7 and history.metrics["energies"] == [24, 24, 8]


def shifted():
    flow = affine()
    with torch.no_grad():
        flow.transform.params += 1
    return flow


def test_divergence_leaves_the_last_good_weights():
    def objective(flow, target, n, data=None):
        calls.append(None)
        loss = sum(p.square().sum() for p in flow.parameters())
        return loss * (torch.nan if len(calls) == 4 else 1), {}

    calls, flow = [], shifted()
    generator = BoltzmannGenerator(flow, Normal())
    with pytest.raises(DivergenceError, match="step 3"):
        generator.fit(10, 8, objective=objective, progress=False, schedule="constant", lr=1e-2)
    kept = state(flow)
    calls, again = [None] * 10, shifted()
    minimise(again, lambda f: objective(f, None, 8), steps=2, schedule="constant", lr=1e-2, progress=False)
    assert same(kept, state(again))


class CrashError(Exception):
    pass


class Crash(boltzmann.Mixture):
    """All that can be mixed; fails at a given call."""

    def __init__(self, at=None):
        kept = boltzmann.FAB(levels=1, buffer=100, updates=3)
        super().__init__((0.5, reverse_kl), (0.3, maximum_likelihood), (0.1, boltzmann.FAB(levels=1)), (0.1, kept))
        self.calls, self.at = 0, at

    def __call__(self, *args):
        self.calls += 1
        if self.calls == self.at:
            raise CrashError
        return super().__call__(*args)


def test_annealing_turns_the_energy_on():
    """At call k the loss is that of β·u with β on a straight line from the start to 1; a checkpoint knows k."""
    flow = flows.RotationFlow(transforms=1)
    objective = boltzmann.Annealed(steps=4, start=0.2)
    for k, beta in enumerate((0.2, 0.4, 0.6, 0.8, 1.0, 1.0)):
        if k == 3:
            again = boltzmann.Annealed(steps=4, start=0.2)
            again.load_state_dict(objective.state_dict())
            objective = again
        torch.manual_seed(k)
        loss, metrics = objective(flow, boltzmann.TetrahedralRotor(beta=5.0), 64)
        torch.manual_seed(k)
        expected, _ = reverse_kl(flow, boltzmann.TetrahedralRotor(beta=5.0 * beta), 64)
        torch.testing.assert_close(loss, expected)
        assert metrics["β"].item() == pytest.approx(beta)
    with pytest.raises(ValueError, match="start must lie in"):
        boltzmann.Annealed(steps=4, start=0.0)
    with pytest.raises(ValueError, match="steps must be"):
        boltzmann.Annealed(steps=0)


DATA = torch.randn(200, 2, generator=torch.Generator().manual_seed(5))


def run(checkpoint=None, at=None, seed=3):
    torch.manual_seed(seed)
    flow = flows.RealNVP(2, transforms=2, hidden_features=(8,))
    torch.manual_seed(3)
    flow.load_state_dict(flows.RealNVP(2, transforms=2, hidden_features=(8,)).state_dict())
    objective = Crash(at)
    fit = partial(BoltzmannGenerator(flow, Normal(1.0)).fit, 23, 16, objective=objective, data=DATA, progress=False)
    try:
        return fit(steps_per_epoch=4, checkpoint=checkpoint), state(flow), objective.state_dict()
    except CrashError:
        return None, state(flow), objective.state_dict()


def test_an_interrupted_run_resumes_bit_for_bit(tmp_path):
    path = tmp_path / "run.pt"
    expected, weights, tuned = run()
    assert run(path, at=15)[0] is None
    assert torch.load(path, weights_only=True)["history"]["steps"] == 12
    torch.manual_seed(99)
    history, again, tuned_again = run(path)
    assert same(again, weights) and tuned["2"]["step_size"] != 0.1 and tuned["3"]["calls"] == 23
    for one, other in ((tuned, tuned_again), (tuned["3"]["buffer"], tuned_again["3"]["buffer"])):
        assert all(torch.equal(*map(torch.as_tensor, (v, other[k]))) for k, v in one.items() if not isinstance(v, dict))
    assert tuned["2"] == tuned_again["2"] and tuned["3"]["step_size"] == tuned_again["3"]["step_size"]
    assert (history.train, history.metrics, history.lr) == (expected.train, expected.metrics, expected.lr)


def slow_target():
    class Slow(Normal):
        def _energy(self, x):
            time.sleep(0.02)
            return super()._energy(x)

    return Slow(1.0)


def long_run(checkpoint, target):
    torch.manual_seed(3)
    flow = flows.RealNVP(2, transforms=2, hidden_features=(8,))
    target.__class__.__name__ = "Normal"
    BoltzmannGenerator(flow, target).fit(40, 16, steps_per_epoch=4, checkpoint=checkpoint, progress=False)
    return state(flow)


def test_a_killed_process_resumes_bit_for_bit(tmp_path):
    checkpoint = tmp_path / "run.pt"
    script = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]}
import torch
import torch.distributed as dist
torch.set_num_threads({torch.get_num_threads()})
from test_boltzmann_generator import long_run, slow_target
long_run({str(checkpoint)!r}, slow_target())
"""
    victim = subprocess.Popen([sys.executable, "-c", script])
    while not checkpoint.exists() and victim.poll() is None:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    assert 4 <= torch.load(checkpoint, weights_only=True)["history"]["steps"] < 40
    assert same(long_run(checkpoint, Normal(1.0)), long_run(None, Normal(1.0)))


def test_a_checkpoint_of_another_objective_is_refused(tmp_path):
    generator = BoltzmannGenerator(affine(), Normal(1.0))
    fit = partial(generator.fit, 4, 8, checkpoint=tmp_path / "run.pt", progress=False)
    fit()
    with pytest.raises(ValueError, match="objective='reverse_kl' then"):
        fit(objective=partial(reverse_kl, cap=10.0))
    with pytest.raises(ValueError, match="rows=None then"):
        fit(objective=reverse_kl, data=torch.zeros(5, 2))


def test_a_checkpoint_of_other_particles_is_refused(tmp_path):
    def fit(**options):
        flow = flows.Flow(flows.Sequential(flows.MeanFreeChart(3, 3), flows.LULinear(6)), flows.DiagonalNormal(6))
        generator = BoltzmannGenerator(flow, boltzmann.LennardJones(3, "once", **options))
        generator.fit(2, 8, checkpoint=tmp_path / "run.pt", progress=False)

    fit()
    for options in ({"epsilon": 2.0}, {"r_min": 0.5}, {"oscillator": 2.0}):
        with pytest.raises(ValueError, match="target="):
            fit(**options)


def test_a_run_depends_on_its_seed_alone_and_leaves_the_global_generators():
    results = []
    for ambient, seed in ((1, 0), (2, 0), (1, 5)):
        flow = two_layers()
        torch.manual_seed(ambient)
        before = torch.get_rng_state()
        generator = BoltzmannGenerator(flow, Normal(1.0))
        generator.fit(5, 8, seed=seed, progress=False)
        report = generator.report(50, seed=seed)
        assert torch.equal(before, torch.get_rng_state())
        results.append([*state(flow), report.log_w])
    assert same(results[0], results[1]) and not same(results[0], results[2])


def test_progress_bar_shows_the_effective_sample_size(capsys):
    history = BoltzmannGenerator(affine(), Normal(1.0)).fit(6, 8, steps_per_epoch=3)
    shown = capsys.readouterr().err
    assert "6/6" in shown and f"ESS {history.metrics['ESS'][-1]:.4g}" in shown


@pytest.mark.parametrize(
    "make, error, text",
    [
        (lambda: BoltzmannGenerator(nn.Linear(2, 2), Normal()), TypeError, "flow must be"),
        (lambda: BoltzmannGenerator(affine(), nn.Linear(2, 2)), TypeError, "target must be"),
        (lambda: BoltzmannGenerator(affine(3), Normal()), ValueError, r"\(3,\), but target of \(2,\)"),
        (lambda: BoltzmannGenerator(flows.NSF(2, context=1), Normal()), ValueError, "no context"),
        (lambda: BoltzmannGenerator(affine(), Normal()).fit(0), ValueError, "steps must be"),
        (lambda: BoltzmannGenerator(affine(), Normal()).fit(1, 0), ValueError, "batch_size must be"),
        (
            lambda: BoltzmannGenerator(affine(), Normal()).fit(1, objective="kl"),
            TypeError,
            "objective must be callable",
        ),
        (lambda: BoltzmannGenerator(affine(), Normal()).fit(1, data=torch.zeros(2)), ValueError, "data must be rows"),
        (lambda: BoltzmannGenerator(affine(), Normal()).report(0), ValueError, "samples must be"),
    ],
)
def test_bad_arguments(make, error, text):
    with pytest.raises(error, match=text):
        make()


# Reports


def test_report_with_data_and_picture(tmp_path, monkeypatch):
    target = Normal(0.3, 0.8)
    generator = BoltzmannGenerator(affine(), target)
    generator.fit(2, 8, progress=False, lr=1e-6)
    data = 0.3 + 0.8 * torch.randn(5000, 2, dtype=torch.float64)
    report = generator.report(20_000, data=data)
    # q = N(0, 1): −E_p[log q] and the overlap of both ways of estimating ESS
    nll = math.log(2 * math.pi) + 0.3**2 + 0.8**2
    assert abs(report.nll.value - nll) < 4 * report.nll.error < 0.2
    assert abs(report.data_ess - report.ess) < 0.05 and report.energy_overlap > 0.9
    shown = str(report)
    for text in ("samples", "20000", "log Z", f"{report.log_z}", "effective sample size, from data", "overlap"):
        assert text in shown
    assert len({len(line) for line in shown.splitlines()[1:]}) == 1  # a table
    assert generator.report(10, data=data.float(), batch_size=700).nll.value == pytest.approx(
        report.nll.value, abs=1e-5
    )
    assert generator.report(10, data=data[:1]).nll.error == math.inf  # one row tells no spread
    with pytest.raises(ValueError, match="data must be rows"):
        generator.report(10, data=data[0])
    path = tmp_path / "report.png"
    figure = report.plot(path)
    assert len(figure.axes) == 3 and os.path.getsize(path) > 10_000
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"flowgroup\[train\]"):
        report.plot()


def test_report_of_a_map_without_parameters():
    """Zwanzig's formula: from one normal distribution to another, by the identity."""
    warm, cold = Normal(0.0, 1.0), Normal(0.0, 0.8)
    base = boltzmann.SampleBase(warm, torch.randn(4000, 2, dtype=torch.float64))
    report = BoltzmannGenerator(flows.Flow(flows.Permutation(2), base), cold).report(
        data=0.8 * torch.randn(3000, 2, dtype=torch.float64)
    )
    assert abs(report.log_z.value - 2 * math.log(0.8)) < 4 * report.log_z.error < 0.1
    # −log q less log Z₀ is u₀
    assert "−log q − log Z₀ of data" in str(report) and abs(report.nll.value - 0.64) < 4 * report.nll.error < 0.1


def test_report_tells_a_missed_mode():
    target = boltzmann.TetrahedralRotor(2.0)
    generator = BoltzmannGenerator(flows.RotationFlow(transforms=1), target)
    report = generator.report(3000)
    p, error = report.modes
    assert report.covered == 12 and p.shape == (12,) and p.sum().item() == pytest.approx(1) and (error > 0).all()
    report.modes = torch.tensor([0.0, *[1 / 11] * 11]), error
    assert report.covered < 12
    report.modes = torch.cat((p[:1] + 4 * error[:1], p[1:])), error
    assert "modes within 3σ of 1/12" in str(report) and report.plot().axes[2].get_title().startswith("weights")


# Several processes


def two_process_run(rank, world):
    """Deterministic losses of rows of their own: joint gradients are known; and one that draws."""
    rows = 1 + torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    first = []

    def objective(flow):
        first.append(torch.randn(()))
        loss = -flow(rows[rank::world]).mean()
        return loss, {"half": loss.detach(), "rows": torch.tensor(len(rows[rank::world]))}

    flow = shifted()
    history = minimise(flow, objective, steps=12, lr=0.05, steps_per_epoch=5, progress=False)
    return {"weights": flow.state_dict(), "history": vars(history), "drawn": first[0]}


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="torch was built without gloo")
def test_two_processes_train_like_one(tmp_path):
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__]
    launched = subprocess.run([*command, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=600)
    assert launched.returncode == 0, launched.stderr
    alone = two_process_run(0, 1)
    a, b = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert same(a["weights"].values(), b["weights"].values()) and a["drawn"] != b["drawn"]
    assert {**a["history"], "seconds": 0} == {**b["history"], "seconds": 0}
    for name, value in alone["weights"].items():
        torch.testing.assert_close(a["weights"][name], value, rtol=0, atol=1e-12)
    for found in (a["history"]["train"], a["history"]["metrics"]["half"]):
        assert found == pytest.approx(alone["history"]["train"], abs=1e-12)
    assert a["history"]["metrics"]["rows"] == alone["history"]["metrics"]["rows"] == [320, 320, 128]


if __name__ == "__main__":
    rank = int(os.environ["RANK"])
    torch.save(two_process_run(rank, 2), Path(sys.argv[1]) / f"{rank}.pt")
