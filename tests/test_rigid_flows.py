"""Flows on rigid bodies: even in quaternions, periodic in the box, equivariant under exchange; and maps of crystals."""

import math

import pytest
import registry
import torch

from flowgroup import bijections, boltzmann, flows
from flowgroup.groups import UnitQuaternions, rotation_vector_to_quaternion
from flowgroup.manifolds import RigidBodies
from flowgroup.nn import BodyAttention

BOX = (1.0, 1.2, 0.9)


def rigid_flow(bodies=3, **options):
    options = {"box": BOX, "transforms": 2, "width": 8, "blocks": 1} | options
    return registry.shake_(flows.RigidBodyFlow(bodies, **options)).double()


def poses(n, bodies=3, box=BOX):
    return RigidBodies(bodies, box).random(n, bodies, 7, dtype=torch.float64)


def some_signs(x):
    """The same rotations, of some the other quaternion."""
    signs = torch.where(torch.rand(x.shape[:-1]) < 0.5, -1.0, 1.0).to(x).unsqueeze(-1)
    return torch.cat((x[..., :3], signs * x[..., 3:]), -1), signs


every_rotation_map = pytest.mark.parametrize(
    "rotations",
    [None, bijections.ProjectiveMoebius(3), bijections.AxisSpline(4), bijections.AxisMoebius(3, "body")],
    ids=lambda b: "default" if b is None else repr(b),
)


@every_rotation_map
@pytest.mark.parametrize("exchangeable", [False, True])
def test_maps_are_odd_in_moved_quaternions_and_even_in_those_read(rotations, exchangeable):
    flow = rigid_flow(rotations=rotations, exchangeable=exchangeable)
    x = poses(6)
    turned, signs = some_signs(x)
    y, logdet = flow.transform(x)
    again, same = flow.transform(turned)
    torch.testing.assert_close(again[..., :3], y[..., :3])
    torch.testing.assert_close(again[..., 3:], signs * y[..., 3:])
    torch.testing.assert_close(same, logdet)
    torch.testing.assert_close(flow.log_prob(turned), flow.log_prob(x))


def test_exchange_of_identical_bodies():
    order = torch.tensor([2, 0, 3, 1])
    x = poses(5, 4)
    flow = rigid_flow(4, exchangeable=True)
    torch.testing.assert_close(flow.transform(x[:, order])[0], flow.transform(x)[0][:, order])
    torch.testing.assert_close(flow.log_prob(x[:, order]), flow.log_prob(x))
    apart = rigid_flow(4)
    assert (apart.log_prob(x[:, order]) - apart.log_prob(x)).abs().max() > 1e-3


@pytest.mark.parametrize("positions", [None, "spline", "moebius"])
@pytest.mark.parametrize("sites", [None, registry._SITES])
def test_images_of_a_body_are_one(sites, positions):
    flow = rigid_flow(sites=sites, positions=positions)
    x = poses(5)
    moved = x.clone()
    moved[..., :3] += torch.tensor(BOX, dtype=torch.float64) * torch.randint(-2, 3, (5, 3, 3))
    torch.testing.assert_close(flow.log_prob(moved), flow.log_prob(x))
    space = RigidBodies(3, BOX)
    assert space.dist(space.projx(flow.transform(moved)[0]), space.projx(flow.transform(x)[0])).max() < 1e-9


@pytest.mark.parametrize("box", [BOX, None])
@pytest.mark.parametrize("positions", [None, "spline"])
def test_floating_sites_move_with_the_crystal(box, positions):
    if box is None and positions is not None:
        positions = bijections.Affine()
    options = {"box": box, "sites": registry._SITES, "positions": positions}
    x = registry.near_sites(registry._SITES, BOX)(4, dtype=torch.float64)
    moved = x + torch.tensor([0.3, -0.2, 0.1, 0, 0, 0, 0])
    t = rigid_flow(**options).transform
    (y, logdet), (z, same) = t(x), t(moved)
    difference = z[..., :3] - y[..., :3]
    torch.testing.assert_close(RigidBodies(3, box).wrap(difference), (moved - x)[..., :3])
    torch.testing.assert_close(z[..., 3:], y[..., 3:])
    torch.testing.assert_close(same, logdet)
    fixed = rigid_flow(**options, floating=False).transform
    assert (fixed(moved)[1] - fixed(x)[1]).abs().max() > 1e-3


def test_sites_in_double_precision_will_do():
    sites = registry._SITES.double()
    crystal = flows.CrystalTransform(flows.LULinear(15), sites, BOX)
    for t in (rigid_flow(sites=sites).float().transform, flows.RigidBodyFlow(3, BOX, sites=sites).transform, crystal):
        x = registry.near_sites(registry._SITES, BOX)(4)
        y, logdet = t(x)
        assert y.dtype == logdet.dtype == torch.float32
        assert RigidBodies(3, BOX).dist(t.inverse(y)[0], x).max() < 1e-4
    shaken = rigid_flow(sites=sites)  # whose digits are kept
    x = registry.near_sites(registry._SITES, BOX)(4, dtype=torch.float64)
    assert RigidBodies(3, BOX).dist(shaken.transform.inverse(shaken.transform(x)[0])[0], x).max() < 1e-9


def test_crystals_start_where_they_are():
    x = registry.near_sites(registry._SITES, BOX, spread=0.1)(20)
    y, logdet = flows.RigidBodyFlow(3, BOX, sites=registry._SITES).transform(x)
    assert RigidBodies(3, BOX).dist(x, y).max() < 0.05
    assert logdet.abs().max() < 0.5


def test_what_networks_see_of_a_crystal_is_about_one():
    t = flows.RigidCoupling(3, "rotations", BOX, "half", sites=registry._SITES, spread=(0.02, 0.1))
    seen = []
    t.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    q = UnitQuaternions().compose(registry._SITES[:, 3:], rotation_vector_to_quaternion(0.1 * torch.randn(500, 3, 3)))
    t(torch.cat((registry._SITES[:, :3] + 0.02 * torch.randn(500, 3, 3), q), -1))
    lengths = seen[0][..., :1, :-1].square().mean((0, 1)).sqrt()  # of the body that stays
    assert len(lengths) == 15 and 0.4 < lengths.min() and lengths.max() < 2.5


def test_one_coordinate_moves_by_the_others_of_all_bodies():
    t = registry.shake_(flows.RigidCoupling(3, "y", BOX, exchangeable=True, width=8, blocks=1)).double()
    x = poses(4)
    y = t(x)[0]
    assert torch.equal(y[..., [0, 2, 3, 4, 5, 6]], x[..., [0, 2, 3, 4, 5, 6]])
    far = x.clone()
    far[:, 2, 0] += 0.2
    assert (t(far)[0] - y)[:, 0, 1].abs().min() > 1e-6
    far = x.clone()
    far[:, 2, 1] += 0.2
    torch.testing.assert_close(t(far)[0][:, :2], y[:, :2])


@pytest.mark.parametrize("side", ["space", "body"])
def test_turns_keep_the_axis_and_see_it_of_all_bodies(side):
    turn = bijections.AxisSpline(4, side)
    t = registry.shake_(flows.RigidCoupling(3, "turns", BOX, bijection=turn, width=8, blocks=1)).double()
    x = poses(4)
    y = t(x)[0]
    group = UnitQuaternions()
    axis = group.act(torch.nn.functional.normalize(t.frame, dim=0), torch.tensor([0.0, 0.0, 1.0]).double())
    before, after = x[..., 3:], y[..., 3:]
    if side == "space":
        before, after = group.inverse(before), group.inverse(after)
    torch.testing.assert_close(group.act(after, axis), group.act(before, axis))
    assert torch.equal(y[..., :3], x[..., :3])
    assert group.dist(x[..., 3:], y[..., 3:]).min() > 1e-4
    far = x.clone()
    far[:, 2, 3:] = group.random(4, dtype=torch.float64)
    assert group.dist(t(far)[0][:, 0, 3:], y[:, 0, 3:]).max() > 1e-4


def test_density_of_one_body_integrates_to_one():
    flow = rigid_flow(1, transforms=3)
    n = 40_000
    x = poses(n, 1)
    with torch.no_grad():
        p = flow.log_prob(x).exp() * RigidBodies(1, BOX).volume
    assert p.std() > 0.1  # it is not the uniform one
    assert abs(p.mean() - 1) < 4 * p.std() / n**0.5


def test_free_bodies_have_the_density_of_their_samples():
    # of positions by the closed form of the normal distribution, of rotations 1/(2π²)
    x = flows.FreeBodies(2, scale=0.5).distribution().sample((1000,))
    normal = torch.distributions.Normal(0.0, 0.5).log_prob(x[..., :3]).sum((-2, -1))
    expected = normal - 2 * math.log(2 * math.pi**2)
    torch.testing.assert_close(flows.FreeBodies(2, scale=0.5).log_prob(x), expected)
    assert abs(x[..., :3].std() - 0.5) < 0.02
    torch.testing.assert_close(
        flows.FreeBodies(2, BOX).log_prob(x), torch.full((1000,), -2 * math.log(math.prod(BOX) * 2 * math.pi**2))
    )


class Dipoles(boltzmann.Target):
    """Bodies whose dipoles feel a field along z that turns over along x, and that repel each other near in x and y."""

    def __init__(self, bodies, field, repulsion):
        super().__init__()
        space = RigidBodies(bodies, BOX)
        self.event_shape, self.support = torch.Size(space.event_shape), space.constraint
        self.log_unit_volume = math.log(space.volume)  # Z is an average over all configurations
        self.field, self.repulsion = field, repulsion
        self.pairs = torch.triu_indices(bodies, bodies, 1)

    def _energy(self, x):
        angle = 2 * math.pi * x[..., :3] / x.new_tensor(BOX)
        up = UnitQuaternions().act(x[..., 3:], x.new_tensor([0.0, 0.0, 1.0]))[..., 2]
        return self.repulsion * self.near(angle[..., 0], angle[..., 1]) - self.field * (angle[..., 0].cos() * up).sum(
            -1
        )

    def near(self, x, y):
        i, j = self.pairs
        return ((1 + (x[..., i] - x[..., j]).cos()) * (1 + (y[..., i] - y[..., j]).cos()) / 4).sum(-1)

    def log_z_by_quadrature(self, points=16):
        """Rotations by their closed form sinh(h)/h, the angles of x and of y, but for the first y, on a grid."""
        n = self.event_shape[0]
        grid = torch.meshgrid(*[torch.arange(points).double() * (2 * math.pi / points)] * (2 * n - 1), indexing="ij")
        x, y = torch.stack(grid[:n], -1), torch.stack((torch.zeros_like(grid[0]), *grid[n:]), -1)
        h = self.field * x.cos()
        h = torch.where(h.abs() < 1e-6, 1e-6, h)
        log_weight = (h.sinh() / h).log().sum(-1) - self.repulsion * self.near(x, y)
        return (log_weight.flatten().logsumexp(0) - math.log(log_weight.numel())).item()


def test_dipoles_have_the_free_energy_of_uniform_samples():
    target = Dipoles(2, 2.0, 4.0)
    w = (-target.energy(RigidBodies(2, BOX).random_uniform(100_000, 2, 7))).exp()
    assert abs(w.mean() - math.exp(target.log_z_by_quadrature())) < 4 * w.std() / len(w) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("exchangeable", "ess"), [(True, 0.25), (False, 0.4)])
def test_a_fluid_of_three_dipoles_learned_from_energies(exchangeable, ess):
    target = Dipoles(3, 2.0, 4.0)
    exact = target.log_z_by_quadrature()
    assert exact == pytest.approx(target.log_z_by_quadrature(12), abs=1e-6)
    torch.manual_seed(0)
    flow = flows.RigidBodyFlow(3, BOX, transforms=2, exchangeable=exchangeable, width=32, blocks=1)
    generator = boltzmann.BoltzmannGenerator(flow, target)
    generator.fit(steps=200, batch_size=256, progress=False)
    report = generator.report(samples=10_000)
    assert abs(report.log_z.value - exact) < 4 * report.log_z.error
    # of uniform samples it is 0.05, and at most 0.36 with the right density of each body but independent ones
    assert report.ess > ess


def crystal(transform=None, box=BOX):
    transform = flows.LULinear(15) if transform is None else transform
    return registry.shake_(flows.CrystalTransform(transform, registry._SITES, box)).double()


@pytest.mark.parametrize("box", [BOX, None])
def test_a_crystal_moves_as_a_whole(box):
    t = crystal(box=box)
    x = registry.near_sites(registry._SITES, BOX)(4, dtype=torch.float64)
    y, logdet = t(x)
    shift = torch.tensor([0.3, -2.0, 0.1])
    z, same = t(torch.cat((x[..., :3] + shift, x[..., 3:]), -1))
    torch.testing.assert_close(z, torch.cat((y[..., :3] + shift, y[..., 3:]), -1))
    torch.testing.assert_close(same, logdet)


def test_other_images_and_quaternions_are_the_same_crystal():
    t = crystal()
    x = registry.near_sites(registry._SITES, BOX)(4, dtype=torch.float64)
    y, logdet = t(x)
    turned, signs = some_signs(x)
    turned[:, 1:, :3] += torch.tensor(BOX, dtype=torch.float64) * torch.randint(-2, 3, (4, 2, 3))
    z, same = t(turned)
    torch.testing.assert_close(z[..., :3], y[..., :3])
    torch.testing.assert_close(z[..., 3:], signs * y[..., 3:])
    torch.testing.assert_close(same, logdet)


def test_small_displacements_and_turns_are_scaled():
    still = torch.zeros(15)
    t = crystal(flows.Sequential(flows.Whitening(still, 4 * torch.eye(15)), flows.Whitening(still, torch.eye(15)).inv))
    group = UnitQuaternions()
    sites = t.sites
    d = torch.tensor([[1.0, -2.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 1.0, -1.0]]).double() * 1e-2  # mean zero
    v = torch.tensor([[3.0, 1.0, -2.0], [0.0, 2.0, 1.0], [1.0, 1.0, 1.0]]).double() * 1e-3
    for factor, at in ((1.0, 0), (0.5, 1)):
        turns = rotation_vector_to_quaternion(factor * v)
        poses = torch.cat((sites[:, :3] + factor * d, group.compose(sites[:, 3:], turns)), -1)
        if at == 0:
            y, logdet = t(poses)
        else:
            torch.testing.assert_close(y, poses, atol=1e-8, rtol=0)
    torch.testing.assert_close(logdet, torch.tensor(15 * math.log(0.5)).double(), atol=1e-5, rtol=0)


def test_coordinates_and_poses_are_inverse():
    t = crystal()
    v = 0.3 * torch.randn(6, 15, dtype=torch.float64)
    x, logdet = t.poses(v)
    again, back = t.coordinates(x)
    torch.testing.assert_close(again, v)
    torch.testing.assert_close(back, -logdet)


def test_far_displacements_come_back():
    space = RigidBodies(3, BOX)
    t = crystal()
    x = space.random(50, 3, 7, dtype=torch.float64)
    y, logdet = t(x)
    z, back = t.inverse(y)
    assert space.dist(space.projx(z), space.projx(x)).max() < 1e-6
    torch.testing.assert_close(back, -logdet, atol=1e-6, rtol=1e-6)


def test_whitening_of_samples():
    x = torch.randn(500, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64) + 5
    y, logdet = flows.Whitening(x.mean(0), x.mT.cov())(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-10, rtol=0)
    torch.testing.assert_close(y.mT.cov(), torch.eye(3, dtype=torch.float64), atol=1e-10, rtol=0)
    torch.testing.assert_close(logdet[0], -0.5 * torch.linalg.slogdet(x.mT.cov())[1])


def test_attention_knows_bodies_apart_only_where_told():
    x, order = torch.randn(2, 5, 3), torch.tensor([4, 2, 0, 1, 3])
    alike, apart = BodyAttention(3, 2, width=8), BodyAttention(3, 2, bodies=5, width=8)
    torch.testing.assert_close(alike(x[:, order]), alike(x)[:, order])
    assert (apart(x[:, order]) - apart(x)[:, order]).abs().max() > 1e-2
    far = x.clone()
    far[:, 4] += 1
    assert (alike(far)[:, 0] - alike(x)[:, 0]).abs().max() > 1e-4  # every body is seen by all


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: flows.RigidCoupling(2, "velocities"), ValueError, "moved must be one of"),
        (lambda: flows.RigidCoupling(2, "positions", bijection=3), TypeError, "bijection must be"),
        (lambda: flows.RigidCoupling(2, "positions", BOX, bijection=flows.Affine()), ValueError, "bijection must map"),
        (lambda: flows.RigidCoupling(2, "rotations", bijection=flows.Affine()), ValueError, "bijection must map"),
        (
            lambda: flows.RigidCoupling(3, "rotations", sites=registry._SITES, exchangeable=True),
            ValueError,
            "exchangeable bodies have no sites",
        ),
        (lambda: flows.RigidBodyFlow(2, box=(1.0, -1.0, 1.0)), ValueError, "box must be three positive edges"),
        (
            lambda: flows.RigidCoupling(3, "positions", sites=registry._SITES),
            ValueError,
            "some positions must stay",
        ),
        (lambda: flows.RigidCoupling(3, "turns", mask="half"), ValueError, "mask must be None for turns"),
        (
            lambda: flows.RigidCoupling(3, "turns", bijection=bijections.ProjectiveLinear(3)),
            ValueError,
            "an AxisSpline",
        ),
        (lambda: flows.RigidBodyFlow(2, BOX, spread=(0.0, 0.1)), ValueError, "spread must be two positive"),
        (lambda: flows.RigidBodyFlow(2, BOX, positions="cubic"), ValueError, "must be 'spline' or 'moebius'"),
        (lambda: flows.RigidBodyFlow(0), ValueError, "bodies must be a positive integer"),
        (lambda: crystal(flows.LULinear(14)), ValueError, "vectors of size 15"),
        (lambda: crystal("linear"), TypeError, "transform must be"),
        (lambda: flows.CrystalTransform(flows.LULinear(9), torch.zeros(2, 7)), ValueError, "sites must lie in"),
        (lambda: flows.Whitening(torch.zeros(2), torch.eye(3)), ValueError, "mean and covariance"),
        (lambda: flows.FreeBodies(2, scale=0.0), ValueError, "scale must be positive"),
        (lambda: BodyAttention(3, 2, width=10, heads=4), ValueError, "width must be a multiple"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()
