"""What the layers of SPD networks compute, how precisely, and how they refuse bad input."""

import math

import geoopt
import numpy as np
import pytest
import scipy.linalg
import sklearn.covariance
import torch
from torch import nn

from flowgroup.linalg import vech
from flowgroup.nn import BiMap, CovariancePooling, ExpEig, LogEig, ReEig, SPDNet

SCALES = (1e-6, 1.0, 1e6)
SPECTRUM = (1.0, 1.0, 1.0, 2.0, 2.0, 30.0, 100.0)
"""Repeated eigenvalues, condition number 100."""


def with_spectrum(w, batch=16, dtype=torch.float64):
    w = torch.tensor(w, dtype=torch.float64)
    Q = torch.linalg.qr(torch.randn(batch, len(w), len(w), dtype=torch.float64))[0]
    X = (Q * w) @ Q.mT
    return (0.5 * (X + X.mT)).to(dtype)


def random_spd(batch, n, dtype=torch.float64):
    X = torch.randn(batch, n, 2 * n, dtype=dtype)
    return X @ X.mT / (2 * n)


def relative_error(got, expected):
    return (torch.linalg.vector_norm(got.double() - expected) / torch.linalg.vector_norm(expected)).item()


def test_bimap_is_a_congruence_by_an_orthonormal_matrix():
    for n, m in ((5, 3), (3, 5), (4, 4)):
        for parametrization in (None, "qr"):
            layer = BiMap(n, m, parametrization).double()
            W = layer.weight.detach().numpy()
            W = W.T if m <= n else W
            X = random_spd(6, n)
            expected = np.stack([W @ x @ W.T for x in X.numpy()])
            np.testing.assert_allclose(layer(X).detach().numpy(), expected, atol=1e-13)
            gram = W @ W.T if m <= n else W.T @ W
            np.testing.assert_allclose(gram, np.eye(min(n, m)), atol=1e-6)


def test_bimap_output_that_is_wider_has_the_rank_of_the_input():
    w = torch.linalg.eigvalsh(BiMap(3, 5).double()(random_spd(4, 3)))
    assert (w[:, :2].abs() < 1e-14).all() and (w[:, 2] > 1e-3).all()


@pytest.mark.parametrize("parametrization", [None, "qr"])
def test_bimap_stays_orthonormal_in_training_and_learns(parametrization):
    # the leading eigenvectors maximise the trace
    X = with_spectrum((1.0, 2.0, 3.0, 10.0, 20.0), batch=1)
    layer = BiMap(5, 2, parametrization).double()
    make = torch.optim.Adam if parametrization else geoopt.optim.RiemannianAdam
    optimizer = make(layer.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        loss = -layer(X).diagonal(dim1=-2, dim2=-1).sum()
        loss.backward()
        optimizer.step()
    W = layer.weight.detach()
    torch.testing.assert_close(W.mT @ W, torch.eye(2, dtype=W.dtype), atol=1e-6, rtol=0)
    assert -loss.item() == pytest.approx(30, abs=0.01)


def test_orthonormal_start_is_its_own_parametrization():
    layer = BiMap(5, 3, parametrization="qr").double()
    with torch.no_grad():
        weight = layer.weight.clone()
        layer.weight = weight
    torch.testing.assert_close(layer.weight, weight, atol=1e-14, rtol=0)


def test_reeig_floor_is_relative_or_absolute():
    X = with_spectrum((1e-7, 1e-6, 1.0, 3.0))
    w = torch.linalg.eigvalsh(ReEig(1e-3)(X))
    floor = 1e-3 * X.diagonal(dim1=-2, dim2=-1).mean(-1)
    torch.testing.assert_close(w[:, :2], floor[:, None].expand(-1, 2), rtol=1e-9, atol=0)
    torch.testing.assert_close(w[:, 2:], torch.tensor([1.0, 3.0]).double().expand(16, 2))
    w = torch.linalg.eigvalsh(ReEig(0.5, relative=False)(X))
    torch.testing.assert_close(w, torch.tensor([0.5, 0.5, 1.0, 3.0]).double().expand(16, 4))


def test_reeig_leaves_alone_what_is_above_the_floor(dtype):
    X = random_spd(8, 5, dtype)
    X.requires_grad_()
    Y = ReEig()(X)
    torch.testing.assert_close(Y, X)
    G = torch.randn(8, 5, 5, dtype=dtype)
    (grad,) = torch.autograd.grad(Y, X, G + G.mT)
    torch.testing.assert_close(grad, G + G.mT, rtol=1e-3 if dtype == torch.float32 else 1e-10, atol=1e-4)


@pytest.mark.parametrize("scale", SCALES)
def test_reeig_is_homogeneous(scale):
    X = with_spectrum((1e-7, 1e-6, 1.0, 3.0))
    torch.testing.assert_close(ReEig()(scale * X), scale * ReEig()(X), rtol=1e-9, atol=1e-12 * scale)


def test_logeig_against_scipy():
    X = random_spd(5, 6)
    log = np.stack([scipy.linalg.logm(x) for x in X.numpy()])
    np.testing.assert_allclose(LogEig(vector=False)(X).numpy(), log, atol=1e-12)
    v = LogEig()(X).numpy()
    i, j = np.tril_indices(6)
    np.testing.assert_allclose(v, log[:, i, j] * np.where(i == j, 1, math.sqrt(2)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(v, axis=1), np.linalg.norm(log, axis=(1, 2)), atol=1e-12)
    np.testing.assert_allclose(ExpEig()(LogEig()(X)).numpy(), X.numpy(), atol=1e-12)
    np.testing.assert_allclose(ExpEig(vector=False)(X).numpy(), np.stack([scipy.linalg.expm(x) for x in X.numpy()]))


@pytest.mark.parametrize("layer", [ReEig(0.5), LogEig(vector=False), ExpEig(vector=False)], ids=str)
def test_layers_of_eigenvalues_turn_with_the_matrix(layer):
    X = random_spd(5, 6)
    Q = torch.linalg.qr(torch.randn(6, 6, dtype=X.dtype))[0]
    torch.testing.assert_close(layer(Q @ X @ Q.T), Q @ layer(X) @ Q.T, atol=1e-11, rtol=1e-11)


# float32 beside float64, at every scale of the data, with equal eigenvalues; the condition number is 100

ROUNDING = torch.finfo(torch.float32).eps


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    "layer",
    [LogEig(), LogEig(vector=False), ReEig(), ReEig(1.0), BiMap(7, 5), BiMap(7, 5, parametrization="qr"), BiMap(7, 9)],
    ids=str,
)
def test_float32_at_every_scale(layer, scale):
    X = scale * with_spectrum(SPECTRUM, dtype=torch.float32)
    results = []
    for dtype in (torch.float32, torch.float64):
        x = X.to(dtype).requires_grad_()
        y = layer.to(dtype)(x)
        torch.manual_seed(1)
        G = torch.randn(y.shape).to(dtype)
        results.append((y.detach(), torch.autograd.grad(y, x, G)[0]))
    (y, grad), (expected, expected_grad) = results
    assert relative_error(y, expected) <= 20 * ROUNDING * 100
    assert relative_error(grad, expected_grad) <= 10 * 20 * ROUNDING * 100


@pytest.mark.parametrize("scale", [1e-6, 1.0])
def test_float32_exponential(scale):
    V = scale * with_spectrum((-3.0, -3.0, 0.0, 0.0, 2.0), dtype=torch.float32)
    for layer, at in ((ExpEig(), vech(V)), (ExpEig(vector=False), V)):
        results = []
        for dtype in (torch.float32, torch.float64):
            x = at.to(dtype).requires_grad_()
            y = layer(x)
            results.append((y.detach(), torch.autograd.grad(y.square().sum(), x)[0]))
        (y, grad), (expected, expected_grad) = results
        assert relative_error(y, expected) <= 20 * ROUNDING
        assert relative_error(grad, expected_grad) <= 200 * ROUNDING


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shrinkage", [0.0, 0.1, "oas", "ledoit-wolf"])
def test_float32_covariance(scale, shrinkage):
    x = (scale * torch.randn(6, 5, 20)).requires_grad_()
    wide = x.detach().double().requires_grad_()
    layer = CovariancePooling(shrinkage)
    y, expected = layer(x), layer(wide)
    assert relative_error(y, expected) <= 20 * ROUNDING
    G = torch.randn(6, 5, 5)
    grad, expected_grad = torch.autograd.grad(y, x, G)[0], torch.autograd.grad(expected, wide, G.double())[0]
    assert relative_error(grad, expected_grad) <= 200 * ROUNDING


# covariance


@pytest.mark.parametrize("n, T", [(4, 30), (8, 5), (3, 2)])
def test_covariance_against_numpy_and_scikit_learn(n, T):
    x = torch.randn(3, n, T, dtype=torch.float64) * torch.arange(1, n + 1)[:, None]
    for correction in (0, 1):
        expected = np.stack([np.cov(a, ddof=correction) for a in x.numpy()])
        np.testing.assert_allclose(CovariancePooling(correction=correction)(x).numpy(), expected, atol=1e-12)
        shrunk = 0.7 * expected + 0.3 * np.trace(expected, axis1=1, axis2=2)[:, None, None] / n * np.eye(n)
        np.testing.assert_allclose(CovariancePooling(0.3, correction=correction)(x).numpy(), shrunk, atol=1e-12)
    for name, peer in (("ledoit-wolf", sklearn.covariance.ledoit_wolf), ("oas", sklearn.covariance.oas)):
        expected = np.stack([peer(a.T)[0] for a in x.numpy()])
        np.testing.assert_allclose(CovariancePooling(name, correction=0)(x).numpy(), expected, atol=1e-12)
        amounts = np.array([peer(a.T)[1] for a in x.numpy()])
        S = np.stack([np.cov(a) for a in x.numpy()])
        target = np.trace(S, axis1=1, axis2=2)[:, None, None] / n * np.eye(n)
        expected = S + amounts[:, None, None] * (target - S)
        np.testing.assert_allclose(CovariancePooling(name)(x).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("shrinkage", [1e-3, "oas", "ledoit-wolf"])
@pytest.mark.parametrize("scale", SCALES)
def test_shrunk_covariance_is_positive_definite_of_few_samples(shrinkage, scale):
    C = CovariancePooling(shrinkage)(scale * torch.randn(20, 12, 4))
    w = torch.linalg.eigvalsh(C.double())
    assert (w[:, 0] > 5e-4 * w.mean(-1)).all()


def test_learnable_shrinkage_learns():
    # independent channels of equal variance: the best guess is the target itself
    layer = CovariancePooling(0.1, learnable=True)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        (layer(torch.randn(64, 6, 10)) - torch.eye(6)).square().mean().backward()
        optimizer.step()
    assert layer.shrinkage.item() > 0.9


def test_constant_signals_have_finite_gradients():
    for shrinkage in (0.1, "oas", "ledoit-wolf"):
        x = torch.ones(2, 3, 5, requires_grad=True)
        C = CovariancePooling(shrinkage)(x)
        C.sum().backward()
        assert (C == 0).all() and x.grad.isfinite().all()


# bad input


@pytest.mark.parametrize(
    "layer, x, message",
    [
        (LogEig(), torch.ones(3), r"X must have shape \(\.\.\., any, any\), got \(3,\)"),
        (LogEig(), torch.ones(2, 3, 4), r"X must hold square matrices \(\.\.\., n, n\), got shape \(2, 3, 4\)"),
        (ReEig(), torch.ones(2, 3, 4), "X must hold square matrices"),
        (ExpEig(vector=False), torch.ones(2, 3, 4), "y must hold square matrices"),
        (ExpEig(), torch.ones(2, 4), r"v must have n\(n\+1\)/2 entries"),
        (ExpEig(), torch.tensor([0.0, torch.nan, 0.0]), "y must be finite"),
        (BiMap(3, 2), torch.eye(4), r"X must have shape \(\.\.\., 3, 3\), got \(4, 4\)"),
        (BiMap(2, 2), torch.tensor([[1.0, 2.0], [0.0, 1.0]]), "this one differs from its transpose by 2, .* up to 2"),
        (LogEig(), torch.tensor([[1.0, 0.0], [0.0, torch.nan]]), "this one holds NaN or infinite values"),
        (ReEig(), torch.stack([torch.eye(2), torch.eye(2) * torch.inf]), r"1 of 2 are not: the first, at index \(1,\)"),
        (
            LogEig(),
            torch.stack([torch.eye(2), torch.diag(torch.tensor([3.0, -0.5])), -torch.eye(2)]),
            r"2 of 3 are not: the first, at index \(1,\), has smallest eigenvalue -0.5 \(largest 3\)",
        ),
        (LogEig(), torch.zeros(2, 2), "this one has smallest eigenvalue 0"),
        (
            ReEig(),
            torch.eye(2) * torch.tensor([1.0, 2.0, -3.0, -1.0]).reshape(2, 2, 1, 1),
            r"2 of 4 do not: the first, at index \(1, 0\), has mean eigenvalue -3",
        ),
        (ReEig(), -torch.eye(3), "positive trace, but this one has mean eigenvalue -1"),
        (CovariancePooling(), torch.ones(3), "x must have shape"),
        (CovariancePooling(), torch.ones(3, 1), "x must hold more than 1 samples"),
        (CovariancePooling(), torch.tensor([[0.0, torch.nan]]), "x must be finite"),
    ],
)
def test_bad_input(layer, x, message):
    with pytest.raises(ValueError, match=message):
        layer(x)


@pytest.mark.parametrize("layer", [LogEig(), ReEig(), BiMap(3, 2), CovariancePooling()])
def test_input_that_is_no_floating_tensor(layer):
    with pytest.raises(TypeError, match=r"must be a torch\.Tensor, got list"):
        layer([[1.0]])
    with pytest.raises(TypeError, match=r"floating-point dtype, got torch\.int64"):
        layer(torch.ones(3, 3, dtype=torch.long))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: BiMap(0, 3), "in_features must be a positive integer, got 0"),
        (lambda: BiMap(3, 2.0), "out_features must be a positive integer, got 2.0"),
        (lambda: ReEig(0.0), "threshold must be positive and finite"),
        (lambda: ReEig(math.nan), "threshold must be positive and finite"),
        (lambda: CovariancePooling(1.5), r"shrinkage must be in \[0, 1\]"),
        (lambda: CovariancePooling("lw"), "shrinkage must be 'ledoit-wolf', 'oas'"),
        (lambda: CovariancePooling("oas", learnable=True), "not learnable"),
        (lambda: CovariancePooling(0.0, learnable=True), "strictly between 0 and 1"),
        (lambda: CovariancePooling(correction=2), "correction must be 0 or 1"),
        (lambda: SPDNet((4,), 2), "sizes must be at least two"),
        (lambda: SPDNet((4, 5), 2, norm=lambda n: nn.Identity()), "no size may be larger"),
        (lambda: SPDNet((4, 3), 0), "classes must be a positive integer"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_checks_can_be_turned_off():
    bad = torch.tensor([[1.0, 0.0], [0.0, torch.nan]])
    for layer in (LogEig(validate_args=False), ReEig(validate_args=False), BiMap(2, 2, validate_args=False)):
        assert layer(torch.stack([torch.eye(2), bad])).isnan().flatten(1).any(1).tolist() == [False, True]


def test_matrices_that_are_just_positive_definite_are_taken():
    # asymmetric by roundings, and of a condition number that is near 1/eps
    X = with_spectrum((1e-5, 1.0, 1.0), dtype=torch.float32)
    X[:, 0, 1] *= 1 + 1e-6
    assert LogEig()(X).isfinite().all()


@pytest.mark.parametrize(
    "layer, shape",
    [(BiMap(5, 3), (2, 3, 3)), (ReEig(), (2, 5, 5)), (LogEig(), (2, 15)), (CovariancePooling("oas"), (2, 5, 5))],
    ids=str,
)
def test_shapes_without_data(layer, shape):
    assert layer.to("meta")(torch.empty(2, 5, 5, device="meta")).shape == shape
