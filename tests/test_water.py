"""Rigid water: stored energies and forces, an Ewald sum of another kind, OpenMM, symmetries, float32, derivatives, ice.

Stored are frames of ice XI with energies, forces and torques of a converged Ewald sum, and energies from the Reference
platform of OpenMM 8.6.1 (PME at a tolerance of 1e-9) of the crystals of `shaken`.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.integrate
import torch
from scipy.special import erf, erfc

from flowgroup.boltzmann import RigidWater, bodies_to_sites, ice_xi, sites_to_bodies
from flowgroup.boltzmann.report import title
from flowgroup.boltzmann.targets.water.ewald import chebyshev_fit, prolate, transform
from flowgroup.boltzmann.targets.water.lennard_jones import SwitchedLennardJones
from flowgroup.groups import hamilton_product, rotation_vector_to_quaternion

STORED = json.loads((Path(__file__).parent / "data" / "water.json").read_text())
DOUBLE = torch.float64
PARAMETERS = {"tip4p-ew": (0.316435, 0.680946, 0.52422, 0.0125), "tip4p-ice": (0.31668, 0.88211, 0.5897, 0.01577)}


def stored(key):
    return torch.tensor([frame[key] for frame in STORED["frames"]], dtype=DOUBLE)


def stored_target(**options):
    return RigidWater(16, STORED["box"], temperature=250.0, cutoff=STORED["cutoff"], switch=STORED["switch"], **options)


def shaken(cells):
    """A crystal off its lattice by known amounts."""
    bodies, box = ice_xi(cells, dtype=DOUBLE)
    k = torch.arange(bodies.numel(), dtype=DOUBLE).view(bodies.shape)
    return bodies + torch.tensor([0.01] * 3 + [0.1] * 4, dtype=DOUBLE) * torch.sin(k * k), box


def dilute(n, batch=()):
    """Molecules at random, on a lattice so wide that none overlap, in a box without equal edges."""
    box = torch.tensor([1.3, 1.2, 1.1], dtype=DOUBLE)
    corners = torch.cartesian_prod(*[torch.arange(3, dtype=DOUBLE)] * 3)[:n]
    positions = (corners + 0.1 * torch.randn(*batch, n, 3, dtype=DOUBLE)) / 3 * box
    return torch.cat([positions, torch.randn(*batch, n, 4, dtype=DOUBLE)], -1), box


def gradient(f, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(f(x).sum(), x)[0]


def force_and_torque(target, x):
    """On the molecules, torques about the oxygens: what turning about an axis of space does to the energy."""
    x = x.clone()
    x[..., 3:] /= x[..., 3:].norm(dim=-1, keepdim=True)
    g = gradient(target.potential, x)
    axes = torch.eye(4, dtype=x.dtype)[1:]
    turned = [hamilton_product(axis.expand_as(x[..., 3:]), x[..., 3:]) / 2 for axis in axes]
    return -g[..., :3], -torch.stack([(g[..., 3:] * turn).sum(-1) for turn in turned], -1)


def plain_energy(sites, box, model, cutoff, switch, alpha=9.0, reach=19):
    """The energy in kJ/mol in numpy: Gaussian clouds, erfc, one wave vector after the other; but for the dispersion."""
    sigma, epsilon, q, _ = PARAMETERS[model]
    n = len(sites)
    molecule = np.arange(n).repeat(3)
    charges = np.tile([q, q, -2 * q], n)
    K = 138.935457644382
    x = sites[:, 1:].reshape(-1, 3)
    d = x[:, None] - x
    inside = np.linalg.norm(d, axis=-1)
    d -= box * np.round(d / box)
    r = np.linalg.norm(d, axis=-1) + np.eye(len(x))
    other = molecule[:, None] != molecule
    qq = np.outer(charges, charges)
    near = K / 2 * (qq * np.where(other, erfc(alpha * r) / r, 0)).sum()
    itself = np.where(inside > 0, erf(alpha * inside) / np.where(inside > 0, inside, 1), 2 * alpha / np.sqrt(np.pi))
    near -= K / 2 * (qq * np.where(other, 0, itself)).sum()
    m = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    k = 2 * np.pi * m[np.any(m != 0, 1)] / box
    k2 = (k * k).sum(-1)
    amplitude = (charges * np.exp(1j * k @ x.T)).sum(-1)
    far = 2 * np.pi * K / np.prod(box) * (np.exp(-k2 / 4 / alpha**2) / k2 * abs(amplitude) ** 2).sum()

    o = sites[:, 0]
    d = o[:, None] - o
    d -= box * np.round(d / box)
    r = np.linalg.norm(d, axis=-1)[np.triu_indices(n, 1)]
    t = np.clip((r - switch) / (cutoff - switch), 0, 1)
    on = np.where(r < cutoff, 1 - 10 * t**3 + 15 * t**4 - 6 * t**5, 0)
    return near + far, (on * 4 * epsilon * ((sigma / r) ** 12 - (sigma / r) ** 6)).sum()


# --- energies


def test_energies_are_the_stored_ones():
    parts = stored_target().parts(sites_to_bodies(stored("sites")))
    for name in ("coulomb", "lennard_jones", "dispersion"):
        torch.testing.assert_close(parts[name], stored(name), rtol=0, atol=5e-7)
    torch.testing.assert_close(
        stored_target().potential(sites_to_bodies(stored("sites"))), stored("energy"), rtol=0, atol=1e-6
    )


def test_energy_is_in_units_of_kt():
    target, x = stored_target(), sites_to_bodies(stored("sites"))
    torch.testing.assert_close(target.energy(x), target.potential(x) / (0.00831446261815324 * 250), rtol=1e-14, atol=0)
    assert target.log_unit_volume == pytest.approx(16 * math.log(2 * math.pi**2))


def test_forces_and_torques_are_the_stored_ones():
    force, torque = force_and_torque(stored_target(), sites_to_bodies(stored("sites")))
    for got, key in ((force, "force"), (torque, "torque")):
        assert (got - stored(key)).abs().max() < 1e-7 * stored(key).abs().max()


@pytest.mark.parametrize("cells, key", [((2, 1, 1), "reference_16"), ((4, 2, 2), "reference_128")])
def test_energy_is_that_of_openmm(cells, key):
    x, box = shaken(cells)
    got = RigidWater(len(x), box, temperature=100.0).potential(x).item()
    assert got == pytest.approx(STORED[key], abs=1e-5, rel=0)


@pytest.mark.parametrize("model", PARAMETERS)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_energy_is_that_of_another_ewald_sum(model, n):
    x, box = dilute(n)
    target = RigidWater(n, box, model, temperature=300.0, cutoff=0.5, switch=0.4)
    parts = target.parts(x)
    coulomb, lennard_jones = plain_energy(target.sites(x).numpy(), box.numpy(), model, 0.5, 0.4)
    assert parts["coulomb"].item() == pytest.approx(coulomb, abs=1e-6, rel=0)
    assert parts["lennard_jones"].item() == pytest.approx(lennard_jones, abs=1e-10, rel=1e-10)


@pytest.mark.parametrize("accuracy", [1e-2, 1e-4, 1e-6])
def test_accuracy_is_kept_and_costs(accuracy):
    x = sites_to_bodies(stored("sites"))
    target = stored_target(accuracy=accuracy)
    error = (target.parts(x)["coulomb"] - stored("coulomb")).abs().max() / 16
    assert accuracy / 20 < error < 5 * accuracy
    assert target.ewald.weight.numel() < stored_target().ewald.weight.numel()


def test_dispersion_correction_is_the_integral_of_what_is_cut():
    lj = SwitchedLennardJones(0.3, 0.7, cutoff=0.8, switch=0.6)

    def cut(r):
        t = np.clip((r - 0.6) / 0.2, 0, 1)
        off = 10 * t**3 - 15 * t**4 + 6 * t**5
        return off * 4 * 0.7 * ((0.3 / r) ** 12 - (0.3 / r) ** 6) * 4 * np.pi * r**2

    expected = scipy.integrate.quad(cut, 0.6, 0.8, epsabs=1e-13)[0] + scipy.integrate.quad(cut, 0.8, np.inf)[0]
    assert lj.tail() == pytest.approx(expected, rel=1e-8)
    off = RigidWater(5, (1.3, 1.2, 1.1), temperature=300.0, dispersion_correction=False)
    assert off.parts(dilute(5)[0])["dispersion"] == 0


def test_prolate_function_solves_its_equation_and_is_an_eigenfunction_of_the_transform():
    c = 12.0
    psi = prolate(c)
    t = np.linspace(-0.95, 0.95, 7)
    equation = (1 - t**2) * psi.deriv(2)(t) - 2 * t * psi.deriv()(t) - c**2 * t**2 * psi(t)
    ratio = equation / psi(t)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-8)
    k = c * np.array([0.0, 0.3, 0.9])
    by_quadrature = [scipy.integrate.quad(lambda t, k=k: psi(t) * np.cos(k * t), 0, 1)[0] for k in k]
    np.testing.assert_allclose(transform(psi, k), by_quadrature, atol=1e-12)
    np.testing.assert_allclose(transform(psi, k) / transform(psi, k)[0], psi(k / c) / psi(0), atol=1e-10)


def test_polynomials_are_as_near_as_told():
    u = np.linspace(-1, 1, 101)
    for error in (1e-3, 1e-9):
        coefficients = chebyshev_fit(np.exp, error)
        assert abs(np.polynomial.polynomial.polyval(u, coefficients) - np.exp(u)).max() < 4 * error
    assert len(chebyshev_fit(np.exp, 1e-3)) < len(chebyshev_fit(np.exp, 1e-9))


# --- derivatives


def test_gradients_are_numerical_ones_twice():
    x, box = dilute(2)
    target = RigidWater(2, box, temperature=300.0)
    x = x.unsqueeze(0).requires_grad_()
    assert torch.autograd.gradcheck(target.energy, x, eps=1e-6, atol=1e-5)
    assert torch.autograd.gradgradcheck(target.energy, x, eps=1e-6, atol=1e-4)


def test_second_derivatives_agree_with_plain_autograd():
    x, box = dilute(5, (3,))
    target, v = RigidWater(5, box, temperature=300.0), torch.randn(3, 5, 7, dtype=DOUBLE)
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(target.energy(leaf).sum(), leaf, create_graph=True)
    (product,) = torch.autograd.grad((first * v).sum(), leaf)
    plain = torch.func.grad(lambda x: (torch.func.grad(lambda y: target.energy(y).sum())(x) * v).sum())(x)
    torch.testing.assert_close(product, plain, rtol=1e-9, atol=1e-9)


def test_gradients_are_tangent_to_quaternions_of_any_length():
    x, box = dilute(5)
    target = RigidWater(5, box, temperature=300.0)
    along = (gradient(target.energy, x) * x)[..., 3:].sum(-1)
    assert along.abs().max() < 1e-10
    longer = torch.cat([x[..., :3], 3 * x[..., 3:]], -1)
    torch.testing.assert_close(target.energy(longer), target.energy(x), rtol=1e-12, atol=1e-12)


def test_large_batches_and_batch_shapes():
    x, box = dilute(9, (7, 30))
    target = RigidWater(9, box, temperature=300.0)
    one_by_one = torch.stack([target.energy(y) for y in x.flatten(0, 1)[::37]])
    assert target.energy(x).shape == (7, 30)
    torch.testing.assert_close(target.energy(x).flatten()[::37], one_by_one, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        gradient(target.energy, x).flatten(0, 1)[::37],
        torch.stack([gradient(target.energy, y) for y in x.flatten(0, 1)[::37]]),
        rtol=1e-10,
        atol=1e-10,
    )
    assert target.energy(x[:0]).shape == (0, 30)
    assert gradient(target.energy, x[:0]).shape == (0, 30, 9, 7)


def test_threads_share_the_boxes():
    x, box = dilute(9, (7,))
    target, threads = RigidWater(9, box, temperature=300.0), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = gradient(target.energy, x)
        torch.set_num_threads(3)
        torch.testing.assert_close(gradient(target.energy, x), alone, rtol=1e-10, atol=1e-10)
    finally:
        torch.set_num_threads(threads)


def test_a_position_that_is_nan_is_told_in_its_box_alone():
    x, box = dilute(9, (3,))
    target = RigidWater(9, box, temperature=300.0)
    spoiled = x.clone()
    spoiled[1, 4, 0] = torch.nan
    energy = target.energy(spoiled)
    assert energy.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(energy[[0, 2]], target.energy(x)[[0, 2]], rtol=1e-12, atol=1e-12)
    assert gradient(target.energy, spoiled)[[0, 2]].isfinite().all()


@pytest.mark.parametrize("edge", [1.2, 1.35, 1.75, 1.95])  # of half of it, c, 2c²/c² is not always 2
@pytest.mark.parametrize("kind", [torch.float32, DOUBLE])
def test_charges_beyond_the_cutoff_do_not_pull(edge, kind):
    apart = torch.tensor([0.45, 0.1], dtype=kind).expand(3, 1, 1, 2)  # the second box within it
    s = torch.cat([torch.zeros_like(apart), apart], 2).expand(3, 3, 2, 2)
    _, slope = RigidWater(2, (edge,) * 3, temperature=300.0).ewald.near(
        s + 0.02 * torch.rand(3, 3, 1, 1), gradient=True
    )
    assert (slope[..., 0] == 0).all() and (slope[..., 1] != 0).any()


def test_vmap_and_compile():
    x, box = dilute(4, (3,))
    target = RigidWater(4, box, temperature=300.0)
    energy, slope = target.energy(x), gradient(target.energy, x)
    torch.testing.assert_close(torch.func.vmap(target.energy)(x), energy, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(target.energy))(x), slope, rtol=1e-10, atol=1e-10)
    compiled = torch.compile(target, fullgraph=True, backend="aot_eager")
    leaf = x.clone().requires_grad_()
    got = compiled(leaf)
    torch.testing.assert_close(got, energy, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(got.sum(), leaf)[0], slope, rtol=1e-10, atol=1e-10)


# --- what must not matter


def test_symmetries():
    x, box = dilute(6)
    target = RigidWater(6, box, temperature=300.0)
    energy = target.energy(x)
    images = x.clone()
    images[..., :3] += box * torch.randint(-2, 3, (6, 3))
    shifted = x.clone()
    shifted[..., :3] += torch.randn(3, dtype=DOUBLE)
    flipped = torch.cat([x[..., :3], x[..., 3:] * torch.tensor([1.0, -1, 1, -1, 1, -1]).unsqueeze(-1)], -1)
    for same in (images, shifted, flipped, x[torch.randperm(6)]):
        torch.testing.assert_close(target.energy(same), energy, rtol=1e-8, atol=1e-9)
    # a third of a turn about the diagonal takes x to y to z
    turn = rotation_vector_to_quaternion(torch.full((3,), 2 * math.pi / 3**1.5, dtype=DOUBLE))
    turned = torch.cat([x[..., [2, 0, 1]], hamilton_product(turn.expand(6, 4), x[..., 3:])], -1)
    elsewhere = RigidWater(6, box[[2, 0, 1]], temperature=300.0)
    torch.testing.assert_close(elsewhere.energy(turned), energy, rtol=1e-8, atol=1e-9)


def test_float32_errors_are_small_against_kt(dtype):
    target, x = stored_target(), sites_to_bodies(stored("sites")).to(dtype)
    energy = target.potential(x)
    assert energy.dtype == dtype
    tolerance = 2e-3 if dtype == torch.float32 else 1e-6  # kT is 2.08
    torch.testing.assert_close(energy.double(), target.potential(x.double()), rtol=0, atol=tolerance)
    exact = gradient(target.potential, x.double())
    assert (gradient(target.potential, x) - exact).abs().max() < 2e-5 * exact.abs().max()


def test_molecules_on_each_other_have_no_finite_energy():
    x, box = dilute(3)
    x[1, :3] = x[0, :3]
    assert not RigidWater(3, box, temperature=300.0).energy(x).isfinite()


# --- sites


@pytest.mark.parametrize("model", PARAMETERS)
def test_frame_is_that_of_the_model(model):
    o, h1, h2, m = RigidWater(1, (1.0, 1.0, 1.0), model, temperature=300.0).frame
    assert h1.norm() == pytest.approx(0.09572) and h2.norm() == pytest.approx(0.09572)
    assert math.degrees(torch.arccos(h1 @ h2 / h1.norm() / h2.norm())) == pytest.approx(104.52)
    assert m.norm() == pytest.approx(PARAMETERS[model][3], rel=1e-8) and o.norm() == 0
    torch.testing.assert_close(m / m.norm(), (h1 + h2) / (h1 + h2).norm())


def test_sites_and_bodies_undo_each_other():
    x, box = dilute(6, (4,))
    target = RigidWater(6, box, temperature=300.0)
    sites = target.sites(x)
    torch.testing.assert_close(bodies_to_sites(sites_to_bodies(sites), target.frame), sites)
    torch.testing.assert_close(target.sites(sites_to_bodies(stored("sites")[:, :6])), stored("sites")[:, :6])


# --- ice


@pytest.mark.parametrize("cells", [(2, 1, 1), (1, 2, 3)])
def test_ice_obeys_the_ice_rules(cells):
    bodies, box = ice_xi(cells, dtype=DOUBLE)
    n = len(bodies)
    assert n == 8 * math.prod(cells)
    sites = RigidWater(n, box, temperature=100.0).sites(bodies)
    images = torch.cartesian_prod(*[torch.arange(-1.0, 2.0, dtype=DOUBLE)] * 3) * box
    d = sites[None, None, :, 0] + images[:, None, None] - sites[:, None, 0]
    r = d.norm(dim=-1)
    neighbour = (r < 0.29) & (r > 0)
    assert (neighbour.sum((0, 2)) == 4).all()
    assert r[neighbour].min() > 0.27
    # a hydrogen lies within 8 degrees of a bond, gives it to one oxygen, and every oxygen gives two and takes two
    cosine = torch.einsum("akic,khc->akih", d, sites[:, 1:3] - sites[:, :1]) / (0.09572 * r.unsqueeze(-1))
    given = (cosine > math.cos(math.radians(8))) & neighbour.unsqueeze(-1)
    assert (given.sum((0, 2)) == 1).all() and (given.sum((0, 1, 3)) == 2).all()
    dipole = (sites[:, 1] + sites[:, 2] - 2 * sites[:, 0]).sum(0)
    assert dipole.abs().max() < 1e-10


def test_ice_lies_at_the_minimum_that_the_published_crystal_lies_at():
    start, box = ice_xi((2, 1, 1), dtype=DOUBLE)
    target = RigidWater(16, box, temperature=100.0, cutoff=0.36678)
    x = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([x], max_iter=150, history_size=40, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        energy = target.potential(x)
        energy.backward()
        return energy

    optimizer.step(closure)
    # the minimum below the 16 molecules of the crystal that rigid-body flows were published with, 2023
    assert target.potential(x.detach()).item() == pytest.approx(-990.587075, abs=1e-4, rel=0)
    assert (x - start)[:, :3].norm(dim=-1).max() < 0.03


# --- bad input


@pytest.mark.parametrize(
    "options, word",
    [
        ({"molecules": 0}, "molecules"),
        ({"box": (1.0, 1.0)}, "box"),
        ({"box": (1.0, 1.0, -1.0)}, "box"),
        ({"box": torch.eye(3)}, "box"),
        ({"model": "spc"}, "model"),
        ({"cutoff": 0.6}, "cutoff"),
        ({"cutoff": 0.4, "switch": 0.5}, "switch"),
        ({"temperature": 0.0}, "temperature"),
        ({"accuracy": 0.0}, "accuracy"),
    ],
)
def test_bad_arguments_are_named(options, word):
    with pytest.raises(ValueError, match=word):
        RigidWater(**({"molecules": 2, "box": (1.0, 1.0, 1.0), "temperature": 300.0} | options))


def test_a_title_tells_one_box_of_water_from_another():
    options = {"molecules": 2, "box": (2.0, 2.0, 2.5), "temperature": 250.0}
    text = title(RigidWater(**options))
    assert text == "RigidWater(2 tip4p-ew, 2×2×2.5 nm, cutoff=1, switch=0.9, accuracy=1e-08, temperature=250)"
    for other in (
        {"molecules": 3},
        {"box": (2.0, 2.0, 3.0)},
        {"model": "tip4p-ice"},
        {"cutoff": 0.95, "switch": 0.9},
        {"switch": 0.8},
        {"accuracy": 1e-5},
    ):
        assert title(RigidWater(**options | other)) != text


def test_bad_points_are_named():
    target = RigidWater(2, (1.0, 1.0, 1.0), temperature=300.0)
    with pytest.raises(ValueError, match="x must have shape"):
        target.energy(torch.zeros(3, 7))
    with pytest.raises(TypeError, match="x must be"):
        target.energy(torch.zeros(2, 7, dtype=torch.int64))
    with pytest.raises(ValueError, match="sites"):
        sites_to_bodies(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="cells"):
        ice_xi((1, 1))
    with pytest.raises(ValueError, match="cells"):
        ice_xi((1, 1, 0))
