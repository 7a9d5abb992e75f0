"""The contract of a target, as those meet it who write their own."""

import pytest
import registry
import torch

from flowgroup import boltzmann, flows


def target_of(energy):
    class Own(boltzmann.Target):
        event_shape = (2,)
        _energy = staticmethod(energy)

    return Own()


@pytest.mark.parametrize(
    ("energy", "got"),
    [
        (lambda x: x.square().sum(-1, keepdim=True), r"\(8,\), got \(8, 1\)"),
        (lambda x: x.square(), r"\(8,\), got \(8, 2\)"),
        (lambda x: x.square().sum(), r"\(8,\), got \(\)"),
        (lambda x: 1.0, r"\(8,\), got float"),
    ],
)
def test_energies_are_one_number_for_each_configuration(energy, got):
    target = target_of(energy)
    with pytest.raises(ValueError, match="_energy of Own must give a tensor of the batch shape " + got):
        target.energy(torch.randn(8, 2))
    generator = boltzmann.BoltzmannGenerator(flows.NSF(2, transforms=1, hidden_features=(8,)), target)
    with pytest.raises(ValueError, match="_energy of Own .* batch shape " + got):
        generator.fit(steps=1, batch_size=8, progress=False)
    with pytest.raises(ValueError, match="_energy of Own"):
        generator.report(8)


@pytest.mark.parametrize(
    "energy",
    [lambda x: 0.5 * x.detach().square().sum(-1), lambda x: torch.from_numpy((x.detach().numpy() ** 2).sum(-1))],
    ids=["detached", "numpy"],
)
def test_energies_without_a_gradient_are_named(energy):
    target = target_of(energy)
    flow = flows.NSF(2, transforms=1, hidden_features=(8,))
    generator = boltzmann.BoltzmannGenerator(flow, target)
    for call in (lambda: generator.fit(steps=1, batch_size=8, progress=False), lambda: target.force(torch.zeros(3, 2))):
        with pytest.raises(ValueError, match=r"energies must be computed from x by torch .* maximum_likelihood"):
            call()
    likelihood = {"objective": boltzmann.maximum_likelihood, "data": torch.randn(20, 2)}
    generator.fit(steps=1, batch_size=8, progress=False, **likelihood)
    assert generator.report(8).nonfinite == 0


def test_a_target_without_an_energy_says_what_to_define():
    class Own(boltzmann.Target):
        event_shape = (2,)

    with pytest.raises(NotImplementedError, match=r"Own must define _energy\(x\)"):
        Own().energy(torch.zeros(2))


def test_energies_of_one_configuration_and_inside_vmap_and_grad():
    target = target_of(lambda x: 0.5 * x.square().sum(-1))
    x = torch.randn(3, 4, 2)
    assert target.energy(x[0, 0]).shape == () and target.energy(x).shape == (3, 4)
    torch.testing.assert_close(torch.func.vmap(target.energy)(x), target.energy(x))
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(target.energy))(x[0]), x[0])


def test_a_target_in_coordinates_has_the_same_z():
    """In one coordinate, by quadrature, under a map with a slope that varies."""
    well = boltzmann.ManyWell(2)
    spline = registry.shake_(flows.Elementwise(flows.RationalQuadraticSpline(bins=4, bound=3.0), 2)).double()
    target = boltzmann.InCoordinates(well, spline)
    assert target.log_z == well.log_z
    axis = torch.linspace(-6, 6, 801, dtype=torch.float64)
    y = torch.cartesian_prod(axis, axis)
    log_z = (-target.energy(y)).logsumexp(0) + 2 * (axis[1] - axis[0]).log()
    assert abs(log_z.item() - well.log_z) < 1e-4
    u, force = target.force(y[:5])
    x, logdet = spline.inverse(y[:5])
    torch.testing.assert_close(u, well.energy(x) - logdet)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: target.energy(v)))(y[:5])
    torch.testing.assert_close(force, -jacobian)


def test_a_target_in_coordinates_joins_a_flow_there():
    """Two temperatures of the double wells, in coordinates without the motion of their centre."""
    hot, cold = (boltzmann.InCoordinates(boltzmann.DW4(), flows.MeanFreeChart(4, 2)) for _ in range(2))
    start = 2 * torch.randn(20, 6)
    rows = boltzmann.mcmc(hot, start, steps=5, warmup=20, progress=False).x.flatten(0, 1)
    flow = flows.Flow(flows.NSF(6, transforms=1, hidden_features=(8,)).transform, boltzmann.SampleBase(hot, rows))
    report = boltzmann.BoltzmannGenerator(flow, cold).report(100)
    assert report.nonfinite == 0 and "InCoordinates(DW4(" in str(report) and "MeanFreeChart" in str(report)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: boltzmann.InCoordinates(torch.nn.Linear(2, 2), flows.LULinear(2)), TypeError, "target must be"),
        (lambda: boltzmann.InCoordinates(boltzmann.ManyWell(2), torch.nn.Linear(2, 2)), TypeError, "transform must be"),
        (
            lambda: boltzmann.InCoordinates(boltzmann.ManyWell(4), flows.LULinear(2)),
            ValueError,
            r"\(2,\), but .*\(4,\)",
        ),
        (
            lambda: boltzmann.InCoordinates(boltzmann.ManyWell(2), flows.NSF(2, context=1).transform),
            ValueError,
            "no context",
        ),
    ],
)
def test_wrong_coordinates(make, error, text):
    with pytest.raises(error, match=text):
        make()
