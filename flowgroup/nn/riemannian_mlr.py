"""Multinomial logistic regression on Lie groups."""

from __future__ import annotations

import math
from typing import Literal

import geoopt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flowgroup._checks import check_event_shape, check_finite, positive_integer, values_readable
from flowgroup.groups import LieGroup
from flowgroup.manifolds import Euclidean
from flowgroup.nn.precision import full_precision
from flowgroup.nn.riemannian_batch_norm import FromAlgebra


class RiemannianMLR(nn.Module):
    """logit_k = ⟨Log_{P_k} X, A_k⟩ at P_k, with a point P_k of the group and a tangent vector A_k for every class.

    {X : logit_k = 0} is the hyperplane through P_k with normal A_k. The normal is moved to P_k from the identity by
    left translation, an isometry, so logit_k = ⟨log(P_k⁻¹X), a_k⟩ with a_k the coordinates of A_k, free vectors, and
    log that of the metric at the identity. On `Euclidean(n)` this is ⟨x − p_k, a_k⟩, a linear layer. On SPD matrices

    - log-Euclidean: logit_k = ⟨log X − log P_k, A_k⟩;
    - log-Cholesky: the same with the logarithms of Cholesky factors;
    - affine-invariant: logit_k = ⟨log(L⁻¹XL⁻ᵀ), A_k⟩ with L = chol P_k. The paper has P_k^{-½}XP_k^{-½}, by parallel
      transport: the two arguments of the logarithm differ by a rotation R, X ↦ RXRᵀ, that depends on P_k alone, so
      with RᵀA_kR for A_k they are the same functions, and this one needs no eigenvectors of P_k.

    Args:
        group: the Lie group, for example `manifolds.SPD(n, metric=…)`.
        classes: how many.
        parametrization: None for `points` that are a `geoopt.ManifoldParameter`, to be trained by
            `geoopt.optim.RiemannianAdam` or another optimizer of geoopt's: a plain one would leave a curved group.
            "exp" for points made of free coordinates in the Lie algebra (`torch.nn.utils.parametrize`), for any
            optimizer.
        validate_args: whether to look at values (NaN, points off the group) and raise.

    Attributes:
        points: P_k (classes, *event), which start at the identity.
        normals: a_k (classes, dim).

    Shape: (..., *event) -> (..., classes).

    Raises:
        TypeError: `group` is no Lie group.
        ValueError: a point of the wrong shape, off the group, or not finite.

    Source: Riemannian Multinomial Logistics Regression for SPD Neural Networks, 2023, arXiv 2305.11288, equation 14;
        RMLR: Extending Multinomial Logistic Regression into General Geometries, 2024, arXiv 2409.19433, theorem 3.3.

    Example:
        >>> from flowgroup.manifolds import SPD
        >>> head = RiemannianMLR(SPD(8, metric="log-euclidean"), classes=3)
        >>> head(torch.eye(8).expand(5, 8, 8)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        group: LieGroup,
        classes: int,
        parametrization: Literal["exp"] | None = None,
        validate_args: bool = True,
    ):
        super().__init__()
        if parametrization not in (None, "exp"):
            raise ValueError(f"parametrization must be None or 'exp', got {parametrization!r}")
        if not isinstance(group, LieGroup):
            raise TypeError(f"group must be a flowgroup.groups.LieGroup, such as manifolds.SPD(n), got {group!r}")
        positive_integer("classes", classes)
        self.group, self.classes, self.validate_args = group, classes, validate_args
        points = group.identity(classes, *group.event_shape)
        if parametrization == "exp":
            self.points = nn.Parameter(points)
            parametrize.register_parametrization(self, "points", FromAlgebra(group))
        else:
            self.points = geoopt.ManifoldParameter(points, manifold=group)
        bound = 1 / math.sqrt(group.dim)  # as in torch.nn.Linear
        self.normals = nn.Parameter(torch.empty(classes, group.dim).uniform_(-bound, bound))

    @full_precision
    def forward(self, X: Tensor) -> Tensor:
        check_event_shape("X", X, self.group.event_shape)
        if self.validate_args and values_readable(X):
            check_finite("X", X)
            why = self.group.why_not(X)
            if why is not None:
                raise ValueError(f"X must lie on {self.group}, but {why}")
        model = self.group.model
        y, points = (self.group.to_model(p) for p in (X, self.points))
        if isinstance(model, Euclidean):
            return F.linear(y, self.normals, -(self.normals * points).sum(-1))
        log, _, e = model._chart(points)
        return (model.coordinates(e, log(y.unsqueeze(-model.ndim - 1))) * self.normals).sum(-1)

    def extra_repr(self) -> str:
        return f"{self.group}, classes={self.classes}"
