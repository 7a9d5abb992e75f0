"""Densities on manifolds, as torch.distributions."""

from flowgroup.distributions.even import Even
from flowgroup.distributions.mixture import Mixture
from flowgroup.distributions.normal import DiagonalNormal, MultivariateNormal
from flowgroup.distributions.product import Product
from flowgroup.distributions.riemannian_gaussian import RiemannianGaussian
from flowgroup.distributions.rigid_bodies import FreeBodies
from flowgroup.distributions.toy import Checkerboard, EightGaussians, Rings, TwoMoons
from flowgroup.distributions.uniform import BoxUniform, SphereUniform, TorusUniform
from flowgroup.distributions.von_mises import VonMises, VonMisesFisher
from flowgroup.distributions.wrapped_normal import WrappedNormal

__all__ = [
    "BoxUniform",
    "Checkerboard",
    "DiagonalNormal",
    "EightGaussians",
    "Even",
    "FreeBodies",
    "Mixture",
    "MultivariateNormal",
    "Product",
    "RiemannianGaussian",
    "Rings",
    "SphereUniform",
    "TorusUniform",
    "TwoMoons",
    "VonMises",
    "VonMisesFisher",
    "WrappedNormal",
]
