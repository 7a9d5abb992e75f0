"""Networks that classify covariance matrices, and signals by their covariance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from flowgroup._checks import check_event_shape, check_finite, positive_integer
from flowgroup.nn.covariance import CovariancePooling
from flowgroup.nn.spd_layers import BiMap, LogEig, ReEig


def SPDNet(  # noqa: N802
    sizes: Sequence[int],
    classes: int,
    norm: Callable[[int], nn.Module] | None = None,
    threshold: float = 1e-4,
    parametrization: Literal["qr"] | None = None,
    validate_args: bool = True,
) -> nn.Sequential:
    """BiMap → (norm) → ReEig for each step from one size to the next, then LogEig → Linear.

    Its weights are on Stiefel manifolds, for `geoopt.optim.RiemannianAdam`, without a `parametrization`.

    Args:
        sizes: of the matrices, first those of the input, at least two. Where one is larger than the one before, no
            norm can follow it: there the matrices are singular.
        classes: how many logits.
        norm: makes the normalization of (..., n, n) from n, for example `lambda n: LieBN(SPD(n))`.
        threshold: of `ReEig`, relative to the mean eigenvalue.
        parametrization: of `BiMap`.
        validate_args: whether its layers look at values and raise; a `norm` decides for itself.

    Shape: (..., n, n) -> (..., classes).

    Raises:
        ValueError: fewer than two sizes, or a norm after a size that grows.

    Source: A Riemannian Network for SPD Matrix Learning, 2017, arXiv 1608.04233. With a norm,
        Riemannian batch normalization for SPD neural networks, 2019, arXiv 1909.02414.

    Example:
        >>> from flowgroup.manifolds import SPD
        >>> from flowgroup.nn import LieBN
        >>> net = SPDNet((20, 16, 8), classes=3, norm=lambda n: LieBN(SPD(n, metric="log-cholesky")))
        >>> signals = torch.randn(5, 20, 100)
        >>> net(signals @ signals.mT / 100).shape
        torch.Size([5, 3])
    """
    if len(sizes) < 2:
        raise ValueError(f"sizes must be at least two, of the input and of what follows, got {tuple(sizes)}")
    if norm is not None and any(b > a for a, b in zip(sizes, sizes[1:])):
        raise ValueError(f"with a norm, no size may be larger than the one before, got {tuple(sizes)}")
    layers: list[nn.Module] = []
    for a, b in zip(sizes, sizes[1:]):
        layers.append(BiMap(a, b, parametrization, validate_args))
        if norm is not None:
            layers.append(norm(b))
        layers.append(ReEig(threshold, validate_args=validate_args))
    layers += [LogEig(validate_args=validate_args), nn.Linear(b * (b + 1) // 2, positive_integer("classes", classes))]
    return nn.Sequential(*layers)


class TSMNet(nn.Module):
    """Convolution in time → convolution over channels → covariance → BiMap → ReEig → (norm) → LogEig → Linear.

    The convolutions learn filters in frequency and space, the covariance of what they give is pooled over time, and
    the rest is a small SPDNet in the tangent space. Its one BiMap weight is on a Stiefel manifold, for
    `geoopt.optim.RiemannianAdam`, without a `parametrization`.

    Args:
        channels: of the signals.
        classes: how many logits.
        norm: makes the normalization of (..., n, n) from n = `subspace`; called with the domain as well, where the
            forward pass is given one.
        temporal_filters, kernel_size: how many filters in time, and their length in samples.
        spatial_filters: how many combinations of channels and temporal filters enter the covariance.
        subspace: size after BiMap, not larger than `spatial_filters`.
        threshold: of `ReEig`, relative to the mean eigenvalue.
        shrinkage: of `CovariancePooling`.
        parametrization: of `BiMap`.
        validate_args: whether its layers look at values and raise; a `norm` decides for itself.

    Shape: (..., channels, samples) -> (..., classes).

    Raises:
        ValueError: signals with another number of channels or not finite, or a subspace that is too large.

    Source: SPD domain-specific batch normalization to crack interpretable unsupervised domain adaptation in EEG,
        2022, arXiv 2206.01323, Section 4.2.

    Example:
        >>> from flowgroup.manifolds import SPD
        >>> from flowgroup.nn import LieBN
        >>> net = TSMNet(8, classes=4, norm=lambda n: LieBN(SPD(n)))
        >>> net(torch.randn(5, 8, 128)).shape
        torch.Size([5, 4])
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        norm: Callable[[int], nn.Module] | None = None,
        temporal_filters: int = 4,
        kernel_size: int = 25,
        spatial_filters: int = 40,
        subspace: int = 20,
        threshold: float = 1e-4,
        shrinkage: float | str = 0.0,
        parametrization: Literal["qr"] | None = None,
        validate_args: bool = True,
    ):
        super().__init__()
        positive_integer("channels", channels)
        if positive_integer("subspace", subspace) > spatial_filters:
            raise ValueError(f"subspace must be at most spatial_filters={spatial_filters}, got {subspace}")
        self.channels, self.validate_args = channels, validate_args
        # no biases: the covariance does not see them
        self.temporal = nn.Conv2d(
            1, temporal_filters, (1, kernel_size), padding="same", padding_mode="reflect", bias=False
        )
        self.spatial = nn.Conv2d(temporal_filters, spatial_filters, (channels, 1), bias=False)
        self.covariance = CovariancePooling(shrinkage, validate_args=validate_args)
        self.bimap = BiMap(spatial_filters, subspace, parametrization, validate_args)
        self.reeig = ReEig(threshold, validate_args=validate_args)
        self.norm = None if norm is None else norm(subspace)
        self.logeig = LogEig(validate_args=validate_args)
        self.linear = nn.Linear(subspace * (subspace + 1) // 2, positive_integer("classes", classes))

    def forward(self, x: Tensor, domain: Tensor | None = None) -> Tensor:
        """Logits.

        Args:
            x: signals (..., channels, samples).
            domain: of every signal, as the norm takes it; None for a norm without domains.
        """
        return self.linear(self.features(x, domain))

    def features(self, x: Tensor, domain: Tensor | None = None) -> Tensor:
        """What the last layer sees: vectors (..., subspace·(subspace + 1)/2)."""
        X = self._covariances(x)
        if self.norm is not None:
            X = self.norm(X) if domain is None else self.norm(X, domain)
        elif domain is not None:
            raise ValueError("domain was given, but this network was built without a norm")
        return self.logeig(X)

    @torch.no_grad()
    def adapt(self, x: Tensor, domain: Tensor | None = None) -> None:
        """Set the statistics of the norm to those of unlabelled signals, of every domain in `domain` where given.

        So a trained network meets a new domain, without a word on classes: nothing else changes.

        Args:
            x: signals (..., channels, samples).
            domain: of every signal, known or new, for a `DomainBatchNorm`; None for a norm without domains.

        Raises:
            ValueError: the network was built without a norm that has `adapt`, or what the norm raises.

        Example:
            >>> from flowgroup.manifolds import SPD
            >>> from flowgroup.nn import DomainBatchNorm, LieBN
            >>> net = TSMNet(8, classes=4, norm=lambda n: DomainBatchNorm(LieBN(SPD(n)), domains=[0]))
            >>> x, domain = torch.randn(5, 8, 128), torch.full((5,), 7)
            >>> net.adapt(x, domain)
            >>> net.norm.domains, net.eval()(x, domain).shape
            ([0, 7], torch.Size([5, 4]))
        """
        if not hasattr(self.norm, "adapt"):
            raise ValueError(f"adapt needs a norm that adapts, such as LieBN or DomainBatchNorm, got {self.norm}")
        X = self._covariances(x)
        self.norm.adapt(X) if domain is None else self.norm.adapt(X, domain)

    def _covariances(self, x: Tensor) -> Tensor:
        """What the norm sees: matrices (..., subspace, subspace)."""
        check_event_shape("x", x, (self.channels, None))
        half = self.temporal.kernel_size[1] // 2
        if x.shape[-1] <= half:
            raise ValueError(f"x must have more samples than half a kernel, {half}, got shape {tuple(x.shape)}")
        if self.validate_args:
            check_finite("x", x)
        images = x.reshape(math.prod(x.shape[:-2]), 1, *x.shape[-2:])
        signals = self.spatial(self.temporal(images)).reshape(*x.shape[:-2], self.spatial.out_channels, x.shape[-1])
        return self.reeig(self.bimap(self.covariance(signals)))
