"""Poses beside internal coordinates: the conventions, the volume with both quaternions, boxes, and whole flows."""

import math

import pytest
import torch

from flowgroup import boltzmann, flows, groups, manifolds

WATER = flows.z_matrix([(0, 1), (0, 2)])
CHAIN = flows.z_matrix([(0, 1), (1, 2), (2, 3), (3, 4)])


def shaken(module, scale=0.3):
    """Away from the identity that flows start as."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(scale * torch.randn_like(p) / (p[0].numel() if p.dim() > 1 else 1) ** 0.5)
    return module


def water_flow(molecules=2, **options):
    """Internal coordinates, then poses under them."""
    n = 3 * molecules
    rigid = flows.RigidBodyFlow(molecules, context=n, transforms=1, width=16, **options)
    atoms = flows.FlexibleMolecules(molecules, WATER, box=options.get("box"))
    parts = flows.ChainRule(flows.LULinear(n), rigid.transform)
    base = flows.Product(flows.DiagonalNormal(n), rigid.base)
    return shaken(flows.Flow(flows.Sequential(atoms, parts), base))


def other_quaternions(t, y, signs):
    """y with quaternions of these signs (molecules,)."""
    *parts, poses = t.space.split(y)
    return t.space.join(*parts, torch.cat((poses[..., :3], poses[..., 3:] * signs[:, None]), -1))


def test_values_of_a_known_molecule():
    # bonds of 0.1 and 0.2 nm at a right angle, the first along y and the second along z
    x = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.1, 3.0], [1.0, 2.0, 3.2]], dtype=torch.float64)
    t = flows.FlexibleMolecules(1, WATER)
    y, logdet = t(x)
    internal, pose = t.space.split(y)
    expected = torch.tensor([0.0, math.log(0.1), math.log(0.2)], dtype=torch.float64)
    torch.testing.assert_close(internal, expected)
    torch.testing.assert_close(pose[0, :3], x[0])
    R = torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=torch.float64)  # x to z, y to x, z to y
    torch.testing.assert_close(groups.quaternion_to_matrix(pose[0, 3:]), R)
    assert pose[0, 3] > 0
    assert logdet.item() == pytest.approx(-3 * math.log(0.1 * 0.2) - math.log(4))


@pytest.mark.parametrize("stiff", [{}, {4: 1.0}])
def test_volume_is_lebesgue_measure_of_all_atoms(stiff):
    """The determinant of the atoms in internal coordinates, positions and turns of two molecules, 8π² for all turns."""
    t = flows.FlexibleMolecules(2, CHAIN, stiff)
    assert isinstance(t.space.factors[0], manifolds.Torus) and t.space.factors[0].dim == 4 - 2 * len(stiff)
    y, inward = t(torch.randn(10, 3, dtype=torch.float64))
    *parts, poses = t.space.split(y)

    def atoms(moves):
        internal, positions, turns = moves.split((18, 6, 6))
        q = groups.hamilton_product(groups.rotation_vector_to_quaternion(turns.unflatten(0, (2, 3))), poses[:, 3:])
        return t.inverse(torch.cat((internal, torch.cat((positions.unflatten(0, (2, 3)), q), -1).flatten())))[0]

    start = torch.cat((*parts, poses[:, :3].flatten(), poses.new_zeros(6)))
    jacobian = torch.autograd.functional.jacobian(lambda moves: atoms(moves).flatten(), start)
    expected = torch.linalg.slogdet(jacobian)[1] + 2 * math.log(8 * math.pi**2 / (2 * math.pi**2))
    torch.testing.assert_close(t.inverse(y)[1], expected)
    torch.testing.assert_close(inward, -expected)


def test_rigid_motions_move_poses_alone():
    t = flows.FlexibleMolecules(2, CHAIN)
    x = torch.randn(7, 2, 5, 3, dtype=torch.float64)
    q = groups.UnitQuaternions().random(7, 2, 4, dtype=x.dtype)
    shift = torch.randn(7, 2, 1, 3, dtype=x.dtype)
    moved = x @ groups.quaternion_to_matrix(q).mT + shift
    (y, logdet), (z, again) = t(x.flatten(1, 2)), t(moved.flatten(1, 2))
    torch.testing.assert_close(again, logdet)
    (*same, before), (*others, after) = t.space.split(y), t.space.split(z)
    for got, expected in zip(others, same):
        torch.testing.assert_close(got, expected)
    turned = groups.UnitQuaternions().compose(q, before[..., 3:])
    torch.testing.assert_close(turned * (turned * after[..., 3:]).sum(-1, keepdim=True).sign(), after[..., 3:])
    assert (after[..., 3] >= 0).all()


def test_pose_of_water_moves_its_sites():
    frame = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.1], [0.09, 0.0, -0.03]], dtype=torch.float64)
    bodies = flows.FreeBodies(4).double().distribution().sample((5,))
    t = flows.FlexibleMolecules(4, WATER)
    internal, poses = t.space.split(t(boltzmann.bodies_to_sites(bodies, frame).flatten(1, 2))[0])
    sign = torch.where(bodies[..., 3:4] < 0, -1.0, 1.0).to(bodies)
    torch.testing.assert_close(poses, torch.cat((bodies[..., :3], sign * bodies[..., 3:]), -1))
    angle, first, second = internal.unflatten(-1, (4, 3)).unbind(-1)
    torch.testing.assert_close(first, torch.full_like(first, math.log(0.1)))
    torch.testing.assert_close(second, torch.full_like(second, math.log(0.09**2 + 0.03**2) / 2))
    cosine = torch.full_like(angle, -0.03 / math.hypot(0.09, 0.03))
    torch.testing.assert_close(torch.cos(2 * angle.exp().atan()), cosine)


@pytest.mark.parametrize("box", [None, (1.0, 1.2, 0.9)])
def test_both_quaternions_are_one_molecule(box):
    flow = water_flow(box=box).double()
    x, log_prob = flow.rsample_and_log_prob((50,))
    t = flow.transform[0]
    y, logdet = t(x)
    signs = torch.tensor([-1.0, 1.0]).double()
    for got, expected in zip(t.inverse(other_quaternions(t, y, signs)), (x, -logdet)):
        torch.testing.assert_close(got, expected)
    # samples come from quaternions of either sign, densities are read at those with w ≥ 0
    torch.testing.assert_close(flow.log_prob(x), log_prob)


def test_torsions_then_numbers_then_poses():
    t = flows.FlexibleMolecules(2, CHAIN, box=(1.0, 1.2, 0.9))
    torsions, numbers = flows.NCSF(4, transforms=1), flows.NSF(14, context=8, transforms=1)
    rigid = flows.RigidBodyFlow(2, (1.0, 1.2, 0.9), context=22, transforms=1, width=16)
    parts = flows.ChainRule(torsions.transform, numbers.transform, rigid.transform)
    base = flows.Product(torsions.base, numbers.base, rigid.base)
    flow = shaken(flows.Flow(flows.Sequential(t, parts), base)).double()
    flow(flow.sample((64,)))  # ActNorm starts from its first batch
    x, log_prob = flow.rsample_and_log_prob((20,))
    a, b, poses = t.space.split(t(x)[0])
    seen = torch.stack((a.cos(), a.sin()), -1).flatten(-2)
    joint = torsions.log_prob(a) + numbers.log_prob(b, seen) + rigid.log_prob(poses, torch.cat((b, seen), -1))
    torch.testing.assert_close(log_prob, joint + t(x)[1])


def test_images_of_molecules_are_one():
    box = (1.0, 1.2, 0.9)
    flow = water_flow(box=box).double()
    x = flow.sample((20,))
    moved = x.unflatten(1, (2, 3)) + torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])[:, None] * x.new_tensor(box)
    torch.testing.assert_close(flow.log_prob(moved.flatten(1, 2)), flow.log_prob(x))


class Springs(boltzmann.Target):
    """Two molecules in a harmonic well, with springs on bonds and on the cosine of the angle between them."""

    event_shape = torch.Size((6, 3))

    def _energy(self, x):
        x = x.unflatten(-2, (2, 3))
        bonds = x[..., 1:, :] - x[..., :1, :]
        r = bonds.norm(dim=-1)
        cosine = bonds.prod(-2).sum(-1) / r.prod(-1)
        well = (x[..., 0, :] / 1.5).square().sum(-1)
        return 0.5 * (well + ((r - 1) / 0.15).square().sum(-1) + ((cosine + 0.3) / 0.2).square()).sum(-1)

    @property
    def log_z(self):
        """Twice that of one molecule: a Gaussian, 8π² orientations, and integrals on the line."""
        r, cosine = (torch.linspace(*ends, 2001, dtype=torch.float64) for ends in ((0.0, 3.0), (-1.0, 1.0)))
        bond = torch.trapezoid(r * r * (-0.5 * ((r - 1) / 0.15) ** 2).exp(), r)
        angle = torch.trapezoid((-0.5 * ((cosine + 0.3) / 0.2) ** 2).exp(), cosine)
        return 2 * math.log((2 * math.pi) ** 1.5 * 1.5**3 * 8 * math.pi**2 * bond**2 * angle)


def test_log_z_of_atoms_by_quadrature():
    """Weights of a flow of any parameters have the mean Z: a rotation counted once, twice or by radians is seen."""
    torch.manual_seed(0)
    mean, covariance = torch.tensor([0.3, 0.0, 0.0]).repeat(2), torch.tensor([0.25, 0.2, 0.2]).repeat(2).square().diag()
    rigid = shaken(flows.RigidBodyFlow(2, context=6, transforms=1, width=16, base=flows.FreeBodies(2, scale=2.0)), 0.1)
    parts = flows.ChainRule(flows.Whitening(mean, covariance), rigid.transform)
    base = flows.Product(flows.DiagonalNormal(6), rigid.base)
    flow = flows.Flow(flows.Sequential(flows.FlexibleMolecules(2, WATER), parts), base)
    target = Springs()
    report = boltzmann.BoltzmannGenerator(flow, target).report(30_000)
    assert report.ess > 0.05
    assert abs(report.log_z.value - target.log_z) < 4 * report.log_z.error < 0.15


def test_chains_along_poses_and_internal_coordinates():
    """Their atoms are those of the target: the mean cosine of the angle and the mean bond by quadrature."""
    torch.manual_seed(0)
    t = flows.FlexibleMolecules(2, WATER)
    target = boltzmann.InCoordinates(Springs(), t)
    start = t.space.origin(400, *t.out_shape)
    kernel = boltzmann.HMC(leapfrog=4, step_size=0.1)
    chain = boltzmann.mcmc(target, start, kernel, steps=40, warmup=40, progress=False)
    x = t.inverse(chain.x)[0].unflatten(-2, (2, 3))
    assert t.space.contains(chain.x).all()
    bonds = x[..., 1:, :] - x[..., :1, :]
    r = bonds.norm(dim=-1)
    cosine = bonds.prod(-2).sum(-1) / r.prod(-1)
    for values, ends, u, power in (
        (r, (0.0, 3.0), lambda r: 0.5 * ((r - 1) / 0.15) ** 2, 2),
        (cosine, (-1.0, 1.0), lambda c: 0.5 * ((c + 0.3) / 0.2) ** 2, 0),
    ):
        s = torch.linspace(*ends, 2001, dtype=torch.float64)
        p = s**power * (-u(s)).exp()
        expected = torch.trapezoid(s * p, s) / torch.trapezoid(p, s)
        means = values.flatten(2).mean((0, 2))  # of independent chains
        assert (means.mean() - expected).abs() < 4 * means.std() / 20 < 0.02


def test_float32_is_right():
    t = flows.FlexibleMolecules(3, CHAIN)
    x = 0.15 * torch.arange(15.0, dtype=torch.float64)[:, None] + 0.1 * torch.randn(200, 15, 3, dtype=torch.float64)
    x = x.float().double()
    (y, logdet), (y32, logdet32) = t(x), t(x.float())
    sure = logdet < logdet.median()  # no atoms on a line
    torsions, line, _ = (a - b for a, b in zip(t.space.split(y32[sure]), t.space.split(y[sure])))
    assert manifolds.constraints.wrap(torsions).abs().max() < 2e-3 and line.abs().max() < 1e-3
    back = t.inverse(y32[sure])[0]
    assert (back - x[sure]).abs().max() < 5e-6
    torch.testing.assert_close(logdet32[sure].double(), logdet[sure], rtol=1e-4, atol=1e-3)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="molecules must be a positive integer, got 0"):
        flows.FlexibleMolecules(0, WATER)
    with pytest.raises(ValueError, match="box must be three positive edges"):
        flows.FlexibleMolecules(2, WATER, box=(1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="at least three rows"):
        flows.FlexibleMolecules(2, WATER[:2])
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 6, 3\), got \(2, 3, 3\)"):
        flows.FlexibleMolecules(2, WATER)(torch.zeros(2, 3, 3))
    with pytest.raises(ValueError, match="y must lie in the manifold Product"):
        flows.FlexibleMolecules(1, WATER).inverse(torch.zeros(10))
