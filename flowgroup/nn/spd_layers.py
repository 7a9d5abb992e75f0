"""Layers between symmetric positive-definite matrices, and from them to vectors and back."""

from __future__ import annotations

import math
from typing import Literal

import geoopt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flowgroup._checks import (
    check_event_shape,
    check_finite,
    check_spd,
    check_square,
    check_symmetric,
    positive_integer,
    values_readable,
)
from flowgroup.linalg import Spectrum, expm, logm, scalar_functions, unvech, vech
from flowgroup.manifolds import Stiefel
from flowgroup.nn.precision import full_precision


class BiMap(nn.Module):
    """Y = W X Wᵀ, W with orthonormal rows, or columns where the output is larger.

    `weight`, the tall one of W and Wᵀ, is a point of a `manifolds.Stiefel`, drawn uniformly at first. A larger output
    has rank `in_features` at most; `ReEig` after it makes it positive definite.

    Args:
        in_features: size n of the input.
        out_features: size m of the output.
        parametrization: None for a `weight` that is a `geoopt.ManifoldParameter`, to be trained by
            `geoopt.optim.RiemannianAdam` or another optimizer of geoopt's: a plain one would leave the manifold.
            "qr" for one that is the factor Q of a free matrix (`torch.nn.utils.parametrize`), for any optimizer.
        validate_args: whether to look if the input is symmetric.

    Shape: (..., n, n) -> (..., m, m).

    Raises:
        ValueError: the input is of another size or not symmetric.

    Source: A Riemannian Network for SPD Matrix Learning, 2017, arXiv 1608.04233, equation 2.

    Example:
        >>> X = torch.eye(20).expand(5, 20, 20)
        >>> torch.allclose(BiMap(20, 16)(X), torch.eye(16), atol=1e-5)
        True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        parametrization: Literal["qr"] | None = None,
        validate_args: bool = True,
    ):
        super().__init__()
        if parametrization not in (None, "qr"):
            raise ValueError(f"parametrization must be None or 'qr', got {parametrization!r}")
        self.in_features = positive_integer("in_features", in_features)
        self.out_features = positive_integer("out_features", out_features)
        self.validate_args = validate_args
        stiefel = Stiefel(max(in_features, out_features), min(in_features, out_features))
        weight = stiefel.random_uniform()
        if parametrization == "qr":
            self.weight = nn.Parameter(weight)
            parametrize.register_parametrization(self, "weight", Orthonormal())
        else:
            self.weight = geoopt.ManifoldParameter(weight, manifold=stiefel)

    @full_precision
    def forward(self, X: Tensor) -> Tensor:
        check_event_shape("X", X, (self.in_features, self.in_features))
        if self.validate_args:
            check_symmetric("X", X)
        W = self.weight.mT if self.out_features <= self.in_features else self.weight
        return W @ F.linear(X, W)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}"


class Orthonormal(nn.Module):
    """Q of A = QR with a positive diagonal of R: orthonormal columns from a free tall matrix, smoothly.

    For `torch.nn.utils.parametrize`. An A with orthonormal columns is its own Q.

    Example:
        >>> Orthonormal()(torch.tensor([[3.0], [4.0]]))
        tensor([[0.6000],
                [0.8000]])
    """

    def forward(self, A: Tensor) -> Tensor:
        Q, R = torch.linalg.qr(A)
        return Q * torch.where(R.diagonal() < 0, -1, 1)

    def right_inverse(self, Q: Tensor) -> Tensor:
        return Q


class ReEig(nn.Module):
    """Y = V max(Λ, t) Vᵀ for X = V Λ Vᵀ: eigenvalues below a floor t are raised to it.

    By default the floor is relative, t = threshold·tr(X)/n, the threshold times the mean eigenvalue: the layer then
    does the same at every scale of the data, ReEig(cX) = c·ReEig(X), and the gradient knows how t depends on X. The
    paper's floor is t = threshold.

    Args:
        threshold: positive; relative to the mean eigenvalue unless `relative` is False.
        relative: whether it is.
        validate_args: whether to look if the input is symmetric and, for a relative floor, its trace positive.

    Shape: symmetric (..., n, n) -> positive-definite (..., n, n).

    Raises:
        ValueError: the input is not square, not symmetric, or its trace not positive; it says which of the batch.

    Source: A Riemannian Network for SPD Matrix Learning, 2017, arXiv 1608.04233, equation 3.

    Example:
        >>> ReEig(0.1)(torch.tensor([[4.0, 0.0], [0.0, 0.0]]))
        tensor([[4.0000, 0.0000],
                [0.0000, 0.2000]])
    """

    def __init__(self, threshold: float = 1e-4, relative: bool = True, validate_args: bool = True):
        super().__init__()
        if not (0 < threshold < math.inf):
            raise ValueError(f"threshold must be positive and finite, got {threshold!r}")
        self.threshold, self.relative, self.validate_args = threshold, relative, validate_args

    @full_precision
    def forward(self, X: Tensor) -> Tensor:
        check_square("X", X)
        if self.validate_args:
            check_symmetric("X", X)
        if not self.relative:
            return Spectrum(X).apply(scalar_functions.rectifier(self.threshold))
        mean = X.diagonal(dim1=-2, dim2=-1).mean(-1)
        if self.validate_args:
            _check_mean_eigenvalue(mean)
        t = (self.threshold * mean)[..., None, None]
        return t * Spectrum(X / t).apply(scalar_functions.rectifier(1.0))

    def extra_repr(self) -> str:
        return f"{self.threshold:g}" + ("" if self.relative else ", relative=False")


class LogEig(nn.Module):
    """y = vech(log X): the entries of log X from the diagonal down, those off it times √2, so that |y| = |log X|.

    Args:
        vector: whether to give vectors, or the matrices log X.
        validate_args: whether to look if the input is positive definite.

    Shape: (..., n, n) -> (..., n(n+1)/2), or (..., n, n) without `vector`.

    Raises:
        ValueError: the input is not square, not symmetric or not positive definite.

    Source: A Riemannian Network for SPD Matrix Learning, 2017, arXiv 1608.04233, equation 5.

    Example:
        >>> LogEig()(torch.eye(8).expand(5, 8, 8)).shape
        torch.Size([5, 36])
    """

    def __init__(self, vector: bool = True, validate_args: bool = True):
        super().__init__()
        self.vector, self.validate_args = vector, validate_args

    @full_precision
    def forward(self, X: Tensor) -> Tensor:
        check_square("X", X)
        if self.validate_args:
            check_spd("X", X)
        log = logm(X)
        return vech(log) if self.vector else log

    def extra_repr(self) -> str:
        return "" if self.vector else "vector=False"


class ExpEig(nn.Module):
    """X = exp(vech⁻¹(y)): what `LogEig` undoes.

    Args:
        vector: whether to take vectors, or symmetric matrices.
        validate_args: whether to look if the input is finite, and matrices symmetric.

    Shape: (..., n(n+1)/2), or (..., n, n) without `vector`, -> (..., n, n).

    Raises:
        ValueError: the input is no vector of n(n+1)/2 entries, no symmetric matrix, or not finite.

    Example:
        >>> X = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> torch.allclose(ExpEig()(LogEig()(X)), X)
        True
    """

    def __init__(self, vector: bool = True, validate_args: bool = True):
        super().__init__()
        self.vector, self.validate_args = vector, validate_args

    @full_precision
    def forward(self, y: Tensor) -> Tensor:
        if self.vector:
            check_event_shape("y", y, (None,))
            if self.validate_args:
                check_finite("y", y)
            return expm(unvech(y))
        check_square("y", y)
        if self.validate_args:
            check_symmetric("y", y)
        return expm(y)

    def extra_repr(self) -> str:
        return "" if self.vector else "vector=False"


def _check_mean_eigenvalue(mean: Tensor) -> None:
    """Raise unless all of tr(X)/n are positive, where values may be read."""
    if not values_readable(mean) or (mean > 0).all():
        return
    bad = ~(mean > 0)
    index = tuple(bad.nonzero()[0].tolist())
    which = f"{bad.sum().item()} of {bad.numel()} do not: the first, at index {index}, has" if index else "this one has"
    raise ValueError(f"X must hold matrices with positive trace, but {which} mean eigenvalue {mean[index].item():.3g}")
