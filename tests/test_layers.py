"""Every layer keeps the laws."""

import pytest
import registry_layers
import torch

from flowgroup import nn as fnn
from flowgroup import testing

every_layer = pytest.mark.parametrize("entry", registry_layers.LAYERS, ids=str)


def built(entry, dtype, device, batch=4):
    """(a layer whose running statistics have moved, inputs)."""
    layer = entry.make().to(device=device, dtype=dtype)
    x = entry.points(batch, dtype=dtype, device=device)
    if any(True for _ in layer.buffers()):
        with torch.no_grad():
            layer(entry.points(8, dtype=dtype, device=device))
    return layer, x


def test_registry_is_complete():
    listed = {entry.of for entry in registry_layers.LAYERS} | set(registry_layers.ELSEWHERE)
    missing = [name for name in fnn.__all__ if getattr(fnn, name) not in listed]
    assert not missing, f"public in flowgroup.nn, but not in tests/registry_layers.py: {missing}"


@every_layer
def test_batches(entry, dtype, device):
    testing.assert_layer_batches(*built(entry, dtype, device), entry.event_dim)


@every_layer
def test_gradients(entry, device):
    testing.assert_layer_gradients(*built(entry, torch.float64, device, batch=2), entry.move)


@every_layer
def test_compiles(entry, device):
    # the gradient of a batch norm takes AOT long to trace; its own tests do
    heavy = any(isinstance(m, fnn.RiemannianBatchNorm) for m in entry.make().modules())
    testing.assert_layer_compiles(*built(entry, torch.float64, device), backend="eager" if heavy else "aot_eager")


@pytest.mark.parametrize(
    "entry", [e for e in registry_layers.LAYERS if str(e) in ("BiMap", "ReEig", "CovariancePooling-oas")], ids=str
)
def test_compiles_by_inductor(entry):
    testing.assert_layer_compiles(*built(entry, torch.float64, "cpu"), backend="inductor")


@every_layer
def test_vmap(entry, dtype, device):
    testing.assert_layer_vmap(*built(entry, dtype, device))


@every_layer
def test_precision(entry, device):
    testing.assert_layer_precision(*built(entry, torch.float64, device), entry.mixed)


@every_layer
def test_copies(entry, dtype, device):
    layer, x = built(entry, dtype, device)
    testing.assert_layer_copies(layer, x, entry.make())


@pytest.mark.parametrize("entry", [e for e in registry_layers.LAYERS if not e.mixed], ids=str)
def test_half_precision_is_widened(entry):
    layer, x = built(entry, torch.float32, "cpu")
    for module in layer.eval().modules():
        module.validate_args = False  # rounding to eight bits may leave the manifold
    assert layer(x.bfloat16()).dtype == torch.float32
