"""The laws of groups and Lie groups, as functions that raise AssertionError where one is broken.

Each takes a group, a dtype and a device, and draws its own elements from torch's global generator; those about actions
take points to move as well. Elements are compared by the metric of a Lie group, and by their entries otherwise.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import torch
from torch import Tensor

from flowgroup.groups import Group, LieGroup
from flowgroup.testing.manifolds import (
    BATCH,
    _assert,
    _assert_close,
    _assert_zero,
    _compiled,
    _rate,
    assert_manifold,
    stretch,
)


def assert_group(group: Group, x: Tensor | None = None, dtype: torch.dtype = torch.float64, device=None) -> None:
    """Check every law of a group; on a Lie group `assert_lie_group` checks these and more.

    Args:
        group: the group.
        x: one point that it moves, or None to leave out the laws of its action.
        dtype, device: of the elements; `x` is taken there.

    Raises:
        AssertionError: naming the law, the error found and the error allowed.

    Example:
        >>> from flowgroup.groups import SO2
        >>> assert_group(SO2(), torch.randn(2))
    """
    for law in GROUP_LAWS:
        law(group, dtype, device)
    if x is not None:
        assert_action(group, x, dtype, device)


def assert_lie_group(group: LieGroup, x: Tensor | None = None, dtype: torch.dtype = torch.float64, device=None) -> None:
    """Check every law of a Lie group, and so those of a group and of a manifold.

    Args:
        group: the Lie group.
        x: one point that it moves, or None to leave out the laws of its action.
        dtype, device: of the elements; `x` is taken there.

    Raises:
        AssertionError: naming the law, the error found and the error allowed.

    Example:
        >>> from flowgroup.manifolds import Torus
        >>> assert_lie_group(Torus(2), torch.zeros(2))
    """
    assert_group(group, x, dtype, device)
    assert_manifold(group, dtype, device)
    for law in LIE_GROUP_LAWS:
        law(group, dtype, device)


def assert_group_axioms(group: Group, dtype: torch.dtype = torch.float64, device=None) -> None:
    """(gh)k = g(hk), eg = g = ge, g⁻¹g = e = gg⁻¹, and gh = hg if and only if the group says it is abelian.

    Example:
        >>> from flowgroup.groups import SO2
        >>> assert_group_axioms(SO2())
    """
    g, h, k = (_random(group, dtype, device) for _ in range(3))
    e = group.identity(*g.shape, dtype=g.dtype, device=device)
    product = group.compose
    _assert(f"random and identity have the asked shape in {group}", g.shape == e.shape == product(g, h).shape)
    _assert_equal(f"(gh)k = g(hk) in {group}", group, product(product(g, h), k), product(g, product(h, k)))
    _assert_equal(f"eg = g in {group}", group, product(e, g), g)
    _assert_equal(f"ge = g in {group}", group, product(g, e), g)
    _assert_equal(f"g⁻¹g = e in {group}", group, product(group.inverse(g), g), e)
    _assert_equal(f"gg⁻¹ = e in {group}", group, product(g, group.inverse(g)), e)
    try:
        _assert_equal("", group, product(g, h), product(h, g))
        commutes = True
    except AssertionError:
        commutes = False
    _assert(f"gh = hg if and only if abelian, which is {group.abelian}, in {group}", commutes == group.abelian)


def assert_group_broadcasts(group: Group, dtype: torch.dtype = torch.float64, device=None) -> None:
    """compose and inverse broadcast over batch dimensions, and work under vmap and compiled in full.

    Example:
        >>> from flowgroup.groups import SO2
        >>> assert_group_broadcasts(SO2())
    """
    g, h = _random(group, dtype, device, 3), _random(group, dtype, device, 3)
    expected = group.compose(g, h)
    grid = group.compose(g.unsqueeze(1), h.unsqueeze(0))
    _assert(f"compose broadcasts in {group}", grid.shape == (3, *g.shape))
    _assert_equal(f"compose broadcasts in {group}", group, torch.stack([grid[i, i] for i in range(3)]), expected)
    _assert_equal(f"compose under vmap in {group}", group, torch.func.vmap(group.compose)(g, h), expected)
    _assert_equal(f"compose compiled in {group}", group, _compiled(group.compose)(g, h), expected)
    inverse = group.inverse(g)
    _assert_equal(f"inverse under vmap in {group}", group, torch.func.vmap(group.inverse)(g), inverse)
    _assert_equal(f"inverse compiled in {group}", group, _compiled(group.inverse)(g), inverse)
    _assert_equal(f"no size means one element of {group}", group, group.identity(dtype=g.dtype), _identity(group, g)[0])


def assert_group_copies(group: Group, dtype: torch.dtype = torch.float64, device=None) -> None:
    """Pickle and deepcopy give a group that does the same.

    Example:
        >>> from flowgroup.groups import SO2
        >>> assert_group_copies(SO2())
    """
    g, h = _random(group, dtype, device, 2)
    for twin in (copy.deepcopy(group), pickle.loads(pickle.dumps(group))):
        _assert(f"a copy of {group} reads the same", repr(twin) == repr(group))
        _assert(f"a copy of {group} multiplies the same", torch.equal(twin.compose(g, h), group.compose(g, h)))


def assert_action(group: Group, x: Tensor, dtype: torch.dtype = torch.float64, device=None) -> None:
    """ex = x and (gh)x = g(hx), for one g, and for batches that broadcast.

    Args:
        group: the group.
        x: one point that it moves.
        dtype, device: of the elements; `x` is taken there.

    Example:
        >>> from flowgroup.groups import SO2
        >>> assert_action(SO2(), torch.randn(2))
    """
    x = x.to(device, dtype if x.is_floating_point() else x.dtype)
    g, h = _random(group, dtype, device), _random(group, dtype, device)
    moved = group.act(h, x)
    _assert(f"act broadcasts over elements of {group}", moved.shape == (BATCH, *x.shape))
    _assert_close(f"ex = x under {group}", group.act(_identity(group, g)[0], x), x)
    _assert_close(f"(gh)x = g(hx) under {group}", group.act(group.compose(g, h), x), group.act(g, moved))
    singly = torch.stack([group.act(g[i], moved[i]) for i in range(BATCH)])
    _assert_close(f"act one at a time under {group}", group.act(g, moved), singly)
    _assert_close(f"act under vmap of {group}", torch.func.vmap(group.act)(g, moved), singly)
    _assert_close(f"act compiled of {group}", _compiled(group.act)(g, moved), singly)


def assert_lie_exp_log(group: LieGroup, dtype: torch.dtype = torch.float64, device=None) -> None:
    """exp(log g) = g, log(exp v) = v, exp((s + t)v) = exp(sv)·exp(tv), exp(0) = e, and gradients at 0 are finite.

    Example:
        >>> from flowgroup.groups import SO2
        >>> assert_lie_exp_log(SO2(), torch.float32)
    """
    g, v = _random(group, dtype, device), _algebra(group, dtype, device)
    _assert(f"log gives coordinates (..., {group.dim}) in {group}", group.log(g).shape == v.shape)
    _assert_equal(f"exp(log g) = g in {group}", group, group.exp(group.log(g)), g)
    _assert_close(f"log(exp v) = v in {group}", group.log(group.exp(v)), v)
    parts = group.compose(group.exp(0.3 * v), group.exp(0.7 * v))
    _assert_equal(f"exp(sv)exp(tv) = exp((s + t)v) in {group}", group, parts, group.exp(v))
    zero = torch.zeros_like(v).requires_grad_()
    _assert_equal(f"exp(0) = e in {group}", group, group.exp(zero), _identity(group, g))
    (gradient,) = torch.autograd.grad(group.log(group.exp(zero)).sum(), zero)
    _assert_close(f"d log(exp v) = 1 at v = 0 in {group}", gradient, torch.ones_like(v))
    for name, f, argument in (("exp", group.exp, v), ("log", group.log, g)):
        _assert_close(f"{name} under vmap in {group}", torch.func.vmap(f)(argument), f(argument))
        _assert_close(f"{name} compiled in {group}", _compiled(f)(argument), f(argument))


def assert_lie_algebra(group: LieGroup, dtype: torch.dtype = torch.float64, device=None) -> None:
    """vee(hat v) = v, hat is linear and turns brackets into commutators, [v, w] = −[w, v], and Jacobi's identity.

    Example:
        >>> from flowgroup.manifolds import Torus
        >>> assert_lie_algebra(Torus(2))
    """
    u, v, w = (_algebra(group, dtype, device) for _ in range(3))
    hat, bracket = group.hat, group.bracket
    _assert_close(f"vee(hat v) = v in {group}", group.vee(hat(v)), v)
    _assert_close(f"hat is linear in {group}", hat(2 * v - w), 2 * hat(v) - hat(w))
    commutator = hat(v) @ hat(w) - hat(w) @ hat(v)
    _assert_close(f"hat([v, w]) = hat(v)hat(w) − hat(w)hat(v) in {group}", hat(bracket(v, w)), commutator)
    _assert_close(f"[v, w] = −[w, v] in {group}", bracket(v, w), -bracket(w, v))
    jacobi = bracket(u, bracket(v, w)) + bracket(v, bracket(w, u))
    _assert_close(f"[u, [v, w]] + [v, [w, u]] + [w, [u, v]] = 0 in {group}", jacobi, -bracket(w, bracket(u, v)))


def assert_adjoint(group: LieGroup, dtype: torch.dtype = torch.float64, device=None) -> None:
    """g·exp(v)·g⁻¹ = exp(Ad_g v), Ad_{gh} = Ad_g Ad_h, and d/dt Ad_{exp(tv)} w = [v, w] at t = 0.

    Example:
        >>> from flowgroup.groups import SO2
        >>> assert_adjoint(SO2())
    """
    g, h = _random(group, dtype, device), _random(group, dtype, device)
    v, w = 0.5 * _algebra(group, dtype, device), _algebra(group, dtype, device)
    ad = group.adjoint(g)
    _assert(f"Ad_g has shape (..., dim, dim) in {group}", ad.shape == (BATCH, group.dim, group.dim))
    conjugate = group.compose(group.compose(g, group.exp(v)), group.inverse(g))
    image = group.exp((ad @ v.unsqueeze(-1)).squeeze(-1))
    _assert_equal(f"g·exp(v)·g⁻¹ = exp(Ad_g v) in {group}", group, conjugate, image)
    _assert_close(f"Ad_(gh) = Ad_g Ad_h in {group}", group.adjoint(group.compose(g, h)), ad @ group.adjoint(h))
    rate = _rate(lambda t: (group.adjoint(group.exp(t * v)) @ w.unsqueeze(-1)).squeeze(-1), v)
    _assert_close(f"d/dt Ad_exp(tv) w = [v, w] in {group}", rate, group.bracket(v, w))
    eye = torch.eye(group.dim, dtype=dtype, device=device)
    _assert_close(f"Ad_e = 1 in {group}", group.adjoint(_identity(group, g)), eye.expand_as(ad))


def assert_left_jacobian(group: LieGroup, dtype: torch.dtype = torch.float64, device=None) -> None:
    """left_jacobian and log_abs_det_exp are those of the autograd Jacobians, in float64, of log(exp(v + δ)·exp(−v))
    and of log(exp(−v)·exp(v + δ)) at δ = 0.

    Example:
        >>> from flowgroup.manifolds import Euclidean
        >>> assert_left_jacobian(Euclidean(2))
    """
    v = _algebra(group, dtype, device)
    got, got_logdet = group.left_jacobian(v), group.log_abs_det_exp(v)
    v = v.double()
    left, right = [], []
    for e in torch.eye(group.dim, dtype=v.dtype, device=device):
        at, back = (lambda t, e=e: group.exp(v + t * e)), group.exp(-v)
        left.append(_rate(lambda t, at=at, back=back: group.log(group.compose(at(t), back)), v))
        right.append(_rate(lambda t, at=at, back=back: group.log(group.compose(back, at(t))), v))
    _assert_close(f"left_jacobian in {group}", got, torch.stack(left, -1))
    expected = torch.linalg.slogdet(torch.stack(right, -1)).logabsdet
    _assert_close(f"log_abs_det_exp in {group}", got_logdet, expected)


def assert_left_invariance(group: LieGroup, dtype: torch.dtype = torch.float64, device=None) -> None:
    """tangent(g, v) = d/dt g·exp(tv) at t = 0, coordinates undoes it, the metric is left-invariant, the origin is e.

    Example:
        >>> from flowgroup.groups import SO2
        >>> assert_left_invariance(SO2())
    """
    g, h, k = (_random(group, dtype, device) for _ in range(3))
    v = _algebra(group, dtype, device)
    u = group.tangent(g, v)
    rate = _rate(lambda t: group.compose(g, group.exp(t * v)), v)
    _assert_close(f"tangent(g, v) = d/dt g·exp(tv) in {group}", u, rate)
    _assert_close(f"coordinates(g, tangent(g, v)) = v in {group}", group.coordinates(g, u), v)
    _assert_close(f"|tangent(g, v)| = |v| in {group}", group.norm(g, u), torch.linalg.vector_norm(v, dim=-1))
    moved = group.dist(group.compose(k, g), group.compose(k, h))
    _assert_close(f"d(kg, kh) = d(g, h) in {group}", moved, group.dist(g, h))
    _assert_equal(
        f"origin() = e in {group}", group, group.origin(*g.shape, dtype=dtype, device=device), _identity(group, g)
    )


GROUP_LAWS: tuple[Callable[..., None], ...] = (assert_group_axioms, assert_group_broadcasts, assert_group_copies)
"""Every law of a group without its action, each a function of the group, a dtype and a device."""

LIE_GROUP_LAWS: tuple[Callable[..., None], ...] = (
    assert_lie_exp_log,
    assert_lie_algebra,
    assert_adjoint,
    assert_left_jacobian,
    assert_left_invariance,
)
"""What a Lie group obeys beside the laws of groups and of manifolds."""


def _random(group: Group, dtype: torch.dtype, device, n: int = BATCH) -> Tensor:
    if isinstance(group, LieGroup):
        return group.random(n, *group.event_shape, dtype=dtype, device=device)
    return group.random(n, *group.event_shape, device=device)


def _identity(group: Group, like: Tensor) -> Tensor:
    return group.identity(*like.shape, dtype=like.dtype, device=like.device)


def _algebra(group: LieGroup, dtype: torch.dtype, device) -> Tensor:
    """Coordinates of length up to 0.8 of the injectivity radius, or up to 1.6."""
    v = torch.nn.functional.normalize(torch.randn(BATCH, group.dim, dtype=dtype, device=device), dim=-1)
    return 0.8 * min(group.injectivity_radius, 2.0) * torch.rand(BATCH, 1, dtype=dtype, device=device) * v


def _assert_equal(law: str, group: Group, got: Tensor, expected: Tensor) -> None:
    """Raise unless two batches of elements are the same, up to rounding."""
    if isinstance(group, LieGroup):
        if got.shape != expected.shape:
            raise AssertionError(f"broken: {law}: got shape {tuple(got.shape)}, expected {tuple(expected.shape)}")
        scale = (1 + expected.detach().abs().max().item()) * max(1.0, stretch(group, expected.detach())[1])
        _assert_zero(law, group.dist(got, expected), got.dtype, scale)
    elif got.is_floating_point():
        _assert_close(law, got, expected)
    else:
        _assert(law, torch.equal(got, expected))
