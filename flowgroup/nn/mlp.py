"""Conditioner networks: plain and masked multi-layer perceptrons."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def check_sizes(hidden_features: Sequence[int], context: int) -> None:
    """Raise unless these can be the hidden widths and the context size of a network."""
    if not isinstance(context, int) or context < 0:
        raise ValueError(f"context must be an integer, 0 or larger, got {context!r}")
    if not isinstance(hidden_features, Sequence):
        raise TypeError(f"hidden_features must be a sequence of widths, got {hidden_features!r}")


class MLP(nn.Module):
    """y = Wₙ σ(… σ(W₁ x + V c + b₁) …) + bₙ, the context c entering the first layer.

    The context is multiplied by its own matrix and added, so one context for many x is worked on once.

    Args:
        in_features: size of x.
        out_features: size of y.
        hidden_features: widths of the hidden layers.
        context: size of c, 0 for none.
        activation: σ; it may work in place.
        dropout: probability of dropping a hidden unit in training.

    Example:
        >>> MLP(3, 5, hidden_features=(16,), context=2)(torch.zeros(7, 3), torch.zeros(2)).shape
        torch.Size([7, 5])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: Sequence[int] = (64, 64),
        context: int = 0,
        activation: Callable[[Tensor], Tensor] = F.relu_,
        dropout: float = 0.0,
    ):
        super().__init__()
        check_sizes(hidden_features, context)
        sizes = [in_features, *hidden_features, out_features]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.context = nn.Linear(context, sizes[1], bias=False) if context else None
        self.activation = activation
        self.dropout = nn.Dropout(dropout) if dropout else None

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i == 0 and self.context is not None:
                x = x + self.context(context)
            if i < len(self.layers) - 1:
                x = self.activation(x)
                if self.dropout is not None:
                    x = self.dropout(x)
        return x

    @property
    def output(self) -> nn.Linear:
        """The last layer."""
        return self.layers[-1]


def start_near_(output: nn.Linear | nn.Conv2d, values: Tensor, gain: float = 0.1) -> None:
    """Let a last layer give about `values` at first: its bias holds them, its weights are made small."""
    with torch.no_grad():
        output.weight.mul_(gain)
        output.bias.copy_(values.expand(output.bias.numel() // values.numel(), -1).flatten())


def periodic(x: Tensor, half_period: float = torch.pi) -> Tensor:
    """(cos, sin) of angles of period 2·half_period, entries of one angle side by side: (..., n) → (..., 2n).

    Example:
        >>> periodic(torch.zeros(3, 2)).tolist()[0]
        [1.0, 0.0, 1.0, 0.0]
    """
    angle = x * (torch.pi / half_period)
    return torch.stack((angle.cos(), angle.sin()), -1).flatten(-2)
