"""The laws of manifolds, as functions that raise AssertionError where one is broken.

Each takes a manifold, a dtype and a device, draws its own points from torch's global generator, and compares with
autograd, with integrals or with the law itself. Allowed errors are a multiple of the dtype's rounding; the laws that
look at samples allow five standard errors.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import torch
from torch import Tensor

from flowgroup.linalg import jvp
from flowgroup.manifolds import Manifold

ROUNDING_UNITS = 64
"""Errors up to this many times the dtype's epsilon, times the scale of the values, count as rounding."""

BATCH = 16
"""Points that a law draws where no more are needed."""


def assert_manifold(manifold: Manifold, dtype: torch.dtype = torch.float64, device=None) -> None:
    """Check every law of a manifold.

    Args:
        manifold: the manifold; one of infinite volume is left out of the law of the uniform distribution.
        dtype, device: of the points.

    Raises:
        AssertionError: naming the law, the error found and the error allowed.

    Example:
        >>> from flowgroup.manifolds import Sphere
        >>> assert_manifold(Sphere(2))
    """
    for law in MANIFOLD_LAWS:
        law(manifold, dtype, device)


def assert_projections(manifold: Manifold, dtype: torch.dtype = torch.float64, device=None) -> None:
    """projx and proju are idempotent, land on the manifold and its tangent spaces, and leave alone what is there.

    Example:
        >>> from flowgroup.manifolds import Torus
        >>> assert_projections(Torus(2))
    """
    noise = _noise(manifold, dtype, device)
    x = manifold.projx(noise)
    _assert(f"projx(x) lies on {manifold}", bool(manifold.contains(x).all()))
    _assert(f"projx(x) passes check_point_on_manifold of {manifold}", manifold.check_point_on_manifold(x))
    _assert_close(f"projx(projx(x)) = projx(x) on {manifold}", manifold.projx(x), x)
    x, u = manifold.random(BATCH, *manifold.event_shape, dtype=dtype, device=device), noise
    _assert(f"random() lies on {manifold}", bool(manifold.contains(x).all()))
    _assert_zero(f"projx(x) = x for points of {manifold}", manifold.dist(manifold.projx(x), x), dtype)
    t = manifold.proju(x, u)
    _assert_close(f"proju(proju(u)) = proju(u) on {manifold}", manifold.proju(x, t), t)
    _assert(f"proju(u) passes check_vector_on_tangent of {manifold}", manifold.check_vector_on_tangent(x, t))
    basis = tangent_basis(manifold, x)
    _assert(f"tangent spaces of {manifold} have dimension {manifold.dim}", basis.shape[1] == manifold.dim)
    nan = torch.full_like(x, math.nan)
    _assert(f"NaN does not lie on {manifold}", not manifold.contains(nan).any())


def assert_egrad2rgrad(manifold: Manifold, dtype: torch.dtype = torch.float64, device=None) -> None:
    """⟨egrad2rgrad(g), u⟩ₓ is the derivative g·u along every tangent vector u.

    Example:
        >>> from flowgroup.manifolds import Sphere
        >>> assert_egrad2rgrad(Sphere(3))
    """
    x, u = points_and_tangents(manifold, dtype, device)
    gradient = torch.randn_like(x)
    got = manifold.inner(x, manifold.egrad2rgrad(x, gradient), u)
    _assert_close(f"⟨egrad2rgrad(g), u⟩ = g·u on {manifold}", got, _flat(manifold, gradient * u).sum(-1))


def assert_exp_log(manifold: Manifold, dtype: torch.dtype = torch.float64, device=None) -> None:
    """log_x(exp_x(u)) = u within the injectivity radius, exp_x(log_x(y)) = y, |log_x(y)| = d(x, y), d exp_x(0) = 1.

    Example:
        >>> from flowgroup.manifolds import Sphere
        >>> assert_exp_log(Sphere(2), torch.float32)
    """
    x, u = points_and_tangents(manifold, dtype, device)
    y = manifold.expmap(x, u)
    _assert(f"exp_x(u) lies on {manifold}", bool(manifold.contains(y).all()))
    _assert_close(f"log_x(exp_x(u)) = u on {manifold}", manifold.logmap(x, y), u)
    _assert_close(f"d(x, exp_x(u)) = |u| on {manifold}", manifold.dist(x, y), manifold.norm(x, u))
    y = manifold.random(*x.shape, dtype=dtype, device=device)
    v = manifold.logmap(x, y)
    _assert_close(f"log_x(y) is tangent on {manifold}", manifold.proju(x, v), v)
    _assert_close(f"|log_x(y)| = d(x, y) on {manifold}", manifold.norm(x, v), manifold.dist(x, y))
    _assert_zero(f"exp_x(log_x(y)) = y on {manifold}", manifold.dist(manifold.expmap(x, v), y), dtype)
    _assert_zero(f"log_x(x) = 0 on {manifold}", manifold.logmap(x, x), dtype)
    _assert_zero(f"exp_x(0) = x on {manifold}", manifold.dist(manifold.expmap(x, torch.zeros_like(x)), x), dtype)
    for name in ("expmap", "retr"):
        rate = _rate(lambda t, name=name: getattr(manifold, name)(x, t * u), x)
        _assert_close(f"d/dt {name}(x, tu) = u at t = 0 on {manifold}", rate, u)


def assert_geodesic(manifold: Manifold, dtype: torch.dtype = torch.float64, device=None) -> None:
    """γ(0) = x, γ(1) = y, d(γ(s), γ(t)) = |s − t|·d(x, y), and γ(t) lies on the manifold.

    Example:
        >>> from flowgroup.manifolds import Torus
        >>> assert_geodesic(Torus(3))
    """
    x, u = points_and_tangents(manifold, dtype, device)
    y = manifold.expmap(x, u)
    _assert_zero(f"γ(0) = x on {manifold}", manifold.dist(manifold.geodesic(x, y, 0.0), x), dtype)
    _assert_zero(f"γ(1) = y on {manifold}", manifold.dist(manifold.geodesic(x, y, 1.0), y), dtype)
    t = torch.linspace(0, 1, 5, dtype=dtype, device=device).unsqueeze(-1)
    path = manifold.geodesic(x, y, t)
    _assert(f"γ(t) has the joint batch shape on {manifold}", path.shape == (5, *x.shape))
    _assert(f"γ(t) lies on {manifold}", bool(manifold.contains(path).all()))
    speed = manifold.dist(path[1:], path[:-1])
    _assert_close(f"γ has constant speed on {manifold}", speed, manifold.dist(x, y).expand(4, -1) / 4)


def assert_distance(manifold: Manifold, dtype: torch.dtype = torch.float64, device=None) -> None:
    """d(x, y) = d(y, x) ≥ 0, d(x, x) = 0, d(x, z) ≤ d(x, y) + d(y, z), d² = dist2.

    Example:
        >>> from flowgroup.manifolds import Euclidean
        >>> assert_distance(Euclidean(2))
    """
    x, y, z = manifold.random(3, 4 * BATCH, *manifold.event_shape, dtype=dtype, device=device)
    xy = manifold.dist(x, y)
    _assert(f"d(x, y) has the batch shape on {manifold}", xy.shape == (4 * BATCH,))
    _assert(
        f"d(x, y, keepdim=True) keeps the event dimensions on {manifold}",
        manifold.dist(x, y, keepdim=True).shape == (4 * BATCH,) + (1,) * manifold.ndim,
    )
    _assert_close(f"d(x, y) = d(y, x) on {manifold}", xy, manifold.dist(y, x))
    _assert_close(f"dist2 = dist² on {manifold}", manifold.dist2(x, y), xy.square())
    _assert(f"d(x, y) > 0 for x ≠ y on {manifold}", bool((xy > 0).all()))
    _assert_zero(f"d(x, x) = 0 on {manifold}", manifold.dist(x, x), dtype)
    excess = manifold.dist(x, z) - xy - manifold.dist(y, z)
    _assert_zero(f"d(x, z) ≤ d(x, y) + d(y, z) on {manifold}", excess.clamp(min=0), dtype)


def assert_transport(manifold: Manifold, dtype: torch.dtype = torch.float64, device=None) -> None:
    """transp keeps inner products, gives tangent vectors, takes log_x(y) to −log_y(x), and comes back to itself.

    Example:
        >>> from flowgroup.manifolds import Sphere
        >>> assert_transport(Sphere(4))
    """
    x, u = points_and_tangents(manifold, dtype, device)
    y = manifold.expmap(x, u)
    a, b = (manifold.proju(x, torch.randn_like(x)) for _ in range(2))
    ta, tb = manifold.transp(x, y, a), manifold.transp(x, y, b)
    _assert_close(f"transp(v) is tangent on {manifold}", manifold.proju(y, ta), ta)
    _assert_close(f"⟨transp u, transp v⟩ = ⟨u, v⟩ on {manifold}", manifold.inner(y, ta, tb), manifold.inner(x, a, b))
    least, most = stretch(manifold, torch.cat([x, y]))
    back = manifold.transp(y, x, ta) - a
    _assert_zero(f"transp back again on {manifold}", back, dtype, most / least * (1 + a.abs().max().item()))
    _assert_close(
        f"transp(log_x y) = −log_y x on {manifold}",
        manifold.transp(x, y, manifold.logmap(x, y)),
        -manifold.logmap(y, x),
    )


def assert_log_abs_det_expmap(manifold: Manifold, dtype: torch.dtype = torch.float64, device=None) -> None:
    """log_abs_det_expmap is that of the autograd Jacobian in float64, between orthonormal bases of tangent spaces.

    Example:
        >>> from flowgroup.manifolds import Sphere
        >>> assert_log_abs_det_expmap(Sphere(3))
    """
    x, u = points_and_tangents(manifold, dtype, device)
    got = manifold.log_abs_det_expmap(x, u)
    _assert(f"log_abs_det_expmap has the batch shape on {manifold}", got.shape == x.shape[: x.dim() - manifold.ndim])
    x, u = manifold.projx(x.double()), u.double()
    u = manifold.proju(x, u)
    y = manifold.expmap(x, u)
    start, end = tangent_basis(manifold, x), tangent_basis(manifold, y)
    columns = []
    for k in range(manifold.dim):
        rate = jvp(lambda u: manifold.expmap(x, u), u, start[:, k])
        columns.append(manifold.inner(y.unsqueeze(1), rate.unsqueeze(1), end))
    expected = torch.linalg.slogdet(torch.stack(columns, -1)).logabsdet
    least, most = stretch(manifold, torch.cat([x, y]))
    _assert_zero(
        f"log_abs_det_expmap on {manifold}",
        got.double() - expected,
        dtype,
        most / least * (1 + expected.abs().max().item()),
    )
    zero = manifold.log_abs_det_expmap(x, torch.zeros_like(x))
    _assert_zero(f"log_abs_det_expmap = 0 at u = 0 on {manifold}", zero, torch.float64)


def assert_frechet_mean(manifold: Manifold, dtype: torch.dtype = torch.float64, device=None) -> None:
    """Σᵢ wᵢ log_m(xᵢ) = 0 at the mean m, no point nearby costs less, `dim` and weights do what they say.

    Example:
        >>> from flowgroup.manifolds import Sphere
        >>> assert_frechet_mean(Sphere(2))
    """
    centre = manifold.random(3, 1, *manifold.event_shape, dtype=dtype, device=device)
    x = manifold.expmap(centre, _tangents(manifold, centre.expand(3, 9, *manifold.event_shape), radius=0.25))
    weights = torch.rand(3, 9, dtype=dtype, device=device)
    share = weights / weights.sum(1, keepdim=True)
    mean = manifold.frechet_mean(x, weights, dim=1)
    _assert(f"the mean has the shape of x without dim on {manifold}", mean.shape == (3, *manifold.event_shape))
    log = manifold.logmap(mean.unsqueeze(1), x)
    gradient = (manifold._over_event(share) * log).sum(1)
    _assert_zero(f"Σ w log_m(x) = 0 at the Fréchet mean on {manifold}", manifold.norm(mean, gradient), dtype)

    def cost(m: Tensor) -> Tensor:
        return (share * manifold.dist2(m.unsqueeze(1), x)).sum(1)

    for size in (0.1, 1.0):
        away = manifold.expmap(mean, size * _tangents(manifold, mean, radius=0.5))
        _assert(f"the Fréchet mean costs least on {manifold}", bool((cost(mean) < cost(away)).all()))
    _assert_same_point(
        f"dim counts from the last batch dimension on {manifold}",
        manifold,
        manifold.frechet_mean(x, weights, dim=-1),
        mean,
    )
    _assert_same_point(
        f"equal weights are the same as none on {manifold}",
        manifold,
        manifold.frechet_mean(x, torch.full_like(weights, 3.0), dim=1),
        manifold.frechet_mean(x, dim=1),
    )
    _assert_same_point(
        f"a fixed number of steps reaches the Fréchet mean on {manifold}",
        manifold,
        manifold.frechet_mean(x, weights, dim=1, steps=24),
        mean,
    )
    one = manifold.frechet_mean(x[:, :1], dim=1)
    _assert_same_point(f"the mean of one point is that point on {manifold}", manifold, one, x[:, 0])


def assert_uniform(manifold: Manifold, dtype: torch.dtype = torch.float64, device=None, samples: int = 20_000) -> None:
    """A ball of radius r holds the share ∫ exp(log_abs_det_expmap) dv / volume of uniform samples, ∫ over |v| < r.

    Ties together `random_uniform`, `volume`, `dist` and `log_abs_det_expmap`. Shares are allowed five standard errors.

    Example:
        >>> from flowgroup.manifolds import Torus
        >>> assert_uniform(Torus(1))
    """
    if not math.isfinite(manifold.volume):
        return
    x = manifold.random_uniform(samples, *manifold.event_shape, dtype=dtype, device=device)
    _assert(f"random_uniform lies on {manifold}", bool(manifold.contains(x).all()))
    for centre in manifold.random_uniform(2, *manifold.event_shape, dtype=torch.float64, device=device):
        distance = manifold.dist(centre, x.double())
        basis = tangent_basis(manifold, centre.unsqueeze(0))[0]
        for part in (0.4, 0.7, 0.95):
            r, n = part * manifold.injectivity_radius, manifold.dim
            direction = torch.nn.functional.normalize(
                torch.randn(samples, n, dtype=torch.float64, device=device), dim=-1
            )
            v = r * torch.rand(samples, 1, dtype=torch.float64, device=device) ** (1 / n) * direction
            density = manifold.log_abs_det_expmap(centre, torch.tensordot(v, basis, 1)).exp()
            ball = math.exp(n / 2 * math.log(math.pi) - math.lgamma(n / 2 + 1) + n * math.log(r)) / manifold.volume
            expected, expected_error = ball * density.mean().item(), ball * density.std().item() / samples**0.5
            got = (distance < r).double().mean().item()
            error = (expected_error**2 + max(got * (1 - got), 1 / samples) / samples) ** 0.5
            _assert(
                f"a ball of radius {r:.3g} holds its share of uniform points on {manifold}: got {got:.4f}, "
                f"expected {expected:.4f} ± {error:.4f}",
                abs(got - expected) <= 5 * error,
            )


def assert_manifold_broadcasts(manifold: Manifold, dtype: torch.dtype = torch.float64, device=None) -> None:
    """Every map of points gives the same singly, in batches that broadcast, under vmap and (in float64) compiled.

    Example:
        >>> from flowgroup.manifolds import Euclidean
        >>> assert_manifold_broadcasts(Euclidean(2))
    """
    x, u = points_and_tangents(manifold, dtype, device, n=4)
    y = manifold.expmap(x, u)
    for name, f, arguments in _maps(manifold, x, u, y):
        expected = f(*arguments)
        _assert(f"{name} keeps the dtype on {manifold}", expected.dtype == dtype)
        singly = torch.stack([f(*(a[i] for a in arguments)) for i in range(4)])
        _assert_close(f"{name} one at a time on {manifold}", singly, expected)
        if len(arguments) > 1:
            grid = f(arguments[0].unsqueeze(1), *(a.unsqueeze(0) for a in arguments[1:]))
            same = torch.stack([grid[i, i] for i in range(4)])
            _assert_close(f"{name} broadcast on {manifold}", same, expected)
        _assert_close(f"{name} under vmap on {manifold}", torch.func.vmap(f)(*arguments), expected)
        if dtype == torch.float64:  # the graph is the same in every dtype
            _assert_close(f"{name} compiled on {manifold}", _compiled(f)(*arguments), expected)

    def mean(x: Tensor) -> Tensor:
        return manifold.frechet_mean(x, steps=3)

    y = manifold.expmap(x[0], _tangents(manifold, x[:1].expand_as(x), radius=0.25))
    expected = mean(y)
    if dtype == torch.float64:
        _assert_close(f"frechet_mean compiled on {manifold}", _compiled(mean)(y), expected)
    stack = torch.stack([y, y.flip(0)])
    _assert_close(f"frechet_mean under vmap on {manifold}", torch.func.vmap(mean)(stack)[0], expected)


def assert_manifold_gradients(manifold: Manifold, dtype: torch.dtype = torch.float64, device=None) -> None:
    """Gradients are finite, at x = y and u = 0 too, and in float64 those of exp, log and d are finite differences.

    Example:
        >>> from flowgroup.manifolds import Sphere
        >>> assert_manifold_gradients(Sphere(1), torch.float32)
    """
    x, u = points_and_tangents(manifold, dtype, device, n=3)
    y = manifold.expmap(x, u)
    for where, maps in (
        ("", _maps(manifold, x, u, y)),
        (" at u = 0 and y = x", _maps(manifold, x, torch.zeros_like(u), x)),
    ):
        for name, f, arguments in maps:
            leaves = [a.detach().clone().requires_grad_() for a in arguments]
            value = f(*leaves)
            if value.requires_grad:
                gradients = torch.autograd.grad(value.sum(), leaves, materialize_grads=True)
                finite = all(g.isfinite().all() for g in gradients)
                _assert(f"{name} has finite gradients{where} on {manifold}", finite)
    if dtype == torch.float64:
        x, u = points_and_tangents(manifold, dtype, device, n=2)
        y = manifold.expmap(x, u)
        functions = {
            "expmap": (lambda x, u: manifold.expmap(manifold.projx(x), manifold.proju(manifold.projx(x), u)), x, u),
            "expmap at u = 0": (lambda u: manifold.expmap(x, manifold.proju(x, u)), torch.zeros_like(u)),
            "logmap": (lambda x, y: manifold.logmap(manifold.projx(x), manifold.projx(y)), x, y),
            "logmap at y = x": (lambda y: manifold.logmap(x, manifold.projx(y)), x.clone()),
            "dist": (lambda x, y: manifold.dist(manifold.projx(x), manifold.projx(y)), x, y),
        }
        for name, (f, *arguments) in functions.items():
            leaves = tuple(a.detach().clone().requires_grad_() for a in arguments)
            same = torch.autograd.gradcheck(f, leaves, raise_exception=False)
            _assert(f"gradients of {name} are finite differences on {manifold}", same)


def assert_manifold_copies(manifold: Manifold, dtype: torch.dtype = torch.float64, device=None) -> None:
    """No state; pickle and deepcopy give a manifold that does the same.

    Example:
        >>> from flowgroup.manifolds import Sphere
        >>> assert_manifold_copies(Sphere(1))
    """
    _assert(f"{manifold} holds no tensors", not manifold.state_dict())
    x, y = manifold.random(2, *manifold.event_shape, dtype=dtype, device=device)
    for twin in (copy.deepcopy(manifold), pickle.loads(pickle.dumps(manifold))):
        _assert(f"a copy of {manifold} reads the same", repr(twin) == repr(manifold))
        _assert(f"a copy of {manifold} measures the same", bool(twin.dist(x, y) == manifold.dist(x, y)))


MANIFOLD_LAWS: tuple[Callable[..., None], ...] = (
    assert_projections,
    assert_egrad2rgrad,
    assert_exp_log,
    assert_geodesic,
    assert_distance,
    assert_transport,
    assert_log_abs_det_expmap,
    assert_frechet_mean,
    assert_uniform,
    assert_manifold_broadcasts,
    assert_manifold_gradients,
    assert_manifold_copies,
)
"""Every law of a manifold, each a function of the manifold, a dtype and a device."""


def tangent_basis(manifold: Manifold, x: Tensor) -> Tensor:
    """An orthonormal basis of each tangent space, from `proju` and `inner` alone.

    Args:
        manifold: the manifold.
        x: points (batch, *event).

    Returns:
        Tangent vectors (batch, dim, *event), in double precision; fewer or more than dim where the rank of `proju` is.

    Example:
        >>> from flowgroup.manifolds import Sphere
        >>> tangent_basis(Sphere(2), torch.eye(3)).shape
        torch.Size([3, 2, 3])
    """
    x = x.double()
    size = manifold.event_shape.numel()
    ambient = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, *manifold.event_shape)
    x = x.unsqueeze(1)
    spanning = manifold.proju(x, ambient)  # (batch, size, *event)
    gram = manifold.inner(x.unsqueeze(1), spanning.unsqueeze(2), spanning.unsqueeze(1))
    values, vectors = torch.linalg.eigh(gram)
    rank = int((values[0] > 1e-8 * values[0].max()).sum())
    combine = vectors[..., -rank:] / values[..., None, -rank:].sqrt()
    return torch.einsum("bik,bi...->bk...", combine, spanning.expand(x.shape[0], *spanning.shape[1:]))


def stretch(manifold: Manifold, x: Tensor) -> tuple[float, float]:
    """The least and largest length, under the metric at points x (*batch, *event), of tangent vectors of Frobenius
    length one: rounding of the entries of points and vectors is as much rounding of distances.

    Example:
        >>> from flowgroup.manifolds import Euclidean
        >>> stretch(Euclidean(2), torch.zeros(1, 2))
        (1.0, 1.0)
    """
    basis = tangent_basis(manifold, x.reshape(-1, *manifold.event_shape))
    lengths = torch.linalg.svdvals(basis.flatten(2))
    return 1 / lengths.max().item(), 1 / lengths.min().item()


def points_and_tangents(manifold: Manifold, dtype: torch.dtype, device=None, n: int = BATCH) -> tuple[Tensor, Tensor]:
    """Random points (n, *event), and tangent vectors up to 0.9 of the injectivity radius, or up to 2.

    Example:
        >>> from flowgroup.manifolds import Sphere
        >>> x, u = points_and_tangents(Sphere(2), torch.float64)
        >>> bool((Sphere(2).norm(x, u) < 0.9 * torch.pi).all())
        True
    """
    x = manifold.random(n, *manifold.event_shape, dtype=dtype, device=device)
    return x, _tangents(manifold, x, radius=0.9)


def _tangents(manifold: Manifold, x: Tensor, radius: float) -> Tensor:
    """Tangent vectors at x, of length uniform up to a part of the injectivity radius, the shortest left out."""
    u = manifold.proju(x, torch.randn_like(x))
    # a short projection is mostly rounding, so it is projected again once it is long
    u = manifold.proju(x, u / manifold.norm(x, u, keepdim=True))
    share = 0.05 + 0.95 * torch.rand_like(manifold.norm(x, u))
    length = radius * min(manifold.injectivity_radius, 2 / 0.9) * share
    return manifold._over_event(length) * u / manifold.norm(x, u, keepdim=True)


def _maps(manifold: Manifold, x: Tensor, u: Tensor, y: Tensor) -> list[tuple[str, Callable, tuple[Tensor, ...]]]:
    return [
        ("expmap", manifold.expmap, (x, u)),
        ("retr", manifold.retr, (x, u)),
        ("logmap", manifold.logmap, (x, y)),
        ("dist", manifold.dist, (x, y)),
        ("norm", manifold.norm, (x, u)),
        ("inner", manifold.inner, (x, u, u)),
        ("transp", manifold.transp, (x, y, u)),
        ("proju", manifold.proju, (x, u)),
        ("projx", manifold.projx, (x,)),
        ("egrad2rgrad", manifold.egrad2rgrad, (x, u)),
        ("geodesic", lambda x, y: manifold.geodesic(x, y, 0.3), (x, y)),
        ("log_abs_det_expmap", manifold.log_abs_det_expmap, (x, u)),
    ]


def _noise(manifold: Manifold, dtype: torch.dtype, device) -> Tensor:
    return torch.randn(BATCH, *manifold.event_shape, dtype=dtype, device=device)


def _flat(manifold: Manifold, x: Tensor) -> Tensor:
    return x.flatten(-manifold.ndim)


def _rate(curve: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """The derivative of a curve at t = 0, by forward mode where it has one."""
    zero = like.new_zeros(())
    one = torch.ones_like(zero)
    try:
        return torch.func.jvp(curve, (zero,), (one,))[1]
    except (NotImplementedError, RuntimeError):  # a function with a gradient of its own
        return jvp(curve, zero, one)


def _compiled(f: Callable) -> Callable:
    torch._dynamo.reset()
    return torch.compile(f, fullgraph=True, backend="eager")


def _assert(law: str, holds: bool) -> None:
    if not holds:
        raise AssertionError(f"broken: {law}")


def _assert_close(law: str, got: Tensor, expected: Tensor) -> None:
    """Raise unless got = expected up to rounding of the dtype of `got`, at the scale of the largest value."""
    if got.shape != expected.shape:
        raise AssertionError(f"broken: {law}: got shape {tuple(got.shape)}, expected {tuple(expected.shape)}")
    scale = 1 + expected.detach().abs().max().item()
    _assert_zero(law, got.detach().double() - expected.detach().double(), got.dtype, scale)


def _assert_zero(law: str, error: Tensor, dtype: torch.dtype, scale: float = 1.0) -> None:
    """Raise unless |error| is rounding of `dtype`."""
    largest = error.detach().abs().max().item()
    allowed = ROUNDING_UNITS * torch.finfo(dtype).eps * scale
    if not largest <= allowed:  # so written, NaN counts as broken
        raise AssertionError(f"broken: {law}: error {largest:.3g} where {allowed:.3g} is allowed in {dtype}")


def _assert_same_point(law: str, manifold: Manifold, got: Tensor, expected: Tensor) -> None:
    if got.shape != expected.shape:
        raise AssertionError(f"broken: {law}: got shape {tuple(got.shape)}, expected {tuple(expected.shape)}")
    _assert_zero(law, manifold.dist(got, expected), got.dtype)
