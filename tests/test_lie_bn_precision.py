"""LieBN on SPD matrices: float32 beside float64, compiled beside not, and all stored values where they are at hand."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from flowgroup.groups import SO3
from flowgroup.manifolds import SPD, Correlation
from flowgroup.nn import LieBN
from flowgroup.testing import assert_layer_compiles

EPS = torch.finfo(torch.float32).eps
STORED = Path(__file__).parent.parent.parent / "shared" / "oracles" / "lie_bn.npz"
METRICS = [
    dict(metric="affine-invariant"),
    dict(metric="affine-invariant", theta=0.5),
    dict(metric="log-euclidean"),
    dict(metric="log-cholesky"),
    dict(metric="log-cholesky", theta=0.5),
]

every_metric = pytest.mark.parametrize("options", METRICS, ids=lambda o: " ".join(map(str, o.values())))


def repeated(batch, n, condition):
    """Matrices with eigenvalues 1 and `condition`, each several times, and powers between; two of them diagonal."""
    w = torch.logspace(0, np.log10(condition), n, dtype=torch.float64)
    w[: n // 2], w[-2] = w[0], w[-1]
    Q = torch.linalg.qr(torch.randn(batch, n, n, dtype=torch.float64)).Q
    X = (Q * w) @ Q.mT
    X[0], X[1] = torch.eye(n), torch.diag(w)
    return (0.5 * (X + X.mT)).float()


def relative_error(got, expected):
    return (torch.linalg.vector_norm(got.double() - expected) / torch.linalg.vector_norm(expected)).item()


@every_metric
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("condition", [1e2, 1e4])
@pytest.mark.parametrize("batch, n", [(200, 3), (16, 8)])
def test_float32(options, scale, condition, batch, n):
    check_float32(options, scale, condition, batch, n)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("theta, condition", [(1.0, 1e2), (0.5, 1e4)])
def test_float32_of_the_right_invariant_twin(scale, theta, condition):
    # with θ = 1 and condition 1e4 points are up to 1e8 as seen from the mean, and the bounds are not met
    check_float32(dict(metric="cholesky-right-invariant", theta=theta), scale, condition, 64, 8)


def check_float32(options, scale, condition, batch, n):
    X, G = scale * repeated(batch, n, condition), torch.randn(batch, n, n)
    layer = LieBN(SPD(n, **options))
    with torch.no_grad():
        layer.bias.copy_(SPD(n).random(n, n))
        layer.log_scale.fill_(-0.3)
    results = []
    for dtype in (torch.float32, torch.float64):
        twin, x = copy.deepcopy(layer).to(dtype), X.to(dtype).requires_grad_()
        y = twin(x)
        gradients = torch.autograd.grad(y, (x, twin.bias), G.to(dtype))
        results.append((y.detach(), *gradients, twin.running_mean, twin.running_var))
    (y, *gradients, mean, var), (expected, *expected_gradients, expected_mean, expected_var) = results
    assert relative_error(y, expected) <= 20 * EPS * condition
    for gradient, expected in zip(gradients, expected_gradients):
        assert relative_error(gradient, expected) <= 200 * EPS * condition
    assert relative_error(mean, expected_mean) <= 20 * EPS * condition
    assert relative_error(var, expected_var) <= 20 * EPS * condition


@pytest.mark.parametrize("metric", ["affine-invariant", "cholesky-right-invariant", "log-cholesky"])
def test_roots_of_nearly_singular_matrices(metric):
    """Positive definite, but only just so in float32: rounding makes some of their smallest eigenvalues negative."""
    n, space = 8, SPD(8, metric, theta=0.5)
    w = torch.tensor([1e-7] * 5 + [0.01, 0.1, 1.0], dtype=torch.float64)
    Q = torch.linalg.qr(torch.randn(40, n, n, dtype=torch.float64)).Q
    X = ((Q * w) @ Q.mT).float()
    X = 0.5 * (X + X.mT)
    X = X[torch.linalg.cholesky_ex(X).info == 0].requires_grad_()
    assert len(X) > 20 and (torch.linalg.eigvalsh(X)[:, 0] < 0).any()
    y = LieBN(space)(X)
    assert space.contains(y).all()
    (gradient,) = torch.autograd.grad(y.sum(), X)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("theta", [1.0, 0.5])
@pytest.mark.parametrize("scale, n", [(1e-6, 8), (1e4, 20), (1e6, 3), (1e6, 8), (1e6, 20)])
def test_log_cholesky_keeps_a_mean_of_large_matrices(scale, n, theta):
    """From the identity its geodesics to large matrices pass some that float32, or even float64, cannot hold."""
    mixing, space = torch.randn(n, n) / n**0.5, SPD(n, "log-cholesky", theta=theta)
    layer, chart = LieBN(space), torch.zeros(space.dim, dtype=torch.float64)
    for step in range(150):
        samples = mixing @ torch.randn(16, n, 4 * n)
        X = scale * (samples @ samples.mT / (4 * n) + 0.01 * torch.eye(n))
        assert layer(X).isfinite().all() and space.contains(layer.running_mean), step
        if step % 30 == 0:
            assert copy.deepcopy(layer).eval()(X).isfinite().all()
        chart = 0.9 * chart + 0.1 * space.to_model(X.double()).mean(0)
    # what was lost on the way is forgotten, as the start is
    assert relative_error(layer.running_mean, space.from_model(chart)) < 1e-4


@pytest.mark.parametrize(
    "space",
    [SPD(5), SPD(5, "log-euclidean"), SPD(5, "log-cholesky", theta=0.5), Correlation(4), Correlation(4, "olm")],
    ids=str,
)
@pytest.mark.parametrize("training", [True, False])
def test_compiled_in_full(space, training):
    x = space.random(6, *space.event_shape, dtype=torch.float64)
    layer = LieBN(space, shape=(1,), dtype=torch.float64)
    layer(space.random(6, 1, *space.event_shape, dtype=torch.float64))
    assert_layer_compiles(layer.train(training), x.unsqueeze(1), backend="aot_eager")


@every_metric
def test_compiled_statistics(options):
    space = SPD(4, **options)
    layer = LieBN(space, dtype=torch.float64)
    twin = copy.deepcopy(layer)
    torch.compiler.reset()
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for x in space.random(3, 6, 4, 4, dtype=torch.float64):
            torch.testing.assert_close(compiled(x), layer(x), rtol=1e-9, atol=1e-9)
    torch.compiler.reset()
    for name, buffer in layer.named_buffers():
        torch.testing.assert_close(twin.get_buffer(name), buffer, rtol=1e-9, atol=1e-9)


def test_compiled_to_kernels():
    x = SPD(4).random(6, 4, 4, dtype=torch.float64)
    assert_layer_compiles(LieBN(SPD(4, "log-cholesky"), dtype=torch.float64), x, backend="inductor")


# ---- all stored values, of 50-digit arithmetic


@pytest.fixture(scope="module")
def stored():
    if not STORED.exists():
        pytest.skip("the full set of reference values is not beside the repository")
    return {name: torch.as_tensor(values) for name, values in np.load(STORED).items()}


def assert_agrees(got, expected, tolerance):
    error = (got.detach() - expected).abs().max() / expected.abs().max()
    assert error <= tolerance, f"relative error {error:.2g}"


def built(space, stored, case, **options):
    layer = LieBN(space, dtype=torch.float64, **options)
    with torch.no_grad():
        layer.bias.copy_(stored[f"{case}_B"])
        layer.log_scale.copy_(stored[f"{case}_s"].log())
    return layer


SPD_CASES = [
    *(
        (f"aim_t{theta:g}_{name}", f"_a1b{beta:g}", dict(theta=theta, beta=beta), steps)
        for theta in (1.0, 0.5, 1.5)
        for name, steps in (("k1", 1), ("kc", None))
        for beta in (0.0, 0.1)
    ),
    *(("lem", f"_a1b{beta:g}", dict(metric="log-euclidean", beta=beta), 1) for beta in (0.0, 0.1)),
    *((f"lcm_t{theta:g}", "", dict(metric="log-cholesky", theta=theta), 1) for theta in (1.0, 0.5)),
]


@pytest.mark.parametrize("case", ["n3", "n5", "n20", "ill"])
@pytest.mark.parametrize("name, weights, options, steps", SPD_CASES, ids=str)
def test_stored_values(stored, case, name, weights, options, steps):
    X = stored[f"{case}_X"]
    space, affine_invariant = SPD(X.shape[-1], **options), name.startswith("aim")
    mean, var, out, evaluated = (1e-10, 1e-10, 1e-9, 1e-10) if affine_invariant else (1e-10,) * 4
    if case == "ill":
        mean, var, out, evaluated = (1e-7, 1e-6, 1e-5, 1e-8) if affine_invariant else (1e-9,) * 4
    layer = built(space, stored, case, karcher_steps=steps)
    assert_agrees(layer(X), stored[f"{case}_{name}{weights}_out"], out)
    assert_agrees((layer.running_var - 0.9) / 0.1, stored[f"{case}_{name}{weights}_var"], var)
    assert_agrees(layer.running_mean, stored[f"{case}_{name}_rmean"], mean)
    layer = built(space, stored, case, karcher_steps=steps, momentum=1.0)
    layer(X)
    assert_agrees(layer.running_mean, stored[f"{case}_{name}_mean"], mean)
    with torch.no_grad():
        layer.running_mean.copy_(stored[f"{case}_run_mean"])
        layer.running_var.copy_(stored[f"{case}_run_var"])
    expected = stored[f"{case}_{name.removesuffix('_k1').removesuffix('_kc')}_eval"]
    assert_agrees(layer.eval()(X), expected, evaluated)


@pytest.mark.parametrize("case, n", [("cor5", 5), ("cor8", 8)])
@pytest.mark.parametrize("metric", ["ecm", "lecm", "olm", "lsm"])
def test_stored_correlations(stored, case, n, metric):
    space = Correlation(n, metric)
    layer = built(space, stored, case, momentum=1.0)
    for got, name in ((layer(stored[f"{case}_C"]), "out"), (layer.running_mean, "mean"), (layer.running_var, "var")):
        assert_agrees(got, stored[f"{case}_{metric}_{name}"], 1e-9)


@pytest.mark.parametrize("side", ["left", "right"])
def test_stored_rotations(stored, side):
    # stored with Frobenius norms, √2 times angles; from the right is from the left of the inverses
    turn = (lambda R: R) if side == "left" else (lambda R: R.mT)
    layer = LieBN(SO3(), karcher_steps=None, eps=0.5e-5, momentum=1.0, dtype=torch.float64)
    with torch.no_grad():
        layer.bias.copy_(turn(stored["so3_B"]))
        layer.log_scale.copy_((stored["so3_s"] / 2**0.5).log())
    assert_agrees(turn(layer(turn(stored["so3_R"]))), stored[f"so3_out_{side}"], 1e-10)
    assert_agrees(turn(layer.running_mean), stored["so3_mean"], 1e-10)
    assert_agrees(2 * layer.running_var, stored["so3_var"], 1e-10)
