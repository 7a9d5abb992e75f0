"""Rotations of any dimension as matrices."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowgroup._checks import positive_integer
from flowgroup.groups.base import MatrixLieGroup
from flowgroup.linalg.matrix_exp import matrix_exp
from flowgroup.linalg.nearest import nearest_rotation
from flowgroup.manifolds.base import whole_shape

HALF_TURN = 1e-11
"""Half turns are told from their opposites by a rotation of this size, in radians."""

MIXING = 1e-6
"""Derivatives of the logarithm beyond the inverse of this, where several planes turn by half a turn, count as none."""


class SO(MatrixLieGroup):
    """Rotation matrices (..., n, n), with d(g, h)² = the sum of the squared angles by which g⁻¹h turns planes.

    Coordinates (..., n(n−1)/2) are the entries of a skew-symmetric matrix below its diagonal, row by row, and
    ⟨X, Y⟩ = ½ tr XᵀY: distances in `SO(2)` and `SO(3)` are those of `SO2` and `SO3`.

    `log` holds at every rotation. Planes that turn by half a turn have several shortest logarithms, of which it gives
    one; within 1e-11 of half a turn it may be the one that is longer by as much. Where several planes turn by half a
    turn up to 1e-6, it is right to 1e-10, and its gradient leaves out the directions in which these planes mix.

    Args:
        n: dimension of the space that is turned, at least 2.

    Example:
        >>> group = SO(4)
        >>> half_turns = -torch.eye(4)
        >>> v = group.log(half_turns)
        >>> round(v.norm().item(), 3), torch.allclose(group.exp(v), half_turns, atol=1e-6)
        (4.443, True)
    """

    reversible = True
    injectivity_radius = math.pi

    def __init__(self, n: int):
        if positive_integer("n", n) < 2:
            raise ValueError(f"n must be at least 2, got {n}")
        super().__init__(n * (n - 1) // 2, (n, n))
        self.n = n
        self.abelian = n == 2
        # SO(n)/SO(n−1) is the sphere of dimension n−1
        self.volume = math.prod(2 * math.pi ** (k / 2) / math.gamma(k / 2) for k in range(2, n + 1))

    def inverse(self, g: Tensor) -> Tensor:
        return g.mT

    def hat(self, v: Tensor) -> Tensor:
        i = torch.arange(self.n, device=v.device).unsqueeze(-1)
        low, high = torch.minimum(i, i.mT), torch.maximum(i, i.mT)
        entry = (high * (high - 1) // 2 + low) % self.dim
        return v[..., entry] * (i - i.mT).sign()

    def vee(self, X: Tensor) -> Tensor:
        i, j = torch.tril_indices(self.n, self.n, -1, device=X.device)
        return (X[..., i, j] - X[..., j, i]) / 2

    def exp(self, v: Tensor) -> Tensor:
        return matrix_exp(self.hat(v))

    def log(self, g: Tensor) -> Tensor:
        return self.vee(_logm(g))

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """Twice the tangent part, as ⟨X, Y⟩ is half the product of matrices."""
        return 2 * self.proju(x, u)

    def projx(self, x: Tensor) -> Tensor:
        """The nearest rotation."""
        return nearest_rotation(x)

    def random_uniform(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        return nearest_rotation(torch.randn(whole_shape(size, self.event_shape), dtype=dtype, device=device))

    def extra_repr(self) -> str:
        return str(self.n)


def _logm(R: Tensor) -> Tensor:
    """A shortest skew-symmetric A with exp(A) = R, for rotations R.

    Two of Newton's steps on A ↦ exp(−A)R, from a start that is right to about the square root of rounding: they leave
    rounding, and as many derivatives as there are steps, because the start has none.
    """
    A, V, inverse_jacobian = _log_start(R.detach().double())
    A = A.to(R.dtype)
    for _ in range(2):
        X = _skew(matrix_exp(-A) @ R)  # near enough its logarithm
        step = V @ (V.mH @ X.to(V.dtype) @ V * inverse_jacobian) @ V.mH
        A = A + _skew(step.real).to(A.dtype)
    return A


def _log_start(R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A near log R, unitary V with A = V·diag(iθ)·Vᴴ, and the inverse right Jacobian at A, diagonal in that basis."""
    n = R.shape[-1]
    generic = torch.arange(n * n, dtype=R.dtype, device=R.device).square().cos().unflatten(-1, (n, n))
    # half turns have no plane until something small takes sides
    R = R + HALF_TURN * R @ (generic - generic.mT)
    # cos(θ − 0.7133) parts the eigenvalues exp(±iθ); it confuses those only of which the angles happen to sum to 1.4266
    turned = R * torch.polar(R.new_ones(()), R.new_tensor(-0.7133))
    V = torch.linalg.eigh((turned + turned.mH) / 2).eigenvectors
    theta = (V.conj() * (R.to(V.dtype) @ V)).sum(-2).angle()
    A = _skew((V * (1j * theta).unsqueeze(-2) @ V.mH).real)

    theta, V = torch.linalg.eigh(-1j * A)
    delta = theta.unsqueeze(-1) - theta.unsqueeze(-2)
    sinc = torch.sinc(delta / (2 * math.pi))
    lost = sinc < MIXING
    # iδ/(1 − exp(−iδ))
    inverse_jacobian = torch.polar(torch.where(lost, 0, 1 / torch.where(lost, 1, sinc)), delta / 2)
    return A, V, inverse_jacobian


def _skew(X: Tensor) -> Tensor:
    return (X - X.mT) / 2
