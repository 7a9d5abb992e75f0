"""Ready-made flows, by the names and arguments of the field.

All of them standardise their features first (`ActNorm`, set by the first batch in training) where these are numbers of
the line, so bounds of splines and scales of networks fit data of any scale.
"""
# ruff: noqa: N802  (they are named like the classes of the parts they are made of)

from __future__ import annotations

from collections.abc import Sequence
from math import pi

import torch

from flowgroup._checks import positive_integer
from flowgroup.bijections import (
    Additive,
    Affine,
    Bijection,
    Chain,
    CircularShift,
    GivensLinear,
    RationalQuadraticSpline,
)
from flowgroup.flows.actnorm import ActNorm
from flowgroup.flows.autoregressive import Autoregressive
from flowgroup.flows.bases import DiagonalNormal, SphereUniform, TorusUniform
from flowgroup.flows.coupling import Coupling
from flowgroup.flows.elementwise import Elementwise
from flowgroup.flows.flow import Flow
from flowgroup.flows.image import MultiScale, PerPixel, Squeeze
from flowgroup.flows.linear import LULinear, Permutation
from flowgroup.flows.sphere import RecursiveSphere
from flowgroup.flows.transform import Sequential, Transform
from flowgroup.manifolds import Sphere
from flowgroup.nn.conv import ConvNet
from flowgroup.nn.mlp import start_near_

Widths = Sequence[int]


def _couplings(bijection: Bijection, features: int, context: int, transforms: int, hidden: Widths) -> list[Transform]:
    if positive_integer("features", features) < 2:
        raise ValueError(f"features must be at least 2 for couplings, got {features}; use an autoregressive flow")
    masks = ("checkerboard", "checkerboard-flipped")
    return [
        Coupling(bijection, features, masks[i % 2], context, hidden)
        for i in range(positive_integer("transforms", transforms))
    ]


def _autoregressive(
    bijection: Bijection, features: int, context: int, transforms: int, hidden: Widths
) -> list[Transform]:
    positive_integer("features", features)
    layers: list[Transform] = []
    for i in range(positive_integer("transforms", transforms)):
        if i > 0:
            layers.append(Permutation(features, domain=bijection.domain))
        layers.append(Autoregressive(bijection, features, context, hidden))
    return layers


def NICE(features: int, context: int = 0, transforms: int = 4, hidden_features: Widths = (128, 128)) -> Flow:
    """Additive couplings with alternating masks, then one scale per feature.

    Args:
        features: size of x, at least 2.
        context: size of the context, 0 for none.
        transforms: number of couplings.
        hidden_features: widths of their networks.

    Source: NICE: Non-linear Independent Components Estimation, 2014, arXiv 1410.8516.

    Example:
        >>> NICE(features=2).sample((3,)).shape
        torch.Size([3, 2])
    """
    layers = _couplings(Additive(), features, context, transforms, hidden_features)
    return Flow(Sequential(ActNorm(features), *layers, Elementwise(Affine(), features)), DiagonalNormal(features))


def RealNVP(features: int, context: int = 0, transforms: int = 8, hidden_features: Widths = (128, 128)) -> Flow:
    """Affine couplings with alternating masks.

    Args:
        features: size of x, at least 2.
        context: size of the context, 0 for none.
        transforms: number of couplings.
        hidden_features: widths of their networks.

    Source: Density estimation using Real NVP, 2017, arXiv 1605.08803.

    Example:
        >>> import torch
        >>> RealNVP(features=2, context=3).sample((4,), context=torch.zeros(5, 3)).shape
        torch.Size([4, 5, 2])
    """
    layers = _couplings(Affine(), features, context, transforms, hidden_features)
    return Flow(Sequential(ActNorm(features), *layers), DiagonalNormal(features))


def MAF(features: int, context: int = 0, transforms: int = 5, hidden_features: Widths = (128, 128)) -> Flow:
    """Affine autoregressive transforms, the order of features reversed between them: quick to evaluate.

    Args:
        features: size of x.
        context: size of the context, 0 for none.
        transforms: number of autoregressive transforms.
        hidden_features: widths of their masked networks.

    Source: Masked Autoregressive Flow for Density Estimation, 2017, arXiv 1705.07057.

    Example:
        >>> import torch
        >>> MAF(features=3).log_prob(torch.zeros(7, 3)).shape
        torch.Size([7])
    """
    layers = _autoregressive(Affine(), features, context, transforms, hidden_features)
    return Flow(Sequential(ActNorm(features), *layers), DiagonalNormal(features))


def IAF(features: int, context: int = 0, transforms: int = 5, hidden_features: Widths = (128, 128)) -> Flow:
    """Inverse autoregressive transforms, the order of features reversed between them: quick to sample.

    Args:
        features: size of x.
        context: size of the context, 0 for none.
        transforms: number of autoregressive transforms.
        hidden_features: widths of their masked networks.

    Source: Improving Variational Inference with Inverse Autoregressive Flow, 2016, arXiv 1606.04934.

    Example:
        >>> x, logp = IAF(features=3).rsample_and_log_prob((7,))
        >>> x.shape, logp.shape
        (torch.Size([7, 3]), torch.Size([7]))
    """
    layers = [t.inv for t in _autoregressive(Affine(), features, context, transforms, hidden_features)]
    return Flow(Sequential(ActNorm(features), *layers), DiagonalNormal(features))


def NSF(
    features: int,
    context: int = 0,
    transforms: int = 5,
    bins: int = 8,
    bound: float = 5.0,
    hidden_features: Widths = (128, 128),
    autoregressive: bool = False,
) -> Flow:
    """Rational-quadratic splines in couplings with alternating masks, or autoregressive with alternating order.

    Args:
        features: size of x; at least 2 for couplings.
        context: size of the context, 0 for none.
        transforms: number of couplings or autoregressive transforms.
        bins: bins of each spline.
        bound: splines act on [−bound, bound] (in standard deviations of the data) and are the identity outside.
        hidden_features: widths of the networks.
        autoregressive: whether to use autoregressive transforms: a better fit, slower to sample.

    Source: Neural Spline Flows, 2019, arXiv 1906.04032.

    Example:
        >>> import torch
        >>> flow = NSF(features=3, context=4, autoregressive=True)
        >>> flow.log_prob(torch.randn(10, 3), context=torch.zeros(4)).shape
        torch.Size([10])
    """
    make = _autoregressive if autoregressive else _couplings
    layers = make(RationalQuadraticSpline(bins, bound), features, context, transforms, hidden_features)
    return Flow(Sequential(ActNorm(features), *layers), DiagonalNormal(features))


def NCSF(
    features: int,
    context: int = 0,
    transforms: int = 5,
    bins: int = 8,
    hidden_features: Widths = (128, 128),
    autoregressive: bool = False,
) -> Flow:
    """Circular splines and shifts on the torus of `features` angles, uniform base: densities per radian.

    Args:
        features: number of angles; at least 2 for couplings.
        context: size of the context, 0 for none.
        transforms: number of couplings or autoregressive transforms.
        bins: bins of each spline.
        hidden_features: widths of the networks, which see cos and sin of the angles.
        autoregressive: whether to use autoregressive transforms.

    Source: Normalizing Flows on Tori and Spheres, 2020, arXiv 2002.02428, Section 2.2.

    Example:
        >>> import torch
        >>> NCSF(features=2).log_prob(torch.zeros(2)).isfinite()
        tensor(True)
    """
    make = _autoregressive if autoregressive else _couplings
    bijection = Chain(RationalQuadraticSpline(bins, pi, tails="circular"), CircularShift())
    layers = make(bijection, features, context, transforms, hidden_features)
    return Flow(Sequential(*layers), TorusUniform(features))


def SphereFlow(
    dim: int = 2,
    context: int = 0,
    transforms: int = 6,
    bins: int = 8,
    hidden_features: Widths = (64, 64),
    circle: str = "spline",
) -> Flow:
    """Recursive splines on S^d with learned rotations between them, uniform base: densities per area.

    Args:
        dim: dimension d of the sphere; points are unit vectors (d+1,).
        context: size of the context, 0 for none.
        transforms: number of recursive transforms.
        bins: bins of each spline, components of each Möbius mixture.
        hidden_features: widths of the networks.
        circle: map of the innermost circle, "spline" or "moebius".

    Source: Normalizing Flows on Tori and Spheres, 2020, arXiv 2002.02428, Section 2.3.

    Example:
        >>> flow = SphereFlow(dim=2, transforms=2)
        >>> torch.allclose(flow.sample((5,)).norm(dim=-1), torch.ones(5), atol=1e-5)
        True
    """
    layers: list[Transform] = []
    for _ in range(positive_integer("transforms", transforms)):
        rotation = Elementwise(GivensLinear(dim + 1, Sphere(dim).constraint), dim + 1)
        with torch.no_grad():  # start in frames that differ, or all splines act along the same latitudes
            rotation.params.uniform_(-pi, pi)
        layers.append(rotation)
        layers.append(RecursiveSphere(dim, context, bins, hidden_features, circle))
    return Flow(Sequential(*layers), SphereUniform(dim))


def Glow(
    features: int | tuple[int, int, int],
    context: int = 0,
    transforms: int = 8,
    levels: int | None = None,
    hidden_features: Widths = (128, 128),
) -> Flow:
    """Steps of ActNorm, LU linear map and affine coupling; on images with 1×1 convolutions and multi-scale splits.

    Args:
        features: size of vectors, or the shape (C, H, W) of images.
        context: size of the context, 0 for none.
        transforms: steps (per level, for images).
        levels: for images, how often to squeeze; by default as often as height and width stay even and above 1, at
            most 3.
        hidden_features: widths of the networks; for images the first is the number of hidden channels.

    Source: Glow: Generative Flow with Invertible 1×1 Convolutions, 2018, arXiv 1807.03039.

    Example:
        >>> Glow(features=(1, 8, 8), transforms=2, hidden_features=(16,)).sample((5,)).shape
        torch.Size([5, 1, 8, 8])
    """
    if isinstance(features, int):
        layers: list[Transform] = []
        for _ in range(positive_integer("transforms", transforms)):
            layers += [ActNorm(features), LULinear(features)]
            layers.append(Coupling(Affine(), features, "half", context, hidden_features))
        return Flow(Sequential(*layers), DiagonalNormal(features))

    if not isinstance(features, tuple) or len(features) != 3:
        raise ValueError(f"features must be an integer or a shape (channels, height, width), got {features!r}")
    channels, height, width = features
    if levels is None:
        levels = 0
        while levels < 3 and height % 2 ** (levels + 1) == 0 and width % 2 ** (levels + 1) == 0:
            levels += 1
    if levels < 1 or height % 2**levels or width % 2**levels:
        raise ValueError(
            f"levels must be at least 1, with height and width multiples of 2^levels, got {levels} for {features}"
        )
    scales: list[Transform] = []
    for level in range(levels):
        n = 4 * channels * 2**level
        steps: list[Transform] = [Squeeze()]
        for _ in range(positive_integer("transforms", transforms)):
            steps += [ActNorm(n, event_dim=3), PerPixel(LULinear(n))]
            net = ConvNet(n // 2, 2 * (n - n // 2), hidden_features[0], context)
            start_near_(net.output, Affine().initial_params())
            steps.append(Coupling(Affine(), n, "half", context, conditioner=net, event_dim=3))
        scales.append(Sequential(*steps))
    return Flow(MultiScale(scales, features), DiagonalNormal(channels * height * width))
