"""Networks: conditioners of flows, and layers on manifolds and Lie groups."""

from flowgroup.nn.conv import ConvNet
from flowgroup.nn.lie_batch_norm import LieBN
from flowgroup.nn.masked_mlp import MaskedMLP
from flowgroup.nn.mlp import MLP
from flowgroup.nn.riemannian_batch_norm import RiemannianBatchNorm
from flowgroup.nn.spd_layers import BiMap, ExpEig, LogEig, ReEig

__all__ = ["MLP", "BiMap", "ConvNet", "ExpEig", "LieBN", "LogEig", "MaskedMLP", "ReEig", "RiemannianBatchNorm"]
