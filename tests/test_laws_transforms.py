"""Every trainable transform keeps the laws, away from the parameters it starts with."""

import copy
import pickle

import pytest
import registry
import torch
from torch.utils.flop_counter import FlopCounterMode

from flowgroup import bijections, flows, testing

every_transform = pytest.mark.parametrize("entry", registry.TRANSFORMS, ids=str)


def test_registry_is_complete():
    entries = registry.BIJECTIONS + registry.TRANSFORMS + registry.BASES + registry.RECIPES
    listed = {entry.of for entry in entries} | registry.ABSTRACT
    missing = [name for name in flows.__all__ if getattr(flows, name) not in listed]
    assert not missing, f"public in flowgroup.flows, but not in tests/registry.py: {missing}"


@every_transform
@pytest.mark.parametrize(
    "law",
    [
        testing.assert_invertible,
        testing.assert_log_det,
        testing.assert_log_dets_cancel,
        testing.assert_batch_broadcasting,
        testing.assert_gradients_finite,
        testing.assert_vmap,
        testing.assert_pickle,
        testing.assert_deepcopy,
    ],
)
def test_law(entry, law, dtype, device):
    law(*registry.built(entry, dtype, device))


@pytest.mark.parametrize("entry", [e for e in registry.TRANSFORMS if e.context], ids=str)
def test_context_broadcasts(entry, dtype, device):
    testing.assert_context_broadcasting(*registry.built(entry, dtype, device))


@every_transform
def test_state_dict_round_trip(entry, dtype, device):
    transform, x, context = registry.built(entry, dtype, device)
    fresh = entry.make().to(x)
    testing.assert_state_dict_round_trip(transform, fresh, x, context)


@every_transform
def test_compiles(entry, device):
    testing.assert_compiles(*registry.built(entry, torch.float32, device), backend="eager")


@every_transform
def test_inv_swaps_directions(entry):
    transform, x, context = registry.built(entry, torch.float64, "cpu")
    y, logdet = transform(x, context)
    for got, expected in zip(transform.inv.inverse(x, context), (y, logdet)):
        assert torch.equal(got, expected)
    for got, expected in zip(transform.inv.inv(x, context), (y, logdet)):
        assert torch.equal(got, expected)
    assert transform.inv.domain is transform.codomain and transform.inv.in_shape == transform.out_shape


def test_copies_do_not_look_at_values_of_the_whole_line():
    t = flows.Elementwise(flows.Affine(), 2)
    for twin in (t, copy.deepcopy(t), pickle.loads(pickle.dumps(t))):
        assert twin(torch.tensor([0.0, torch.nan]))[0].isnan().tolist() == [False, True]


def naive_inverse(transform, y, context):
    """x₁, then x₂ from x₁, …: one whole forward pass for each feature."""
    x = torch.zeros_like(y)
    for i in range(y.shape[-1]):
        params = transform.net(transform._embed(x), context)
        x = x.clone()
        x[..., i] = transform.bijection.inverse(y[..., i], params[..., i, :])[0]
    return x


@pytest.mark.parametrize("entry", [e for e in registry.TRANSFORMS if e.of is flows.Autoregressive], ids=str)
def test_autoregressive_inverse_equals_the_naive_one(entry, dtype, device):
    transform, x, context = registry.built(entry, dtype, device)
    y = transform(x, context)[0]
    torch.testing.assert_close(transform.inverse(y, context)[0], naive_inverse(transform, y, context))


@pytest.mark.parametrize("context", [0, 16])
@pytest.mark.parametrize("features", [8, 64])
def test_autoregressive_inverse_does_the_arithmetic_of_one_pass(features, context):
    spline = bijections.RationalQuadraticSpline(bins=8, bound=4.0)
    transform = flows.Autoregressive(spline, features, context=context, hidden_features=(128, 128))
    x, c = torch.randn(10, features), torch.randn(10, context) if context else None

    def flops(function):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            function(x, c)
        return counter.get_total_flops()

    # a network of full matrices; the masks make zeros of about half, which the inverse leaves out
    assert 0 < flops(transform.inverse) <= 1.5 * flops(transform.forward)
    assert flops(lambda y, c: naive_inverse(transform, y, c)) > features * 0.9 * flops(transform.forward)
