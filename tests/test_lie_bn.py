"""LieBN: the promise of the paper on every Lie group, its bookkeeping, its variants and its errors."""

import copy
import io
import json
import math
import pickle
from pathlib import Path

import geoopt
import pytest
import registry_spaces
import torch
import torch.nn.functional as F
from test_groups import AffineLine

from flowgroup.groups import SO2, SO3, LieGroup, MatrixLieGroup, UnitQuaternions
from flowgroup.manifolds import SPD, Euclidean, Product, Sphere, Torus
from flowgroup.nn import DecayingMomentum, DomainBatchNorm, LieBN

STORED = {
    name: torch.tensor(values, dtype=torch.float64)
    for name, values in json.loads((Path(__file__).parent / "data" / "lie_bn.json").read_text()).items()
}

every_group = pytest.mark.parametrize(
    "space", [s for s in registry_spaces.GROUPS if isinstance(s.make(), LieGroup)], ids=str
)


few_groups = pytest.mark.parametrize(
    "group", [Euclidean(2), Torus(2), SO3(), UnitQuaternions(), Product(SO2(), Euclidean(2))], ids=repr
)


class Heisenberg(MatrixLieGroup):
    """Upper triangular 3×3 matrices with ones on the diagonal: a group in the few lines that a user writes."""

    def __init__(self):
        super().__init__(3, (3, 3))

    def hat(self, v):
        zero = torch.zeros_like(v[..., 0])
        return torch.stack([zero, v[..., 0], v[..., 2], zero, zero, v[..., 1], zero, zero, zero], -1).unflatten(
            -1, (3, 3)
        )

    def vee(self, X):
        return torch.stack([X[..., 0, 1], X[..., 1, 2], X[..., 0, 2]], -1)

    def exp(self, v):
        X = self.hat(v)
        return torch.eye(3).to(v) + X + X @ X / 2

    def log(self, g):
        X = g - torch.eye(3).to(g)
        return self.vee(X - X @ X / 2)

    def projx(self, x):
        return x.triu(1) + torch.eye(3).to(x)

    def random(self, *size, dtype=None, device=None):
        return self.exp(torch.randn(*size[:-2], 3, dtype=dtype, device=device))


def around(group, *batch, radius=0.3, dtype=torch.float64):
    """Points of a batch (n, *batch) around one element."""
    u = radius * torch.randn(*batch, group.dim, dtype=dtype)
    return group.compose(group.random(*batch[1:], *group.event_shape, dtype=dtype), group.exp(u))


def randomize(layer):
    """Affine parameters that are not the identity."""
    group = layer.space
    with torch.no_grad():
        layer.bias.copy_(group.random(*layer.bias.shape, dtype=layer.bias.dtype))
        layer.log_scale.uniform_(-1.0, 0.0)
    return layer


def expected_statistics(group, x):
    """Mean and variance over the first dimension, in the model, by many plain steps."""
    model, y = group.model, group.to_model(x)
    mean = model.frechet_mean(y)
    return mean, model.dist(mean, y).square().mean(0)


@every_group
@pytest.mark.parametrize("shape", [(), (3,)], ids=["", "channels"])
def test_promise_of_the_paper(space, shape):
    group = space.make()
    layer = randomize(LieBN(group, shape=shape, karcher_steps=None, eps=1e-12, dtype=torch.float64))
    out = layer(around(group, 64, *shape, radius=0.05))
    mean, variance = expected_statistics(group, out)
    assert group.model.dist(mean, group.to_model(layer.bias)).max() < 1e-5
    torch.testing.assert_close(variance, layer.scale.square(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("group", [Heisenberg(), AffineLine()], ids=repr)
def test_promise_on_groups_that_users_write(group):
    # the mean is the element from which the logarithms of all sum to zero
    layer = randomize(LieBN(group, karcher_steps=None, eps=1e-12, dtype=torch.float64))
    out = layer(around(group, 50, radius=1.0))
    logs = group.log(group.inverse(layer.bias) @ out)
    assert logs.mean(0).norm() < 1e-10
    torch.testing.assert_close(logs.square().sum(-1).mean(), layer.scale.square(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_on_the_line_it_is_batch_norm(training, dtype):
    # in one dimension the scalar variance is the variance
    x = 3 * torch.randn(40, 5, 1, dtype=dtype) + 7
    layer = randomize(LieBN(Euclidean(1), shape=(5,), momentum=0.3, dtype=dtype)).train(training)
    with torch.no_grad():
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2.0)
    mean, var = layer.running_mean.flatten().clone(), layer.running_var.clone()
    expected = F.batch_norm(x.squeeze(-1), mean, var, layer.scale, layer.bias.flatten(), training, 0.3, 1e-5)
    torch.testing.assert_close(layer(x).squeeze(-1), expected)
    torch.testing.assert_close(layer.running_mean.flatten(), mean)
    # torch keeps the unbiased variance, the paper the other
    biased = (
        layer.running_var
        if not training
        else var - 0.3 * x.squeeze(-1).var(0) + 0.3 * x.squeeze(-1).var(0, correction=0)
    )
    torch.testing.assert_close(layer.running_var, biased)


def test_variance_of_vectors_is_the_sum_over_entries():
    x = torch.randn(50, 4, dtype=torch.float64) * torch.tensor([1.0, 2.0, 3.0, 4.0])
    out = LieBN(Euclidean(4), dtype=torch.float64)(x)
    torch.testing.assert_close(out, (x - x.mean(0)) / (x.var(0, correction=0).sum() + 1e-5).sqrt())


@pytest.mark.parametrize(
    "group, case, weights, steps",
    [
        (SPD(3, theta=0.5, beta=0.1), "aim_t0.5_k1", "_a1b0.1", 1),
        (SPD(3), "aim_t1_kc", "_a1b0", None),
        (SPD(3, "log-euclidean", beta=0.1), "lem", "_a1b0.1", 1),
        (SPD(3, "log-cholesky", theta=0.5), "lcm_t0.5", "", 1),
    ],
    ids=str,
)
def test_values_of_high_precision(group, case, weights, steps):
    # from 50-digit arithmetic
    layer = LieBN(group, karcher_steps=steps, dtype=torch.float64)
    with torch.no_grad():
        layer.bias.copy_(STORED["n3_B"])
        layer.log_scale.copy_(STORED["n3_s"].log())
    close = dict(rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(STORED["n3_X"]), STORED[f"n3_{case}{weights}_out"], **close)
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * STORED[f"n3_{case}{weights}_var"], **close)
    torch.testing.assert_close(layer.running_mean, STORED[f"n3_{case}_rmean"], **close)


def test_evaluation_of_high_precision():
    layer = LieBN(SPD(3), dtype=torch.float64).eval()
    with torch.no_grad():
        layer.bias.copy_(STORED["n3_B"])
        layer.log_scale.copy_(STORED["n3_s"].log())
        layer.running_mean.copy_(STORED["n3_run_mean"])
        layer.running_var.copy_(STORED["n3_run_var"])
    torch.testing.assert_close(layer(STORED["n3_X"]), STORED["n3_aim_t1_eval"], rtol=1e-12, atol=1e-12)


def test_rotations_of_high_precision():
    # stored with the variance of Frobenius norms, which is twice that of angles
    layer = LieBN(SO3(), karcher_steps=None, eps=0.5e-5, momentum=1.0, dtype=torch.float64)
    with torch.no_grad():
        layer.bias.copy_(STORED["so3_B"])
        layer.log_scale.copy_((STORED["so3_s"] / math.sqrt(2)).log())
    torch.testing.assert_close(layer(STORED["so3_R"]), STORED["so3_out_left"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.running_mean, STORED["so3_mean"], rtol=1e-12, atol=1e-12)


def ill_conditioned(size, n):
    """Matrices with eigenvalues 1e-3 … 1e3."""
    Q = torch.linalg.qr(torch.randn(size, n, n, dtype=torch.float64)).Q
    w = torch.logspace(-3, 3, n, dtype=torch.float64) ** torch.rand(size, n, dtype=torch.float64)
    return (Q * w.unsqueeze(-2)) @ Q.mT


@pytest.mark.parametrize("metric", ["affine-invariant", "cholesky-right-invariant", "log-euclidean", "log-cholesky"])
@pytest.mark.parametrize("theta", [1.0, 0.5])
def test_promise_on_ill_conditioned_batches(metric, theta):
    group = SPD(5, metric, theta=theta)
    layer = LieBN(group, karcher_steps=None, eps=1e-12, dtype=torch.float64)
    with torch.no_grad():
        layer.bias.copy_(ill_conditioned(1, 5)[0])
        layer.log_scale.fill_(-0.5)
    mean, variance = expected_statistics(group, layer(ill_conditioned(20, 5)))
    assert group.model.dist(mean, group.to_model(layer.bias)) < 1e-5
    torch.testing.assert_close(variance, layer.scale.square(), rtol=1e-5, atol=0)


def test_rotations_by_hand():
    # angle π/2 ± 0.1 about one axis: the mean is the quarter turn, the standard deviation 0.1
    angle = torch.tensor([math.pi / 2 - 0.1, math.pi / 2 + 0.1], dtype=torch.float64)
    axis = torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64)
    layer = LieBN(SO3(), karcher_steps=None, dtype=torch.float64, momentum=1.0, eps=1e-8)
    out = layer(SO3().exp(angle.unsqueeze(-1) * axis))
    # eps by a series: 1/√(1 + 1e-6)
    torch.testing.assert_close(
        SO3().log(out), torch.tensor([[-1.0], [1.0]], dtype=torch.float64) * axis * (1 + 1e-6) ** -0.5
    )
    torch.testing.assert_close(layer.running_mean, SO3().exp(math.pi / 2 * axis))
    torch.testing.assert_close(layer.running_var, torch.tensor(0.01, dtype=torch.float64))


@every_group
@pytest.mark.parametrize("momentum", [1.0, None])
def test_evaluation_after_one_step_reproduces_training(space, momentum, dtype):
    group = space.make()
    layer = randomize(LieBN(group, shape=(2,), momentum=momentum, dtype=dtype))
    x = around(group, 24, 2, dtype=dtype).unflatten(0, (3, 8))
    out = layer(x)
    assert out.shape == x.shape
    torch.testing.assert_close(
        layer.eval()(x), out, rtol=0, atol=2000 * torch.finfo(dtype).eps * (1 + out.abs().max().item())
    )
    assert layer.num_batches_tracked == 1


@every_group
def test_running_statistics_follow_geodesics(space):
    group = space.make()
    x = around(group, 30)
    layer = LieBN(group, momentum=0.25, karcher_steps=None, dtype=torch.float64)
    torch.testing.assert_close(layer.running_mean, group.identity(*group.event_shape, dtype=torch.float64))
    assert layer.running_var == 1
    mean, variance = expected_statistics(group, x)
    layer(x)
    e = group.to_model(group.identity(*group.event_shape, dtype=torch.float64))
    got = group.to_model(layer.running_mean)
    torch.testing.assert_close(group.model.dist(e, got), 0.25 * group.model.dist(e, mean), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(group.model.dist(got, mean), 0.75 * group.model.dist(e, mean), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(layer.running_var, 0.75 + 0.25 * variance)
    x2 = around(group, 30)
    before = got.clone()
    layer(x2)
    mean2, variance2 = expected_statistics(group, x2)
    got = group.to_model(layer.running_mean)
    torch.testing.assert_close(
        group.model.dist(before, got), 0.25 * group.model.dist(before, mean2), rtol=1e-6, atol=1e-8
    )
    torch.testing.assert_close(layer.running_var, 0.75 * (0.75 + 0.25 * variance) + 0.25 * variance2)
    assert layer.num_batches_tracked == 2


def test_average_of_all_batches():
    layer = LieBN(Euclidean(2), momentum=None, dtype=torch.float64)
    batches = torch.randn(5, 20, 2, dtype=torch.float64) + 3
    for x in batches:
        layer(x)
    torch.testing.assert_close(layer.running_mean, batches.flatten(0, 1).mean(0))
    torch.testing.assert_close(layer.running_var, batches.var(1, correction=0).sum(-1).mean())


@few_groups
@pytest.mark.parametrize("steps", [1, None])
def test_gradients(group, steps):
    layer = randomize(LieBN(group, karcher_steps=steps, dtype=torch.float64, validate_args=False, eps=1e-2))
    x = around(group, 5, radius=0.4)
    coordinates = group.log(group.left_divide(x[0], x))
    free = torch.randn(group.dim, dtype=torch.float64) * 0.3

    def f(v, b, s):
        point = group.compose(x[0], group.exp(v))
        bias = group.exp(b)
        return torch.func.functional_call(layer, {"bias": bias, "log_scale": s}, (point,))

    arguments = [
        a.detach().clone().requires_grad_() for a in (coordinates, free, torch.tensor(-0.3, dtype=torch.float64))
    ]
    assert torch.autograd.gradcheck(f, arguments, atol=1e-6, rtol=1e-5, fast_mode=True)


@every_group
@pytest.mark.parametrize("steps", [1, None])
def test_one_point_and_equal_points(space, steps, dtype):
    group = space.make()
    for n in (1, 6):
        layer = randomize(LieBN(group, karcher_steps=steps, dtype=dtype))
        x = group.random(1, *group.event_shape, dtype=dtype).expand(n, *group.event_shape).clone().requires_grad_()
        out = layer(x)
        # deviations of rounding size are scaled up by s/√ε
        tolerance = 64 * torch.finfo(dtype).eps * 1e-5**-0.5 * (1 + x.abs().max().item()) ** 2
        torch.testing.assert_close(
            out, layer.bias.detach().as_subclass(torch.Tensor).expand_as(out), rtol=0, atol=tolerance
        )
        (out * torch.randn_like(out)).sum().backward()
        assert all(g.isfinite().all() for g in (x.grad, layer.bias.grad, layer.log_scale.grad))
        assert layer.running_var.isfinite() and layer.running_mean.isfinite().all()


@few_groups
def test_riemannian_adam_trains_the_bias(group):
    layer = LieBN(group)
    x, target = around(group, 30, dtype=torch.float32), group.exp(0.3 * torch.randn(group.dim))
    optimizer = geoopt.optim.RiemannianAdam(layer.parameters(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        layer(x)
        group.dist2(group.left_divide(layer.bias, target), group.identity(*group.event_shape)).backward()
        optimizer.step()
    assert group.contains(layer.bias) and group.dist(layer.bias, target) < 0.05


@pytest.mark.parametrize("group", [SO3(), Torus(2), Heisenberg()], ids=repr)
def test_plain_adam_trains_coordinates(group):
    layer = LieBN(group, shape=(2,), parametrization="exp")
    x, target = around(group, 30, 2, dtype=torch.float32), group.exp(0.3 * torch.randn(2, group.dim))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(40):
        optimizer.zero_grad()
        loss = group.log(group.left_divide(target, group.frechet_mean(layer(x), steps=2))).square().sum()
        loss.backward()
        optimizer.step()
    assert loss < 1e-2
    assert group.contains(layer.bias).all()
    point = group.random(2, *group.event_shape)
    layer.bias = point  # torch's parametrizations can be set
    torch.testing.assert_close(layer.bias, point, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("group", [Torus(2), SO3()], ids=repr)
def test_compiled_in_full(group):
    torch.compiler.reset()
    layer = LieBN(group, shape=(2,), momentum=None)
    x = around(group, 12, 2, dtype=torch.float32)
    same = copy.deepcopy(layer)
    fast = torch.compile(same, fullgraph=True, backend="aot_eager")
    for mode in (True, False):
        layer.train(mode)
        same.train(mode)
        a, b = layer(x), fast(x)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        a.sum().backward()
        b.sum().backward()
    torch.testing.assert_close(same.bias.grad, layer.bias.grad, rtol=1e-3, atol=1e-3)
    for name, buffer in layer.named_buffers():
        torch.testing.assert_close(same.get_buffer(name), buffer, rtol=1e-4, atol=1e-4)
    torch.compiler.reset()


@pytest.mark.parametrize("options", [{}, dict(parametrization="exp"), dict(training_momentum=DecayingMomentum(5, 0.2))])
def test_state(options):
    layer = LieBN(SO3(), shape=(2,), **options)
    x = around(SO3(), 10, 2, dtype=torch.float32)
    layer(x).sum().backward()
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = LieBN(SO3(), shape=(2,), **options)
    other.load_state_dict(torch.load(file, weights_only=True))
    for twin in (other, copy.deepcopy(layer)):
        torch.testing.assert_close(twin.eval()(x), layer.eval()(x), rtol=0, atol=0)
        layer.train()
    if "parametrization" not in options:  # torch pickles no parametrized module
        torch.testing.assert_close(pickle.loads(pickle.dumps(layer)).eval()(x), layer.eval()(x), rtol=0, atol=0)
    layer.double().train()
    assert layer(SO3().projx(x.double())).dtype == torch.float64
    assert {b.dtype for b in layer.buffers()} == {torch.float64, torch.int64}
    if not options:
        assert isinstance(layer.bias, geoopt.ManifoldParameter)
        assert set(layer.state_dict()) == {"bias", "log_scale", "running_mean", "running_var", "num_batches_tracked"}


def test_meta_device_and_dtype():
    layer = LieBN(SO3(), device="meta", dtype=torch.float64)
    assert layer.running_mean.device.type == "meta" and layer.bias.dtype == torch.float64


def test_half_precision_is_widened():
    x = around(Euclidean(3), 40, dtype=torch.float32)
    layer = LieBN(Euclidean(3))
    expected = layer(x.bfloat16().float())
    got = layer(x.bfloat16())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    rotations = around(SO3(), 20, dtype=torch.float32)
    expected = LieBN(SO3())(rotations)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(LieBN(SO3())(rotations), expected, rtol=0, atol=0)


def test_without_affine_and_without_running_statistics():
    x = around(SO3(), 20)
    layer = LieBN(SO3(), affine=False, track_running_stats=False, dtype=torch.float64)
    assert not layer.state_dict() and layer.scale is None
    torch.testing.assert_close(layer.eval()(x), LieBN(SO3(), dtype=torch.float64)(x))


def test_without_variance_only_the_mean_moves():
    x = around(SO3(), 20)
    layer = LieBN(SO3(), variance=False, karcher_steps=None, momentum=1.0, dtype=torch.float64)
    with torch.no_grad():
        layer.bias.copy_(SO3().random(3, 3))
    out = layer(x)
    assert set(layer.state_dict()) == {"bias", "running_mean", "num_batches_tracked"}
    torch.testing.assert_close(SO3().dist(out[1:], out[:-1]), SO3().dist(x[1:], x[:-1]))
    torch.testing.assert_close(SO3().frechet_mean(out), layer.bias.detach().as_subclass(torch.Tensor))
    torch.testing.assert_close(layer.eval()(x), out)


def test_momentum_decays():
    momentum = DecayingMomentum(batches=5, final=0.1)
    k = torch.arange(1, 9)
    expected = [1.0] + [1.1 - 0.1 ** ((5 - i) / 4) for i in (2, 3, 4)] + [0.1] * 4
    torch.testing.assert_close(momentum(k), torch.tensor(expected))


def test_momentum_normalization_by_hand():
    # on the line: training by statistics that move by γ(k), evaluation by others that move by the momentum
    layer = LieBN(Euclidean(1), momentum=0.2, training_momentum=DecayingMomentum(3, 0.5), eps=1e-3, dtype=torch.float64)
    mean = test_mean = 0.0
    var = test_var = 1.0
    for g in (1.0, 1.5 - 0.5**0.5, 0.5, 0.5):
        x = torch.randn(20, 1, dtype=torch.float64) + 5
        mean = (1 - g) * mean + g * x.mean()
        var = (1 - g) * var + g * (x - mean).square().mean()
        test_mean = 0.8 * test_mean + 0.2 * x.mean()
        test_var = 0.8 * test_var + 0.2 * (x - test_mean).square().mean()
        x.requires_grad_()
        out = layer(x)
        torch.testing.assert_close(out, (x - mean) / (var + 1e-3).sqrt())
        out.square().sum().backward()  # with buffers overwritten meanwhile
        assert x.grad.abs().sum() > 0
    torch.testing.assert_close(layer.running_mean, test_mean.reshape(1))
    torch.testing.assert_close(layer.running_var, test_var)
    torch.testing.assert_close(layer.eval()(x), (x - test_mean) / (test_var + 1e-3).sqrt())


@every_group
def test_domains(space):
    group = space.make()
    layer = DomainBatchNorm(
        randomize(LieBN(group, karcher_steps=None, eps=1e-12, dtype=torch.float64)), domains=[3, -1]
    )
    domain = torch.tensor([3, -1, -1] * 10)
    parts = {d: around(group, 30, radius=r) for d, r in ((3, 0.05), (-1, 0.1))}
    x = torch.where((domain == 3).reshape(30, *[1] * group.ndim), parts[3], parts[-1])
    out = layer(x, domain)
    for d in (3, -1):
        mean, variance = expected_statistics(group, out[domain == d])
        assert group.model.dist(mean, group.to_model(layer.shared.bias)) < 1e-5
        torch.testing.assert_close(variance, layer.shared.scale.square(), rtol=1e-5, atol=0)
        alone = copy.deepcopy(layer.shared)
        alone.reset_running_stats()
        torch.testing.assert_close(alone(x[domain == d]), out[domain == d])
        torch.testing.assert_close(layer.layers[str(d)].running_mean, alone.running_mean)
    assert len(list(layer.parameters())) == 2
    out.sum().backward()

    new = around(group, 40, radius=0.1)
    layer.eval()
    layer.adapt(new, torch.full((40,), 7))
    mean, variance = expected_statistics(group, layer(new, torch.full((40,), 7)))
    assert layer.domains == [3, -1, 7] and len(list(layer.parameters())) == 2
    assert group.model.dist(mean, group.to_model(layer.shared.bias)) < 1e-5
    torch.testing.assert_close(variance, layer.shared.scale.square(), rtol=1e-5, atol=0)


def test_domains_with_momentum_and_coordinates():
    first = LieBN(SO3(), parametrization="exp", training_momentum=DecayingMomentum(4, 0.5))
    layer = DomainBatchNorm(first, domains=range(3))
    assert len(list(layer.parameters())) == 2
    layer(around(SO3(), 12, dtype=torch.float32), torch.arange(12) % 3).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    twin = copy.deepcopy(layer)
    assert len(list(twin.parameters())) == 2
    x, d = around(SO3(), 12, dtype=torch.float32), torch.arange(12) % 2
    with torch.no_grad():
        twin.shared.parametrizations.bias.original.add_(0.3)
    assert (twin.eval()(x, d) - layer.eval()(x, d)).abs().max() > 0.1


def off(x, value=None):
    x = x.clone()
    x[1] = 2 * x[1] if value is None else value
    return x


ROTATIONS = torch.eye(3).expand(4, 3, 3).contiguous()
DOMAINS = torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: LieBN(Sphere(2)), TypeError, r"LieBN needs a flowgroup.groups.LieGroup, .* got Sphere\(2\)"),
        (lambda: LieBN("SO3"), TypeError, "got 'SO3'"),
        (lambda: LieBN(SO3(), momentum=1.5), ValueError, r"momentum must be in \[0, 1\]"),
        (lambda: LieBN(SO3(), eps=0.0), ValueError, "eps must be positive, got 0.0"),
        (lambda: LieBN(SO3(), karcher_steps=0), ValueError, "karcher_steps must be a positive integer"),
        (lambda: LieBN(SO3(), shape=(0,)), ValueError, "every entry of shape must be a positive integer, got 0"),
        (lambda: LieBN(SO3(), parametrization=True), ValueError, "parametrization must be None or 'exp', got True"),
        (
            lambda: LieBN(SO3(), track_running_stats=False, training_momentum=DecayingMomentum(3, 0.5)),
            ValueError,
            "training_momentum needs running statistics",
        ),
        (
            lambda: LieBN(SO3(), track_running_stats=False).adapt(ROTATIONS),
            ValueError,
            "adapt needs running statistics",
        ),
        (lambda: LieBN(SO3())(torch.eye(2)), ValueError, r"x must have shape \(..., 3, 3\), got \(2, 2\)"),
        (
            lambda: LieBN(SO3(), shape=(2,))(ROTATIONS),
            ValueError,
            r"x must have shape \(..., 2, 3, 3\), got \(4, 3, 3\)",
        ),
        (lambda: LieBN(SO3())(torch.eye(3).long()), TypeError, "x must be of a floating-point dtype"),
        (lambda: LieBN(SO3())([1.0]), TypeError, "x must be a torch.Tensor, got list"),
        (lambda: LieBN(SO3())(ROTATIONS[:0]), ValueError, "x must hold at least one point"),
        (lambda: LieBN(SO3())(off(ROTATIONS, math.nan)), ValueError, "holds NaN or infinite"),
        (
            lambda: LieBN(SO3())(off(ROTATIONS)),
            ValueError,
            r"x must lie on SO3\(\), but 1 of 4 points do not: .* \(1,\)",
        ),
        (lambda: DecayingMomentum(1, 0.5), ValueError, "batches must be at least 2"),
        (lambda: DecayingMomentum(5, 0.0), ValueError, r"final must be in \(0, 1\], got 0.0"),
        (lambda: DomainBatchNorm(torch.nn.BatchNorm1d(3), [0]), TypeError, "layer must be a batch normalization"),
        (lambda: DomainBatchNorm(LieBN(SO3()), [0, 0]), ValueError, r"different integers, got \[0, 0\]"),
        (lambda: DomainBatchNorm(LieBN(SO3()), []), ValueError, "one or more different integers"),
        (lambda: DomainBatchNorm(LieBN(SO3()), ["a"]), TypeError, "domains must be integers, got 'a'"),
        (
            lambda: DomainBatchNorm(LieBN(SO3(), track_running_stats=False), [0]),
            ValueError,
            "layer must have running statistics",
        ),
        (
            lambda: DomainBatchNorm(LieBN(SO3()), [0, 2])(ROTATIONS, DOMAINS),
            ValueError,
            r"domain holds \[1\], .* \[0, 2\]",
        ),
        (
            lambda: DomainBatchNorm(LieBN(SO3()), [0, 1])(ROTATIONS, DOMAINS[:3]),
            ValueError,
            r"one label for each entry of x, whose batch has shape \(4,\), got shape \(3,\)",
        ),
        (lambda: DomainBatchNorm(LieBN(SO3()), [0])(ROTATIONS, DOMAINS / 2), TypeError, "tensor of integers"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("bad", [off(ROTATIONS), off(ROTATIONS, math.nan)], ids=["off", "nan"])
def test_errors_change_nothing(bad):
    layer = LieBN(SO3())
    domains = DomainBatchNorm(layer, [0, 1])
    layer(around(SO3(), 9, dtype=torch.float32))
    domains(around(SO3(), 4, dtype=torch.float32), DOMAINS)
    before = [copy.deepcopy(m.state_dict()) for m in (layer, domains)]
    for call in (lambda: layer(bad), lambda: layer.adapt(bad), lambda: domains(bad, DOMAINS)):
        with pytest.raises(ValueError):
            call()
    for module, state in zip((layer, domains), before):
        assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), state.values()))


def test_values_are_not_looked_at_without_validation():
    layer = LieBN(Euclidean(2), validate_args=False)
    assert layer(torch.full((3, 2), math.nan)).isnan().all()


def test_circle_by_angle_and_by_matrix_agree():
    angle = torch.randn(30, 1, dtype=torch.float64) * 0.4 + 2.5
    a = LieBN(Torus(1), dtype=torch.float64)(angle)
    b = LieBN(SO2(), dtype=torch.float64)(SO2().exp(angle))
    torch.testing.assert_close(SO2().log(b), a)
