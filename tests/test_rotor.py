"""Rigid bodies in a field: stored values, symmetry, and partition functions by other quadratures."""

import importlib.util
import math
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from flowgroup.boltzmann import MethaneInField, TetrahedralRotor
from flowgroup.groups.rotations import euler_to_matrix, hamilton_product, matrix_to_quaternion

# ∫e^{βf} over rotations with probability measure, by product quadrature of two grids that agree to 1e-13
LOG_Z = {5.0: 1.0324127510, 10.0: 3.6054589938, 20.0: 10.1625261155}


def random_rotations(*shape):
    return F.normalize(torch.randn(*shape, 4, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("beta", LOG_Z)
def test_rotor_log_z(beta):
    target = TetrahedralRotor(beta)
    assert target.log_z == pytest.approx(LOG_Z[beta], abs=1e-8)
    # and by plain Monte Carlo, which knows nothing of Euler angles
    w = (-target.energy(random_rotations(400_000))).exp()
    assert abs(w.mean().log() - LOG_Z[beta]) < 4 * w.std() / w.mean() / math.sqrt(400_000)


def test_rotor_energy_is_the_sum_over_turned_vertices():
    v = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / math.sqrt(3)
    angles = torch.rand(20, 3, dtype=torch.float64) * 6
    R = euler_to_matrix(angles, "ZYX")
    expected = -7.0 * np.prod(v @ R.numpy().swapaxes(-1, -2), -1).sum(-1)
    target = TetrahedralRotor(7.0)
    torch.testing.assert_close(target.energy(matrix_to_quaternion(R)), torch.from_numpy(expected))
    torch.testing.assert_close(
        target.energy(matrix_to_quaternion(R).float()), torch.from_numpy(expected).float(), rtol=1e-5, atol=1e-5
    )


def test_modes_are_the_minima_and_a_group():
    target = TetrahedralRotor(1.0)
    modes = target.modes
    assert modes.shape == (12, 4)
    inner = (modes @ modes.T).abs()
    assert (inner - torch.eye(12)).max() < 0.71  # twelve rotations, 120° or 180° apart
    torch.testing.assert_close(target.energy(modes), torch.full((12,), -4 / 3**1.5, dtype=torch.float64))
    assert target.energy(random_rotations(100_000)).min() > -4 / 3**1.5
    _, force = target.force(modes)
    tangent = force - (force * modes).sum(-1, keepdim=True) * modes
    assert tangent.abs().max() < 1e-12
    # the rotations by which the body, or space, can be turned without a difference
    q = random_rotations(5, 1)
    for turned in (hamilton_product(q, modes), hamilton_product(modes, q), -q):
        torch.testing.assert_close(target.energy(turned), target.energy(q).expand(turned.shape[:-1]))


def test_nearest_mode():
    target = TetrahedralRotor(1.0)
    near = F.normalize(target.modes + 0.05 * torch.randn(100, 12, 4), dim=-1)
    signs = torch.randint(2, (100, 12, 1)) * 2 - 1
    assert (target.nearest_mode(signs * near) == torch.arange(12)).all()
    share = torch.bincount(target.nearest_mode(random_rotations(120_000)), minlength=12) / 120_000
    assert (share - 1 / 12).abs().max() < 4 * math.sqrt(11) / 12 / math.sqrt(120_000)
    body = MethaneInField()
    x = torch.cat((torch.randn(100, 12, 3), signs * near), -1).unsqueeze(-2)
    assert (body.nearest_mode(x) == torch.arange(12)).all()


def test_methane_at_rest_without_a_harmonic_well_is_a_rotor_to_third_order():
    # sin(cx)sin(cy)sin(cz) = c³xyz + O(b⁵) for a short bond
    b, beta = 1e-3, 5.0
    target = MethaneInField(beta=beta, bond=b)
    q = random_rotations(50)
    x = torch.cat((torch.zeros(50, 3, dtype=q.dtype), q), -1).unsqueeze(-2)
    rotor = TetrahedralRotor(beta * (math.pi / (2 * target.edge) * b) ** 3)
    torch.testing.assert_close(target.energy(x), rotor.energy(q), rtol=1e-3, atol=1e-9)


def test_methane_by_direct_sums_and_modes():
    target = MethaneInField(beta=3.0, spread=0.04, edge=0.12, bond=0.1)
    q, p = random_rotations(6), 0.05 * torch.randn(6, 3, dtype=torch.float64)
    v = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / math.sqrt(3)
    for i in range(6):
        w, x, y, z = q[i].tolist()
        turn = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])  # q·
        back = np.array([[w, x, y, z], [-x, w, -z, y], [-y, z, w, -x], [-z, -y, x, w]])  # ·q̄
        sites = p[i].numpy() + 0.1 * (np.concatenate((np.zeros((4, 1)), v), 1) @ (turn @ back).T)[:, 1:]
        u = p[i].square().sum().item() / (2 * 0.04**2) - 3 * np.sin(math.pi * sites / 0.24).prod(-1).sum()
        found = target.energy(torch.cat((p[i], q[i])).unsqueeze(0))
        assert found.item() == pytest.approx(u, rel=1e-10)
    at_modes = torch.cat((torch.zeros(12, 3, dtype=q.dtype), target.modes), -1).unsqueeze(-2)
    energies = target.energy(at_modes)
    torch.testing.assert_close(energies, energies[:1].expand(12))
    others = torch.cat((0.03 * torch.randn(20_000, 3, dtype=q.dtype), random_rotations(20_000)), -1).unsqueeze(-2)
    assert target.energy(others).min() > energies[0]


def test_bad_parameters():
    with pytest.raises(ValueError, match="beta must be finite"):
        TetrahedralRotor(math.inf)
    with pytest.raises(ValueError, match="bond must be positive"):
        MethaneInField(bond=0.0)
    with pytest.raises(ValueError, match="x must"):
        TetrahedralRotor(1.0).energy(torch.ones(2, 4))


@pytest.fixture
def example(monkeypatch):
    path = Path(__file__).parents[1] / "examples" / "tetrahedral_rotor.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module


def test_example(example, tmp_path, capsys):
    path = tmp_path / "new" / "picture.png"
    report = example.main(["--quick", "--output", str(path)])
    told = capsys.readouterr().out
    assert report.ess > 0.9 and report.nonfinite == 0 and "NO " not in told and str(report) in told
    picture = matplotlib.image.imread(path)
    assert picture.shape[0] > 500 and picture.shape[1] > 800 and picture.std() > 0.1
    # checks can fail
    report.log_z = report.log_z._replace(value=report.exact_log_z + 0.1, error=0.02)
    assert list(example.check(report).values())[:2] == [False, False]


def test_example_turns_strong_fields_on_by_and_by(example):
    for beta, betas in ((14.0, None), (20.0, 1 - 0.85 * (1 - np.array([0, 0.25, 0.5, 0.75, 1, 1, 1, 1])).mean())):
        generator, report = example.train(beta, 8, seed=0)
        told = generator.history.metrics.get("β")
        assert told is None if betas is None else told == [pytest.approx(betas)]
        assert report.exact_log_z == generator.target.log_z and generator.target.beta == beta


@pytest.mark.slow
def test_a_strong_field_is_learned_as_well(example):
    report = example.train(20.0, 2000, seed=0)[1]
    assert abs(report.log_z.value - 10.162526) < 0.01 and report.ess > 0.85 and report.covered == 12


@pytest.mark.slow
def test_the_first_page_reaches_its_goal():
    from flowgroup import boltzmann, flows

    target = boltzmann.TetrahedralRotor(beta=10.0)
    generator = boltzmann.BoltzmannGenerator(flows.RotationFlow(transforms=8), target)
    generator.fit(steps=2000, batch_size=512)  # reverse KL, progress bar shows ESS
    report = generator.report(samples=10_000)  # logZ ± error, ESS, coverage; prints as a table, plots
    assert abs(report.log_z.value - 3.605459) < 0.01 and report.ess > 0.9 and report.covered == 12
