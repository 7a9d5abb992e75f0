"""The laws of bijections, transforms and flows, as functions that raise AssertionError where one is broken.

They take a `Transform` with its context or a `Bijection` with its parameters in the place of the context; `x` and the
context hold a batch of events, best a handful at random. Allowed errors are a multiple of the dtype's rounding,
scaled by the size of the values and by how much the map stretches or shrinks them at each event.
"""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from flowgroup.bijections import Bijection
from flowgroup.flows.flow import Flow
from flowgroup.flows.transform import Transform
from flowgroup.manifolds.constraints import Circle, OnManifold, wrap

Map = Transform | Bijection

ROUNDING_UNITS = 64
"""Errors up to this many times the dtype's epsilon, times scale and stretch, count as rounding."""


def assert_transform(
    transform: Transform, x: Tensor, context: Tensor | None = None, fresh: Transform | None = None
) -> None:
    """Check every law of a transform on a batch of events.

    Args:
        transform: the transform, its parameters best away from their start.
        x: events (batch, *event).
        context: conditions (batch, context_features), when it takes any.
        fresh: a transform newly built with the same arguments, into which the state dict is loaded; without it that
            law is left out.

    Raises:
        AssertionError: naming the law, the error found and the error allowed.

    Example:
        >>> from flowgroup import flows
        >>> assert_transform(flows.Coupling(flows.Affine(), features=3), torch.randn(4, 3))
    """
    _assert_map(transform, x, context)
    assert_gradients_finite(transform, x, context)
    assert_compiles(transform, x, context)
    assert_pickle(transform, x, context)
    assert_deepcopy(transform, x, context)
    if fresh is not None:
        assert_state_dict_round_trip(transform, fresh, x, context)


def assert_bijection(bijection: Bijection, x: Tensor, params: Tensor) -> None:
    """Check every law of a bijection on a batch of events.

    Args:
        bijection: the bijection.
        x: events (batch, *event).
        params: parameters (batch, P), best at random.

    Raises:
        AssertionError: naming the law, the error found and the error allowed.

    Example:
        >>> from flowgroup.bijections import Affine
        >>> assert_bijection(Affine(), torch.randn(4), torch.randn(4, 2))
    """
    _assert_map(bijection, x, params)
    assert_gradients_finite(bijection, x, params)
    assert_compiles(bijection, x, params)
    assert_pickle(bijection, x, params)
    assert_deepcopy(bijection, x, params)


def assert_flow(flow: Flow, x: Tensor, context: Tensor | None = None, fresh: Flow | None = None) -> None:
    """Check every law of a flow and of its transform.

    Args:
        flow: the flow, its parameters best away from their start.
        x: events (batch, *event).
        context: conditions (batch, context_features), when it takes any.
        fresh: a flow newly built with the same arguments, into which the state dict is loaded; without it that law is
            left out.

    Raises:
        AssertionError: naming the law, the error found and the error allowed.

    Example:
        >>> from flowgroup import flows
        >>> flow = flows.Flow(flows.Coupling(flows.Affine(), features=3), flows.DiagonalNormal(3))
        >>> assert_flow(flow, torch.randn(4, 3))
    """
    _assert_map(flow.transform, x, context)
    assert_sampling(flow, context)
    assert_vmap(flow, x, context)
    assert_gradients_finite(flow, x, context)
    assert_compiles(flow, x, context)
    assert_pickle(flow, x, context)
    assert_deepcopy(flow, x, context)
    if fresh is not None:
        assert_state_dict_round_trip(flow, fresh, x, context)


def _assert_map(f: Map, x: Tensor, context: Tensor | None) -> None:
    assert_invertible(f, x, context)
    assert_log_det(f, x, context)
    assert_log_dets_cancel(f, x, context)
    assert_batch_broadcasting(f, x, context)
    if context is not None and context.shape[-1]:
        assert_context_broadcasting(f, x, context)
    assert_vmap(f, x, context)


def assert_invertible(f: Map, x: Tensor, context: Tensor | None = None) -> None:
    """f⁻¹(f(x)) = x and f(f⁻¹(y)) = y, and both lie where `domain` and `codomain` say.

    Args:
        f: a transform, or a bijection.
        x: events (batch, *event).
        context: the transform's context, or the bijection's parameters.

    Raises:
        AssertionError: when an error exceeds rounding.

    Example:
        >>> from flowgroup.bijections import Affine
        >>> assert_invertible(Affine(), torch.randn(4), torch.randn(4, 2))
    """
    x, context = _flat(f, x, context)
    with torch.no_grad():
        y = f.forward(x, context)[0]
        again = f.inverse(y, context)[0]
        y_again = f.forward(again, context)[0]
    _assert_inside("the image f(x)", f, y, f.codomain)
    _assert_inside("the pre-image f⁻¹(y)", f, again, f.domain)
    allowed = _stretch(f, x, context) * (_size(x) + _size(y))
    _assert_close("f⁻¹(f(x)) = x", f, again, x, allowed, f.domain)
    _assert_close("f(f⁻¹(y)) = y", f, y_again, y, allowed, f.codomain)


def assert_log_det(f: Map, x: Tensor, context: Tensor | None = None) -> None:
    """logdet = log|det ∂f/∂x| of the autograd Jacobian, in both directions.

    On a manifold the Jacobian is taken between bases of the tangent spaces that are orthonormal in its metric, so that
    the log-determinant is one of the manifold's volume.

    Args:
        f: a transform, or a bijection.
        x: events (batch, *event).
        context: the transform's context, or the bijection's parameters.

    Raises:
        AssertionError: when an error exceeds rounding, or the logdet is not of the batch shape.

    Example:
        >>> from flowgroup.bijections import Affine
        >>> assert_log_det(Affine(), torch.randn(4), torch.randn(4, 2))
    """
    x, context = _flat(f, x, context)
    with torch.no_grad():
        y, logdet = f.forward(x, context)
        inverse_logdet = f.inverse(y, context)[1]
    stretch = _stretch(f, x, context)
    for law, g, at, got, ends in (
        ("logdet of f = log|det ∂f/∂x|", f.forward, x, logdet, (f.domain, f.codomain)),
        ("logdet of f⁻¹ = log|det ∂f⁻¹/∂y|", f.inverse, y, inverse_logdet, (f.codomain, f.domain)),
    ):
        expected = torch.linalg.slogdet(_square(_jacobian(g, at, context, *ends), f))[1]
        with torch.no_grad():
            expected = expected + _log_volume(g(at, context)[0], ends[1]) - _log_volume(at, ends[0])
        _assert_close(law, f, got, expected, stretch * (_size(x) + _size(y) + expected.abs()))


def assert_log_dets_cancel(f: Map, x: Tensor, context: Tensor | None = None) -> None:
    """logdet of f at x + logdet of f⁻¹ at f(x) = 0.

    Args:
        f: a transform, or a bijection.
        x: events (batch, *event).
        context: the transform's context, or the bijection's parameters.

    Raises:
        AssertionError: when the sum exceeds rounding.

    Example:
        >>> from flowgroup.bijections import Affine
        >>> assert_log_dets_cancel(Affine(), torch.randn(4), torch.randn(4, 2))
    """
    x, context = _flat(f, x, context)
    with torch.no_grad():
        y, logdet = f.forward(x, context)
        inverse_logdet = f.inverse(y, context)[1]
    allowed = _stretch(f, x, context) * (_size(x) + _size(y) + logdet.abs())
    _assert_close("the log-determinants of f and f⁻¹ cancel", f, logdet, -inverse_logdet, allowed)


def assert_batch_broadcasting(f: Map, x: Tensor, context: Tensor | None = None) -> None:
    """One event, a batch of any shape and an empty batch give the same values, and logdet the batch shape.

    Args:
        f: a transform, or a bijection.
        x: events (batch, *event).
        context: the transform's context, or the bijection's parameters.

    Raises:
        AssertionError: when values or shapes differ.

    Example:
        >>> from flowgroup.bijections import Affine
        >>> assert_batch_broadcasting(Affine(), torch.randn(4), torch.randn(4, 2))
    """
    x, context = _flat(f, x, context)
    with torch.no_grad():
        stretch = _stretch(f, x, context)
        y = f.forward(x, context)[0]
        for direction, g, at, end in (("f", f.forward, x, f.codomain), ("f⁻¹", f.inverse, y, f.domain)):
            out, logdet = g(at, context)
            allowed = stretch * (_size(at) + _size(out) + logdet.abs())
            single = [g(at[i], None if context is None else context[i]) for i in range(len(at))]
            law = f"{direction} of a batch is {direction} of each event"
            _assert_close(law, f, torch.stack([s[0] for s in single]), out, allowed, end)
            _assert_close(law + " (logdet)", f, torch.stack([s[1] for s in single]), logdet, allowed)
            reshaped = g(at[:, None, None], None if context is None else context[:, None, None])
            law = f"{direction} keeps a batch of shape {(len(at), 1, 1)}"
            _assert_close(law, f, reshaped[0], out[:, None, None], allowed[:, None, None], end)
            _assert_close(law + " (logdet)", f, reshaped[1], logdet[:, None, None], allowed[:, None, None])
            empty = g(at[:0], None if context is None else context[:0])
            if empty[0].shape != out[:0].shape or empty[1].shape != (0,):
                raise AssertionError(
                    f"{direction} of {_name(f)} on an empty batch gives shapes {tuple(empty[0].shape)} and "
                    f"{tuple(empty[1].shape)}, expected {tuple(out[:0].shape)} and (0,)"
                )


def assert_context_broadcasting(f: Map, x: Tensor, context: Tensor) -> None:
    """Batches of x and of context broadcast, and the context has an effect.

    Args:
        f: a transform, or a bijection.
        x: events (batch, *event).
        context: the transform's context, or the bijection's parameters, (batch, size).

    Raises:
        AssertionError: when values or shapes differ, or every context gives the same.

    Example:
        >>> from flowgroup.bijections import Affine
        >>> assert_context_broadcasting(Affine(), torch.randn(4), torch.randn(4, 2))
    """
    x, context = _flat(f, x, context)
    n = len(x)
    with torch.no_grad():
        y = f.forward(x, context)[0]
        for direction, g, at, end in (("f", f.forward, x, f.codomain), ("f⁻¹", f.inverse, y, f.domain)):
            # what every pair gives when nothing needs to broadcast
            pairs = at.repeat_interleave(n, 0), context.repeat(n, 1)
            out, logdet = (t.unflatten(0, (n, n)) for t in g(*pairs))
            stretch = _stretch(f, *pairs, inverse=g == f.inverse).unflatten(0, (n, n))
            allowed = stretch * (_size(pairs[0]).unflatten(0, (n, n)) + _size(out, 2) + logdet.abs())
            for what, args, at_pairs in (
                ("x (n, 1) with context (1, n)", (at[:, None], context[None]), (slice(None), slice(None))),
                ("x (n,) with one context", (at, context[0]), (slice(None), 0)),
                ("one x with context (n,)", (at[0], context), (0, slice(None))),
            ):
                got = g(*args)
                _assert_close(f"{direction}: {what}", f, got[0], out[at_pairs], allowed[at_pairs], end)
                _assert_close(f"{direction}: {what} (logdet)", f, got[1], logdet[at_pairs], allowed[at_pairs])
            if n > 1 and torch.equal(out, out[:, :1].expand_as(out)):
                raise AssertionError(f"{direction} of {_name(f)} is the same for every context")


def assert_gradients_finite(f: Map | Flow, x: Tensor, context: Tensor | None = None) -> None:
    """∂/∂x, ∂/∂context and ∂/∂parameters are finite in both directions, and every parameter has one.

    Args:
        f: a transform, a bijection or a flow.
        x: events (batch, *event).
        context: the context, or the bijection's parameters.

    Raises:
        AssertionError: naming the argument or parameter whose gradient is missing, NaN or infinite.

    Example:
        >>> from flowgroup.bijections import Affine
        >>> assert_gradients_finite(Affine(), torch.randn(4), torch.randn(4, 2))
    """
    for direction, g, at in _directions(f, x, context):
        arguments = {"x": at.detach().requires_grad_()}
        if context is not None:
            arguments["context"] = context.detach().requires_grad_()
        leaves = arguments | {k: p for k, p in _parameters(f).items() if p.requires_grad}
        with torch.enable_grad():
            total = sum((_weights(out) * out).sum() for out in g(*arguments.values()))
        if not total.requires_grad:
            if isinstance(f, Flow) and len(leaves) == len(arguments):
                continue  # a uniform density
            raise AssertionError(f"{direction} of {_name(f)} is detached from its arguments: it has no gradient")
        for name, gradient in zip(leaves, torch.autograd.grad(total, list(leaves.values()), allow_unused=True)):
            if gradient is None and name not in arguments:
                raise AssertionError(f"{direction} of {_name(f)} has no gradient in its parameter {name}")
            if gradient is not None and not torch.isfinite(gradient).all():
                bad = (~torch.isfinite(gradient)).sum().item()
                raise AssertionError(
                    f"{direction} of {_name(f)}: {bad} of {gradient.numel()} gradients in {name} are NaN or infinite"
                )


def assert_vmap(f: Map | Flow, x: Tensor, context: Tensor | None = None) -> None:
    """vmap(f)(x) = f(x) in both directions, the context being mapped over as well or held fixed.

    Args:
        f: a transform, a bijection or a flow.
        x: events (batch, *event).
        context: the context, or the bijection's parameters.

    Raises:
        AssertionError: when values differ. What torch.func.vmap itself refuses raises as it is.

    Example:
        >>> from flowgroup.bijections import Affine
        >>> assert_vmap(Affine(), torch.randn(4), torch.randn(4, 2))
    """
    stretch = _largest_stretch(f, x, context)
    for direction, g, at in _directions(f, x, context):
        law = f"vmap of {direction}"
        with torch.no_grad():
            if context is None:
                _assert_same(law, f, torch.func.vmap(g)(at), g(at), stretch)
            else:
                _assert_same(law, f, torch.func.vmap(g)(at, context), g(at, context), stretch)
                mapped = torch.func.vmap(g, in_dims=(0, None))(at, context[0])
                _assert_same(f"{law} over x alone", f, mapped, g(at, context[0]), stretch)


def assert_compiles(f: Map | Flow, x: Tensor, context: Tensor | None = None, backend: str = "aot_eager") -> None:
    """torch.compile(f, fullgraph=True)(x) = f(x) with its gradient, in both directions; of a flow also sampling.

    Args:
        f: a transform, a bijection or a flow.
        x: events (batch, *event).
        context: the context, or the bijection's parameters.
        backend: of torch.compile. "aot_eager" traces forward and backward and is quick, "inductor" makes kernels.

    Raises:
        AssertionError: when values differ. Graph breaks raise as torch.compile reports them.

    Example:
        >>> from flowgroup.bijections import Affine
        >>> assert_compiles(Affine(), torch.randn(4), torch.randn(4, 2))
    """
    stretch = _largest_stretch(f, x, context)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, while it compiles
        for direction, g, at in _directions(f, x, context):
            torch._dynamo.reset()
            compiled = torch.compile(g, fullgraph=True, backend=backend)
            arguments = [at.detach().requires_grad_()] + ([] if context is None else [context])
            results = []
            for function in (compiled, g):
                out = function(*arguments)
                total = sum((_weights(o) * o).sum() for o in out)
                results.append((*out, *(torch.autograd.grad(total, arguments[0]) if total.requires_grad else ())))
            _assert_same(f"compiled {direction}", f, *results, stretch)
        if isinstance(f, Flow):
            torch._dynamo.reset()
            with torch.no_grad():
                if f.base.distribution().has_rsample:
                    sampled = torch.compile(f.rsample_and_log_prob, fullgraph=True, backend=backend)((5,), context)
                    again = (f.log_prob(sampled[0], context),)
                    stretch = _largest_stretch(f, sampled[0], context)
                    _assert_same("log_prob of compiled samples", f, sampled[1:], again, stretch)
                sample = torch.compile(f.sample, fullgraph=True, backend=backend)((5,), context)
            _assert_inside("a compiled sample", f, sample, f.transform.domain)
        torch._dynamo.reset()


def assert_sampling(flow: Flow, context: Tensor | None = None, shape: tuple[int, ...] = (3, 2)) -> None:
    """Samples have shape (*shape, *context batch, *event), lie in the domain, and carry their own log-density.

    Args:
        flow: a flow. Where its base has no `rsample`, the shape and place of samples is all that is checked.
        context: conditions (batch, context_features), when it takes any.
        shape: how many for each context.

    Raises:
        AssertionError: when a shape is wrong, a sample lies off the domain, log_prob(x) differs from the log-density
            that came with x, or gradients are not finite.

    Example:
        >>> from flowgroup import flows
        >>> assert_sampling(flows.Flow(flows.Coupling(flows.Affine(), features=3), flows.DiagonalNormal(3)))
    """
    batch = shape + (() if context is None else tuple(context.shape[:-1]))
    event = tuple(flow.event_shape)
    sample = flow.sample(shape, context)
    _assert_shape("a sample", flow, sample, batch + event)
    _assert_inside("a sample", flow, sample, flow.transform.domain)
    if not flow.base.distribution().has_rsample:
        return
    x, log_prob = flow.rsample_and_log_prob(shape, context)
    _assert_shape("a sample", flow, x, batch + event)
    _assert_shape("the log-density of a sample", flow, log_prob, batch)
    _assert_inside("a sample", flow, x, flow.transform.domain)
    with torch.no_grad():
        again = flow.log_prob(x, context)
    stretch = _stretch(flow.transform, *_flat(flow.transform, x, context)).unflatten(0, batch)
    allowed = stretch * (_size(x.detach(), len(batch)) + again.abs())
    _assert_close("log_prob of a sample = the one it came with", flow, log_prob.detach(), again, allowed)
    parameters = {k: p for k, p in flow.named_parameters() if p.requires_grad}
    for out in (x, log_prob):
        if not out.requires_grad:
            continue
        total = (_weights(out) * out).sum()
        gradients = torch.autograd.grad(total, list(parameters.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(parameters, gradients):
            if gradient is not None and not torch.isfinite(gradient).all():
                raise AssertionError(f"the gradient of a sample of {_name(flow)} in {name} is NaN or infinite")


def assert_state_dict_round_trip(
    module: Transform | Flow, fresh: Transform | Flow, x: Tensor, context: Tensor | None = None
) -> None:
    """A saved state dict, loaded with weights_only=True into a newly built module, gives the same values.

    Args:
        module: a transform or a flow, in a state different from the start.
        fresh: one newly built with the same arguments.
        x: events (batch, *event).
        context: the context, when it takes any.

    Raises:
        AssertionError: when keys or values differ.

    Example:
        >>> from flowgroup import flows
        >>> a, b = (flows.Coupling(flows.Affine(), features=3) for _ in range(2))
        >>> assert_state_dict_round_trip(a, b, torch.randn(4, 3))
    """
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    if state.keys() != fresh.state_dict().keys():
        difference = sorted(state.keys() ^ fresh.state_dict().keys())
        raise AssertionError(f"a new {type(fresh).__name__} has another state dict: {difference}")
    fresh.load_state_dict(state)
    _assert_copy("a module loaded from the state dict", module, fresh, x, context)


def assert_pickle(f: Map | Flow, x: Tensor, context: Tensor | None = None) -> None:
    """pickle.loads(pickle.dumps(f)) gives the same values.

    Args:
        f: a transform, a bijection or a flow.
        x: events (batch, *event).
        context: the context, or the bijection's parameters.

    Raises:
        AssertionError: when values differ. What pickle itself refuses raises as it is.

    Example:
        >>> from flowgroup.bijections import Affine
        >>> assert_pickle(Affine(), torch.randn(4), torch.randn(4, 2))
    """
    _assert_copy("a pickled copy", f, pickle.loads(pickle.dumps(f)), x, context)


def assert_deepcopy(f: Map | Flow, x: Tensor, context: Tensor | None = None) -> None:
    """copy.deepcopy(f) gives the same values and shares no memory.

    Args:
        f: a transform, a bijection or a flow.
        x: events (batch, *event).
        context: the context, or the bijection's parameters.

    Raises:
        AssertionError: when values differ or a parameter is shared.

    Example:
        >>> from flowgroup.bijections import Affine
        >>> assert_deepcopy(Affine(), torch.randn(4), torch.randn(4, 2))
    """
    twin = copy.deepcopy(f)
    _assert_copy("a deep copy", f, twin, x, context)
    if isinstance(f, nn.Module):
        shared = {t.data_ptr() for t in f.state_dict().values() if t.numel()}
        for name, tensor in twin.state_dict().items():
            if tensor.numel() and tensor.data_ptr() in shared:
                raise AssertionError(f"a deep copy of {_name(f)} shares {name} with the original")


# What the laws are made of


def _name(f: Map | Flow) -> str:
    return type(f).__name__ if isinstance(f, nn.Module) else repr(f)


def _event_dim(f: Map, inverse: bool = False) -> int:
    if isinstance(f, Bijection):
        return f.event_dim
    return len(f.out_shape if inverse else f.in_shape)


def _flat(f: Map, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """x and its context with one joint batch dimension."""
    batch = x.shape[: x.dim() - _event_dim(f)]
    event = x.shape[len(batch) :]
    if context is None:
        return x.detach().reshape(-1, *event), None
    joint = torch.broadcast_shapes(batch, context.shape[:-1])
    x = x.detach().expand(*joint, *event).reshape(-1, *event)
    return x, context.detach().expand(*joint, -1).reshape(len(x), context.shape[-1])


def _directions(f: Map | Flow, x: Tensor, context: Tensor | None) -> list[tuple[str, Callable, Tensor]]:
    """(name, function giving a tuple, where to evaluate it)."""
    if isinstance(f, Flow):
        return [("log_prob", _in_tuple(f), x)]
    with torch.no_grad():
        y = f.forward(x, context)[0]
    return [("f", _optional_context(f.forward), x), ("f⁻¹", _optional_context(f.inverse), y)]


def _in_tuple(f: Flow) -> Callable[..., tuple[Tensor]]:
    return lambda x, context=None: (f(x, context),)


def _optional_context(g: Callable) -> Callable[..., tuple[Tensor, Tensor]]:
    return lambda x, context=None: g(x, context)


def _parameters(f: Map | Flow) -> dict[str, Tensor]:
    if isinstance(f, Flow):  # those of a trainable base count as well
        return dict(f.named_parameters())
    return dict(f.named_parameters()) if isinstance(f, nn.Module) else {}


def _weights(out: Tensor) -> Tensor:
    """Fixed irregular weights, so that the gradient of a weighted sum misses nothing."""
    return torch.linspace(0.5, 1.5, max(out.numel(), 1), dtype=out.dtype, device=out.device)[: out.numel()].view(
        out.shape
    )


def _size(x: Tensor, batch_dim: int = 1) -> Tensor:
    """1 + the largest entry of each event."""
    flat = x.unsqueeze(-1).flatten(batch_dim)
    return 1 + flat.abs().amax(-1)


def _tangent_basis(x: Tensor, constraint) -> Tensor:
    """Columns (batch, n, k), orthonormal as vectors of ℝⁿ, that span the tangent space at x, in double precision."""
    x = x.double()
    eye = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).expand(len(x), -1, -1)
    if not isinstance(constraint, OnManifold):
        return eye
    projector = constraint.manifold.proju(x.unsqueeze(1), eye.unflatten(-1, x.shape[1:])).flatten(2)
    k = int(projector[0].diagonal().sum().round())
    return torch.linalg.svd(projector.mT)[0][..., :k]


def _log_volume(x: Tensor, constraint) -> Tensor | float:
    """log √det of the metric in that basis."""
    if not isinstance(constraint, OnManifold):
        return 0.0
    x = x.double()
    basis = _tangent_basis(x, constraint).mT.unflatten(-1, x.shape[1:])
    gram = constraint.manifold.inner(x[:, None, None], basis[:, None], basis[:, :, None])
    return 0.5 * torch.linalg.slogdet(gram)[1]


def _jacobian(g: Callable, x: Tensor, context: Tensor | None, domain, codomain) -> Tensor:
    """∂g/∂x (batch, k, k) between such bases of the tangent spaces, by autograd, in double precision."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = g(x, context)[0]
        entries = y.reshape(len(x), -1)
        rows = [
            torch.autograd.grad(entry.sum(), x, retain_graph=True, materialize_grads=True)[0].reshape(len(x), -1)
            for entry in entries.unbind(-1)
        ]
    ambient = torch.stack(rows, 1).double()
    return _tangent_basis(y.detach(), codomain).mT @ ambient @ _tangent_basis(x.detach(), domain)


def _square(jacobian: Tensor, f) -> Tensor:
    m, n = jacobian.shape[-2:]
    if m != n:
        raise AssertionError(f"{_name(f)} maps {n} dimensions to {m}: are its domain and codomain right?")
    return jacobian


def _stretch(f: Map, x: Tensor, context: Tensor | None, inverse: bool = False) -> Tensor:
    """Per event, how much the map or its inverse magnifies an error of the input, at least 1."""
    g, ends = (f.inverse, (f.codomain, f.domain)) if inverse else (f.forward, (f.domain, f.codomain))
    singular = torch.linalg.svdvals(_square(_jacobian(g, x, context, *ends), f))
    largest, smallest = singular[..., 0], singular[..., -1]
    if not (smallest > 16 * torch.finfo(x.dtype).eps * largest).all():  # so written, NaN counts as singular
        raise AssertionError(
            f"the Jacobian of {_name(f)} is singular or NaN: its singular values at one event are "
            f"{singular[smallest.argmin()].tolist()}. Either f is not invertible, or its points form a manifold "
            "that domain and codomain do not name"
        )
    return torch.maximum(largest, 1 / smallest).clamp(min=1)


def _largest_stretch(f: Map | Flow, x: Tensor, context: Tensor | None) -> Tensor:
    f = f.transform if isinstance(f, Flow) else f
    return _stretch(f, *_flat(f, x, context)).max()


def _difference(a: Tensor, b: Tensor, constraint) -> Tensor:
    difference = a.double() - b.double()
    if isinstance(constraint, Circle):
        difference = wrap(difference, constraint.half_period)
    return difference.abs()


def _assert_close(law: str, f, got: Tensor, expected: Tensor, scale: Tensor, constraint=None) -> None:
    """Raise unless |got − expected| ≤ ROUNDING_UNITS · eps · scale for every event."""
    if got.shape != expected.shape:
        raise AssertionError(f"{law}, for {_name(f)}: got shape {tuple(got.shape)}, expected {tuple(expected.shape)}")
    error = _difference(got, expected, constraint).unsqueeze(-1).flatten(scale.dim()).amax(-1)
    allowed = ROUNDING_UNITS * torch.finfo(got.dtype).eps * scale.double()
    if not (error <= allowed).all():  # so written, NaN counts as broken
        worst = int((error / allowed).nan_to_num(torch.inf).argmax())
        raise AssertionError(
            f"{law}, for {_name(f)} in {got.dtype}: error {error.flatten()[worst]:.3g} "
            f"where {allowed.flatten()[worst]:.3g} is allowed, at event {worst} of {error.numel()}"
        )


def _assert_same(law: str, f, got: tuple[Tensor, ...], expected: tuple[Tensor, ...], stretch: Tensor) -> None:
    """Raise unless two ways to the same computation agree up to rounding."""
    for a, b in zip(got, expected, strict=True):
        scale = stretch * (1 + b.detach().abs().max())
        _assert_close(law, f, a.detach().flatten(), b.detach().flatten(), scale.expand(b.numel()))
        if a.shape != b.shape:
            raise AssertionError(f"{law}, for {_name(f)}: got shape {tuple(a.shape)}, expected {tuple(b.shape)}")


def _assert_copy(what: str, f: Map | Flow, twin: Map | Flow, x: Tensor, context: Tensor | None) -> None:
    for (direction, g, at), (_, h, _) in zip(_directions(f, x, context), _directions(twin, x, context)):
        with torch.no_grad():
            for a, b in zip(g(at, context), h(at, context)):
                if not torch.equal(a, b):
                    raise AssertionError(
                        f"{what} of {_name(f)} gives another {direction}: {(a - b).abs().max():.3g} apart"
                    )


def _assert_shape(what: str, f, x: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(x.shape) != expected:
        raise AssertionError(f"{what} of {_name(f)} has shape {tuple(x.shape)}, expected {expected}")


def _assert_inside(what: str, f, x: Tensor, constraint) -> None:
    ok = constraint.check(x)
    ok = ok & torch.isfinite(x).reshape(*ok.shape, -1).all(-1)
    if not ok.all():
        raise AssertionError(
            f"{what} of {_name(f)} lies off {constraint} or is not finite at {(~ok).sum()} of {ok.numel()}"
        )
