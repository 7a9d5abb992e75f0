"""Flows on configurations of particles whose mean is at the origin, through orthonormal coordinates."""

from __future__ import annotations

from torch import Tensor

from flowgroup.flows.transform import Transform
from flowgroup.manifolds import MeanFree


class MeanFreeChart(Transform):
    """y = Qᵀx: n particles (n, d) with mean zero to (n − 1)·d orthonormal coordinates; logdet = 0.

    The mean of what is transformed must be zero; densities refer to the volume of those configurations
    (`flowgroup.manifolds.MeanFree`), which is that of the coordinates.

    Args:
        n: number of particles, at least 2.
        d: dimension of space.

    Raises:
        ValueError: fewer than two particles.

    Example:
        >>> from flowgroup import flows
        >>> vectors = flows.NSF(6, transforms=2)
        >>> flow = flows.Flow(flows.Sequential(MeanFreeChart(4, 2), *vectors.transform.transforms), vectors.base)
        >>> flow.sample((5,)).mean(-2).abs().amax() < 1e-6
        tensor(True)
    """

    def __init__(self, n: int, d: int):
        super().__init__()
        self.manifold = MeanFree(n, d)
        self.in_shape, self.out_shape = (n, d), (self.manifold.dim,)
        self.domain = self.manifold.constraint

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self._checked("x", x, context)
        return self.manifold.to_model(x), x.new_zeros(x.shape[:-2])

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self._checked("y", y, context, inverse=True)
        return self.manifold.from_model(y), y.new_zeros(y.shape[:-1])

    def extra_repr(self) -> str:
        return f"{self.manifold.n}, {self.manifold.d}"
