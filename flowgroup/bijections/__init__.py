"""Stateless maths of invertible maps: (x, parameters) → (y, log|det|)."""

from flowgroup.bijections.affine import Additive, Affine
from flowgroup.bijections.base import Bijection
from flowgroup.bijections.combinators import Chain, Inverse
from flowgroup.bijections.spline import RationalQuadraticSpline

__all__ = [
    "Additive",
    "Affine",
    "Bijection",
    "Chain",
    "Inverse",
    "RationalQuadraticSpline",
]
