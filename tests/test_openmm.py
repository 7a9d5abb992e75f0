"""OpenMM systems as targets: stored energies and forces, virtual sites, threads, derivatives, dynamics."""

import builtins
import copy
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from flowgroup import boltzmann, flows

openmm = pytest.importorskip("openmm", reason="OpenMM comes with the extra flowgroup[boltzmann]")

STORED = json.loads((Path(__file__).parent / "data" / "openmm.json").read_text())


def test_without_openmm_the_extra_is_named(monkeypatch):
    ordinary = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "openmm":
            raise ImportError("No module named 'openmm'")
        return ordinary(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for call in (boltzmann.alanine_dipeptide, lambda: boltzmann.OpenMMTarget("system.xml", 300.0)):
        with pytest.raises(ImportError, match=r"flowgroup\[boltzmann\]"):
            call()


def as_amber_rounds(system):
    """Angles and scale of electrostatics as files of the AMBER programs have them, exactly to their digits."""
    pi = 3.141594
    for force in system.getForces():
        if isinstance(force, openmm.PeriodicTorsionForce):
            for i in range(force.getNumTorsions()):
                *atoms, n, phase, k = force.getTorsionParameters(i)
                force.setTorsionParameters(i, *atoms, n, pi if phase._value > 1 else 0.0, k)
        if isinstance(force, openmm.HarmonicAngleForce):
            for i in range(force.getNumAngles()):
                *atoms, theta, k = force.getAngleParameters(i)
                degrees = math.degrees(theta._value)
                force.setAngleParameters(i, *atoms, round(degrees, 2) * pi / 180, k)
        if isinstance(force, openmm.NonbondedForce):
            charge = [force.getParticleParameters(i)[0] for i in range(force.getNumParticles())]
            for i in range(force.getNumExceptions()):
                a, b, qq, sigma, epsilon = force.getExceptionParameters(i)
                if qq._value:
                    force.setExceptionParameters(i, a, b, charge[a] * charge[b] / 1.2, sigma, epsilon)
    return system


@pytest.fixture(scope="module")
def dipeptide():
    return boltzmann.alanine_dipeptide()


@pytest.fixture(scope="module")
def target(dipeptide):
    return boltzmann.OpenMMTarget(dipeptide.system, 300.0, platform="Reference", workers=2)


def test_alanine_dipeptide_equals_stored_energies_and_forces(dipeptide):
    x = torch.tensor(STORED["positions"], dtype=torch.float64)
    energy, force = (torch.tensor(STORED[name], dtype=torch.float64) for name in ("energy", "force"))
    as_it_is = boltzmann.OpenMMTarget(dipeptide.system, 300.0, platform="Reference", workers=1)
    assert (as_it_is.potential(x) - energy).abs().max() < 2e-4  # digits of π and of 1/1.2, see `alanine_dipeptide`
    rounded = boltzmann.OpenMMTarget(as_amber_rounds(copy.deepcopy(dipeptide.system)), 300.0, "Reference", workers=1)
    u, f = rounded.force(x)
    assert (u * rounded.kT - energy).abs().max() < 1e-6
    assert (f * rounded.kT - force).abs().max() < 1e-5 * force.abs().max()
    assert rounded.kT == pytest.approx(8.31446261815324e-3 * 300)
    single = boltzmann.OpenMMTarget(dipeptide.system, 300.0, platform="CPU", workers=1).potential(x)
    assert (single - energy).abs().max() < 1e-3


def test_threads_shapes_and_dtypes_do_not_matter(dipeptide, target):
    x = dipeptide.positions + 0.01 * torch.randn(5, 9, 22, 3, dtype=torch.float64)
    alone = boltzmann.OpenMMTarget(dipeptide.system, 300.0, platform="Reference", workers=1)
    u, force = target.force(x)
    assert u.shape == (5, 9) and force.shape == x.shape
    for i in range(5):
        for j in range(9):
            one = alone.force(x[i, j])
            assert torch.equal(one[0], u[i, j]) and torch.equal(one[1], force[i, j])
    assert target.energy(x.float()).dtype == torch.float32
    torch.testing.assert_close(target.energy(x.float()).double(), u, rtol=1e-4, atol=1e-3)
    assert target.energy(x[:0]).shape == (0, 9)


def water_with_virtual_site():
    """Two molecules of four sites, the charge of each oxygen on a site of no mass between its hydrogens."""
    system, nonbonded = openmm.System(), openmm.NonbondedForce()
    for first in (0, 4):
        for mass in (16.0, 1.0, 1.0, 0.0):
            system.addParticle(mass)
        system.setVirtualSite(first + 3, openmm.ThreeParticleAverageSite(first, first + 1, first + 2, 0.6, 0.3, 0.1))
        for charge, epsilon in ((0.0, 0.7), (0.5, 0.0), (0.5, 0.0), (-1.0, 0.0)):
            nonbonded.addParticle(charge, 0.3, epsilon)
        for i in range(first, first + 4):
            for j in range(i):
                if j >= first:
                    nonbonded.addException(i, j, 0.0, 0.1, 0.0)
    system.addForce(nonbonded)
    return system


def test_virtual_sites_are_placed_and_their_forces_go_to_their_atoms():
    target = boltzmann.OpenMMTarget(water_with_virtual_site(), 250.0, platform="Reference", workers=1)
    assert target.virtual.nonzero().flatten().tolist() == [3, 7]
    body = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [-0.03, 0.09, 0.0], [9.0, 9.0, 9.0]], dtype=torch.float64)
    x = torch.cat((body, body + torch.tensor([0.1, 0.25, 0.1]))).double()
    u, force = target.force(x)
    assert (force[[3, 7]] == 0).all() and force[[0, 1, 2]].abs().min() > 0
    numerical = torch.zeros_like(x).flatten()
    for i in range(24):
        step = torch.zeros(24, dtype=torch.float64)
        step[i] = 1e-5
        step = step.reshape(8, 3)
        numerical[i] = (target.energy(x - step) - target.energy(x + step)) / 2e-5
    torch.testing.assert_close(force, numerical.reshape(8, 3), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(force.sum(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-9)
    # Coulomb's law between the sites, by hand
    m = torch.stack([0.6 * x[i] + 0.3 * x[i + 1] + 0.1 * x[i + 2] for i in (0, 4)])
    sites = torch.cat((x[1:3], m[:1])), torch.cat((x[5:7], m[1:]))
    q = torch.tensor([0.5, 0.5, -1.0], dtype=torch.float64)
    coulomb = 138.93545764498 * (q[:, None] * q / torch.cdist(*sites)).sum()
    r6 = (0.3 / (x[0] - x[4]).norm()) ** 6
    assert u.item() * target.kT == pytest.approx((coulomb + 4 * 0.7 * (r6**2 - r6)).item(), rel=1e-6)


def test_derivatives_by_every_road(dipeptide, target):
    x = dipeptide.positions + 0.01 * torch.randn(3, 22, 3, dtype=torch.float64)
    force = target.force(x)[1]
    torch.testing.assert_close(-torch.func.vmap(torch.func.grad(target.energy))(x), force)
    torch.testing.assert_close(torch.func.vmap(target.energy)(x), target.energy(x))
    leaf = x.clone().requires_grad_()
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(target.energy(leaf), leaf, weights, create_graph=True)
    torch.testing.assert_close(gradient, -weights[:, None, None] * force)
    with pytest.raises(NotImplementedError, match="no second derivatives"):
        gradient.sum().backward()
    with torch.no_grad():
        assert not target.energy(leaf).requires_grad


@pytest.mark.parametrize("platform", ["CPU", "Reference"])
def test_bad_configurations_have_bad_energies_and_spare_the_others(dipeptide, platform):
    target = boltzmann.OpenMMTarget(dipeptide.system, 300.0, platform=platform, workers=1)
    x = dipeptide.positions.repeat(4, 1, 1)
    x[1, 0], x[2], x[3, 5, 2] = torch.nan, 0.0, torch.inf
    u, force = target.force(x)
    assert u.isfinite().tolist() == [True, False, False, False]
    assert force[0].isfinite().all() and not force[1:].isfinite().any(-1).any(-1).all()


def test_a_path_a_pickle_and_a_copy_are_the_same_target(dipeptide, target, tmp_path):
    path = tmp_path / "system.xml"
    path.write_text(openmm.XmlSerializer.serialize(dipeptide.system))
    x = dipeptide.positions + 0.01 * torch.randn(22, 3, dtype=torch.float64)
    u = target.energy(x)
    from_file = boltzmann.OpenMMTarget(path, 300.0, platform="Reference", workers=1)
    for twin in (from_file, pickle.loads(pickle.dumps(target)), copy.deepcopy(target)):
        assert torch.equal(twin.energy(x), u)
    from_file.close()
    from_file.close()
    assert torch.equal(from_file.energy(x), u)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"temperature": -1.0}, ValueError, "temperature must be positive and finite, in kelvin, got -1"),
        ({"platform": "OpenCL"}, ValueError, r"platform must be one of \('CPU', 'Reference'\), got 'OpenCL'"),
        ({"workers": 0}, ValueError, "workers must be a positive integer, got 0"),
        ({"system": 3}, TypeError, "system must be an openmm.System, got int"),
        ({"system": __file__}, ValueError, r"XML file of one, .*test_openmm.py is not"),
        ({"temperature": 300 * openmm.unit.kelvin}, TypeError, "temperature must be a number, in kelvin, got Quantity"),
    ],
)
def test_wrong_arguments(dipeptide, arguments, error, message):
    with pytest.raises(error, match=message):
        boltzmann.OpenMMTarget(**{"system": dipeptide.system, "temperature": 300.0} | arguments)


def harmonic(k=2000.0):
    system, bond = openmm.System(), openmm.HarmonicBondForce()
    for _ in range(2):
        system.addParticle(12.0)
    bond.addBond(0, 1, 0.2, k)
    system.addForce(bond)
    return system


def test_a_checkpoint_of_another_system_is_refused(tmp_path):
    def fit(system):
        flow = flows.Flow(flows.Sequential(flows.MeanFreeChart(2, 3), flows.LULinear(3)), flows.DiagonalNormal(3))
        target = boltzmann.OpenMMTarget(system, 300.0, platform="Reference", workers=1)
        boltzmann.BoltzmannGenerator(flow, target).fit(2, 8, checkpoint=tmp_path / "run.pt", progress=False)

    fit(harmonic())
    fit(harmonic())  # the same, built again
    with pytest.raises(
        ValueError, match=r"target='OpenMMTarget\(2 atoms, system \w{8}, Reference, temperature=300\)' then"
    ):
        fit(harmonic(1000.0))


def test_dynamics_sample_the_temperature_and_repeat_with_the_seed():
    start = torch.tensor([[0.0, 0.0, 0.0], [0.2, 0.0, 0.0]])
    options = {"frames": 2000, "stride": 50, "friction": 20.0, "platform": "Reference", "progress": False}
    run = boltzmann.openmm_trajectory(harmonic(), start, 300.0, seed=1, **options)
    assert run.x.shape == (2000, 2, 3) and run.energy.shape == (2000,) and run.swaps.shape == (0,)
    r = (run.x[:, 0] - run.x[:, 1]).norm(dim=-1)
    torch.testing.assert_close(
        run.energy, 1000 * (r.double() - 0.2) ** 2 / (8.31446261815324e-3 * 300), rtol=1e-3, atol=1e-5
    )
    # density r²·exp(−k(r − r₀)²/2kT), by quadrature
    grid = np.linspace(0.05, 0.4, 4001)
    weight = grid**2 * np.exp(-1000 * (grid - 0.2) ** 2 / (8.31446261815324e-3 * 300))
    mean = (grid * weight).sum() / weight.sum()
    sd = math.sqrt(((grid - mean) ** 2 * weight).sum() / weight.sum())
    assert abs(r.mean().item() - mean) < 5 * sd / math.sqrt(1000)
    assert abs(r.std().item() - sd) < 5 * sd / math.sqrt(2 * 1000)
    again = boltzmann.openmm_trajectory(harmonic(), start, 300.0, seed=1, **options | {"frames": 20})
    assert torch.equal(again.x, run.x[:20])
    other = boltzmann.openmm_trajectory(harmonic(), start, 300.0, seed=2, **options | {"frames": 20})
    assert not torch.equal(other.x, run.x[:20])


def test_exchange_keeps_every_level_at_its_temperature():
    start = torch.tensor([[0.0, 0.0, 0.0], [0.2, 0.0, 0.0]])
    run = boltzmann.openmm_trajectory(
        harmonic(), start, [300.0, 600.0], frames=3000, stride=40, friction=20.0, platform="Reference", progress=False
    )
    assert run.x.shape == (3000, 2, 2, 3) and 0.3 < run.swaps.item() < 0.95
    # ½kT from the bond, and energies are in kT of the first level
    for energy, expected in zip(run.energy.mean(0).tolist(), (0.5, 1.0)):
        assert abs(energy - expected) < 0.12 * expected
    with pytest.raises(ValueError, match="temperature must be positive"):
        boltzmann.openmm_trajectory(harmonic(), start, [300.0, 0.0], progress=False)
    with pytest.raises(TypeError, match=r"system must be an openmm\.System"):
        boltzmann.openmm_trajectory(None, start, 300.0)
    with pytest.raises(ValueError, match="warmup must be"):
        boltzmann.openmm_trajectory(harmonic(), start, 300.0, warmup=-1)
    with pytest.raises(ValueError, match="one start or of 3"):
        boltzmann.openmm_trajectory(harmonic(), start.expand(2, 2, 3), [300.0, 400.0, 500.0])


def test_a_ladder_is_any_row_of_numbers():
    start = torch.tensor([[0.0, 0.0, 0.0], [0.2, 0.0, 0.0]])
    options = {"frames": 3, "stride": 2, "platform": "Reference", "progress": False}
    ladders = ([300.0, 600.0], np.array([300.0, 600.0]), torch.tensor([300.0, 600.0]), range(300, 601, 300))
    runs = [boltzmann.openmm_trajectory(harmonic(), start, ladder, **options) for ladder in ladders]
    assert runs[0].x.shape == (3, 2, 2, 3) and all(torch.equal(run.x, runs[0].x) for run in runs)
    assert boltzmann.openmm_trajectory(harmonic(), start, np.float32(300.0), **options).x.shape == (3, 2, 3)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"step": 1 * openmm.unit.femtosecond}, TypeError, "step must be a number, in femtoseconds, got Quantity"),
        ({"step": 0.0}, ValueError, "step must be positive and finite, in femtoseconds"),
        ({"friction": 1 / openmm.unit.picosecond}, TypeError, "friction must be a number, in 1/ps, got Quantity"),
        ({"temperature": 300 * openmm.unit.kelvin}, TypeError, "temperature must be a number, in kelvin"),
        ({"temperature": [300, 600] * openmm.unit.kelvin}, TypeError, "temperature must be a number, in kelvin"),
        ({"temperature": [300 * openmm.unit.kelvin]}, TypeError, "temperature must be a number, in kelvin"),
        ({"step": 1e4}, openmm.OpenMMException, "NaN or infinite: is the step of 10000 fs too long"),
    ],
)
def test_dynamics_refuse_quantities_and_do_not_run_away_in_silence(arguments, error, message):
    start = torch.tensor([[0.0, 0.0, 0.0], [0.2, 0.0, 0.0]])
    options = {"temperature": 300.0, "frames": 20, "platform": "Reference", "progress": False} | arguments
    with pytest.raises(error, match=message):
        boltzmann.openmm_trajectory(harmonic(), start, **options)
