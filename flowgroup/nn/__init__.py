"""Networks: conditioners of flows."""

from flowgroup.nn.conv import ConvNet
from flowgroup.nn.masked_mlp import MaskedMLP
from flowgroup.nn.mlp import MLP

__all__ = ["MLP", "ConvNet", "MaskedMLP"]
