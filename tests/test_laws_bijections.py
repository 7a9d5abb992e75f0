"""Every bijection keeps the laws, at random parameters."""

import pytest
import registry
import torch

from flowgroup import bijections, testing

every_bijection = pytest.mark.parametrize("entry", registry.BIJECTIONS, ids=str)


def case(entry, dtype, device, n=24, spread=1.0):
    bijection = entry.make()
    x = entry.points(n, dtype=dtype, device=device)
    start = bijection.initial_params().to(x)
    return bijection, x, start + spread * torch.randn(n, *bijection.param_shape, dtype=dtype, device=device)


def test_registry_is_complete():
    listed = {entry.of for entry in registry.BIJECTIONS} | registry.ABSTRACT
    missing = [name for name in bijections.__all__ if getattr(bijections, name) not in listed]
    assert not missing, f"public in flowgroup.bijections, but not in tests/registry.py: {missing}"


@every_bijection
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
    law(*case(entry, dtype, device))


@every_bijection
def test_params_broadcast(entry, dtype, device):
    bijection, x, params = case(entry, dtype, device, n=5)
    if params.shape[-1]:
        testing.assert_context_broadcasting(bijection, x, params)


@every_bijection
def test_compiles(entry, device):
    testing.assert_compiles(*case(entry, torch.float32, device), backend="eager")


@every_bijection
def test_starts_near_the_identity_or_at_least_finite(entry, dtype, device):
    testing.assert_invertible(*case(entry, dtype, device, spread=0.0))


@every_bijection
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_gradients_equal_finite_differences(entry, direction):
    bijection, x, params = case(entry, torch.float64, "cpu", n=3)
    if direction == "inverse":
        x = bijection.forward(x, params)[0]
    function = getattr(bijection, direction)
    assert torch.autograd.gradcheck(function, (x.requires_grad_(), params.requires_grad_()), atol=1e-6)
