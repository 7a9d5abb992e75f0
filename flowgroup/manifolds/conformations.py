"""Configurations of atoms up to rigid motions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowgroup.manifolds.euclidean import Euclidean
from flowgroup.manifolds.pullback import Pullback


class Conformations(Pullback):
    """Positions x of n atoms (n, 3) in one pose of each conformation: dx = dvol · dt · dω, t and ω those of the body.

    In that pose atom a of the frame lies at the origin, b on the positive z-axis and c in the half-plane y = 0, x > 0;
    `projx` takes positions there, and as points any positions will do. The volume is Lebesgue measure of positions less
    that of rigid motions, rotations having their volume 8π²: z_b²·x_c times that of the 3n − 6 coordinates left. It is
    what an energy of positions needs: ∫ e^{−u} dx per unit of space is 8π² ∫ e^{−u} dvol. The metric is only a flat one
    with this volume, and has no other meaning.

    Args:
        n: number of atoms, at least 3.
        frame: the atoms (a, b, c).

    Raises:
        ValueError: fewer atoms, or a frame that is not three of them.

    Example:
        >>> Conformations(3).projx(torch.tensor([[5.0, 0.0, 0.0], [5.0, 2.0, 0.0], [6.0, 2.0, 0.0]])) + 0.0
        tensor([[0., 0., 0.],
                [0., 0., 2.],
                [1., 0., 2.]])
    """

    def __init__(self, n: int, frame: Sequence[int] = (0, 1, 2)):
        a, b, c = frame = tuple(int(i) for i in frame)
        if len(set(frame)) < 3 or min(frame) < 0 or max(frame) >= n:
            raise ValueError(f"frame must be three different atoms of {n}, got {frame}")
        super().__init__(Euclidean(3 * n - 6), (n, 3))
        self.n, self.frame = n, frame
        fixed = {3 * a, 3 * a + 1, 3 * a + 2, 3 * b, 3 * b + 1, 3 * c + 1}
        special = [3 * b + 2, 3 * c]  # z_b and x_c
        self._free = special + [i for i in range(3 * n) if i not in fixed.union(special)]
        self._where = [self._free.index(i) if i in self._free else 3 * n - 6 for i in range(3 * n)]

    def contains(self, x: Tensor) -> Tensor:
        """Whether all positions are finite: every pose stands for its conformation."""
        return x.isfinite().all(-1).all(-1)

    def to_model(self, x: Tensor) -> Tensor:
        z, p, rest = self._parts(x)
        return torch.cat((z**3 / 3, p.square() / 2, rest), -1)

    def from_model(self, y: Tensor) -> Tensor:
        z, p, rest = y.split((1, 1, self.dim - 2), -1)
        return self._positions(torch.cat(((3 * z).pow(1 / 3), (2 * p).sqrt(), rest), -1))

    def push(self, x: Tensor, u: Tensor) -> Tensor:
        x, u = torch.broadcast_tensors(x, u)
        z, p, _ = self._parts(x)
        dz, dp, rest = self._parts(u)
        return torch.cat((z.square() * dz, p * dp, rest), -1)

    def pull(self, y: Tensor, w: Tensor) -> Tensor:
        z, p, _ = self._parts(self.from_model(y))
        dz, dp, rest = w.split((1, 1, self.dim - 2), -1)
        return self._positions(torch.cat((dz / z.square(), dp / p, rest), -1))

    def projx(self, x: Tensor) -> Tensor:
        """The same conformation in the pose of the frame."""
        a = x[..., self.frame[0], :].unsqueeze(-2)
        placed = ((x - a).unsqueeze(-2) @ self.axes(x).unsqueeze(-3)).squeeze(-2)
        return self.proju(x, placed)

    def axes(self, x: Tensor) -> Tensor:
        """The axes of the frame, columns of a rotation R (..., 3, 3): x is R · projx(x), moved to where atom a is."""
        a, b, c = (x[..., i, :] for i in self.frame)
        z = torch.nn.functional.normalize(b - a, dim=-1)
        out = c - a
        out = torch.nn.functional.normalize(out - (out * z).sum(-1, keepdim=True) * z, dim=-1)
        return torch.stack((out, torch.linalg.cross(z, out), z), -1)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """u without the six coordinates that the pose keeps at zero."""
        u = torch.broadcast_tensors(x, u)[1]
        return self._positions(u.flatten(-2)[..., self._free])

    def random(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        """Conformations of normally distributed positions."""
        return self.projx(torch.randn(size or self.event_shape, dtype=dtype, device=device))

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """z_b, x_c and the other free coordinates."""
        return x.flatten(-2)[..., self._free].split((1, 1, self.dim - 2), -1)

    def _positions(self, free: Tensor) -> Tensor:
        """Positions from their free coordinates."""
        padded = torch.nn.functional.pad(free, (0, 1))
        return padded[..., self._where].unflatten(-1, (self.n, 3))

    def extra_repr(self) -> str:
        return f"{self.n}, frame={self.frame}"
