"""The laws of layers between points of manifolds, as functions that raise AssertionError where one is broken.

A layer with statistics of batches is looked at in evaluation mode, where every point is mapped for itself. Allowed
errors are a multiple of the dtype's rounding, for points whose condition is moderate.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from flowgroup.manifolds import Manifold

ROUNDING_UNITS = 1000
"""Two ways to the same values may differ by this many times the dtype's epsilon, relative to the largest value."""


def assert_layer(
    layer: nn.Module,
    x: Tensor,
    fresh: nn.Module | None = None,
    move: Callable[[Tensor, Tensor], Tensor] = torch.add,
    event_dim: int = 2,
    mixed: bool = False,
) -> None:
    """Check every law of a layer on a batch of points.

    Args:
        layer: any module that maps every point of a batch for itself, at least in evaluation mode.
        x: points (batch, *event).
        fresh: a layer newly built with the same arguments, into which the state dict is loaded; without it that law
            is left out.
        move: (x, v) ↦ points near x, for small v of the shape of x, where x + v is none: X + V + Vᵀ for symmetric
            matrices, say.
        event_dim: number of dimensions of an event.
        mixed: whether autocast may change values, as it does those of linear layers.

    Raises:
        AssertionError: naming the law, the error found and the error allowed.

    Example:
        >>> from flowgroup.nn import ReEig
        >>> assert_layer(ReEig(), torch.eye(3) + torch.diag_embed(torch.rand(4, 3)), move=lambda x, v: x + v + v.mT)
    """
    assert_layer_batches(layer, x, event_dim)
    assert_layer_gradients(layer, x, move)
    assert_layer_compiles(layer, x)
    assert_layer_vmap(layer, x)
    assert_layer_precision(layer, x, mixed)
    assert_layer_copies(layer, x, fresh)


def assert_layer_batches(layer: nn.Module, x: Tensor, event_dim: int = 2) -> None:
    """One point, a batch of one, a batch of any shape and an empty batch give the same values.

    Example:
        >>> assert_layer_batches(torch.nn.Linear(3, 2), torch.randn(4, 3), event_dim=1)
    """
    layer = _evaluated(layer)
    x = x.detach().reshape(-1, *x.shape[x.dim() - event_dim :])
    with torch.no_grad():
        y = layer(x)
        _assert_close("a layer maps a batch point by point", layer, torch.stack([layer(a) for a in x]), y)
        _assert_close("a layer takes a batch of one", layer, layer(x[:1]), y[:1])
        _assert_close("a layer takes a batch of two dimensions", layer, layer(x[:, None]), y[:, None])
        _assert_close("a layer takes an empty batch", layer, layer(x[:0]), y[:0])


def assert_layer_gradients(layer: nn.Module, x: Tensor, move: Callable[[Tensor, Tensor], Tensor] = torch.add) -> None:
    """Gradients in x and in all parameters are those of finite differences, in double precision.

    Those of a `geoopt.ManifoldParameter` are compared along its manifold.

    Example:
        >>> assert_layer_gradients(torch.nn.Linear(3, 2), torch.randn(4, 3))
    """
    layer, x = _evaluated(layer).double(), x.detach().double()
    parameters = {k: p for k, p in layer.named_parameters() if p.requires_grad}

    def function(v: Tensor, *steps: Tensor) -> Tensor:
        moved = {k: _moved(p, u) for (k, p), u in zip(parameters.items(), steps)}
        return torch.func.functional_call(layer, moved, (move(x, v),))

    at = [torch.zeros_like(a, requires_grad=True) for a in (x, *(p.data for p in parameters.values()))]
    try:
        torch.autograd.gradcheck(function, at)
    except RuntimeError as error:
        raise AssertionError(f"gradients of {_name(layer)} are not those of finite differences: {error}") from error


def assert_layer_compiles(layer: nn.Module, x: Tensor, backend: str = "aot_eager") -> None:
    """torch.compile(layer, fullgraph=True) gives the same values and gradients, in the mode the layer is in.

    Example:
        >>> assert_layer_compiles(torch.nn.Linear(3, 2), torch.randn(4, 3), backend="eager")
    """
    results = []
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):  # torch's own, while it compiles
            warnings.simplefilter("ignore", category)
        torch._dynamo.reset()
        for compiled in (False, True):
            twin, a = copy.deepcopy(layer), x.detach().clone().requires_grad_()
            y = (torch.compile(twin, fullgraph=True, backend=backend) if compiled else twin)(a)
            leaves = [a, *(p for p in twin.parameters() if p.requires_grad)]
            results.append((y, *torch.autograd.grad(_weighted_sum(y), leaves, materialize_grads=True)))
        torch._dynamo.reset()
    for expected, got in zip(*results):
        _assert_close(f"torch.compile(…, backend={backend!r}) changes nothing", layer, got.detach(), expected.detach())


def assert_layer_vmap(layer: nn.Module, x: Tensor) -> None:
    """torch.func.vmap(layer)(x) = layer(x).

    Example:
        >>> assert_layer_vmap(torch.nn.Linear(3, 2), torch.randn(4, 3))
    """
    layer = _evaluated(layer)
    with torch.no_grad():
        _assert_close("vmap changes nothing", layer, torch.func.vmap(layer)(x), layer(x))


def assert_layer_precision(layer: nn.Module, x: Tensor, mixed: bool = False) -> None:
    """The dtype of x is that of the result, in double and single precision, and autocast changes nothing.

    Args:
        layer: in any precision.
        x: points, best in double precision.
        mixed: whether autocast may change values, as it does those of linear layers.

    Example:
        >>> from flowgroup.nn import LogEig
        >>> assert_layer_precision(LogEig(), torch.eye(3).expand(4, 3, 3))
    """
    layer = _evaluated(layer)
    with torch.no_grad():
        for dtype in (torch.float64, torch.float32):
            layer, x = layer.to(dtype), x.to(dtype)
            y = layer(x)
            if y.dtype != dtype:
                raise AssertionError(f"{_name(layer)} gives {y.dtype} for {dtype}")
            if not mixed:
                with torch.autocast(x.device.type, dtype=torch.bfloat16):
                    _assert_close("autocast changes nothing", layer, layer(x), y)


def assert_layer_copies(layer: nn.Module, x: Tensor, fresh: nn.Module | None = None) -> None:
    """A deep copy, and a fresh layer with the state dict loaded by weights_only=True, give the same and share nothing.

    Example:
        >>> assert_layer_copies(torch.nn.Linear(3, 2), torch.randn(4, 3), torch.nn.Linear(3, 2))
    """
    copies = {"a deep copy": copy.deepcopy(layer)}
    if fresh is not None:
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        fresh = copy.deepcopy(fresh).to(x.dtype).to(x.device)
        fresh.load_state_dict(torch.load(file, weights_only=True))
        copies["a fresh layer with its state"] = fresh
    storages = {t.data_ptr() for t in layer.state_dict().values() if t.numel()}
    with torch.no_grad():
        expected = _evaluated(layer)(x)
        for what, twin in copies.items():
            got = _evaluated(twin)(x)
            if not torch.equal(got, expected):
                error = (got - expected).abs().max().item()
                raise AssertionError(f"{what} of {_name(layer)} gives other values, {error:.3g} away")
            shared = [k for k, t in twin.state_dict().items() if t.numel() and t.data_ptr() in storages]
            if shared:
                raise AssertionError(f"{what} of {_name(layer)} shares {', '.join(shared)} with it")


def _evaluated(layer: nn.Module) -> nn.Module:
    return copy.deepcopy(layer).eval()


def _moved(p: Tensor, u: Tensor) -> Tensor:
    manifold = getattr(p, "manifold", None)
    if manifold is None:
        return p.data + u
    # an ambient step, made tangent; the manifolds here that are groups have no retraction to first order for less
    step = manifold.proju(p.data, u)
    return manifold.expmap(p.data, step) if isinstance(manifold, Manifold) else p.data + step


def _weighted_sum(y: Tensor) -> Tensor:
    """With irregular weights, so that its gradient misses nothing."""
    return (torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype, device=y.device).reshape(y.shape) * y).sum()


def _name(layer: nn.Module) -> str:
    return type(layer).__name__


def _assert_close(law: str, layer: nn.Module, got: Tensor, expected: Tensor) -> None:
    if got.shape != expected.shape:
        raise AssertionError(f"{law}: {_name(layer)} gives shape {tuple(got.shape)} for {tuple(expected.shape)}")
    if not expected.numel():
        return
    error = (got - expected).abs().max().item()
    allowed = ROUNDING_UNITS * torch.finfo(expected.dtype).eps * max(1.0, expected.abs().max().item())
    if not error <= allowed:  # so written, NaN counts as broken
        raise AssertionError(f"{law}: {_name(layer)} is {error:.3g} away, and {allowed:.3g} is allowed")
