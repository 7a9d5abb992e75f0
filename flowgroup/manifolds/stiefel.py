"""The Stiefel manifold of orthonormal frames."""

from __future__ import annotations

import math
from typing import NoReturn

import torch
from torch import Tensor

from flowgroup._checks import positive_integer
from flowgroup.linalg.matrix_exp import matrix_exp
from flowgroup.linalg.nearest import nearest_frame
from flowgroup.manifolds.base import Manifold, whole_shape


class Stiefel(Manifold):
    """Matrices X (n, p) with XᵀX = I, with the metric ⟨U, V⟩ = tr UᵀV of ℝⁿˣᵖ.

    It is there to be optimized on: `geoopt.ManifoldParameter(X, manifold=Stiefel(n, p))` stays orthonormal under
    geoopt's optimizers. It is `geoopt.EuclideanStiefel` with the library's interface, retractions that can be
    differentiated and uniform samples. The logarithm has no closed form, so there is neither `logmap` nor `dist`, nor
    what is made of them; `transp` projects, which gives tangent vectors but keeps no lengths.

    Args:
        n: dimension of the space.
        p: number of columns, at most n.

    Raises:
        ValueError: n or p is no positive integer, or p > n.

    Example:
        >>> stiefel = Stiefel(5, 2)
        >>> X = stiefel.random_uniform(7, 5, 2)
        >>> stiefel.dim, torch.allclose(X.mT @ X, torch.eye(2), atol=1e-5)
        (7, True)
    """

    # The injectivity radius of the compact Stiefel manifold under the Euclidean metric, 2024, arXiv 2405.02268
    injectivity_radius = math.pi

    def __init__(self, n: int, p: int):
        if positive_integer("p", p) > positive_integer("n", n):
            raise ValueError(f"p must be at most n, got n={n} and p={p}")
        super().__init__(n * p - p * (p + 1) // 2, (n, p))
        self.n, self.p = n, p
        # columns one after the other lie on spheres; ⟨·, ·⟩ counts the turns of columns into each other twice
        spheres = sum(math.log(2) + k / 2 * math.log(math.pi) - math.lgamma(k / 2) for k in range(n - p + 1, n + 1))
        self.volume = math.exp(spheres + p * (p - 1) / 4 * math.log(2))

    def origin(self, *size: int, dtype: torch.dtype | None = None, device=None, seed: int | None = None) -> Tensor:
        """The first p columns of the identity; `seed` is there for geoopt and has no effect."""
        shape = whole_shape(size, self.event_shape)
        return torch.eye(self.n, self.p, dtype=dtype, device=device).expand(shape).clone()

    def random_uniform(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        return nearest_frame(torch.randn(whole_shape(size, self.event_shape), dtype=dtype, device=device))

    def projx(self, x: Tensor) -> Tensor:
        """The nearest frame, the polar factor of x."""
        return nearest_frame(x)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """u − x·sym(xᵀu)."""
        A = x.mT @ u
        return u - x @ (A + A.mT) / 2

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self.proju(x, u)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        """tr uᵀv."""
        product = u * (u if v is None else v)
        return torch.broadcast_tensors(product, x)[0].sum((-2, -1), keepdim=keepdim)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """The Q of the QR decomposition of x + u in which R has a positive diagonal."""
        Q, R = torch.linalg.qr(x + u)
        return Q * torch.where(R.diagonal(dim1=-2, dim2=-1) < 0, -1, 1).unsqueeze(-2)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """[x u]·exp[[A, −uᵀu], [I, A]]·[I; 0]·exp(−A), A = xᵀu.

        Source: The Geometry of Algorithms with Orthogonality Constraints, 1998, arXiv physics/9806030, section 2.2.2.
        """
        x, u = torch.broadcast_tensors(x, u)
        A, S = x.mT @ u, u.mT @ u
        eye = torch.eye(self.p, dtype=x.dtype, device=x.device).expand_as(A)
        block = torch.cat([torch.cat([A, -S], -1), torch.cat([eye, A], -1)], -2)
        return torch.cat([x, u], -1) @ matrix_exp(block)[..., : self.p] @ matrix_exp(-A)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """The part of v that is tangent at y."""
        return torch.broadcast_tensors(self.proju(y, v), x)[0]

    def logmap(self, x: Tensor, y: Tensor) -> NoReturn:
        """Not known in closed form.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"{self} has no logmap, and so no dist, geodesic or frechet_mean")

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> NoReturn:
        """Not known in closed form; see `logmap`.

        Raises:
            NotImplementedError: always.
        """
        self.logmap(x, y)

    def extra_repr(self) -> str:
        return f"{self.n}, {self.p}"
