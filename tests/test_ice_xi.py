"""The example of ice XI: its symmetries, its energies, and the free energy it finds."""

import importlib.util
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch

from flowgroup import boltzmann

EXAMPLE = Path(__file__).parents[1] / "examples" / "ice_xi.py"


@pytest.fixture
def example(monkeypatch):
    spec = importlib.util.spec_from_file_location("ice_xi", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "ice_xi", module)
    spec.loader.exec_module(module)
    return module


def displaced(n):
    """Crystals with their molecules moved a little, each its own way."""
    sites, _ = boltzmann.ice_xi((2, 1, 1))
    x = sites + 0.01 * torch.randn(n, *sites.shape)
    x[..., 3:] = torch.nn.functional.normalize(x[..., 3:], dim=-1)
    return x


def test_images_are_eight_crystals_of_one_energy(example):
    x = displaced(3)
    u = example.water(100.0).energy(example.images(x)).view(8, 3)
    assert (u - u[0]).abs().max() < 0.02
    assert len(example.images(x).round(decimals=4).flatten(1).unique(dim=0)) == 24


def test_openmm_agrees(example):
    pytest.importorskip("openmm")
    assert example.openmm_deviation(displaced(5)).abs().max() < 0.3  # that of its particle mesh


def test_frames_of_molecular_dynamics_are_put_in_order(example, tmp_path):
    x = displaced(41)
    atoms = example.water(250.0).sites(x)
    order, swapped = torch.randperm(16), torch.rand(16) < 0.5
    atoms = torch.where(swapped[:, None, None], atoms[:, :, [0, 2, 1, 3]], atoms)[:, order]
    frames = np.stack((np.zeros((41, 64, 3)), atoms.flatten(1, 2).numpy()))
    np.savez(tmp_path / "md.npz", temperature_K=[100.0, 250.0], positions_nm=frames)
    y = example.frames(tmp_path / "md.npz", blocks=4)
    assert y.shape == (10, 4, 16, 7)
    y = y.movedim(1, 0).flatten(0, 1)  # all but the first frame, blocks one after the other
    torch.testing.assert_close(y[..., :3], x[1:, :, :3], atol=1e-5, rtol=0)
    assert (y[..., 3:] * x[1:, :, 3:]).sum(-1).abs().min() > 1 - 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["axes", "rigid"])
def test_ice_xi(example, tmp_path, capsys, name):
    path = tmp_path / "new" / "ice.png"
    results = example.main(["--quick", "--map", name, "--output", str(path)])
    for result in results.values():
        assert abs(result.difference.value - example.REFERENCE) < 1.5  # kT, of a difference of 670
        assert 0 < result.gap < 4
    assert results["flow"].gap < results["contraction"].gap
    assert "after 1280 energies at 100 K" in capsys.readouterr().out
    assert matplotlib.image.imread(path).std() > 0.05
