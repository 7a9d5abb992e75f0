"""Attention among the bodies of a system: what each is told depends on all, whatever their order."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowgroup._checks import positive_integer


class BodyAttention(nn.Module):
    """hᵢ ← hᵢ + Σⱼ softmaxⱼ(qᵢ·kⱼ/√d) vⱼ, hᵢ ← hᵢ + MLP(hᵢ), some times over: a transformer without positions.

    It is equivariant under exchange of bodies. With `bodies` each has a vector of its own, added to what is seen of it,
    so that the network knows them apart: molecules of a crystal stay at their sites, and sites differ.

    Args:
        in_features: what is seen of each body.
        out_features: what is said to each body.
        bodies: number of bodies to be known apart, or None for identical ones.
        width: size of h, a multiple of `heads`.
        heads: number of attention heads.
        blocks: number of rounds.
        context: size of a context that all bodies see, 0 for none.

    Raises:
        ValueError: sizes that are not positive, or a width that heads do not divide.

    Source: Attention Is All You Need, 2017, arXiv 1706.03762, with normalization before each part.

    Example:
        >>> net = BodyAttention(3, 2, width=16)
        >>> x = torch.randn(5, 10, 3)
        >>> torch.allclose(net(x.flip(-2)), net(x).flip(-2), atol=1e-6)
        True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bodies: int | None = None,
        width: int = 64,
        heads: int = 4,
        blocks: int = 2,
        context: int = 0,
    ):
        super().__init__()
        if positive_integer("width", width) % positive_integer("heads", heads):
            raise ValueError(f"width must be a multiple of heads, got {width} and {heads}")
        self.input = nn.Linear(in_features, width)
        self.bodies = None if bodies is None else nn.Parameter(torch.randn(bodies, width))
        self.context = nn.Linear(context, width, bias=False) if context else None
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(positive_integer("blocks", blocks)))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, out_features)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """What is said (..., N, out_features), by what is seen (..., N, in_features) and a context (..., context)."""
        h = self.input(x)
        if self.bodies is not None:
            h = h + self.bodies
        if self.context is not None:
            h = h + self.context(context).unsqueeze(-2)
        for block in self.blocks:
            h = block(h)
        return self.output(self.norm(h))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.ask = nn.Linear(width, 3 * width)
        self.say = nn.Linear(width, width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, h: Tensor) -> Tensor:
        # plain products: bodies are few, and fused attention kernels know no vmap
        q, k, v = self.ask(self.norms[0](h)).unflatten(-1, (3, self.heads, -1)).movedim(-2, -4).unbind(-2)
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        h = h + self.say((weights @ v).movedim(-3, -2).flatten(-2))
        return h + self.down(F.silu(self.up(self.norms[1](h))))
