"""Stateless maths of invertible maps: (x, parameters) → (y, log|det|)."""

from flowgroup.bijections.affine import Additive, Affine
from flowgroup.bijections.axis import AxisMoebius, AxisSpline
from flowgroup.bijections.base import Bijection
from flowgroup.bijections.combinators import Chain, Inverse
from flowgroup.bijections.linear import GivensLinear, HouseholderLinear, LULinear, QRLinear
from flowgroup.bijections.maps import CircularShift, Exp, LeakyReLU, Sigmoid, Softplus, Tanh
from flowgroup.bijections.moebius import Moebius, MoebiusMixture, SphereMoebius
from flowgroup.bijections.monotone import Monotone
from flowgroup.bijections.projective import ProjectiveConvexGradient, ProjectiveLinear, ProjectiveMoebius
from flowgroup.bijections.spline import RationalQuadraticSpline

__all__ = [
    "Additive",
    "Affine",
    "AxisMoebius",
    "AxisSpline",
    "Bijection",
    "Chain",
    "CircularShift",
    "Exp",
    "GivensLinear",
    "HouseholderLinear",
    "Inverse",
    "LULinear",
    "LeakyReLU",
    "Moebius",
    "MoebiusMixture",
    "Monotone",
    "ProjectiveConvexGradient",
    "ProjectiveLinear",
    "ProjectiveMoebius",
    "QRLinear",
    "RationalQuadraticSpline",
    "Sigmoid",
    "Softplus",
    "SphereMoebius",
    "Tanh",
]
