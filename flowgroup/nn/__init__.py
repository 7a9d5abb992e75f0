"""Networks: conditioners of flows, and layers on manifolds and Lie groups."""

from flowgroup.nn.attention import BodyAttention
from flowgroup.nn.conv import ConvNet
from flowgroup.nn.covariance import CovariancePooling
from flowgroup.nn.domain_batch_norm import DomainBatchNorm
from flowgroup.nn.lie_batch_norm import LieBN
from flowgroup.nn.masked_mlp import MaskedMLP
from flowgroup.nn.mlp import MLP
from flowgroup.nn.riemannian_batch_norm import DecayingMomentum, RiemannianBatchNorm
from flowgroup.nn.riemannian_mlr import RiemannianMLR
from flowgroup.nn.spd_layers import BiMap, ExpEig, LogEig, ReEig
from flowgroup.nn.spd_networks import SPDNet, TSMNet

__all__ = [
    "MLP",
    "BiMap",
    "BodyAttention",
    "ConvNet",
    "CovariancePooling",
    "DecayingMomentum",
    "DomainBatchNorm",
    "ExpEig",
    "LieBN",
    "LogEig",
    "MaskedMLP",
    "ReEig",
    "RiemannianBatchNorm",
    "RiemannianMLR",
    "SPDNet",
    "TSMNet",
]
