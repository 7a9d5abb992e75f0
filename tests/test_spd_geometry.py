"""Distances, geodesics, means and transport of SPD metrics against values of 50-digit arithmetic."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from flowgroup.manifolds import SPD

STORED = json.loads((Path(__file__).parent / "data" / "spd_geometry.json").read_text())
ALL = Path(__file__).resolve().parent.parent.parent / "shared" / "oracles" / "spd.npz"
METRICS = {"aim": "affine-invariant", "lem": "log-euclidean", "lcm": "log-cholesky"}


def load(case):
    """The values of a case: a few are kept here, all of them beside the repository."""
    if case == "here":
        values = STORED
    elif ALL.exists():
        with np.load(ALL) as file:
            values = {k.removeprefix(f"{case}_"): file[k] for k in file.files if k.startswith(f"{case}_")}
    else:
        pytest.skip(f"{ALL.name} is not beside the repository")
    return {k: torch.as_tensor(v, dtype=torch.float64) for k, v in values.items()}


def assert_near(got, expected, tolerance):
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("case", ["here", "n4", "ill"])
@pytest.mark.parametrize("short", METRICS)
def test_distances_geodesics_and_means(case, short):
    values = load(case)
    P, Q = values["P"], values["Q"]
    manifold = SPD(P.shape[-1], METRICS[short])
    ill = case == "ill"
    tolerance = (1e-5 if short == "aim" else 1e-9) if ill else 1e-11
    assert_near(manifold.dist(P, Q), values[f"dist_{short}"], tolerance)
    assert_near(manifold.geodesic(P, Q, 0.3), values[f"geo_{short}"], tolerance)
    tolerance = 1e-7 if ill and short == "aim" else 1e-10
    assert_near(manifold.frechet_mean(values["mX"]), values[f"mean_{short}"], tolerance)
    assert_near(manifold.frechet_mean(values["mX"], values["mw"]), values[f"mean_{short}_w"], tolerance)


@pytest.mark.parametrize("case", ["here", "n4", "ill"])
def test_affine_invariant_maps(case):
    values = load(case)
    P, Q, V = values["P"], values["Q"], values["V"]
    manifold = SPD(P.shape[-1])
    tolerance = 1e-5 if case == "ill" else 1e-11
    assert_near(manifold.logmap(P, Q), values["logmap_aim"], tolerance)
    assert_near(manifold.expmap(P, V), values["expmap_aim"], tolerance)
    assert_near(manifold.transp(P, Q, V), values["transport_aim"], 1e-7 if case == "ill" else 1e-11)
