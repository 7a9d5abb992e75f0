"""DomainBatchNorm beside a LieBN of its own for every domain; compiled, mapped, and where labels are unknown."""

import copy
import math

import pytest
import torch

from flowgroup.groups import SO2, SO3
from flowgroup.manifolds import SPD, Euclidean, Product, Torus
from flowgroup.nn import DecayingMomentum, DomainBatchNorm, LieBN, TSMNet

DOMAINS = [5, -2, 0]
BATCHES = [[5, -2, -2, 5, 0, 5, 0, -2], [0, 5, 0, 0, 5, 0, 5, 5], [-2] * 8]  # the second and third lack domains

every_case = pytest.mark.parametrize(
    "group, options",
    [
        (SPD(3), {}),
        (SPD(3), dict(karcher_steps=None, shape=(2,))),
        (SPD(3), dict(karcher_steps=3, variance=False)),
        (SPD(3), dict(momentum=None, shape=(2,), training_momentum=DecayingMomentum(3, 0.4))),
        (SPD(4, "log-cholesky"), dict(momentum=None)),
        (SPD(4, "log-euclidean"), dict(affine=False)),
        (SO3(), dict(shape=(2,), training_momentum=DecayingMomentum(3, 0.4))),
        (SO3(), dict(parametrization="exp", karcher_steps=None)),
        (Product(SO2(), Euclidean(2)), dict(momentum=1.0)),
        (Torus(2), dict(shape=(2, 1))),
    ],
    ids=lambda v: ", ".join(v) if isinstance(v, dict) else repr(v),
)


def around(group, *batch):
    u = 0.3 * torch.randn(*batch, group.dim, dtype=torch.float64)
    centre = group.random(*group.event_shape, dtype=torch.float64)  # one, so that no angles go round the circle
    return group.compose(centre, group.exp(u))


def made(group, options):
    layer = LieBN(group, dtype=torch.float64, **options)
    if layer.affine and "parametrization" not in options:
        with torch.no_grad():
            layer.bias.copy_(group.random(*layer.bias.shape, dtype=torch.float64))
            if layer.variance:
                layer.log_scale.uniform_(-1.0, 0.5)
    return layer


def weighted_sum(y):
    return (torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).reshape(y.shape) * y).sum()


@every_case
@pytest.mark.parametrize("more", [(), (3,)], ids=["", "more"])
def test_every_domain_has_a_layer_of_its_own(group, options, more):
    layer = made(group, options)
    joint, apart = DomainBatchNorm(layer, DOMAINS), {d: copy.deepcopy(layer) for d in DOMAINS}
    for training in (True, False):
        joint.train(training)
        for labels in BATCHES:
            domain = torch.tensor(labels)
            x = around(group, 8, *more, *layer.shape).requires_grad_()
            y = joint(x, domain)
            parts = {d: apart[d].train(training)(x[domain == d]) for d in set(labels)}
            expected = torch.zeros_like(x)
            for d, part in parts.items():
                expected = expected.index_put((domain == d,), part)
            torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
            parameters = list(joint.parameters())
            got = torch.autograd.grad(weighted_sum(y), [x, *parameters], materialize_grads=True)
            leaves = [x, *(p for d in DOMAINS for p in apart[d].parameters())]
            want = torch.autograd.grad(weighted_sum(expected), leaves, materialize_grads=True)
            torch.testing.assert_close(got[0], want[0], rtol=1e-9, atol=1e-9)
            for i in range(len(parameters)):
                total = sum(want[1 + i :: len(parameters)])
                torch.testing.assert_close(got[1 + i], total, rtol=1e-9, atol=1e-9)
    for d in DOMAINS:
        for name, buffer in apart[d].named_buffers():
            torch.testing.assert_close(joint.get_buffer(f"layers.{d}.{name}"), buffer, rtol=1e-9, atol=1e-9)


def test_absent_domains_keep_their_statistics():
    layer = DomainBatchNorm(made(SPD(3), dict(momentum=None)), DOMAINS)
    layer(around(SPD(3), 8), torch.tensor(BATCHES[0]))
    before = copy.deepcopy(layer.state_dict())
    layer(around(SPD(3), 8), torch.tensor(BATCHES[1]))
    for name, value in layer.state_dict().items():
        if name.startswith("layers.-2."):
            assert torch.equal(value, before[name]), name
        elif name.endswith("running_mean"):
            assert (value - before[name]).abs().max() > 1e-3
    assert [int(d.num_batches_tracked) for d in layer.layers.values()] == [2, 1, 2]


@pytest.mark.parametrize(
    "group, options, backend",
    [
        (SPD(3), dict(shape=(2,)), "eager"),  # AOT takes long to trace its gradient
        (SPD(3, "log-cholesky"), dict(momentum=None), "aot_eager"),
        (Torus(2), dict(training_momentum=DecayingMomentum(3, 0.4)), "aot_eager"),
    ],
    ids=lambda v: ", ".join(v) if isinstance(v, dict) else str(v),
)
def test_compiled_in_full(group, options, backend):
    layer = DomainBatchNorm(made(group, options), DOMAINS)
    twin = copy.deepcopy(layer)
    torch.compiler.reset()
    compiled = torch.compile(twin, fullgraph=True, backend=backend)
    for training in (True, False):
        layer.train(training), twin.train(training)
        for labels in BATCHES[:2]:
            x = around(group, 8, *layer.shared.shape)
            results = []
            for module, net in ((layer, layer), (twin, compiled)):
                a = x.clone().requires_grad_()
                y = net(a, torch.tensor(labels))
                results.append((y, *torch.autograd.grad(weighted_sum(y), [a, *module.parameters()])))
            torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)
    torch.compiler.reset()
    for name, value in layer.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name], value, rtol=1e-9, atol=1e-9)


def test_vmap():
    layer = DomainBatchNorm(made(SPD(3), {}), DOMAINS)
    domain = torch.tensor(BATCHES[0])
    x = around(SPD(3), 8)
    layer(x, domain)
    layer.eval()
    expected = layer(x, domain)
    torch.testing.assert_close(torch.func.vmap(layer)(x, domain), expected)  # every point with its label
    stacked = torch.func.vmap(layer)(x.unflatten(0, (2, 4)), domain.unflatten(0, (2, 4)))
    torch.testing.assert_close(stacked.flatten(0, 1), expected)
    torch.testing.assert_close(layer(x.unflatten(0, (2, 4)), domain.unflatten(0, (2, 4))), stacked)


def test_unknown_labels_that_are_not_looked_at():
    layer = DomainBatchNorm(LieBN(SPD(3), validate_args=False, dtype=torch.float64), DOMAINS)
    without = copy.deepcopy(layer)
    x, domain = around(SPD(3), 8), torch.tensor(BATCHES[0])
    domain[2] = 99
    known = domain != 99
    y = layer(x, domain)
    assert y[2].isnan().all()
    torch.testing.assert_close(y[known], without(x[known], domain[known]))
    for name, value in layer.state_dict().items():
        torch.testing.assert_close(without.state_dict()[name], value)


def test_domains_do_not_mix():
    layer = DomainBatchNorm(LieBN(Euclidean(2), validate_args=False), [0, 1])
    x = torch.randn(6, 2)
    x[0] = math.nan
    y = layer(x, torch.tensor([0, 0, 1, 1, 1, 1]))
    assert y[:2].isnan().all() and y[2:].isfinite().all()
    assert layer.layers["0"].running_mean.isnan().all() and layer.layers["1"].running_mean.isfinite().all()


def test_empty_batch():
    layer = DomainBatchNorm(LieBN(SPD(3)), DOMAINS).eval()
    assert layer(torch.zeros(0, 3, 3), torch.zeros(0, dtype=torch.long)).shape == (0, 3, 3)


def small_tsmnet(domains, metric):
    return TSMNet(
        3,
        2,
        lambda n: DomainBatchNorm(LieBN(SPD(n, metric=metric)), domains),
        temporal_filters=2,
        kernel_size=3,
        spatial_filters=4,
        subspace=2,
    ).double()


def test_tsmnet_compiled_in_full():
    net = small_tsmnet(DOMAINS, "log-cholesky")
    twin = copy.deepcopy(net)
    torch.compiler.reset()
    compiled = torch.compile(twin, fullgraph=True, backend="eager")
    for labels in BATCHES[:2]:
        x, domain = torch.randn(8, 3, 12, dtype=torch.float64), torch.tensor(labels)
        a, b = net(x, domain), compiled(x, domain)
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)
        got, want = (torch.autograd.grad(weighted_sum(y), m.parameters()) for y, m in ((b, twin), (a, net)))
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    torch.compiler.reset()


def test_tsmnet_adapts_to_a_new_domain():
    net = small_tsmnet([0, 1], "affine-invariant")
    x = torch.randn(20, 3, 40, dtype=torch.float64)
    net(x, torch.arange(20) % 2)
    net.eval()
    known = copy.deepcopy(net.state_dict())
    net.adapt(30 * x, torch.full((20,), 4))
    for name, value in known.items():
        assert torch.equal(net.state_dict()[name], value), name
    far = net.features(30 * x, torch.full((20,), 4))
    net.adapt(x, torch.full((20,), 4))
    torch.testing.assert_close(net.features(x, torch.full((20,), 4)), far)  # a scale is a translation
    mean = SPD(2).frechet_mean(_covariances(net, x))
    torch.testing.assert_close(net.norm.layers["4"].running_mean, mean.detach())
    with pytest.raises(ValueError, match=r"adapt needs a norm that adapts, .* got None"):
        TSMNet(3, 2, spatial_filters=4, subspace=2).adapt(torch.randn(2, 3, 40))


def _covariances(net, x):
    """What comes before the norm, read by a hook."""
    seen = []
    hook = net.norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    net(x, torch.zeros(len(x), dtype=torch.long))
    hook.remove()
    return seen[0]


def test_tsmnet_adapts_without_domains():
    net = TSMNet(3, 2, lambda n: LieBN(SPD(n)), temporal_filters=2, kernel_size=3, spatial_filters=4, subspace=2).eval()
    x = torch.randn(20, 3, 40)
    before = net(x)
    net.adapt(x)
    assert net.norm.num_batches_tracked == 1 and (net(x) - before).abs().max() > 1e-3
