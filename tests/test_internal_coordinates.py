"""Internal coordinates: the chemists' conventions, the volume, precision, and what is no Z-matrix."""

import math

import pytest
import torch

from flowgroup import distributions, flows, manifolds

CHAIN = flows.z_matrix([(0, 1), (1, 2), (2, 3)])
BRANCHED = [(0, 1), (1, 2), (1, 3), (3, 4), (3, 5), (0, 6), (0, 7), (0, 8), (4, 9)]


def test_values_of_a_known_molecule():
    # H–O–O–H: bonds of 0.1, 0.15 and 0.2 nm, right angles
    x = torch.tensor([[0.1, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.15], [0.0, 0.2, 0.15]], dtype=torch.float64)
    y, logdet = flows.InternalCoordinates(CHAIN)(x)
    torsion, angles, bonds = y.split((1, 2, 3))
    assert CHAIN == [(1, -1, -1, -1), (2, 1, -1, -1), (0, 1, 2, -1), (3, 2, 1, 0)]
    # seen from 2 to 1, along −z, the atom behind (0) is a quarter turn clockwise from the one in front (3): positive
    assert torsion.item() == pytest.approx(math.pi / 2)
    assert angles.abs().max() < 1e-12
    torch.testing.assert_close(bonds.exp(), torch.tensor([0.15, 0.1, 0.2], dtype=torch.float64))
    assert logdet.item() == pytest.approx(-3 * math.log(0.15 * 0.1 * 0.2))
    stiff = flows.InternalCoordinates(CHAIN, {3: 1.0})(x)[0]
    assert stiff[0].item() == pytest.approx(2 * math.tan((math.pi / 2 - 1.0) / 2))


@pytest.mark.parametrize("stiff", [{}, {5: 1.0, 9: -2.0}])
def test_volume_is_that_of_positions_less_rigid_motions(stiff):
    """dx = dvol dt dω: the determinant of all 3n derivatives, of x in y, in the position and in the orientation."""
    t = flows.InternalCoordinates(flows.z_matrix(BRANCHED), stiff)
    y = torch.randn(t.out_shape, dtype=torch.float64)
    x, logdet = t.inverse(y)
    jacobian = torch.autograd.functional.jacobian(lambda y: t.inverse(y)[0].flatten(), y)
    e = torch.eye(3, dtype=x.dtype)
    moves = e.expand(10, 3, 3).flatten(0, 1)
    turns = torch.stack([torch.linalg.cross(axis.expand_as(x), x).flatten() for axis in e], -1)
    expected = torch.linalg.slogdet(torch.cat((jacobian, moves, turns), -1))[1]
    torch.testing.assert_close(logdet, expected)


def test_pose_is_taken_out():
    t = flows.InternalCoordinates(flows.z_matrix(BRANCHED))
    x = torch.randn(7, 10, 3, dtype=torch.float64)
    rotation = torch.linalg.matrix_exp(torch.tensor([[0, -0.3, 2.0], [0.3, 0, 0.7], [-2.0, -0.7, 0]]).double())
    moved = x @ rotation + torch.randn(3, dtype=x.dtype)
    for got, expected in zip(t(moved), t(x)):
        torch.testing.assert_close(got, expected)
    again = t.inverse(t(x)[0])[0]
    torch.testing.assert_close(torch.cdist(again, again), torch.cdist(x, x))
    a, b, c = (again[:, i] for i in t.manifold.frame)
    assert (a == 0).all() and (b[:, :2] == 0).all() and (b[:, 2] > 0).all() and (c[:, 1] == 0).all()
    assert (c[:, 0] > 0).all()
    torch.testing.assert_close(t.manifold.projx(x), again)
    mirrored = t(x * torch.tensor([1.0, 1.0, -1.0], dtype=x.dtype))[0]
    torch.testing.assert_close(mirrored[:, :7], -t(x)[0][:, :7])


def test_float32_is_right_near_straight_angles_and_small_bonds():
    t = flows.InternalCoordinates(CHAIN)
    y = torch.tensor([[3.1, -7.0, 7.0, -2.3, -4.0, 1.0], [-3.1, 5.0, -5.0, -2.3, -2.2, -2.1]], dtype=torch.float64)
    x, logdet = t.inverse(y)
    x32, logdet32 = t.inverse(y.float())
    assert (x32 - x).abs().max() < 1e-6 and (logdet32 - logdet).abs().max() < 1e-5
    back, log_volume = t(x.float())
    assert (back - y)[:, 1:].abs().max() < 2e-3  # an angle e⁻⁷ from straight, of positions rounded at 1e-7
    assert (log_volume + logdet).abs().max() < 5e-3


def test_stiff_torsions_are_those_that_stay():
    rows = flows.z_matrix(BRANCHED)
    t = flows.InternalCoordinates(rows)
    y = torch.randn(t.out_shape)[None].repeat(200, 1)
    y[:, 0] = math.pi - 0.3 + 0.6 * torch.rand(200)  # across the cut
    y[:, 1] = 2 * math.pi * torch.rand(200)
    stiff = flows.stiff_torsions(rows, t.inverse(y)[0])
    assert rows[4][0] not in stiff and len(stiff) == 6
    assert abs(math.remainder(stiff[rows[3][0]] - math.pi, 2 * math.pi)) < 0.1
    assert flows.InternalCoordinates(rows, stiff).torsions == 1


@pytest.mark.parametrize(
    "rows, message",
    [
        (CHAIN[:2], "at least three rows"),
        ([*CHAIN[:3], (3, 2, 1, 1)], r"3 different atoms of earlier rows in row 3, got \(3, 2, 1, 1\)"),
        ([*CHAIN[:3], (3, 2, 1, 4)], "earlier rows in row 3"),
        ([*CHAIN[:3], (0, 2, 1, 0)], "every atom from 0 to 3 once"),
    ],
)
def test_what_is_no_z_matrix(rows, message):
    with pytest.raises(ValueError, match=message):
        flows.InternalCoordinates(rows)


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"stiff must name atoms that have a torsion.*got \[0\]"):
        flows.InternalCoordinates(CHAIN, {0: 0.0})
    with pytest.raises(ValueError, match="2 of 5 are apart"):
        flows.z_matrix([(0, 1), (1, 2), (3, 4)])
    with pytest.raises(ValueError, match="without gaps"):
        flows.z_matrix([(0, 1), (1, 2), (2, 4)])
    with pytest.raises(ValueError, match=r"shape \(\.\.\., 4, 3\)"):
        flows.InternalCoordinates(CHAIN)(torch.zeros(3, 3))
    numbers, angles = flows.NSF(2), flows.NCSF(3)
    with pytest.raises(ValueError, match="transform 1 must take a context of size 6, got 0"):
        flows.ChainRule(angles.transform, numbers.transform)
    with pytest.raises(TypeError, match="transform 0 must be"):
        flows.ChainRule(numbers)


def test_chain_rule_is_the_product_of_conditional_densities():
    angles, numbers = flows.NCSF(2, context=3, transforms=1), flows.NSF(3, context=7, transforms=2)
    flow = flows.Flow(
        flows.ChainRule(angles.transform, numbers.transform, context=3), flows.Product(angles.base, numbers.base)
    )
    x, c = torch.randn(5, 5), torch.randn(5, 3)
    seen = torch.stack((x[:, 0].cos(), x[:, 0].sin(), x[:, 1].cos(), x[:, 1].sin()), -1)
    expected = angles.log_prob(x[:, :2], c) + numbers.log_prob(x[:, 2:], torch.cat((seen, c), -1))
    torch.testing.assert_close(flow.log_prob(x, c), expected)


def test_independent_parts():
    space = manifolds.Product(manifolds.Torus(2), manifolds.Sphere(2), manifolds.Euclidean(1))
    parts = (
        distributions.VonMises(torch.zeros(2), torch.tensor([2.0, 5.0])),
        distributions.SphereUniform(2),
        distributions.DiagonalNormal(torch.tensor([3.0]), torch.tensor([0.5])),
    )
    p = distributions.Product(space, *parts)
    x = p.sample((4000,))
    expected = parts[0].log_prob(x[:, :2]) - math.log(4 * math.pi) + parts[2].log_prob(x[:, 5:])
    torch.testing.assert_close(p.log_prob(x), expected)
    assert space.contains(x).all() and p.support.check(x).all()
    assert (x[:, 5].mean() - 3).abs() < 0.04 and x[:, 2:5].mean(0).abs().max() < 0.05
    assert p.has_rsample and p.rsample((3, 2)).shape == (3, 2, 6)
    several = distributions.DiagonalNormal(torch.arange(7.0)[:, None], 0.1 * torch.ones(7, 1))
    x = distributions.Product(space, *parts[:2], several).sample((50,))
    assert x.shape == (50, 7, 6) and (x[..., 5].mean(0) - torch.arange(7.0)).abs().max() < 0.1
    assert not torch.equal(x[:, 0, :5], x[:, 1, :5])
    with pytest.raises(TypeError, match="manifold must be a product"):
        distributions.Product(manifolds.Sphere(2), parts[1])
    with pytest.raises(ValueError, match="must have the event shapes of the factors"):
        distributions.Product(space, *parts[:2])
    with pytest.raises(ValueError, match="part 0 must have vectors of numbers or of angles"):
        flows.Product(flows.BoxUniform([0.0], [1.0]))
