"""Correlation matrices agree with stored numbers, closed forms, root finders and autograd."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch

from flowgroup.manifolds import Correlation, correlation

METRICS = ["ecm", "lecm", "olm", "lsm"]
STORED = json.loads((Path(__file__).parent / "data" / "correlation.json").read_text())

every_metric = pytest.mark.parametrize("metric", METRICS)


def stored(name):
    return torch.tensor(STORED[name], dtype=torch.float64)


def close(got, expected, atol):
    torch.testing.assert_close(got, expected, rtol=0, atol=atol)


def correlations(n, condition, count=50, positive=False):
    """Random correlation matrices of about this condition number; `positive`: the nearly lost direction is positive."""
    if positive:
        v = torch.nn.functional.normalize(torch.rand(count, n, 1, dtype=torch.float64) + 0.2, dim=1)
        P = torch.eye(n, dtype=torch.float64) - (1 - 1 / condition) * v @ v.mT
    else:
        Q = torch.linalg.qr(torch.randn(count, n, n, dtype=torch.float64)).Q
        w = condition ** -torch.rand(count, n, dtype=torch.float64)
        w[:, 0], w[:, 1] = 1, 1 / condition
        P = (Q * w.unsqueeze(-2)) @ Q.mT
    d = P.diagonal(dim1=-2, dim2=-1).rsqrt()
    return d.unsqueeze(-1) * P * d.unsqueeze(-2)


@every_metric
def test_stored_batches(metric):
    manifold = Correlation(5, metric)
    C, chart = stored("C"), stored(f"{metric}_def").flatten(1)
    v = manifold.to_model(C)
    # coordinates are those of the chart in some orthonormal basis: inner products are the same
    close(v @ v.mT, chart @ chart.mT, 1e-12)
    mean = manifold.frechet_mean(C)
    close(mean, stored(f"{metric}_mean"), 1e-13)
    variance = manifold.dist2(mean, C).mean()
    close(variance, stored(f"{metric}_var"), 1e-13)
    centred = manifold.left_divide(mean, C)
    scaled = manifold.dilation(centred)[1](stored("s") / (variance + 1e-5).sqrt())
    close(manifold.compose(stored("B"), scaled), stored(f"{metric}_out"), 1e-13)


@every_metric
@pytest.mark.parametrize("n", [2, 3, 12])
def test_chart_there_and_back(metric, n, dtype, device):
    manifold = Correlation(n, metric)
    C = correlations(n, 30.0).to(device, dtype)
    back = manifold.from_model(manifold.to_model(C))
    assert manifold.contains(back).all()
    close(back, C, 500 * torch.finfo(dtype).eps)


def test_off_log_agrees_with_a_root_finder():
    manifold = Correlation(4, "olm")
    for v in torch.randn(5, 6, dtype=torch.float64):
        C = manifold.from_model(v)
        V = scipy.linalg.logm(C.numpy())
        V = V - torch.tensor(V).diagonal().diag().numpy()

        def excess(d, V=V):
            return scipy.linalg.expm(V + torch.tensor(d).diag().numpy()).diagonal() - 1

        d = scipy.optimize.root(excess, x0=[0.0] * 4, tol=1e-13).x
        expected = scipy.linalg.expm(V + torch.tensor(d).diag().numpy())
        close(C, torch.tensor(expected), 1e-11)
        assert torch.linalg.vector_norm(v).item() == pytest.approx(float((V**2).sum() ** 0.5), rel=1e-12)


def test_log_scaled_agrees_with_a_root_finder():
    manifold = Correlation(4, "lsm")
    for C in correlations(4, 50.0, count=5):

        def cost(s, C=C):  # in s = log d: other patterns of signs have solutions as well
            return 0.5 * np.exp(s) @ C.numpy() @ np.exp(s) - s.sum()

        def slope(s, C=C):
            return np.exp(s) * (C.numpy() @ np.exp(s)) - 1

        near = scipy.optimize.minimize(cost, np.zeros(4), jac=slope).x
        d = np.exp(scipy.optimize.root(slope, near, tol=1e-13).x)
        expected = scipy.linalg.logm(d[:, None] * C.numpy() * d)
        got = torch.linalg.vector_norm(manifold.to_model(C)).item()
        assert got == pytest.approx(float((expected**2).sum() ** 0.5), rel=1e-10)


@pytest.mark.parametrize("metric", ["olm", "lsm"])
@pytest.mark.parametrize("n", [2, 5, 20])
def test_permutations_are_isometries(metric, n):
    manifold, order = Correlation(n, metric), torch.randperm(n)
    C, other = correlations(n, 100.0, 8), correlations(n, 100.0, 8)
    moved = [x[:, order][:, :, order] for x in (C, other)]
    torch.testing.assert_close(manifold.dist(*moved), manifold.dist(C, other), rtol=1e-11, atol=0)


@pytest.mark.parametrize("n", [3, 10, 30])
@pytest.mark.parametrize("condition", [1e2, 1e5, 1e9])
@pytest.mark.parametrize("positive", [False, True])
def test_solvers_reach_rounding(n, condition, positive, dtype):
    if dtype == torch.float32 and condition > 1e6:
        pytest.skip("not positive definite in float32")
    C, eps = correlations(n, condition, positive=positive).to(dtype), torch.finfo(dtype).eps
    d, _ = correlation._solve_unit_rows(C)
    A = d.unsqueeze(-1) * C * d.unsqueeze(-2)
    assert (d > 0).all()
    assert ((A.sum(-1) - 1).abs() <= 16 * eps * A.abs().sum(-1)).all()
    log = torch.tensor(scipy.linalg.logm(C.double().numpy())).to(dtype)
    log = 0.5 * (log + log.mT)
    V = log - torch.diag_embed(log.diagonal(dim1=-2, dim2=-1))
    d, w, U, *_ = correlation._solve_unit_diagonal(V)
    close(V + torch.diag_embed(d), (U * w.unsqueeze(-2)) @ U.mT, 50 * eps * w.abs().max().item())
    diagonal = (U.square() * w.exp().unsqueeze(-2)).sum(-1)
    assert ((diagonal - 1).abs() <= 16 * math.sqrt(n) * eps * (1 + V.abs().amax((-2, -1))).unsqueeze(-1)).all()


@pytest.mark.parametrize("metric", ["olm", "lsm"])
def test_operators_are_right_for_torch(metric):
    # under vmap and in compiled graphs of any backend: shapes, strides, no aliasing of arguments
    solve = {"olm": correlation._solve_unit_diagonal, "lsm": correlation._solve_unit_rows}[metric]
    C = correlations(4, 30.0, 3)
    torch.library.opcheck(solve, (C,))
    for one, several in zip(torch.func.vmap(solve, in_dims=1)(C.movedim(0, 1)), solve(C)):
        close(one, several, 1e-14)


def along_the_manifold(f, C):
    """t ↦ f(C + tU) for a random tangent U: what may be differentiated by differences."""
    tangent = torch.randn_like(C).tril(-1)
    return lambda t, *rest: f(C + t * (tangent + tangent.mT), *rest)


@every_metric
def test_chart_has_two_derivatives(metric):
    manifold = Correlation(3, metric)
    v = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    t = torch.zeros(2, 1, 1, dtype=torch.float64, requires_grad=True)
    to_model = along_the_manifold(manifold.to_model, manifold.from_model(v.detach()))
    for f, x in ((manifold.from_model, v), (to_model, t)):
        assert torch.autograd.gradcheck(f, x)
        assert torch.autograd.gradgradcheck(f, x)


@every_metric
def test_push_and_pull_are_the_derivatives_of_the_chart(metric):
    manifold = Correlation(4, metric)
    C = manifold.random(3, 4, 4, dtype=torch.float64)
    u = manifold.proju(C, torch.randn_like(C))
    v, w = manifold.to_model(C), manifold.push(C, u)
    h = 1e-5
    close(w, (manifold.to_model(C + h * u) - manifold.to_model(C - h * u)) / (2 * h), 1e-8)
    close(manifold.pull(v, w), u, 1e-12)
    close(manifold.pull(v, w), (manifold.from_model(v + h * w) - manifold.from_model(v - h * w)) / (2 * h), 1e-8)
    t = torch.zeros(3, 1, 1, dtype=torch.float64)
    for f, x, y in ((along_the_manifold(manifold.push, C), t, u), (manifold.pull, v, w)):
        assert torch.autograd.gradcheck(f, (x.requires_grad_(), y.requires_grad_()))


@every_metric
def test_volume_density_is_the_jacobian_of_the_chart(metric):
    manifold = Correlation(4, metric)
    i, j = torch.tril_indices(4, 4, -1)
    for C in manifold.random(3, 4, 4, dtype=torch.float64):

        def chart(entries):
            lower = torch.zeros(4, 4, dtype=torch.float64).index_put((i, j), entries)
            return manifold.to_model(lower + lower.mT + torch.eye(4, dtype=torch.float64))

        jacobian = torch.func.jacrev(chart)(C[i, j])
        expected = torch.linalg.slogdet(jacobian).logabsdet
        close(manifold.log_volume_density(C), expected, 1e-12)


def test_volume_density_in_closed_form():
    # n = 2: ecm has φ = r/√(1 − r²), olm √2·atanh r, lsm ½·log((1 − r)/(1 + r)) times √2/√2
    r = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64)
    C = torch.stack([torch.ones_like(r), r, r, torch.ones_like(r)], -1).unflatten(-1, (2, 2))
    s = 1 - r * r
    expected = {"ecm": s**-1.5, "lecm": s**-1.5, "olm": math.sqrt(2) / s, "lsm": 2 / s}
    for metric, density in expected.items():
        close(Correlation(2, metric).log_volume_density(C), density.log(), 1e-13)


@every_metric
def test_projection(metric, dtype):
    manifold = Correlation(4, metric)
    P = torch.randn(20, 4, 4, dtype=dtype)
    P = P @ P.mT + torch.eye(4, dtype=dtype)
    d = P.diagonal(dim1=-2, dim2=-1).rsqrt()
    close(manifold.projx(3.0 * P), d.unsqueeze(-1) * P * d.unsqueeze(-2), 16 * torch.finfo(dtype).eps)
    for x in (torch.zeros(4, 4), -torch.eye(4), torch.ones(4, 4), 1e3 * torch.randn(50, 4, 4)):
        projected = manifold.projx(x.to(dtype))
        assert manifold.contains(projected).all()


@pytest.mark.parametrize(
    "x, why",
    [
        (torch.tensor([[1.0, 0.5], [0.2, 1.0]]), "is not symmetric: it differs from its transpose by up to 0.3"),
        (torch.tensor([[1.0, 0.5], [0.5, 2.0]]), "has no unit diagonal: it differs from ones by up to 1"),
        (torch.tensor([[1.0, 1.5], [1.5, 1.0]]), "is not positive definite: its smallest eigenvalue is -0.5"),
        (torch.tensor([[1.0, math.nan], [0.5, 1.0]]), "holds NaN or infinite values"),
    ],
)
def test_why_not(x, why):
    manifold = Correlation(2)
    assert not manifold.contains(x)
    assert why in manifold.why_not(torch.stack([torch.eye(2), x]))
    assert manifold.why_not(torch.eye(2)) is None


def test_bad_arguments():
    with pytest.raises(ValueError, match="metric must be one of ecm, lecm, olm, lsm, got 'euclid'"):
        Correlation(3, metric="euclid")
    with pytest.raises(ValueError, match="n must be at least 2, got 1"):
        Correlation(1)
    with pytest.raises(ValueError, match="n must be a positive integer"):
        Correlation(2.0)
