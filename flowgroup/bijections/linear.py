"""Linear maps of vectors whose inverse and determinant cost no more than the map."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from flowgroup._checks import positive_integer
from flowgroup.bijections.base import Bijection, promoted
from flowgroup.linalg import matvec, solve_triangular
from flowgroup.manifolds import constraints


class LULinear(Bijection):
    """y = L U x + b, L unit lower and U upper triangular, params = (M, b): L and U below and above the diagonal of M.

    The diagonal of U is exp(diag M), so log|det| = tr M. All zeros are the identity.

    Args:
        features: size n of x.
        bias: whether there is a b.

    Source: Glow: Generative Flow with Invertible 1×1 Convolutions, 2018, arXiv 1807.03039, Section 3.2.

    Example:
        >>> f = LULinear(2, bias=False)
        >>> f.forward(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 3.0, 1.0, 0.0]))  # L = [1 0; 1 1], U = [1 3; 0 1]
        (tensor([7., 9.]), tensor(0.))
    """

    event_dim = 1

    def __init__(self, features: int, bias: bool = True):
        positive_integer("features", features)
        self.features = features
        self.bias = bias

    @property
    def param_shape(self) -> tuple[int]:
        return (self.features**2 + self.features * self.bias,)

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        M, b = _matrix_and_bias(promoted(params, x), self.features)
        y = matvec(_upper(M), x)
        y = y + matvec(M.tril(-1), y) + b
        return y, _trace(M).expand(y.shape[:-1])

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        M, b = _matrix_and_bias(promoted(params, y), self.features)
        x = solve_triangular(M.tril(-1), y - b, upper=False, unitriangular=True)
        x = solve_triangular(_upper(M), x, upper=True)
        return x, -_trace(M).expand(x.shape[:-1])


class QRLinear(Bijection):
    """y = Q R x + b, Q a rotation and R upper triangular, params = (M, b): R on and above the diagonal of M.

    Q = −H₁…Hₙ is a product of reflections along eᵢ + (column i of M below the diagonal), as in LAPACK: no parameter
    is redundant. The diagonal of R is exp(diag M), so log|det| = tr M. All zeros are the identity. (Q is a rotation for
    even n; for odd n, −Q is a product of an odd number of reflections and Q again a rotation.)

    Args:
        features: size n of x.
        bias: whether there is a b.

    Source: Emerging Convolutions for Generative Normalizing Flows, 2019, arXiv 1901.11137, Section 3.3.

    Example:
        >>> f = QRLinear(3)
        >>> f.forward(torch.ones(3), f.initial_params())
        (tensor([1., 1., 1.]), tensor(0.))
    """

    event_dim = 1

    def __init__(self, features: int, bias: bool = True):
        positive_integer("features", features)
        self.features = features
        self.bias = bias

    @property
    def param_shape(self) -> tuple[int]:
        return (self.features**2 + self.features * self.bias,)

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        M, b = _matrix_and_bias(promoted(params, x), self.features)
        y = b - reflect(_lower_directions(M), matvec(_upper(M), x))
        return y, _trace(M).expand(y.shape[:-1])

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        M, b = _matrix_and_bias(promoted(params, y), self.features)
        x = reflect(_lower_directions(M), b - y, transpose=True)
        x = solve_triangular(_upper(M), x, upper=True)
        return x, -_trace(M).expand(x.shape[:-1])


class HouseholderLinear(Bijection):
    """y = H₁…H_k x, Hᵢ = I − 2 vᵢvᵢᵀ/|vᵢ|², params = (v₁, …, v_k).

    An even number of reflections is a rotation and starts as the identity, in equal pairs; an odd number turns the
    orientation round. A vᵢ of zeros reflects nothing.

    Args:
        features: size n of x.
        reflections: k; by default the largest even number up to n, which reaches every rotation.
        domain: what x belongs to, vectors or a sphere around the origin; norms stay as they are.

    Source: Improving Variational Auto-Encoders using Householder Flow, 2016, arXiv 1611.09630.

    Example:
        >>> HouseholderLinear(2, reflections=1).forward(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0]))
        (tensor([-3.,  4.]), tensor(0.))
    """

    event_dim = 1

    def __init__(self, features: int, reflections: int | None = None, domain: Constraint = constraints.real):
        positive_integer("features", features)
        self.features = features
        self.reflections = features - features % 2 if reflections is None else reflections
        if self.reflections < 0:
            raise ValueError(f"reflections must not be negative, got {reflections}")
        self.domain = self.codomain = domain

    @property
    def param_shape(self) -> tuple[int]:
        return (self.reflections * self.features,)

    def initial_params(self) -> Tensor:
        pairs = torch.arange(self.reflections) // 2 % self.features
        return torch.eye(self.features)[pairs].flatten()

    def _directions(self, params: Tensor) -> Tensor:
        v = params.unflatten(-1, (self.reflections, self.features)).mT
        return v / (v.square().sum(-2, keepdim=True) + torch.finfo(v.dtype).tiny).sqrt()

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y = reflect(self._directions(promoted(params, x)), x)
        return y, y.new_zeros(()).expand(y.shape[:-1])

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        x = reflect(self._directions(promoted(params, y)), y, transpose=True)
        return x, x.new_zeros(()).expand(x.shape[:-1])


class GivensLinear(Bijection):
    """y = G₁…G_m x, m = n(n−1)/2 rotations of two coordinates each, params = their angles.

    Every pair of coordinates is turned once, ⌊n/2⌋ disjoint pairs at a time, in the order of a round-robin tournament
    (the circle method). All zeros are the identity.

    Args:
        features: size n of x.
        domain: what x belongs to, vectors or a sphere around the origin; norms stay as they are.

    Example:
        >>> y, logdet = GivensLinear(2).forward(torch.tensor([1.0, 0.0]), torch.tensor([torch.pi / 6]))
        >>> y, logdet
        (tensor([0.8660, 0.5000]), tensor(0.))
    """

    event_dim = 1

    def __init__(self, features: int, domain: Constraint = constraints.real):
        positive_integer("features", features)
        self.features = features
        self.domain = self.codomain = domain

    @property
    def param_shape(self) -> tuple[int]:
        return (self.features * (self.features - 1) // 2,)

    def _rotate(self, x: Tensor, params: Tensor, transpose: bool) -> Tensor:
        params = promoted(params, x)
        if params.dim() > 1:
            return _tournament(x, params, transpose)
        # one rotation for all x: its matrix first, then a single product
        Qt = _tournament(torch.eye(self.features, dtype=params.dtype, device=params.device), params)
        return matvec(Qt if transpose else Qt.mT, x)

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y = self._rotate(x, params, transpose=False)
        return y, y.new_zeros(()).expand(y.shape[:-1])

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        x = self._rotate(y, params, transpose=True)
        return x, x.new_zeros(()).expand(x.shape[:-1])


def _matrix_and_bias(params: Tensor, n: int) -> tuple[Tensor, Tensor | float]:
    bias = params[..., n * n :] if params.shape[-1] > n * n else 0.0
    return params[..., : n * n].unflatten(-1, (n, n)), bias


def _upper(M: Tensor) -> Tensor:
    """Upper triangular, exp(diag M) on the diagonal."""
    return M.triu(1) + torch.diag_embed(M.diagonal(dim1=-2, dim2=-1).exp())


def _trace(M: Tensor) -> Tensor:
    return M.diagonal(dim1=-2, dim2=-1).sum(-1)


def _lower_directions(M: Tensor) -> Tensor:
    """Unit columns along eᵢ + (column i of M below the diagonal)."""
    V = M.tril(-1) + torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)
    return V / V.square().sum(-2, keepdim=True).sqrt()


def reflect(V: Tensor, x: Tensor, transpose: bool = False) -> Tensor:
    """H₁…H_k x, or H_k…H₁ x, for unit (or zero) columns of V (..., n, k), without a loop over them.

    H₁…H_k = I − V S⁻¹ Vᵀ with S upper triangular, ½ on its diagonal and VᵀV above it.
    """
    half = 0.5 * torch.eye(V.shape[-1], dtype=V.dtype, device=V.device)
    with torch.autocast(V.device.type, enabled=False):
        S = (V.mT @ V).triu(1) + half
    t = solve_triangular(S.mT if transpose else S, matvec(V.mT, x), upper=not transpose)
    return x - matvec(V, t)


def _tournament(x: Tensor, angles: Tensor, transpose: bool = False) -> Tensor:
    """Turn every pair of coordinates of x (..., n) by its angle (..., n(n−1)/2), or back in the opposite order."""
    n = x.shape[-1]
    fixed, rounds = 1 - n % 2, n - 1 + n % 2
    angles = angles.unflatten(-1, (rounds, n // 2))
    cos, sin = angles.cos(), angles.sin()
    idle = n % 2  # for odd n, one coordinate rests in each round
    c = torch.cat((cos, cos.new_ones(*cos.shape[:-1], idle), cos.flip(-1)), -1)
    s = torch.cat((-sin, sin.new_zeros(*sin.shape[:-1], idle), sin.flip(-1)), -1)

    def seated(x: Tensor, by: int) -> Tensor:
        return torch.cat((x[..., :fixed], x[..., fixed:].roll(by, -1)), -1)

    # coordinates i and n−1−i meet; then all but the fixed one move on by a seat, and are back at the end
    for k in reversed(range(rounds)) if transpose else range(rounds):
        if transpose:
            x = seated(x, -1)
            x = x * c[..., k, :] - x.flip(-1) * s[..., k, :]
        else:
            x = seated(x * c[..., k, :] + x.flip(-1) * s[..., k, :], 1)
    return x
