"""Conditioner networks for images."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


class ConvNet(nn.Module):
    """3×3 convolution, 1×1 convolution, 3×3 convolution on (..., channels, height, width).

    The context enters the first layer, the same at every pixel.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        hidden_channels: width of the two hidden layers.
        context: size of the context (..., context), 0 for none.
        activation: applied after both hidden layers; it may work in place.

    Source: Glow: Generative Flow with Invertible 1×1 Convolutions, 2018, arXiv 1807.03039, Section 4.

    Example:
        >>> import torch
        >>> ConvNet(2, 6, hidden_channels=8)(torch.zeros(5, 2, 4, 4)).shape
        torch.Size([5, 6, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int = 64,
        context: int = 0,
        activation: Callable[[Tensor], Tensor] = F.relu_,
    ):
        super().__init__()
        self.input = nn.Conv2d(in_channels, hidden_channels, 3, padding=1)
        self.middle = nn.Conv2d(hidden_channels, hidden_channels, 1)
        self.output = nn.Conv2d(hidden_channels, out_channels, 3, padding=1)
        self.context = nn.Linear(context, hidden_channels, bias=False) if context else None
        self.activation = activation

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        batch = x.shape[:-3]
        x = self.input(x.reshape(-1, *x.shape[-3:]))
        if self.context is not None:
            shift = self.context(context)
            x = x + shift.expand(*batch, shift.shape[-1]).reshape(-1, shift.shape[-1], 1, 1)
        x = self.output(self.activation(self.middle(self.activation(x))))
        return x.reshape(*batch, *x.shape[-3:])
