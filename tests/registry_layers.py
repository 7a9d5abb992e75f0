"""Every layer on manifolds with a small constructor: what the law tests of layers run over.

A public class or function of `flowgroup.nn` that is listed nowhere here fails a test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flowgroup import groups
from flowgroup import nn as fnn
from flowgroup.linalg import unvech
from flowgroup.manifolds import SPD, Correlation, Euclidean


def spd(n: int) -> Callable[..., Tensor]:
    """SPD matrices with condition numbers of about ten, one of them with equal eigenvalues."""

    def draw(batch: int, **like) -> Tensor:
        X = torch.randn(batch, n, 4 * n, **like)
        X = X @ X.mT / (4 * n)
        X[-1] = 0.5 * torch.eye(n, **like) + 0.1
        return X

    return draw


def normal(*event: int) -> Callable[..., Tensor]:
    return lambda batch, **like: torch.randn(batch, *event, **like)


def symmetric_step(x: Tensor, v: Tensor) -> Tensor:
    return x + v + v.mT


@dataclass(frozen=True)
class Layer:
    """One layer under the laws.

    Attributes:
        of: the public class or function.
        make: builds a small one.
        points: (number, dtype=…, device=…) → that many random inputs.
        move: (x, v) → inputs near x.
        event_dim: number of dimensions of one input.
        mixed: whether parts may run in half precision under autocast.
        label: tells several entries of one class apart.
    """

    of: Callable
    make: Callable[[], nn.Module]
    points: Callable[..., Tensor]
    move: Callable[[Tensor, Tensor], Tensor] = symmetric_step
    event_dim: int = 2
    mixed: bool = False
    label: str = ""

    def __str__(self) -> str:
        return "-".join(filter(None, (self.of.__name__, self.label)))


def _on_group(group: groups.LieGroup) -> dict:
    return dict(
        points=lambda batch, **like: group.random(batch, *group.event_shape, **like),
        move=lambda x, v: group.expmap(x, group.proju(x, v)),
        event_dim=group.ndim,
    )


def _mlr(group: groups.LieGroup, label: str, **kwargs) -> Layer:
    return Layer(fnn.RiemannianMLR, lambda: fnn.RiemannianMLR(group, 2, **kwargs), **_on_group(group), label=label)


def _lie_bn(group: groups.LieGroup, label: str, **kwargs) -> Layer:
    return Layer(fnn.LieBN, lambda: fnn.LieBN(group, **kwargs), **_on_group(group), label=label)


def _log_cholesky_bn(n: int) -> fnn.LieBN:
    return fnn.LieBN(SPD(n, metric="log-cholesky"))


LAYERS = [
    Layer(fnn.BiMap, lambda: fnn.BiMap(4, 3), spd(4)),
    Layer(fnn.BiMap, lambda: fnn.BiMap(3, 4), spd(3), label="wider"),
    Layer(fnn.BiMap, lambda: fnn.BiMap(4, 3, parametrization="qr"), spd(4), label="free"),
    Layer(fnn.ReEig, lambda: fnn.ReEig(0.6), spd(4)),
    Layer(fnn.ReEig, lambda: fnn.ReEig(0.3, relative=False), spd(3), label="absolute"),
    Layer(fnn.LogEig, fnn.LogEig, spd(4)),
    Layer(fnn.LogEig, lambda: fnn.LogEig(vector=False), spd(3), label="matrix"),
    Layer(fnn.ExpEig, fnn.ExpEig, normal(6), torch.add, 1),
    Layer(
        fnn.ExpEig,
        lambda: fnn.ExpEig(vector=False),
        lambda batch, **like: unvech(torch.randn(batch, 10, **like)),
        label="matrix",
    ),
    Layer(fnn.CovariancePooling, fnn.CovariancePooling, normal(3, 5), torch.add),
    Layer(
        fnn.CovariancePooling, lambda: fnn.CovariancePooling(0.1, correction=0), normal(4, 3), torch.add, label="0.1"
    ),
    Layer(
        fnn.CovariancePooling,
        lambda: fnn.CovariancePooling(0.1, learnable=True),
        normal(4, 3),
        torch.add,
        label="learnable",
    ),
    Layer(fnn.CovariancePooling, lambda: fnn.CovariancePooling("oas"), normal(3, 9), torch.add, label="oas"),
    Layer(
        fnn.CovariancePooling,
        lambda: fnn.CovariancePooling("ledoit-wolf"),
        normal(3, 9),
        torch.add,
        label="ledoit-wolf",
    ),
    _mlr(SPD(3), "affine-invariant"),
    _mlr(SPD(3, theta=0.5, alpha=2.0, beta=0.1), "affine-invariant-deformed", parametrization="exp"),
    _mlr(SPD(3, metric="log-euclidean"), "log-euclidean"),
    _mlr(SPD(3, metric="log-cholesky"), "log-cholesky"),
    _mlr(Correlation(3, metric="ecm"), "ecm"),
    _mlr(groups.SO3(), "SO3"),
    _mlr(Euclidean(3), "Euclidean"),
    _lie_bn(SPD(3), "affine-invariant"),
    _lie_bn(SPD(3, metric="log-cholesky"), "log-cholesky"),
    _lie_bn(groups.SO3(), "SO3"),
    Layer(
        fnn.SPDNet,
        lambda: fnn.SPDNet((4, 3), 2, norm=_log_cholesky_bn),
        spd(4),
        mixed=True,
        label="LieBN",
    ),
    Layer(
        fnn.SPDNet,
        lambda: fnn.SPDNet((3, 4, 2), 2, threshold=0.1, parametrization="qr"),
        spd(3),
        mixed=True,
        label="wider",
    ),
    Layer(
        fnn.TSMNet,
        lambda: fnn.TSMNet(3, 2, _log_cholesky_bn, temporal_filters=2, kernel_size=3, spatial_filters=4, subspace=2),
        normal(3, 12),
        torch.add,
        mixed=True,
        label="LieBN",
    ),
]

ELSEWHERE = {
    fnn.MLP: "the flows that it conditions",
    fnn.MaskedMLP: "the flows that it conditions",
    fnn.ConvNet: "the flows that it conditions",
    fnn.BodyAttention: "the flows on rigid bodies that it conditions, and tests/test_rigid_flows.py",
    fnn.RiemannianBatchNorm: "LieBN",
    fnn.DomainBatchNorm: "tests/test_domain_batch_norm.py: it takes domains as well",
    fnn.DecayingMomentum: "LieBN",
}
"""What is public but no layer for these laws, with where it is tested."""
