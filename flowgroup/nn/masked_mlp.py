"""A masked network whose i-th output sees only the inputs before i, and its evaluation one output at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowgroup.nn.mlp import check_sizes


class MaskedMLP(nn.Module):
    """θᵢ = netᵢ(x₁, …, xᵢ₋₁, c) for all i at once (MADE).

    Hidden units are sorted by degree: a unit of degree m sees the first m features, so every mask is a block
    staircase and the units that become known with feature m are a slice. Both ways of evaluation below do the same
    arithmetic.

    Args:
        features: number n of inputs and of outputs.
        outputs: values per output.
        hidden_features: widths of the hidden layers.
        context: size of the context c, which every unit may see; 0 for none.
        inputs: values per input feature (2 when angles come as cos and sin).
        activation: applied after each hidden layer; it may work in place.

    Source: MADE: Masked Autoencoder for Distribution Estimation, 2015, arXiv 1502.03509.

    Example:
        >>> net = MaskedMLP(4, outputs=2)
        >>> net(torch.randn(10, 4)).shape
        torch.Size([10, 4, 2])
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        hidden_features: Sequence[int] = (64, 64),
        context: int = 0,
        inputs: int = 1,
        activation: Callable[[Tensor], Tensor] = F.relu_,
    ):
        super().__init__()
        check_sizes(hidden_features, context)
        self.features, self.outputs, self.inputs = features, outputs, inputs
        self.activation = activation
        # degrees 0 .. n-1; a unit of degree 0 sees the context alone and is useless without one
        lowest = 0 if context else min(1, features - 1)
        degrees = [torch.arange(features).repeat_interleave(inputs) + 1]
        for width in hidden_features:
            degrees.append(lowest + torch.arange(width) * (features - lowest) // width)
        degrees.append(torch.arange(features).repeat_interleave(outputs))
        self.layers = nn.ModuleList(nn.Linear(len(a), len(b)) for a, b in zip(degrees, degrees[1:]))
        self.context = nn.Linear(context, len(degrees[1]), bias=False) if context else None
        for i, (a, b) in enumerate(zip(degrees, degrees[1:])):
            self.register_buffer(f"_mask{i}", a <= b[:, None], persistent=False)
        # _known[l][m]: how many units of layer l depend on the first m features only
        self._known = [[int((d <= m).sum()) for m in range(features)] for d in degrees]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """All parameters (..., n, outputs) for x of shape (..., n·inputs)."""
        for i, layer in enumerate(self.layers):
            x = F.linear(x, layer.weight * getattr(self, f"_mask{i}"), layer.bias)
            if i == 0 and self.context is not None:
                x = x + self.context(context)
            if i < len(self.layers) - 1:
                x = self.activation(x)
        return x.unflatten(-1, (self.features, self.outputs))

    def incremental(self, batch: Tensor, context: Tensor | None = None) -> Iterator[Tensor]:
        """Parameters (..., outputs) of one output after the other, in the arithmetic of one forward pass.

        A generator: it yields the parameters of output i and is sent the input feature i of shape (..., inputs).

        Args:
            batch: any tensor of the batch shape, dtype and device.
            context: as in `forward`.
        """
        empty = batch.unsqueeze(-1)[..., :0]
        known = [empty for _ in self.layers]
        from_context = None if self.context is None else self.context(context)
        for m in range(self.features):
            new = empty
            for i, layer in enumerate(self.layers):
                known[i] = torch.cat((known[i], new), -1)
                rows = slice(self._known[i + 1][m - 1] if m else 0, self._known[i + 1][m])
                weight = layer.weight[rows, : known[i].shape[-1]]
                new = F.linear(known[i], weight, layer.bias[rows])
                if i == 0 and from_context is not None:
                    new = new + from_context[..., rows]
                if i < len(self.layers) - 1:
                    new = self.activation(new)
            sent = yield new
            known[0] = torch.cat((known[0], sent), -1)

    @property
    def output(self) -> nn.Linear:
        """The last layer."""
        return self.layers[-1]
