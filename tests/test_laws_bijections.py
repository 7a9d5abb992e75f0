"""Every bijection keeps the laws, at random parameters."""

import pytest
import registry
import torch

from flowgroup import bijections, testing
from flowgroup.manifolds import constraints

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


# The laws themselves: each wrong map breaks the law named beside it, and the message says so.


class WrongLogdet(bijections.Affine):
    def forward(self, x, params):
        y, logdet = super().forward(x, params)
        return y, logdet + 1e-4 * x


class WrongInverseLogdet(bijections.Affine):
    def inverse(self, y, params):
        x, logdet = super().inverse(y, params)
        return x, 1.001 * logdet


class WrongInverse(bijections.Affine):
    def inverse(self, y, params):
        x, logdet = super().inverse(y, params)
        return x * (1 + 1e-4), logdet


class MixesTheBatch(bijections.Affine):
    def forward(self, x, params):
        y, logdet = super().forward(x, params)
        return y - 1e-3 * y.mean(), logdet


class OffItsCodomain(bijections.Sigmoid):
    codomain = constraints.Interval(0.0, 0.5)


class IgnoresParams(bijections.Affine):
    def forward(self, x, params):
        return x + 0 * params[..., 0], 0 * x + 0 * params[..., 0]


class NaNGradient(bijections.Affine):
    def forward(self, x, params):
        y, logdet = super().forward(x, params)
        return y + (x - x).abs().sqrt(), logdet


class LooksAtValues(bijections.Affine):
    def forward(self, x, params):
        return super().forward(x, params) if (x > -100).all() else (x, x)


class CopiesBadly(bijections.Affine):
    def __deepcopy__(self, memo):
        return bijections.Affine(max_log_scale=2.0)


@pytest.mark.parametrize(
    ("wrong", "law", "message"),
    [
        (WrongLogdet, testing.assert_log_det, "logdet of f ="),
        (WrongInverseLogdet, testing.assert_log_det, "logdet of f⁻¹ ="),
        (WrongLogdet, testing.assert_log_dets_cancel, "cancel"),
        (WrongInverseLogdet, testing.assert_log_dets_cancel, "cancel"),
        (WrongInverse, testing.assert_invertible, "f⁻¹"),
        (OffItsCodomain, testing.assert_invertible, "lies off the interval"),
        (MixesTheBatch, testing.assert_batch_broadcasting, "f of a batch is f of each event"),
        (IgnoresParams, testing.assert_context_broadcasting, "same for every context"),
        (NaNGradient, testing.assert_gradients_finite, "gradients in x are NaN or infinite"),
        (CopiesBadly, testing.assert_deepcopy, "a deep copy"),
    ],
)
def test_laws_catch_wrong_maps(wrong, law, message, dtype):
    bijection = wrong()
    x, params = torch.randn(8, dtype=dtype), torch.randn(8, *bijection.param_shape, dtype=dtype)
    with pytest.raises(AssertionError, match=message):
        law(bijection, x, params)


def test_laws_catch_a_manifold_that_is_not_named():
    bijection = bijections.SphereMoebius(2)
    x = torch.nn.functional.normalize(torch.randn(4, 3), dim=-1)
    bijection.domain = bijection.codomain = constraints.real
    with pytest.raises(AssertionError, match=r"Jacobian of SphereMoebius.* is singular"):
        testing.assert_invertible(bijection, x, torch.randn(4, 3))


def test_laws_catch_python_branches_on_values():
    arguments = LooksAtValues(), torch.randn(8), torch.randn(8, 2)
    with pytest.raises(RuntimeError, match="vmap"):
        testing.assert_vmap(*arguments)
    with pytest.raises(Exception, match=r"[Dd]ata-dependent"):
        testing.assert_compiles(*arguments, backend="eager")


def test_all_laws_at_once():
    testing.assert_bijection(bijections.Affine(), torch.randn(4), torch.randn(4, 2))
    with pytest.raises(AssertionError, match="logdet of f"):
        testing.assert_bijection(WrongLogdet(), torch.randn(4), torch.randn(4, 2))
