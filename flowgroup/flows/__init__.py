"""Trainable transforms, flows and ready-made recipes."""

from flowgroup.bijections import Additive, Affine
from flowgroup.flows.autoregressive import Autoregressive
from flowgroup.flows.bases import Base, DiagonalNormal
from flowgroup.flows.coupling import Coupling
from flowgroup.flows.elementwise import Elementwise
from flowgroup.flows.flow import Flow, FlowDistribution
from flowgroup.flows.transform import Inverse, Sequential, Transform

__all__ = [
    "Additive",
    "Affine",
    "Autoregressive",
    "Base",
    "Coupling",
    "DiagonalNormal",
    "Elementwise",
    "Flow",
    "FlowDistribution",
    "Inverse",
    "Sequential",
    "Transform",
]
