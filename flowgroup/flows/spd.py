"""Flows on symmetric positive-definite matrices, through charts onto vectors."""
# ruff: noqa: N802  (SPDFlow is named like the recipes beside it)

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from flowgroup._checks import check_spd
from flowgroup.flows.flow import Flow
from flowgroup.flows.recipes import NSF
from flowgroup.flows.transform import Sequential, Transform
from flowgroup.manifolds import SPD, Manifold
from flowgroup.manifolds.spd_matrices import SPDMatrices

CHARTS = ("log-euclidean", "log-cholesky")


class SPDChart(Transform):
    """y = φ(P): SPD matrices to vectors, φ the isometry of the flat metric of this name; logdet = log(dy/dvol(P)).

    The volume is that of the metric of `manifold`, so logdet is zero where that is the chart's own metric, and else the
    log-ratio of the two volumes. For the affine-invariant metric it is −Σᵢ<ⱼ log(sinh(δᵢⱼ/2)/(δᵢⱼ/2)) in the
    log-euclidean chart, δ the differences of log-eigenvalues, and Σᵢ (i − 1)·log Lᵢᵢ − n(n + 3)/4·log 2 in the
    log-cholesky chart.

    | chart | φ(P) |
    |---|---|
    | log-euclidean | log P, the entries off the diagonal times √2 |
    | log-cholesky | log diag L, then the strict lower part of L row by row, P = LLᵀ |

    Args:
        manifold: SPD matrices (n, n) under the metric whose volume densities refer to.
        chart: "log-euclidean" or "log-cholesky".

    Raises:
        TypeError, ValueError: another manifold, another chart.

    Source: Geometric Means in a Novel Vector Space Structure on Symmetric Positive-Definite Matrices, 2007, Arsigny and
    others; Riemannian Geometry of Symmetric Positive Definite Matrices via Cholesky Decomposition, 2019, arXiv
    1908.09326.

    Example:
        >>> import torch
        >>> chart = SPDChart(SPD(2), "log-cholesky")
        >>> chart(torch.eye(2))
        (tensor([0., 0., 0.]), tensor(-1.7329))
    """

    def __init__(self, manifold: Manifold, chart: str = "log-euclidean"):
        super().__init__()
        if not isinstance(manifold, SPDMatrices):
            raise TypeError(f"manifold must be SPD matrices (flowgroup.manifolds.SPD), got {manifold!r}")
        if chart not in CHARTS:
            raise ValueError(f"chart must be one of {', '.join(CHARTS)}, got {chart!r}")
        self.manifold = manifold
        self.chart = SPD(manifold.event_shape[0], chart)
        self.in_shape, self.out_shape = tuple(manifold.event_shape), (manifold.dim,)
        self.domain = manifold.constraint

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._check_shapes("x", x, context)
        if self.validate_args:
            check_spd("x", x)
        return self.chart.to_model(x), self._logdet(x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self._checked("y", y, context, inverse=True)
        x = self.chart.from_model(y)
        return x, -self._logdet(x)

    def _logdet(self, x: Tensor) -> Tensor:
        if repr(self.chart) == repr(self.manifold):
            return x.new_zeros(x.shape[:-2])
        return self.chart.log_volume_density(x) - self.manifold.log_volume_density(x)

    def extra_repr(self) -> str:
        return f"{self.manifold}, {self.chart}"


def SPDFlow(
    n: int,
    metric: str = "affine-invariant",
    chart: str = "log-euclidean",
    context: int = 0,
    transforms: int = 5,
    bins: int = 8,
    bound: float = 5.0,
    hidden_features: Sequence[int] = (128, 128),
    autoregressive: bool = False,
) -> Flow:
    """Rational-quadratic splines (`NSF`) in a chart of SPD matrices (n, n), normal base: densities per volume.

    The metric is nothing but the unit of densities: log p per volume, plus `SPD(n, metric).log_volume_density(x)`, is
    log p with respect to Lebesgue measure on the entries Pᵢⱼ, i ≥ j.

    Args:
        n: size of the matrices.
        metric: that of the volume, one of the names that `flowgroup.manifolds.SPD` takes.
        chart: "log-euclidean" or "log-cholesky".
        context: size of the context, 0 for none.
        transforms, bins, bound, hidden_features, autoregressive: see `NSF`; matrices of size 1 need `autoregressive`.

    Raises:
        ValueError: an unknown metric or chart, or sizes that are not positive.

    Source: Neural Spline Flows, 2019, arXiv 1906.04032, for the splines; `SPDChart` names those of the charts.

    Example:
        >>> import torch
        >>> flow = SPDFlow(2, chart="log-cholesky", transforms=2)
        >>> P = flow.sample((5,))
        >>> P.shape, bool((torch.linalg.eigvalsh(P) > 0).all()), flow.log_prob(P).shape
        (torch.Size([5, 2, 2]), True, torch.Size([5]))
    """
    manifold = SPD(n, metric)
    vectors = NSF(manifold.dim, context, transforms, bins, bound, hidden_features, autoregressive)
    return Flow(Sequential(SPDChart(manifold, chart), *vectors.transform.transforms), vectors.base)
