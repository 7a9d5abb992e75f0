"""Trainable transforms, flows and ready-made recipes."""

from flowgroup.bijections import (
    Additive,
    Affine,
    AxisMoebius,
    AxisSpline,
    Chain,
    CircularShift,
    Exp,
    LeakyReLU,
    Moebius,
    MoebiusMixture,
    Monotone,
    ProjectiveConvexGradient,
    ProjectiveLinear,
    ProjectiveMoebius,
    RationalQuadraticSpline,
    Sigmoid,
    Softplus,
    SphereMoebius,
    Tanh,
)
from flowgroup.flows.actnorm import ActNorm
from flowgroup.flows.autoregressive import Autoregressive
from flowgroup.flows.bases import (
    Base,
    BoxUniform,
    DiagonalNormal,
    FreeBodies,
    Mixture,
    MixtureNormal,
    MixtureVonMisesFisher,
    MultivariateNormal,
    Product,
    RiemannianGaussian,
    RotationNormal,
    SphereUniform,
    TorusUniform,
    VonMises,
    VonMisesFisher,
    WrappedNormal,
)
from flowgroup.flows.chain_rule import ChainRule
from flowgroup.flows.coupling import Coupling
from flowgroup.flows.crystal import CrystalTransform, Whitening
from flowgroup.flows.elementwise import Elementwise
from flowgroup.flows.flow import Flow, FlowDistribution
from flowgroup.flows.frame import InFrame
from flowgroup.flows.image import MultiScale, PerPixel, Squeeze
from flowgroup.flows.internal_coordinates import InternalCoordinates, stiff_torsions, z_matrix
from flowgroup.flows.linear import GivensLinear, HouseholderLinear, LULinear, Permutation, QRLinear
from flowgroup.flows.mean_free import MeanFreeChart
from flowgroup.flows.molecules import FlexibleMolecules
from flowgroup.flows.recipes import IAF, MAF, NCSF, NICE, NSF, Glow, RealNVP, SphereFlow
from flowgroup.flows.rigid import RigidBodyFlow
from flowgroup.flows.rigid_coupling import RigidCoupling
from flowgroup.flows.rotations import AxisCoupling, RotationFlow
from flowgroup.flows.spd import SPDChart, SPDFlow
from flowgroup.flows.sphere import RecursiveSphere
from flowgroup.flows.transform import Inverse, Sequential, Transform

__all__ = [
    "IAF",
    "MAF",
    "NCSF",
    "NICE",
    "NSF",
    "ActNorm",
    "Additive",
    "Affine",
    "Autoregressive",
    "AxisCoupling",
    "AxisMoebius",
    "AxisSpline",
    "Base",
    "BoxUniform",
    "Chain",
    "ChainRule",
    "CircularShift",
    "Coupling",
    "CrystalTransform",
    "DiagonalNormal",
    "Elementwise",
    "Exp",
    "FlexibleMolecules",
    "Flow",
    "FlowDistribution",
    "FreeBodies",
    "GivensLinear",
    "Glow",
    "HouseholderLinear",
    "InFrame",
    "InternalCoordinates",
    "Inverse",
    "LULinear",
    "LeakyReLU",
    "MeanFreeChart",
    "Mixture",
    "MixtureNormal",
    "MixtureVonMisesFisher",
    "Moebius",
    "MoebiusMixture",
    "Monotone",
    "MultiScale",
    "MultivariateNormal",
    "PerPixel",
    "Permutation",
    "Product",
    "ProjectiveConvexGradient",
    "ProjectiveLinear",
    "ProjectiveMoebius",
    "QRLinear",
    "RationalQuadraticSpline",
    "RealNVP",
    "RecursiveSphere",
    "RiemannianGaussian",
    "RigidBodyFlow",
    "RigidCoupling",
    "RotationFlow",
    "RotationNormal",
    "SPDChart",
    "SPDFlow",
    "Sequential",
    "Sigmoid",
    "Softplus",
    "SphereFlow",
    "SphereMoebius",
    "SphereUniform",
    "Squeeze",
    "Tanh",
    "TorusUniform",
    "Transform",
    "VonMises",
    "VonMisesFisher",
    "Whitening",
    "WrappedNormal",
    "stiff_torsions",
    "z_matrix",
]
