"""The examples run, and show what they promise."""

import importlib.util
import sys
from pathlib import Path
from statistics import fmean

import matplotlib.image
import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(request, monkeypatch):
    spec = importlib.util.spec_from_file_location(request.param, EXAMPLES / f"{request.param}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, request.param, module)  # where dataclasses look for the types of their fields
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("example", ["density_estimation"], indirect=True)
def test_density_estimation(example, tmp_path, capsys):
    path = tmp_path / "new" / "picture.png"
    scores = example.main(["--quick", "--output", str(path)])
    nll = {method: {name: -log_prob.mean().item() for name, log_prob in s.items()} for method, s in scores.items()}

    assert nll["flow"]["moons"] < nll["Gaussian"]["moons"] - 0.5
    assert nll["true density"]["moons"] < nll["flow"]["moons"]  # on 5000 points nothing estimated beats the truth
    assert nll["flow"]["digits"] < nll["Gaussian"]["digits"] - 5
    assert f"| flow | {nll['flow']['moons']:.3f} ±" in capsys.readouterr().out
    picture = matplotlib.image.imread(path)
    assert picture.shape[0] > 500 and picture.shape[1] > 800 and picture.std() > 0.1


SPD_EXAMPLE = pytest.mark.parametrize("example", ["spd_classification"], indirect=True)


@SPD_EXAMPLE
def test_spd_classification(example, tmp_path, capsys):
    path = tmp_path / "new" / "picture.png"
    scores = example.main(["--quick", "--output", str(path)])
    accuracy = {method: fmean(s.accuracy) for method, s in scores.items()}

    # one class of ten is right in 10 % of cases
    assert accuracy["LieBN, affine-invariant"] > accuracy["no normalization"] + 10 > 30
    assert sum(method.startswith("LieBN") for method in accuracy) == 5
    assert all(accuracy[m] > accuracy["no normalization"] for m in accuracy if m.startswith("LieBN"))
    assert f"| LieBN, log-Cholesky | {accuracy['LieBN, log-Cholesky']:.1f} ±" in capsys.readouterr().out
    picture = matplotlib.image.imread(path)
    assert picture.shape[0] > 500 and picture.shape[1] > 800 and picture.std() > 0.1


@SPD_EXAMPLE
def test_spd_data_from_files(example, tmp_path):
    x = np.random.default_rng(0).normal(size=(2, 20, 3, 50)).astype(np.float32)
    y = np.tile(np.repeat([4, 7], 10), (2, 1))
    session = np.tile([0, 1, 2, 3, 4], 4)
    covariances = np.stack([np.cov(signals) for signals in x.reshape(-1, 3, 50)]).reshape(2, 20, 3, 3)
    i, j = np.triu_indices(3)
    unit = np.exp(np.log(np.linalg.eigvalsh(covariances)).mean())

    def tasks(**arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        return example.from_file(tmp_path / "data.npz")

    by_session = tasks(covariances=1e-4 * covariances, y=y, session=session)
    assert len(by_session) == 2
    for task, X in zip(by_session, torch.tensor(covariances / unit, dtype=torch.float32)):
        for rows, which in zip(task, ((0, 1, 2), (3,), (4,))):
            torch.testing.assert_close(rows.X, X[np.isin(session, which)])
            assert rows.y.tolist() == (y[0][np.isin(session, which)] == 7).astype(int).tolist()

    # the same matrices in other forms: triangles, rows of named subjects, and, but for shrinkage, signals
    flat = covariances.reshape(40, 3, 3)
    others = [
        tasks(cov_triu=covariances[:, :, i, j], label=y, session=session),
        tasks(covariances=flat, y=y.ravel(), subject=np.repeat([8, 9], 20), session=np.tile(session, 2)),
        tasks(x=x, y=y, session=session),
    ]
    for other, tolerance in zip(others, (1e-6, 1e-6, 2e-3)):
        for task, same in zip(by_session, other):
            for rows, again in zip(task, same):
                torch.testing.assert_close(again.X, rows.X, rtol=1e-5, atol=2 * tolerance)
                assert (again.y == rows.y).all()

    # a split that has nothing to choose by gives a fifth of what there is to train on
    task = tasks(covariances=flat, y=y.ravel(), split=np.repeat([0, 2], [25, 15]))[0]
    assert len(task.train.y) + len(task.validation.y) == 25 and len(task.test.y) == 15
    assert {len(rows.y) for rows in tasks(covariances=flat, y=y.ravel())[0]} == {24, 8}


@SPD_EXAMPLE
def test_spd_filter_bank_keeps_its_bands(example):
    t = torch.arange(500) / 125
    x = torch.sin(2 * torch.pi * 10.0 * t) + 3 * torch.cos(2 * torch.pi * 7.0 * t)
    near_10, near_7 = example.filter_bank(x[None, None], sampling=125.0, bands=(10.0, 7.0))[0][:, 100:400]
    torch.testing.assert_close(near_10, torch.sin(2 * torch.pi * 10.0 * t)[100:400], rtol=0, atol=0.02)
    torch.testing.assert_close(near_7, 3 * torch.cos(2 * torch.pi * 7.0 * t)[100:400], rtol=0, atol=0.02)


@SPD_EXAMPLE
@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"y": np.zeros(5)}, "must hold covariances or cov_triu or x"),
        ({"covariances": np.tile(np.eye(3), (5, 1, 1))}, "must hold y or label"),
        ({"covariances": np.tile(np.eye(3), (5, 1, 1)), "y": np.zeros(4)}, "do not fit"),
        ({"covariances": np.tile(np.diag([1.0, -1.0]), (9, 1, 1)), "y": np.arange(9)}, "positive definite"),
        ({"cov_triu": np.ones((9, 5)), "y": np.arange(9)}, "n\\(n\\+1\\)/2"),
        ({"covariances": np.tile(np.eye(3), (9, 1, 1)), "y": np.arange(9), "split": np.arange(9)}, "split"),
        ({"covariances": np.tile(np.eye(3), (9, 1, 1)), "y": np.arange(9), "session": np.zeros(9)}, "to train"),
        ({"covariances": np.tile(np.eye(3), (9, 1, 1)), "y": np.arange(9), "session": np.zeros(3)}, "session"),
    ],
)
def test_spd_data_that_do_not_fit(example, tmp_path, arrays, message):
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        example.from_file(tmp_path / "data.npz")


@pytest.mark.parametrize("example", ["alanine_dipeptide"], indirect=True)
def test_alanine_dipeptide(example, tmp_path, capsys):
    pytest.importorskip("openmm", reason="OpenMM comes with the extra flowgroup[boltzmann]")
    path = tmp_path / "new" / "picture.png"
    out = example.main(["--quick", "--output", str(path)])
    report, F, error = out["report"], out["F"], out["error"]

    # −201.2 kT by trained flows: wrong volumes of coordinates, or units of energies, miss it by far
    assert abs(report.log_z.value + 201.2) < 5
    assert report.nonfinite == 0
    assert F.shape == error.shape == (36,) and F.min() == 0
    assert F[14:21].mean() > F[:12].mean()  # the barrier at φ = 0
    assert f"| -145 | 0.00 | {F[3]:.2f} ± {error[3]:.2f} |" in capsys.readouterr().out
    picture = matplotlib.image.imread(path)
    assert picture.shape[0] > 300 and picture.shape[1] > 800 and picture.std() > 0.1


@pytest.mark.parametrize("example", ["alanine_dipeptide"], indirect=True)
def test_alanine_dipeptide_free_energies(example):
    x = torch.tensor([[[0.1, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.15], [0.0, 0.2, 0.15]]])
    assert example.torsion(x, (0, 1, 2, 3)).item() == pytest.approx(np.pi / 2)
    assert example.torsion(x * torch.tensor([1.0, -1.0, 1.0]), (0, 1, 2, 3)).item() == pytest.approx(-np.pi / 2)
    phi = torch.tensor([-3.1, -3.1, 3.1, 0.01], dtype=torch.float64)
    F = example.free_energy(phi)
    assert F[0] == 0 and F[35] == F[18] == pytest.approx(np.log(2)) and F[1:18].isinf().all()
    F = example.free_energy(phi, torch.tensor([0.0, 0.0, np.log(4), -np.inf], dtype=torch.float64))
    assert F[35] == 0 and F[0] == pytest.approx(np.log(2)) and F[18].isinf()


@pytest.mark.parametrize("example", ["lennard_jones"], indirect=True)
def test_lennard_jones(example, tmp_path, capsys):
    path = tmp_path / "new" / "picture.png"
    found = example.main(["--quick", "--output", str(path)])
    # 33 harmonic vibrations above the lowest energy −260.4 kT would have 16.5 kT
    assert abs(found["reference"] + 242) < 5 and abs(found["energy"] + 242) < 5
    # a flow that has learned nothing misses it by far
    assert abs(found["log Z"] - 206) < 3 and found["ESS"] > 1e-3
    assert f"log Z = {found['log Z']:.3f} ±" in capsys.readouterr().out
    picture = matplotlib.image.imread(path)
    assert picture.shape[0] > 300 and picture.shape[1] > 800 and picture.std() > 0.1


@pytest.mark.parametrize("example", ["flexible_water"], indirect=True)
def test_flexible_water(example, tmp_path, capsys):
    path = tmp_path / "new" / "picture.png"
    found = example.main(["--quick", "--output", str(path)])
    report, reference = found["report"], found["reference"]
    # −50.519 ± 0.002 by 1,000,000 samples; rotations counted twice would be 2 log 2 = 1.4 off
    assert abs(reference.value + 50.519) < 0.05 and reference.error < 0.02
    assert abs(report.log_z.value + 50.519) < 0.08 and report.ess > 0.3 and report.nonfinite == 0
    assert f"| {reference} | {report.log_z} |" in capsys.readouterr().out
    for estimate in (found["flow"], found["Monte Carlo"]):
        assert estimate[2].value == pytest.approx(101.36, abs=0.2)  # pm
    picture = matplotlib.image.imread(path)
    assert picture.shape[0] > 300 and picture.shape[1] > 800 and picture.std() > 0.1


@pytest.mark.parametrize("example", ["flexible_water"], indirect=True)
def test_flexible_water_energies(example):
    """Bonds of r₀ + 1 pm, angles of θ₀ + 0.1; a pair far apart that feels its dipoles; the charges of SPC."""
    target = example.WaterInCages(torch.tensor([[0.0, 0.0, -5.0], [0.0, 0.0, 5.0]], dtype=torch.float64), 0.03, 300.0)
    kT = 0.00831446261815324 * 300
    r, half = 0.1012 + 1e-3, (np.deg2rad(113.24) + 0.1) / 2
    still = torch.tensor([[0, 0, 0], [r * np.sin(half), 0, r * np.cos(half)], [-r * np.sin(half), 0, r * np.cos(half)]])
    x = (target.cages.unsqueeze(1) + still + torch.tensor([0.03, 0.0, 0.0])).flatten(0, 1)
    alone = 2 * (443153.3808 * 1e-6 + 0.5 * 317.5656 * 0.01) / kT + 2 * 0.5
    assert target.alone(x).item() == pytest.approx(alone, rel=1e-6)
    dipole = 2 * 0.41 * r * np.cos(half)
    assert target.together(x).item() == pytest.approx(-2 * 138.935457644382 * dipole**2 / 10**3 / kT, rel=1e-3)
