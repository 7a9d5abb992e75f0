"""Every bijection, transform, base and recipe with a small constructor: what the law tests run over.

A public class or function of `flowgroup.bijections` or `flowgroup.flows` that is listed nowhere here fails a test.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowgroup import bijections, flows
from flowgroup.groups import hamilton_product
from flowgroup.manifolds import SPD, Manifold, MeanFree, Product, RigidBodies, Sphere, Torus, constraints

Points = Callable[..., Tensor]
"""(number, dtype=…, device=…) → that many random events."""


def normal(*event: int, scale: float = 1.0) -> Points:
    return lambda n, **like: scale * torch.randn(n, *event, **like)


def box(*event: int, lower: float, upper: float) -> Points:
    """Points in a box, a hundredth of its width or more from the faces."""
    margin = 0.01 * (upper - lower)
    return lambda n, **like: lower + margin + (upper - lower - 2 * margin) * torch.rand(n, *event, **like)


def angles(*event: int) -> Points:
    return box(*event, lower=-math.pi, upper=math.pi)


def unit_vectors(size: int) -> Points:
    return lambda n, **like: F.normalize(torch.randn(n, size, **like), dim=-1)


def on(manifold: Manifold) -> Points:
    return lambda n, **like: manifold.random(n, *manifold.event_shape, **like)


def near_sites(sites: Tensor, box: tuple[float, float, float], spread: float = 0.4) -> Points:
    """Poses displaced from sites by up to that part of the box against the first of them, and turned."""
    space = RigidBodies(len(sites), box)

    def points(n: int, **like) -> Tensor:
        still = space.origin(n, *sites.shape, **like)
        moved = space.random(n, *sites.shape, **like)
        moved[..., :3] *= spread
        moved[..., 1:, :3] += moved[..., :1, :3]
        moved = space.projx(still + spread * (moved - still))
        return torch.cat(
            (moved[..., :3] + sites[:, :3].to(**like), hamilton_product(sites[:, 3:].to(**like), moved[..., 3:])), -1
        )

    return points


@dataclass(frozen=True)
class Entry:
    """One thing under the laws.

    Attributes:
        of: the public class or function.
        make: builds a small one.
        points: draws events of its domain.
        context: size of the context it was built with.
        label: tells several entries of one class apart.
    """

    of: Callable
    make: Callable
    points: Points
    context: int = 0
    label: str = ""

    def __str__(self) -> str:
        return "-".join(filter(None, (self.of.__name__, self.label, "context" if self.context else "")))


def without_and_with_context(of: Callable, make: Callable, points: Points, label: str = "") -> list[Entry]:
    """Two entries: `make` is called with context=0 and with context=3."""
    return [Entry(of, lambda size=size: make(context=size), points, size, label) for size in (0, 3)]


def shake_(module: nn.Module, scale: float = 0.3) -> nn.Module:
    """Move every parameter away from its start: many a layer starts as the identity, where mistakes do not show."""
    with torch.no_grad():
        for p in module.parameters():
            fan_in = p[0].numel() if p.dim() > 1 else 1
            p.add_(scale * torch.randn_like(p) / fan_in**0.5)
    return module


def built(entry: Entry, dtype: torch.dtype, device: torch.device, events: int = 5) -> tuple[nn.Module, Tensor, Tensor]:
    """(shaken transform or flow, points of its domain, context)."""
    like = {"dtype": dtype, "device": device}
    module = shake_(entry.make()).to(**like)
    x = entry.points(events, **like)
    context = torch.randn(events, entry.context, **like) if entry.context else None
    module(entry.points(64, **like), None if context is None else context[:1])  # ActNorm starts from its first batch
    return shake_(module), x, context


def _spline(**kwargs) -> bijections.Bijection:
    return bijections.RationalQuadraticSpline(bins=5, bound=3.0, **kwargs)


def _cubic(x: Tensor, params: Tensor) -> Tensor:
    a, b = params.unbind(-1)
    return x + a.exp() * x**3 / 3 + b


def _log(x: Tensor, params: Tensor) -> Tensor:
    return x.log() + params[..., 0].exp() * x


_sphere = constraints.OnManifold(Sphere(2))

BIJECTIONS = [
    Entry(bijections.Additive, bijections.Additive, normal()),
    Entry(bijections.Affine, bijections.Affine, normal(scale=3)),
    Entry(bijections.Affine, lambda: bijections.Affine(max_log_scale=0.5), normal(scale=3), label="bounded"),
    Entry(bijections.AxisMoebius, lambda: bijections.AxisMoebius(3), unit_vectors(4)),
    Entry(bijections.AxisMoebius, lambda: bijections.AxisMoebius(2, "body"), unit_vectors(4), label="body"),
    Entry(bijections.AxisSpline, lambda: bijections.AxisSpline(4), unit_vectors(4)),
    Entry(bijections.AxisSpline, lambda: bijections.AxisSpline(5, "body"), unit_vectors(4), label="body"),
    Entry(bijections.Chain, lambda: bijections.Chain(bijections.Affine(), _spline()), normal(scale=2)),
    Entry(bijections.CircularShift, bijections.CircularShift, angles()),
    Entry(bijections.CircularShift, lambda: bijections.CircularShift(0.5), box(lower=-0.5, upper=0.5), label="short"),
    Entry(bijections.Exp, bijections.Exp, normal()),
    Entry(bijections.GivensLinear, lambda: bijections.GivensLinear(3), normal(3)),
    Entry(bijections.GivensLinear, lambda: bijections.GivensLinear(4), normal(4), label="even"),
    Entry(bijections.GivensLinear, lambda: bijections.GivensLinear(3, _sphere), unit_vectors(3), label="sphere"),
    Entry(bijections.HouseholderLinear, lambda: bijections.HouseholderLinear(4), normal(4)),
    Entry(bijections.HouseholderLinear, lambda: bijections.HouseholderLinear(3, 3), normal(3), label="odd"),
    Entry(
        bijections.HouseholderLinear,
        lambda: bijections.HouseholderLinear(3, domain=_sphere),
        unit_vectors(3),
        label="sphere",
    ),
    Entry(
        bijections.Inverse,
        lambda: bijections.Inverse(bijections.Chain(bijections.Affine(), _spline())),
        normal(scale=2),
    ),
    Entry(
        bijections.Inverse,
        lambda: bijections.Inverse(bijections.Sigmoid()),
        box(lower=0, upper=1),
        label="logit",
    ),
    Entry(bijections.LeakyReLU, lambda: bijections.LeakyReLU(0.2), normal()),
    Entry(bijections.LULinear, lambda: bijections.LULinear(4), normal(4)),
    Entry(bijections.LULinear, lambda: bijections.LULinear(3, bias=False), normal(3), label="no-bias"),
    Entry(bijections.Moebius, bijections.Moebius, angles()),
    Entry(bijections.Moebius, lambda: bijections.Moebius(0.5), box(lower=-0.5, upper=0.5), label="short"),
    Entry(bijections.MoebiusMixture, lambda: bijections.MoebiusMixture(4), angles()),
    Entry(
        bijections.MoebiusMixture, lambda: bijections.MoebiusMixture(2, 0.5), box(lower=-0.5, upper=0.5), label="short"
    ),
    Entry(bijections.Monotone, lambda: bijections.Monotone(_cubic, torch.zeros(2)), normal(scale=2)),
    Entry(
        bijections.Monotone,
        lambda: bijections.Monotone(_log, torch.zeros(1), lower=0.0),
        box(lower=0, upper=5),
        label="half-line",
    ),
    Entry(bijections.ProjectiveConvexGradient, lambda: bijections.ProjectiveConvexGradient(3, 4), unit_vectors(4)),
    Entry(
        bijections.ProjectiveConvexGradient,
        lambda: bijections.ProjectiveConvexGradient(1, 3),
        unit_vectors(2),
        label="circle",
    ),
    Entry(bijections.ProjectiveLinear, lambda: bijections.ProjectiveLinear(3), unit_vectors(4)),
    Entry(bijections.ProjectiveMoebius, lambda: bijections.ProjectiveMoebius(3), unit_vectors(4)),
    Entry(bijections.ProjectiveMoebius, lambda: bijections.ProjectiveMoebius(2), unit_vectors(3), label="S2"),
    Entry(bijections.QRLinear, lambda: bijections.QRLinear(4), normal(4)),
    Entry(bijections.QRLinear, lambda: bijections.QRLinear(3, bias=False), normal(3), label="no-bias"),
    Entry(bijections.RationalQuadraticSpline, _spline, normal(scale=2)),
    Entry(
        bijections.RationalQuadraticSpline,
        lambda: _spline(tails="circular"),
        box(lower=-3, upper=3),
        label="circular",
    ),
    Entry(
        bijections.RationalQuadraticSpline,
        lambda: _spline(tails="bounded"),
        box(lower=-3, upper=3),
        label="bounded",
    ),
    Entry(bijections.Sigmoid, bijections.Sigmoid, normal(scale=2)),
    Entry(bijections.Softplus, bijections.Softplus, normal(scale=2)),
    Entry(bijections.SphereMoebius, lambda: bijections.SphereMoebius(1), unit_vectors(2), label="circle"),
    Entry(bijections.SphereMoebius, lambda: bijections.SphereMoebius(2), unit_vectors(3)),
    Entry(bijections.SphereMoebius, lambda: bijections.SphereMoebius(4), unit_vectors(5), label="S4"),
    Entry(bijections.Tanh, bijections.Tanh, normal()),
]

_BOX = (1.0, 1.2, 0.9)
_SITES = torch.tensor(
    [[0.1, 0.2, 0.3, 0.5, 0.5, 0.5, 0.5], [-0.3, 0.4, 0.0, 0.0, 0.0, 1.0, 0.0], [0.2, -0.5, 0.1, 0.5, -0.5, 0.5, -0.5]]
)

_ANGLE = {"bins": 5, "bound": math.pi, "tails": "circular"}

# references in any order, the third atom bonded to the first
_RING = [(2, -1, -1, -1), (0, 2, -1, -1), (1, 2, 0, -1), (3, 1, 0, 2), (5, 3, 0, 2), (4, 2, 1, 0)]


class OneQuaternion(flows.Transform):
    """A map to poses less log 2 for each molecule: Jacobians see one of the two quaternions of a rotation."""

    def __init__(self, transform: flows.FlexibleMolecules):
        super().__init__()
        self.transform, self.half = transform, transform.molecules * math.log(2)
        self.in_shape, self.out_shape, self.codomain = transform.in_shape, transform.out_shape, transform.codomain

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, logdet = self.transform(x, context)
        return y, logdet - self.half

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, logdet = self.transform.inverse(y, context)
        return x, logdet + self.half


def _angles_then_numbers(context: int = 0) -> flows.ChainRule:
    angles = flows.Autoregressive(bijections.RationalQuadraticSpline(**_ANGLE), 2, context, (16,))
    return flows.ChainRule(angles, flows.Autoregressive(_spline(), 3, context + 4, (16,)), context=context)


TRANSFORMS = [
    Entry(flows.ActNorm, lambda: flows.ActNorm(3), normal(3, scale=5)),
    Entry(flows.ActNorm, lambda: flows.ActNorm(2, event_dim=3), normal(2, 3, 2, scale=5), label="image"),
    Entry(
        flows.MultiScale,
        lambda: flows.MultiScale([flows.Squeeze(), flows.Squeeze()], image_shape=(3, 4, 4)),
        normal(3, 4, 4),
    ),
    *without_and_with_context(flows.PerPixel, lambda **c: flows.PerPixel(flows.LULinear(2, **c)), normal(2, 3, 2)),
    *(
        Entry(
            flows.InternalCoordinates,
            lambda rows=rows, stiff=stiff: flows.InternalCoordinates(rows, stiff),
            on(flows.InternalCoordinates(rows).manifold),
            label=label,
        )
        for rows, stiff, label in (
            (flows.z_matrix([(0, 1), (1, 2), (2, 3)]), None, ""),
            (_RING, None, "several-generations"),
            (_RING, {5: 0.3, 4: -3.0}, "stiff"),
            (flows.z_matrix([(0, i) for i in range(1, 5)]), {3: 2.0, 4: -2.0}, "all-stiff"),
            (flows.z_matrix([(0, 1), (0, 2)]), None, "three-atoms"),
        )
    ),
    *(
        Entry(
            flows.FlexibleMolecules,
            lambda n=n, rows=rows, options=options: OneQuaternion(flows.FlexibleMolecules(n, rows, **options)),
            normal(n * len(rows), 3),
            label=label,
        )
        for n, rows, options, label in (
            (2, flows.z_matrix([(0, 1), (0, 2)]), {}, "three-atoms"),
            (2, flows.z_matrix([(0, 1), (1, 2), (2, 3)]), {"box": _BOX}, "box"),
            (1, _RING, {"stiff": {5: 0.3}}, "stiff"),
        )
    ),
    Entry(flows.Permutation, lambda: flows.Permutation(4), normal(4)),
    Entry(flows.Permutation, lambda: flows.Permutation(4, "random"), normal(4), label="random"),
    *without_and_with_context(flows.GivensLinear, lambda **c: flows.GivensLinear(4, **c), normal(4)),
    *without_and_with_context(flows.HouseholderLinear, lambda **c: flows.HouseholderLinear(4, **c), normal(4)),
    *without_and_with_context(flows.LULinear, lambda **c: flows.LULinear(4, **c), normal(4)),
    *without_and_with_context(flows.QRLinear, lambda **c: flows.QRLinear(4, **c), normal(4)),
    *without_and_with_context(flows.Elementwise, lambda **c: flows.Elementwise(_spline(), 3, **c), normal(3, scale=2)),
    *without_and_with_context(flows.ChainRule, lambda **c: _angles_then_numbers(**c), normal(5)),
    *without_and_with_context(
        flows.Coupling,
        lambda **c: flows.Coupling(flows.Affine(), 3, hidden_features=(16,), **c),
        normal(3),
        label="affine",
    ),
    *without_and_with_context(
        flows.Coupling,
        lambda **c: flows.Coupling(_spline(), 5, mask="half", hidden_features=(16, 16), **c),
        normal(5, scale=2),
        label="spline",
    ),
    *without_and_with_context(
        flows.Coupling,
        lambda **c: flows.Coupling(
            bijections.RationalQuadraticSpline(**_ANGLE), 3, mask=[True, False, False], hidden_features=(16,), **c
        ),
        angles(3),
        label="circular",
    ),
    *without_and_with_context(
        flows.AxisCoupling,
        lambda **c: flows.AxisCoupling(bijections.AxisMoebius(3), hidden_features=(16,), **c),
        unit_vectors(4),
    ),
    *without_and_with_context(
        flows.AxisCoupling,
        lambda **c: flows.AxisCoupling(bijections.AxisSpline(4, "body"), hidden_features=(16,), **c),
        unit_vectors(4),
        label="spline",
    ),
    *without_and_with_context(
        flows.Autoregressive,
        lambda **c: flows.Autoregressive(flows.Affine(), 4, hidden_features=(16,), **c),
        normal(4),
        label="affine",
    ),
    *without_and_with_context(
        flows.Autoregressive,
        lambda **c: flows.Autoregressive(_spline(), 4, hidden_features=(16, 17), **c),
        normal(4, scale=2),
        label="spline",
    ),
    *without_and_with_context(
        flows.Autoregressive,
        lambda **c: flows.Autoregressive(bijections.RationalQuadraticSpline(**_ANGLE), 3, hidden_features=(16,), **c),
        angles(3),
        label="circular",
    ),
    *without_and_with_context(
        flows.Autoregressive,
        lambda **c: flows.Autoregressive(_spline(), 1, hidden_features=(8,), **c),
        normal(1, scale=2),
        label="one-feature",
    ),
    *without_and_with_context(
        flows.Inverse,
        lambda **c: flows.Autoregressive(_spline(), 4, hidden_features=(16, 16), **c).inv,
        normal(4, scale=2),
    ),
    Entry(flows.InFrame, lambda: flows.InFrame(flows.LULinear(5), 4, 2), on(MeanFree(4, 2)), label="plane"),
    Entry(flows.InFrame, lambda: flows.InFrame(flows.LULinear(6), 4, 3), on(MeanFree(4, 3)), label="space"),
    Entry(flows.MeanFreeChart, lambda: flows.MeanFreeChart(4, 2), on(MeanFree(4, 2))),
    *without_and_with_context(
        flows.RecursiveSphere,
        lambda **c: flows.RecursiveSphere(2, bins=5, hidden_features=(16,), **c),
        unit_vectors(3),
    ),
    *without_and_with_context(
        flows.RecursiveSphere,
        lambda **c: flows.RecursiveSphere(4, bins=5, hidden_features=(16,), **c),
        unit_vectors(5),
        label="S4",
    ),
    *without_and_with_context(
        flows.RecursiveSphere,
        lambda **c: flows.RecursiveSphere(1, bins=3, hidden_features=(16,), circle="moebius", **c),
        unit_vectors(2),
        label="circle",
    ),
    Entry(
        flows.Sequential,
        lambda: flows.Sequential(*(flows.Elementwise(bijections.MoebiusMixture(3), 2) for _ in range(2))),
        angles(2),
        label="moebius",
    ),
    *(
        Entry(
            flows.SPDChart,
            lambda manifold=manifold, chart=chart: flows.SPDChart(manifold, chart),
            on(manifold),
            label=label,
        )
        for manifold, chart, label in (
            (SPD(3), "log-euclidean", ""),
            (SPD(3), "log-cholesky", "log-cholesky"),
            (SPD(2, theta=0.5, alpha=2.0, beta=0.3), "log-cholesky", "deformed"),
            (SPD(4, metric="log-cholesky"), "log-euclidean", "of-log-cholesky"),
            (SPD(3, metric="log-euclidean"), "log-euclidean", "isometric"),
            (SPD(2, metric="bures-wasserstein"), "log-cholesky", "of-bures-wasserstein"),
        )
    ),
    *without_and_with_context(
        flows.CrystalTransform,
        lambda **c: flows.CrystalTransform(
            flows.Coupling(flows.Affine(), 15, hidden_features=(16,), **c), _SITES, box=_BOX
        ),
        near_sites(_SITES, _BOX),
    ),
    Entry(flows.CrystalTransform, lambda: flows.CrystalTransform(flows.LULinear(15), _SITES), near_sites(_SITES, _BOX)),
    *without_and_with_context(
        flows.RigidCoupling,
        lambda **c: flows.RigidCoupling(3, "positions", _BOX, "half", sites=_SITES, width=8, blocks=1, **c),
        near_sites(_SITES, _BOX),
        label="positions",
    ),
    *without_and_with_context(
        flows.RigidCoupling,
        lambda **c: flows.RigidCoupling(3, "rotations", _BOX, exchangeable=True, width=8, blocks=1, **c),
        on(RigidBodies(3, _BOX)),
        label="rotations",
    ),
    Entry(
        flows.RigidCoupling,
        lambda: flows.RigidCoupling(3, "positions", mask=[True, False, True], width=8, blocks=1),
        on(RigidBodies(3)),
        label="open-space",
    ),
    Entry(
        flows.RigidCoupling,
        lambda: flows.RigidCoupling(3, "y", mask="half", sites=_SITES, width=8, blocks=1),
        near_sites(_SITES, _BOX),
        label="one-coordinate",
    ),
    *without_and_with_context(
        flows.RigidCoupling,
        lambda **c: flows.RigidCoupling(2, "turns", _BOX, exchangeable=True, width=8, blocks=1, **c),
        on(RigidBodies(2, _BOX)),
        label="turns",
    ),
    Entry(flows.Whitening, lambda: flows.Whitening(torch.ones(3), torch.eye(3) + 0.5), normal(3)),
    Entry(flows.Squeeze, flows.Squeeze, normal(2, 4, 2)),
    *without_and_with_context(
        flows.Sequential,
        lambda **c: flows.Sequential(
            flows.ActNorm(4),
            flows.Coupling(_spline(), 4, hidden_features=(16,)),
            flows.Autoregressive(flows.Affine(), 4, hidden_features=(16,), **c).inv,
            flows.Coupling(flows.Affine(), 4, "checkerboard-flipped", hidden_features=(16,), **c),
        ),
        normal(4),
    ),
]


def _base(of: Callable, *args, points: Points, label: str = "", **kwargs) -> Entry:
    return Entry(of, lambda: of(*args, **kwargs), points, label=label)


BASES = [
    _base(flows.BoxUniform, [-1.0, 0.0], [1.0, 3.0], points=box(2, lower=0, upper=1)),
    _base(flows.DiagonalNormal, 3, points=normal(3)),
    _base(flows.FreeBodies, 2, box=(1.0, 1.2, 0.9), points=on(RigidBodies(2, (1.0, 1.2, 0.9)))),
    _base(flows.FreeBodies, 2, scale=0.5, points=on(RigidBodies(2)), label="open-space"),
    _base(flows.DiagonalNormal, 3, trainable=True, points=normal(3), label="trainable"),
    _base(flows.Mixture, flows.MixtureNormal(3, 2).components, points=normal(3)),
    _base(flows.MixtureNormal, 3, components=4, points=normal(3)),
    _base(flows.MixtureVonMisesFisher, 2, components=4, points=unit_vectors(3)),
    _base(flows.MultivariateNormal, 3, points=normal(3)),
    _base(flows.Product, flows.TorusUniform(1), flows.DiagonalNormal(2), points=box(3, lower=-3, upper=3)),
    _base(
        flows.Product,
        flows.VonMises(1, trainable=True),
        flows.WrappedNormal(Sphere(2), trainable=True),
        points=on(Product(Torus(1), Sphere(2))),
        label="trainable",
    ),
    _base(flows.RiemannianGaussian, SPD(3), scale=0.5, points=on(SPD(3))),
    _base(flows.RiemannianGaussian, SPD(2), trainable=True, points=on(SPD(2)), label="trainable"),
    _base(flows.RiemannianGaussian, SPD(2, metric="log-cholesky"), points=on(SPD(2)), label="flat"),
    _base(flows.RotationNormal, 0.7, points=unit_vectors(4)),
    _base(flows.RotationNormal, 0.7, trainable=True, points=unit_vectors(4), label="trainable"),
    _base(flows.SphereUniform, 2, points=unit_vectors(3)),
    _base(flows.TorusUniform, 2, points=angles(2)),
    _base(flows.VonMises, 2, concentration=2.0, points=angles(2)),
    _base(flows.VonMises, 2, trainable=True, points=angles(2), label="trainable"),
    _base(flows.VonMisesFisher, 2, concentration=2.0, points=unit_vectors(3)),
    _base(flows.VonMisesFisher, 3, trainable=True, points=unit_vectors(4), label="trainable"),
    _base(flows.WrappedNormal, SPD(3), scale=0.5, points=on(SPD(3))),
    _base(flows.WrappedNormal, SPD(2, metric="log-euclidean"), trainable=True, points=on(SPD(2)), label="trainable"),
    _base(flows.WrappedNormal, Sphere(2), trainable=True, points=unit_vectors(3), label="sphere"),
]

_SMALL = {"transforms": 2, "hidden_features": (16,)}


def _recipe(of: Callable, *args, points: Points, label: str = "", **kwargs) -> list[Entry]:
    return without_and_with_context(of, lambda **c: of(*args, **_SMALL | kwargs, **c), points, label)


RECIPES = [
    *_recipe(flows.NICE, 3, points=normal(3)),
    *_recipe(flows.RealNVP, 3, points=normal(3)),
    *_recipe(flows.MAF, 3, points=normal(3)),
    *_recipe(flows.IAF, 3, points=normal(3)),
    *_recipe(flows.Glow, 3, points=normal(3)),
    *_recipe(flows.Glow, (1, 4, 4), points=normal(1, 4, 4), label="image"),
    *_recipe(flows.NSF, 3, bins=5, points=normal(3)),
    *_recipe(flows.NSF, 3, bins=5, autoregressive=True, points=normal(3), label="autoregressive"),
    *_recipe(flows.NCSF, 3, bins=5, points=angles(3)),
    *_recipe(flows.NCSF, 3, bins=5, autoregressive=True, points=angles(3), label="autoregressive"),
    *_recipe(flows.RotationFlow, transforms=1, components=2, points=unit_vectors(4)),
    *_recipe(flows.RotationFlow, transforms=1, components=3, circle="spline", points=unit_vectors(4), label="spline"),
    *_recipe(flows.SPDFlow, 2, bins=5, points=on(SPD(2))),
    *_recipe(flows.SPDFlow, 3, "log-euclidean", "log-cholesky", bins=5, points=on(SPD(3)), label="log-cholesky"),
    *without_and_with_context(
        flows.RigidBodyFlow,
        lambda **c: flows.RigidBodyFlow(2, _BOX, transforms=1, width=8, blocks=1, **c),
        on(RigidBodies(2, _BOX)),
    ),
    Entry(
        flows.RigidBodyFlow,
        lambda: flows.RigidBodyFlow(2, transforms=1, exchangeable=True, width=8, blocks=1),
        on(RigidBodies(2)),
        label="open-space",
    ),
    Entry(
        flows.RigidBodyFlow,
        lambda: flows.RigidBodyFlow(3, _BOX, transforms=1, sites=_SITES, width=8, blocks=1),
        near_sites(_SITES, _BOX),
        label="crystal",
    ),
    Entry(
        flows.RigidBodyFlow,
        lambda: flows.RigidBodyFlow(2, _BOX, transforms=1, positions="moebius", width=8, blocks=1),
        on(RigidBodies(2, _BOX)),
        label="moebius",
    ),
    *_recipe(flows.SphereFlow, 2, bins=5, points=unit_vectors(3)),
    *_recipe(flows.SphereFlow, 1, transforms=1, bins=5, points=unit_vectors(2), label="circle"),
    *_recipe(flows.SphereFlow, 3, transforms=1, bins=3, circle="moebius", points=unit_vectors(4), label="moebius"),
]

# What is public and has no laws of its own: contracts, what only holds others, and helpers.
ABSTRACT = {
    bijections.Bijection,
    flows.Base,
    flows.Flow,
    flows.FlowDistribution,
    flows.Transform,
    flows.stiff_torsions,
    flows.z_matrix,
}
