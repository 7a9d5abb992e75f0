"""The contract of a target, as those meet it who write their own."""

import pytest
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
    with pytest.raises(ValueError, match="batch shape " + got):
        generator.fit(steps=1, batch_size=8, progress=False)


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
