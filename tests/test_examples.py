"""The examples run, and show what they promise."""

import importlib.util
from pathlib import Path

import matplotlib.image
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(request):
    spec = importlib.util.spec_from_file_location(request.param, EXAMPLES / f"{request.param}.py")
    module = importlib.util.module_from_spec(spec)
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
