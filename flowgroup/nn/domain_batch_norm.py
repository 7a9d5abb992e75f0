"""Batch normalization with statistics for each domain."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from flowgroup.nn.precision import full_precision
from flowgroup.nn.riemannian_batch_norm import RiemannianBatchNorm


class DomainBatchNorm(nn.Module):
    """Points of every domain (session, subject, site) normalized by the statistics of their domain alone.

    Bias and scale are shared: all domains get the same mean and variance. A new domain is met by `adapt`, which needs
    no labels of classes. Parts of a batch are told apart by one look at the domain labels, so the layer itself cannot
    be compiled in full; the layers around it can. Under `torch.distributed` processes may bring different domains.

    Args:
        layer: how a domain is normalized, a `LieBN` say; it is copied.
        domains: the integer labels of the domains.

    Shape: x (n, *batch, *shape, *event) and domain (n,) -> that of x.

    Raises:
        ValueError: labels that are not known, or not one for each entry of x; and what the layer raises. No statistics
            are changed then.

    Source: SPD domain-specific batch normalization to crack interpretable unsupervised domain adaptation in EEG, 2022,
        arXiv 2206.01323.

    Example:
        >>> from flowgroup.groups import SO2
        >>> from flowgroup.nn import LieBN
        >>> layer = DomainBatchNorm(LieBN(SO2()), domains=[0, 1])
        >>> domain = torch.arange(60) % 2
        >>> x = SO2().exp(0.1 * torch.randn(60, 1) + 3.0 * domain.unsqueeze(1))
        >>> angles = SO2().log(layer(x, domain))
        >>> bool(angles[domain == 0].mean().abs() < 1e-5), bool(angles[domain == 1].mean().abs() < 1e-5)
        (True, True)
    """

    def __init__(self, layer: RiemannianBatchNorm, domains: Iterable[int]):
        super().__init__()
        if not isinstance(layer, RiemannianBatchNorm):
            raise TypeError(f"layer must be a batch normalization such as LieBN, got {type(layer).__name__}")
        if not layer.track_running_stats:
            raise ValueError("layer must have running statistics, and its track_running_stats is False")
        domains = [_label(d) for d in domains]
        if not domains or len(set(domains)) < len(domains):
            raise ValueError(f"domains must be one or more different integers, got {domains}")
        self.layers = nn.ModuleDict()
        first = copy.deepcopy(layer)
        for domain in domains:
            self._add(domain, first)

    @property
    def domains(self) -> list[int]:
        """Labels of the domains that have statistics."""
        return [int(name) for name in self.layers]

    @property
    def shared(self) -> RiemannianBatchNorm:
        """The layer of the first domain, of which bias and scale are those of all."""
        return next(iter(self.layers.values()))

    @full_precision
    def forward(self, x: Tensor, domain: Tensor) -> Tensor:
        self._check(x, domain)
        labels = self.domains
        order, counts, totals = self._sorted(domain, labels)
        parts = x[order].split(counts)
        # a process calls the layers of domains that only others bring as well: the sums over processes need all
        out = [self.layers[str(d)](part) for d, part, total in zip(labels, parts, totals) if total]
        return torch.cat(out)[order.argsort()] if out else x

    @full_precision
    def adapt(self, x: Tensor, domain: Tensor) -> None:
        """Set the statistics of every domain in `domain` (n,) to those of its part of x, adding what is new."""
        self.shared._check(x)
        _check_labels(x, domain)
        labels = domain.unique().tolist()
        order, counts, _ = self._sorted(domain, labels)
        for label, part in zip(labels, x[order].split(counts)):
            if label not in self.domains:
                self._add(label, self.shared)
            self.layers[str(label)].adapt(part)

    def _add(self, domain: int, like: RiemannianBatchNorm) -> None:
        """A layer of its own for the domain, with the bias and the scale of `like`."""
        layer = like
        if len(self.layers):
            layer = copy.deepcopy(like)
            layer.reset_running_stats()
            layer.log_scale = like.log_scale
            if hasattr(like, "parametrizations"):
                layer.parametrizations = like.parametrizations
            else:
                layer.bias = like.bias
        self.layers[str(domain)] = layer

    def _sorted(self, domain: Tensor, labels: list[int]) -> tuple[Tensor, list[int], list[int]]:
        """The order that brings domains together, and how many points each has here and on all processes."""
        which = domain.unsqueeze(1) == torch.tensor(labels, device=domain.device)
        counts = which.sum(0)
        all_reduce = self.shared._all_reduce
        totals = counts if all_reduce is None else all_reduce(counts)
        counts, totals = torch.stack((counts, totals)).tolist()
        return which.int().argmax(1).argsort(stable=True), counts, totals

    def _check(self, x: Tensor, domain: Tensor) -> None:
        self.shared._check(x)
        _check_labels(x, domain)
        unknown = ~torch.isin(domain, torch.tensor(self.domains, device=domain.device))
        if unknown.any():
            raise ValueError(
                f"domain holds {sorted(domain[unknown].unique().tolist())}, but there are statistics for "
                f"{self.domains} only; `adapt` adds a domain"
            )


def _label(domain: int) -> int:
    if isinstance(domain, bool) or not isinstance(domain, int):
        raise TypeError(f"domains must be integers, got {domain!r}")
    return domain


def _check_labels(x: Tensor, domain: Tensor) -> None:
    if not isinstance(domain, Tensor) or domain.is_floating_point() or domain.is_complex():
        raise TypeError(f"domain must be a tensor of integers, got {getattr(domain, 'dtype', type(domain).__name__)}")
    if domain.shape != x.shape[:1]:
        raise ValueError(f"domain must hold one label for each of the {len(x)} entries of x, got {tuple(domain.shape)}")
