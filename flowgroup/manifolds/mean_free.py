"""Configurations of particles with their mean at the origin."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowgroup._checks import positive_integer
from flowgroup.manifolds.euclidean import Euclidean
from flowgroup.manifolds.pullback import Pullback


class MeanFree(Pullback):
    """{x ∈ ℝⁿˣᵈ: Σᵢ xᵢ = 0}, a flat space of dimension (n − 1)·d with the inner product of ℝⁿˣᵈ.

    Its model is ℝ^{(n−1)d}: φ(x) = Qᵀx, the columns of Q an orthonormal basis of the vectors that sum to zero.

    Args:
        n: number of particles, at least 2.
        d: dimension of space.

    Raises:
        ValueError: fewer than two particles.

    Example:
        >>> pair = MeanFree(2, 1)
        >>> pair.to_model(torch.tensor([[3.0], [-3.0]])).abs()  # the distance 6 over √2
        tensor([4.2426])
    """

    def __init__(self, n: int, d: int):
        if positive_integer("n", n) < 2:
            raise ValueError(f"n must be at least 2 particles, got {n}")
        super().__init__(Euclidean((n - 1) * positive_integer("d", d)), (n, d))
        self.n, self.d = n, d

    def to_model(self, x: Tensor) -> Tensor:
        """Qᵀx (..., (n−1)·d); of an x with another mean, the part without it."""
        first, rest = x[..., :1, :], x[..., 1:, :]
        shift = first / math.sqrt(self.n) - rest.sum(-2, keepdim=True) / (self.n - math.sqrt(self.n))
        return (rest + shift).flatten(-2)

    def from_model(self, y: Tensor) -> Tensor:
        y = y.unflatten(-1, (self.n - 1, self.d))
        total = y.sum(-2, keepdim=True)
        return torch.cat([total / math.sqrt(self.n), y - total / (self.n - math.sqrt(self.n))], -2)

    def push(self, x: Tensor, u: Tensor) -> Tensor:
        return self.to_model(torch.broadcast_tensors(x, u)[1])

    def pull(self, y: Tensor, w: Tensor) -> Tensor:
        return self.from_model(torch.broadcast_tensors(y, w)[1])

    def projx(self, x: Tensor) -> Tensor:
        """x less its mean."""
        return x - x.mean(-2, keepdim=True)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """u less its mean."""
        return self.projx(torch.broadcast_tensors(x, u)[1])

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self.proju(x, u)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """x + u, its mean taken out again, or rounding would let it drift."""
        return self.projx(x + u)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return torch.broadcast_tensors(x, y, v)[2]

    def extra_repr(self) -> str:
        return f"{self.n}, {self.d}"
